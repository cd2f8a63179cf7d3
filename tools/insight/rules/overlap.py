"""P1 to P8: engines that wait although there is work."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tools.insight import counterfactual as what_if
from tools.insight.advice import Advice, Case, rule
from tools.insight.counterfactual import Counterfactual
from tools.insight.gaps import read_tiles, written_tiles
from tools.sim.instruction import Engine, Operand
from tools.sim.profiler import ENGINE_NAMES
from tools.sim.timing import ENGINES, Wait

Ints = NDArray[np.int64]

SHARE = 0.05
"""Stalls of one kind below this share of the latency aren't worth a finding."""


def stalled(case: Case, *causes: Wait, engines_only: bool = True) -> Ints:
    """Instructions that waited for one of these causes, the longest waits first."""
    timeline = case.seen.timeline
    mine = (timeline.waited_ns > 0) & np.isin(timeline.wait, [int(c) for c in causes]) & (timeline.waited_for >= 0)
    if engines_only:
        mine &= timeline.lane % timeline.lanes < ENGINES
    rows = np.flatnonzero(mine)
    return rows[np.argsort(-timeline.waited_ns[rows], kind="stable")]


def _waited(case: Case, rows: Ints) -> float:
    return float(case.seen.timeline.waited_ns[rows].sum())


def _pair(case: Case, rows: Ints) -> tuple[Ints, Ints, str]:
    """The heaviest (line, line waited for) among `rows`: waiting and waited-for instructions, in words."""
    seen = case.seen
    others = seen.timeline.waited_for[rows]
    keys = np.stack([seen.line[rows], seen.line[others]], axis=1)
    unique, inverse = np.unique(keys, axis=0, return_inverse=True)
    total = np.bincount(inverse.reshape(-1), seen.timeline.waited_ns[rows])
    best = int(total.argmax())
    mine = inverse.reshape(-1) == best
    here, there = (seen.where(int(k)) for k in unique[best])
    engine = ENGINE_NAMES[int(seen.engine[rows[mine][0]])]
    text = f"the {engine} Engine waited {float(total[best]) / 1e3:.2f} us at {here} for {seen.opcode[others[mine][0]]} at {there}"
    return rows[mine], others[mine], text


def _same(case: Case, rows: Ints) -> Ints:
    """All instructions of the same lines and opcodes."""
    seen = case.seen
    return np.flatnonzero(
        np.isin(seen.line, np.unique(seen.line[rows])) & np.isin(seen.opcode, np.unique(seen.opcode[rows]))
    )


@rule("P1")
def waits_for_loads(case: Case) -> Advice | None:
    """Engines wait for DMAs."""
    rows = stalled(case, Wait.DMA)
    if not len(rows) or case.share(_waited(case, rows)) < SHARE:
        return None
    waiting, waited, text = _pair(case, rows)
    lines = case.heaviest(waited, case.seen.timeline.costs.work_ns) + case.heaviest(waiting)

    def trial() -> Counterfactual:
        tiles = written_tiles(case.seen, _same(case, waited))
        doubled = what_if.buffers_doubled(case.seen, tiles)
        change = f"If {case.seen.where(int(case.seen.line[waiting[0]]))} never waited for that load"
        removed = what_if.stall_removed(case.seen, _same(case, waiting), _same(case, waited), change)
        return doubled if doubled.gain_us >= 0.5 * removed.gain_us > 0 else removed

    return Advice(
        "P1",
        "Engines wait for loads.",
        f"{_waited(case, rows) / 1e3:.2f} us in {what_if.counted(len(rows), 'stall')}; mostly {text}.",
        "prefetch: give the tile two or three buffers and issue its load an iteration earlier.",
        case.numbers(lines),
        case.prove(trial),
    )


@rule("P2")
def waits_for_engine(case: Case) -> Advice | None:
    """Engines wait for another engine's result."""
    seen = case.seen
    rows = stalled(case, Wait.RESULT)
    rows = rows[seen.engine[rows] != seen.engine[seen.timeline.waited_for[rows]]]
    if not len(rows) or case.share(_waited(case, rows)) < SHARE:
        return None
    waiting, waited, text = _pair(case, rows)
    lines = case.heaviest(waiting) + case.heaviest(waited)
    change = f"If {seen.where(int(seen.line[waiting[0]]))} never waited for {seen.where(int(seen.line[waited[0]]))}"
    return Advice(
        "P2",
        "Engines wait for each other's results.",
        f"{_waited(case, rows) / 1e3:.2f} us in {what_if.counted(len(rows), 'stall')}; mostly {text}.",
        "cut the work into slices so that the producer works on the next slice meanwhile, or interleave two tiles.",
        case.numbers(lines),
        case.prove(lambda: what_if.stall_removed(seen, _same(case, waiting), _same(case, waited), change)),
    )


@rule("P3")
def psum_turns(case: Case) -> Advice | None:
    """The Tensor Engine waits for a PSUM tile that is still being evicted."""
    seen = case.seen
    rows = stalled(case, Wait.RELEASE, Wait.SPACE)
    rows = rows[seen.engine[rows] == Engine.TENSOR]
    if not len(rows) or case.share(_waited(case, rows)) < SHARE / 2:
        return None
    waiting, waited, text = _pair(case, rows)

    def trial() -> Counterfactual:
        tiles = written_tiles(seen, _same(case, waiting)) | read_tiles(seen, waited)
        psum = [b for b in tiles if seen.trace.buffers[b].space == "psum"]
        doubled = what_if.buffers_doubled(seen, psum)
        return doubled if doubled.gain_us > 0 else what_if.space_free(seen)

    return Advice(
        "P3",
        "The Tensor Engine stops at every output tile until PSUM is emptied.",
        f"{_waited(case, rows) / 1e3:.2f} us in {what_if.counted(len(rows), 'stall')}; mostly {text}.",
        "rotate two or more PSUM tiles (a new one per iteration) and evict with whichever engine is free.",
        case.numbers(case.heaviest(waiting) + case.heaviest(waited)),
        case.prove(trial),
    )


@rule("P5")
def reused_tile(case: Case) -> Advice | None:
    """A tile in SBUF that is overwritten while it is still being read: a false dependency between iterations."""
    seen = case.seen
    timeline = seen.timeline
    mine = (timeline.waited_ns > 0) & (timeline.wait == Wait.RELEASE) & (timeline.waited_for >= 0)
    rows = np.flatnonzero(mine & (seen.engine != Engine.TENSOR))
    rows = rows[np.argsort(-timeline.waited_ns[rows], kind="stable")]
    if not len(rows) or case.share(_waited(case, rows)) < SHARE:
        return None
    tiles = written_tiles(seen, rows)
    lines = sorted({seen.trace.buffers[b].line for b in tiles}, key=lambda k: seen.number(k))
    first = rows[0]
    return Advice(
        "P5",
        "Iterations wait for each other because they share a tile.",
        f"{_waited(case, rows) / 1e3:.2f} us in {what_if.counted(len(rows), 'wait')} to overwrite a tile that is still read, the longest at "
        f"{seen.where(int(seen.line[first]))} for {seen.where(int(seen.line[timeline.waited_for[first]]))}; "
        f"tiles of {case.places(lines[:3])}.",
        "allocate the tile inside the loop (or rotate two), so that iterations overlap.",
        case.numbers(lines[:3]),
        case.prove(lambda: what_if.buffers_doubled(seen, tiles)),
    )


@rule("P6")
def space_waits(case: Case) -> Advice | None:
    """New tiles wait for the SBUF space of older ones."""
    seen = case.seen
    rows = stalled(case, Wait.SPACE, engines_only=False)
    written = np.array([b.space == "sbuf" for b in seen.trace.buffers] or [False])
    operands = seen.trace.operands
    in_sbuf = np.zeros(len(seen.trace), np.bool_)
    in_sbuf[seen.owner[written[operands[:, Operand.BUFFER]] & ((operands[:, Operand.FLAGS] & 1) != 0)]] = True
    rows = rows[in_sbuf[rows]]
    if not len(rows) or case.share(_waited(case, rows)) < SHARE:
        return None
    lines = case.heaviest(rows, seen.timeline.waited_ns)
    return Advice(
        "P6",
        "SBUF is full: new tiles wait until old ones are done.",
        f"{_waited(case, rows) / 1e3:.2f} us in {what_if.counted(len(rows), 'wait')}, mostly at {case.places(lines)}.",
        "use smaller blocks, shorten live ranges, or keep fewer tiles in flight.",
        case.numbers(lines),
        case.prove(lambda: what_if.space_free(seen)),
    )


@rule("P7")
def port_conflicts(case: Case) -> Advice | None:
    """Engines wait for a memory port that they share."""
    timeline = case.seen.timeline
    rows = np.flatnonzero((timeline.waited_ns > 0) & (timeline.wait == Wait.PORT))
    if not len(rows) or case.share(_waited(case, rows)) < SHARE:
        return None
    lines = case.heaviest(rows, timeline.waited_ns)
    return Advice(
        "P7",
        "Engines take turns at a shared memory port.",
        f"{_waited(case, rows) / 1e3:.2f} us in {what_if.counted(len(rows), 'wait')} at {case.places(lines)}: on {case.seen.machine.name} Vector "
        f"and GpSimd share a port to SBUF, and Vector and Scalar one to PSUM.",
        "let only one of the two engines work there at a time, e.g. move elementwise work to the Scalar Engine.",
        case.numbers(lines),
        case.prove(lambda: what_if.ports_free(case.seen)),
    )


@rule("P8")
def trigger_bound(case: Case) -> Advice | None:
    """One engine spends its time triggering DMAs."""
    seen = case.seen
    worst: tuple[float, int, Ints] = (0.0, 0, np.empty(0, np.int64))
    for engine in range(ENGINES):
        rows = np.flatnonzero(seen.is_dma & (seen.engine == engine))
        spent = float((seen.timeline.issue_ns[rows] - seen.timeline.start_ns[rows]).sum())
        if spent > worst[0]:
            worst = (spent, engine, rows)
    spent, engine, rows = worst
    if case.share(spent) < 0.25:
        return None
    lines = case.heaviest(rows)
    return Advice(
        "P8",
        f"The {ENGINE_NAMES[engine]} Engine is busy triggering DMAs.",
        f"{what_if.counted(len(rows), 'trigger')} at {case.places(lines)} took {spent / 1e3:.2f} us ({case.share(spent):.0%} of the latency).",
        "make fewer, larger DMAs, or spread them over several trigger engines (or name none).",
        case.numbers(lines),
        case.prove(lambda: what_if.spread_triggers(seen, rows)),
    )
