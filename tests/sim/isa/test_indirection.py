"""Tensor indirection (trn3): operands whose columns an index tile picks, against NumPy, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tools.program import record
from tools.sim import KernelError, SimResult, UnsupportedError, load_source, simulate

HEAD = """
import nki
import nki.isa as nisa
import nki.language as nl

@nki.jit
def kernel(x, y, index, count):
    t = nl.ndarray(x.shape, dtype=x.dtype, buffer=nl.sbuf)
    nisa.dma_copy(t, x)
    u = nl.ndarray(y.shape, dtype=y.dtype, buffer=nl.sbuf)
    nisa.dma_copy(u, y)
    i = nl.ndarray(index.shape, dtype=index.dtype, buffer=nl.sbuf)
    nisa.dma_copy(i, index)
"""
TAIL = """
    out = nl.ndarray({0}.shape, dtype={0}.dtype, buffer=nl.shared_hbm)
    nisa.dma_copy(out, {0})
    return out
"""


def spread(columns: NDArray[Any], partitions: int, group: int = 16) -> NDArray[np.int32]:
    """The index tile [P, K] of a list of columns, the same in each group of partitions."""
    width = -(-len(columns) // group)
    tile = np.zeros((group, width), np.int32)
    order = np.arange(len(columns))
    tile[order % group, order // group] = columns
    return np.tile(tile, (max(partitions // group, 1), 1))[:partitions]


def run(body: str, result: str, x: Any, y: Any, index: Any, count: int | None, **options: Any) -> SimResult:
    text = HEAD + "".join(f"    {line}\n" for line in body.split("\n")) + TAIL.format(result)
    return simulate(load_source(text), x, y, index, count, **{"target": "trn3", **options})


def draw(rng: np.random.Generator, rows: int, width: int) -> NDArray[np.float32]:
    return rng.standard_normal((rows, width)).astype(np.float32)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 60), st.integers(0, 99), st.sampled_from([16, 32, 48, 64, 128]))
def test_gather_and_scatter_of_a_copy(count, seed, partitions):
    rng = np.random.default_rng(seed)
    columns = rng.permutation(64)[:count]
    x, y = draw(rng, partitions, 64), draw(rng, partitions, count)
    index = spread(columns, partitions)
    gathered = run("nisa.tensor_copy(u, t.indirect(i, count))", "u", x, y, index, count)
    assert np.array_equal(gathered.outputs[0], x[:, columns])
    assert gathered.diagnostics == ()
    scattered = run("nisa.tensor_copy(t.indirect(i, count), u)", "t", x, y, index, count)
    expected = x.copy()
    expected[:, columns] = y
    assert np.array_equal(scattered.outputs[0], expected)


COLUMNS = np.array([5, 3, 60, 3, 0, 17, 33, 8, 9, 10, 11, 12, 63, 1, 2, 4, 20, 21, 22, 40])
N = len(COLUMNS)


@pytest.mark.parametrize(
    ("body", "want"),
    [
        ("nisa.tensor_tensor(u, t.indirect(i, count), u, nl.add)", lambda x, y: x[:, COLUMNS] + y),
        ("nisa.tensor_scalar(u, t.indirect(i, count), nl.multiply, 3.0)", lambda x, y: x[:, COLUMNS] * 3),
        ("nisa.activation(u, nl.square, t.indirect(i, count))", lambda x, y: x[:, COLUMNS] ** 2),
        ("nisa.exponential(u, t.indirect(i, count))", lambda x, y: np.exp(x[:, COLUMNS])),
        ("nisa.tensor_reduce(u[:, 0:1], nl.add, t.indirect(i, count), axis=1)",
         lambda x, y: np.concatenate([x[:, COLUMNS].sum(1, keepdims=True), y[:, 1:]], 1)),
        ("nisa.tensor_scalar_cumulative(u, t.indirect(i, count), nl.add, nl.add, 0.0)",
         lambda x, y: np.cumsum(x[:, COLUMNS], 1)),
    ],
)  # fmt: skip
def test_instructions_that_take_a_gather(body, want):
    rng = np.random.default_rng(3)
    x, y = draw(rng, 128, 64), draw(rng, 128, N)
    got = run(body, "u", x, y, spread(COLUMNS, 128), N).outputs[0]
    np.testing.assert_allclose(got, want(x, y), rtol=2e-5, atol=2e-5)


def test_the_tensor_engine_reads_groups_of_32():
    rng = np.random.default_rng(4)
    x, y = (draw(rng, 128, width).astype(np.float16) for width in (64, 64))
    columns = rng.integers(0, 64, 48)
    body = (
        "p = nl.ndarray((48, 64), dtype=nl.float32, buffer=nl.psum)\n"
        "nisa.nc_matmul(p, t.indirect(i, count), u)\nr = nl.ndarray((48, 64), dtype=nl.float32, buffer=nl.sbuf)\n"
        "nisa.tensor_copy(r, p)"
    )
    got = run(body, "r", x, y, spread(columns, 128, 32), 48).outputs[0]
    want = x[:, columns].astype(np.float32).T @ y.astype(np.float32)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-4)


def test_matmul_scatters_into_psum():
    rng = np.random.default_rng(5)
    x, y = draw(rng, 32, 32), draw(rng, 32, 40)
    columns = rng.permutation(64)[:40]
    body = (
        "p = nl.ndarray((32, 64), dtype=nl.float32, buffer=nl.psum)\nnisa.memset(p, 0.0)\n"
        "nisa.nc_matmul(p.indirect(i, count), t, u, accumulate={})\n"
        "r = nl.ndarray((32, 64), dtype=nl.float32, buffer=nl.sbuf)\nnisa.tensor_copy(r, p)"
    )
    index = spread(columns, 32, 32)
    got = run(body.format(False), "r", x, y, index, 40).outputs[0]
    want = np.zeros((32, 64), np.float32)
    want[:, columns] = x.T @ y
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-4)
    with pytest.raises(UnsupportedError, match="accumulate"):
        run(body.format(None), "r", x, y, index, 40)


def test_reads_only_what_it_picks():
    body = (
        "w = nl.ndarray((128, 64), dtype=nl.float32, buffer=nl.sbuf)\nnisa.memset(w[:, 0:{}], 1.0)\n"
        "nisa.tensor_copy(u, w.indirect(i, count))"
    )
    x, y = np.ones((128, 64), np.float32), np.ones((128, 4), np.float32)
    index = spread(np.arange(4), 128)
    assert run(body.format(4), "u", x, y, index, 4).findings == ()
    assert [d.code for d in run(body.format(3), "u", x, y, index, 4).findings] == ["KW-UNINITIALISED"]


def test_only_the_first_group_of_the_index_counts_and_a_warning_names_others():
    x, y = draw(np.random.default_rng(6), 128, 64), np.ones((128, 4), np.float32)
    index = spread(np.arange(4), 128)
    index[16:32] += 1
    result = run("nisa.tensor_copy(u, t.indirect(i, count))", "u", x, y, index, 4)
    assert np.array_equal(result.outputs[0], x[:, :4])
    assert [d.code for d in result.diagnostics] == ["KW-INDIRECT-GROUPS"]


VIEW = "t.indirect(i, count)"
REFUSED = [
    (f"nisa.tensor_tensor(u, u, {VIEW}, nl.add)", "KW-INDIRECT-OPERAND", "data2"),
    (f"nisa.reciprocal(u, {VIEW})", "KW-INDIRECT-OPERAND", "data"),
    (f"nisa.dma_copy(u, {VIEW})", "KW-INDIRECT-OPERAND", "src"),
    (f"nisa.tensor_copy(u, {VIEW}, engine=nisa.gpsimd_engine)", "KW-ENGINE", "engine"),
    (f"nisa.tensor_copy(u, {VIEW}[:, 0:2])", "KW-INDIRECT-SLICE", ""),
    ("nisa.tensor_copy(u, t.indirect(i))", "KW-GATHER-COUNT", "num_elem"),
    ("nisa.tensor_copy(u, t[:, 0:2].indirect(i, count))", "KW-INDEX-BOUNDS", "index"),
    ("nisa.tensor_copy(u, t.indirect(u, count))", "KW-OPERAND-TYPE", "index"),
    ("nisa.tensor_copy(u, t[0:64].indirect(i, count))", "KW-SHAPE-MISMATCH", "index"),
    ("p = nl.ndarray((4, 4), dtype=nl.float32, buffer=nl.psum)\n"
     f"nisa.nc_matmul(p, {VIEW}, u)", "KW-MATMUL-DTYPE", "stationary"),
    ("p = nl.ndarray((128, 64), dtype=nl.float32, buffer=nl.psum)\nnisa.activation(p.indirect(i, count), nl.exp, u)",
     "KW-PLACEMENT", "dst"),
]  # fmt: skip


@pytest.mark.parametrize(("body", "code", "operand"), REFUSED)
def test_refusals(body, code, operand):
    x, y = np.ones((128, 64), np.float32), np.ones((128, 4), np.float32)
    with pytest.raises(KernelError) as caught:
        run(body, "u", x, y, spread(np.array([1, 2, 3, 0]), 128), 4)
    found = caught.value.diagnostic
    assert (found.code, found.operand) == (code, operand)
    assert found.where.line > 0
    assert found.fix


def test_before_trn3_the_hardware_lacks_it():
    x, y = np.ones((128, 64), np.float32), np.ones((128, 4), np.float32)
    with pytest.raises(KernelError, match="KW-GENERATION"):
        run(f"nisa.tensor_copy(u, {VIEW})", "u", x, y, spread(np.arange(4), 128), 4, target="trn2")


def test_placed_tiles_start_where_their_index_does():
    body = (
        "w = nl.ndarray((32, 64), dtype=nl.float32, buffer=nl.sbuf, address=({0}, 4096))\nnisa.tensor_copy(w, t)\n"
        "j = nl.ndarray((32, 1), dtype=nl.int32, buffer=nl.sbuf, address=(32, 8192))\nnisa.tensor_copy(j, i)\n"
        "nisa.tensor_copy(u, w.indirect(j, count))"
    )
    x, y = np.ones((32, 64), np.float32), np.ones((32, 4), np.float32)
    index = spread(np.arange(4), 32)
    run(body.format(32), "u", x, y, index, 4)
    with pytest.raises(KernelError, match="KW-START-PARTITION"):
        run(body.format(64), "u", x, y, index, 4)


def test_the_index_is_an_operand_that_the_instruction_waits_for():
    x, y = np.ones((128, 64), np.float32), np.ones((128, 4), np.float32)
    result = run(f"nisa.tensor_copy(u, {VIEW})", "u", x, y, spread(np.arange(4), 128), 4, data=False)
    trace = result.trace
    copy = next(i for i in range(len(trace)) if trace.opcode_name(i) == "tensor_copy")
    assert trace.instructions[copy, 10] == 3
    assert result.latency_us > 0


def test_kernels_with_such_views_are_run_directly_by_the_judge():
    text = HEAD.replace(", count", "") + "    nisa.tensor_copy(u, t.indirect(i, 4))\n" + TAIL.format("u")
    x, y = np.ones((128, 64), np.float32), np.ones((128, 4), np.float32)
    program, _, _ = record(load_source(text), [x, y, spread(np.arange(4), 128)], "trn3")
    assert "IndirectTensor" in program.opaque
