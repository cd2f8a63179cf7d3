"""Loops are found in the stream of instructions itself."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tools.sim.repetition import Repetition, repetitions


def found(stream: str, crossing: list[int] | None = None) -> list[Repetition]:
    tokens = np.array([ord(c) for c in stream], np.int64)
    return repetitions(tokens, np.array(crossing or [0] * (len(stream) + 1), np.int64))


def unrolled(loops: list[Repetition], stream: str, origin: int = 0) -> None:
    """Each iteration of each loop holds what the first one holds."""
    end = origin
    for loop in loops:
        begin = origin + loop.start
        assert begin >= end
        first = stream[begin : begin + loop.length]
        end = begin + loop.length * loop.trips
        assert stream[begin:end] == first * loop.trips
        unrolled(loop.inner, stream, begin)


@pytest.mark.parametrize(
    ("stream", "loops"),
    [
        ("", []),
        ("abcd", []),
        ("aaaa", [Repetition(0, 1, 4)]),
        ("xababaz", [Repetition(1, 2, 2)]),
        ("xabcabcabcy", [Repetition(1, 3, 3)]),
        ("abbbcabbbcabbbc", [Repetition(0, 5, 3, [Repetition(1, 1, 3)])]),
        ("sababab.cdcdcd", [Repetition(1, 2, 3), Repetition(8, 2, 3)]),
        # the first iteration sets, the others add
        ("dsdadada", [Repetition(2, 2, 3)]),
    ],
)
def test_what_repeats(stream: str, loops: list[Repetition]) -> None:
    assert found(stream) == loops


def test_an_iteration_begins_where_nothing_lives_across() -> None:
    """The end of an odd first iteration looks like part of the loop; the tiles say that it isn't."""
    stream = "xbc" + "abc" * 4
    assert [(r.start, r.trips) for r in found(stream)] == [(1, 4)]
    crossing = [0, 1, 1] * 5 + [0]
    assert [(r.start, r.trips) for r in found(stream, crossing)] == [(3, 4)]


@given(st.recursive(st.sampled_from("abcde"), lambda s: st.lists(st.tuples(s, st.integers(1, 4)), max_size=4).map(
    lambda parts: "".join(body * times for body, times in parts)), max_leaves=12))  # fmt: skip
def test_loops_hold_what_they_say(stream: str) -> None:
    unrolled(found(stream), stream)
