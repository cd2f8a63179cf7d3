"""Loops of a recorded instruction stream, found in the stream itself: equal instructions that come back at equal distance.

No source loop is looked at: `for`, `while`, comprehensions, recursion and helpers all leave the same mark, and what Python
did besides (lists, dictionaries, `if i == 0`) has already happened. That instructions repeat says nothing about whether
iterations depend on each other; `tools.sim.batch` proves that from the bytes they touch.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
_CANDIDATES = 48
"""Distances looked at, the most promising ones: each costs one comparison of the whole stream."""


@dataclass(slots=True)
class Repetition:
    """Iterations of a recorded loop: equal instructions on operands that may lie elsewhere.

    Attributes:
        start: first instruction, counted from the start of the enclosing iteration (or of the record).
        length: instructions in an iteration.
        trips: iterations.
        inner: loops inside an iteration.
    """

    start: int
    length: int
    trips: int
    inner: list[Repetition] = field(default_factory=list)

    def same(self, other: Repetition) -> bool:
        """Whether two loops have the same form."""
        return (
            self.start == other.start
            and self.length == other.length
            and self.trips == other.trips
            and len(self.inner) == len(other.inner)
            and all(a.same(b) for a, b in zip(self.inner, other.inner))
        )

    def shifted(self, by: int) -> Repetition:
        """The same loop, counted from elsewhere."""
        return Repetition(self.start + by, self.length, self.trips, self.inner)


def repetitions(tokens: Ints, crossing: Ints) -> list[Repetition]:
    """The loops of an instruction stream, outermost first.

    Args:
        tokens: [n], equal where instructions are of one kind.
        crossing: [n + 1], allocations that are alive across the boundary in front of each instruction: iterations are
            taken to begin where fewest are.
    """
    count = len(tokens)
    if count < 2:
        return []
    for period in _periods(tokens):
        found = _regions(tokens, crossing, period)
        if found:
            break
    else:
        return []
    result: list[Repetition] = []
    before = 0
    for start, trips in found:
        result += [r.shifted(before) for r in repetitions(tokens[before:start], crossing[before : start + 1])]
        stop = start + period
        inner = repetitions(tokens[start:stop], crossing[start : stop + 1])
        result.append(Repetition(start, period, trips, inner))
        before = start + period * trips
    result += [r.shifted(before) for r in repetitions(tokens[before:], crossing[before:])]
    return result


def _periods(tokens: Ints) -> list[int]:
    """Distances at which the stream may repeat, the largest first, so that outer loops are found before inner ones."""
    order = np.argsort(tokens, kind="stable")
    ranked = tokens[order]
    gaps = np.diff(order)[ranked[1:] == ranked[:-1]]
    periods, counts = np.unique(gaps[gaps <= len(tokens) // 2], return_counts=True)
    if len(periods) > _CANDIDATES:
        periods = np.sort(periods[np.argsort(-periods * counts, kind="stable")[:_CANDIDATES]])
    found: list[int] = periods[::-1].tolist()
    return found


def _regions(tokens: Ints, crossing: Ints, period: int) -> list[tuple[int, int]]:
    """(first instruction, iterations) of each stretch that repeats with a period at least once."""
    differ = np.flatnonzero(tokens[period:] != tokens[:-period])
    edges = np.concatenate([[-1], differ, [len(tokens) - period]])
    long = np.flatnonzero(np.diff(edges) > period)
    found: list[tuple[int, int]] = []
    free = 0
    for k in long.tolist():
        start, stop = max(int(edges[k]) + 1, free), int(edges[k + 1]) + period
        if stop - start < 2 * period:
            continue
        start += _phase(crossing[start : stop + 1], period)
        trips = (stop - start) // period
        found.append((start, trips))
        free = start + trips * period
    return found


def _phase(crossing: Ints, period: int) -> int:
    """Where in a repeating stretch an iteration begins: where fewest allocations live across, and two still fit."""
    whole = (len(crossing) - 1) // period
    alive = crossing[: whole * period].reshape(whole, period).mean(axis=0)
    latest = len(crossing) - 1 - 2 * period
    return int(alive[: latest + 1].argmin())
