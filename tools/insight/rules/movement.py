"""D1 to D12: traffic between HBM and SBUF."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from tools.figures import amount
from tools.insight import counterfactual as what_if
from tools.insight import edits
from tools.insight.advice import Advice, Case, rule
from tools.insight.counterfactual import Counterfactual
from tools.sim.instruction import BY_NAME, Flag, Inst, Operand

Ints = NDArray[np.int64]

REPEAT = 1.5
NARROW_BYTES = 2048
TINY_BYTES = 8192
"""A transfer of less than this (64 bytes a partition) is all fixed cost."""
FEW_LANES = 64
MANY = 8
"""Instructions of one line from which a per-instruction cost is a pattern."""
SMALL_SHARE = 0.05
"""Share of the DMA work (or of the latency) below which a symptom isn't worth a finding."""


def repeat_factors(case: Case) -> dict[int, tuple[int, int]]:
    """(bytes loaded, bytes of the tensor) of each kernel input that is loaded."""
    seen = case.seen
    operands = seen.trace.operands
    mine = seen.is_load[seen.owner] & seen.hbm_buffer[operands[:, Operand.BUFFER]]
    moved = np.zeros(len(seen.trace.buffers), np.int64)
    # A row that one DMA spreads over all partitions is loaded once: what counts is the region that is read.
    rows, bytes_ = operands[mine, Operand.ROW1] - operands[mine, Operand.ROW0], operands[mine, Operand.BYTE1]
    region = rows * (bytes_ - operands[mine, Operand.BYTE0])
    np.add.at(
        moved, operands[mine, Operand.BUFFER], np.minimum(region, seen.trace.column(Inst.BYTES)[seen.owner[mine]])
    )
    return {
        b.id: (int(moved[b.id]), b.partitions * b.row_bytes)
        for b in seen.trace.buffers
        if moved[b.id] and b.role in ("input", "constant")
    }


def _loads_of(case: Case, buffer: int, rows: NDArray[np.bool_]) -> Ints:
    """Those of `rows` that load a part of `buffer`."""
    mine = (case.seen.trace.operands[:, Operand.BUFFER] == buffer) & rows[case.seen.owner]
    return np.unique(case.seen.owner[mine])


@rule("D1")
def reloads(case: Case) -> Advice | None:
    """An input is loaded more than 1.5 times over."""
    factors = {b: (moved, size, moved / size) for b, (moved, size) in repeat_factors(case).items() if size}
    worst = [(b, *f) for b, f in factors.items() if f[2] > REPEAT]
    if not worst:
        return None
    worst.sort(key=lambda w: -(w[1] - w[2]))
    b, moved, size, factor = worst[0]
    name = case.seen.trace.buffers[b].name or f"input {b}"
    repeats = _loads_of(case, b, edits.repeated_loads(case.seen.trace, case.seen.is_load) >= 0)
    lines = case.heaviest(repeats) if len(repeats) else []
    return Advice(
        "D1",
        f"Input {name} is loaded {factor:.1f} times over.",
        f"{amount(moved)} are loaded of a tensor of {amount(size)}"
        + (f", again at {case.places(lines)}." if lines else "."),
        "hoist its loads out of the loop that doesn't index it, block the loops, or keep it resident in SBUF.",
        case.numbers(lines),
        case.prove(lambda: what_if.loads_hoisted(case.seen)),
    )


@rule("D5")
def narrow_rows(case: Case) -> Advice | None:
    """The median contiguous run is short, so descriptors cost more than data."""
    seen = case.seen
    dmas = np.flatnonzero(seen.is_dma & ((seen.flags & Flag.INDIRECT) == 0))
    if len(dmas) < MANY:
        return None
    run = seen.trace.column(Inst.AUX)[dmas]
    median = float(np.median(np.repeat(run, 1)))
    if median >= NARROW_BYTES:
        return None
    narrow = dmas[run < NARROW_BYTES]
    lines = case.heaviest(narrow)
    return Advice(
        "D5",
        "DMA rows are short.",
        f"The median contiguous run is {median:.0f} bytes ({len(narrow)} of {len(dmas)} DMAs below {NARROW_BYTES}), "
        f"most of it at {case.places(lines)}.",
        f"load whole rows or several tiles at once, so that each partition gets {NARROW_BYTES} to 4096 contiguous bytes.",
        case.numbers(lines),
        case.prove(lambda: what_if.wider_dma(seen, narrow)),
    )


@rule("D6")
def few_partitions(case: Case) -> Advice | None:
    """DMAs that touch few partitions, so that few DMA engines move them."""
    seen = case.seen
    cost = seen.timeline.costs
    moved = seen.trace.column(Inst.BYTES)
    lanes = seen.trace.column(Inst.PARTITIONS)
    used = cost.last_engine - cost.first_engine
    rows = np.flatnonzero(
        seen.is_dma & (lanes <= FEW_LANES) & (used * 2 <= seen.machine.dma_engines) & (moved >= TINY_BYTES)
    )
    work = cost.work_ns
    total = float(work[seen.is_dma].sum())
    if not len(rows) or float(work[rows].sum()) < SMALL_SHARE * total:
        return None
    lines = case.heaviest(rows)
    return Advice(
        "D6",
        "DMAs use few of the 16 DMA engines.",
        f"{len(rows)} DMAs at {case.places(lines)} touch {int(np.median(lanes[rows]))} partitions and so "
        f"{int(np.median(used[rows]))} of {seen.machine.dma_engines} engines; they make up "
        f"{float(work[rows].sum()) / total:.0%} of the DMA work.",
        "lay the data out over all 128 partitions, or load several such tiles side by side.",
        case.numbers(lines),
        case.prove(lambda: _all_lanes(case, rows)),
    )


def _all_lanes(case: Case, rows: Ints) -> Counterfactual:
    seen = case.seen
    marked = np.zeros(len(seen.trace), np.bool_)
    marked[rows] = True
    operands, table = seen.trace.operands.copy(), seen.trace.instructions.copy()
    chip = marked[seen.owner] & ~seen.hbm_buffer[operands[:, Operand.BUFFER]]
    operands[chip, Operand.ROW0], operands[chip, Operand.ROW1] = 0, seen.machine.partitions
    table[rows, Inst.PARTITIONS] = seen.machine.partitions
    trace = replace(seen.trace, instructions=table, operands=operands)
    change = f"With {what_if.describe_group(seen, rows)} spread over {seen.machine.partitions} partitions"
    return what_if.replay(seen, "wider DMA", change, trace=trace)


@rule("D7")
def dma_transposes(case: Case) -> Advice | None:
    """DMA transposes make up much of the DMA work."""
    seen = case.seen
    rows = np.flatnonzero(seen.opcode == "dma_transpose")
    work = seen.timeline.costs.work_ns
    total = float(work[seen.is_dma].sum())
    if not len(rows) or float(work[rows].sum()) < 0.25 * total:
        return None
    lines = case.heaviest(rows)
    return Advice(
        "D7",
        "DMA transposes dominate the traffic.",
        f"{len(rows)} dma_transpose at {case.places(lines)} make up {float(work[rows].sum()) / total:.0%} of the DMA work.",
        "load with a plain dma_copy and transpose on the Tensor Engine, or take the input in the layout that is needed.",
        case.numbers(lines),
        case.prove(lambda: _plain_copies(case, rows)),
    )


def _plain_copies(case: Case, rows: Ints) -> Counterfactual:
    table = case.seen.trace.instructions.copy()
    table[rows, Inst.OPCODE] = BY_NAME["dma_copy"].code
    lanes = np.maximum(table[rows, Inst.PARTITIONS], 1)
    table[rows, Inst.AUX] = np.maximum(table[rows, Inst.BYTES] // lanes, 1)
    change = f"With {what_if.describe_group(case.seen, rows)} as plain copies"
    caveat = "the transposes on the Tensor Engine come on top"
    return what_if.replay(
        case.seen, "plain DMA", change, trace=replace(case.seen.trace, instructions=table), caveat=caveat
    )


@rule("D8")
def casts_after_loads(case: Case) -> Advice | None:
    """Copies that only change the type of what a DMA just loaded."""
    seen = case.seen
    producers, consumers = seen.results
    from_load = np.zeros(len(seen.trace), np.bool_)
    from_load[consumers[seen.is_load[producers]]] = True
    from_other = np.zeros(len(seen.trace), np.bool_)
    from_other[consumers[~seen.is_load[producers]]] = True
    dtypes = _dtypes_differ(case)
    rows = np.flatnonzero((seen.opcode == "tensor_copy") & from_load & ~from_other & dtypes)
    if len(rows) == 0:
        return None
    lines = case.heaviest(rows)
    return Advice(
        "D8",
        "Loaded tiles are cast by separate instructions.",
        f"{len(rows)} tensor_copy at {case.places(lines)} change the type of a tile right after its load.",
        "let the DMA cast: load into a tile of the type that is needed.",
        case.numbers(lines),
        case.prove(lambda: what_if.fused_away(seen, rows, f"Without {what_if.describe_group(seen, rows)}")),
    )


def _dtypes_differ(case: Case) -> NDArray[np.bool_]:
    """Instructions whose operands don't all have the same element type."""
    seen = case.seen
    low = np.full(len(seen.trace), np.iinfo(np.int64).max)
    high = np.full(len(seen.trace), -1, np.int64)
    np.minimum.at(low, seen.owner, seen.trace.operands[:, Operand.DTYPE])
    np.maximum.at(high, seen.owner, seen.trace.operands[:, Operand.DTYPE])
    return low != high


@rule("D9")
def round_trips(case: Case) -> Advice | None:
    """Something is stored to HBM and loaded back."""
    seen = case.seen
    producers, consumers = seen.results
    pairs = seen.is_store[producers] & seen.is_load[consumers]
    if not pairs.any():
        return None
    stores, loads = np.unique(producers[pairs]), np.unique(consumers[pairs])
    moved = int(seen.trace.column(Inst.BYTES)[np.concatenate([stores, loads])].sum())
    lines = case.heaviest(np.concatenate([stores, loads]))
    trip = np.union1d(stores, loads)
    return Advice(
        "D9",
        "An intermediate result goes through HBM.",
        f"{len(stores)} stores and {len(loads)} loads at {case.places(lines)} move {moved} bytes out and back.",
        "keep the tile in SBUF and use it there (fuse the two loops), or recompute it.",
        case.numbers(lines),
        case.prove(
            lambda: what_if.fused_away(
                seen, trip, f"Without {what_if.describe_group(seen, trip)}", "the tile must fit SBUF"
            )
        ),
    )


@rule("D12")
def tiny_dmas(case: Case) -> Advice | None:
    """Many transfers of a few bytes each."""
    seen = case.seen
    moved = seen.trace.column(Inst.BYTES)
    rows = np.flatnonzero(seen.is_dma & (moved < TINY_BYTES) & ((seen.flags & Flag.INDIRECT) == 0))
    lines, counts = np.unique(seen.line[rows], return_counts=True)
    rows = rows[np.isin(seen.line[rows], lines[counts >= 2 * MANY])]
    if not len(rows):
        return None
    heavy = case.heaviest(rows)
    return Advice(
        "D12",
        "A loop moves data in tiny pieces.",
        f"{len(rows)} DMAs at {case.places(heavy)} move {float(moved[rows].mean()):.0f} bytes each; the fixed cost of a DMA "
        f"(trigger, {seen.machine.dma_start_ns:.0f} ns start, {seen.machine.dma_completion_ns:.0f} ns completion) dominates.",
        "describe the whole access as one strided dma_copy.",
        case.numbers(heavy),
        case.prove(lambda: what_if.wider_dma(seen, rows)),
    )
