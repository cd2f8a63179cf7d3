"""What names in kernel source mean in the language's modules, found without running the source."""

from __future__ import annotations

import ast
import difflib
from collections.abc import Iterator
from enum import EnumMeta
from types import ModuleType
from typing import Any

from tools.sim.errors import Diagnostic
from tools.sim.frontend.language import tile_size
from tools.sim.frontend.modules import is_language_module, language_module
from tools.sim.frontend.source_text import SourceText

BETA1_ONLY = {
    "arange": "slices or nl.ds",
    "mgrid": "slices or nl.ds",
    "par_dim": "dimension 0, which is always the partition dimension",
    "loop_reduce": "an accumulator tile",
    "spmd_dim": "a grid of one number",
    "nc": "a grid of one number",
    "static_cast": "the dtype of the destination",
}
"""Names of Beta 1 that the current language lacks, and what takes their place."""


class SourceNames:
    """The language modules that one module's names stand for.

    A name that is bound by anything besides imports (a parameter, an assignment) stands for nothing here. A name that
    several imports bind, as kernels for both dialects do, stands for all of them.
    """

    def __init__(self, tree: ast.Module) -> None:
        self.tree = tree
        self.bound: dict[str, list[Any]] = {}
        self.missing: list[tuple[ast.AST, ModuleType, str]] = []
        """Imports that fail: the node, the module and the name that it lacks."""
        self._guarded = {id(n) for block in ast.walk(tree) if isinstance(block, ast.Try) for n in ast.walk(block)}
        self._asked = {
            str(argument.value)
            for call in ast.walk(tree)
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id in ("hasattr", "getattr")
            for argument in call.args[1:2]
            if isinstance(argument, ast.Constant)
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.Import | ast.ImportFrom):
                self._import(node)
        for node in ast.walk(tree):
            name = node.id if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load) else None
            name = node.arg if isinstance(node, ast.arg) else name
            name = node.name if isinstance(node, ast.FunctionDef | ast.ClassDef) else name
            if name in self.bound:
                del self.bound[name]

    def _import(self, node: ast.Import | ast.ImportFrom) -> None:
        if isinstance(node, ast.ImportFrom):
            module = language_module(node.module) if node.module and not node.level else None
            for alias in node.names:
                if module is None or alias.name == "*":
                    self._bind(alias.asname or alias.name, None)
                    continue
                inner = language_module(f"{node.module}.{alias.name}")
                value = inner if inner is not None else getattr(module, alias.name, None)
                if value is None and id(node) not in self._guarded:
                    self.missing.append((alias, module, alias.name))
                self._bind(alias.asname or alias.name, value)
            return
        for alias in node.names:
            found = language_module(alias.name)
            if found is None and is_language_module(alias.name) and id(node) not in self._guarded:
                outer, _, name = alias.name.rpartition(".")
                parent = language_module(outer)
                if parent is not None:
                    self.missing.append((alias, parent, name))
            top = alias.name.split(".")[0]
            self._bind(alias.asname or top, found if alias.asname else language_module(top))

    def _bind(self, name: str, value: Any) -> None:
        self.bound.setdefault(name, []).append(value)

    def meaning(self, node: ast.expr) -> list[Any]:
        """The language's objects that a dotted name may mean; empty when it means none, or something unknown too."""
        if isinstance(node, ast.Name):
            found = self.bound.get(node.id, [])
            return [] if any(v is None for v in found) else found
        if not isinstance(node, ast.Attribute):
            return []
        owners = self.meaning(node.value)
        return [getattr(o, node.attr) for o in owners if _lists_members(o) and hasattr(o, node.attr)]

    def unknown(self) -> Iterator[tuple[ast.AST, Any, str]]:
        """Names that their module (or enumeration) doesn't have: the node, that owner, the name."""
        yield from self.missing
        for node in ast.walk(self.tree):
            if not isinstance(node, ast.Attribute) or id(node) in self._guarded or node.attr in self._asked:
                continue
            if node.attr.startswith("_"):  # a compiler's private instruction: which ones exist isn't published
                continue
            owners = self.meaning(node.value)
            if owners and all(_lists_members(o) and not hasattr(o, node.attr) for o in owners):
                yield node, owners[0], node.attr

    def spelling(self, module: ModuleType) -> str:
        """How this source writes a module's name."""
        return next((name for name, found in self.bound.items() if found == [module]), module.__name__)


def unknown_names(source: str, filename: str) -> list[Diagnostic]:
    """Names that the language doesn't have, each with the nearest one that it has, in order of lines.

    Args:
        source: text of a kernel's module; source that doesn't parse gives no findings here.
        filename: names the file in findings.
    """
    try:
        tree = ast.parse(source)
    except SyntaxError:
        return []
    names, text = SourceNames(tree), SourceText(filename, source)
    found = [
        text.finding(
            node,
            "KW-UNKNOWN-NAME",
            f"{_owner(names, owner)} has no {name!r}",
            _suggestion(names, owner, name),
            found=name,
        )
        for node, owner, name in names.unknown()
    ]
    return sorted(found, key=lambda d: (d.where.line, d.where.column) if d.where else (0, 0))


def _lists_members(value: Any) -> bool:
    """Whether every name that `value` has is known: a module that is modelled, an enumeration, the tile sizes."""
    return type(value) in (ModuleType, type(tile_size)) or isinstance(value, EnumMeta)


def _owner(names: SourceNames, owner: Any) -> str:
    if isinstance(owner, ModuleType):
        return owner.__name__
    return str(owner.__name__) if isinstance(owner, EnumMeta) else "nl.tile_size"


def _suggestion(names: SourceNames, owner: Any, name: str) -> str:
    """One sentence that names what was probably meant."""
    if isinstance(owner, ModuleType):
        top = owner.__name__.split(".language")[0].split(".isa")[0]
        for other in (language_module(f"{top}.{part}") for part in ("language", "isa")):
            if other is not None and other is not owner and hasattr(other, name):
                return f"write {names.spelling(other)}.{name}"
        if owner.__name__ == "nki.language" and name in BETA1_ONLY:
            return f"it is gone since 0.2; use {BETA1_ONLY[name]}"
    members = [m for m in dir(owner) if not m.startswith("_")]
    near = difflib.get_close_matches(name, members, 1, 0.6)
    if not near:
        return "check the spelling and the version; docs/compatibility.md lists every name"
    prefix = names.spelling(owner) if isinstance(owner, ModuleType) else _owner(names, owner)
    return f"did you mean {prefix}.{near[0]}?"
