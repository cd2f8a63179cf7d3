"""Which loop bodies use their index only affinely, so that a few iterations show all of them.

The language traces such a body once, with a symbol for the index. The proof has two parts: the body's text may use the
index (and names computed from it) only in sums, products with numbers, subscripts of tensors, masks and arguments of the
language's own functions; and the names that those subscripts and calls refer to must really be tensors and the language.
"""

from __future__ import annotations

import ast
import linecache
from types import CodeType, FrameType, FunctionType, ModuleType
from typing import Any

import numpy as np

from tools.sim.dtypes import DType
from tools.sim.frontend.beta1.blocks import BlockTensor
from tools.sim.frontend.beta1.index import Index
from tools.sim.tensor import Tensor

_SUMS = (ast.Add, ast.Sub, ast.Mult, ast.BitAnd)
_ORDERS = (ast.Lt, ast.LtE, ast.Gt, ast.GtE)
_SPANS = ("arange", "ds", "mgrid")
_LOOPS = ("affine_range", "sequential_range", "static_range", "range")
_RESHAPES = ("reshape", "view", "broadcast_to", "expand_dims", "astype")
_CONSTANT = (int, float, bool, str, bytes, type(None), np.generic, np.dtype, DType, slice, type(...))


class _NotAffine(Exception):
    """The text uses the index in a way that isn't known to be affine."""


class Body:
    """What the text of a loop's body demands of the names in it.

    Attributes:
        tensors: names subscripted with the index: must be tensors.
        language: names through which functions get the index: must be the language's modules or functions.
        carried: names that an iteration takes over from the one before: must be tensors.
        read: all names that are read.
        masked: whether a mask depends on the index.
    """

    def __init__(self, loop: ast.For) -> None:
        self.tensors: set[str] = set()
        self.language: set[str] = set()
        self.carried: set[str] = set()
        self.read: set[str] = set()
        self.masked = False
        self.tainted: set[str] = set()
        self._assigned: set[str] = set()
        self._set = {n.id for n in ast.walk(loop) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
        if not isinstance(loop.target, ast.Name) or loop.orelse or not _is_loop_call(loop.iter):
            raise _NotAffine
        self.tainted.add(loop.target.id)
        self._assigned.add(loop.target.id)
        for statement in loop.body:
            self._statement(statement)

    # -- statements --------------------------------------------------------------------------------------------------

    def _statement(self, node: ast.stmt) -> None:
        if isinstance(node, ast.Assign):
            tainted = self._value(node.value)
            for target in node.targets:
                self._target(target, tainted)
        elif isinstance(node, ast.AnnAssign) and node.value is not None:
            self._target(node.target, self._value(node.value))
        elif isinstance(node, ast.AugAssign):
            if self._value(node.value):
                raise _NotAffine
            if isinstance(node.target, ast.Name):
                self._name(node.target.id)
                if node.target.id in self.tainted:
                    raise _NotAffine
                self.carried.add(node.target.id)
            else:
                self._value(node.target)
        elif isinstance(node, ast.Expr):
            self._value(node.value)
        elif isinstance(node, ast.For):
            if not isinstance(node.target, ast.Name) or node.orelse or self._value(node.iter):
                raise _NotAffine
            if not _is_loop_call(node.iter):
                raise _NotAffine
            self._assigned.add(node.target.id)
            self.tainted.discard(node.target.id)
            for inner in node.body:
                self._statement(inner)
        elif isinstance(node, ast.If):
            if self._value(node.test):
                raise _NotAffine
            for inner in (*node.body, *node.orelse):
                self._statement(inner)
        elif isinstance(node, ast.With):
            for item in node.items:
                if self._value(item.context_expr):
                    raise _NotAffine
            for inner in node.body:
                self._statement(inner)
        elif isinstance(node, ast.Assert):
            if self._value(node.test):
                raise _NotAffine
        elif not isinstance(node, ast.Pass | ast.Import | ast.ImportFrom):
            raise _NotAffine

    def _target(self, node: ast.expr, tainted: bool) -> None:
        if isinstance(node, ast.Name):
            (self.tainted.add if tainted else self.tainted.discard)(node.id)
            self._assigned.add(node.id)
        elif isinstance(node, ast.Tuple | ast.List):
            for part in node.elts:
                self._target(part, tainted)
        elif isinstance(node, ast.Subscript) and not tainted:
            self._value(node)
        else:
            raise _NotAffine

    # -- expressions -------------------------------------------------------------------------------------------------

    def _name(self, name: str) -> bool:
        self.read.add(name)
        if name in self._set and name not in self._assigned:
            self.carried.add(name)
        return name in self.tainted

    def _value(self, node: ast.expr | None) -> bool:
        """Check an expression; whether its value depends on the index in the way that an index may."""
        if node is None or isinstance(node, ast.Constant):
            return False
        if isinstance(node, ast.Name):
            return self._name(node.id)
        if isinstance(node, ast.Attribute):
            if self._value(node.value):
                raise _NotAffine
            return False
        if isinstance(node, ast.BinOp):
            left, right = self._value(node.left), self._value(node.right)
            if (left or right) and (
                not isinstance(node.op, _SUMS) or (left and right and isinstance(node.op, ast.Mult))
            ):
                raise _NotAffine
            return left or right
        if isinstance(node, ast.UnaryOp):
            tainted = self._value(node.operand)
            if tainted and not isinstance(node.op, ast.USub | ast.UAdd):
                raise _NotAffine
            return tainted
        if isinstance(node, ast.Compare):
            parts = [self._value(part) for part in (node.left, *node.comparators)]
            if any(parts) and (len(parts) > 2 or not isinstance(node.ops[0], _ORDERS)):
                raise _NotAffine
            self.masked |= any(parts)
            return any(parts)
        if isinstance(node, ast.Subscript):
            return self._subscript(node)
        if isinstance(node, ast.Slice):
            return any([self._value(node.lower), self._value(node.upper), self._value(node.step)])
        if isinstance(node, ast.Tuple | ast.List):
            return any([self._value(part) for part in node.elts])
        if isinstance(node, ast.Call):
            return self._call(node)
        if isinstance(node, ast.BoolOp | ast.IfExp):
            if any([self._value(part) for part in ast.iter_child_nodes(node) if isinstance(part, ast.expr)]):
                raise _NotAffine
            return False
        if isinstance(node, ast.JoinedStr):
            for part in ast.walk(node):
                if isinstance(part, ast.Name) and self._name(part.id):
                    raise _NotAffine
            return False
        raise _NotAffine

    def _subscript(self, node: ast.Subscript) -> bool:
        tainted = self._value(node.slice)
        base = node.value
        if self._value(base):  # nl.arange(n)[:, None] is an index; one of a tainted name may be
            if tainted:
                raise _NotAffine
            return True
        if not tainted:
            return False
        while isinstance(base, ast.Subscript):
            base = base.value
        if isinstance(base, ast.Call) and isinstance(base.func, ast.Attribute) and base.func.attr in _RESHAPES:
            base = base.func.value
        if not isinstance(base, ast.Name):
            raise _NotAffine
        self.tensors.add(base.id)
        return False

    def _call(self, node: ast.Call) -> bool:
        self._value(node.func)
        given = [*node.args, *(k.value for k in node.keywords)]
        tainted = any([self._value(a.value if isinstance(a, ast.Starred) else a) for a in given])
        root: ast.expr = node.func
        while isinstance(root, ast.Attribute):
            root = root.value
        if not tainted:
            return False
        if not isinstance(root, ast.Name):
            raise _NotAffine
        self.language.add(root.id)
        last = node.func.attr if isinstance(node.func, ast.Attribute) else root.id
        return last in _SPANS

    # -- names -------------------------------------------------------------------------------------------------------

    def holds(self, frame: FrameType) -> bool:
        """Whether the names mean what the proof needs, as the frame stands after an iteration."""
        values = {**frame.f_globals, **frame.f_locals}
        for name in self.tensors:
            if not isinstance(values.get(name), Tensor | BlockTensor):
                return False
        for name in self.carried:
            if not isinstance(values.get(name), Tensor | BlockTensor):
                return False
        for name in self.language:
            if not _of_language(values.get(name)):
                return False
        return all(name not in values or _harmless(values[name]) for name in self.read)


def _is_loop_call(node: ast.expr) -> bool:
    if not isinstance(node, ast.Call):
        return False
    name = node.func
    return (isinstance(name, ast.Attribute) and name.attr in _LOOPS) or (
        isinstance(name, ast.Name) and name.id in _LOOPS
    )


def _of_language(value: Any) -> bool:
    if isinstance(value, ModuleType):
        return value.__name__.split(".")[0] in ("neuronxcc", "nki", "tools")
    return str(getattr(value, "__module__", "") or type(value).__module__).startswith("tools.sim.")


def _harmless(value: Any) -> bool:
    """Whether a value can't carry state from one iteration to the next, other than through instructions."""
    if isinstance(value, (*_CONSTANT, Tensor, BlockTensor, Index, ModuleType, type)):
        return True
    if isinstance(value, tuple):
        return all(_harmless(v) for v in value)
    if isinstance(value, FunctionType):
        return not value.__closure__ or all(_harmless(cell.cell_contents) for cell in value.__closure__)
    return callable(value) or str(type(value).__module__).startswith("tools.sim.")


_BODIES: dict[tuple[CodeType, int], Body | None] = {}


def body_of(frame: FrameType) -> Body | None:
    """The body of the loop that starts on the frame's current line, or None when its text isn't affine."""
    key = (frame.f_code, frame.f_lineno)
    if key in _BODIES:
        return _BODIES[key]
    if len(_BODIES) > 4096:
        _BODIES.clear()
    found = _BODIES[key] = _find(frame.f_code.co_filename, frame.f_lineno)
    return found


_TREES: dict[str, tuple[str, dict[int, list[ast.For]]]] = {}


def _find(filename: str, line: int) -> Body | None:
    text = "".join(linecache.getlines(filename))
    known = _TREES.get(filename)
    if known is None or known[0] != text:
        loops: dict[int, list[ast.For]] = {}
        try:
            tree = ast.parse(text)
        except SyntaxError:
            return None
        for node in ast.walk(tree):
            if isinstance(node, ast.For):
                loops.setdefault(node.iter.lineno, []).append(node)
        if len(_TREES) > 256:
            _TREES.clear()
        known = _TREES[filename] = (text, loops)
    loops_here = known[1].get(line, [])
    if len(loops_here) != 1:
        return None
    try:
        return Body(loops_here[0])
    except _NotAffine:
        return None
