"""Results nobody wants, written to one repeated element: sums over them are right all the same."""

from __future__ import annotations

import numpy as np
import pytest

from tools.sim import load_source, simulate

X = np.random.default_rng(4).standard_normal((128, 64)).astype(np.float32)
SOURCE = """
import nki
import nki.isa as nisa
import nki.language as nl

@nki.jit
def kernel(x):
    out = nl.ndarray((128, 1), dtype=nl.float32, buffer=nl.shared_hbm)
    tile = nl.ndarray((128, 64), dtype=nl.float32, buffer=nl.sbuf)
    nisa.dma_copy(tile, x)
    spare = nl.ndarray((128, 1), dtype=nl.float32, buffer=nl.sbuf)
    total = nl.ndarray((128, 1), dtype=nl.float32, buffer=nl.sbuf)
    nisa.activation({dst}, {op}, tile, scale=2.0, reduce_op=nl.add, reduce_res=total,
                    reduce_cmd=nisa.reduce_cmd.reset_reduce)
    nisa.dma_copy(out, total)
    return out
"""


@pytest.mark.parametrize("dst", ["spare.ap([[1, 128], [0, 64]])", "spare.broadcast_to((128, 64))", "tile"])
@pytest.mark.parametrize(("op", "function"), [("nl.square", np.square), ("nl.exp", np.exp), ("nl.copy", lambda v: v)])
def test_a_reduction_over_a_scratch_result(dst, op, function):
    out = simulate(load_source(SOURCE.format(dst=dst, op=op)), X).outputs[0]
    want = function(2 * X.astype(np.float64)).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(out, want, rtol=1e-4, atol=1e-4)
