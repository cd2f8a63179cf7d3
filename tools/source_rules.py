"""What kernel source may say, judged by its syntax tree: imports, names and attributes that reach the host are refused.

Kernels are held to these rules before anything of them runs. They are the first wall, not the only one: the process that
loads a kernel is confined as well, and values are computed in another process from the recorded instructions.
"""

from __future__ import annotations

import ast
import builtins
import importlib
import importlib.util
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from types import ModuleType
from typing import Any

from tools.sim.errors import Diagnostic, KernelError, SourceRange

KERNEL_IMPORTS = frozenset(
    "__future__ abc collections dataclasses enum functools itertools math ml_dtypes numbers numpy typing "
    "typing_extensions".split()
)
"""Modules that a kernel may import besides the language."""

REFERENCE_IMPORTS = KERNEL_IMPORTS | frozenset("operator warnings scipy".split())
"""Modules that a NumPy reference may import."""

LANGUAGES = ("nki", "neuronxcc")

_NAMES = frozenset(
    "open exec eval compile input breakpoint globals locals vars __import__ memoryview exit quit help dir delattr id "
    "__builtins__ __loader__ __spec__".split()
)
"""Built-in names that a kernel has no use for and that reach the host or the simulator's own objects."""

_ATTRIBUTES = frozenset(
    "os sys builtins modules subprocess ctypes ctypeslib f2py testing lib io importlib inspect gc socket "
    "gi_frame gi_code cr_frame ag_frame f_back f_globals f_locals f_builtins f_code f_trace tb_frame tb_next tb_lineno "
    "func_globals func_code mro "
    "save savez savez_compressed loadtxt savetxt genfromtxt fromfile tofile memmap fromregex open_memmap "
    "buffer host map_view read read_float read_cached write wrote reinterpret_cast data_ptr "
    "launch builder issue simulate cpu_simulate attrgetter methodcaller".split()
)
"""Attributes that lead from allowed objects to the host, to files, or into the simulator's state."""

_SPECIAL = frozenset(
    "__init__ __post_init__ __call__ __name__ __doc__ __len__ __getitem__ __iter__ __next__ __eq__ __hash__ __repr__ __str__ "
    "__enter__ __exit__ __add__ __radd__ __sub__ __rsub__ __mul__ __rmul__ __floordiv__ __mod__ __neg__ __lt__ __le__ "
    "__gt__ __ge__ __bool__ __contains__ __all__ __version__ __index__ __int__ __float__ __set_name__".split()
)


def violations(source: str, filename: str = "kernel.py") -> Iterator[Diagnostic]:
    """Everything in kernel source that is refused, in order of lines; a syntax error is the only finding then."""
    try:
        tree = ast.parse(source, filename)
    except SyntaxError as error:
        where = SourceRange(filename, error.lineno or 1, (error.offset or 1) - 1, text=(error.text or "").strip())
        yield Diagnostic(code="KW-SYNTAX", message=f"{error.msg}", where=where, fix="correct the Python syntax")
        return
    except (ValueError, RecursionError, MemoryError) as error:
        yield Diagnostic(
            code="KW-SYNTAX",
            message=f"the source can't be parsed: {error}",
            where=SourceRange(filename, 1),
            fix="write plain text without null bytes and without thousands of nested brackets",
        )
        return
    lines = source.splitlines()
    nodes: list[Any] = list(ast.walk(tree))
    bound = {node.arg for node in nodes if isinstance(node, ast.arg)}
    bound |= {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    found = [(node, problem) for node in nodes for problem in _problems(node, bound)]
    for node, (code, what, name) in sorted(found, key=lambda pair: (pair[0].lineno, pair[0].end_col_offset)):
        text = lines[node.lineno - 1].strip() if node.lineno <= len(lines) else ""
        yield Diagnostic(
            code=code,
            message=what,
            where=SourceRange(filename, node.lineno, node.col_offset, text=text),
            found=name,
            fix="use only nki, numpy, math and the pure parts of the standard library"
            if code == "KW-IMPORT"
            else "a kernel works on its arguments with nki instructions only; remove this",
        )


def _problems(node: Any, bound: set[str]) -> Iterator[tuple[str, str, str]]:
    if isinstance(node, ast.Import):
        for alias in node.names:
            yield from _import(alias.name, ())
    elif isinstance(node, ast.ImportFrom):
        if node.level:
            yield "KW-IMPORT", "a kernel is one file; it can't import from a package of its own", "."
        else:
            yield from _import(node.module or "", tuple(alias.name for alias in node.names))
    elif isinstance(node, ast.Attribute):
        own = isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
        if not own or _is_special(node.attr):
            yield from _attribute(node.attr)
    elif isinstance(node, ast.Constant) and isinstance(node.value, str) and _is_special(node.value):
        yield "KW-FORBIDDEN", f"a kernel may not use the name {node.value!r}", node.value
    elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and _is_special(node.name):
        yield "KW-FORBIDDEN", f"a kernel may not define {node.name}", node.name
    elif isinstance(node, ast.MatchClass):
        for name in node.kwd_attrs:
            yield from _attribute(name)
    elif isinstance(node, ast.Name) and (_is_special(node.id) or (node.id in _NAMES and node.id not in bound)):
        yield "KW-FORBIDDEN", f"a kernel may not use {node.id}", node.id


def _import(module: str, names: tuple[str, ...]) -> Iterator[tuple[str, str, str]]:
    top, *rest = module.split(".")
    if top in LANGUAGES:
        return
    if top not in KERNEL_IMPORTS:
        yield "KW-IMPORT", f"a kernel may not import {module!r}", module
        return
    for name in (*rest, *names):
        if name in _ATTRIBUTES or _is_hidden(name) or name == "*":
            yield "KW-IMPORT", f"a kernel may not import {name!r} from {module!r}", f"{module}.{name}"


def _attribute(name: str) -> Iterator[tuple[str, str, str]]:
    if name in _ATTRIBUTES or _is_hidden(name):
        yield "KW-FORBIDDEN", f"a kernel may not use the attribute .{name}", name


def _is_special(name: str) -> bool:
    """Whether a name belongs to the interpreter's machinery and isn't a plain operator."""
    return name.startswith("__") and name.endswith("__") and len(name) > 4 and name not in _SPECIAL


def _is_hidden(name: str) -> bool:
    """Whether an attribute is the interpreter's or another object's own business."""
    return name.startswith("_") and name != "_" and name not in _SPECIAL


def _refuse(name: str) -> Callable[..., Any]:
    def refused(*_: Any, **__: Any) -> Any:
        raise KernelError(
            Diagnostic(
                code="KW-FORBIDDEN",
                message=f"a kernel may not use {name}",
                found=name,
                fix="a kernel works on its arguments with nki instructions only; remove this",
            )
        )

    refused.__name__ = name
    return refused


def _checked(function: Callable[..., Any], name: str) -> Callable[..., Any]:
    """getattr and its kin with the rules for attributes applied to computed names."""

    def call(obj: Any, attribute: Any, *rest: Any) -> Any:
        problem = next(_attribute(str(attribute)), None)
        if problem is not None or type(attribute) is not str:
            raise KernelError(
                Diagnostic(
                    code="KW-FORBIDDEN",
                    message=f"{name}: a kernel may not use the attribute .{attribute}",
                    found=str(attribute),
                    fix="remove this; a kernel needs no access to the interpreter",
                )
            )
        return function(obj, attribute, *rest)

    call.__name__ = name
    return call


def kernel_builtins() -> Mapping[str, Any]:
    """The built-in names of kernel code: without those that reach the host."""
    names = dict(vars(builtins))
    for name in _NAMES:
        if name in names and callable(names[name]):
            names[name] = _refuse(name)
    for name in ("getattr", "setattr", "hasattr"):
        names[name] = _checked(names[name], name)
    names["type"] = _type_of
    return names


def _type_of(value: Any) -> Any:
    """`type` with one argument; classes are made with `class`."""
    return type(value)


_OFFERED = {
    "__future__": "annotations",
    "abc": "ABC ABCMeta abstractmethod",
    "collections": "namedtuple defaultdict OrderedDict Counter deque ChainMap",
    "dataclasses": "dataclass field replace asdict astuple KW_ONLY",
    "enum": "Enum IntEnum StrEnum Flag IntFlag auto unique",
    "functools": "reduce partial lru_cache cache cmp_to_key",
}
"""What a kernel gets of modules that hold more than it needs; None of a module's own imports is among it."""

_WITHHELD = frozenset(
    "get_type_hints ForwardRef get_overloads clear_overloads load save savez savez_compressed loadtxt savetxt genfromtxt "
    "fromfile fromregex memmap DataSource seterrcall show_config show_runtime test info errstate vectorize frompyfunc "
    "set_printoptions getbufsize setbufsize".split()
)


@cache
def kernel_modules() -> dict[str, ModuleType]:
    """The modules that a kernel may import, each reduced to plain functions, types and constants."""
    found = {}
    for name in sorted(KERNEL_IMPORTS):
        real = importlib.import_module(name) if importlib.util.find_spec(name) is not None else None
        if real is None:
            continue
        offered = _OFFERED[name].split() if name in _OFFERED else [n for n in vars(real) if not n.startswith("_")]
        module = ModuleType(name)
        for item in offered:
            value = vars(real).get(item)
            if value is not None and not isinstance(value, ModuleType) and item not in _WITHHELD:
                setattr(module, item, value)
        found[name] = module
    abc = ModuleType("collections.abc")
    real_abc = importlib.import_module("collections.abc")
    for item in real_abc.__all__:
        setattr(abc, item, getattr(real_abc, item))
    found["collections.abc"] = found["collections"].abc = abc  # type: ignore[attr-defined]
    return found
