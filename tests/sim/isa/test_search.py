import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.sim.isa.harness import one, outputs, refused

rng = np.random.default_rng(0)


def test_max8_is_the_sorted_top():
    x = rng.standard_normal((128, 3, 40)).astype(np.float32)
    got = one("nisa.max8(dst, x)", {"x": x}, (128, 8))
    assert np.array_equal(got, -np.sort(-x.reshape(128, -1), axis=1)[:, :8])


def test_max8_needs_eight_elements():
    x = np.zeros((4, 7), np.float32)
    found = refused("nisa.max8(dst, x)", {"x": x}, {"dst": ((4, 8), "float32")}, "KW-SIZE-RANGE")
    assert (found.operand, found.found, found.limit) == ("src", 7, "8..16384")


def test_find_index8_gives_ascending_positions_and_all_ones():
    x = np.array([[1, 2, 3, 4, 8, 8, 8, 8, 8, 8]], np.float32)
    vals = np.array([[8, 8, 3, 99, 8, 1, 8, 8]], np.float32)
    got = one("nisa.nc_find_index8(dst, x, v)", {"x": x, "v": vals}, (1, 8), "uint32")
    assert got.tolist() == [[4, 5, 2, 0xFFFFFFFF, 6, 0, 7, 8]]
    small = one("nisa.nc_find_index8(dst, x, v)", {"x": x, "v": vals}, (1, 8), "uint16")
    assert small[0, 3] == 0xFFFF


def test_match_replace8_pairs_duplicates_backwards():
    x = np.array([[1, 2, 3, 4, 8, 8, 8, 8, 8, 8, 8]], np.float32)
    vals = np.array([[3, 8, 8, 8, 8, 8, 8, 8]], np.float32)
    dst, index = outputs(
        "nisa.nc_match_replace8(dst, x, v, -1.0, dst_idx=i)",
        {"x": x, "v": vals},
        {"dst": ((1, 11), "float32"), "i": ((1, 8), "uint32")},
    )
    assert index.tolist() == [[2, 10, 9, 8, 7, 6, 5, 4]]
    assert dst.tolist() == [[1, 2, -1, 4, -1, -1, -1, -1, -1, -1, -1]]


@settings(max_examples=30, derandomize=True, deadline=None)
@given(st.integers(8, 40), st.integers(0, 2**31))
def test_rounds_of_eight_sort_everything(n, seed):
    """max8 and match_replace8 in turn find all values in descending order, whatever the ties."""
    x = np.random.default_rng(seed).integers(0, 12, (5, n)).astype(np.float32)
    rounds = n // 8
    code = ["nisa.tensor_copy(w, x)"]
    for r in range(rounds):
        code += [
            f"nisa.max8(dst[:, {8 * r}:{8 * r + 8}], w)",
            f"nisa.nc_match_replace8(w, w, dst[:, {8 * r}:{8 * r + 8}], -1e30)",
        ]
    got, _ = outputs("\n".join(code), {"x": x}, {"dst": ((5, 8 * rounds), "float32"), "w": ((5, n), "float32")})
    assert np.array_equal(got, -np.sort(-x, axis=1)[:, : 8 * rounds])


def test_topk_reads_the_snake():
    import ml_dtypes

    n, k = 42, 8
    flat = rng.permutation(48).astype(np.float32)
    tile = np.ascontiguousarray(np.tile(flat.reshape(3, 16).T, (2, 1))).astype(ml_dtypes.bfloat16)
    values, index = outputs(
        f"nisa.topk(v, i, x, {n})", {"x": tile}, {"v": ((32, k), "bfloat16"), "i": ((32, k), "uint32")}
    )
    order = np.argsort(flat[:n])[-k:]
    assert np.array_equal(index, np.tile(order, (32, 1)))
    assert np.array_equal(values.astype(np.float32), np.tile(flat[order], (32, 1)))
