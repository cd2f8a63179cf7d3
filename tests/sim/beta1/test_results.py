"""Results find their destination without an extra copy, and in program order."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from tests.sim.beta1.run import opcodes, run
from tools.sim import KernelError

RNG = np.random.default_rng(7)
X = RNG.standard_normal((128, 64), dtype=np.float32)
Y = RNG.standard_normal((128, 64), dtype=np.float32)
OUT = "out = nl.ndarray(x.shape, dtype=x.dtype, buffer=nl.shared_hbm)"


def test_an_assigned_result_is_written_in_place():
    result = run(
        f"""
        def kernel(x, y):
            {OUT}
            a = nl.ndarray((nl.par_dim(128), 64), dtype=nl.float32)
            a[...] = nl.load(x)
            a[...] = nl.add(a, nl.load(y))
            a[:, 0:32] = nl.exp(a[:, 0:32])
            nl.store(out, a)
            return out
        """,
        X,
        Y,
    )
    expected = X + Y
    expected[:, :32] = np.exp(expected[:, :32])
    assert np.allclose(result.outputs[0], expected, rtol=1e-5)
    assert opcodes(result) == ["dma_copy", "dma_copy", "tensor_tensor", "activation", "dma_copy"]


def test_a_named_result_sees_its_operands_as_they_were():
    result = run(
        f"""
        def kernel(x):
            {OUT}
            a = nl.load(x)
            b = nl.multiply(a, 2.0)
            a[...] = 0
            nl.store(out, nl.add(a, b))
            return out
        """,
        X,
    )
    assert np.array_equal(result.outputs[0], 2 * X)
    lines = [result.trace.lines[i][1] for i in result.trace.instructions[:, 2]]
    assert lines == sorted(lines)
    assert len(set(lines)) == 4


@pytest.mark.parametrize("declare", ["nl.zeros", "nl.ndarray"])
def test_matmuls_accumulate_in_psum_without_copies(declare):
    result = run(
        f"""
        def kernel(x, y):
            out = nl.ndarray((64, 64), dtype=x.dtype, buffer=nl.shared_hbm)
            a, b = nl.load(x), nl.load(y)
            acc = {declare}((nl.par_dim(64), 64), dtype=nl.float32, buffer=nl.psum)
            for i in nl.affine_range(4):
                k = nl.ds(i * 32, 32)
                acc[...] += nisa.nc_matmul(a[k, :], b[k, :])
            nl.store(out, nl.copy(acc))
            return out
        """,
        X,
        Y,
    )
    assert np.allclose(result.outputs[0], X.T @ Y, atol=1e-3)
    assert opcodes(result)[2:] == ["nc_matmul"] * 4 + ["tensor_copy", "dma_copy"]


def test_matmuls_add_to_what_was_written_before():
    result = run(
        """
        def kernel(x, y):
            out = nl.ndarray((64, 64), dtype=x.dtype, buffer=nl.shared_hbm)
            acc = nl.ndarray((nl.par_dim(64), 64), dtype=nl.float32, buffer=nl.psum)
            acc[...] = 3
            acc += nisa.nc_matmul(nl.load(x), nl.load(y))
            nl.store(out, acc)
            return out
        """,
        X,
        Y,
    )
    assert np.allclose(result.outputs[0], X.T @ Y + 3, atol=1e-3)


def test_nl_matmul_transposes_its_left_operand():
    result = run(
        """
        def kernel(x, y):
            out = nl.ndarray((64, 64), dtype=x.dtype, buffer=nl.shared_hbm)
            nl.store(out, nl.matmul(nl.transpose(nl.load(x)), nl.load(y)))
            return out
        """,
        X,
        Y,
    )
    assert np.allclose(result.outputs[0], X.T @ Y, atol=1e-3)


@pytest.mark.parametrize("dtype", ["nl.float32", "nl.bfloat16"])
@pytest.mark.parametrize("bound", [0, 50, 128])
def test_masked_off_elements_stay(dtype, bound):
    result = run(
        f"""
        def kernel(x, y, bound):
            {OUT}
            p = nl.arange(128)[:, None]
            a = nl.load(y)
            a[...] = nl.copy(nl.load(x), dtype={dtype}, mask=p < bound)
            nl.store(out, a)
            return out
        """,
        X,
        Y,
        bound,
    )
    narrow = X.astype(ml_dtypes.bfloat16).astype(np.float32) if "bf" in dtype else X
    expected = np.where(np.arange(128)[:, None] < bound, narrow, Y)
    assert np.array_equal(result.outputs[0], expected)
    assert "KW-UNINITIALISED" not in {d.code for d in result.diagnostics}


def test_a_slanted_mask_is_applied_element_by_element():
    result = run(
        f"""
        def kernel(x, y):
            {OUT}
            p, f = nl.mgrid[0:128, 0:64]
            a = nl.load(y)
            a[...] = nl.multiply(nl.load(x), 2.0, mask=p + f < 80)
            nl.store(out, a)
            return out
        """,
        X,
        Y,
    )
    p, f = np.mgrid[0:128, 0:64]
    assert np.array_equal(result.outputs[0], np.where(p + f < 80, 2 * X, Y))


def test_masks_make_partial_last_tiles_legal():
    x = RNG.standard_normal((300, 40), dtype=np.float32)
    result = run(
        f"""
        def kernel(x):
            {OUT}
            f = nl.arange(40)[None, :]
            for i in nl.affine_range(3):
                p = i * 128 + nl.arange(128)[:, None]
                a = nl.load(x[p, f], mask=p < 300)
                a = nl.square(a, mask=p < 300)
                nl.store(out[p, f], a, mask=p < 300)
            return out
        """,
        x,
    )
    assert np.allclose(result.outputs[0], x * x)
    assert "KW-UNINITIALISED" not in {d.code for d in result.diagnostics}
    assert int(result.trace.instructions[-1, 4]) == 300 - 256


@pytest.mark.parametrize(
    ("expression", "opcode", "expected"),
    [
        ("a + b", "tensor_tensor", lambda a, b: a + b),
        ("a * 3.0", "tensor_scalar", lambda a, b: a * 3),
        ("1.0 - a", "tensor_scalar", lambda a, b: 1 - a),
        ("a * b[:, 0:1]", "tensor_scalar", lambda a, b: a * b[:, :1]),
        ("b[:, 0:1] - a", "tensor_scalar", lambda a, b: b[:, :1] - a),
        ("-a", "tensor_scalar", lambda a, b: -a),
        ("nl.exp(a)", "activation", lambda a, b: np.exp(a)),
        ("nl.maximum(a, b)", "tensor_tensor", lambda a, b: np.maximum(a, b)),
        ("nl.add(a, b[0:1, :])", "tensor_tensor", lambda a, b: a + b[:1]),
        ("nl.where(a > b, a, b)", "tensor_copy_predicated", lambda a, b: np.maximum(a, b)),
        ("nl.divide(a, nl.sum(nl.abs(b), axis=1))", "tensor_scalar", lambda a, b: a / np.abs(b).sum(1, keepdims=True)),
        (
            "nl.softmax(a, axis=1)",
            "tensor_scalar",
            lambda a, b: (
                np.exp(a - a.max(1, keepdims=True)) / np.exp(a - a.max(1, keepdims=True)).sum(1, keepdims=True)
            ),
        ),
        ("a - nl.mean(a, axis=1)", "tensor_scalar", lambda a, b: a - a.mean(1, keepdims=True)),
        ("a * 0 + nl.var(b, axis=1)", "tensor_scalar", lambda a, b: a * 0 + b.var(1, keepdims=True)),
    ],
)
def test_operators_are_the_instructions_of_the_hardware(expression, opcode, expected):
    result = run(
        f"""
        def kernel(x, y):
            {OUT}
            a, b = nl.load(x), nl.load(y)
            nl.store(out, {expression})
            return out
        """,
        X,
        Y,
    )
    assert np.allclose(result.outputs[0], expected(X, Y), rtol=1e-4, atol=1e-5)
    assert opcodes(result)[-2] == opcode


@pytest.mark.parametrize(
    ("left", "right", "promoted"),
    [
        ("nl.int32", "nl.float16", "float16"),
        ("nl.float16", "nl.bfloat16", "float32"),
        ("nl.float8_e4m3", "nl.float8_e5m2", "bfloat16"),
        ("nl.float8_e4m3", "nl.bfloat16", "bfloat16"),
        ("nl.int8", "nl.uint8", "int16"),
        ("nl.uint16", "nl.int32", "int32"),
        ("nl.int32", "nl.uint32", "float32"),
    ],
)
def test_types_promote_as_documented(left, right, promoted):
    result = run(
        f"""
        def kernel():
            a = nl.ones((4, 4), dtype={left})
            b = nl.ones((4, 4), dtype={right})
            c = nl.add(a, b)
            out = nl.ndarray((4, 4), dtype=c.dtype, buffer=nl.shared_hbm)
            nl.store(out, c)
            return out, nl.add(nl.ones((4, 4), dtype=nl.float16), 1.2).dtype == nl.float32
        """
    )
    assert str(result.outputs[0].dtype) == promoted
    assert (result.outputs[0].astype(np.float32) == 2).all()
    assert result.outputs[1]


def test_loop_reduce_copies_once_and_folds_after():
    for target in ("acc[...] = ", "acc = "):
        result = run(
            f"""
            def kernel(x):
                {OUT}
                acc = nl.ndarray((nl.par_dim(128), 64), dtype=nl.float32)
                for i in nl.affine_range(2):
                    for j in nl.affine_range(3):
                        {target}nl.loop_reduce(nl.load(x), op=np.add, loop_indices=[i, j])
                nl.store(out, acc)
                return out
            """,
            X,
        )
        assert np.allclose(result.outputs[0], 6 * X, rtol=1e-5)
        assert opcodes(result).count("tensor_tensor") == 5


def test_blocks_are_tiles_of_their_own():
    result = run(
        """
        def kernel(x):
            out = nl.ndarray((4, 128, 64), dtype=x.dtype, buffer=nl.shared_hbm)
            t = nl.ndarray((2, 2, nl.par_dim(128), 64), dtype=nl.float32, buffer=nl.sbuf, name="t")
            for i in nl.affine_range(2):
                for j in nl.affine_range(2):
                    t[i, j] = nl.load(x) * (2 * i + j)
            for i in nl.affine_range(2):
                row = t[i]
                for j in nl.affine_range(2):
                    nl.store(out[2 * i + j], row[j, :, :])
            return out
        """,
        X,
    )
    assert np.allclose(result.outputs[0], X[None] * np.arange(4).reshape(4, 1, 1))
    assert [b.shape for b in result.trace.buffers if b.name == "t"] == [(128, 64)] * 4


def test_a_gigabyte_of_blocks_costs_what_is_touched():
    result = run(
        """
        def kernel(x):
            out = nl.ndarray(x.shape, dtype=x.dtype, buffer=nl.shared_hbm)
            t = nl.ndarray((4096, nl.par_dim(128), 512), dtype=nl.float32)
            t[4095, :, 0:64] = nl.load(x)
            nl.store(out, t[4095, :, 0:64])
            return out
        """,
        X,
    )
    assert np.array_equal(result.outputs[0], X)
    assert sum(b.space == "sbuf" for b in result.trace.buffers) == 1


def test_blocks_lie_where_the_kernel_places_them():
    result = run(
        """
        def place(idx, pdim_size, fdim_size):
            return idx[0] % 2, 0, 0

        def kernel(x):
            out = nl.ndarray(x.shape, dtype=x.dtype, buffer=nl.shared_hbm)
            a = nl.ndarray((3, nl.par_dim(128), 64), dtype=nl.float32, buffer=ncc.sbuf.mod_alloc(base_addr=512, num_free_tiles=(2,)))
            b = nl.ndarray((3, nl.par_dim(64), 64), dtype=nl.float32, buffer=ncc.psum.alloc(place))
            for i in nl.affine_range(3):
                a[i] = nl.load(x)
                b[i] = nisa.nc_matmul(a[i], a[i])
                nl.store(out[0:64, :], b[i])
                nl.store(out[64:128, :], b[i])
            return out
        """,
        X,
    )
    assert np.allclose(result.outputs[0][:64], X.T @ X, atol=1e-3)
    placed = [b.address for b in result.trace.buffers if b.address is not None]
    assert placed == [(0, 512), (0, 0), (0, 768), (0, 2048), (0, 512), (0, 0)]


def test_indices_from_tiles_gather_scatter_and_skip():
    rows = np.array([[3], [1], [200], [0]], np.int32)
    result = run(
        """
        def kernel(x, rows):
            out = nl.ndarray((4, 64), dtype=x.dtype, buffer=nl.shared_hbm)
            index = nl.load(rows)
            tile = nisa.memset((4, 64), -1.0, nl.float32)
            f = nl.arange(64)[None, :]
            p = nl.arange(4)[:, None]
            nisa.dma_copy(dst=tile[p, f], src=x[index, f], oob_mode=nisa.oob_mode.skip)
            nl.store(out, tile)
            return out
        """,
        X,
        rows,
    )
    assert np.array_equal(result.outputs[0], np.stack([X[3], X[1], np.full(64, -1, np.float32), X[0]]))


def test_a_dynamic_offset_copies_within_a_tile():
    offsets = np.array([[5, 9]], np.int32)
    result = run(
        """
        def kernel(x, offsets):
            out = nl.ndarray((128, 2), dtype=x.dtype, buffer=nl.shared_hbm)
            a, where = nl.load(x), nl.load(offsets)
            p, f = nl.mgrid[0:128, 0:1]
            held = nl.ndarray((nl.par_dim(128), 2), dtype=x.dtype)
            for i in nl.affine_range(2):
                held[p, i] = nisa.tensor_copy_dynamic_src(a[p, where[0, i] + f])
            nl.store(out, held)
            return out
        """,
        X,
        offsets,
    )
    assert np.array_equal(result.outputs[0], X[:, [5, 9]])


def test_affine_select_and_iota_follow_their_expressions():
    result = run(
        f"""
        def kernel(x):
            {OUT}
            p, f = nl.mgrid[0:128, 0:64]
            kept = nisa.affine_select(pred=p >= 2 * f + 1, on_true_tile=nl.load(x), on_false_value=-7.0)
            counts = nisa.iota(3 * p + f - 4, dtype=nl.float32)
            nl.store(out, kept + counts)
            return out
        """,
        X,
    )
    p, f = np.mgrid[0:128, 0:64]
    assert np.allclose(result.outputs[0], np.where(p >= 2 * f + 1, X, -7) + 3 * p + f - 4, rtol=1e-5)


def test_instances_of_a_grid_fill_one_output():
    result = run(
        """
        def kernel(x):
            out = nl.ndarray(x.shape, dtype=x.dtype, buffer=nl.shared_hbm)
            i, j = nl.program_id(0), nl.program_id(1)
            assert nl.num_programs() == 8
            rows = nl.ds(i * 32, 32)
            nl.store(out[rows, nl.ds(j * 32, 32)], nl.load(x[rows, nl.ds(j * 32, 32)]) * 2.0)
            return out
        """,
        X,
        grid=(4, 2),
    )
    assert np.array_equal(result.outputs[0], 2 * X)


def test_shapes_only_runs_record_the_same_stream():
    source = f"""
        def kernel(x, y):
            {OUT}
            a, b = nl.load(x), nl.load(y)
            p, f = nl.mgrid[0:128, 0:64]
            a[...] = nl.add(a, b, mask=p + f < 80)
            s = nl.softmax(a * b[:, 0:1], axis=1)
            nl.store(out[p, f], nl.add(s, b[0:1, :]), mask=p < 100)
            nl.store(out[28 + p, f], s, mask=p < 100)
            return out
        """
    full, shapes = run(source, X, Y), run(source, X, Y, data=False)
    assert np.array_equal(full.trace.instructions, shapes.trace.instructions)
    assert np.array_equal(full.trace.operands, shapes.trace.operands)


def test_masks_joined_with_and_are_named():
    result = run(
        f"""
        def kernel(x):
            {OUT}
            p, f = nl.mgrid[0:128, 0:64]
            nl.store(out, nl.load(x))
            nl.store(out[p, f], nl.load(x) * 0.0, mask=(p < 10 and f < 10))
            return out
        """,
        X,
    )
    assert "KW-MASK-AND" in {d.code for d in result.diagnostics}


def test_an_output_may_be_stored_in_part_but_not_at_all_is_refused():
    source = """
        def kernel(x, rows):
            out = nl.ndarray((128, 64), dtype=x.dtype, buffer=nl.shared_hbm)
            if rows:
                nl.store(out[0:rows, :], nl.load(x[0:rows, :]))
            return out
        """
    result = run(source, X, 5)
    assert np.array_equal(result.outputs[0][:5], X[:5])
    assert "KW-OUTPUT-UNWRITTEN" in {d.code for d in result.diagnostics}
    with pytest.raises(KernelError, match="KW-OUTPUT-UNWRITTEN"):
        run(source, X, 0)


def test_zeros_in_psum_are_zeros_for_whatever_reads_them_first():
    body = f"""
        def kernel(x):
            {OUT}
            total = nl.ndarray((128, 1), dtype=nl.float32, buffer=nl.shared_hbm)
            spare = nl.multiply(nl.load(x), 3.0)
            blank = nl.zeros((128, 64), dtype=nl.float32, buffer=nl.psum)
            summed = nl.zeros((128, 1), dtype=nl.float32, buffer=nl.psum)
            nl.store(out, nl.add(nl.copy(blank), spare))
            for i in nl.affine_range(2):
                summed += nl.sum(nl.load(x[:, i * 32 : i * 32 + 32]), axis=[1], keepdims=True)
            nl.store(total, nl.copy(summed))
            return out, total
    """
    for _ in range(3):  # memory of the runs before is used again
        got, total = run(body, X).outputs
        assert np.array_equal(got, 3 * X)
        np.testing.assert_allclose(total[:, 0], X.sum(axis=1), rtol=1e-4, atol=1e-4)


def test_one_element_a_partition_goes_with_a_tile_of_any_rank():
    result = run(
        """
        def kernel(x, bias):
            out = nl.ndarray((128, 4, 16), dtype=x.dtype, buffer=nl.shared_hbm)
            a = nl.load(x).reshape((128, 4, 16))
            b = nl.load(bias)
            nl.store(out, nisa.tensor_tensor(a, b, nl.add).as_tile())
            return out
        """,
        X,
        Y[:, :1].copy(),
    )
    assert np.array_equal(result.outputs[0], (X + Y[:, :1]).reshape(128, 4, 16))


@pytest.mark.parametrize(
    "tile", ["nl.load(x)", "nl.load(x)[0:4, 0:4]", "x[nl.arange(4)[:, None], nl.arange(4)[None, :]]"]
)
def test_a_method_that_tiles_dont_have_is_the_kernels_fault(tile):
    with pytest.raises(KernelError, match="transpose") as caught:
        run(f"def kernel(x):\n    return ({tile}).transpose(0, 1)", X)
    assert caught.value.diagnostic.where is not None
