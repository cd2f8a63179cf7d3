"""Loops that are recorded for a few iterations give the trace of the full loop, whatever the body does."""

from __future__ import annotations

import numpy as np
import pytest

from tools.sim import load_source, simulate
from tools.sim.core import Core

HEAD = """
import numpy as np
import neuronxcc.nki as nki
import neuronxcc.nki.isa as nisa
import neuronxcc.nki.language as nl
from neuronxcc.nki.language import par_dim
"""


def both(source: str, *shapes: tuple[int, ...]) -> tuple[int, int]:
    """Instructions that the kernel's own code issued, with derived loops and without; their traces must be equal."""
    arrays = [np.broadcast_to(np.float32(0), shape) for shape in shapes]
    issued = []
    traces = []
    original = Core.issue
    for batched in (True, False):
        count = 0

        def counting(self: Core, *args: object, **kwargs: object) -> None:
            nonlocal count
            count += 1
            original(self, *args, **kwargs)  # type: ignore[arg-type]

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Core, "issue", counting)
            kernel = load_source(HEAD + source, "kernel")
            traces.append(simulate(kernel, *arrays, target="trn1", data=False, batched=batched).trace)
        issued.append(count)
    fast, slow = traces
    np.testing.assert_array_equal(fast.instructions, slow.instructions)
    np.testing.assert_array_equal(fast.operands, slow.operands)
    assert fast.buffers == slow.buffers
    assert fast.lines == slow.lines
    return issued[0], issued[1]


ROWS = """
@nki.jit
def kernel(x):
    out = nl.ndarray(x.shape, dtype=x.dtype, buffer=nl.shared_hbm)
    tiles = nl.ndarray(({count}, par_dim(128), 64), dtype=x.dtype, buffer=nl.sbuf)
    ip, jf = nl.arange(128)[:, None], nl.arange(64)[None, :]
    for i in nl.affine_range({count}):
        tiles[i, ip, jf] = nl.load(x[128 * i + ip, jf], mask=(128 * i + ip < {rows}))
    for i in nl.affine_range({count}):
        tile = nl.exp(tiles[i, ip, jf], mask=(128 * i + ip < {rows}))
        nl.store(out[128 * i + ip, jf], tile, mask=(128 * i + ip < {rows}))
    return out
"""


def test_only_a_few_iterations_run() -> None:
    few, all_of_them = both(ROWS.format(count=20, rows=2560), (2560, 64))
    assert all_of_them == 60
    assert few < 16


def test_a_partial_last_tile_is_recorded_by_itself() -> None:
    few, all_of_them = both(ROWS.format(count=20, rows=2500), (2500, 64))
    assert few < all_of_them / 3


def test_nested_loops_that_accumulate() -> None:
    few, all_of_them = both(
        """
@nki.jit
def kernel(a, b):
    out = nl.ndarray((1024, 512), dtype=a.dtype, buffer=nl.shared_hbm)
    for m in nl.affine_range(8):
        acc = nl.zeros((128, 512), nl.float32, buffer=nl.psum)
        for k in nl.affine_range(16):
            left = nl.load(a[k * 128:(k + 1) * 128, m * 128:(m + 1) * 128])
            right = nl.load(b[k * 128:(k + 1) * 128, :])
            acc += nisa.nc_matmul(left, right)
        done = nl.copy(acc, dtype=a.dtype)
        nl.store(out[m * 128:(m + 1) * 128, :], done)
    return out
""",
        (2048, 1024),
        (2048, 512),
    )
    assert few < all_of_them / 8


@pytest.mark.parametrize(
    "body",
    [
        "if i < 10: tile = nl.exp(tile)",
        "tile = nl.multiply(tile, scales[i])",
        "tile = nl.multiply(tile, min(i, 12))",
        "for j in nl.affine_range(i): tile = nl.exp(tile)",
        "tile = nl.exp(tile, mask=(i < 11))",
        "tile = nl.load(x[128 * (i // 2) + ip, jf])",
        "tile = nl.load(x[128 * (i % 3) + ip, jf])",
        "count[0] += 1; tile = nl.multiply(tile, float(count[0]))",
        "tile = nl.exp(tile) if i % 4 else tile",
        "tile = pick(tile, i)",
        "tile = nl.exp(tile, mask=(ip + 0 * jf + i * i < 200))",
    ],
)
def test_what_is_not_affine_is_iterated_in_full(body: str) -> None:
    source = f"""
def pick(tile, i):
    return nl.exp(tile) if i == 7 else tile

@nki.jit
def kernel(x):
    out = nl.ndarray(x.shape, dtype=x.dtype, buffer=nl.shared_hbm)
    ip, jf = nl.arange(128)[:, None], nl.arange(64)[None, :]
    scales, count = [1.0] * 16 + [2.0] * 4, [0]
    for i in nl.affine_range(20):
        tile = nl.load(x[128 * i + ip, jf])
        {body}
        nl.store(out[128 * i + ip, jf], tile)
    return out
"""
    both(source, (2560, 64))


def test_a_counter_of_the_kernel_keeps_a_loop_whole() -> None:
    few, all_of_them = both(
        """
@nki.jit
def kernel(x):
    out = nl.ndarray(x.shape, dtype=x.dtype, buffer=nl.shared_hbm)
    row = 0
    for i in nl.affine_range(20):
        tile = nl.load(x[row:row + 128, :])
        nl.store(out[row:row + 128, :], tile)
        row = row + 128
    return out
""",
        (2560, 64),
    )
    assert few == all_of_them


def test_a_sequential_loop_over_neighbours() -> None:
    both(
        """
@nki.jit
def kernel(x):
    out = nl.ndarray((128, 20), dtype=x.dtype, buffer=nl.shared_hbm)
    state = nl.zeros((20, par_dim(128), 1), dtype=x.dtype, buffer=nl.sbuf)
    for i in nl.sequential_range(19):
        tile = nl.load(x[128 * i:128 * (i + 1), :])
        state[i + 1] = nl.add(state[i], nl.sum(tile, axis=[1]))
        nl.store(out[:, i:i + 1], state[i + 1])
    return out
""",
        (2560, 64),
    )
