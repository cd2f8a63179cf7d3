"""Rounding, saturation, accumulation and exactness, against ml_dtypes and integer arithmetic."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.sim.isa.harness import execute, one, outputs, refused
from tools.sim.isa.operands import transposed

F = "float32"
rng = np.random.default_rng(3)
INTEGERS = ["int8", "uint8", "int16", "uint16", "int32", "uint32"]
FLOATS = ["bfloat16", "float16", "float8_e4m3", "float8_e4m3fn", "float8_e5m2"]


@settings(max_examples=40, derandomize=True, deadline=None)
@given(st.sampled_from(INTEGERS), st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=20))
def test_float_to_integer_rounds_to_even_and_saturates(dtype, values):
    x = np.array([values], np.float32)
    got = one("nisa.tensor_copy(dst, x)", {"x": x}, x.shape, dtype)
    info = np.iinfo(dtype)
    want = [int(min(max(np.rint(float(v)), info.min), info.max)) if np.isfinite(v) else (info.max if v > 0 else info.min)
            for v in x[0]]  # fmt: skip
    assert got[0].tolist() == want


@pytest.mark.parametrize("dtype", FLOATS)
def test_float_narrowing_is_ml_dtypes_rounding(dtype):
    x = np.concatenate([rng.standard_normal((8, 60)) * s for s in (1e-6, 1, 300, 1e6)], axis=1).astype(np.float32)
    x[0, :4] = [np.inf, -np.inf, np.nan, -0.0]
    got = one("nisa.tensor_scalar(dst, x, nl.multiply, 1.0)", {"x": x}, x.shape, dtype)
    with np.errstate(all="ignore"):
        want = x.astype(getattr(ml_dtypes, dtype, np.float16))
    assert got.tobytes() == want.tobytes()


def test_large_integers_keep_their_bits_only_on_exact_paths():
    a = np.array([[2**24 + 1, 2**31 - 1, -(2**30) - 1]], np.int32)
    b = np.array([[2, -1, 1]], np.int32)
    code = "nisa.tensor_tensor(e, a, b, nl.add)\nnisa.tensor_tensor(v, a, b, nl.add, engine=nisa.vector_engine)\nnisa.tensor_copy(c, a)"
    shape = ((1, 3), "int32")
    exact, vector, copied = outputs(code, {"a": a, "b": b}, {"e": shape, "v": shape, "c": shape})
    assert exact.tolist() == (a + b).tolist()
    wide = np.rint(a.astype(np.float32) + b.astype(np.float32)).astype(np.int64)
    assert vector.tolist() == np.clip(wide, -(2**31), 2**31 - 1).tolist()
    assert vector.tolist() != exact.tolist()
    assert copied.tolist() == a.tolist()


def test_scalar_engine_copies_lose_bits_on_trn1_only():
    a = np.array([[2**24 + 1]], np.int32)
    call = "nisa.tensor_copy(dst, a, engine=nisa.scalar_engine)"
    assert one(call, {"a": a}, (1, 1), "int32", target="trn1")[0, 0] == 2**24
    assert one(call, {"a": a}, (1, 1), "int32", target="trn2")[0, 0] == 2**24 + 1


def test_integer_to_other_types_goes_through_float32():
    a = np.array([[2**24 + 1, -5]], np.int32)
    assert one("nisa.tensor_copy(dst, a)", {"a": a}, (1, 2), "uint32").tolist() == [[2**24, 0]]


@pytest.mark.parametrize(("op", "function"), [("bitwise_and", np.bitwise_and), ("bitwise_xor", np.bitwise_xor)])
def test_bitwise_work_on_raw_bits(op, function):
    a, b = (rng.integers(0, 2**32, (4, 9), dtype=np.uint32) for _ in range(2))
    assert np.array_equal(
        one(f"nisa.tensor_tensor(dst, a, b, nl.{op})", {"a": a, "b": b}, (4, 9), "uint32"), function(a, b)
    )
    refused(f"nisa.tensor_tensor(dst, a, a, nl.{op})", {"a": a}, {"dst": ((4, 9), F)}, "KW-BITWISE-DTYPE")


def test_right_shift_is_logical():
    a = np.array([[-8, 8]], np.int32)
    got = one("nisa.tensor_scalar(dst, a, nl.right_shift, 1)", {"a": a}, (1, 2), "int32")
    assert got.tolist() == [[(2**32 - 8) >> 1, 4]]


MM = {"a": rng.standard_normal((128, 32)).astype(np.float32), "b": rng.standard_normal((128, 48)).astype(np.float32)}


@pytest.mark.parametrize(
    ("flags", "times"),
    [
        ((None,), 1),
        ((None, None, None), 3),
        ((False, True), 2),
        ((False, False), 1),
        ((None, True, False), 1),
        ((False, None), 2),
    ],
)
def test_accumulation_flags(flags, times):
    code = "\n".join(f"nisa.nc_matmul(dst, a, b, accumulate={f})" for f in flags)
    result = execute(code, MM, {"dst": ((32, 48), F)}, psum=("dst",))
    np.testing.assert_allclose(result.outputs[0], times * (MM["a"].T @ MM["b"]), rtol=1e-5, atol=1e-4)
    assert result.diagnostics == ()


def test_overlapping_views_accumulate_where_a_group_runs():
    code = """
nisa.nc_matmul(dst[:, 0:32], a, b[:, 0:32])
nisa.nc_matmul(dst[:, 16:48], a, b[:, 0:32])
nisa.nc_matmul(dst, a, b)
"""
    got = one(code, MM, (32, 48), psum=("dst",))
    p = MM["a"].T @ MM["b"]
    want = p.copy()
    want[:, :32] += p[:, :32]
    want[:, 16:48] += p[:, :32]
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-4)


def test_strided_groups_that_interleave_stay_apart():
    code = "nisa.nc_matmul(dst[:, 0::2], a, b[:, 0:24])\nnisa.nc_matmul(dst[:, 1::2], a, b[:, 24:48])"
    got = one(code, MM, (32, 48), psum=("dst",))
    p = MM["a"].T @ MM["b"]
    np.testing.assert_allclose(got[:, 0::2], p[:, :24], rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(got[:, 1::2], p[:, 24:], rtol=1e-5, atol=1e-4)


def test_accumulating_onto_nothing_or_onto_other_engines_warns():
    outs = {"dst": ((32, 48), F)}
    onto = execute("nisa.nc_matmul(dst, a, b, accumulate=True)", MM, outs, psum=("dst",))
    assert {d.code for d in onto.diagnostics} == {"KW-PSUM-ACCUMULATE", "KW-UNINITIALISED"}
    assert np.isnan(onto.outputs[0]).all()
    filled = "nisa.memset(dst, 1.0)\nnisa.nc_matmul(dst, a, b, accumulate=True)"
    assert [d.code for d in execute(filled, MM, outs, psum=("dst",)).diagnostics] == ["KW-PSUM-ACCUMULATE"]
    assert execute(filled, MM, outs, psum=("dst",), target="trn3").diagnostics == ()


def test_bfloat16_psum_rounds_at_every_write_on_trn3():
    code = "nisa.nc_matmul(dst, a, b)\nnisa.nc_matmul(dst, a, b)"
    got = one(code, MM, (32, 48), "bfloat16", psum=("dst",), target="trn3")
    p = MM["a"].T @ MM["b"]
    first = p.astype(ml_dtypes.bfloat16)
    assert np.array_equal(got, (first.astype(np.float32) + p).astype(ml_dtypes.bfloat16))
    refused(code, MM, {"dst": ((32, 48), "bfloat16")}, "KW-MATMUL-DST-DTYPE", psum=("dst",), target="trn2")


def test_tfloat32_operands_lose_13_bits():
    a = np.full((128, 1), 1 + 2**-10 + 2**-13, np.float32)
    b = np.ones((128, 1), np.float32)
    got = one("nisa.nc_matmul(dst, a.view(nl.tfloat32), b.view(nl.tfloat32))", {"a": a, "b": b}, (1, 1), psum=("dst",))
    assert got[0, 0] == 128 * (1 + 2**-10)


def test_double_row_contracts_over_two():
    a = rng.standard_normal((64, 2, 16)).astype(ml_dtypes.float8_e5m2)
    b = rng.standard_normal((64, 2, 24)).astype(ml_dtypes.float8_e5m2)
    got = one(
        "nisa.nc_matmul(dst, a, b, perf_mode=nisa.matmul_perf_mode.double_row)",
        {"a": a, "b": b},
        (16, 24),
        psum=("dst",),
    )
    want = np.einsum("krm,krn->mn", a.astype(np.float32), b.astype(np.float32))
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


SPECIAL = np.array([np.nan, np.inf, -np.inf, -0.0, 1e-40, 3.5], np.float32)


@pytest.mark.parametrize("pitch", [256, 260, 512, 2048], ids="a row each {} elements".format)
@pytest.mark.parametrize("shape", [(128, 128), (1, 256), (130, 200), (32, 1)], ids=str)
def test_a_transpose_is_the_same_however_far_apart_the_rows_lie(shape, pitch):
    held = np.arange(shape[0] * pitch, dtype=np.float32).reshape(shape[0], pitch)
    values = held[:, : shape[1]]
    np.testing.assert_array_equal(transposed(values), values.T)


@pytest.mark.parametrize("call", ["nisa.nc_transpose(dst, x)", "nisa.nc_matmul(dst, x, i, is_transpose=True)"])
def test_tensor_engine_transposes_move_bits(call):
    x = rng.standard_normal((32, 6)).astype(np.float32)
    x[3] = SPECIAL
    got = one(call, {"x": x, "i": np.eye(32, dtype=np.float32)}, (6, 32), psum=("dst",))
    assert got.tobytes() == np.ascontiguousarray(x.T).tobytes()


def test_is_transpose_is_a_plain_matmul_on_trn1_and_without_an_identity():
    x = np.ones((32, 6), np.float32)
    x[0, 0] = np.nan
    got = one("nisa.nc_matmul(dst, x, i, is_transpose=True)", {"x": x, "i": np.eye(32, dtype=np.float32)}, (6, 32),
              psum=("dst",), target="trn1")  # fmt: skip
    assert np.isnan(got[0]).all()
    result = execute("nisa.nc_matmul(dst, x, i, is_transpose=True)", {"x": x, "i": np.ones((32, 32), np.float32)},
                     {"dst": ((6, 32), F)}, psum=("dst",))  # fmt: skip
    assert [d.code for d in result.diagnostics] == ["KW-TRANSPOSE-IDENTITY"]


def test_dma_transpose_moves_bits():
    x = rng.integers(0, 2**16, (32, 48)).astype(np.uint16).view(ml_dtypes.bfloat16)
    got = one("nisa.dma_transpose(dst, h_x)", {"x": x}, (48, 32), "bfloat16")
    assert got.tobytes() == np.ascontiguousarray(x.T).tobytes()


def test_activation_outside_its_table_is_noted():
    x = np.array([[0.5, 9.0]], np.float32)
    result = execute("nisa.activation(dst, nl.sin, x)", {"x": x}, {"dst": ((1, 2), F)})
    found = result.diagnostics[0]
    assert (found.code, found.found) == ("KW-ACTIVATION-RANGE", 9.0)
    assert execute("nisa.activation(dst, nl.sin, x[:, 0:1])", {"x": x}, {"dst": ((1, 1), F)}).diagnostics == ()


def test_exact_precision_keeps_everything_in_float32():
    x = rng.standard_normal((16, 40)).astype(np.float32)
    code = "t = nl.ndarray((16, 40), dtype=nl.float8_e5m2, buffer=nl.sbuf)\nnisa.tensor_copy(t, x)\nnisa.tensor_copy(dst, t)"
    assert np.array_equal(one(code, {"x": x}, (16, 40), precision="exact"), x)
    assert not np.array_equal(one(code, {"x": x}, (16, 40)), x)
    assert np.array_equal(one("nisa.tensor_copy(dst, x)", {"x": x}, (16, 40), "bfloat16", precision="exact"), x)


def test_registers_of_the_scalar_engine_sum_in_float32():
    x = np.full((4, 4096), 0.1, np.float32)
    _, total = outputs(
        "nisa.activation(dst, nl.copy, x, reduce_op=nl.add, reduce_res=t, reduce_cmd=nisa.reduce_cmd.reset_reduce)",
        {"x": x},
        {"dst": ((4, 4096), "bfloat16"), "t": ((4, 1), F)},
    )
    np.testing.assert_allclose(total, 409.6, rtol=1e-5)


def test_reduce_result_wins_over_dst_when_they_alias():
    x = np.arange(8, dtype=np.float32).reshape(1, 8)
    got = one(
        "nisa.activation(dst, nl.copy, x, reduce_op=nl.add, reduce_res=dst[:, 0:1], reduce_cmd=nisa.reduce_cmd.reset_reduce)",
        {"x": x},
        (1, 8),
    )
    assert got[0].tolist() == [28, 1, 2, 3, 4, 5, 6, 7]


@pytest.mark.parametrize("named", ["bfloat16", "float16"])
def test_a_result_type_may_be_named_but_dst_has_the_last_word(named):
    third = np.full((4, 4), 1 / 3, np.float32)
    copied = one(f"nisa.tensor_copy(dst, x, dtype=nl.{named})", {"x": third}, (4, 4), "bfloat16")
    assert copied[0, 0] == third[0, 0].astype(ml_dtypes.bfloat16)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("call", ["nisa.nc_matmul(dst, x, x)", "nisa.tensor_tensor(dst, x, x, op=nl.multiply)"])
def test_what_overflows_is_infinite_without_a_warning_of_numpys(call):
    x = np.full((4, 4), 3e38, np.float32)
    assert np.isinf(one(call, {"x": x}, (4, 4), "float32", ("dst",) if "matmul" in call else ())).all()
