import numpy as np

from tests.sim.isa.harness import one, outputs, refused

F = "float32"


def test_dropout_extremes_and_rate():
    x = np.ones((128, 400), np.float32)
    assert (one("nisa.dropout(dst, x, 1.0)", {"x": x}, (128, 400)) == 0).all()
    assert (one("nisa.dropout(dst, x, 0.0)", {"x": x}, (128, 400)) == 1).all()
    kept = one("nisa.dropout(dst, x, 0.25)", {"x": x}, (128, 400)).mean()
    assert abs(kept - 0.75) < 0.01
    lanes = np.linspace(0, 1, 128, dtype=np.float32).reshape(128, 1)
    per_lane = one("nisa.dropout(dst, x, p)", {"x": x, "p": lanes}, (128, 400)).mean(axis=1)
    assert per_lane[0] == 1
    assert per_lane[-1] == 0


def test_dropout_types_must_match():
    x = np.ones((4, 8), np.float32)
    refused("nisa.dropout(dst, x, 0.5)", {"x": x}, {"dst": ((4, 8), "bfloat16")}, "KW-DTYPE")


def test_equal_seeds_repeat():
    seed = np.array([[42]], np.int32)
    code = "nisa.set_rng_seed(s)\nnisa.rng(a)\nnisa.rng(b)\nnisa.set_rng_seed(s)\nnisa.rng(c)"
    shape = ((16, 33), "uint32")
    a, b, c = outputs(code, {"s": seed}, {"a": shape, "b": shape, "c": shape})
    assert np.array_equal(a, c)
    assert not np.array_equal(a, b)
    assert abs(a.astype(np.float64).mean() / 2**32 - 0.5) < 0.05


def test_runs_differ_by_simulation_seed_only():
    draw = lambda seed: one("nisa.rng(dst)", {}, (8, 8), "uint16", seed=seed)  # noqa: E731
    assert np.array_equal(draw(1), draw(1))
    assert not np.array_equal(draw(1), draw(2))


def test_state_round_trip_follows_xorwow():
    words = np.arange(1, 1 + 16 * 6, dtype=np.uint32).reshape(16, 6)
    code = "nisa.rand_set_state(w)\nnisa.rand_get_state(before)\nnisa.rng(r, engine=nisa.gpsimd_engine)\nnisa.rand_get_state(after)"
    before, r, after = outputs(
        code,
        {"w": words},
        {"before": ((16, 6), "uint32"), "r": ((16, 1), "uint32"), "after": ((16, 6), "uint32")},
    )
    assert np.array_equal(before, words)
    x, y, z, w, v, d = (int(n) for n in words[3])
    t = x ^ (x >> 2)
    new = ((v ^ (v << 4)) ^ (t ^ (t << 1))) & 0xFFFFFFFF
    assert after[3].tolist() == [y, z, w, v, new, d + 362437]
    assert int(r[3, 0]) == (new + d + 362437) & 0xFFFFFFFF


def test_rand2_is_uniform_on_trn3():
    got = one("nisa.rand2(dst, -2.0, 3.0)", {}, (128, 200), target="trn3")
    assert got.min() >= -2
    assert got.max() <= 3
    assert abs(got.mean() - 0.5) < 0.05
    refused("nisa.rand2(dst, 0.0, 1.0)", {}, {"dst": ((4, 4), F)}, "KW-GENERATION", target="trn2")
    refused("nisa.rand2(dst, 1.0, 1.0)", {}, {"dst": ((4, 4), F)}, "KW-RANDOM-RANGE", target="trn3")


def test_language_rand_and_seed():
    code = """
s = nl.full((1, 1), 42, dtype=nl.int32)
nl.random_seed(s)
a_ = nl.rand((16, 10), nl.float32)
nl.random_seed(s)
nisa.tensor_copy(a, a_)
nisa.tensor_copy(b, nl.rand((16, 10), nl.float32))
"""
    a, b = outputs(code, {}, {"a": ((16, 10), F), "b": ((16, 10), F)})
    assert np.array_equal(a, b)
    assert ((a >= 0) & (a < 1)).all()
