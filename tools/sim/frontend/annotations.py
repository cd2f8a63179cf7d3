"""Shape annotations of assignments, `t: nt.tensor[128, 512] = ...`: Beta 1 holds tiles to them.

CPython doesn't evaluate annotations of local variables, so the value is handed through a check that stands in the source
tree only; lines and columns stay.
"""

from __future__ import annotations

import ast
from typing import Any

from tools.sim.tensor import Tensor

CHECK = "__annotated__"
"""Name of the check among a kernel module's built-ins."""


def annotated(value: Any, shape: Any) -> Any:
    """`value`, which must have `shape` when it is a tile of Beta 1 and the shape is one of integers.

    Raises:
        KernelError: it has another shape.
    """
    sizes = shape if isinstance(shape, tuple) else (shape,)
    enforce = getattr(value, "assert_shape", None)
    if isinstance(value, Tensor) and enforce is not None and all(isinstance(n, int) for n in sizes):
        enforce(sizes)
    return value


def checked(source: str) -> str | ast.Module:
    """The source, or its tree with a check in each assignment to a name annotated `...tensor[shape]`.

    Raises:
        SyntaxError: it isn't Python.
    """
    if "tensor[" not in source:
        return source
    finder = _Finder()
    tree = finder.visit(ast.parse(source))
    return ast.fix_missing_locations(tree) if finder.found else source


class _Finder(ast.NodeTransformer):
    def __init__(self) -> None:
        self.found = False

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AnnAssign:
        kind = node.annotation
        if node.value is None or not isinstance(kind, ast.Subscript):
            return node
        named = kind.value
        if (isinstance(named, ast.Attribute) and named.attr == "tensor") or (
            isinstance(named, ast.Name) and named.id == "tensor"
        ):
            self.found = True
            check = ast.Name(CHECK, ast.Load())
            node.value = ast.copy_location(ast.Call(check, [node.value, kind.slice], []), node.value)
        return node
