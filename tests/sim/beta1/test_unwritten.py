"""Arithmetic on what a mask left out: one finding an origin, which names it."""

from __future__ import annotations

import numpy as np

from tests.sim.beta1.run import run

X = np.ones((200, 64), np.float32)
OUT = "out = nl.ndarray(x.shape, dtype=x.dtype, buffer=nl.shared_hbm)"


def unwritten(result):
    return [d for d in result.diagnostics if d.code == "KW-UNINITIALISED"]


def test_a_masked_load_is_named_once_with_the_lines_that_read_the_rest():
    result = run(
        f"""
        def kernel(x):
            {OUT}
            f = nl.arange(64)[None, :]
            for i in nl.affine_range(2):
                p = i * 128 + nl.arange(128)[:, None]
                a = nl.load(x[p, f], mask=p < 200)
                s = nl.sum(nl.square(a), axis=1)
                b = nl.multiply(a, s)
                nl.store(out[p, f], b, mask=p < 200)
            return out
        """,
        X,
    )
    assert np.allclose(result.outputs[0], 64)
    [finding] = unwritten(result)
    where, origin, *readers = (w.line for w in (finding.where, *finding.related))
    assert f"the masked load at kernel.py:{origin} (" in finding.message
    assert "element [72, 0]" in finding.message
    assert [line - origin for line in (where, *readers)] == [1, 2]


def test_each_origin_has_its_own_finding():
    result = run(
        f"""
        def kernel(x):
            {OUT}
            f = nl.arange(64)[None, :]
            p = nl.arange(128)[:, None]
            a = nl.load(x[p, f], mask=p < 100)
            b = nl.load(x[p, f], mask=f < 60)
            c = nl.exp(nl.load(x[p, f]), mask=p < 90)
            d = nl.ndarray((128, 64), dtype=nl.float32)
            d[0:32, :] = nl.load(x[0:32, :])
            e = nl.ndarray((128, 64), dtype=nl.float32)
            total = nl.add(nl.add(nl.add(nl.add(a, b), c), d), e)
            nl.store(out[p, f], total, mask=p < 32)
            return out
        """,
        X,
    )
    messages = [d.message for d in unwritten(result)]
    origins = {
        m.split(" at kernel.py:")[0].split("view of ")[1] for m in messages if "in part only" in m and " at " in m
    }
    assert origins == {"the masked load", "the masked result"}
    assert sum("the masked load" in m for m in messages) == 2
    assert sum("the tile of kernel.py" in m for m in messages) == 1
    assert sum("was never written" in m for m in messages) == 1, "a tile that nothing wrote at all"


def test_a_tile_that_is_filled_before_the_masked_load_gives_no_finding():
    result = run(
        f"""
        def kernel(x):
            {OUT}
            f = nl.arange(64)[None, :]
            p = nl.arange(128)[:, None]
            a = nl.zeros((128, 64), dtype=nl.float32)
            a[p, f] = nl.load(x[p, f], mask=p < 100)
            nl.store(out[p, f], nl.square(a))
            return out
        """,
        X,
    )
    assert unwritten(result) == []
