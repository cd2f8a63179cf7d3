"""View methods against NumPy on the same elements; every view is read back through an instruction."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tools.sim import KernelError, load_source, simulate
from tools.sim.frontend.modules import language_module

nl: Any = language_module("nki.language")
nisa: Any = language_module("nki.isa")
rng = np.random.default_rng(7)


def seen(view: Callable[[Any], Any], x: np.ndarray, *more: np.ndarray, on_chip: bool = True) -> np.ndarray:
    """The elements of view(tensor), where tensor holds x in SBUF (or HBM)."""

    def kernel(x, *more):
        tensor = x
        if on_chip:
            tensor = nl.ndarray(x.shape, dtype=x.dtype, buffer=nl.sbuf)
            nisa.dma_copy(tensor, x)
        chosen = view(tensor, *more) if more else view(tensor)
        out = nl.ndarray(chosen.shape, dtype=chosen.dtype, buffer=nl.shared_hbm)
        nisa.dma_copy(out, chosen)
        return out

    return simulate(kernel, x, *more).outputs[0]


def code_of(view: Callable[[Any], Any], x: np.ndarray, on_chip: bool = True) -> str:
    with pytest.raises(KernelError) as caught:
        seen(view, x, on_chip=on_chip)
    assert caught.value.diagnostic.where is not None
    return caught.value.diagnostic.code


X = rng.standard_normal((16, 4, 6)).astype(np.float32)


@pytest.mark.parametrize("on_chip", [True, False])
@pytest.mark.parametrize(
    ("view", "expected"),
    [
        (lambda t: t.slice(1, 1, 4, 2), X[:, 1:4:2]),
        (lambda t: t.slice(0, 3, 9), X[3:9]),
        (lambda t: t.select(2, 5), X[:, :, 5]),
        (lambda t: t.permute((0, 2, 1)), X.transpose(0, 2, 1)),
        (lambda t: t.expand_dim(1).broadcast(1, 3), np.broadcast_to(X[:, None], (16, 3, 4, 6))),
        (lambda t: t[:, 0:1].squeeze_dim(1), X[:, 0]),
        (lambda t: t.reshape_dim(2, (2, -1)), X.reshape(16, 4, 2, 3)),
        (lambda t: t.flatten_dims(1, 2), X.reshape(16, 24)),
        (lambda t: t.reshape((16, 3, 8)), X.reshape(16, 3, 8)),
        (lambda t: t[:, ::2, nl.ds(1, 3)], X[:, ::2, 1:4]),
        (lambda t: t[..., 2], X[..., 2]),
        (lambda t: t[-4:, 1:, -1:], X[-4:, 1:, -1:]),
    ],
)
def test_view_equals_numpy(view, expected, on_chip):
    assert np.array_equal(seen(view, X, on_chip=on_chip), expected)


def test_rearrange_splits_swaps_and_merges():
    got = seen(lambda t: t.rearrange(("p", "a", ("b", "c")), ("p", "c", "b", "a"), {"b": 2}), X)
    assert np.array_equal(got, X.reshape(16, 4, 2, 3).transpose(0, 3, 2, 1))
    got = seen(lambda t: t.rearrange(("p", "a", "b"), ("p", ("a", "b"))), X)
    assert np.array_equal(got, X.reshape(16, 24))
    assert code_of(lambda t: t.rearrange(("p", "a"), ("a", "p")), X) == "KW-REARRANGE"
    crossed = lambda t: t.rearrange(("p", "a", ("b", "c")), ("p", ("c", "a"), "b"), {"b": 2})  # noqa: E731
    assert code_of(crossed, X) == "KW-RESHAPE-STRIDED"


def test_empty_ds_views_may_be_made_but_not_used():
    def kernel(x, use):
        shards = (x[nl.ds(3, 0)], x[nl.ds(16, 0)])
        assert [s.shape for s in shards] == [(0, 4, 6), (0, 4, 6)]
        if use:
            nisa.dma_copy(shards[0], shards[1])
        return x

    simulate(kernel, X.copy(), False)
    with pytest.raises(KernelError, match="KW-EMPTY-SLICE"):
        simulate(kernel, X.copy(), True)


def test_integers_keep_the_partition_dimension_on_chip():
    assert seen(lambda t: t[2], X).shape == (1, 4, 6)
    assert seen(lambda t: t[2], X, on_chip=False).shape == (4, 6)
    assert seen(lambda t: t[:, 0, 3], X).shape == (16, 1)
    assert seen(lambda t: t[1, 0, 3], X).shape == (1, 1)
    assert seen(lambda t: t[1, 0, 3], X, on_chip=False).shape == (1,)


@pytest.mark.parametrize(
    ("view", "code"),
    [
        (lambda t: t.permute((1, 0, 2)), "KW-PERMUTE-PARTITION"),
        (lambda t: t.permute((0, 1)), "KW-PERMUTE"),
        (lambda t: t.broadcast(1, 8), "KW-BROADCAST"),
        (lambda t: t.expand_dim(0), "KW-VIEW-PARTITION"),
        (lambda t: t.squeeze_dim(1), "KW-SQUEEZE"),
        (lambda t: t.reshape_dim(1, (3, 2)), "KW-RESHAPE"),
        (lambda t: t.reshape((8, 48)), "KW-RESHAPE-PARTITION"),
        (lambda t: t.reshape((16, 25)), "KW-RESHAPE"),
        (lambda t: t[:, 0:2].flatten_dims(1, 2)[:, 0:2].permute((0, 1)).select(3, 0), "KW-VIEW-DIM"),
        (lambda t: t.permute((0, 2, 1)).flatten_dims(1, 2), "KW-RESHAPE-STRIDED"),
        (lambda t: t[:, 4], "KW-OUT-OF-BOUNDS"),
        (lambda t: t[:, 2:5], "KW-OUT-OF-BOUNDS"),
        (lambda t: t[:, 3:3], "KW-EMPTY-SLICE"),
        (lambda t: t[:, None], "KW-INDEX-TYPE"),
        (lambda t: t[:, 0.0], "KW-INDEX-TYPE"),
        (lambda t: t[0, 0, 0, 0], "KW-INDEX-RANK"),
        (lambda t: t.ap([[24, 16], [1, 25]], offset=5), "KW-OUT-OF-BOUNDS"),
        (lambda t: t.ap([[1, 16], [1, 4]]), "KW-AP-PARTITION-STEP"),
        (lambda t: t[:, :, 0:3].view(nl.bfloat16)[:, :, 6], "KW-OUT-OF-BOUNDS"),
        (lambda t: t.permute((0, 2, 1)).view(nl.bfloat16), "KW-VIEW"),
    ],
)
def test_illegal_views_are_refused(view, code):
    assert code_of(view, X) == code


def test_ap_strides_offset_and_type():
    flat = X.reshape(16, 24)
    assert np.array_equal(seen(lambda t: t.ap([[24, 16], [6, 4], [2, 3]], offset=1), X), X[:, :, 1::2])
    assert np.array_equal(seen(lambda t: t.ap([(24, 8), (0, 2), (1, 24)]), X), np.stack([flat[:8]] * 2, axis=1))
    halves = seen(lambda t: t.ap([[48, 16], [2, 24]], offset=1, dtype=nl.bfloat16), X)
    assert np.array_equal(halves, flat.view(ml_dtypes.bfloat16)[:, 1::2])
    assert np.array_equal(seen(lambda t: t[:, 1].ap([[24, 16], [1, 6]]), X), X[:, 1])


def test_view_changes_the_last_dimension():
    assert np.array_equal(seen(lambda t: t.view(nl.uint8), X), X.view(np.uint8))
    assert np.array_equal(seen(lambda t: t.view(nl.int32), X), X.view(np.int32))
    b = rng.integers(0, 255, (16, 8)).astype(np.uint8)
    assert np.array_equal(seen(lambda t: t.view(nl.float32), b).view(np.uint8), b)


def test_dynamic_offsets():
    i = np.array([[3]], np.int32)

    def by_register(t, h):
        s = nl.ndarray((1, 1), dtype=nl.int32, buffer=nl.sbuf)
        nisa.dma_copy(s, h)
        r = nisa.register_alloc(s)
        return t.ap([[24, 16], [1, 6]], scalar_offset=r, indirect_dim=2)

    assert np.array_equal(seen(by_register, X, i), X.reshape(16, 24)[:, 3:9])

    def by_tensor(t, h):
        s = nl.ndarray((1, 1), dtype=nl.int32, buffer=nl.sbuf)
        nisa.dma_copy(s, h)
        return t.ap([[24, 1], [1, 24]], scalar_offset=s, indirect_dim=0)

    assert np.array_equal(seen(by_tensor, X, i, on_chip=False), X.reshape(16, 24)[3:4])
    assert np.array_equal(seen(lambda t, h: t.select(0, h), X, i.reshape(1), on_chip=False), X[3])


@pytest.mark.parametrize("method", ["ap", "vector_select"])
def test_gathered_rows(method):
    rows = np.array([[5], [0], [15], [5]], np.int32)

    def gathered(t, h):
        s = nl.ndarray((4, 1), dtype=nl.int32, buffer=nl.sbuf)
        nisa.dma_copy(s, h)
        if method == "ap":
            return t.ap([[24, 4], [1, 24]], vector_offset=s)
        chosen = t.vector_select(0, s)
        assert chosen.is_indirect()
        return chosen

    got = seen(gathered, X, rows, on_chip=False)
    assert np.array_equal(got.reshape(4, 24), X.reshape(16, 24)[rows[:, 0]])


def test_gathered_rows_can_be_sliced_behind_but_not_in_front():
    rows = np.array([[5], [0]], np.int32)

    def gathered(cut):
        def view(t, h):
            s = nl.ndarray((2, 1), dtype=nl.int32, buffer=nl.sbuf)
            nisa.dma_copy(s, h)
            return cut(t.vector_select(0, s))

        return view

    assert np.array_equal(seen(gathered(lambda v: v[:, 1:3]), X, rows, on_chip=False), X[[5, 0], 1:3])
    with pytest.raises(KernelError, match="KW-INDIRECT-SLICE"):
        seen(gathered(lambda v: v[0:1]), X, rows, on_chip=False)


def test_out_of_range_rows_are_refused_or_skipped():
    rows = np.array([[5], [99]], np.int32)

    def kernel(x, h, skip):
        s = nl.ndarray((2, 1), dtype=nl.int32, buffer=nl.sbuf)
        nisa.dma_copy(s, h)
        d = nl.ndarray((2, 24), dtype=x.dtype, buffer=nl.sbuf)
        nisa.memset(d, -1.0)
        mode = nisa.oob_mode.skip if skip else nisa.oob_mode.error
        nisa.dma_copy(d, x.ap([[24, 2], [1, 24]], vector_offset=s), oob_mode=mode)
        out = nl.ndarray((2, 24), dtype=x.dtype, buffer=nl.shared_hbm)
        nisa.dma_copy(out, d)
        return out

    with pytest.raises(KernelError, match="KW-INDEX-BOUNDS"):
        simulate(kernel, X, rows, False)
    got = simulate(kernel, X, rows, True).outputs[0]
    assert np.array_equal(got[0], X[5].reshape(-1))
    assert (got[1] == -1).all()


def test_description():
    def kernel(x):
        t = nl.ndarray((128, 8, 4), dtype=nl.bfloat16, buffer=nl.sbuf, name="t")
        assert (t.shape, t.ndim, t.size, t.name, t.offset) == ((128, 8, 4), 3, 4096, "t", 0)
        assert t.strides == (32, 4, 1)
        assert t.buffer == nl.sbuf
        assert t.buffer in (nl.psum, nl.sbuf)
        assert t.buffer != nl.psum
        assert x.buffer in (nl.hbm, nl.shared_hbm, nl.private_hbm)
        assert nl.ndarray((4, 4), nl.float32, buffer=t.buffer).buffer == nl.sbuf
        assert t.is_contiguous()
        assert t[0:4].is_contiguous()
        assert not t[:, 0:4, 0:2].is_contiguous()
        assert t[:, 1:3].get_pattern() == [[32, 128], [4, 2], [1, 4]]
        assert not t.is_indirect()
        return x

    simulate(kernel, X)


@settings(max_examples=60, derandomize=True, deadline=None)
@given(st.data())
def test_chains_of_views_follow_numpy(data):
    x = np.arange(8 * 3 * 4 * 5, dtype=np.float32).reshape(8, 3, 4, 5)
    steps: list[tuple[Callable[[Any], Any], Callable[[np.ndarray], np.ndarray]]] = []
    shape = list(x.shape)
    for _ in range(data.draw(st.integers(1, 4))):
        kind = data.draw(st.sampled_from(["slice", "permute", "expand", "select"]))
        if kind == "slice":
            d = data.draw(st.integers(0, len(shape) - 1))
            a = data.draw(st.integers(0, shape[d] - 1))
            b = data.draw(st.integers(a + 1, shape[d]))
            s = data.draw(st.integers(1, 3))
            key = (slice(None),) * d + (slice(a, b, s),)
            steps.append((lambda t, d=d, a=a, b=b, s=s: t.slice(d, a, b, s), lambda n, k=key: n[k]))
            shape[d] = len(range(a, b, s))
        elif kind == "permute":
            order = [0, *data.draw(st.permutations(range(1, len(shape))))]
            steps.append((lambda t, o=order: t.permute(o), lambda n, o=order: n.transpose(o)))
            shape = [shape[i] for i in order]
        elif kind == "expand" and len(shape) < 6:
            d = data.draw(st.integers(1, len(shape)))
            steps.append((lambda t, d=d: t.expand_dim(d), lambda n, d=d: np.expand_dims(n, d)))
            shape.insert(d, 1)
        elif kind == "select" and len(shape) > 2:
            d = data.draw(st.integers(1, len(shape) - 1))
            i = data.draw(st.integers(0, shape[d] - 1))
            steps.append((lambda t, d=d, i=i: t.select(d, i), lambda n, d=d, i=i: np.take(n, i, axis=d)))
            shape.pop(d)

    def chain(t):
        for view, _ in steps:
            t = view(t)
        return t

    want = x
    for _, step in steps:
        want = step(want)
    got = seen(chain, x)
    assert np.array_equal(got.reshape(want.shape), want)


@pytest.mark.parametrize("offset", [-100, 0, 15, 14, 99])
def test_dynamic_offsets_outside_are_skipped_or_refused(offset):
    def kernel(x, h, skip):
        s = nl.ndarray((1, 1), dtype=nl.int32, buffer=nl.sbuf)
        nisa.dma_copy(s, h)
        t = nl.ndarray((2, 24), dtype=x.dtype, buffer=nl.sbuf)
        nisa.memset(t, 7.0)
        mode = nisa.oob_mode.skip if skip else nisa.oob_mode.error
        nisa.dma_copy(t, x.ap([[24, 2], [1, 24]], scalar_offset=s), oob_mode=mode)
        out = nl.ndarray((2, 24), dtype=x.dtype, buffer=nl.shared_hbm)
        nisa.dma_copy(out, t)
        return out

    h = np.array([[offset]], np.int32)
    want = np.full((2, 24), 7, np.float32)
    for row in range(2):
        if 0 <= offset + row < 16:
            want[row] = X.reshape(16, 24)[offset + row]
    assert np.array_equal(simulate(kernel, X, h, True).outputs[0], want)
    if 0 <= offset <= 14:
        assert np.array_equal(simulate(kernel, X, h, False).outputs[0], want)
    else:
        with pytest.raises(KernelError, match="KW-INDEX-BOUNDS"):
            simulate(kernel, X, h, False)


def test_dtypes_copy_as_themselves():
    import copy
    import pickle

    for dtype in (nl.bfloat16, nl.float8_e4m3fn_x4):
        assert copy.deepcopy(dtype) is dtype
        assert pickle.loads(pickle.dumps(dtype)) is dtype


def test_a_tensor_as_condition_means_presence():
    def kernel(x):
        return x if x else None

    result = simulate(kernel, X)
    assert [(d.code, str(d.severity)) for d in result.diagnostics] == [("KW-TENSOR-TRUTH", "warning")]
    with pytest.raises(KernelError, match="KW-TENSOR-TRUTH"):
        simulate(kernel, X, strict=True)


def test_a_pattern_outside_may_be_made_but_not_used():
    def kernel(x, use, skip):
        t = nl.ndarray((16, 24), dtype=x.dtype, buffer=nl.sbuf)
        nisa.memset(t, 0.0)
        v = t.ap([[24, 16], [1, 24]], offset=1)
        if use == "engine":
            nisa.tensor_scalar(v, v, nl.add, 1.0)
        if use == "dma":
            nisa.dma_copy(v, x, oob_mode=nisa.oob_mode.skip)
        return x

    simulate(kernel, X.copy(), "", False)
    for use in ("engine", "dma"):
        with pytest.raises(KernelError, match="KW-OUT-OF-BOUNDS"):
            simulate(kernel, X.copy(), use, True)


def test_a_loop_range_as_an_index_is_the_whole_run_of_it():
    x = np.arange(48, dtype=np.float32).reshape(6, 8)
    result = simulate(
        load_source(
            "import nki\nimport nki.language as nl\n"
            "@nki.jit\n"
            "def kernel(x):\n"
            "    rows, columns = nl.affine_range(6), nl.affine_range(1, 8, 3)\n"
            "    tile = nl.load(x[rows, columns])\n"
            "    out = nl.ndarray(tile.shape, dtype=x.dtype, buffer=nl.shared_hbm)\n"
            "    nl.store(out, tile)\n"
            "    return out\n"
        ),
        x,
    )
    np.testing.assert_array_equal(result.outputs[0], x[:, 1::3])


def test_a_tensors_buffer_equals_the_memory_that_it_lies_in():
    def kernel(x):
        t, u = nl.load(x), nl.load(x)
        p = nl.ndarray((6, 8), dtype=nl.float32, buffer=nl.psum)
        out = nl.ndarray(x.shape, dtype=x.dtype, buffer=nl.shared_hbm)
        assert t.buffer == u.buffer == nl.sbuf
        assert t.buffer != p.buffer
        assert t.buffer != x.buffer
        assert x.buffer == nl.hbm
        assert x.buffer == nl.shared_hbm
        assert x.buffer in (nl.hbm, nl.private_hbm)
        assert out.buffer == nl.shared_hbm
        assert out.buffer != nl.hbm
        nl.store(out, t)
        return out

    simulate(kernel, np.ones((6, 8), np.float32))
