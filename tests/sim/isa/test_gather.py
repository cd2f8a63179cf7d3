import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.sim.isa.harness import execute, one, outputs, refused

rng = np.random.default_rng(2)
F = "float32"


def test_stream_shuffle_permutes_each_quadrant():
    x = rng.standard_normal((64, 5)).astype(np.float32)
    mask = [int(i) for i in rng.permutation(32)]
    got = one(f"nisa.nc_stream_shuffle(dst, x, {mask})", {"x": x}, (64, 5))
    assert np.array_equal(got, x[np.array(mask + [32 + m for m in mask])])


def test_stream_shuffle_255_leaves_a_partition_alone():
    x, d = np.ones((32, 3), np.float32), np.full((32, 3), 7, np.float32)
    mask = [0] * 4 + [255] * 28
    got = outputs(f"nisa.nc_stream_shuffle(d, x, {mask})", {"x": x, "d": d}, {"d": ((32, 3), F)})[0]
    assert (got[:4] == 1).all()
    assert (got[4:] == 7).all()


def test_stream_shuffle_refuses_bad_masks_and_types():
    x = np.ones((32, 3), np.float32)
    refused("nisa.nc_stream_shuffle(dst, x, [0] * 31)", {"x": x}, {"dst": ((32, 3), F)}, "KW-SHUFFLE-MASK")
    refused("nisa.nc_stream_shuffle(dst, x, [0] * 32)", {"x": x}, {"dst": ((32, 3), "int32")}, "KW-DTYPE")


@settings(max_examples=20, derandomize=True, deadline=None)
@given(st.sampled_from([1, 2, 4]), st.integers(1, 3), st.integers(0, 2**31))
def test_local_gather_against_numpy(run, columns, seed):
    g = np.random.default_rng(seed)
    x = g.standard_normal((32, 64)).astype(np.float32)
    index = (g.integers(0, 64 // run, (32, columns)) * run).astype(np.uint16)
    count = 16 * columns - 3
    got = one(f"nisa.local_gather(dst, x, i, {run}, {count})", {"x": x, "i": index}, (32, count * run))
    for group in range(2):
        rows = slice(16 * group, 16 * group + 16)
        starts = index[rows].T.reshape(-1)[:count].astype(int)
        want = np.concatenate([x[rows, s : s + run] for s in starts], axis=1)
        assert np.array_equal(got[rows], want)


def test_local_gather_limits():
    x, i = np.zeros((24, 8), np.float32), np.zeros((24, 1), np.uint16)
    refused("nisa.local_gather(dst, x, i)", {"x": x, "i": i}, {"dst": ((24, 16), F)}, "KW-PARTITION-MULTIPLE")
    x, i = x[:16], i[:16]
    refused("nisa.local_gather(dst, x, i, 3)", {"x": x, "i": i}, {"dst": ((16, 48), F)}, "KW-GATHER-RUN")
    i = np.full((16, 1), 8, np.uint16)
    refused("nisa.local_gather(dst, x, i)", {"x": x, "i": i}, {"dst": ((16, 16), F)}, "KW-INDEX-BOUNDS")


def test_n_gather_and_gather_flattened():
    x = rng.standard_normal((8, 4, 10)).astype(np.float32)
    i = rng.integers(0, 40, (8, 13)).astype(np.uint32)
    want = np.take_along_axis(x.reshape(8, 40), i.astype(int), axis=1)
    assert np.array_equal(one("nisa.nc_n_gather(dst, x, i)", {"x": x, "i": i}, (8, 13)), want)
    assert np.array_equal(one("nisa.tensor_copy(dst, nl.gather_flattened(x, i))", {"x": x, "i": i}, (8, 13)), want)
    i[3, 3] = 40
    refused("nisa.nc_n_gather(dst, x, i)", {"x": x, "i": i}, {"dst": ((8, 13), F)}, "KW-INDEX-BOUNDS")


def test_sequence_bounds():
    ids = np.array([[0, 0, 1, 1, 1, 2, 3, 3, 0]], np.int32)
    got = one("nisa.sequence_bounds(dst, s)", {"s": ids}, (1, 2, 9), "int32")
    assert got[0, 0].tolist() == [9, 9, 2, 2, 2, 5, 6, 6, 9]
    assert got[0, 1].tolist() == [-1, -1, 5, 5, 5, 6, 8, 8, -1]


def test_nonzero_with_count_touches_only_first_lanes():
    x = np.zeros((32, 8), np.int32)
    x[0, [1, 2, 5]] = 1
    x[16, 7] = 3
    d = np.full((32, 9), 99, np.int32)
    got = outputs("nisa.nonzero_with_count(d, x, 16, -1)", {"x": x, "d": d}, {"d": ((32, 9), "int32")})[0]
    assert got[0].tolist() == [17, 18, 21, -1, -1, -1, -1, -1, 3]
    assert got[16].tolist() == [23, -1, -1, -1, -1, -1, -1, -1, 1]
    assert (np.delete(got, [0, 16], axis=0) == 99).all()


def test_gathered_lanes_are_named_when_unwritten():
    x = np.ones((32, 3), np.float32)
    result = execute(
        f"nisa.nc_stream_shuffle(dst, x, {[0] + [255] * 31})\nnisa.tensor_copy(y, dst[0:1, :])",
        {"x": x},
        {"y": ((1, 3), F)} | {"dst": ((32, 3), F)},
    )
    assert [d.code for d in result.diagnostics] == ["KW-UNINITIALISED"]
