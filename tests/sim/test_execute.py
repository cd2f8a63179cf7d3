"""What `simulate` promises a caller: values, in-place updates, outputs, findings that name their source line."""

from __future__ import annotations

from textwrap import dedent

import ml_dtypes
import numpy as np
import pytest

from tools.sim import KernelError, SimResult, load_source, simulate

PRELUDE = """
import nki
import nki.isa as nisa
import nki.language as nl
"""


def run(body: str, *args: object, **options: object) -> SimResult:
    return simulate(load_source(PRELUDE + dedent(body), "kernel"), *args, **options)


def code_of(body: str, *args: object, **options: object) -> KernelError:
    with pytest.raises(KernelError) as caught:
        run(body, *args, **options)
    return caught.value


ADD = """
@nki.jit
def kernel(a, b):
    out = nl.ndarray(a.shape, dtype=a.dtype, buffer=nl.shared_hbm)
    for i in nl.affine_range(a.shape[0] // 128):
        rows = slice(i * 128, (i + 1) * 128)
        x = nl.ndarray((128, a.shape[1]), dtype=a.dtype, buffer=nl.sbuf)
        y = nl.ndarray((128, a.shape[1]), dtype=a.dtype, buffer=nl.sbuf)
        nisa.dma_copy(dst=x, src=a[rows, :])
        nisa.dma_copy(dst=y, src=b[rows, :])
        nisa.tensor_tensor(dst=x, data1=x, data2=y, op=nl.add)
        nisa.dma_copy(dst=out[rows, :], src=x)
    return out
"""


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_add_matches_numpy_and_rounds_once(dtype: type) -> None:
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal((256, 96)).astype(dtype) for _ in range(2))
    result = run(ADD, a, b)
    want = (a.astype(np.float32) + b.astype(np.float32)).astype(dtype)
    assert result.outputs[0].dtype == dtype
    np.testing.assert_array_equal(result.outputs[0], want)
    assert result.diagnostics == ()


def test_shapes_only_records_the_same_stream_as_a_run_with_values() -> None:
    a = np.ones((256, 96), np.float32)
    with_values, without = run(ADD, a, a), run(ADD, a, a, data=False)
    np.testing.assert_array_equal(with_values.trace.instructions, without.trace.instructions)
    np.testing.assert_array_equal(with_values.trace.operands, without.trace.operands)
    assert with_values.latency_us == without.latency_us
    assert without.outputs[0].shape == (256, 96)


def test_exact_precision_keeps_what_storage_would_round() -> None:
    a = np.full((128, 4), 1.0, ml_dtypes.bfloat16)
    b = np.full((128, 4), 0.001, ml_dtypes.bfloat16)
    exact = run(ADD, a, b, precision="exact").outputs[0].astype(np.float32)
    rounded = run(ADD, a, b).outputs[0].astype(np.float32)
    assert abs(exact[0, 0] - (1 + float(b[0, 0]))) < 1e-6
    assert rounded[0, 0] == 1.0


IN_PLACE = """
@nki.jit
def kernel(a):
    t = nl.ndarray(a.shape, dtype=a.dtype, buffer=nl.sbuf)
    nisa.dma_copy(dst=t, src=a)
    nisa.tensor_scalar(dst=t, data=t, op0=nl.multiply, operand0=2.0)
    nisa.dma_copy(dst=a, src=t)
"""


@pytest.mark.parametrize("layout", ["contiguous", "transposed"])
def test_arguments_written_in_place_are_updated_in_the_callers_array(layout: str) -> None:
    a = np.arange(32, dtype=np.float32).reshape(4, 8)
    given = a.copy() if layout == "contiguous" else np.asfortranarray(a)
    result = run(IN_PLACE, given)
    np.testing.assert_array_equal(given, 2 * a)
    assert result.outputs == ()


def test_an_output_that_is_not_fully_stored_is_named_with_its_first_missing_element() -> None:
    error = code_of(
        """
        @nki.jit
        def kernel(a):
            out = nl.ndarray((4, 8), dtype=nl.float32, buffer=nl.shared_hbm)
            nisa.dma_copy(dst=out[0:3, :], src=a[0:3, :])
            return out
        """,
        np.ones((4, 8), np.float32),
    )
    assert error.diagnostic.code == "KW-OUTPUT-UNWRITTEN"
    assert error.diagnostic.found == [3, 0]


@pytest.mark.parametrize(("kind", "rest"), [("float32", np.isnan), ("uint8", lambda x: x == 255)])
def test_an_output_that_is_stored_in_part_may_be_asked_for(kind, rest) -> None:
    source = """
        @nki.jit
        def kernel(a, rows):
            out = nl.ndarray((4, 8), dtype=a.dtype, buffer=nl.shared_hbm)
            for row in rows:
                nisa.dma_copy(dst=out[row:row + 1, :], src=a[row:row + 1, :])
            return out
        """
    a = np.ones((4, 8), kind)
    result = run(source, a, (0, 2), partial_outputs=True)
    assert np.array_equal(result.outputs[0][::2], a[::2])
    assert rest(result.outputs[0][1::2]).all()
    assert [(d.code, d.severity, d.found) for d in result.findings] == [("KW-OUTPUT-UNWRITTEN", "warning", [1, 0])]
    with pytest.raises(KernelError, match="KW-OUTPUT-UNWRITTEN"):
        run(source, a, (), partial_outputs=True)


def test_reading_what_was_never_written_names_tensor_element_and_line() -> None:
    result = run(
        """
        @nki.jit
        def kernel(a):
            out = nl.ndarray((4, 8), dtype=nl.float32, buffer=nl.shared_hbm)
            t = nl.ndarray((4, 8), dtype=nl.float32, buffer=nl.sbuf, name="half")
            nisa.dma_copy(dst=t[:, 0:5], src=a[:, 0:5])
            nisa.dma_copy(dst=out, src=t)
            return out
        """,
        np.ones((4, 8), np.float32),
    )
    (finding,) = result.diagnostics
    assert finding.code == "KW-UNINITIALISED"
    assert finding.operand == "half"
    assert finding.found == [0, 5]
    assert finding.where is not None
    assert finding.where.text == "nisa.dma_copy(dst=out, src=t)"
    assert np.isnan(result.outputs[0][:, 5:]).all()
    assert (result.outputs[0][:, :5] == 1).all()


def test_an_instruction_refusal_names_line_column_operand_and_fix() -> None:
    error = code_of(
        """
        @nki.jit
        def kernel(a):
            t = nl.ndarray((256, 8), dtype=nl.float32, buffer=nl.sbuf)
        """,
        np.ones((256, 8), np.float32),
    ).diagnostic
    assert error.code == "KW-PARTITION-LIMIT"
    assert (error.found, error.limit) == (256, 128)
    assert error.where is not None
    assert error.where.text.startswith("t = nl.ndarray(")
    assert error.where.column == 8
    assert error.fix


def test_an_exception_of_the_kernels_own_python_becomes_a_diagnostic_at_its_line() -> None:
    error = code_of(
        """
        @nki.jit
        def kernel(a):
            missing = a.shape[7]
        """,
        np.ones((4, 8), np.float32),
    ).diagnostic
    assert error.code == "KW-PYTHON"
    assert error.where is not None
    assert error.where.text == "missing = a.shape[7]"


def test_an_unknown_keyword_is_refused_by_name() -> None:
    error = code_of(
        """
        @nki.jit
        def kernel(a):
            t = nl.ndarray(a.shape, dtype=a.dtype, buffer=nl.sbuf)
            nisa.tensor_copy(dst=t, src=t, mask=True)
        """,
        np.ones((4, 8), np.float32),
    ).diagnostic
    assert error.code == "KW-ARGUMENT"
    assert "mask" in error.message


@pytest.mark.parametrize(
    ("index", "code"),
    [("a[0:5, :]", "KW-OUT-OF-BOUNDS"), ("a[4, :]", "KW-OUT-OF-BOUNDS"), ("a[2:2, :]", "KW-EMPTY-SLICE"),
     ("a[1.0, :]", "KW-INDEX-TYPE"), ("a[0, 0, 0]", "KW-INDEX-RANK")],
)  # fmt: skip
def test_bad_indices_are_refused_instead_of_clamped(index: str, code: str) -> None:
    body = f"""
    @nki.jit
    def kernel(a):
        x = {index}
    """
    assert code_of(body, np.ones((4, 8), np.float32)).diagnostic.code == code


def test_untrusted_source_may_import_only_the_language_and_pure_modules() -> None:
    with pytest.raises(KernelError) as caught:
        load_source("import os\n", "kernel", allowed_imports=frozenset({"numpy"}))
    assert caught.value.diagnostic.code == "KW-IMPORT"
    assert "'os'" in caught.value.diagnostic.message


def test_psum_accumulates_from_none_and_starts_anew_in_each_allocation() -> None:
    rng = np.random.default_rng(1)
    a, b = (rng.standard_normal((256, 64)).astype(np.float32) for _ in range(2))
    result = run(
        """
        @nki.jit
        def kernel(a, b):
            out = nl.ndarray((2, 64, 64), dtype=nl.float32, buffer=nl.shared_hbm)
            for repeat in range(2):
                acc = nl.ndarray((64, 64), dtype=nl.float32, buffer=nl.psum)
                for k in range(2):
                    x = nl.ndarray((128, 64), dtype=nl.float32, buffer=nl.sbuf)
                    y = nl.ndarray((128, 64), dtype=nl.float32, buffer=nl.sbuf)
                    nisa.dma_copy(dst=x, src=a[k * 128:(k + 1) * 128, :])
                    nisa.dma_copy(dst=y, src=b[k * 128:(k + 1) * 128, :])
                    nisa.nc_matmul(dst=acc, stationary=x, moving=y)
                res = nl.ndarray((64, 64), dtype=nl.float32, buffer=nl.sbuf)
                nisa.tensor_copy(dst=res, src=acc)
                nisa.dma_copy(dst=out[repeat], src=res)
            return out
        """,
        a,
        b,
    )
    want = a.T @ b
    np.testing.assert_allclose(result.outputs[0], np.stack([want, want]), rtol=1e-5, atol=1e-4)


def test_overlapping_accumulation_views_add_only_where_a_group_already_runs() -> None:
    ones = np.ones((128, 8), np.float32)
    result = run(
        """
        @nki.jit
        def kernel(a):
            out = nl.ndarray((8, 12), dtype=nl.float32, buffer=nl.shared_hbm)
            x = nl.ndarray((128, 8), dtype=nl.float32, buffer=nl.sbuf)
            nisa.dma_copy(dst=x, src=a)
            acc = nl.ndarray((8, 12), dtype=nl.float32, buffer=nl.psum)
            nisa.nc_matmul(dst=acc[:, 0:8], stationary=x, moving=x)
            nisa.nc_matmul(dst=acc[:, 4:12], stationary=x, moving=x)
            res = nl.ndarray((8, 12), dtype=nl.float32, buffer=nl.sbuf)
            nisa.tensor_copy(dst=res, src=acc)
            nisa.dma_copy(dst=out, src=res)
            return out
        """,
        ones,
    )
    want = np.full((8, 12), 128.0, np.float32)
    want[:, 4:8] = 256.0
    np.testing.assert_array_equal(result.outputs[0], want)


def test_direct_call_of_a_jitted_kernel_runs_on_the_simulator() -> None:
    a = np.ones((128, 4), np.float32)
    kernel = load_source(PRELUDE + ADD, "kernel").jit
    np.testing.assert_array_equal(kernel(a, a), a + a)


def test_bad_target_and_precision_are_refused() -> None:
    a = np.ones((128, 4), np.float32)
    with pytest.raises(ValueError, match="trn2"):
        run(ADD, a, a, target="h100")
    with pytest.raises(ValueError, match="exact"):
        run(ADD, a, a, precision="double")


def test_a_failed_assertion_without_a_message_is_quoted() -> None:
    error = code_of(
        """
        @nki.jit
        def kernel(a):
            assert a.shape[0] % 128 == 0
        """,
        np.ones((4, 8), np.float32),
    ).diagnostic
    assert error.message == "AssertionError: assert a.shape[0] % 128 == 0"
    assert "arguments" in error.fix


@pytest.mark.parametrize(
    ("statement", "code", "hint"),
    [
        ("nl.load(a, mask=True)", "KW-ARGUMENT", "min("),
        ("nl.arange(128)", "KW-UNKNOWN-NAME", "nl.ds"),
        ("nl.par_dim(128)", "KW-UNKNOWN-NAME", "dimension 0"),
        ("nl.laod(a)", "KW-UNKNOWN-NAME", "did you mean load"),
        ("nisa.tensor_scalar(nl.load(a), np.multiply, 2.0)", "KW-OPERAND-TYPE", "destination comes first"),
        ("nl.load(a) + 1", "KW-TENSOR-OPERATOR", "nl.add"),
        ("nl.load(a) > 0", "KW-TENSOR-OPERATOR", "nl.add"),
    ],
)
def test_mistakes_of_those_who_know_the_other_dialect_are_told_the_way(statement: str, code: str, hint: str) -> None:
    body = f"""
    import numpy as np
    @nki.jit
    def kernel(a):
        {statement}
    """
    error = code_of(body, np.ones((4, 8), np.float32)).diagnostic
    assert error.code == code
    assert hint in error.fix


def test_a_while_over_a_tensor_is_refused_before_it_runs_for_ever() -> None:
    error = code_of(
        """
        @nki.jit
        def kernel(a):
            tile = nl.load(a)
            while tile:
                pass
        """,
        np.ones((4, 8), np.float32),
    ).diagnostic
    assert error.code == "KW-TENSOR-TRUTH"
    assert "while_loop" in error.fix


@pytest.mark.parametrize(
    ("end", "warned"),
    [
        ("pass", True),
        ("return out", False),
        ("nisa.dma_copy(dst=a, src=out)", False),
        ("nl.device_print('t', tile)", False),
    ],
)
def test_a_kernel_that_gives_nothing_back_is_told(end: str, warned: bool) -> None:
    result = run(
        f"""
        @nki.jit
        def kernel(a):
            out = nl.ndarray(a.shape, dtype=a.dtype, buffer=nl.shared_hbm)
            tile = nl.load(a)
            nl.store(out, tile)
            {end}
        """,
        np.ones((4, 8), np.float32),
    )
    found = [d for d in result.diagnostics if d.code == "KW-NO-OUTPUT"]
    assert len(found) == warned
    if warned:
        assert "is written and lost" in found[0].message


def test_the_allocators_of_the_preview_are_named() -> None:
    error = code_of(
        """
        @nki.jit
        def kernel(a):
            tile = sbuf.view(dtype=a.dtype, shape=a.shape)
        """,
        np.ones((4, 8), np.float32),
    ).diagnostic
    assert "buffer=nl.sbuf" in error.fix
