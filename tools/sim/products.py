"""Many matrix products at a time, with the bits that each has alone.

BLAS sums the terms of an element in an order that may depend on where its row lies in the matrix (OpenBLAS's Haswell kernel
treats rows by twelves), so one larger product isn't always the same as several small ones. Whether it is depends on shapes
and on the library alone, so it is tried once for each shape; where it isn't, NumPy calls BLAS for one product after another.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
_MOST_TRIED = 1 << 29
"""Multiplications up to which a larger product is tried out: a few milliseconds."""


def products(stationary: Floats, moving: Floats, out: Floats) -> None:
    """out[t] = stationary[t]^T @ moving[t] (or @ moving), each with the bits of a product of its own.

    Args:
        stationary: [T, K, M].
        moving: [K, N], or [T, K, N].
        out: [T, M, N].
    """
    trips, k, m = stationary.shape
    with np.errstate(all="ignore"):
        if moving.ndim == 2 and out.flags.c_contiguous and stacks(trips, k, m, moving.shape[1]):
            every = stationary.transpose(1, 0, 2).reshape(k, trips * m)
            np.matmul(every.T, moving, out=out.reshape(trips * m, -1))
        else:
            np.matmul(stationary.transpose(0, 2, 1), moving, out=out)


@lru_cache(maxsize=256)
def stacks(trips: int, k: int, m: int, n: int) -> bool:
    """Whether `trips` products [M, K] @ [K, N] over one right side may be one: same bits on this machine's BLAS."""
    if trips * k * m * n > _MOST_TRIED:
        return False
    rng = np.random.default_rng(0)
    left: Any = rng.standard_normal((k, trips * m), dtype=np.float32)
    right = rng.standard_normal((k, n), dtype=np.float32)
    whole = np.matmul(left.T, right)
    for t in range(trips):
        part = np.ascontiguousarray(left[:, t * m : (t + 1) * m])
        if not np.array_equal(np.matmul(part.T, right), whole[t * m : (t + 1) * m]):
            return False
    return True
