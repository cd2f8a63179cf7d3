"""How often a loop's header says that its body runs, where that follows from numbers in the source and the inputs' shapes."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

Value = int | tuple[int | None, ...]
Shapes = Mapping[str, tuple[int, ...]]

_OPERATORS: dict[type[ast.operator], Callable[[int, int], int]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}

_TILE_SIZES = {"pmax": 128, "gemm_stationary_fmax": 128, "gemm_moving_fmax": 512}
"""Constants of the language that are the same on every generation (NKI language reference, `nl.tile_size`)."""


@dataclass(frozen=True, slots=True)
class Names:
    """What the names of one function stand for.

    Attributes:
        parameters: of the function; their shapes come from the launch.
        values: right-hand sides of the names that are assigned once, with the position in an unpacked tuple (or None).
    """

    parameters: frozenset[str]
    values: Mapping[str, tuple[ast.expr, int | None]]


def names_of(module: ast.Module, function: ast.FunctionDef | ast.AsyncFunctionDef | None) -> Names:
    """The names that a function's loop headers may use: its own and the module's, each only if it is assigned once."""
    found: dict[str, tuple[ast.expr, int | None]] = {}
    parameters: set[str] = set()
    bodies: list[list[ast.stmt]] = [module.body]
    if function is not None:
        bodies.append(function.body)
        parameters = {a.arg for a in (*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs)}
    for body in bodies:
        assigned: dict[str, int] = {}
        for node in _scope(body):
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                assigned[node.id] = assigned.get(node.id, 0) + 1
            if isinstance(node, ast.Assign) and len(node.targets) == 1:
                found.update(_targets(node.targets[0], node.value))
        for name, times in assigned.items():
            if times > 1:
                found.pop(name, None)
    for name in parameters:
        found.pop(name, None)
    return Names(frozenset(parameters), found)


def _scope(body: list[ast.stmt]) -> Iterator[ast.AST]:
    """The nodes of a body without those of the functions and classes that it defines."""
    waiting: list[ast.AST] = list(body)
    while waiting:
        node = waiting.pop()
        yield node
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda):
            waiting.extend(ast.iter_child_nodes(node))


def _targets(target: ast.expr, value: ast.expr) -> dict[str, tuple[ast.expr, int | None]]:
    if isinstance(target, ast.Name):
        return {target.id: (value, None)}
    if isinstance(target, ast.Tuple) and all(isinstance(part, ast.Name) for part in target.elts):
        return {part.id: (value, k) for k, part in enumerate(target.elts) if isinstance(part, ast.Name)}
    return {}


def trips(header: ast.expr, names: Names, shapes: Shapes) -> int | None:
    """Length of `range(...)` or one of the dialect's ranges; None when it isn't one or its numbers aren't known."""
    if not isinstance(header, ast.Call) or header.keywords or not 1 <= len(header.args) <= 3:
        return None
    called = header.func
    name = called.attr if isinstance(called, ast.Attribute) else called.id if isinstance(called, ast.Name) else ""
    if not name.endswith("range"):
        return None
    numbers = [_value(argument, names, shapes, 0) for argument in header.args]
    known = [number for number in numbers if isinstance(number, int)]
    if len(known) < len(numbers) or known[2:] == [0]:
        return None
    return len(range(*known))


def _value(node: ast.expr, names: Names, shapes: Shapes, depth: int) -> Value | None:
    if depth > 20:
        return None  # a name defined by itself

    def number(part: ast.expr) -> int | None:
        found = _value(part, names, shapes, depth + 1)
        return found if isinstance(found, int) else None

    match node:
        case ast.Constant(value=int(value)):
            return value
        case ast.Name(id=name) if name in names.values:
            source, position = names.values[name]
            found = _value(source, names, shapes, depth + 1)
            if position is None or found is None or isinstance(found, int):
                return found if position is None else None
            return found[position] if position < len(found) else None
        case ast.Attribute(value=ast.Name(id=name), attr="shape") if name in names.parameters:
            return shapes.get(name)
        case ast.Attribute(value=ast.Attribute(attr="tile_size"), attr=limit):
            return _TILE_SIZES.get(limit)
        case ast.Tuple(elts=parts):
            return tuple(number(part) for part in parts)
        case ast.Subscript(value=inner, slice=place):
            outer, index = _value(inner, names, shapes, depth + 1), number(place)
            if isinstance(outer, tuple) and index is not None and -len(outer) <= index < len(outer):
                return outer[index]
        case ast.UnaryOp(op=ast.USub(), operand=inner):
            negated = number(inner)
            return None if negated is None else -negated
        case ast.BinOp(left=left, op=sign, right=right) if type(sign) in _OPERATORS:
            a, b = number(left), number(right)
            if a is not None and b is not None and not (b == 0 and isinstance(sign, ast.FloorDiv | ast.Mod)):
                return _OPERATORS[type(sign)](a, b)
        case ast.Call(func=ast.Name(id="min" | "max" as which), args=[_, *_] as several, keywords=[]):
            values = [number(part) for part in several]
            known = [value for value in values if value is not None]
            if len(known) == len(values):
                return min(known) if which == "min" else max(known)
    return None
