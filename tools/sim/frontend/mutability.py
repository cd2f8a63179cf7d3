"""Beta 1: which parameters a kernel may write, judged by its source.

Parameters of the outermost kernel are read-only unless annotated `nt.mutable_tensor`, and a parameter annotated so must be
among the results (Beta-1 error reference: err_cannot_update_immutable_parameter, err_mutable_parameter_not_returned).
Names are followed through assignments, views and calls of the module's own functions. What can't be followed gives no
finding.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass

_STORES = {"store": "dst", "dma_copy": "dst", "atomic_rmw": "dst"}
"""Calls that write to HBM, and the argument (the first one, too) that they write."""
_VIEWS = ("reshape", "broadcast_to", "view", "expand_dims", "ap")
_KERNELS = ("jit", "baremetal", "benchmark", "profile")

Names = dict[str, str]
"""Local name -> the kernel parameter that it means."""
Function = ast.FunctionDef


@dataclass(frozen=True, slots=True)
class Fault:
    """One broken rule: the node at fault, the parameter's name and which rule."""

    node: ast.AST
    parameter: str
    returned: bool


def parameter_faults(tree: ast.Module) -> list[Fault]:
    """Every write to a read-only parameter, and every writable parameter that isn't returned."""
    functions = {f.name: f for f in tree.body if isinstance(f, Function)}
    kernels = [f for f in ast.walk(tree) if isinstance(f, Function) and _is_kernel(f)]
    inner = {_callee(n) for k in kernels for n in ast.walk(k) if isinstance(n, ast.Call)}
    found: list[Fault] = []
    for kernel in kernels:
        if kernel.name not in inner:
            found.extend(_Walk(kernel, functions).faults())
    return found


class _Walk:
    """One kernel's body and the functions it calls, statement by statement."""

    def __init__(self, kernel: Function, functions: Mapping[str, Function]) -> None:
        self.kernel = kernel
        self.functions = dict(functions)
        parameters = [*kernel.args.posonlyargs, *kernel.args.args, *kernel.args.kwonlyargs]
        self.writable = {a.arg: a for a in parameters if _is_mutable(a.annotation)}
        self.names: Names = {a.arg: a.arg for a in parameters}
        self.written: dict[tuple[int, int], Fault] = {}
        self.missing = dict(self.writable)
        self.returns = False
        self.following: list[str] = []

    def faults(self) -> list[Fault]:
        self.block(self.kernel.body, self.names, set())
        if not self.returns:
            self.missing = self.writable
        return [*self.written.values(), *(Fault(a, name, returned=True) for name, a in self.missing.items())]

    def block(self, body: list[ast.stmt], names: Names, opaque: set[str]) -> None:
        """Go through statements in order; `names` and `opaque` are brought up to date."""
        for statement in body:
            self.statement(statement, names, opaque)

    def statement(self, node: ast.stmt, names: Names, opaque: set[str]) -> None:
        if isinstance(node, Function):
            self.functions[node.name] = node
        elif isinstance(node, ast.If | ast.For | ast.While | ast.With):
            for part in ast.iter_child_nodes(node):
                if isinstance(part, ast.expr):
                    self.calls(part, names)
            branches = [node.body, getattr(node, "orelse", [])]
            ends = []
            for branch in branches:
                local = dict(names)
                self.block(branch, local, opaque)
                ends.append(local)
            for name in set(names) | {n for end in ends for n in end}:
                meanings = {end.get(name) for end in ends}
                if len(meanings) == 1 and None not in meanings:
                    names[name] = str(meanings.pop())
                else:
                    names.pop(name, None)
                    opaque.add(name)
        elif isinstance(node, ast.Return):
            if node.value is not None:
                self.calls(node.value, names)
            if not self.following:
                self.result(node.value, names, opaque)
        else:
            self.calls(node, names)
            targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
            for target in targets:
                if target is not None:  # an assignment to elements is for tiles; HBM is written by stores only
                    self.bind(target, getattr(node, "value", None), names, opaque)

    def bind(self, target: ast.expr, value: ast.expr | None, names: Names, opaque: set[str]) -> None:
        """A name gets a value: it means a parameter afterwards, or something else, or what can't be known."""
        if isinstance(target, ast.Tuple | ast.List):
            parts: list[ast.expr | None] = [None] * len(target.elts)
            if isinstance(value, ast.Tuple | ast.List) and len(value.elts) == len(target.elts):
                parts = list(value.elts)
            for each, part in zip(target.elts, parts):
                self.bind(each, part, names, opaque)
        elif isinstance(target, ast.Name):
            root = _root(value, names)
            names.pop(target.id, None)
            opaque.discard(target.id)
            if root is not None:
                names[target.id] = root
            elif not (isinstance(value, ast.Call) and isinstance(value.func, ast.Attribute)):
                opaque.add(target.id)

    def calls(self, node: ast.AST, names: Names) -> None:
        """The stores and the calls of own functions inside an expression."""
        for call in (n for n in ast.walk(node) if isinstance(n, ast.Call)):
            name = _callee(call)
            if isinstance(call.func, ast.Attribute) and name in _STORES:
                first = call.args[0] if call.args else None
                target = next((k.value for k in call.keywords if k.arg == _STORES[name]), first)
                if target is not None:
                    self.write(call, target, names)
            elif isinstance(call.func, ast.Name) and name in self.functions and name not in self.following:
                self.follow(self.functions[name], call, names)

    def follow(self, function: Function, call: ast.Call, names: Names) -> None:
        arguments = [*function.args.posonlyargs, *function.args.args]
        given = {a.arg: v for a, v in zip(arguments, call.args)}
        given |= {k.arg: k.value for k in call.keywords if k.arg}
        own = {a.arg for a in (*arguments, *function.args.kwonlyargs)}
        local = {n: root for n, v in given.items() if (root := _root(v, names)) is not None}
        nested = function in ast.walk(self.kernel)
        self.following.append(function.name)
        self.block(
            function.body, {**({n: r for n, r in names.items() if n not in own} if nested else {}), **local}, set()
        )
        self.following.pop()

    def write(self, node: ast.AST, target: ast.expr, names: Names) -> None:
        root = _root(target, names)
        if root is not None and root not in self.writable:
            place = (getattr(node, "lineno", 0), getattr(node, "col_offset", 0))
            self.written.setdefault(place, Fault(node, root, returned=False))

    def result(self, value: ast.expr | None, names: Names, opaque: set[str]) -> None:
        """Strike the parameters off that this `return` gives back; all of them if it may give back anything."""
        self.returns = True
        for part in value.elts if isinstance(value, ast.Tuple | ast.List) else [value]:
            root = _root(part, names)
            if root is not None:
                self.missing.pop(root, None)
            elif not isinstance(part, ast.Name | ast.Constant | None) or (
                isinstance(part, ast.Name) and part.id in opaque
            ):
                self.missing.clear()


def _root(value: ast.expr | None, names: Names) -> str | None:
    """The parameter that an expression is a view of."""
    while True:
        if isinstance(value, ast.Subscript):
            value = value.value
        elif isinstance(value, ast.Call) and isinstance(value.func, ast.Attribute) and value.func.attr in _VIEWS:
            value = value.func.value
        else:
            return names.get(value.id) if isinstance(value, ast.Name) else None


def _callee(call: ast.Call) -> str:
    return call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")


def _is_kernel(function: Function) -> bool:
    """Whether a decorator makes the function a kernel that is launched, not one that is traced into another."""
    for decorator in function.decorator_list:
        call = decorator if isinstance(decorator, ast.Call) else None
        target = decorator if call is None else call.func
        name = target.attr if isinstance(target, ast.Attribute) else getattr(target, "id", "")
        modes = [
            k.value.value
            for k in (call.keywords if call else [])
            if k.arg == "mode" and isinstance(k.value, ast.Constant)
        ]
        if name in _KERNELS and "trace" not in modes:
            return True
    return False


def _is_mutable(annotation: ast.expr | None) -> bool:
    if isinstance(annotation, ast.Constant) and isinstance(annotation.value, str):
        return annotation.value.split("[")[0].rpartition(".")[2].strip() in ("mutable_tensor", "mutable")
    while isinstance(annotation, ast.Subscript):
        annotation = annotation.value
    name = annotation.attr if isinstance(annotation, ast.Attribute) else getattr(annotation, "id", "")
    return name in ("mutable_tensor", "mutable")
