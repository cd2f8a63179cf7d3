"""What the machine is asked to do: engines, opcodes and the recorded instruction stream.

A `Trace` is a struct of arrays: one row of integers an instruction, one row an operand. It holds no values, so timing,
hazards and profiles read it without knowing how (or whether) the values were computed.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum, IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tools.sim.errors import SourceRange


class Engine(IntEnum):
    """The instruction streams of one NeuronCore, by their ISA order (PE, DVE, ACT, POOL, SP)."""

    TENSOR = 0
    VECTOR = 1
    SCALAR = 2
    GPSIMD = 3
    SYNC = 4
    UNKNOWN = 5
    """For a DMA: no engine was asked for; the timing model picks the queue."""


class Inst(IntEnum):
    """Columns of `Trace.instructions`."""

    OPCODE = 0
    ENGINE = 1
    """Engine that executes it; for a DMA the engine whose queue triggers it."""
    LINE = 2
    """Index into `Trace.lines`."""
    CORE = 3
    PARTITIONS = 4
    """Lanes in use (matmul: K, the contraction rows; DMA: descriptors' rows)."""
    FREE = 5
    """Elements per partition that stream through (matmul: N, the moving free size)."""
    AUX = 6
    """Opcode-specific: matmul: M, the stationary columns; DMA: smallest contiguous run in bytes."""
    BYTES = 7
    """Bytes moved (DMA only)."""
    FLAGS = 8
    """Bits of `Flag`."""
    FIRST_OPERAND = 9
    OPERANDS = 10


class Operand(IntEnum):
    """Columns of `Trace.operands`: the rectangle of bytes that an operand touches."""

    BUFFER = 0
    FLAGS = 1
    """1: written, 2: read; 3 for read-modify-write (PSUM accumulation)."""
    ROW0 = 2
    ROW1 = 3
    """Rows [ROW0, ROW1): partitions on chip, rows of ROW_BYTES in HBM."""
    BYTE0 = 4
    BYTE1 = 5
    """Bytes [BYTE0, BYTE1) inside a row."""
    ROW_BYTES = 6
    DTYPE = 7


class Flag:
    """Bits of an instruction's FLAGS column: facts that its cost depends on."""

    FP32 = 1 << 0  # matmul: a 4-byte float operand, hence several passes
    FP8 = 1 << 1  # matmul: both operands 1-byte floats
    DOUBLE_ROW = 1 << 2
    MX = 1 << 3
    TRANSPOSE = 1 << 4
    ONEZERO = 1 << 5  # matmul: an operand holds only 0 and 1
    HALF_IO = 1 << 6  # vector/scalar: every tensor operand is a 2-byte float
    PSUM_SRC = 1 << 7
    PSUM_DST = 1 << 8
    CONTIGUOUS = 1 << 9  # every operand's innermost free dimension is contiguous
    TWO_TENSORS = 1 << 10  # two tensor inputs stream together
    REDUCE = 1 << 11  # an accumulator register is spilled
    SCALAR_OPERAND = 1 << 12
    SWDGE = 1 << 13
    HWDGE = 1 << 14
    INDIRECT = 1 << 15
    DMA_CAST = 1 << 16
    DMA_RMW = 1 << 17
    ACCUMULATE = 1 << 18
    BYTE_IO = 1 << 19  # every tensor operand is a 1-byte type
    INTEGER = 1 << 20
    ONE_ELEMENT_STRIDE = 1 << 21  # innermost stride of 16 bytes or more: half rate on trn1
    ZERO_FILL = 1 << 22
    COPY_LIKE = 1 << 23
    TABLE_SHIFT = 24
    """Bits 24..31: activation-table set of a Scalar Engine instruction (0: needs none)."""
    KERNEL_INPUT = 1 << 32
    CHAIN = 1 << 33  # matmul: continues an accumulation group
    PINNED = 1 << 34  # stays on its engine: the kernel names it, or Scalar lacks the operations


Meaning = Callable[..., None]


class Effect(Enum):
    """What an instruction's values depend on, and where its results go: decides what may be computed later or together."""

    LANES = "lanes"
    """Each partition of the results comes from the same partition of the operands, and from nothing else."""
    OPERANDS = "operands"
    """The operands tell everything."""
    KEEPS = "keeps"
    """They do, but a result keeps part of what it held."""
    REGISTERS = "registers"
    """It also reads or writes registers of its engine: only in program order."""
    BEYOND = "beyond"
    """It also reads or writes what isn't an operand, writes only some lanes of a result, or checks the values it reads."""


@dataclass(frozen=True, slots=True)
class Opcode:
    """One entry of the instruction set.

    Attributes:
        name: the API's name, e.g. `tensor_tensor`.
        code: position in the table, recorded in traces.
        engines: engines that can execute it, the default first; empty for DMA and control.
        kind: `compute`, `matmul`, `dma` or `control`; picks the timing rule.
        cost: name of the cost law in `timing`.
        meaning: NumPy semantics `meaning(outs, ins, **params)` over `Tensor` operands.
        doc: one line for the documentation tools.
        source: where its limits and cost are documented.
        effect: what its values depend on and where they go.
    """

    name: str
    code: int
    engines: tuple[Engine, ...]
    kind: str
    cost: str
    meaning: Meaning
    doc: str = ""
    source: str = ""
    effect: Effect = Effect.OPERANDS


OPCODES: list[Opcode] = []
BY_NAME: dict[str, Opcode] = {}


def opcode(
    name: str,
    *engines: Engine,
    kind: str = "compute",
    cost: str,
    source: str = "",
    effect: Effect = Effect.OPERANDS,
) -> Callable[[Meaning], Opcode]:
    """Register a meaning function as the instruction `name`; returns the table's entry."""

    def register(meaning: Meaning) -> Opcode:
        doc = (meaning.__doc__ or "").strip().split("\n")[0]
        entry = Opcode(name, len(OPCODES), engines, kind, cost, meaning, doc, source, effect)
        OPCODES.append(entry)
        BY_NAME[name] = entry
        return entry

    return register


@dataclass(
    slots=True, unsafe_hash=True
)  # not frozen: that makes creating one, for each tile of a kernel, thrice as slow
class BufferInfo:
    """An allocation, as traces remember it; never changed once it is made.

    Attributes:
        space: `sbuf`, `psum`, `hbm`, `shared_hbm` or `private_hbm`.
        partitions: rows on chip, 1 in HBM.
        row_bytes: bytes per partition (HBM: all bytes).
        address: (start partition, byte offset) if the kernel placed it, else None.
        role: `input`, `output`, `constant` or `local`.
    """

    id: int
    name: str
    space: str
    shape: tuple[int, ...]
    dtype: str
    partitions: int
    row_bytes: int
    line: int
    core: int = 0
    address: tuple[int, int] | None = None
    role: str = "local"


@dataclass(frozen=True, slots=True)
class ParallelLoop:
    """One run of a loop whose iterations the kernel declares independent (`affine_range` of Beta 1).

    Attributes:
        line: of the loop's header, an index into `Trace.lines`.
        starts: first instruction of each iteration, and behind the last one.
    """

    line: int
    starts: tuple[int, ...]


@dataclass(slots=True)
class Trace:
    """The recorded instruction stream of one launch, in program order, all cores.

    Attributes:
        target: generation name, e.g. `trn2`.
        instructions: int64 [n, len(Inst)].
        operands: int64 [m, len(Operand)].
        buffers: allocations by id.
        lines: (file, line) by index of the LINE column.
        sources: text of each kernel source file.
        dialect: `nki` or `neuronxcc.nki`.
        parallel: loops that claim independent iterations; of each loop the first runs only.
    """

    target: str
    instructions: NDArray[np.int64]
    operands: NDArray[np.int64]
    buffers: list[BufferInfo]
    lines: list[tuple[str, int]]
    sources: dict[str, str] = field(default_factory=dict)
    dialect: str = "nki"
    cores: int = 1
    parallel: list[ParallelLoop] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.instructions)

    def column(self, column: Inst) -> NDArray[np.int64]:
        """One column of the instruction table, shape [n]."""
        return self.instructions[:, column]

    def opcode_name(self, index: int) -> str:
        """Name of instruction `index`."""
        return OPCODES[int(self.instructions[index, Inst.OPCODE])].name

    def where(self, line: int) -> SourceRange | None:
        """The source line behind an index into `lines`, with its text where the source is known."""
        if not 0 <= line < len(self.lines):
            return None
        file, number = self.lines[line]
        text = self.sources.get(file, "").splitlines()
        return SourceRange(file, number, text=text[number - 1].strip() if 0 < number <= len(text) else "")

    def to_json(self) -> dict[str, Any]:
        """A compact JSON form (used by goldens and by the worker protocol)."""
        return {
            "target": self.target,
            "instructions": self.instructions.tolist(),
            "operands": self.operands.tolist(),
            "lines": self.lines,
        }


class TraceBuilder:
    """Grows a `Trace`; two appends an instruction."""

    def __init__(self, target: str) -> None:
        self.target = target
        self.rows = array("q")
        self.operand_rows = array("q")
        self.buffers: list[BufferInfo] = []
        self.lines: list[tuple[str, int]] = []
        self.line_ids: dict[tuple[str, int], int] = {}
        self.operand_count = 0
        self.parallel: list[ParallelLoop] = []

    def line_id(self, file: str, line: int) -> int:
        """Index of (file, line) in the trace's line table."""
        key = (file, line)
        found = self.line_ids.get(key)
        if found is None:
            found = self.line_ids[key] = len(self.lines)
            self.lines.append(key)
        return found

    @property
    def count(self) -> int:
        """Instructions recorded so far."""
        return len(self.rows) // len(Inst)

    def finish(self, sources: dict[str, str], dialect: str, cores: int = 1) -> Trace:
        """The trace recorded so far.

        The tables are handed over, not copied (a long trace holds hundreds of megabytes): while the trace lives, a
        further append raises BufferError.
        """
        rows = np.frombuffer(self.rows, dtype=np.int64) if self.rows else np.empty(0, np.int64)
        ops = np.frombuffer(self.operand_rows, dtype=np.int64) if self.operand_rows else np.empty(0, np.int64)
        instructions, operands = rows.reshape(-1, len(Inst)), ops.reshape(-1, len(Operand))
        return Trace(
            self.target, instructions, operands, self.buffers, self.lines, sources, dialect, cores, self.parallel
        )
