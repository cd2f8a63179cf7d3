"""What must hold for any kernel: more work never takes less time, more buffers never take more."""

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from tests.sim.programs import Engine, Flag, Program
from tools.sim import load_source, simulate
from tools.sim.instruction import Trace
from tools.sim.machine import machine
from tools.sim.timing import IN_ORDER, TimingOptions, schedule

SOFTMAX = """
import nki
import nki.isa as nisa
import nki.language as nl

@nki.jit
def kernel(x):
    out = nl.ndarray(x.shape, dtype=x.dtype, buffer=nl.shared_hbm)
    for row in range(0, x.shape[0], 128):
        tile = nl.ndarray((128, x.shape[1]), dtype=x.dtype, buffer=nl.sbuf)
        powers = nl.ndarray((128, x.shape[1]), dtype=nl.float32, buffer=nl.sbuf)
        low = nl.ndarray((128, 1), dtype=nl.float32, buffer=nl.sbuf)
        total = nl.ndarray((128, 1), dtype=nl.float32, buffer=nl.sbuf)
        nisa.dma_copy(dst=tile, src=x[row : row + 128, :])
        nisa.tensor_reduce(dst=low, op=nl.maximum, data=tile, axis=1, negate=True)
        nisa.activation_reduce(dst=powers, op=nl.exp, data=tile, bias=low, reduce_op=nl.add, reduce_res=total)
        nisa.reciprocal(dst=total, data=total)
        nisa.tensor_scalar(dst=tile, data=powers, op0=nl.multiply, operand0=total)
        nisa.dma_copy(dst=out[row : row + 128, :], src=tile)
    return out
"""

MATMUL = """
import nki
import nki.isa as nisa
import nki.language as nl

@nki.jit
def kernel(a, b):
    depth, columns = b.shape
    out = nl.ndarray((128, columns), dtype=a.dtype, buffer=nl.shared_hbm)
    for n in range(0, columns, 512):
        acc = nl.ndarray((128, 512), dtype=nl.float32, buffer=nl.psum)
        for k in range(0, depth, 128):
            left = nl.ndarray((128, 128), dtype=a.dtype, buffer=nl.sbuf)
            right = nl.ndarray((128, 512), dtype=b.dtype, buffer=nl.sbuf)
            nisa.dma_copy(dst=left, src=a[k : k + 128, :])
            nisa.dma_copy(dst=right, src=b[k : k + 128, n : n + 512])
            nisa.nc_matmul(dst=acc, stationary=left, moving=right)
        done = nl.ndarray((128, 512), dtype=a.dtype, buffer=nl.sbuf)
        nisa.tensor_copy(dst=done, src=acc)
        nisa.dma_copy(dst=out[:, n : n + 512], src=done)
    return out
"""


def empty(dtype: Any, *shape: int) -> Any:
    return np.broadcast_to(np.zeros((), dtype), shape)


def latencies(source: str, inputs: list[list[Any]], target: str) -> list[float]:
    kernel = load_source(source)
    return [simulate(kernel, *each, target=target, data=False).latency_us for each in inputs]


@pytest.mark.parametrize("target", ["trn1", "trn2", "trn3"])
@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
def test_a_larger_problem_is_never_faster(target: str, dtype: Any) -> None:
    rows = [[empty(dtype, m, 512)] for m in (128, 256, 512, 1024, 2048)]
    columns = [[empty(dtype, 256, n)] for n in (32, 64, 128, 300, 512, 1000, 2048)]
    depths = [[empty(dtype, k, 128), empty(dtype, k, 1024)] for k in (128, 256, 512, 1024)]
    for source, inputs in ((SOFTMAX, rows), (SOFTMAX, columns), (MATMUL, depths)):
        found = latencies(source, inputs, target)
        assert found == sorted(found)


@pytest.mark.parametrize("target", ["trn1", "trn2"])
@pytest.mark.parametrize("width", [64, 512, 2048])
def test_more_buffers_are_never_slower(target: str, width: int) -> None:
    def pipeline(buffers: int) -> Trace:
        program = Program(target)
        x, y = program.tile(64 * width, "float32", "hbm"), program.tile(64 * width, "float32", "shared_hbm")
        tiles = [(program.tile(width), program.tile(width)) for _ in range(buffers)]
        for k in range(64):
            source, result = tiles[k % buffers]
            part = (k * width, (k + 1) * width)
            program.load(source, (x, *part), Engine.SYNC)
            program.copy(result, source, n=width, flags=Flag.PSUM_SRC)
            program.load((y, *part), result, Engine.SCALAR)
        return program.finish()

    options = TimingOptions(compiler_model=IN_ORDER)
    found = [schedule(pipeline(count), machine(target), options).latency_us for count in (1, 2, 3, 4, 8)]
    assert found == sorted(found, reverse=True)
    assert found[0] > 1.3 * found[-1]
