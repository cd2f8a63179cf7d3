"""Products of several iterations have the bits that each has alone."""

from __future__ import annotations

import numpy as np
import pytest

from tools.sim.products import products, stacks


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize(
    ("trips", "k", "m", "n"), [(1, 128, 128, 512), (4, 128, 128, 64), (8, 64, 96, 32), (3, 17, 5, 9)]
)
def test_products_are_those_of_one_by_one(trips: int, k: int, m: int, n: int, shared: bool) -> None:
    rng = np.random.default_rng(1)
    left = rng.standard_normal((trips, k, m), dtype=np.float32)
    right = rng.standard_normal((k, n) if shared else (trips, k, n), dtype=np.float32)
    out = np.empty((trips, m, n), np.float32)
    products(left, right, out)
    for t in range(trips):
        alone = np.matmul(left[t].T, right if shared else right[t])
        assert out[t].tobytes() == alone.tobytes()


def test_one_product_stacks() -> None:
    assert stacks(1, 16, 16, 16)
