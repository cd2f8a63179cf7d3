"""softmax, rms_norm and var of the current dialect over any last free dimensions, against NumPy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tools.sim import KernelError, load_source, simulate

SOURCE = """
import nki
import nki.isa as nisa
import nki.language as nl

@nki.jit
def kernel(x, w, axis):
    t = nl.load(x)
    v = nl.load(w)
    r = {expression}
    out = nl.ndarray(r.shape, r.dtype, nl.shared_hbm)
    nisa.dma_copy(out, nl.copy(r))
    return out
"""


def softmax(x: NDArray[np.float64], w: NDArray[np.float64], axes: tuple[int, ...]) -> NDArray[np.float64]:
    powers = np.exp(x - x.max(axes, keepdims=True))
    return powers / powers.sum(axes, keepdims=True)


def rms_norm(x: NDArray[np.float64], w: NDArray[np.float64], axes: tuple[int, ...]) -> NDArray[np.float64]:
    return x / np.sqrt((x * x).mean(axes, keepdims=True) + 1e-6) * w


def var(x: NDArray[np.float64], w: NDArray[np.float64], axes: tuple[int, ...]) -> NDArray[np.float64]:
    return x.var(axes, keepdims=True)


CALLS = {
    "nl.softmax(t, axis)": softmax,
    "nl.rms_norm(t, v, axis, {count})": rms_norm,
    "nl.var(t, axis)": var,
}


@settings(max_examples=25, deadline=None)
@given(st.data())
@pytest.mark.parametrize("call", CALLS)
def test_any_last_dimensions(call, data):
    shape = tuple(data.draw(st.lists(st.integers(1, 7), min_size=2, max_size=4)))
    first = data.draw(st.integers(1, len(shape) - 1))
    axes = tuple(range(first, len(shape)))
    rng = np.random.default_rng(data.draw(st.integers(0, 9)))
    x, w = (rng.standard_normal(shape).astype(np.float32) for _ in range(2))
    expression = call.format(count=int(np.prod(shape[first:])))
    got = simulate(load_source(SOURCE.format(expression=expression)), x, w, axes).outputs[0]
    want = CALLS[call](x.astype(np.float64), w.astype(np.float64), axes)
    np.testing.assert_allclose(got, want, rtol=2e-5, atol=2e-6)


def test_the_last_dimension_is_the_default_of_softmax():
    x = np.random.default_rng(0).standard_normal((3, 4, 5)).astype(np.float32)
    got = simulate(load_source(SOURCE.format(expression="nl.softmax(t)")), x, x, 0).outputs[0]
    np.testing.assert_allclose(got, softmax(x.astype(np.float64), x.astype(np.float64), (-1,)), rtol=2e-5)


def test_a_dimension_in_the_middle_is_refused():
    x = np.ones((3, 4, 5), np.float32)
    for call in CALLS:
        with pytest.raises(KernelError, match="KW-REDUCE-AXIS"):
            simulate(load_source(SOURCE.format(expression=call.format(count=4))), x, x, (1,))


def test_matmul_needs_its_first_operand_transposed():
    x = np.ones((4, 4), np.float32)
    with pytest.raises(KernelError, match="KW-MATMUL-TRANSPOSE"):
        simulate(load_source(SOURCE.format(expression="nl.matmul(t, v)")), x, x, 0)
