"""Iterations of an affine_range that write one place (Beta 1), each hazard with its clean twins."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.sim.beta1.run import run
from tools.program import Program, record
from tools.sim import Diagnostic, load_source
from tools.sim.hazards import hazards

KERNEL = """
    @nki.jit
    def kernel(x):
        out = nl.ndarray((8, nl.par_dim(128), 64), dtype=x.dtype, buffer=nl.shared_hbm)
        {before}
        for i in nl.{loop}(8):
            t = nl.load(x[i])
            {body}
        {after}
        return out
"""

STORE = "nl.store(out[i], t)"
SCRATCH = "a = nl.ndarray((nl.par_dim(128), 64), dtype=x.dtype, buffer=nl.sbuf)"
BLOCKS = "a = nl.ndarray((8, nl.par_dim(128), 64), dtype=x.dtype, buffer=nl.sbuf)"
PSUM = "p = nl.zeros((64, 64), dtype=nl.float32, buffer=nl.psum)"
LAST = "for k in nl.affine_range(8): nl.store(out[k, 0:64], nl.copy({}))"


def findings(
    body: str, *, before: str = "pass", after: str = "pass", loop: str = "affine_range", **options: Any
) -> list[Diagnostic]:
    x = np.random.default_rng(0).standard_normal((8, 128, 64)).astype(np.float32)
    source = KERNEL.format(before=before, body=body.replace("\n", "\n            "), after=after, loop=loop)
    return [d for d in run(source, x, **options).diagnostics if d.code == "KW-AFFINE-OUTPUT"]


HAZARDS = {
    "a tile made before the loop": (SCRATCH, f"a[...] = t\n{STORE.replace(' t', ' a')}"),
    "one block of several": (BLOCKS, f"a[0] = t\n{STORE.replace(' t', ' a[0]')}"),
    "one place of the output": ("pass", f"{STORE}\nnl.store(out[0], t)"),
    "a memset of what is accumulated": (SCRATCH, f"a[...] = 0\na[...] = nl.add(a, t)\n{STORE.replace(' t', ' a')}"),
}


@pytest.mark.parametrize("batched", [True, False])
@pytest.mark.parametrize("name", HAZARDS)
def test_iterations_that_write_one_place(name, batched):
    before, body = HAZARDS[name]
    (found,) = findings(body, before=before, batched=batched)
    assert "err_unexpected_output_dependencies" in found.message
    assert found.found == [0, 1]
    assert "affine_range" in found.related[0].text
    assert found.where.line > found.related[0].line
    assert "sequential_range" in found.fix
    assert findings(body, before=before, loop="sequential_range", batched=batched) == []


CLEAN = {
    "a tile of each iteration's own": ("pass", f"{SCRATCH}\na[...] = t\n{STORE.replace(' t', ' a')}", "pass"),
    "a block of each iteration's own": (BLOCKS, f"a[i] = t\n{STORE.replace(' t', ' a[i]')}", "pass"),
    "columns of each iteration's own": (
        "a = nl.ndarray((nl.par_dim(128), 64, 8), dtype=x.dtype, buffer=nl.sbuf)",
        f"a[0:128, 0:64, i] = t\n{STORE}",
        "pass",
    ),
    "matmuls that accumulate in PSUM": (PSUM, f"p += nl.matmul(t, t, transpose_x=True)\n{STORE}", LAST.format("p")),
    "a sum in SBUF": (SCRATCH.replace("ndarray", "zeros"), f"a[...] = nl.add(a, t)\n{STORE}", "pass"),
    "loop_reduce": ("pass", f"r = nl.loop_reduce(t, op=np.add, loop_indices=[i])\n{STORE}", "pass"),
    "an inner loop that is sequential": (
        "pass",
        f"{SCRATCH}\nfor j in nl.sequential_range(4): a[...] = t\n{STORE.replace(' t', ' a')}",
        "pass",
    ),
}


@pytest.mark.parametrize("batched", [True, False])
@pytest.mark.parametrize("name", CLEAN)
def test_independent_iterations(name, batched):
    before, body, after = CLEAN[name]
    assert findings(body, before=before, after=after, batched=batched) == []


def test_rows_that_an_index_tile_picks_are_not_compared():
    source = """
        @nki.jit
        def kernel(x, index):
            out = nl.ndarray((128, 64), dtype=x.dtype, buffer=nl.shared_hbm)
            where = nl.load(index)
            for i in nl.affine_range(2):
                t = nl.load(x[i])
                i_f = nl.arange(64)[None, :]
                nl.store(out[where[nl.arange(64)[:, None], i], i_f], t[0:64])
            return out
    """
    x = np.ones((2, 128, 64), np.float32)
    index = np.arange(128, dtype=np.int32).reshape(2, 64).T.copy()
    assert [d.code for d in run(source, x, index).diagnostics if d.code == "KW-AFFINE-OUTPUT"] == []


def test_the_record_that_crosses_the_border_keeps_the_loops():
    before, body = HAZARDS["a tile made before the loop"]
    source = "import neuronxcc.nki as nki\nimport neuronxcc.nki.language as nl\n" + "\n".join(
        line[4:]
        for line in KERNEL.format(
            before=before, body=body.replace("\n", "\n            "), after="pass", loop="affine_range"
        ).split("\n")
    )
    program, _, _ = record(load_source(source), [np.zeros((8, 128, 64), np.float32)], "trn2")
    header, arrays = program.pack()
    again = Program.unpack(header, arrays, source, "kernel.py")
    assert again.trace.parallel == program.trace.parallel
    from tools.sim.machine import machine

    assert "KW-AFFINE-OUTPUT" in [d.code for d in hazards(again.trace, machine("trn2"))]
