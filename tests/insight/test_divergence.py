"""Faults seeded into the library's kernels: the line at which the values leave the reference's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tools import draws
from tools.insight import Location, Step, instrumented, locate, locate_by_trace
from tools.library import load
from tools.program import record, run_directly
from tools.sim import load_source


def located(op: str, shape: str, old: str, new: str) -> tuple[Location, list[str]]:
    """Locate the fault that replacing `old` by `new` in a library kernel makes; the finding and the kernel's lines."""
    kernel, task = load(op, shape)
    assert old in kernel.source
    source = kernel.source.replace(old, new, 1)
    values = draws.plain(task.inputs, np.random.default_rng(1))
    program, _, _ = record(load_source(source), values, task.target)
    made = instrumented(task.reference.source, task.reference.function)
    names: dict[str, Any] = {}
    exec(made.source, names)
    wide = [v.astype(np.float64) for v in values]
    wanted = names[task.reference.function](*wide)
    steps = made.steps(names[made.function](*wide))
    return locate(program, values, [wanted], task.tolerance, steps=lambda: steps), source.splitlines()


@pytest.mark.parametrize(
    ("op", "shape", "old", "new", "named", "because"),
    [
        ("softmax", "small", "op0=nl.multiply, operand0=total", "op0=nl.add, operand0=total", "op0=nl.add", "np.exp"),
        ("softmax", "small", "src=tile)\n    return", "src=powers)\n    return", "src=powers", "not its result"),
        ("softmax", "small", "operand0=total)", "operand0=total, op1=nl.multiply, operand1=-1.0)", "-1.0", "it stores is -"),
        ("rmsnorm", "small", "scale=1.0 / columns", "scale=1.0", "scale=1.0,", "x * x"),
        ("rmsnorm", "small", "src=gain.broadcast_to", "src=gain[:, 0:1].broadcast_to", "gain[:, 0:1]", "0.3% is ever read"),
        ("matmul", "ragged", "src=b[k : k + depth, n : n + width]", "src=b[k : k + depth, 0 : width]", "0 : width", "of input b"),
        ("transpose", "small", "i * pmax : i * pmax + h", "(1 - i) * pmax : (1 - i) * pmax + h", "(1 - i)", "wrong places"),
        ("rope", "small", "data2=cross, op=nl.subtract", "data2=cross, op=nl.add", "upper, data2=cross", "x1 * sin"),
        ("linear_gelu", "small", "bias=shift)", "bias=None)", "bias=None", "w.T @ x_t"),
        ("row_sum", "small", "op=nl.add", "op=nl.maximum", "nl.maximum", "`x`"),
        ("mamba", "small", "op=nl.exp, data=step", "op=nl.exp, data=drive", "data=drive, scale", "delta"),
    ],
)  # fmt: skip
def test_the_line_of_a_logic_error_is_named(op: str, shape: str, old: str, new: str, named: str, because: str) -> None:
    found, lines = located(op, shape, old, new)
    assert found.verdict == "logic"
    assert named in lines[found.line - 1]
    assert because in found.sentence


def test_a_tile_that_is_filled_in_the_wrong_part_leads_to_its_writer() -> None:
    found, lines = located("attention", "small", "dst=keys[:, rows], src", "dst=keys[:, 0:pmax], src")
    assert found.verdict == "uninitialised"
    assert any("keys[:, 0:pmax]" in lines[s.line - 1] for s in found.suspects)


BETA_1 = """
from neuronxcc import nki
import neuronxcc.nki.language as nl

@nki.jit
def kernel(x):
    out = nl.ndarray(x.shape, dtype=x.dtype, buffer=nl.shared_hbm)
    rows, columns = nl.arange(128)[:, None], nl.arange(x.shape[1])[None, :]
    for i in nl.affine_range(x.shape[0] // 128):
        tile = nl.load(x[i * 128 + rows, columns])
        mean = nl.sum(nl.square(tile), axis=[1]) / 256.0
        nl.store(out[i * 128 + rows, columns], value=nl.multiply(tile, nl.rsqrt(mean)))
    return out
"""


def test_errors_of_beta_1_kernels_are_located_too() -> None:
    x = np.random.default_rng(0).standard_normal((256, 512)).astype(np.float32)
    program, _, _ = record(load_source(BETA_1), [x], "trn1")
    steps = [Step("x * x", 1, x.astype(np.float64) ** 2)]
    wanted = x / np.sqrt(np.mean(x.astype(np.float64) ** 2, axis=-1, keepdims=True))
    found = locate(program, [x], [wanted], load("rmsnorm", "small")[1].tolerance, steps=lambda: steps)
    assert "256.0" in BETA_1.splitlines()[found.line - 1]
    assert "too small by a factor of 1.414" in found.pattern


def test_what_cannot_be_replayed_is_located_by_the_instruction_stream() -> None:
    masked = BETA_1.replace(
        "    mean =", "    tile[rows, columns] = nl.multiply(tile, 3.0, mask=(rows + columns < 64))\n        mean ="
    )
    x = np.ones((256, 512), np.float32)
    program, _, _ = record(load_source(masked), [x], "trn1")
    assert "PickedTile" in program.opaque
    _, outputs, _ = run_directly(load_source(masked), [x], "trn1")
    tolerance = load("rmsnorm", "small")[1].tolerance
    found = locate_by_trace(program, outputs, [x], [np.zeros_like(x)], tolerance, ("warning KW-UNINITIALISED: t",))
    assert found.verdict == "logic"
    assert found.sentence.startswith("warning KW-UNINITIALISED: t Without a float64 shadow (it uses views")
    assert "nl.store" in masked.splitlines()[found.line - 1]
    assert locate_by_trace(program, outputs, [x], outputs, tolerance).verdict == "agrees"
