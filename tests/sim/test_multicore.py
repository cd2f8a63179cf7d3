"""Two cores of one logical NeuronCore: hand-over, meetings, deadlocks, races on shared HBM."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tools.sim import KernelError, SimResult, load_source, simulate
from tools.sim.instruction import Inst, Operand

rng = np.random.default_rng(11)
HEAD = "import nki\nimport nki.language as nl\nimport nki.isa as nisa\n\n@nki.jit\n"


def run(body: str, *arrays: Any, grid: int = 2, **options: Any) -> SimResult:
    return simulate(load_source(HEAD + body), *arrays, grid=grid, **options)


def failure(body: str, *arrays: Any, grid: int = 2, **options: Any) -> Any:
    with pytest.raises(KernelError) as caught:
        run(body, *arrays, grid=grid, **options)
    return caught.value.diagnostic


HALVES = """
def kernel(x):
    n, f = x.shape
    half = n // nl.num_programs()
    me = nl.program_id(0)
    out = nl.ndarray(x.shape, dtype=x.dtype, buffer=nl.shared_hbm)
    t = nl.ndarray((half, f), dtype=x.dtype, buffer=nl.sbuf)
    nisa.dma_copy(t, x[nl.ds(me * half, half)])
    nisa.tensor_scalar(t, t, nl.multiply, 2.0 + me)
    nisa.dma_copy(out[nl.ds(me * half, half)], t)
    return out
"""


def test_each_core_does_its_half():
    x = rng.standard_normal((64, 8)).astype(np.float32)
    result = run(HALVES, x)
    assert np.array_equal(result.outputs[0], np.concatenate([2 * x[:32], 3 * x[32:]]))
    assert result.diagnostics == ()
    cores = result.trace.column(Inst.CORE)
    assert set(cores.tolist()) == {0, 1}
    assert result.trace.cores == 2
    assert len({b.core for b in result.trace.buffers if b.space == "sbuf"}) == 2
    assert result.latency_us > 0


def test_one_core_alone():
    x = rng.standard_normal((64, 8)).astype(np.float32)
    assert np.array_equal(run(HALVES, x, grid=1).outputs[0], 2 * x)


def test_launch_by_subscript_and_decorator():
    x = rng.standard_normal((64, 8)).astype(np.float32)
    kernel = load_source(HEAD + HALVES).jit
    assert np.array_equal(simulate(kernel[2], x).outputs[0], np.concatenate([2 * x[:32], 3 * x[32:]]))


SWAP = """
def kernel(x):
    me = nl.program_id()
    t = nl.ndarray((16, 4), dtype=x.dtype, buffer=nl.sbuf)
    r = nl.ndarray((16, 4), dtype=x.dtype, buffer=nl.sbuf)
    nisa.dma_copy(t, x[me])
    for i in range(3):
        nisa.tensor_scalar(t, t, nl.add, 1.0 + 10 * me)
        nisa.sendrecv(src=t, dst=r, send_to_rank=1 - me, recv_from_rank=1 - me, pipe_id=i)
        nisa.tensor_tensor(t, t, r, nl.add)
    out = nl.ndarray((2, 16, 4), dtype=x.dtype, buffer=nl.shared_hbm)
    nisa.dma_copy(out[me], t)
    return out
"""


def test_sendrecv_swaps_tiles_and_shows_the_dependence():
    x = rng.standard_normal((2, 16, 4)).astype(np.float32)
    result = run(SWAP, x)
    a, b = x.copy()
    for _ in range(3):
        a, b = a + np.float32(1), b + np.float32(11)
        a, b = a + b, b + a
    np.testing.assert_array_equal(result.outputs[0], np.stack([a, b]))
    trace = result.trace
    swaps = [i for i in range(len(trace)) if trace.opcode_name(i) == "sendrecv"]
    assert len(swaps) == 6
    for i in swaps:
        first = int(trace.instructions[i, Inst.FIRST_OPERAND])
        core = int(trace.instructions[i, Inst.CORE])
        written, read = (trace.buffers[int(trace.operands[first + k, Operand.BUFFER])] for k in (0, 1))
        assert (written.core, read.core) == (core, 1 - core)


def test_runs_repeat_exactly():
    x = rng.standard_normal((2, 16, 4)).astype(np.float32)
    first, second = (run(SWAP, x).trace for _ in range(2))
    assert np.array_equal(first.instructions, second.instructions)


EXCHANGE = """
def kernel(x):
    me = nl.program_id()
    shared = nl.ndarray((2, 8, 4), dtype=x.dtype, buffer=nl.shared_hbm)
    out = nl.ndarray((2, 8, 4), dtype=x.dtype, buffer=nl.shared_hbm)
    t = nl.ndarray((8, 4), dtype=x.dtype, buffer=nl.sbuf)
    nisa.dma_copy(t, x[me])
    nisa.dma_copy(shared[me], t)
    BARRIER
    nisa.dma_copy(t, shared[1 - me])
    nisa.dma_copy(out[me], t)
    return out
"""


def test_barrier_makes_the_other_half_visible():
    x = rng.standard_normal((2, 8, 4)).astype(np.float32)
    result = run(EXCHANGE.replace("BARRIER", "nisa.core_barrier(shared, (0, 1))"), x)
    assert np.array_equal(result.outputs[0], x[::-1])
    assert result.diagnostics == ()


def test_a_missing_barrier_is_a_race():
    x = rng.standard_normal((2, 8, 4)).astype(np.float32)
    result = run(EXCHANGE.replace("BARRIER", "pass"), x)
    races = [d for d in result.diagnostics if d.code == "KW-RACE-SHARED"]
    assert races
    assert races[0].where is not None
    assert "core 1" in races[0].message
    assert "core 0" in races[0].message


def test_overlapping_stores_are_a_race_and_interleaved_ones_are_not():
    body = """
def kernel(x):
    me = nl.program_id()
    out = nl.ndarray((8, 8), dtype=x.dtype, buffer=nl.shared_hbm)
    t = nl.ndarray((8, 4), dtype=x.dtype, buffer=nl.sbuf)
    nisa.dma_copy(t, x)
    nisa.dma_copy(out[:, COLUMNS], t)
    return out
"""
    x = np.ones((8, 4), np.float32)
    assert run(body.replace("COLUMNS", "me::2"), x).diagnostics == ()
    codes = [d.code for d in run(body.replace("COLUMNS", "me:me + 7:2"), x, data=False).diagnostics]
    assert codes == []
    with pytest.raises(KernelError, match="KW-OUTPUT-UNWRITTEN"):
        run(body.replace("COLUMNS", "0:4"), x)
    both = body.replace("out[:, COLUMNS]", "out").replace("(8, 8)", "(8, 4)")
    assert [d.code for d in run(both, x).diagnostics] == ["KW-RACE-SHARED"]


def test_deadlocks_are_named():
    only = """
def kernel(x):
    out = nl.ndarray((2,), dtype=nl.float32, buffer=nl.shared_hbm)
    if nl.program_id() == 0:
        nisa.core_barrier(out, (0, 1))
    return out
"""
    x = np.zeros(2, np.float32)
    found = failure(only, x)
    assert found.code == "KW-DEADLOCK"
    assert "core 0 waits in core_barrier" in found.message
    assert "core 1 has finished" in found.message
    assert found.where.line == 10
    crossed = SWAP.replace("pipe_id=i", "pipe_id=me")
    found = failure(crossed, np.zeros((2, 16, 4), np.float32))
    assert found.code == "KW-DEADLOCK"
    assert len(found.related) == 1


def test_an_error_of_one_core_stops_both():
    body = """
def kernel(x):
    out = nl.ndarray((2, 2), dtype=nl.float32, buffer=nl.shared_hbm)
    if nl.program_id() == 1:
        out[:, 5]
    nisa.core_barrier(out, (0, 1))
    return out
"""
    found = failure(body, np.zeros(2, np.float32))
    assert found.code == "KW-OUT-OF-BOUNDS"
    assert found.where.line == 10


@pytest.mark.parametrize(
    ("change", "code", "grid", "target"),
    [
        (("pipe_id=i", "pipe_id=i"), "KW-LNC", 1, "trn2"),
        (("recv_from_rank=1 - me", "recv_from_rank=me"), "KW-SENDRECV-PEER", 2, "trn2"),
        (("recv_from_rank=1 - me", "recv_from_rank=2"), "KW-RANK-RANGE", 2, "trn2"),
        (("dst=r,", "dst=r[:, 0:2],"), "KW-SHAPE-MISMATCH", 2, "trn2"),
        (("pipe_id=i", "pipe_id=i"), "KW-LNC-DEGREE", 2, "trn1"),
        (("pipe_id=i", "pipe_id=i"), "KW-LNC-DEGREE", 3, "trn2"),
    ],
)
def test_refusals(change, code, grid, target):
    x = np.zeros((2, 16, 4), np.float32)
    assert failure(SWAP.replace(*change), x, grid=grid, target=target).code == code


def test_gpsimd_dma_size_limit():
    body = SWAP.replace("pipe_id=i", "pipe_id=i, dma_engine=nisa.dma_engine.gpsimd_dma").replace("4)", "257)")
    found = failure(body, np.zeros((2, 16, 257), np.float32))
    assert (found.code, found.found, found.limit) == ("KW-SENDRECV-SIZE", 1028, 1024)


def test_shared_tensors_match_by_order():
    body = """
def kernel(x):
    out = nl.ndarray((4 + nl.program_id(),), dtype=nl.float32, buffer=nl.shared_hbm)
    return out
"""
    assert failure(body, np.zeros(2, np.float32)).code == "KW-SHARED-MISMATCH"


def test_cores_must_return_the_same_tensors():
    body = """
def kernel(x):
    a = nl.ndarray((2, 2), dtype=nl.float32, buffer=nl.shared_hbm)
    b = nl.ndarray((2, 2), dtype=nl.float32, buffer=nl.shared_hbm)
    return a if nl.program_id() == 0 else b
"""
    assert failure(body, np.zeros(2, np.float32)).code == "KW-LNC-OUTPUTS"


def test_cores_keep_pace_at_shared_writes():
    """Both cores clear the whole result and then store their part: a race, but one that pace decides the usual way."""
    body = """
def kernel(x):
    me = nl.program_id()
    out = nl.ndarray((16, 4), dtype=x.dtype, buffer=nl.shared_hbm)
    z = nl.ndarray((8, 4), dtype=x.dtype, buffer=nl.sbuf)
    nisa.memset(z, 0.0)
    for i in range(2):
        nisa.dma_copy(out[8 * i:8 * i + 8], z)
    t = nl.ndarray((8, 4), dtype=x.dtype, buffer=nl.sbuf)
    nisa.dma_copy(t, x[8 * me:8 * me + 8])
    nisa.dma_copy(out[8 * me:8 * me + 8], t)
    return out
"""
    x = rng.standard_normal((16, 4)).astype(np.float32)
    result = run(body, x)
    assert np.array_equal(result.outputs[0], x)
    assert "KW-RACE-SHARED" in [d.code for d in result.diagnostics]


def test_a_barrier_on_private_data_still_waits():
    body = EXCHANGE.replace("BARRIER", "nisa.core_barrier(t, (0, 1))")
    x = rng.standard_normal((2, 8, 4)).astype(np.float32)
    result = run(body, x)
    assert np.array_equal(result.outputs[0], x[::-1])
    assert [d.code for d in result.findings] == ["KW-BARRIER-DATA"]
