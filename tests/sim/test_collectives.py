"""Collectives between simulated ranks, against NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tools.sim import KernelError, UnsupportedError, load_source, simulate, simulate_group

HEAD = (
    "import nki\nimport nki.language as nl\nimport nki.isa as nisa\nimport nki.collectives as ncc\n\n"
    "GROUP = ncc.ReplicaGroup([[0, 1, 2, 3]])\nPAIRS = ncc.ReplicaGroup([[0, 2], [1, 3]])\n\n@nki.jit\n"
)
rng = np.random.default_rng(5)
X = rng.standard_normal((4, 8, 6)).astype(np.float32)


def kernel(call: str, shape: str = "x.shape") -> Any:
    return load_source(
        HEAD
        + f"""
def kernel(x):
    src = nl.ndarray(x.shape, dtype=x.dtype, buffer=nl.shared_hbm, name="src")
    dst = nl.ndarray({shape}, dtype=x.dtype, buffer=nl.shared_hbm, name="dst")
    out = nl.ndarray({shape}, dtype=x.dtype, buffer=nl.shared_hbm)
    nisa.dma_copy(src, x)
    ncc.{call}
    nisa.dma_copy(out, dst)
    return out
"""
    )


def run(call: str, shape: str = "x.shape", x: np.ndarray = X, **options: Any) -> list[np.ndarray]:
    results = simulate_group(kernel(call, shape), [[r] for r in x], **options)
    if options.get("grid") is None:  # two cores that both copy everything race, as they should
        assert all(r.findings == () for r in results)
    return [r.outputs[0] for r in results]


@pytest.mark.parametrize("grid", [None, 2])
@pytest.mark.parametrize(("op", "fold"), [("add", np.sum), ("maximum", np.max), ("minimum", np.min)])
def test_all_reduce(op, fold, grid):
    got = run(f"all_reduce([src], [dst], GROUP, nl.{op})", grid=grid)
    for out in got:
        np.testing.assert_allclose(out, fold(X, axis=0), rtol=1e-6)


def test_groups_work_apart():
    got = run("all_reduce(srcs=[src], dsts=[dst], replica_group=PAIRS, op=nl.add)")
    for rank, out in enumerate(got):
        np.testing.assert_allclose(out, X[rank % 2] + X[rank % 2 + 2], rtol=1e-6)


def test_all_gather_reduce_scatter_and_all_to_all():
    for out in run("all_gather([src], [dst], GROUP, 0)", "(32, 6)"):
        assert np.array_equal(out, X.reshape(32, 6))
    for rank, out in enumerate(run("reduce_scatter([src], [dst], GROUP, 0, nl.add)", "(2, 6)")):
        np.testing.assert_allclose(out, X.sum(axis=0)[2 * rank : 2 * rank + 2], rtol=1e-5, atol=1e-6)
    for rank, out in enumerate(run("all_to_all([src], [dst], GROUP, 0)")):
        assert np.array_equal(out, X[:, 2 * rank : 2 * rank + 2].reshape(8, 6))


def test_permutes():
    got = run("collective_permute([src], [dst], [(0, 1), (1, 0), (2, 3), (3, 2)])")
    assert np.array_equal(np.stack(got), X[[1, 0, 3, 2]])
    got = run("collective_permute_implicit([[src]], [[dst]], GROUP)")
    assert np.array_equal(np.stack(got), X[[3, 0, 1, 2]])
    got = run("collective_permute_implicit_reduce([[src]], [[src]], [[dst]], GROUP, nl.add)")
    assert np.array_equal(np.stack(got), 2 * X[[3, 0, 1, 2]])


def test_sbuf_tiles_of_both_cores_reduce_apart():
    body = """
def kernel(x):
    me = nl.program_id()
    t = nl.ndarray((4, 6), dtype=x.dtype, buffer=nl.sbuf)
    r = nl.ndarray((4, 6), dtype=x.dtype, buffer=nl.sbuf)
    nisa.dma_copy(t, x[nl.ds(4 * me, 4)])
    ncc.all_reduce([t], [r], GROUP, nl.add)
    out = nl.ndarray((8, 6), dtype=x.dtype, buffer=nl.shared_hbm)
    nisa.dma_copy(out[nl.ds(4 * me, 4)], r)
    return out
"""
    for result in simulate_group(load_source(HEAD + body), [[r] for r in X], grid=2):
        np.testing.assert_allclose(result.outputs[0], X.sum(axis=0), rtol=1e-5, atol=1e-6)
        assert result.trace.cores == 2
        assert result.latency_us > 0


def test_ring_names_the_rank_being_processed():
    body = """
def kernel(x):
    out = nl.ndarray((8, 8, 6), dtype=x.dtype, buffer=nl.shared_hbm)
    buffers = [nl.ndarray(x.shape, dtype=x.dtype, buffer=nl.shared_hbm) for _ in range(4)]
    nisa.dma_copy(buffers[0], x)
    zero = nl.ndarray((8, 48), dtype=x.dtype, buffer=nl.sbuf)
    nisa.memset(zero, 0.0)
    nisa.dma_copy(out.reshape((8, 48)), zero)
    for i in range(4):
        r = ncc.collective_permute_implicit_current_processing_rank_id(i, GROUP)
        nisa.dma_copy(out.ap([[6, 8], [1, 6]], scalar_offset=r * 8, indirect_dim=1), buffers[i])
        if i < 3:
            ncc.collective_permute_implicit([[buffers[i]]], [[buffers[i + 1]]], GROUP)
    return out
"""
    for result in simulate_group(load_source(HEAD + body), [{"x": r} for r in X]):
        assert np.array_equal(result.outputs[0][:4], X)


def test_rank_id():
    body = """
def kernel(x):
    t = nl.ndarray((1, 1), dtype=nl.int32, buffer=nl.sbuf)
    nisa.register_store(t, ncc.rank_id())
    out = nl.ndarray((1, 1), dtype=nl.int32, buffer=nl.shared_hbm)
    nisa.dma_copy(out, t)
    return out
"""
    results = simulate_group(load_source(HEAD + body), [[r] for r in X])
    assert [int(r.outputs[0][0, 0]) for r in results] == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("call", "code"),
    [
        ("all_reduce([src], [dst], GROUP, nl.multiply)", "KW-OP-REDUCE"),
        ("all_gather([src], [dst], GROUP, 1)", "KW-COLLECTIVE-DIM"),
        ("all_gather([src], [dst], GROUP, 0)", "KW-SHAPE-MISMATCH"),
        ("all_reduce([src], [dst, dst], GROUP, nl.add)", "KW-COLLECTIVE-OPERANDS"),
        ("all_reduce([src], [dst], ncc.ReplicaGroup([[0, 1]]), nl.add)", "KW-REPLICA-GROUP"),
        ("collective_permute([src], [dst], [(0, 1), (2, 1)])", "KW-REPLICA-GROUP"),
        ("collective_permute_implicit([[src]], [[dst]], GROUP, [1])", "KW-COLLECTIVE-OPERANDS"),
        ("all_reduce([src], [dst], 4, nl.add)", "KW-OPERAND-TYPE"),
    ],
)
def test_refusals(call, code):
    with pytest.raises(KernelError) as caught:
        run(call)
    assert caught.value.diagnostic.code == code


def test_ranks_that_do_not_run_are_our_gap():
    with pytest.raises(UnsupportedError, match="simulate_group"):
        simulate(kernel("all_reduce([src], [dst], GROUP, nl.add)"), X[0])
    alone = kernel("all_reduce([src], [dst], ncc.ReplicaGroup([[0]]), nl.add)")
    assert np.array_equal(simulate(alone, X[0]).outputs[0], X[0])


def test_ranks_that_never_meet_deadlock():
    body = """
def kernel(x, call):
    dst = nl.ndarray(x.shape, dtype=x.dtype, buffer=nl.shared_hbm)
    if call:
        ncc.all_reduce([x], [dst], GROUP, nl.add)
    return x
"""
    with pytest.raises(KernelError, match="KW-DEADLOCK"):
        simulate_group(load_source(HEAD + body), [(r, i != 2) for i, r in enumerate(X)])


# -- exchanges of variable length ---------------------------------------------------------------------------------------

COUNTS = np.array([[3, 0, 5, 1], [2, 4, 0, 6], [1, 1, 1, 1], [0, 6, 2, 3]], np.uint32)
"""Row r: elements that rank r sends to each rank."""


def ragged(call: str, dst: int, rows: int = 3, space: str = "hbm") -> Any:
    """A kernel of x [elements] and metadata [rows, 4] that returns dst (filled with -1 before) and the received counts."""
    where = "nl.ndarray((1, {rows}, 4), dtype=nl.uint32, buffer=nl.sbuf)" if space == "sbuf" else "meta_in"
    return load_source(
        HEAD
        + f"""
def kernel(x, meta_in):
    dst = nl.ndarray(({dst},), dtype=x.dtype, buffer=nl.shared_hbm, name="dst")
    counts = nl.ndarray((1, 4), dtype=nl.uint32, buffer=nl.shared_hbm, name="counts")
    meta = {where.format(rows=rows)}
    first = nl.program_id() == 0
    blank = nl.ndarray((1, {dst}), dtype=x.dtype, buffer=nl.sbuf)
    nisa.memset(blank, -1.0)
    if first:
        nisa.dma_copy(dst.reshape((1, {dst})), blank)
    if meta is not meta_in:
        nisa.dma_copy(meta, meta_in.reshape((1, {rows}, 4)))
    ncc.{call}
    if first:
        nisa.dma_copy(counts, meta[0, 2:3] if meta is not meta_in else meta[2:3])
    return dst, counts
"""
    )


def metadata(rank: int, *more: Any) -> np.ndarray:
    starts = np.concatenate([[0], np.cumsum(COUNTS[rank])[:-1]])
    return np.array([COUNTS[rank], starts, [99] * 4, *more], np.uint32)


SENT = rng.standard_normal((4, 16)).astype(np.float32)


@pytest.mark.parametrize("space", ["hbm", "sbuf"])
@pytest.mark.parametrize("grid", [None, 2])
def test_all_to_all_v_into_equal_slots(space, grid):
    made = ragged("all_to_all_v([x], [dst], GROUP, meta)", 24, space=space)
    results = simulate_group(made, [[SENT[r], metadata(r)] for r in range(4)], grid=grid)
    for rank, result in enumerate(results):
        expected = np.full((4, 6), -1, np.float32)
        for sender in range(4):
            start, count = COUNTS[sender, :rank].sum(), COUNTS[sender, rank]
            expected[sender, :count] = SENT[sender, start : start + count]
        assert np.array_equal(result.outputs[0], expected.reshape(-1))
        assert np.array_equal(result.outputs[1][0], COUNTS[:, rank])


def test_all_to_all_v_puts_chunks_where_row_3_says():
    made = ragged("all_to_all_v([x], [dst], GROUP, meta, recv_counts_known=True, has_rdispls=True)", 16, 4)
    places = [np.concatenate([[0], np.cumsum(COUNTS[:, r])[:-1]]) for r in range(4)]
    given = [[SENT[r], metadata(r, places[r])] for r in range(4)]
    for rank, result in enumerate(simulate_group(made, given, grid=2, target="trn3")):
        pieces = [SENT[s, COUNTS[s, :rank].sum() :][: COUNTS[s, rank]] for s in range(4)]
        arrived = np.concatenate(pieces)
        assert np.array_equal(result.outputs[0][: arrived.size], arrived)
        assert (result.outputs[0][arrived.size :] == -1).all()
        assert (result.outputs[1] == 99).all(), "row 2 is left alone"


def test_all_gather_v_reads_the_first_column_only():
    made = ragged("all_gather_v([x], [dst], GROUP, meta)", 20)
    sizes = [3, 0, 5, 2]
    given = [[SENT[r], np.array([[sizes[r], 77, 77, 77], [r, 77, 77, 77], [99] * 4], np.uint32)] for r in range(4)]
    expected = np.full((4, 5), -1, np.float32)
    for r, n in enumerate(sizes):
        expected[r, :n] = SENT[r, r : r + n]
    for result in simulate_group(made, given, grid=2):
        assert np.array_equal(result.outputs[0], expected.reshape(-1))
        assert np.array_equal(result.outputs[1][0], sizes)


def test_only_the_input_rows_of_the_metadata_are_read():
    body = """
def kernel(x):
    dst = nl.ndarray((16,), dtype=x.dtype, buffer=nl.shared_hbm)
    meta = nl.ndarray((3, 4), dtype=nl.uint32, buffer=nl.shared_hbm)
    two = nl.ndarray((2, 4), dtype=nl.uint32, buffer=nl.sbuf)
    nisa.memset(two, 4)
    nisa.dma_copy(meta[0:2], two)
    ncc.all_to_all_v([x], [dst], GROUP, meta)
    return dst
"""
    for result in simulate_group(load_source(HEAD + body), [[r] for r in SENT]):
        assert result.findings == ()
        assert np.array_equal(result.outputs[0], SENT[:, 4:8].reshape(-1))


@pytest.mark.parametrize(
    ("call", "dst", "target", "grid", "code"),
    [
        ("all_gather_v([x], [dst], GROUP, meta, has_rdispls=True)", 24, "trn2", 2, "KW-COLLECTIVE-OPERANDS"),
        ("all_gather_v([x], [dst], GROUP, meta)", 24, "trn2", None, "KW-COLLECTIVE-OPERANDS"),
        ("all_gather_v([x], [dst], PAIRS, meta)", 24, "trn2", 2, "KW-COLLECTIVE-OPERANDS"),
        ("all_to_all_v([x], [dst], GROUP, meta, has_rdispls=True)", 24, "trn2", 2, "KW-COLLECTIVE-OPERANDS"),
        ("all_to_all_v([x], [dst], GROUP, meta)", 24, "trn3", None, "KW-COLLECTIVE-OPERANDS"),
        ("all_to_all_v([x, x], [dst], GROUP, meta)", 24, "trn2", None, "KW-COLLECTIVE-OPERANDS"),
        ("all_to_all_v([x], [dst], PAIRS, meta)", 24, "trn2", None, "KW-SHAPE-MISMATCH"),
        ("all_to_all_v([x], [dst], GROUP, x)", 24, "trn2", None, "KW-DTYPE"),
        ("all_to_all_v([x], [dst], GROUP, meta)", 16, "trn2", None, "KW-INDEX-BOUNDS"),
        ("all_to_all_v([x[0:8]], [dst], GROUP, meta)", 24, "trn2", None, "KW-INDEX-BOUNDS"),
        ("all_to_all_v([blank], [dst], GROUP, meta)", 24, "trn2", None, "KW-PLACEMENT"),
    ],
)
def test_ragged_refusals(call, dst, target, grid, code):
    with pytest.raises(KernelError) as caught:
        simulate_group(ragged(call, dst), [[SENT[r], metadata(r)] for r in range(4)], grid=grid, target=target)
    assert caught.value.diagnostic.code == code


def test_ragged_exchanges_take_the_same_time_without_data():
    made = ragged("all_to_all_v([x], [dst], GROUP, meta)", 24)
    given = [[SENT[r], metadata(r)] for r in range(4)]
    with_data, without = (simulate_group(made, given, data=d) for d in (True, False))
    assert [r.latency_us for r in with_data] == [r.latency_us for r in without]
