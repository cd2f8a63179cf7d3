"""Stand-ins for modules that kernel files import for their host code and that aren't installed here.

Kernels are published next to the PyTorch or JAX script that calls them. The script's imports must not keep the kernel
from loading, so an absent module loads as a name that gives further names, decorates nothing and subclasses to nothing.
A kernel that calls one is told which module it lacks. An import that the file itself guards (`try: ... except
ImportError`) still fails: the file says what it does without the module.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from typing import Any, NoReturn

from tools.sim import context

_GUARDS = frozenset(("ImportError", "ModuleNotFoundError", "Exception", "BaseException"))


class _AbsentType(type):
    """Class of stand-ins. They are classes, so that host classes can derive from them and `isinstance` says no."""

    path: str

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__") and name != "__version__":
            raise AttributeError(f"{cls.path} isn't installed here and has no {name}")
        return "0" if name == "__version__" else absent(f"{cls.path}.{name}")

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        if context.find() is not None:
            _missing(cls.path)
        if len(args) == 1 and not kwargs and callable(args[0]) and not isinstance(args[0], _AbsentType):
            return args[0]  # a decorator leaves what it decorates
        return absent(f"{cls.path}()")

    def __getitem__(cls, key: Any) -> Any:
        return cls

    def __setitem__(cls, key: Any, value: Any) -> None:
        if context.find() is not None:
            _missing(cls.path)

    def __iter__(cls) -> Iterator[Any]:
        return iter(())

    def __len__(cls) -> int:
        return 0

    def __bool__(cls) -> bool:
        """False, as `cuda.is_available()`; but what a script asserts of its results is left standing."""
        return cls.path.endswith(("allclose()", "equal()"))

    def __enter__(cls) -> Any:
        return cls

    def __exit__(cls, *exception: object) -> None:
        return None

    def __repr__(cls) -> str:
        return f"<{cls.path}, not installed here>"


def _operator(name: str, answer: Any) -> None:
    def operate(cls: _AbsentType, *others: Any) -> Any:
        if context.find() is not None:
            _missing(cls.path)
        return cls if answer is None else answer

    setattr(_AbsentType, name, operate)


for _name in "add radd sub rsub mul rmul truediv rtruediv floordiv rfloordiv mod pow rpow matmul neg".split():
    _operator(f"__{_name}__", None)
for _name in "lt le gt ge".split():
    _operator(f"__{_name}__", False)


@cache
def absent(path: str) -> Any:
    """The stand-in for the dotted name `path` (always the same one, so that it can be a key)."""
    found = _AbsentType(path.rpartition(".")[2], (), {})
    found.path = path
    return found


def is_stand_in(value: object) -> bool:
    """Whether `value` stands for something of a module that isn't installed."""
    return isinstance(value, _AbsentType)


def _missing(path: str) -> NoReturn:
    module = path.split("(")[0]
    context.fail(
        "KW-ABSENT-MODULE",
        f"the kernel uses {module}, and {module.split('.')[0]!r} isn't installed here",
        found=module,
        fix="install it in this environment, or pass the folder that holds it in search_paths; "
        "kernels themselves need only nki, numpy and math",
    )


def is_absent(module: str) -> bool:
    """Whether no package of the top-level name of `module` is installed."""
    top = module.split(".")[0]
    try:
        return find_spec(top) is None
    except ValueError:  # a module put into sys.modules by hand
        return False


@cache
def guarded_lines(source: str) -> frozenset[int]:
    """Lines of `source` that lie in a `try` (or `suppress`) which expects an import to fail."""
    lines: set[int] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Try):
            if any(h.type is None or _GUARDS & _names(h.type) for h in node.handlers):
                lines.update(_span(node.body))
        elif isinstance(node, ast.With) and any(_GUARDS & _names(item.context_expr) for item in node.items):
            lines.update(_span(node.body))
    return frozenset(lines)


def _names(node: ast.expr) -> set[str]:
    return {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}


def _span(body: list[ast.stmt]) -> range:
    return range(body[0].lineno, (body[-1].end_lineno or body[-1].lineno) + 1)
