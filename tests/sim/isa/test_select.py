import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.sim.isa.harness import execute, one, outputs, refused

rng = np.random.default_rng(1)
LOW = np.finfo(np.float32).min
F = "float32"


def test_range_select_keeps_the_band_and_its_maximum():
    x = rng.standard_normal((16, 40)).astype(np.float32)
    lo = rng.integers(3, 20, (16, 1)).astype(np.float32)
    hi = lo + 9
    dst, top = outputs(
        "nisa.range_select(dst, x, nl.greater_equal, nl.less, lo, hi, reduce_res=top, range_start=5)",
        {"x": x, "lo": lo, "hi": hi},
        {"dst": ((16, 40), F), "top": ((16, 1), F)},
    )
    index = np.arange(5, 45)
    want = np.where((index >= lo) & (index < hi), x, LOW)
    assert np.array_equal(dst, want)
    assert np.array_equal(top[:, 0], want.max(axis=1))


def test_range_select_chains_through_the_registers():
    x = rng.standard_normal((8, 64)).astype(np.float32)
    zero, end = np.zeros((8, 1), np.float32), np.full((8, 1), 50, np.float32)
    code = """
nisa.range_select(dst[:, :32], x[:, :32], nl.greater_equal, nl.less, lo, hi)
nisa.range_select(dst[:, 32:], x[:, 32:], nl.greater_equal, nl.less, lo, hi, reduce_cmd=nisa.reduce_cmd.reduce, reduce_res=top, range_start=32)
"""
    dst, top = outputs(code, {"x": x, "lo": zero, "hi": end}, {"dst": ((8, 64), F), "top": ((8, 1), F)})
    assert np.array_equal(top[:, 0], x[:, :50].max(axis=1))
    assert (dst[:, 50:] == LOW).all()


def test_range_select_refuses_trn1_and_other_fills():
    x, b = np.zeros((4, 8), np.float32), np.zeros((4, 1), np.float32)
    call = "nisa.range_select(dst, x, nl.equal, nl.less, b, b{})"
    outs = {"dst": ((4, 8), F)}
    assert refused(call.format(""), {"x": x, "b": b}, outs, "KW-GENERATION", target="trn1").found == "trn1"
    refused(call.format(", on_false_value=0.0"), {"x": x, "b": b}, outs, "KW-RANGE-FILL")
    refused(call.format(", reduce_op=nl.add"), {"x": x, "b": b}, outs, "KW-OP-REDUCE")


def test_fill_value_becomes_minus_infinity_in_bfloat16():
    x, b = np.ones((4, 8), np.float32), np.zeros((4, 1), np.float32)
    got = one("nisa.range_select(dst, x, nl.less, nl.less, b, b)", {"x": x, "b": b}, (4, 8), "bfloat16")
    assert np.isneginf(got.astype(np.float32)).all()


@pytest.mark.parametrize("reverse", [False, True])
def test_select_reduce(reverse):
    x = rng.standard_normal((8, 20)).astype(np.float32)
    p = rng.integers(0, 2, (8, 20)).astype(np.uint8)
    other = rng.standard_normal((8, 1)).astype(np.float32)
    dst, top = outputs(
        f"nisa.select_reduce(dst, p, x, o, reduce_res=top, reduce_cmd=nisa.reduce_cmd.reset_reduce, reverse_pred={reverse})",
        {"x": x, "p": p, "o": other},
        {"dst": ((8, 20), F), "top": ((8, 1), F)},
    )
    want = np.where((p == 0) if reverse else (p != 0), x, other)
    assert np.array_equal(dst, want)
    assert np.array_equal(top[:, 0], want.max(axis=1))


def test_idle_leaves_the_vector_registers_undefined():
    x, p = np.ones((4, 8), np.float32), np.ones((4, 8), np.uint8)
    result = execute(
        "nisa.select_reduce(dst, p, x, 0.0, reduce_res=top)",
        {"x": x, "p": p},
        {"dst": ((4, 8), F), "top": ((4, 1), F)},
    )
    assert np.isnan(result.outputs[1]).all()
    assert [d.code for d in result.diagnostics] == ["KW-REDUCE-IDLE"]


ACCUMULATE = {"add": np.add, "multiply": np.multiply, "maximum": np.maximum, "minimum": np.minimum}


@settings(max_examples=25, derandomize=True, deadline=None)
@given(st.sampled_from(sorted(ACCUMULATE)), st.sampled_from(["add", "multiply", "maximum"]), st.integers(1, 30))
def test_cumulative_equals_numpy_accumulate(op1, op0, n):
    x = np.random.default_rng(n).uniform(0.5, 1.5, (6, n)).astype(np.float32)
    got = one(f"nisa.tensor_scalar_cumulative(dst, x, nl.{op0}, nl.{op1}, 1.0)", {"x": x}, (6, n))
    inner = {"add": x + 1, "multiply": x, "maximum": np.maximum(x, 1)}[op0]
    start = {"add": 0, "multiply": 1, "maximum": -np.inf, "minimum": np.inf}[op1]
    full = np.concatenate([np.full((6, 1), start, np.float32), inner], axis=1)
    assert np.array_equal(got, ACCUMULATE[op1].accumulate(full, axis=1, dtype=np.float32)[:, 1:])


def test_cumulative_goes_on_and_loads():
    x = np.ones((4, 10), np.float32)
    start = np.arange(4, dtype=np.float32).reshape(4, 1)
    code = """
nisa.tensor_scalar_cumulative(a, x, nl.add, nl.add, 0.0, imm1=s, reduce_cmd=nisa.reduce_cmd.load_reduce)
nisa.tensor_scalar_cumulative(b, x, nl.add, nl.add, 0.0, reduce_cmd=nisa.reduce_cmd.reduce)
"""
    a, b = outputs(code, {"x": x, "s": start}, {"a": ((4, 10), F), "b": ((4, 10), F)})
    assert np.array_equal(a, start + np.arange(1, 11))
    assert np.array_equal(b, start + np.arange(11, 21))


def test_cumulative_subtract_alternates():
    x = np.arange(1, 6, dtype=np.float32).reshape(1, 5)
    got = one("nisa.tensor_scalar_cumulative(dst, x, nl.add, nl.subtract, 0.0)", {"x": x}, (1, 5))
    assert got.tolist() == [[1, 1, 2, 2, 3]]


def test_cumulative_refuses_wide_integers():
    x = np.ones((4, 10), np.int32)
    refused("nisa.tensor_scalar_cumulative(dst, x, nl.add, nl.add, 0.0)", {"x": x}, {"dst": ((4, 10), F)}, "KW-DTYPE")


def test_exponential_sums_on_trn3_only():
    x = rng.standard_normal((8, 16)).astype(np.float32)
    m = x.max(axis=1, keepdims=True)
    call = "nisa.exponential(dst, x, m, reduce_res=t, reduce_cmd=nisa.reduce_cmd.reset_reduce)"
    outs = {"dst": ((8, 16), F), "t": ((8, 1), F)}
    dst, total = outputs(call, {"x": x, "m": m}, outs, target="trn3")
    np.testing.assert_allclose(dst, np.exp(x - m), rtol=1e-6)
    np.testing.assert_allclose(total[:, 0], np.exp(x - m).sum(axis=1), rtol=1e-6)
    refused(call, {"x": x, "m": m}, outs, "KW-GENERATION", target="trn2")


def test_activate2_prologue_and_reduction():
    x = rng.standard_normal((8, 16)).astype(np.float32)
    call = (
        "nisa.activate2(dst, nl.relu, x, 2.0, 0.5, nl.multiply, nl.subtract, reverse1=True, reduce_op=nl.maximum, "
        "reduce_res=t, reduce_cmd=nisa.reduce_cmd.reset_reduce)"
    )
    dst, top = outputs(call, {"x": x}, {"dst": ((8, 16), F), "t": ((8, 1), F)}, target="trn3")
    want = np.maximum(0.5 - 2 * x, 0)
    np.testing.assert_array_equal(dst, want)
    np.testing.assert_array_equal(top[:, 0], want.max(axis=1))


def test_activate2_prelu_and_illegal_pair():
    x = np.array([[-2, 3]], np.float32)
    got = one(
        "nisa.activate2(dst, nl.prelu, x, 0, 0, nl.bypass, nl.bypass, relu_param=0.25)", {"x": x}, (1, 2), target="trn3"
    )
    assert got.tolist() == [[-0.5, 3]]
    refused(
        "nisa.activate2(dst, nl.relu, x, 0, 0, nl.add, nl.multiply)",
        {"x": x},
        {"dst": ((1, 2), F)},
        "KW-ACTIVATE2-OPS",
        target="trn3",
    )


def test_tensor_scalar_reduce_registers():
    x = rng.standard_normal((8, 16)).astype(np.float32)
    code = """
nisa.tensor_scalar_reduce(dst[:, :8], x[:, :8], nl.multiply, 2.0, nl.add)
nisa.tensor_scalar_reduce(dst[:, 8:], x[:, 8:], nl.multiply, 2.0, nl.add, t, reduce_cmd=nisa.reduce_cmd.reduce, reduce_res_negate=True)
"""
    _, total = outputs(code, {"x": x}, {"dst": ((8, 16), F), "t": ((8, 1), F)})
    np.testing.assert_allclose(total[:, 0], -(2 * x).sum(axis=1), rtol=1e-5)
    refused(
        "nisa.tensor_scalar_reduce(dst, x, nl.multiply, 2.0, nl.add, reduce_init=1.0)",
        {"x": x},
        {"dst": ((8, 16), F)},
        "KW-REDUCE-INIT",
    )


def test_activation_scalar_bias_needs_trn2():
    x = np.ones((4, 8), np.float32)
    refused(
        "nisa.activation(dst, nl.exp, x, bias=1.0)", {"x": x}, {"dst": ((4, 8), F)}, "KW-ACTIVATION-BIAS", target="trn1"
    )
    assert one("nisa.activation(dst, nl.copy, x, bias=1.0)", {"x": x}, (4, 8))[0, 0] == 2
