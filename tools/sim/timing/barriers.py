"""Barriers between the trips of loops that the neuronxcc.nki compiler leaves rolled.

Seen on trn2 in 14 variants of one streaming kernel: where the trip count of its only loop is a multiple of the 16 DMA
engines, transfers of neighbouring trips overlap as if the loop had been unrolled. With any other count every trip loses
about 1.6 us, whatever its size, and the DMA engines stand idle in it: one DMA round trip. So such a loop is modelled as
a pipeline of loading, computing and storing whose DMAs all wait for those of the step before. Loops of fewer trips than
that are taken as unrolled, and loops inside others aren't looked at: no measurement shows either.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tools.sim.instruction import Engine, Inst, Operand, Trace
from tools.sim.machine import Machine

from .allocation import owners
from .costs import Costs
from .dependence import Edge, Edges
from .line_loops import line_loops
from .tiles import tiles_of

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

DEPTH = 2
"""Steps from a trip's loads to its stores: the trip between them computes."""
MOST = 32
"""DMAs of a trip up to which barriers are looked for: with more, a round trip is lost in the transfers."""


@dataclass(frozen=True, slots=True)
class Barriers:
    """Waits between the steps of rolled loops.

    Attributes:
        edges: DMA of a step to DMA of the next.
        moved: DMAs whose place in their queue follows from these waits.
        rank: that place, as the index of the instruction in front of which they are issued.
    """

    edges: Edges
    moved: Ints
    rank: Ints


def barriers(trace: Trace, machine: Machine, cost: Costs, edges: Edges) -> Barriers | None:
    """Waits that rolled loops add to `edges`; None if there is no such loop."""
    lines = trace.column(Inst.LINE)
    single = np.array([loops.single for loops in line_loops(trace)] or [0])
    files = [file for file, _ in trace.lines]
    loop = single[lines]
    candidates = np.flatnonzero(cost.is_dma & (loop > 0))
    if not len(candidates):
        return None
    stores = _stores(trace)
    parts: list[tuple[Ints, Ints]] = []
    moved: list[Ints] = []
    ranks: list[Ints] = []
    keys = {(files[line], int(single[line])) for line in np.unique(lines[candidates]).tolist()}
    for file, head in sorted(keys):
        mine = candidates[loop[candidates] == head]
        mine = mine[[files[line] == file for line in lines[mine].tolist()]]
        trip = _trips(mine, lines[mine], machine.dma_engines)
        if trip is None or (cost.engine[mine] != Engine.UNKNOWN).any():
            continue
        begins = np.full(int(trip.max()) + 1, len(trace))
        np.minimum.at(begins, trip, mine)
        if (np.diff(begins) <= 0).any() or _too_tight(mine[stores[mine]], begins, edges):
            continue
        step = trip + DEPTH * stores[mine]
        parts.append(_steps(mine, step))
        moved.append(mine)
        # Stores go in front of the loads of their step, after those of the step before; the last ones to the end.
        turn = np.append(begins, np.full(DEPTH, mine[-1]))[step]
        ranks.append(np.where(stores[mine], turn, mine))
    if not parts:
        return None
    before, after = (np.concatenate(column) for column in zip(*parts))
    kind = np.full(len(before), int(Edge.RESULT))
    return Barriers(Edges(before, after, kind), np.concatenate(moved), np.concatenate(ranks))


def _stores(trace: Trace) -> Bools:
    """Instructions that write HBM."""
    operands = trace.operands
    in_hbm = tiles_of(trace.buffers).hbm
    found = np.zeros(len(trace), np.bool_)
    writes = (operands[:, Operand.FLAGS] & 1 != 0) & in_hbm[operands[:, Operand.BUFFER]]
    found[owners(trace)[writes]] = True
    return found


def _trips(mine: Ints, lines: Ints, whole: int) -> Ints | None:
    """Trip of each DMA of a loop; None if the loop is short, has a multiple of `whole` trips or isn't regular."""
    _, line, counts = np.unique(lines, return_inverse=True, return_counts=True)
    trips = int(counts.min())
    if trips < whole or trips % whole == 0 or (counts % trips).any() or len(mine) > MOST * trips:
        return None
    order = np.argsort(line, kind="stable")
    within = np.empty(len(mine), np.int64)
    starts = np.cumsum(counts) - counts
    within[order] = np.arange(len(mine)) - np.repeat(starts, counts)
    return np.asarray(within // (counts // trips)[line])


def _too_tight(stores: Ints, begins: Ints, edges: Edges) -> bool:
    """Whether a trip's store must end before the next trip can load: then there is no pipeline to speak of."""
    is_store = np.zeros(int(max(edges.before.max(initial=0), stores.max(initial=0))) + 1, np.bool_)
    is_store[stores] = True
    rows = np.flatnonzero(is_store[edges.before])
    trip = np.searchsorted(begins, edges.before[rows], side="right")
    waiting = np.searchsorted(begins, edges.after[rows], side="right")
    return bool((waiting < trip + DEPTH).any())


def _steps(mine: Ints, step: Ints) -> tuple[Ints, Ints]:
    """(before, after): every DMA of a step to every DMA of the next."""
    order = np.argsort(step, kind="stable")
    mine, step = mine[order], step[order]
    begin, end = np.searchsorted(step, step + 1), np.searchsorted(step, step + 1, side="right")
    width = end - begin
    before = np.repeat(mine, width)
    within = np.arange(len(before)) - np.repeat(np.cumsum(width) - width, width)
    return before, mine[np.repeat(begin, width) + within]
