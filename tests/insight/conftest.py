"""Programs that several tests of the insight tools look at."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tools.sim import load_source, simulate
from tools.sim.execute import SimResult

BLOCKED = """
import nki
import nki.language as nl
import nki.isa as nisa

@nki.jit
def kernel(x, w):
    out = nl.ndarray((x.shape[1], w.shape[1]), dtype=nl.float32, buffer=nl.shared_hbm)
    for m in range(x.shape[1] // 128):
        for n in range(w.shape[1] // 512):
            acc = nl.ndarray((128, 512), dtype=nl.float32, buffer=nl.psum)
            for k in range(x.shape[0] // 128):
                a = nl.ndarray((128, 128), dtype=x.dtype, buffer=nl.sbuf)
                b = nl.ndarray((128, 512), dtype=w.dtype, buffer=nl.sbuf)
                nisa.dma_copy(dst=a, src=x[k*128:(k+1)*128, m*128:(m+1)*128])
                nisa.dma_copy(dst=b, src=w[k*128:(k+1)*128, n*512:(n+1)*512])
                nisa.nc_matmul(dst=acc, stationary=a, moving=b)
            r = nl.ndarray((128, 512), dtype=nl.float32, buffer=nl.sbuf)
            nisa.tensor_copy(r, acc)
            nisa.dma_copy(dst=out[m*128:(m+1)*128, n*512:(n+1)*512], src=r)
    return out
"""


def record(source: str, *arrays: Any, **kw: Any) -> SimResult:
    """Run `kernel` of `source` shapes-only."""
    return simulate(load_source(source), *arrays, data=False, **kw)


@pytest.fixture
def blocked() -> Callable[..., SimResult]:
    """A matmul that reloads its operands for every output tile."""

    def run(size: int = 1024, dtype: Any = np.float32, **kw: Any) -> SimResult:
        return record(BLOCKED, np.zeros((size, size), dtype), np.zeros((size, size), dtype), **kw)

    return run
