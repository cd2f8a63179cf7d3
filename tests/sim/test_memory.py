"""The written-map: cells and bytes must agree with a plain boolean array, whatever order tiles are written in."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tools.sim import dtypes
from tools.sim.memory import Buffer
from tools.sim.tensor import Tensor

ROWS, COLUMNS = 12, 10


def fresh(space: str) -> Tensor:
    on_chip = space == "sbuf"
    row = COLUMNS * 4
    buffer = Buffer(
        0, space, "t", (ROWS, COLUMNS), dtypes.float32, ROWS if on_chip else 1, row if on_chip else ROWS * row
    )
    buffer.allocate()
    return Tensor(buffer, (ROWS, COLUMNS), dtypes.float32, 0, (COLUMNS, 1))


def spans(size: int) -> st.SearchStrategy[tuple[int, int]]:
    return st.tuples(st.integers(0, size - 1), st.integers(1, size)).map(lambda p: (p[0], min(size, p[0] + p[1])))


rectangles = st.tuples(spans(ROWS), spans(COLUMNS), st.sampled_from([1, 2]))
grid_cells = st.tuples(st.sampled_from([0, 4, 8]), st.sampled_from([0, 5])).map(
    lambda c: ((c[0], c[0] + 4), (c[1], c[1] + 5), 1)
)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(
    st.sampled_from(["sbuf", "hbm"]),
    st.lists(st.one_of(rectangles, grid_cells), max_size=10),
    st.lists(rectangles, min_size=1, max_size=4),
)
def test_reads_see_exactly_what_was_written(space, writes, reads):  # type: ignore[no-untyped-def]
    tensor = fresh(space)
    model = np.zeros((ROWS, COLUMNS), bool)
    for (r0, r1), (c0, c1), step in writes:
        tensor[r0:r1, c0:c1:step].write(np.float32(1))
        model[r0:r1, c0:c1:step] = True
    for (r0, r1), (c0, c1), step in reads:
        view = tensor[r0:r1, c0:c1:step]
        seen = model[r0:r1, c0:c1:step]
        found = tensor.buffer.unwritten_in(view) if tensor.buffer.pending else None
        if seen.all():
            assert found is None
        else:
            assert found == tuple(int(i) for i in np.argwhere(~seen)[0])
            assert np.isnan(view.view()[~seen]).all()
    assert (not tensor.buffer.pending) <= bool(model.all())


def test_a_grid_of_tiles_needs_no_byte_map():
    tensor = fresh("hbm")
    for r in range(0, ROWS, 4):
        for c in range(0, COLUMNS, 5):
            tensor[r : r + 4, c : c + 5].write(np.float32(0))
            assert tensor.buffer.written is None
    assert not tensor.buffer.pending
