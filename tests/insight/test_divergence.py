"""Faults seeded into the library's kernels: the line at which the values leave the reference's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tools import draws
from tools.insight import Location, instrumented, locate
from tools.library import load
from tools.program import record
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
