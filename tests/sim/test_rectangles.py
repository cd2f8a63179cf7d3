import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tools.sim.rectangles import area, distinct

SPANS = st.tuples(st.integers(0, 6), st.integers(1, 4), st.integers(0, 9), st.integers(1, 5))


@settings(max_examples=60, deadline=None)
@given(st.lists(SPANS, max_size=12))
def test_area_and_distinct_are_their_definitions(spans: list[tuple[int, int, int, int]]) -> None:
    rows = np.array([(r, r + h, c, c + w) for r, h, c, w in spans], np.int64).reshape(-1, 4)
    painted = np.zeros((12, 16), bool)
    for r0, r1, c0, c1 in rows.tolist():
        painted[r0:r1, c0:c1] = True
    assert area(rows) == painted.sum()
    assert sorted(map(tuple, distinct(rows).tolist())) == sorted(set(map(tuple, rows.tolist())))
