"""Which loops a source line stands in, read from the kernel's text: traces hold instructions, not loops."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from functools import lru_cache

from tools.sim.instruction import Trace

ROLLED = ("affine_range", "sequential_range")
"""Ranges that stay loops; `static_range` and `range` are unrolled before the compiler sees them."""


@dataclass(frozen=True, slots=True)
class LineLoops:
    """The loops around a line.

    Attributes:
        rolled: the innermost one stays a loop in the compiler.
        single: line of the loop if it is an `affine_range` with no loop around it or inside it, otherwise 0.
        outer: line of the outermost one in its function, 0 without a loop.
    """

    rolled: bool = False
    single: int = 0
    outer: int = 0


NO_LOOP = LineLoops()


def line_loops(trace: Trace) -> list[LineLoops]:
    """The loops around each line of `trace.lines`; no loop where a source isn't known or doesn't parse."""
    found = {file: _loops_of(text) for file, text in trace.sources.items()}
    return [found.get(file, {}).get(line, NO_LOOP) for file, line in trace.lines]


@lru_cache(maxsize=256)
def _loops_of(text: str) -> dict[int, LineLoops]:
    lines: dict[int, LineLoops] = {}
    try:
        tree = ast.parse(text)
    except SyntaxError:
        return lines
    _visit(tree, 0, lines)
    return lines


def _visit(node: ast.AST, outer: int, lines: dict[int, LineLoops]) -> None:
    """Note the loops below `node`, itself inside the loop at line `outer`; inner ones overwrite what outer ones noted."""
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, (ast.For, ast.While)):
            # A function's loops are counted from its own body on.
            _visit(child, 0 if isinstance(child, ast.FunctionDef) else outer, lines)
            continue
        name = _range(child)
        inner = any(isinstance(below, (ast.For, ast.While)) for below in ast.walk(child) if below is not child)
        alone = name == "affine_range" and not outer and not inner
        loops = LineLoops(name in ROLLED, child.lineno if alone else 0, outer or child.lineno)
        last = child.body[-1]
        lines.update(dict.fromkeys(range(child.body[0].lineno, (last.end_lineno or last.lineno) + 1), loops))
        _visit(child, outer or child.lineno, lines)


def _range(loop: ast.For | ast.While) -> str:
    """Name of the function that makes the loop's values, without its module; empty if there is none."""
    called = loop.iter.func if isinstance(loop, ast.For) and isinstance(loop.iter, ast.Call) else None
    if isinstance(called, ast.Attribute):
        return called.attr
    return called.id if isinstance(called, ast.Name) else ""
