"""Element types of transposes on the Tensor Engine, by generation."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from tools.sim import KernelError, load_source, simulate

SOURCE = """
import nki
import nki.isa as nisa
import nki.language as nl

@nki.jit
def kernel(x):
    turned = nl.ndarray((x.shape[1], x.shape[0]), dtype=nl.float32, buffer=nl.psum)
    nisa.nc_transpose(dst=turned, data=nl.load(x))
    held = nl.ndarray(turned.shape, dtype=nl.float32, buffer=nl.sbuf)
    nisa.tensor_copy(dst=held, src=turned)
    out = nl.ndarray(turned.shape, dtype=nl.float32, buffer=nl.shared_hbm)
    nl.store(out, held)
    return out
"""
X = np.random.default_rng(0).standard_normal((16, 32)).astype(ml_dtypes.bfloat16)


def test_trn1_may_widen_because_its_transpose_is_a_matmul() -> None:
    result = simulate(load_source(SOURCE), X, target="trn1")
    np.testing.assert_array_equal(result.outputs[0], X.T.astype(np.float32))


@pytest.mark.parametrize("target", ["trn2", "trn3"])
def test_later_generations_want_the_type_of_the_data(target: str) -> None:
    with pytest.raises(KernelError) as caught:
        simulate(load_source(SOURCE), X, target=target)
    assert caught.value.diagnostic.code == "KW-TRANSPOSE-DTYPE"
    assert "bfloat16" in caught.value.diagnostic.fix
