import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.sim.isa.harness import execute, one, outputs, refused

F = "float32"
ELEMENT = {"float8_e4m3fn_x4": (ml_dtypes.float8_e4m3fn, 8), "float8_e5m2_x4": (ml_dtypes.float8_e5m2, 15)}


def pack(values, element):
    """[P, F, 4] values of one MX element type as packed integers [P, F]."""
    raw = values.astype(element).view(np.uint8)
    if element is ml_dtypes.float4_e2m1fn:
        wide = raw.astype(np.uint16) & 0xF
        return wide[..., 0] | wide[..., 1] << 4 | wide[..., 2] << 8 | wide[..., 3] << 12
    return np.ascontiguousarray(raw).view(np.uint32)[..., 0]


@settings(max_examples=20, derandomize=True, deadline=None)
@given(st.sampled_from(sorted(ELEMENT)), st.sampled_from([32, 64, 128]), st.integers(0, 2**31))
def test_quantize_against_the_formula(dtype, p, seed):
    element, top = ELEMENT[dtype]
    g = np.random.default_rng(seed)
    x = (g.standard_normal((p, 16)) * np.exp2(g.integers(-20, 20, (p, 1)))).astype(ml_dtypes.bfloat16)
    x[:8, :4] = 0
    scale_shape = (p, 4) if p > 32 else (4, 4)
    code = "nisa.memset(s, 0)\nnisa.quantize_mx(d, x, s)\nnisa.dma_copy(bits, d.view(nl.uint32))"
    bits, scale = outputs(
        f"d = nl.ndarray(({p}, 4), dtype=nl.{dtype}, buffer=nl.sbuf)\n" + code,
        {"x": x},
        {"bits": ((p, 4), "uint32"), "s": (scale_shape, "uint8")},
        target="trn3",
    )
    wide = x.astype(np.float64)
    for k in range(p // 8):
        for j in range(4):
            block = wide[8 * k : 8 * k + 8, 4 * j : 4 * j + 4]
            peak = np.abs(block).max()
            e = int(np.floor(np.log2(peak))) - (top - 1) if peak else -127
            assert scale[k // 4 * 32 + k % 4, j] == e + 127
            want = (block / 2.0**e).astype(np.float32).astype(element)
            got = bits[8 * k : 8 * k + 8, j : j + 1].view(np.uint8).view(element).reshape(8, 4)
            assert np.array_equal(got.view(np.uint8), want.view(np.uint8))


@pytest.mark.parametrize(
    ("name", "element"),
    [
        ("float8_e4m3fn_x4", ml_dtypes.float8_e4m3fn),
        ("float8_e5m2_x4", ml_dtypes.float8_e5m2),
        ("float4_e2m1fn_x4", ml_dtypes.float4_e2m1fn),
    ],
)
def test_matmul_dequantises_both_sides(name, element):
    g = np.random.default_rng(3)
    p, m, n = 64, 6, 10
    a = g.choice([-2, -1, -0.5, 0, 0.5, 1, 2], (p, m, 4))
    b = g.choice([-2, -1, -0.5, 0, 0.5, 1, 2], (p, n, 4))
    sa, sb = (np.zeros((p, c), np.uint8) for c in (m, n))
    full = []
    for scale, columns in ((sa, m), (sb, n)):
        for k in range(p // 8):
            scale[k // 4 * 32 + k % 4] = g.integers(124, 130, columns)
        full.append(np.repeat(np.stack([scale[k // 4 * 32 + k % 4] for k in range(p // 8)]), 8, axis=0))
    wide_a = a * np.exp2(full[0].astype(float) - 127)[:, :, None]
    wide_b = b * np.exp2(full[1].astype(float) - 127)[:, :, None]
    want = np.einsum("pmq,pnq->mn", wide_a, wide_b)
    bits = "uint16" if "4_e2" in name else "uint32"
    code = f"nisa.nc_matmul_mx(dst, a.view(nl.{name}), b.view(nl.{name}), sa, sb)"
    inputs = {"a": pack(a, element).astype(bits), "b": pack(b, element).astype(bits), "sa": sa, "sb": sb}
    got = one(code, inputs, (m, n), psum=("dst",), target="trn3")
    np.testing.assert_array_equal(got, want.astype(np.float32))


def test_packed_scales_at_an_offset():
    """Two tensors share a scale tile: rows 0-3 and 4-7 of each quadrant."""
    g = np.random.default_rng(5)
    x = g.standard_normal((64, 8)).astype(ml_dtypes.bfloat16)
    code = """
d1 = nl.ndarray((64, 2), dtype=nl.float8_e4m3fn_x4, buffer=nl.sbuf)
d2 = nl.ndarray((64, 2), dtype=nl.float8_e4m3fn_x4, buffer=nl.sbuf)
nisa.memset(s, 0)
nisa.quantize_mx(d1, x, s)
nisa.quantize_mx(d2, x, s[4:, :])
nisa.nc_matmul_mx(dst, d1, d2, s, s[4:, :])
"""
    got, scale = outputs(code, {"x": x}, {"dst": ((2, 2), F), "s": ((64, 2), "uint8")}, psum=("dst",), target="trn3")
    assert np.array_equal(scale[:4], scale[4:8])
    assert np.array_equal(scale[32:36], scale[36:40])
    wide = x.astype(np.float32).reshape(64, 2, 4)
    np.testing.assert_allclose(got, np.einsum("pmq,pnq->mn", wide, wide), rtol=0.1, atol=0.5)


def test_refusals():
    x = np.zeros((32, 8), ml_dtypes.bfloat16)
    make = "d = nl.ndarray((32, 2), dtype=nl.float8_e4m3fn_x4, buffer=nl.sbuf)\n"
    outs = {"s": ((4, 2), "uint8")}
    refused(make + "nisa.quantize_mx(d, x, s)", {"x": x}, outs, "KW-GENERATION", target="trn2")
    refused(make + "nisa.quantize_mx(d, x[:, 0:6], s)", {"x": x}, outs, "KW-MX-SHAPE", target="trn3")
    refused(make + "nisa.quantize_mx(d, x, s[0:2, :])", {"x": x}, outs, "KW-MX-SCALE", target="trn3")


def test_reads_of_missing_scales_are_named():
    x = np.zeros((32, 8), ml_dtypes.bfloat16)
    code = """
d = nl.ndarray((32, 2), dtype=nl.float8_e4m3fn_x4, buffer=nl.sbuf)
s = nl.ndarray((4, 2), dtype=nl.uint8, buffer=nl.sbuf)
u = nl.ndarray((4, 2), dtype=nl.uint8, buffer=nl.sbuf, name='missing')
nisa.quantize_mx(d, x, s)
nisa.nc_matmul_mx(dst, d, d, s, u)
"""
    result = execute(code, {"x": x}, {"dst": ((2, 2), F)}, psum=("dst",), target="trn3")
    assert ("KW-UNINITIALISED", "missing") in [(d.code, d.operand) for d in result.diagnostics]
