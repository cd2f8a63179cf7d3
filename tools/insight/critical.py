"""The critical path: the chain of instructions and waits that the latency consists of, walked back from the end."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tools.insight.observed import Observed
from tools.sim.timing import Wait

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

LONGEST_CHAIN = 200
"""Instructions that are followed behind one wait."""


@dataclass(frozen=True, slots=True)
class PathShare:
    """What one source line contributes to the critical path.

    Attributes:
        opcode: most frequent instruction of the line on the path.
        us: time on the path, including signalling after it.
        share: of the latency, 0..1.
        count: instructions of the line on the path.
    """

    line: int
    where: str
    opcode: str
    us: float
    share: float
    count: int


def critical_path(observed: Observed) -> list[int]:
    """Instructions on the critical path, first to last.

    Each one either kept its successor's engine busy, or was what the successor waited for.
    """
    timeline = observed.timeline
    if not len(timeline):
        return []
    before = _predecessors(observed)
    at = int(np.argmax(timeline.end_ns))
    path = [at]
    seen = {at}
    while True:
        waited = int(timeline.waited_for[at])
        waits = timeline.wait[at] not in (Wait.NONE, Wait.ORDER) and waited >= 0
        nxt = waited if waits else int(before[at])
        if nxt < 0 or nxt in seen:
            break
        path.append(nxt)
        seen.add(nxt)
        at = nxt
    return path[::-1]


def _predecessors(observed: Observed) -> Ints:
    """The instruction that each lane issued before this one, or -1."""
    timeline = observed.timeline
    order = np.lexsort((timeline.start_ns, timeline.lane))
    before = np.full(len(timeline), -1, np.int64)
    same = timeline.lane[order][1:] == timeline.lane[order][:-1]
    before[order[1:][same]] = order[:-1][same]
    return before


def path_shares(observed: Observed) -> tuple[PathShare, ...]:
    """The critical path by source line, the largest share first; the shares add up to the latency."""
    path = critical_path(observed)
    timeline = observed.timeline
    spent: dict[int, float] = defaultdict(float)
    opcodes: dict[int, list[str]] = defaultdict(list)
    for k, i in enumerate(path):
        end = float(timeline.start_ns[path[k + 1]]) if k + 1 < len(path) else timeline.latency_ns
        line = int(observed.line[i])
        spent[line] += end - float(timeline.start_ns[i]) + (float(timeline.start_ns[i]) if k == 0 else 0.0)
        opcodes[line].append(str(observed.opcode[i]))
    total = timeline.latency_ns or 1.0
    return tuple(
        PathShare(
            line, observed.where(line), max(set(opcodes[line]), key=opcodes[line].count), us / 1e3, us / total,
            len(opcodes[line]),
        )
        for line, us in sorted(spent.items(), key=lambda entry: -entry[1])
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Turn:
    """What other instructions did while an engine waited.

    Attributes:
        line: id of their source line.
        opcode: the most frequent of them.
        us: how long the wait was theirs: from the start of each until the next one, or the waiting engine, could go on.
    """

    line: int
    opcode: str
    us: float


def turns(observed: Observed, waiting: Ints, begins: Floats) -> tuple[Turn, ...]:
    """Whose turn it was while instructions waited, the longest first: the chain behind each wait, cut at its beginning.

    Args:
        observed: the launch.
        waiting: instructions that started late.
        begins: when the wait of each began, ns.
    """
    timeline = observed.timeline
    before = _predecessors(observed)
    spent: dict[int, float] = defaultdict(float)
    opcodes: dict[int, list[str]] = defaultdict(list)
    for i, begin in zip(waiting.tolist(), begins.tolist()):
        at, until = i, float(timeline.start_ns[i])
        for _ in range(LONGEST_CHAIN):
            waits = timeline.wait[at] not in (Wait.NONE, Wait.ORDER) and timeline.waited_for[at] >= 0
            nxt = int(timeline.waited_for[at]) if waits else int(before[at])
            if nxt < 0 or nxt == at or until <= begin or (at == i and not waits):
                break
            start = max(float(timeline.start_ns[nxt]), begin)
            line = int(observed.line[nxt])
            spent[line] += max(until - start, 0.0)
            opcodes[line].append(str(observed.opcode[nxt]))
            at, until = nxt, min(until, start)
    found = [Turn(k, max(set(opcodes[k]), key=opcodes[k].count), ns / 1e3) for k, ns in spent.items() if ns > 0]
    return tuple(sorted(found, key=lambda t: -t.us))
