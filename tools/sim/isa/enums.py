"""Enumerations of the `nki.isa` namespace."""

from enum import Enum, IntEnum

from tools.sim.instruction import Engine


class engine(Enum):
    """Engine selectors: `nisa.engine.vector` and the flat `nisa.vector_engine`."""

    tensor = Engine.TENSOR
    vector = Engine.VECTOR
    scalar = Engine.SCALAR
    gpsimd = Engine.GPSIMD
    sync = Engine.SYNC
    unknown = Engine.UNKNOWN


class reduce_cmd(Enum):
    """What an instruction does to its accumulator registers."""

    idle = 0
    reset = 1
    reduce = 2
    reset_reduce = 3
    load_reduce = 4


class oob_mode(Enum):
    """What a gather or scatter does with an index outside the tensor."""

    error = 0
    skip = 1


class dge_mode(Enum):
    """Who makes a DMA's descriptors."""

    unknown = 0
    none = 1
    swdge = 2
    hwdge = 3


class dma_engine(Enum):
    """Which DMA engines carry a transfer."""

    dma = 0
    gpsimd_dma = 1


class matmul_perf_mode(Enum):
    """Throughput modes of the PE array."""

    none = 0
    double_row = 1
    double_row_gen3 = 1
    double_column = 2
    double_pixel = 3


class nc_version(IntEnum):
    """NeuronCore generations."""

    gen2 = 2
    gen3 = 3
    gen4 = 4
