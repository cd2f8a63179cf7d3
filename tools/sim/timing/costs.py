"""Cost laws: what each instruction takes on its engine, computed for a whole trace at once.

A law turns the recorded sizes and flags into streaming cycles of the executing engine; the engine adds its
fixed parts. Two times result per instruction: `issue_ns`, after which its engine can start the next one, and
`latency_ns`, after which its results can be read.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tools.sim.errors import UnsupportedError
from tools.sim.instruction import BY_NAME, OPCODES, Engine, Flag, Inst, Operand, Trace
from tools.sim.machine import Machine

from .tiles import tiles_of

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Costs:
    """Times of every instruction if nothing made it wait; arrays over the trace, ns.

    Attributes:
        engine: executing engine; `Engine.UNKNOWN` for a DMA whose queue the model picks.
        issue_ns: engine occupancy (DMA: the trigger).
        latency_ns: start to result (DMA: not used).
        release_ns: start to the point where inputs have been read (DMA: not used).
        is_dma: instructions whose data moves on the DMA engines.
        work_ns: DMA: time of the transfer on each DMA engine that it uses.
        first_engine: DMA: first DMA engine used.
        last_engine: DMA: one past the last DMA engine used.
        hbm_bytes: DMA: bytes read from and written to HBM.
        ports: bit 0: holds the port that Vector and GpSimd share; bit 1: the PSUM port of Vector and Scalar.
        table_load: activation-table load in front of the instruction (part of issue, latency and release).
        law: index into `LAW_NAMES`.
    """

    engine: Ints
    issue_ns: Floats
    latency_ns: Floats
    release_ns: Floats
    is_dma: Bools
    work_ns: Floats
    first_engine: Ints
    last_engine: Ints
    hbm_bytes: Floats
    ports: Ints
    table_load: Bools
    law: Ints


@dataclass(frozen=True, slots=True)
class Group:
    """The columns of the instructions that share one cost law."""

    machine: Machine
    opcode: Ints
    engine: Ints
    partitions: Ints
    free: Ints
    aux: Ints
    flags: Ints

    def has(self, flag: int) -> Bools:
        """Which instructions carry `flag`."""
        return np.asarray((self.flags & flag) != 0)


FAST = ("tensor_copy", "tensor_scalar")
"""Opcodes that the Vector Engine's performance modes serve (NC-v3 and later)."""
PUBLISHED_ON_GPSIMD = ("iota", "affine_select", "topk", "local_gather")
"""GpSimd instructions whose cycles are published (nki.isa pages of the neuronxcc.nki era; topk on the current ones)."""


def _matmul(g: Group) -> Floats:
    m = g.machine
    passes = np.where(g.has(Flag.FP32), m.tensor_fp32_passes, 1.0)
    passes = np.where(g.has(Flag.FP32) & g.has(Flag.ONEZERO), passes / m.tensor_onezero_gain, passes)
    passes = np.where(g.has(Flag.FP32) & g.has(Flag.TRANSPOSE), m.tensor_fp32_transpose_passes, passes)
    stream = np.maximum(g.free, m.tensor_min_interval_cycles)
    load = np.minimum(g.aux, m.gemm_stationary_fmax) / m.tensor_load_speedup
    return np.asarray(np.maximum(stream, load) * passes)


def _transpose(g: Group) -> Floats:
    m = g.machine
    wide = g.has(Flag.FP32)
    columns = np.maximum(np.maximum(g.free, g.aux / m.tensor_load_speedup), m.tensor_min_interval_cycles)
    on_tensor = columns * np.where(wide, m.tensor_fp32_transpose_passes, 1.0)
    on_vector = g.free * np.where(wide, m.vector_fp32_transpose_passes, 1.0)
    return np.where(g.engine == Engine.TENSOR, on_tensor, on_vector)


def _speedup(g: Group) -> Floats:
    """Vector performance mode of tensor_copy and tensor_scalar: 4x, 2x or 1x."""
    if g.machine.vector_fast_copy <= 1:
        return np.ones(len(g.flags))
    able = np.isin(g.opcode, [BY_NAME[n].code for n in FAST if n in BY_NAME]) & (g.engine == Engine.VECTOR)
    psum, flat, half = g.has(Flag.PSUM_SRC) | g.has(Flag.PSUM_DST), g.has(Flag.CONTIGUOUS), g.has(Flag.HALF_IO)
    in_sbuf = np.where(half & flat, g.machine.vector_fast_copy, np.where(half | flat, 2.0, 1.0))
    return np.where(able, np.where(psum, np.where(half & flat, 2.0, 1.0), in_sbuf), 1.0)


def _stride(g: Group) -> Floats:
    return np.where(g.has(Flag.ONE_ELEMENT_STRIDE), g.machine.wide_stride_penalty, 1.0)


def _vector(g: Group) -> Floats:
    return g.free / _speedup(g) * _stride(g)


def _vector2(g: Group) -> Floats:
    single = g.has(Flag.PSUM_SRC) | (g.has(Flag.HALF_IO) & g.has(Flag.CONTIGUOUS))
    passes = np.where(single, 1.0, g.machine.vector_two_tensor_passes)
    scan = g.opcode == BY_NAME["tensor_tensor_scan"].code if "tensor_tensor_scan" in BY_NAME else False
    return g.free * np.where(scan, g.machine.vector_scan_passes, passes) * _stride(g)


def _vector_slow(g: Group) -> Floats:
    passes = np.where(g.engine == Engine.VECTOR, g.machine.vector_reciprocal_passes, 1.0)
    return np.asarray(g.free * passes)


def _scalar(g: Group) -> Floats:
    gain = np.where(g.has(Flag.HALF_IO) & (g.engine == Engine.SCALAR), g.machine.scalar_half_gain, 1.0)
    return g.free / gain * _stride(g)


def _gpsimd(g: Group) -> Floats:
    """One cycle an element; local_gather: 28 cycles for every four indices, and the elements that they bring."""
    cycles = g.free.astype(np.float64)
    gathers = np.flatnonzero(g.opcode == _code("local_gather"))
    if len(gathers):
        run = np.maximum(g.aux[gathers], 1)
        words = np.where(g.has(Flag.BYTE_IO), 4, np.where(g.has(Flag.HALF_IO), 2, 1))[gathers]
        cycles[gathers] *= (28 + 4 * run) / (4 * run) / np.minimum(words, run)
    return cycles


def _code(name: str) -> int:
    return BY_NAME[name].code if name in BY_NAME else -1


def _passes(g: Group) -> Floats:
    """What GpSimd takes for an element beyond the law's cycles, where no figure for the instruction is published."""
    known = np.isin(g.opcode, [_code(name) for name in PUBLISHED_ON_GPSIMD])
    return np.where((g.engine == Engine.GPSIMD) & ~known, g.machine.gpsimd_passes, 1.0)


def _memset(g: Group) -> Floats:
    zero = g.has(Flag.ZERO_FILL) & g.has(Flag.HALF_IO) & (g.engine == Engine.VECTOR)
    return np.where(zero, g.free / 2.0, g.free)


def _bn_aggr(g: Group) -> Floats:
    return 13.0 * np.ceil(g.free / 3.0)


def _nothing(g: Group) -> Floats:
    return np.zeros(len(g.flags))


LAWS: dict[str, Callable[[Group], Floats]] = {
    "matmul": _matmul,
    "transpose": _transpose,
    "vector": _vector,
    "vector2": _vector2,
    "vector_slow": _vector_slow,
    "scalar": _scalar,
    "gpsimd": _gpsimd,
    "memset": _memset,
    "bn_aggr": _bn_aggr,
    "dma": _nothing,
    "dma_transpose": _nothing,
    "control": _nothing,
    "collective": _nothing,
}
LAW_NAMES = tuple(LAWS)
_LAW_INDEX = {name: k for k, name in enumerate(LAW_NAMES)}
_DMA_LAWS = tuple(_LAW_INDEX[name] for name in ("dma", "dma_transpose"))
_COLLECTIVE = _LAW_INDEX["collective"]
_CONTROL = _LAW_INDEX["control"]
_SCALAR = _LAW_INDEX["scalar"]


def laws_of(trace: Trace) -> Ints:
    """Index into `LAW_NAMES` for each instruction.

    Raises:
        UnsupportedError: an instruction names a cost law that doesn't exist.
    """
    table = np.full(len(OPCODES), -1, np.int64)
    for entry in OPCODES:
        table[entry.code] = _LAW_INDEX.get(entry.cost, -1)
    opcodes = trace.column(Inst.OPCODE)
    if len(opcodes) and (opcodes.min() < 0 or opcodes.max() >= len(OPCODES)):
        raise UnsupportedError(f"opcode {int(opcodes.max())}, not in the instruction set")
    laws = table[opcodes]
    if len(laws) and laws.min() < 0:
        worst = OPCODES[int(opcodes[int(np.argmin(laws))])]
        raise UnsupportedError(
            f"the cost of {worst.name}: its cost law {worst.cost!r} is none of {', '.join(LAW_NAMES)}"
        )
    return laws


def costs(trace: Trace, machine: Machine, dropped: Bools | None = None) -> Costs:
    """Times of every instruction of `trace` on `machine` when nothing makes it wait.

    Args:
        trace: the program.
        machine: the generation.
        dropped: instructions that the compiler removed: they take no time and move no data.

    Raises:
        UnsupportedError: an instruction has no known cost.
    """
    law = laws_of(trace)
    if dropped is not None:
        law[dropped] = _CONTROL
    flags = trace.column(Inst.FLAGS)
    engine = _engines(trace, law)
    cycles = _cycles(trace.instructions, machine, law, engine)
    issue, latency, release = _engine_times(machine, engine, cycles, flags, law)
    loads = _table_loads(trace, engine, flags)
    for times in (issue, latency, release):
        times[loads] += machine.scalar_table_load_ns
    is_dma = np.isin(law, _DMA_LAWS)
    work, first, last, hbm = _transfers(trace, machine, law, is_dma)
    issue[is_dma] = _triggers(trace, machine, is_dma)
    latency[is_dma] = release[is_dma] = 0.0
    collective = law == _COLLECTIVE
    if collective.any():
        moved = trace.column(Inst.BYTES)[collective]
        issue[collective] = latency[collective] = release[collective] = (
            machine.collective_latency_ns + moved / machine.collective_gbps
        )
    if dropped is not None:
        engine[dropped] = Engine.SYNC
        for times in (issue, latency, release):
            times[dropped] = 0.0
    return Costs(
        engine,
        issue,
        latency,
        release,
        is_dma,
        work,
        first,
        last,
        hbm,
        _ports(machine, engine, flags),
        loads,
        law,
    )


def issue_on(trace: Trace, machine: Machine, rows: Ints, unit: Engine) -> Floats:
    """Issue times of the instructions `rows` if the engine `unit` executed them; activation tables aside."""
    instructions = trace.instructions[rows]
    law, engine = laws_of(trace)[rows], np.full(len(rows), int(unit))
    cycles = _cycles(instructions, machine, law, engine)
    return _engine_times(machine, engine, cycles, instructions[:, Inst.FLAGS], law)[0]


def _cycles(instructions: Ints, machine: Machine, law: Ints, engine: Ints) -> Floats:
    """Engine cycles of each row of an instruction table by its cost law."""
    cycles = np.zeros(len(law))
    for index, name in enumerate(LAW_NAMES):
        rows = np.flatnonzero(law == index)
        if len(rows):
            columns = (Inst.PARTITIONS, Inst.FREE, Inst.AUX, Inst.FLAGS)
            partitions, free, aux, flags = (instructions[rows, column] for column in columns)
            group = Group(machine, instructions[rows, Inst.OPCODE], engine[rows], partitions, free, aux, flags)
            cycles[rows] = LAWS[name](group) * _passes(group)
    return cycles


def _engines(trace: Trace, law: Ints) -> Ints:
    """Executing engines; where a compute instruction names none, its opcode's default."""
    engine = trace.column(Inst.ENGINE).copy()
    default = np.array([int(e.engines[0]) if e.engines else int(Engine.SYNC) for e in OPCODES], np.int64)
    unnamed = (engine == Engine.UNKNOWN) & ~np.isin(law, _DMA_LAWS)
    engine[unnamed] = default[trace.column(Inst.OPCODE)[unnamed]]
    return engine


def _engine_times(
    machine: Machine, engine: Ints, cycles: Floats, flags: Ints, law: Ints
) -> tuple[Floats, Floats, Floats]:
    m = machine
    reduces = np.where((flags & Flag.REDUCE) != 0, m.accumulator_read_cycles, 0.0)
    issue, latency = np.zeros(len(engine)), np.zeros(len(engine))
    which = engine == Engine.TENSOR
    several = np.where((flags & Flag.FP32) != 0, m.tensor_fp32_instructions, 1)[which]
    issue[which] = (cycles[which] + several * m.tensor_interval_overhead_cycles) / m.tensor_ghz
    latency[which] = issue[which] + m.tensor_pipeline_ns
    which = engine == Engine.VECTOR
    pointer = np.where((flags & Flag.SCALAR_OPERAND) != 0, m.vector_operand_cycles, 0.0)[which]
    busy = np.maximum(cycles, 1.0)[which] + pointer
    issue[which] = np.maximum(busy + m.vector_overhead_cycles, m.vector_min_cycles) / m.vector_ghz
    latency[which] = (busy + m.vector_latency_cycles) / m.vector_ghz
    which = engine == Engine.SCALAR
    function = np.where(law == _SCALAR, m.scalar_function_cycles, 0.0)[which]
    busy = np.maximum(cycles, 1.0)[which] + reduces[which] + function
    issue[which] = np.maximum(busy + m.scalar_overhead_cycles, m.scalar_min_cycles) / m.scalar_ghz
    latency[which] = (busy + m.scalar_latency_cycles) / m.scalar_ghz
    which = engine == Engine.GPSIMD
    issue[which] = latency[which] = (m.gpsimd_start_cycles + np.maximum(cycles[which], 64.0)) / m.gpsimd_ghz
    control = (law == _CONTROL) | (engine == Engine.SYNC)
    issue[control] = latency[control] = m.same_engine_gap_ns
    return issue, latency, issue.copy()


def _table_loads(trace: Trace, engine: Ints, flags: Ints) -> Bools:
    """Scalar Engine instructions that need another activation table than the one before them on their
    core."""
    loads = np.zeros(len(trace), np.bool_)
    table = (flags >> Flag.TABLE_SHIFT) & 0xFF
    users = np.flatnonzero((engine == Engine.SCALAR) & (table != 0))
    for core in np.unique(trace.column(Inst.CORE)[users]):
        rows = users[trace.column(Inst.CORE)[users] == core]
        loads[rows] = np.diff(table[rows], prepend=0) != 0
    return loads


def _ports(machine: Machine, engine: Ints, flags: Ints) -> Ints:
    """Ports that the generation makes two engines share (NC-v2 only)."""
    ports = np.zeros(len(engine), np.int64)
    psum = (flags & (Flag.PSUM_SRC | Flag.PSUM_DST)) != 0
    if machine.vector_gpsimd_serial:
        ports[((engine == Engine.VECTOR) & ~psum) | (engine == Engine.GPSIMD)] |= 1
    if machine.vector_scalar_psum_serial:
        ports[((engine == Engine.VECTOR) | (engine == Engine.SCALAR)) & psum] |= 2
    return ports


def _triggers(trace: Trace, machine: Machine, is_dma: Bools) -> Floats:
    """What starting each DMA costs the engine (or queue) that starts it."""
    engine = trace.column(Inst.ENGINE)[is_dma]
    software = (trace.column(Inst.FLAGS)[is_dma] & (Flag.SWDGE | Flag.INDIRECT)) != 0
    rows = np.maximum(trace.column(Inst.PARTITIONS)[is_dma], 1)
    by_gpsimd = machine.dma_gpsimd_trigger_ns + np.where(software, rows * machine.dma_software_row_ns, 0.0)
    return np.where(software | (engine == Engine.GPSIMD), by_gpsimd, machine.dma_trigger_ns)


def _transfers(trace: Trace, machine: Machine, law: Ints, is_dma: Bools) -> tuple[Floats, Ints, Ints, Floats]:
    """Work per DMA engine, range of DMA engines and HBM bytes of each DMA."""
    n = len(trace)
    work, first = np.zeros(n), np.zeros(n, np.int64)
    last, hbm = np.full(n, machine.dma_engines, np.int64), np.zeros(n)
    if not is_dma.any():
        return work, first, last, hbm
    owner, low, high, hbm_sides = dma_sides(trace, is_dma)
    per_engine = machine.partitions // machine.dma_engines
    known = high[owner] > 0
    on_chip = owner[known]
    first[on_chip] = low[on_chip] // per_engine
    last[on_chip] = -(-high[on_chip] // per_engine)
    moved = trace.column(Inst.BYTES)[is_dma].astype(np.float64)
    run = trace.column(Inst.AUX)[is_dma].astype(np.float64)
    run = np.where(run > 0, np.minimum(run, np.maximum(moved, 1.0)), np.maximum(moved, 1.0))
    flags = trace.column(Inst.FLAGS)[is_dma]
    software = (flags & (Flag.SWDGE | Flag.INDIRECT)) != 0
    fixed = np.where(software, machine.dma_software_descriptor_ns, machine.dma_descriptor_ns)
    rate = np.full(len(run), machine.dma_bytes_per_ns)
    rate = np.where(law[is_dma] == _LAW_INDEX["dma_transpose"], rate * machine.dma_transpose_share, rate)
    rate = np.where((flags & Flag.DMA_RMW) != 0, rate * machine.dma_accumulate_share, rate)
    # Long runs are cut into packets; cuts needn't meet the ends of rows.
    descriptors = moved / np.minimum(run, machine.dma_packet_bytes)
    fixed = fixed + np.where(run % machine.dma_alignment_bytes != 0, machine.dma_unaligned_ns, 0.0)
    used = np.maximum(last[is_dma] - first[is_dma], 1)
    work[is_dma] = np.maximum(descriptors / used, 1.0) * fixed + moved / used / rate
    hbm[is_dma] = moved * hbm_sides[is_dma]
    return work, first, last, hbm


def dma_sides(trace: Trace, is_dma: Bools) -> tuple[Ints, Ints, Ints, Ints]:
    """For DMAs: their indices, first and one-past-last SBUF partition (0, 0: none), and how many sides are
    in HBM."""
    n = len(trace)
    owner = np.repeat(np.arange(n), trace.column(Inst.OPERANDS))
    in_hbm = tiles_of(trace.buffers).hbm
    operands = trace.operands
    mine = is_dma[owner]
    hbm = mine & in_hbm[operands[:, Operand.BUFFER]]
    chip = np.flatnonzero(mine & ~hbm)
    low, high = np.full(n, np.iinfo(np.int64).max), np.zeros(n, np.int64)
    np.minimum.at(low, owner[chip], operands[chip, Operand.ROW0])
    np.maximum.at(high, owner[chip], operands[chip, Operand.ROW1])
    low[high == 0] = 0
    sides = np.zeros(n, np.int64)
    reads = np.zeros(n, np.int64)
    np.maximum.at(reads, owner[hbm], (operands[hbm, Operand.FLAGS] >> 1) & 1)
    np.maximum.at(sides, owner[hbm], operands[hbm, Operand.FLAGS] & 1)
    return np.flatnonzero(is_dma), low, high, reads + sides
