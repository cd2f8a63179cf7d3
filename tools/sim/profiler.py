"""What a run spent its time on: busy and idle per engine, bytes, utilisation, bounds, stalls and source
lines.

Names and definitions follow Neuron Explorer's summary: an engine is active while any of its instructions
runs, `hardware_flops` counts every pass through the array (transposes too), `hfu_estimated_percent` is raw
over the bf16 peak.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tools.sim.instruction import Engine, Flag, Inst, Operand, Trace
from tools.sim.machine import Machine
from tools.sim.rectangles import area, distinct
from tools.sim.source_loops import Cost, LoopTime, loop_times
from tools.sim.timing import ENGINES, LAW_NAMES, Timeline, Wait, on_grid

ENGINE_NAMES = ("Tensor", "Vector", "Scalar", "GpSimd", "Sync")
TOP_STALLS = 12
MOST_PARTS = 4096
"""Different parts of one input up to which their overlap is worked out."""

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class EngineUse:
    """One engine of one core over the whole launch; `busy_us` + `idle_us` is the latency."""

    engine: str
    core: int
    busy_us: float
    idle_us: float
    active_percent: float
    instructions: int
    instruction_us: float
    """Plain sum of durations; overlap counts twice."""


@dataclass(frozen=True, slots=True)
class LineTime:
    """Engine time of one source line: the sum over its instructions of what each held its engine for."""

    file: str
    line: int
    busy_us: float
    stall_us: float
    instructions: int
    dma_bytes: int
    engine: str
    """Where most of that time went: an engine's name, or DMA."""


@dataclass(frozen=True, slots=True)
class Stall:
    """Idle time of one engine in front of instructions of one line, by cause."""

    engine: str
    core: int
    cause: str
    us: float
    count: int
    file: str
    line: int
    waits_for_file: str
    waits_for_line: int
    waits_for: str
    """Opcode of what was waited for most often; empty when nothing in particular."""


@dataclass(frozen=True, slots=True)
class Profile:
    """The profile of one launch. Times in microseconds, shares in percent."""

    target: str
    compiler_model: str
    latency_us: float
    instructions: int
    dropped_instructions: int
    """Of those, the ones that the compiler model removed."""
    engines: tuple[EngineUse, ...]
    dma_active_us: float
    dma_active_percent: float
    dma_transfer_count: int
    dma_transfer_average_bytes: float
    hbm_read_bytes: int
    hbm_write_bytes: int
    """Both: of the kernel's instructions and of the compiler model's spills."""
    input_read_bytes: int
    """Bytes of kernel inputs counted once each: what a kernel that reloads nothing would read."""
    reload_read_bytes: int
    """Input bytes read again, beyond the first time."""
    spill_save_bytes: int
    """Bytes that the kernel stores to tensors in HBM, neither input nor output, to load them back, and what the compiler
    model saved there because SBUF was full."""
    spill_reload_bytes: int
    """Bytes loaded back, each time."""
    hardware_flops: int
    transpose_flops: int
    adjusted_hardware_flops: float
    hfu_estimated_percent: float
    mfu_estimated_percent: float
    mfu_max_achievable_estimated_percent: float
    mbu_estimated_percent: float
    mm_arithmetic_intensity: float
    peak_flops_bandwidth_ratio: float
    pe_row_utilisation_percent: float
    pe_column_utilisation_percent: float
    memory_us: float
    """memory_bound_ideal: HBM bytes at the rate that one core can draw."""
    compute_us: float
    """compute_bound_ideal: flops at the Tensor Engine's peak, each weighted by the passes that it takes on this machine."""
    pipeline_us: float
    """perfect_pipeline: the busiest engine (or the DMA engines) without any waiting."""
    bottleneck: str
    """The busiest of the five engines and the DMA engines."""
    lines: tuple[LineTime, ...]
    stalls: tuple[Stall, ...]
    loops: tuple[LoopTime, ...]
    """Every loop of the source that issued instructions, outer before inner, each with the loops inside it."""

    def to_json(self) -> dict[str, Any]:
        """This profile as plain JSON values."""
        return asdict(self)

    def engine(self, name: str, core: int = 0) -> EngineUse:
        """Use of one engine by its name (`Tensor`, `Vector`, `Scalar`, `GpSimd`, `Sync`)."""
        return next(e for e in self.engines if e.engine == name and e.core == core)


def covered(start: Floats, end: Floats) -> float:
    """Length of the union of the intervals [start, end)."""
    if not len(start):
        return 0.0
    order = np.argsort(start, kind="stable")
    start, end = start[order], end[order]
    reach = np.maximum.accumulate(end)
    opened = np.concatenate([[True], start[1:] > reach[:-1]])
    firsts = np.flatnonzero(opened)
    lasts = np.append(firsts[1:] - 1, len(start) - 1)
    return float((reach[lasts] - start[firsts]).sum())


def hbm_bytes(trace: Trace, is_dma: NDArray[np.bool_]) -> tuple[Ints, Ints]:
    """Bytes that each instruction reads from and writes to HBM (0 for all but DMAs)."""
    n = len(trace)
    in_hbm = np.array([b.space not in ("sbuf", "psum") for b in trace.buffers] or [False])
    owner = np.repeat(np.arange(n), trace.column(Inst.OPERANDS))
    flags = trace.operands[:, Operand.FLAGS]
    hbm = in_hbm[trace.operands[:, Operand.BUFFER]] & is_dma[owner]
    moved = trace.column(Inst.BYTES)
    reads, writes = np.zeros(n, np.int64), np.zeros(n, np.int64)
    reader, writer = owner[hbm & ((flags & 2) != 0)], owner[hbm & ((flags & 1) != 0)]
    reads[reader] = moved[reader]
    writes[writer] = moved[writer]
    return reads, writes


def flops(trace: Trace, law: Ints) -> tuple[Ints, Ints, Floats]:
    """(hardware flops, transpose flops, weight of each flop against the bf16 peak) per instruction.

    hardware flops are 2 * rows * columns * elements of every Tensor Engine instruction, transposes included.
    """
    matmul, transpose = LAW_NAMES.index("matmul"), LAW_NAMES.index("transpose")
    tensor = (law == matmul) | ((law == transpose) & (trace.column(Inst.ENGINE) == Engine.TENSOR))
    work = 2 * trace.column(Inst.PARTITIONS) * trace.column(Inst.AUX) * trace.column(Inst.FREE)
    flags = trace.column(Inst.FLAGS)
    doubled = np.where((flags & Flag.DOUBLE_ROW) != 0, 2, 1) * np.where((flags & Flag.MX) != 0, 4, 1)
    hardware = np.where(tensor, work * doubled, 0)
    moves = tensor & ((law == transpose) | ((flags & Flag.TRANSPOSE) != 0))
    weight = np.where((flags & Flag.FP32) != 0, 4.0, 1.0) / doubled
    return hardware, np.where(moves, hardware, 0), weight


def _passes(trace: Trace, law: Ints, weight: Floats, machine: Machine) -> Floats:
    """Passes that each flop takes on this machine.

    As `flops` weights them by Neuron Explorer's rule, but for float32 in transpose mode and for operands of ones and
    zeros, which the rule doesn't know.
    """
    flags = trace.column(Inst.FLAGS)
    wide = (flags & Flag.FP32) != 0
    moves = wide & ((law == LAW_NAMES.index("transpose")) | ((flags & Flag.TRANSPOSE) != 0))
    marked = wide & ((flags & Flag.ONEZERO) != 0)
    passes = np.where(marked, machine.tensor_fp32_passes / machine.tensor_onezero_gain, weight)
    return np.minimum(np.where(moves, machine.tensor_fp32_transpose_passes, passes), weight)


def profile(trace: Trace, timeline: Timeline, machine: Machine) -> Profile:
    """The profile of `timeline`, the schedule of `trace` on `machine`."""
    cost = timeline.costs
    latency = timeline.latency_ns
    cores = max(trace.cores, 1 + (int(trace.column(Inst.CORE).max()) if len(trace) else 0))
    within = timeline.lane % timeline.lanes
    # An engine that triggers a DMA is busy with it only for the trigger.
    end = np.where(cost.is_dma, timeline.issue_ns, timeline.end_ns)
    engines = []
    for core in range(cores):
        for index in range(ENGINES):
            mine = (within == index) & (trace.column(Inst.CORE) == core)
            rows = np.flatnonzero(mine & ~timeline.dropped)
            busy = min(on_grid(covered(timeline.start_ns[rows], end[rows])), timeline.latency_us)
            total = float((end[rows] - timeline.start_ns[rows]).sum())
            share = 100 * busy / timeline.latency_us if latency else 0.0
            engines.append(
                EngineUse(ENGINE_NAMES[index], core, busy, timeline.latency_us - busy, share, len(rows), total / 1e3)
            )
    dma = np.flatnonzero(cost.is_dma)
    spills = timeline.spills
    dma_active = covered(
        np.concatenate([timeline.data_start_ns[dma], spills.data_start_ns]),
        np.concatenate([timeline.data_end_ns[dma], spills.data_end_ns]),
    )
    reads, writes = hbm_bytes(trace, cost.is_dma)
    read, write = int(reads.sum()) + spills.reload_bytes, int(writes.sum()) + spills.save_bytes
    unique = _unique_input_bytes(trace, cost.is_dma)
    saved, reloaded = _spills(trace, reads, writes)
    spent = _cost(trace, timeline)
    hardware, transposes, weight = flops(trace, cost.law)
    total_flops, transpose_flops = int(hardware.sum()), int(transposes.sum())
    adjusted = float((hardware * weight).sum())
    peak = machine.peak_tflops("bfloat16") * 1e3 * cores  # flops per ns
    intensity = (total_flops - transpose_flops) / max(read + write, 1)
    ridge = machine.peak_tflops("bfloat16") * 1e3 / machine.hbm_stack_gbps
    work = float((cost.work_ns * (cost.last_engine - cost.first_engine) / machine.dma_engines)[dma].sum())
    work += spills.engine_ns / machine.dma_engines
    transfers = len(dma) + spills.transfers
    moved = int(trace.column(Inst.BYTES)[dma].sum()) + spills.save_bytes + spills.reload_bytes
    busiest = {f"{e.engine} Engine": _undisturbed(trace, timeline, e) for e in engines if e.engine != "Sync"}
    busiest["DMA"] = work / cores
    bottleneck = max(busiest, key=lambda name: busiest[name]) if len(trace) else "none"
    array = np.flatnonzero(hardware > 0)
    streamed = trace.column(Inst.FREE)[array].astype(np.float64)
    rows_used = float((trace.column(Inst.PARTITIONS)[array] * streamed).sum())
    columns_used = float((trace.column(Inst.AUX)[array] * streamed).sum())
    full = max(float(streamed.sum()) * machine.partitions, 1.0)
    per_ns = latency or 1.0
    return Profile(
        target=machine.name,
        compiler_model=timeline.compiler_model,
        latency_us=timeline.latency_us,
        instructions=len(trace),
        dropped_instructions=int(timeline.dropped.sum()),
        engines=tuple(engines),
        dma_active_us=dma_active / 1e3,
        dma_active_percent=100 * dma_active / per_ns,
        dma_transfer_count=transfers,
        dma_transfer_average_bytes=moved / transfers if transfers else 0.0,
        hbm_read_bytes=read,
        hbm_write_bytes=write,
        input_read_bytes=unique,
        reload_read_bytes=max(_input_reads(trace, reads) - unique, 0),
        spill_save_bytes=saved + spills.save_bytes,
        spill_reload_bytes=reloaded + spills.reload_bytes,
        hardware_flops=total_flops,
        transpose_flops=transpose_flops,
        adjusted_hardware_flops=adjusted,
        hfu_estimated_percent=100 * total_flops / (peak * per_ns),
        mfu_estimated_percent=100 * (total_flops - transpose_flops) / (peak * per_ns),
        mfu_max_achievable_estimated_percent=min(100 * intensity / ridge, 100.0),
        mbu_estimated_percent=100 * (read + write) / (per_ns * machine.hbm_stack_gbps),
        mm_arithmetic_intensity=intensity,
        peak_flops_bandwidth_ratio=ridge,
        pe_row_utilisation_percent=100 * rows_used / full,
        pe_column_utilisation_percent=100 * columns_used / full,
        memory_us=(read + write) / machine.hbm_gbps / cores / 1e3,
        compute_us=float((hardware * _passes(trace, cost.law, weight, machine)).sum()) / peak / 1e3,
        pipeline_us=max(busiest.values()) / 1e3,
        bottleneck=bottleneck,
        lines=_lines(trace, spent),
        stalls=_stalls(trace, timeline),
        loops=loop_times(trace, spent),
    )


def _undisturbed(trace: Trace, timeline: Timeline, use: EngineUse) -> float:
    """Time that the engine needs for its instructions back to back, ns."""
    index = ENGINE_NAMES.index(use.engine)
    mine = (timeline.lane % timeline.lanes == index) & (trace.column(Inst.CORE) == use.core)
    return float(timeline.costs.issue_ns[mine].sum())


def _input_reads(trace: Trace, reads: Ints) -> int:
    """Bytes read by DMAs whose HBM source is a kernel input."""
    inputs = np.array([b.role in ("input", "constant") for b in trace.buffers] or [False])
    owner = np.repeat(np.arange(len(trace)), trace.column(Inst.OPERANDS))
    mine = np.unique(owner[inputs[trace.operands[:, Operand.BUFFER]]])
    return int(reads[mine].sum())


def _unique_input_bytes(trace: Trace, is_dma: NDArray[np.bool_]) -> int:
    """Bytes of the kernel inputs that are read at least once, at most the size of each input."""
    owner = np.repeat(np.arange(len(trace)), trace.column(Inst.OPERANDS))
    inputs = np.array([b.role in ("input", "constant") for b in trace.buffers] or [False])
    sizes = np.array([b.partitions * b.row_bytes for b in trace.buffers] or [0])
    buffer = trace.operands[:, Operand.BUFFER]
    mine = inputs[buffer] & is_dma[owner] & ((trace.operands[:, Operand.FLAGS] & 2) != 0)
    total = np.zeros(len(sizes), np.int64)
    np.add.at(total, buffer[mine], trace.column(Inst.BYTES)[owner[mine]])
    found = np.minimum(total, sizes)
    for b in np.unique(buffer[mine]).tolist():
        parts = distinct(trace.operands[mine & (buffer == b)][:, Operand.ROW0 : Operand.ROW_BYTES + 1])
        # Rectangles are known in rows of one width only, and are larger than what a strided access reads.
        if len(parts) <= MOST_PARTS and len(np.unique(parts[:, -1])) == 1:
            found[b] = min(int(found[b]), area(parts[:, :4]))
    return int(found.sum())


def _spills(trace: Trace, reads: Ints, writes: Ints) -> tuple[int, int]:
    """Bytes that the kernel stores to HBM to load them back: (saved, loaded); outputs are stored anyway."""
    count = len(trace.buffers)
    owner = np.repeat(np.arange(len(trace)), trace.column(Inst.OPERANDS))
    buffer, flags = trace.operands[:, Operand.BUFFER], trace.operands[:, Operand.FLAGS]
    in_hbm = np.array([b.space not in ("sbuf", "psum") for b in trace.buffers] or [False])
    own = np.array([b.role not in ("input", "constant") for b in trace.buffers] or [False])
    output = np.array([b.role == "output" for b in trace.buffers] or [False])
    stored, loaded = np.zeros(max(count, 1), np.bool_), np.zeros(max(count, 1), np.bool_)
    stores = in_hbm[buffer] & ((flags & 1) != 0) & (writes[owner] > 0)
    loads = in_hbm[buffer] & ((flags & 2) != 0) & (reads[owner] > 0)
    stored[buffer[stores]], loaded[buffer[loads]] = True, True
    both = own & stored & loaded
    back = np.unique(owner[loads & both[buffer]])
    out = np.unique(owner[stores & (both & ~output)[buffer]])
    return int(writes[out].sum()), int(reads[back].sum())


def _cost(trace: Trace, timeline: Timeline) -> Cost:
    """What each instruction cost, for sums by line and by loop."""
    cost = timeline.costs
    within = timeline.lane % timeline.lanes
    share = (cost.last_engine - cost.first_engine) / 16
    return Cost(
        held=np.where(cost.is_dma, cost.work_ns * share, timeline.issue_ns - timeline.start_ns),
        where=np.where(cost.is_dma, ENGINES, within),
        names=(*ENGINE_NAMES, "DMA"),
        waited=timeline.waited_ns * (within < ENGINES),
        moved=trace.column(Inst.BYTES) * cost.is_dma,
        start=timeline.start_ns,
        end=np.where(cost.is_dma, np.maximum(timeline.data_end_ns, timeline.issue_ns), timeline.end_ns),
    )


def _lines(trace: Trace, cost: Cost) -> tuple[LineTime, ...]:
    line = trace.column(Inst.LINE)
    count = len(trace.lines)
    table = np.zeros((count, ENGINES + 1))
    np.add.at(table, (line, cost.where), cost.held)
    stall = np.bincount(line, cost.waited, count)
    numbers = np.bincount(line, minlength=count)
    moved = np.bincount(line, cost.moved, count)
    found = [
        LineTime(
            trace.lines[k][0], trace.lines[k][1], float(table[k].sum()) / 1e3, float(stall[k]) / 1e3,
            int(numbers[k]), int(moved[k]), cost.names[int(table[k].argmax())],
        )
        for k in np.flatnonzero(numbers)
    ]  # fmt: skip
    return tuple(sorted(found, key=lambda entry: -entry.busy_us))


def _stalls(trace: Trace, timeline: Timeline) -> tuple[Stall, ...]:
    """The longest waits of the engines, summed over (engine, cause, line, line waited for)."""
    within = timeline.lane % timeline.lanes
    rows = np.flatnonzero((timeline.waited_ns > 0) & (within < ENGINES) & (timeline.wait != Wait.NONE))
    if not len(rows):
        return ()
    line = trace.column(Inst.LINE)
    other = timeline.waited_for[rows]
    other_line = np.where(other >= 0, line[np.maximum(other, 0)], -1)
    keys = np.stack([timeline.lane[rows], timeline.wait[rows], line[rows], other_line], axis=1)
    unique, first, inverse = np.unique(keys, axis=0, return_index=True, return_inverse=True)
    inverse = inverse.reshape(-1)
    total = np.bincount(inverse, timeline.waited_ns[rows])
    number = np.bincount(inverse)
    found = []
    for k in np.argsort(-total, kind="stable")[:TOP_STALLS]:
        lane, cause, here, there = (int(v) for v in unique[k])
        target = int(other[first[k]])
        found.append(
            Stall(
                ENGINE_NAMES[lane % timeline.lanes], lane // timeline.lanes, Wait(cause).name.lower(),
                float(total[k]) / 1e3, int(number[k]), *trace.lines[here],
                *(trace.lines[there] if there >= 0 else ("", 0)),
                trace.opcode_name(target) if target >= 0 else "",
            )
        )  # fmt: skip
    return tuple(found)
