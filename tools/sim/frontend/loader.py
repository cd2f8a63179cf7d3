"""Loads kernel source: finds its dialect, binds the language modules, and keeps the text for diagnostics.

Nothing of the host is patched: kernel modules get their own `__import__`, which serves the language modules and the
kernel's own packages from a private module space.
"""

from __future__ import annotations

import ast
import builtins
import inspect
import linecache
import logging
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any

from tools.sim.errors import Diagnostic, KernelError, SourceRange
from tools.sim.frontend.absent import absent, guarded_lines, is_absent
from tools.sim.frontend.annotations import CHECK, annotated, checked
from tools.sim.frontend.modules import is_language_module, language_module

SAFE_IMPORTS = frozenset(
    "__future__ abc collections contextlib copy dataclasses enum functools itertools logging math ml_dtypes numbers numpy "
    "operator random string textwrap typing typing_extensions warnings types inspect".split()
)
"""Modules that untrusted kernel source may import besides the language."""


@dataclass(slots=True)
class LoadedKernel:
    """Kernel source, executed as a module, and its entry point.

    Attributes:
        function: the undecorated Python function.
        namespace: the module's globals.
        dialect: `nki` or `neuronxcc.nki`.
        files: source files whose lines diagnostics and traces may name.
        sources: their texts.
    """

    name: str
    function: Callable[..., Any]
    namespace: dict[str, Any]
    dialect: str
    path: str
    space: ModuleSpace
    jit: Any = None

    @property
    def files(self) -> set[str]:
        """Every source file loaded for this kernel so far."""
        return self.space.files

    @property
    def sources(self) -> dict[str, str]:
        """Text of each file in `files`."""
        return self.space.sources

    @property
    def signature(self) -> inspect.Signature:
        """Parameters of the entry point."""
        return inspect.signature(self.function)


@dataclass(slots=True)
class ModuleSpace:
    """A private set of modules for one kernel."""

    search_paths: tuple[Path, ...] = ()
    allowed: frozenset[str] | None = None
    builtins: Mapping[str, Any] | None = None
    """Built-in names of the kernel's modules; None: Python's own."""
    modules: dict[str, ModuleType] = field(default_factory=dict)
    files: set[str] = field(default_factory=set)
    sources: dict[str, str] = field(default_factory=dict)
    dialects: set[str] = field(default_factory=set)

    def execute(
        self,
        source: str,
        filename: str,
        name: str,
        package: str,
        prelude: Sequence[str] = (),
        path: Path | None = None,
    ) -> ModuleType:
        """Run source text as module `name`, a package if its folder `path` is given; returns the module."""
        module = ModuleType(name)
        if path is not None:  # before the source runs, which may import its own parts
            module.__path__ = [str(path)]
        module.__file__ = filename
        module.__package__ = package
        namespace = module.__dict__
        bound = dict(vars(builtins) if self.builtins is None else self.builtins)
        bound["__import__"] = self.import_module
        bound[CHECK] = annotated
        namespace["__builtins__"] = bound
        self.modules[name] = module
        self.files.add(filename)
        self.sources[filename] = source
        linecache.cache[filename] = (len(source), None, source.splitlines(keepends=True), filename)
        try:
            code = compile(checked(source), filename, "exec", dont_inherit=True)
        except SyntaxError as error:
            where = SourceRange(filename, error.lineno or 1, (error.offset or 1) - 1, text=(error.text or "").strip())
            raise KernelError(
                Diagnostic(code="KW-SYNTAX", message=f"{error.msg}", where=where, fix="correct the Python syntax")
            ) from None
        if prelude:
            exec(compile("\n".join(prelude), f"{filename}<prelude>", "exec"), namespace)
        # @dataclass looks its module up by name while it reads annotations that are strings
        listed = sys.modules.setdefault(name, module)
        try:
            exec(code, namespace)
        finally:
            if listed is module:
                sys.modules.pop(name, None)
        return module

    def import_module(
        self, name: str, globals: Any = None, locals: Any = None, fromlist: Iterable[str] = (), level: int = 0
    ) -> Any:
        """`__import__` for kernel code."""
        full = name
        if level:
            package = (globals or {}).get("__package__") or ""
            parts = package.split(".")
            if level > 1:
                parts = parts[: len(parts) - level + 1]
            full = ".".join([p for p in (*parts, name) if p])
        leaf = self._load(full)
        if leaf is None:
            if self.allowed is not None and full.split(".")[0] not in self.allowed:
                frame = sys._getframe(1)
                text = linecache.getline(frame.f_code.co_filename, frame.f_lineno).strip()
                raise KernelError(
                    Diagnostic(
                        code="KW-IMPORT",
                        message=f"a kernel may not import {full!r}",
                        where=SourceRange(frame.f_code.co_filename, frame.f_lineno, text=text),
                        found=full,
                        fix="use only nki, numpy, math and the pure parts of the standard library",
                    )
                )
            if full == "logging":
                return _quiet_logging()
            if self._for_host_code(full, sys._getframe(1)):
                return absent(full if fromlist else full.split(".")[0])
            return builtins.__import__(name, globals, locals, list(fromlist or ()), level)
        if fromlist:
            for item in fromlist:
                if item != "*" and not hasattr(leaf, item):
                    self._load(f"{full}.{item}")
            return leaf
        return self._load(full.split(".")[0]) or leaf

    def _for_host_code(self, full: str, importer: FrameType) -> bool:
        """Whether the import at `importer` is of a module that isn't here, and the file has no plan for that."""
        if self.allowed is not None or is_language_module(full) or not is_absent(full):
            return False
        return importer.f_lineno not in guarded_lines(self.sources.get(importer.f_code.co_filename, ""))

    def _load(self, full: str) -> ModuleType | None:
        if is_language_module(full):
            dialect = "neuronxcc.nki" if full.startswith("neuronxcc") else "nki"
            self.dialects.add(dialect)
            return language_module(full)
        found = self.modules.get(full)
        if found is not None:
            return found
        parent, _, leaf = full.rpartition(".")
        if parent:
            above = self._load(parent)
            if above is None:
                return None
            found = self.modules.get(full)
            if found is not None:  # the package imported it while it loaded
                return found
            roots = [Path(p) for p in getattr(above, "__path__", ())]
        else:
            roots = list(self.search_paths)
        for root in roots:
            package = root / leaf
            if (package / "__init__.py").is_file():
                module = self._source_module(full, package / "__init__.py", package)
                break
            if (root / f"{leaf}.py").is_file():
                module = self._source_module(full, root / f"{leaf}.py", None)
                break
            if package.is_dir() and any(package.glob("*.py")) | any(p.is_dir() for p in package.iterdir()):
                module = ModuleType(full)
                module.__path__ = [str(package)]
                self.modules[full] = module
                break
        else:
            return None
        if parent:
            setattr(self.modules[parent], leaf, module)
        return module

    def _source_module(self, full: str, file: Path, package: Path | None) -> ModuleType:
        text = file.read_text(encoding="utf-8")
        if package is None:
            return self.execute(text, str(file), full, full.rpartition(".")[0])
        return self.execute(text, str(file), full, full, path=package)


@cache
def _quiet_logging() -> ModuleType:
    """The `logging` that kernels see: with the level OFF that the compiler package adds, and without a way to silence us."""
    seen = ModuleType("logging", logging.__doc__)
    seen.__dict__.update(vars(logging), OFF=logging.CRITICAL + 10, disable=lambda level=logging.CRITICAL: None)
    return seen


_BETA1_CORE = ("neuronxcc", "neuronxcc.nki", "neuronxcc.nki.language", "neuronxcc.nki.isa")
_CURRENT_CORE = ("nki", "nki.language", "nki.isa")
"""Modules whose import decides the dialect; annotations and constants are imported across dialects."""


def detect_dialect(source: str) -> str:
    """`neuronxcc.nki` when the source imports that namespace, else `nki`."""
    try:
        tree = ast.parse(source)
    except SyntaxError:
        return "nki"
    beta1 = current = False
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [a.name for a in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [node.module]
        beta1 |= any(n in _BETA1_CORE for n in names)
        current |= any(n in _CURRENT_CORE for n in names)
    return "neuronxcc.nki" if beta1 and not current else "nki"


def load_kernel(
    path: str | Path,
    function: str,
    module: str | None = None,
    search_paths: Sequence[str | Path] = (),
    prelude: Sequence[str] = (),
    allowed_imports: frozenset[str] | None = None,
) -> LoadedKernel:
    """Load a kernel from a file.

    Args:
        path: the source file.
        function: name of the entry point (a function, decorated or not).
        module: dotted name to import it by, when it uses package-relative imports; looked up in `search_paths`.
        search_paths: folders in which the kernel's own imports are looked up (the file's folder is always one).
        prelude: lines to execute in the module before its source (files shipped without their imports).
        allowed_imports: for untrusted source, the modules it may import besides the language.

    Raises:
        KernelError: the source can't be executed, or holds no such function.
    """
    file = Path(path)
    roots = tuple(Path(p) for p in search_paths)
    source = file.read_text(encoding="utf-8")
    space = ModuleSpace((*roots, file.parent), allowed_imports)
    if module is not None:
        loaded = _guarded(lambda: space._load(module), str(file), space)
        if loaded is None:
            raise _missing(f"module {module!r} isn't in {', '.join(map(str, roots)) or 'the search paths'}", str(file))
        return _entry(loaded, function, source, str(file), space, prelude)
    name = file.stem
    loaded = _guarded(lambda: space.execute(source, str(file), name, "", prelude), str(file), space)
    return _entry(loaded, function, source, str(file), space, prelude)


def load_source(
    source: str,
    function: str = "kernel",
    filename: str = "kernel.py",
    allowed_imports: frozenset[str] | None = None,
    builtins: Mapping[str, Any] | None = None,
    modules: Mapping[str, ModuleType] | None = None,
) -> LoadedKernel:
    """Load a kernel from source text.

    Args:
        filename: only names it in diagnostics.
        allowed_imports, builtins, modules: for untrusted source, what it may import besides the language, its built-in
            names, and stand-ins for modules that it imports.
    """
    space = ModuleSpace((), allowed_imports, builtins, dict(modules or {}))
    loaded = _guarded(lambda: space.execute(source, filename, "kernel", ""), filename, space)
    return _entry(loaded, function, source, filename, space, ())


def _guarded(load: Callable[[], Any], filename: str, space: ModuleSpace) -> Any:
    """Run module code; an exception from kernel source becomes a Diagnostic."""
    from tools.sim.execute import blame

    try:
        return load()
    except KernelError as error:
        if error.diagnostic.where is not None:
            raise
        raise KernelError(replace(error.diagnostic, where=_innermost(error, space.files))) from None
    except Exception as error:
        raise blame(error, space.files) from error


def _innermost(error: BaseException, files: set[str]) -> SourceRange | None:
    """The deepest line of kernel source that an exception passed through: module code runs on no core that knows it."""
    found: SourceRange | None = None
    walker = error.__traceback__
    while walker is not None:
        file = walker.tb_frame.f_code.co_filename
        if file in files:
            found = SourceRange(file, walker.tb_lineno, text=linecache.getline(file, walker.tb_lineno).strip())
        walker = walker.tb_next
    return found


def _missing(message: str, filename: str) -> KernelError:
    return KernelError(
        Diagnostic(code="KW-NO-FUNCTION", message=message, where=SourceRange(filename, 1), fix="check the name")
    )


def _entry(
    module: ModuleType, function: str, source: str, filename: str, space: ModuleSpace, prelude: Sequence[str]
) -> LoadedKernel:
    from tools.sim.frontend.jit import JitKernel

    found = getattr(module, function, None)
    if found is None:
        names = [n for n, v in vars(module).items() if isinstance(v, JitKernel) or inspect.isfunction(v)]
        raise _missing(f"there is no function {function!r}; the source has {', '.join(names) or 'none'}", filename)
    jit = found if isinstance(found, JitKernel) else None
    raw = jit.function if jit is not None else found
    if not callable(raw):
        raise _missing(f"{function!r} isn't a function", filename)
    dialect = jit.dialect if jit is not None else detect_dialect("\n".join((*prelude, source)))
    return LoadedKernel(function, raw, vars(module), dialect, filename, space, jit)
