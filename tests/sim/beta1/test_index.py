"""Index algebra agrees with NumPy's."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.sim.beta1.run import run
from tools.sim import KernelError
from tools.sim.frontend.beta1.index import Index, arange, mgrid
from tools.sim.frontend.beta1.mask import EMPTY, Mask, resolve

SMALL = st.integers(-5, 5)


@st.composite
def expressions(draw: st.DrawFn) -> tuple[Index, np.ndarray]:
    """An index expression over a 4x6 grid and what NumPy makes of the same expression."""
    p, f = mgrid[0:4, 0:6]
    q, g = np.mgrid[0:4, 0:6]
    a, b, c = draw(SMALL), draw(SMALL), draw(SMALL)
    index, values = a * p + b * f + c, a * q + b * g + c
    for _ in range(draw(st.integers(0, 2))):
        operation, operand = draw(st.sampled_from("+-*/%")), draw(st.integers(1, 4))
        if operation == "+":
            index, values = index + operand, values + operand
        elif operation == "-":
            index, values = operand - index, operand - values
        elif operation == "*":
            index, values = index * operand, values * operand
        elif operation == "/":
            index, values = index // operand, values // operand
        else:
            index, values = index % operand, values % operand
    return index, values


@given(expressions())
def test_expressions_have_the_values_of_numpy(pair):
    index, values = pair
    assert np.array_equal(index.array(), values)
    assert index.bounds == (values.min(), values.max())


@given(expressions(), expressions(), st.sampled_from(["<", "<=", ">", ">=", "==", "!="]), SMALL)
def test_comparisons_have_the_truth_of_numpy(left, right, operator, bound):
    compare = {
        "<": lambda a, b: a < b,
        "<=": lambda a, b: a <= b,
        ">": lambda a, b: a > b,
        ">=": lambda a, b: a >= b,
        "==": lambda a, b: a == b,
        "!=": lambda a, b: a != b,
    }[operator]
    mask = compare(left[0], bound) & compare(right[0], left[0])
    truth = compare(left[1], bound) & compare(right[1], left[1])
    assert np.array_equal(mask.array(), truth)
    assert np.array_equal(chosen(mask, (4, 6)), truth)
    assert np.array_equal((~mask).array(), ~truth)
    assert np.array_equal((mask | compare(left[0], 1)).array(), truth | compare(left[1], 1))


def chosen(mask: Mask, shape: tuple[int, ...]) -> np.ndarray:
    """What a resolved mask leaves of a tile, as truth values."""
    found = resolve(mask, shape)
    if found is None:
        return np.ones(shape, bool)
    if isinstance(found, np.ndarray):
        return found
    truth = np.zeros(shape, bool)
    if found != EMPTY:
        truth[tuple(slice(*span) for span in found)] = True
    return truth


def test_bounds_along_single_axes_resolve_to_a_box():
    p, f = arange(128)[:, None], arange(512)[None, :]
    assert resolve((p + 64 < 100) & (f >= 12), (128, 512)) == ((0, 36), (12, 512))
    assert resolve(p < 128, (128, 512)) is None
    assert resolve(p > 500, (128, 512)) == EMPTY
    assert resolve(p + f < 0, (128, 512)) == EMPTY
    assert resolve(p + f < 10_000, (128, 512)) is None


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_affine_subscripts_load_what_numpy_picks(data):
    shape = data.draw(st.tuples(*[st.integers(3, 9)] * 3))
    x = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    picks = []
    keys = []
    for n in shape:
        kind = data.draw(st.sampled_from(["p", "f", "both", "int"]))
        step = data.draw(st.integers(1, 2))
        start = data.draw(st.integers(0, n - 1))
        rows = {"p": 2, "both": 2}.get(kind, 1)
        room = (n - 1 - start) // step + 1
        if kind == "int" or room < rows:
            picks.append(start)
            keys.append(str(start))
        elif kind == "both":
            if n - 1 - start < 1 + 2:
                picks.append(start)
                keys.append(str(start))
            else:
                picks.append(start + np.arange(2)[:, None] + np.arange(3)[None, :])
                keys.append(f"{start} + p + f")
        elif kind == "p":
            picks.append(start + step * np.arange(2)[:, None])
            keys.append(f"{start} + {step} * p")
        else:
            width = min(3, room)
            if width < 3:
                picks.append(start)
                keys.append(str(start))
            else:
                picks.append(start + step * np.arange(3)[None, :])
                keys.append(f"{start} + {step} * f")
    if all(isinstance(pick, int) for pick in picks):
        return
    expected = x[tuple(picks)]
    result = run(
        f"""
        def kernel(x):
            p, f = nl.arange(2)[:, None], nl.arange(3)[None, :]
            out = nl.ndarray({expected.shape}, dtype=x.dtype, buffer=nl.shared_hbm)
            nl.store(out, nl.load(x[{", ".join(keys)}]))
            return out
        """,
        x,
    )
    assert np.array_equal(result.outputs[0], expected)


@pytest.mark.parametrize("text", ["p // 2", "p % 3", "p * p", "(p + f) // 2"])
def test_subscripts_that_are_not_affine_gather(text):
    x = np.random.default_rng(0).standard_normal((64, 8), dtype=np.float32)
    p, f = np.arange(6)[:, None], np.arange(8)[None, :]
    result = run(
        f"""
        def kernel(x):
            p, f = nl.arange(6)[:, None], nl.arange(8)[None, :]
            out = nl.ndarray((6, 8), dtype=x.dtype, buffer=nl.shared_hbm)
            tile = nl.load(x)
            picked = nl.copy(nl.load(x[{text}, f]))
            nl.store(out, picked)
            return out
        """,
        x,
    )
    assert np.array_equal(result.outputs[0], x[eval(text, {"p": p, "f": f}), f])


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ("nl.load(x[nl.arange(4), 0])", "KW-INDEX-1D"),
        ("nl.load(x[nl.arange(4)[:, None], 0:8])", "KW-INDEX-MIX"),
        ("nl.load(x[60 + nl.arange(8)[:, None], nl.arange(8)[None, :]])", "KW-OUT-OF-BOUNDS"),
        ("1 if nl.arange(4)[:, None] < 2 else 0", "KW-INDEX-TRUTH"),
        ("1 if nl.load(x) else 0", "KW-TENSOR-TRUTH"),
        ("nl.exp(nl.ndarray((nl.par_dim(4),), dtype=nl.float32))", "KW-RANK"),
        ("nl.ndarray((4,), dtype=nl.float32, buffer=nl.psum)[0]", "KW-RANK"),
        ("nl.ndarray((4,), dtype=nl.float32).reshape((4, 1))", "KW-RANK"),
        ("nl.zeros((4,), dtype=nl.float32)", "KW-RANK"),
        ("nl.zeros((4, 4), dtype=nl.float32, buffer=nl.hbm)", "KW-HBM-INIT"),
        ("nl.ndarray((2, nl.par_dim(4), 4), dtype=nl.float32)[2]", "KW-OUT-OF-BOUNDS"),
        ("nl.exp(nl.ndarray((2, nl.par_dim(4), 4), dtype=nl.float32))", "KW-BLOCK-INDEX"),
        ("nl.exp(nl.load(x), mask=x)", "KW-MASK-EXPRESSION"),
        ("nl.load(x, colour=1)", "KW-ARGUMENT"),
        ("nl.affine_range(nl.load(x))", "KW-DYNAMIC-LOOP"),
        ("nisa.iota(nl.arange(4)[:, None] // 2, dtype=nl.int32)", "KW-IOTA-EXPRESSION"),
    ],
)
def test_what_the_tracer_refuses_is_named(body, code):
    with pytest.raises(KernelError) as caught:
        run(f"def kernel(x):\n    y = {body}\n    nl.store(x, nl.load(x))\n", np.zeros((64, 8), np.float32))
    assert caught.value.diagnostic.code == code
    assert caught.value.diagnostic.where is not None
    assert caught.value.diagnostic.where.line == 8


def test_a_tile_without_a_free_dimension_may_be_declared_and_forgotten():
    x = np.arange(8, dtype=np.float32)
    result = run(
        """
        def kernel(x):
            column = nl.ndarray((nl.par_dim(8),), dtype=x.dtype, buffer=nl.sbuf)
            column = nl.load(x)
            out = nl.ndarray((8, 1), dtype=x.dtype, buffer=nl.shared_hbm)
            nl.store(out, column)
            return out
        """,
        x,
    )
    assert np.array_equal(result.outputs[0][:, 0], x)


@pytest.mark.parametrize(
    ("subscript", "shape"),
    [("[e, :, :]", (16, 4)), ("[e]", (16, 4)), ("[:, e, :]", (8, 4)), ("[e, 2:6, 1:3]", (4, 2)), ("[e, 3, :]", (4,)),
     ("[:, 5, e]", (8,)), ("[..., e]", (8, 16))],
)  # fmt: skip
def test_an_element_of_a_tile_is_a_scalar_as_an_index(subscript, shape):
    rng = np.random.default_rng(0)
    table, indices = rng.standard_normal((8, 16, 4)).astype(np.float32), np.array([[3, 1], [0, 2]], np.int32)
    result = run(
        f"""
        def kernel(table, indices):
            chosen = nl.load(indices)
            e = chosen[1, 1]
            tile = nl.load(table{subscript})
            out = nl.ndarray(tile.shape, dtype=table.dtype, buffer=nl.shared_hbm)
            nl.store(out, tile)
            return out
        """,
        table,
        indices,
    )
    want = eval(f"table{subscript}", {"table": table, "e": 2})
    assert want.shape == shape
    assert np.array_equal(result.outputs[0].reshape(shape), want)


def test_an_element_that_points_outside_is_refused():
    with pytest.raises(KernelError) as caught:
        run(
            "def kernel(table, indices):\n    e = nl.load(indices)[0, 0]\n    nl.load(table[e, :, :])\n",
            np.zeros((8, 16, 4), np.float32),
            np.array([[8]], np.int32),
        )
    assert caught.value.diagnostic.code == "KW-OUT-OF-BOUNDS"


@pytest.mark.parametrize(
    ("small", "shape"), [((4, 1), (4, 6, 1)), ((4, 6), (4, 6, 3)), ((4, 3), (4, 6, 3)), ((4, 1), (4, 5, 6))]
)
def test_an_assignment_adds_missing_dimensions_behind_the_partitions(small, shape):
    x = np.random.default_rng(0).standard_normal(small).astype(np.float32)
    result = run(
        f"""
        def kernel(x):
            tile = nl.ndarray({shape}, dtype=x.dtype, buffer=nl.sbuf)
            tile[...] = nl.load(x)
            out = nl.ndarray({shape}, dtype=x.dtype, buffer=nl.shared_hbm)
            nl.store(out, tile)
            return out
        """,
        x,
    )
    inner = (4, *(1,) * (len(shape) - 2), *small[1:]) if small[-1] in (1, shape[-1]) else (*small, 1)
    assert np.array_equal(result.outputs[0], np.broadcast_to(x.reshape(inner), shape))


def test_a_block_may_be_chosen_by_an_index_of_one_element():
    x = np.random.default_rng(0).standard_normal((3, 4, 16)).astype(np.float32)
    result = run(
        """
        def kernel(x):
            blocks = nl.ndarray((3, nl.par_dim(4), 16), dtype=x.dtype, buffer=nl.sbuf)
            out = nl.ndarray((3, 4, 8), dtype=x.dtype, buffer=nl.shared_hbm)
            one, p, f = nl.arange(1)[:, None], nl.arange(4)[:, None], nl.arange(8)[None, :]
            for i in nl.affine_range(3):
                blocks[i] = nl.load(x[i])
                nl.store(out[i], blocks[one + i, p, 2 * f + 1])
            return out
        """,
        x,
    )
    assert np.array_equal(result.outputs[0], x[:, :, 1::2])


def test_unmodelled_parts_of_the_compiler_package_can_be_imported():
    source = """
    from neuronxcc.starfish.penguin.targets.nki.private_api import vnc
    from neuronxcc.nki._private_kernels.mlp import mlp_isa_kernel
    def kernel(x):
        nl.store(x, nl.load(x))
    """
    run(source, np.zeros((4, 4), np.float32))


@pytest.mark.parametrize(
    ("mask", "cut"),
    [("(p < 5) | (f < 0)", np.s_[:5, :]), ("(p >= 8) | (f < 3)", np.s_[:, :3]), ("(p < 2) | ((p >= 2) & (p < 6))", np.s_[:6, :])],
)  # fmt: skip
def test_joined_masks_that_leave_a_rectangle_are_one(mask, cut):
    x = np.random.default_rng(0).standard_normal((8, 6)).astype(np.float32)
    y = np.zeros((8, 1), np.float32)
    run(
        f"""
        def kernel(x, y):
            p, f = nl.arange(8)[:, None], nl.arange(6)[None, :]
            mask = {mask}
            tile = nl.load(x[p, f], mask=mask)
            total = nl.sum(tile, axis=1, keepdims=True, mask=mask)
            nl.store(y[p, nl.arange(1)[None, :]], total, mask=p < {len(x[cut])})
        """,
        x,
        y,
    )
    want = np.zeros((8, 1), np.float32)
    want[: len(x[cut]), 0] = x[cut].sum(1)
    assert np.allclose(y, want, rtol=1e-6)


@pytest.mark.parametrize(
    ("left", "right"),
    [((8, 6), (8, 1, 1)), ((8, 4, 6), (8, 6)), ((8, 1), (8, 4, 6)), ((4, 6), (4, 8, 6))],
)
def test_tiles_of_different_rank_meet_at_their_partitions(left, right):
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal(s).astype(np.float32) for s in (left, right))
    tall = max(left, right, key=len)
    result = run(
        f"""
        def kernel(a, b):
            x = nl.ndarray({left}, dtype=a.dtype, buffer=nl.sbuf)
            y = nl.ndarray({right}, dtype=a.dtype, buffer=nl.sbuf)
            x[...], y[...] = nl.load(a), nl.load(b)
            total = nl.add(x, y)
            out = nl.ndarray(total.shape, dtype=a.dtype, buffer=nl.shared_hbm)
            nl.store(out, total)
            return out
        """,
        a,
        b,
    )

    def grown(x):
        return x if x.ndim == len(tall) or x.shape[0] != tall[0] else x.reshape(x.shape[0], 1, *x.shape[1:])

    assert np.allclose(result.outputs[0], grown(a) + grown(b), rtol=1e-6)


@pytest.mark.parametrize("condition", ["p >= f", "(p >= f) & (p < 6)", "p < 3", "f + 2 > p"])
def test_where_takes_a_comparison_of_indices(condition):
    rng = np.random.default_rng(0)
    x, y = (rng.standard_normal((8, 6)).astype(np.float32) for _ in range(2))
    result = run(
        f"""
        def kernel(x, y):
            p, f = nl.arange(8)[:, None], nl.arange(6)[None, :]
            out = nl.ndarray(x.shape, dtype=x.dtype, buffer=nl.shared_hbm)
            nl.store(out, nl.where({condition}, nl.load(x), nl.load(y)))
            return out
        """,
        x,
        y,
    )
    holds = eval(condition, {"p": np.arange(8)[:, None], "f": np.arange(6)[None, :]})
    assert np.array_equal(result.outputs[0], np.where(holds, x, y))


def test_where_refuses_a_condition_that_is_not_affine():
    with pytest.raises(KernelError) as caught:
        run(
            "def kernel(x):\n    p = nl.arange(8)[:, None]\n    t = nl.load(x)\n    nl.store(x, nl.where((p < 2) | (p > 5), t, 0.0))\n",
            np.zeros((8, 6), np.float32),
        )
    assert caught.value.diagnostic.code == "KW-MASK-EXPRESSION"


def test_blocks_without_a_marked_partition_dimension_are_told_apart_from_a_reshape():
    with pytest.raises(KernelError) as caught:
        run(
            "def kernel(x):\n    t = nl.ndarray((2, 8, 4), dtype=x.dtype, buffer=nl.sbuf)\n"
            "    for i in nl.affine_range(2):\n        t[i] = nl.load(x[i])\n",
            np.zeros((2, 8, 4), np.float32),
        )
    assert caught.value.diagnostic.code == "KW-SHAPE-MISMATCH"
    assert "par_dim" in caught.value.diagnostic.fix
