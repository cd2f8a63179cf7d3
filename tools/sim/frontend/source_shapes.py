"""Sizes of on-chip tiles that kernel source states outright, checked without running it."""

from __future__ import annotations

import ast
import operator
from collections import Counter
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

from tools.sim.errors import Diagnostic
from tools.sim.frontend.language import tile_size
from tools.sim.frontend.source_names import SourceNames
from tools.sim.frontend.source_text import SourceText

_ALLOCATIONS = {"ndarray": 2, "zeros": 2, "ones": 2, "empty": 2, "full": 3, "rand": 2}
"""Functions that make a tile, with the position of `buffer`."""
_ON_CHIP = ("sbuf", "psum")
_OPERATORS: dict[type[ast.operator], Callable[[int, int], int]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
}


def partition_limits(source: str, filename: str) -> list[Diagnostic]:
    """Tiles in SBUF or PSUM, and loads, whose stated partition dimension is above the 128 that there are.

    Sizes count when they are numbers, `nl.tile_size` members, names bound once to such, or sums and products of them.

    Args:
        source: text of a kernel's module; source that doesn't parse gives no findings here.
        filename: names the file in findings.
    """
    try:
        tree = ast.parse(source)
    except SyntaxError:
        return []
    text = SourceText(filename, source)
    found = []
    for node, what, size in _Sizes(tree).tiles():
        limit = tile_size.pmax
        if size > limit:
            found.append(
                text.finding(
                    node,
                    "KW-PARTITION-LIMIT",
                    f"{what} has {size} partitions; SBUF and PSUM have {limit}",
                    f"tile the partition dimension into pieces of {limit}",
                    found=size,
                    limit=limit,
                )
            )
    return sorted(found, key=lambda d: (d.where.line, d.where.column) if d.where else (0, 0))


class _Sizes:
    """Integers that names in one module certainly have."""

    def __init__(self, tree: ast.Module) -> None:
        self.tree = tree
        self.names = SourceNames(tree)
        stores = Counter(n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and not isinstance(n.ctx, ast.Load))
        parameters = {n.arg for n in ast.walk(tree) if isinstance(n, ast.arg)}
        self.known: dict[str, int] = {}
        for node in ast.walk(tree):
            if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
                name = node.targets[0].id
                value = self.value(node.value) if stores[name] == 1 and name not in parameters else None
                if value is not None:
                    self.known[name] = value

    def value(self, node: ast.expr | None) -> int | None:
        """The integer that an expression has, if that is certain."""
        if isinstance(node, ast.Constant):
            return node.value if type(node.value) is int else None
        if isinstance(node, ast.Name):
            return self.known.get(node.id)
        if isinstance(node, ast.Attribute):
            values = self.names.meaning(node)
            return values[0] if len(values) == 1 and type(values[0]) is int else None
        if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
            left, right = self.value(node.left), self.value(node.right)
            if left is None or right is None or (right == 0 and isinstance(node.op, ast.FloorDiv)):
                return None
            return _OPERATORS[type(node.op)](left, right)
        return None

    def tiles(self) -> Iterator[tuple[ast.AST, str, int]]:
        """Every allocation and load with a stated partition count: the node to point at, a description, the count."""
        for call in (n for n in ast.walk(self.tree) if isinstance(n, ast.Call)):
            if not isinstance(call.func, ast.Attribute) or not self._is_language(call.func.value):
                continue
            name, arguments = call.func.attr, {k.arg: k.value for k in call.keywords}
            if name in _ALLOCATIONS:
                shape = arguments.get("shape", call.args[0] if call.args else None)
                place = _ALLOCATIONS[name]
                buffer = arguments.get("buffer", call.args[place] if len(call.args) > place else None)
                if isinstance(shape, ast.Tuple | ast.List) and shape.elts and _is_on_chip(buffer):
                    chosen = next((e for e in shape.elts if _is_par_dim(e)), shape.elts[0])
                    size = self.value(chosen.args[0] if isinstance(chosen, ast.Call) and chosen.args else chosen)
                    if size is not None:
                        yield chosen, f"this {'tile' if buffer is None else ast.unparse(buffer) + ' tile'}", size
            elif name == "load" and (call.args or "src" in arguments):
                source = call.args[0] if call.args else arguments["src"]
                if isinstance(source, ast.Subscript):
                    yield from self._loaded(source)

    def _loaded(self, source: ast.Subscript) -> Iterator[tuple[ast.AST, str, int]]:
        parts = source.slice.elts if isinstance(source.slice, ast.Tuple) else [source.slice]
        cut = next((p for p in parts if not isinstance(p, ast.Constant)), None)
        if isinstance(cut, ast.Slice) and cut.step is None:
            low, high = (0 if cut.lower is None else self.value(cut.lower)), self.value(cut.upper)
            if low is not None and high is not None:
                yield cut, "this load", high - low
        elif isinstance(cut, ast.Call) and isinstance(cut.func, ast.Attribute) and cut.func.attr == "ds":
            size = self.value(cut.args[1]) if len(cut.args) == 2 else None
            if size is not None:
                yield cut, "this load", size

    def _is_language(self, node: ast.expr) -> bool:
        meant = self.names.meaning(node)
        return bool(meant) and all(isinstance(m, ModuleType) and m.__name__.endswith("nki.language") for m in meant)


def _is_on_chip(buffer: ast.expr | None) -> bool:
    """Whether an allocation with this `buffer` is certainly in SBUF or PSUM; without one it is in SBUF."""
    if buffer is None:
        return True
    if isinstance(buffer, ast.Call):  # ncc.sbuf.alloc(...)
        buffer = buffer.func.value if isinstance(buffer.func, ast.Attribute) else buffer
    name: Any = buffer.value if isinstance(buffer, ast.Constant) else getattr(buffer, "attr", None)
    return name in _ON_CHIP


def _is_par_dim(node: ast.expr) -> bool:
    function = node.func if isinstance(node, ast.Call) else None
    return (function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")) == "par_dim"
