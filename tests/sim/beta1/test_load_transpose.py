"""`nl.load_transpose2d`: a load, and the Tensor Engine turns each block over, as the compiler does it."""

import numpy as np
import pytest

from tests.sim.beta1.run import opcodes, run

SOURCE = """
    def kernel(x):
        out = nl.ndarray((64, 192), dtype=x.dtype, buffer=nl.shared_hbm)
        for i in nl.affine_range(2):
            nl.store(out[:, nl.ds(96 * i, 96)], nl.load_transpose2d(x[nl.ds(96 * i, 96), :]))
        return out
    """


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("target", ["trn1", "trn2"])
def test_floats_are_turned_over_by_the_tensor_engine(dtype: type, target: str) -> None:
    x = np.random.default_rng(0).standard_normal((192, 64)).astype(dtype)
    result = run(SOURCE, x, target=target)
    assert np.array_equal(result.outputs[0], x.T)
    found = opcodes(result)
    assert found.count("nc_transpose") == 2
    assert "dma_transpose" not in found


def test_integers_go_through_the_dma_engines() -> None:
    x = np.arange(192 * 64, dtype=np.int32).reshape(192, 64)
    result = run(SOURCE, x)
    assert np.array_equal(result.outputs[0], x.T)
    assert "dma_transpose" in opcodes(result)
