"""P4 and D13: iterations, and DMAs, that come one after another without needing to."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tools.insight import counterfactual as what_if
from tools.insight.advice import Advice, Case, rule
from tools.insight.counterfactual import Counterfactual
from tools.insight.gaps import written_tiles
from tools.sim.instruction import Inst, Operand
from tools.sim.source_loops import LoopTime, iterations_of
from tools.sim.timing import Wait

Ints = NDArray[np.int64]

SERIAL_SHARE = 0.8
"""Share of the iterations that begin only after the one before has ended from which a loop counts as serialised."""
LEAST_ITERATIONS = 3
GAP_SHARE = 0.05
"""Share of the latency from which a time without any DMA is worth a finding."""


@rule("P4")
def serialised_loop(case: Case) -> Advice | None:
    """Iterations run one after another although none needs a result of the one before."""
    found = [(loop, rows) for loop in case.seen.profile.loops if (rows := _serialised(case, loop)) is not None]
    if not found:
        return None
    loop, rows = max(found, key=lambda f: (f[0].active_us, f[0].depth))
    lines = case.heaviest(rows, case.seen.timeline.waited_ns)
    tiles = written_tiles(case.seen, rows)

    def trial() -> Counterfactual:
        return what_if.buffers_doubled(case.seen, tiles, copies=0)

    return Advice(
        "P4",
        "The iterations of a loop run one after another, though none needs a result of the one before.",
        f"`{loop.header}` on line {loop.first_line}: {loop.iterations} iterations in {loop.active_us:.2f} us, each beginning when "
        f"the one before has ended; waits mostly at {case.places(lines)}.",
        "give each iteration tiles of its own (allocate them inside the loop; affine_range instead of sequential_range).",
        case.numbers(lines),
        case.prove(trial),
    )


def _serialised(case: Case, loop: LoopTime) -> Ints | None:
    """Instructions of a loop whose iterations don't overlap and don't depend on each other; else None."""
    seen, timeline = case.seen, case.seen.timeline
    if loop.iterations is None or loop.iterations < LEAST_ITERATIONS or case.share(loop.active_us * 1e3) < 0.1:
        return None
    number = iterations_of(seen.trace, loop)
    if number is None:
        return None
    rows = np.flatnonzero((number >= 0) & ~timeline.dropped)
    count = int(number.max()) + 1
    begin, end = np.full(count, np.inf), np.zeros(count)
    np.minimum.at(begin, number[rows], timeline.start_ns[rows])
    np.maximum.at(end, number[rows], np.maximum(timeline.data_end_ns, timeline.issue_ns)[rows])
    if count < LEAST_ITERATIONS or float((begin[1:] >= end[:-1]).mean()) < SERIAL_SHARE:
        return None
    producers, consumers = seen.flows
    later = np.flatnonzero((number[producers] >= 0) & (number[consumers] > number[producers]))
    return None if any(_passes_on(case, int(producers[k]), int(consumers[k])) for k in later) else rows


def _passes_on(case: Case, producer: int, consumer: int) -> bool:
    """Whether the consumer reads a tile that the producer wrote, rather than overwriting it."""
    trace = case.seen.trace
    first, count = trace.column(Inst.FIRST_OPERAND), trace.column(Inst.OPERANDS)
    one, two = (trace.operands[first[i] : first[i] + count[i]] for i in (producer, consumer))
    written = one[(one[:, Operand.FLAGS] & 1) != 0, Operand.BUFFER]
    read = two[(two[:, Operand.FLAGS] & 2) != 0, Operand.BUFFER]
    return bool(np.isin(written, read).any())


@rule("D13")
def dma_gap(case: Case) -> Advice | None:
    """No DMA moves for a while; what the first one after the gap waited for."""
    seen, timeline = case.seen, case.seen.timeline
    dmas = np.flatnonzero(seen.is_dma & ~timeline.dropped)
    dmas = dmas[np.argsort(timeline.data_start_ns[dmas], kind="stable")]
    if len(dmas) < 2:
        return None
    reach = np.maximum.accumulate(timeline.data_end_ns[dmas])
    gap = timeline.data_start_ns[dmas[1:]] - reach[:-1]
    # A DMA that waits for its own kind (data, space freed by a store) has its cause elsewhere.
    after = dmas[1:]
    cause = timeline.wait[after]
    mine = (gap > 0) & (timeline.waited_for[after] >= 0) & np.isin(cause, [Wait.RELEASE, Wait.RESULT, Wait.SPACE])
    total = float(gap[mine].sum())
    if case.share(total) < GAP_SHARE or int(mine.sum()) < LEAST_ITERATIONS:
        return None  # the one gap of load, compute, store has nothing to hide behind
    first = after[mine][int(gap[mine].argmax())]
    waited = int(timeline.waited_for[first])
    waiting = np.flatnonzero(seen.is_dma & (seen.line == seen.line[first]))
    blockers = np.flatnonzero((seen.line == seen.line[waited]) & (seen.opcode == seen.opcode[waited]))
    why = {Wait.RELEASE: "still read the tile", Wait.RESULT: "made its data", Wait.SPACE: "held its space"}
    here, there = seen.where(int(seen.line[first])), seen.where(int(seen.line[waited]))

    def trial() -> Counterfactual:
        if Wait(int(timeline.wait[first])) is Wait.RESULT:
            return what_if.stall_removed(seen, waiting, blockers, f"If {here} never waited for {there}")
        return what_if.buffers_doubled(seen, written_tiles(seen, waiting), copies=0)

    return Advice(
        "D13",
        "All DMA engines pause.",
        f"{total / 1e3:.2f} us in {what_if.counted(int(mine.sum()), 'gap')}; the DMA of {here} that ends the longest ({float(gap[mine].max()) / 1e3:.2f} "
        f"us) waited for {seen.opcode[waited]} at {there}, which {why[Wait(int(timeline.wait[first]))]}.",
        "start from that wait: another buffer for its tile, or the transfer issued before the work that it waits for.",
        case.numbers([int(seen.line[first]), int(seen.line[waited])]),
        case.prove(trial),
    )
