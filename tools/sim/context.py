"""The core that is executing kernel code on this thread, and how code deep inside reports to it."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from tools.sim.errors import Diagnostic, KernelError, Severity, SourceRange, UnsupportedError

if TYPE_CHECKING:
    from tools.sim.core import Core
    from tools.sim.tensor import Tensor


class _Current(threading.local):
    core: Core | None = None


_current = _Current()


def current() -> Core:
    """The core on which this thread runs a kernel.

    Raises:
        KernelError: called outside a kernel.
    """
    core = _current.core
    if core is None:
        fail(
            "KW-OUTSIDE-KERNEL",
            "an nki API was called outside a running kernel",
            fix="call it inside a function decorated with @nki.jit, and run that through simulate()",
        )
    return core


def find() -> Core | None:
    """The running core, or None."""
    return _current.core


def enter(core: Core | None) -> Core | None:
    """Make `core` the running one; returns the one before."""
    before = _current.core
    _current.core = core
    return before


def fail(
    code: str, message: str, *, operand: str = "", found: Any = None, limit: Any = None, fix: str = ""
) -> NoReturn:
    """Stop the kernel with an error that names its source line."""
    core = _current.core
    where = core.where() if core is not None else None
    raise KernelError(
        Diagnostic(code=code, message=message, where=where, operand=operand, found=found, limit=limit, fix=fix)
    )


def strict_fail(
    code: str,
    message: str,
    *,
    dialect: str = "",
    operand: str = "",
    found: Any = None,
    limit: Any = None,
    fix: str = "",
) -> None:
    """Like `fail` in a strict run (of that dialect, if one is named), nothing otherwise: what only the compiler refuses."""
    core = _current.core
    if core is not None and core.options.strict and dialect in ("", core.launch.dialect):
        fail(code, message, operand=operand, found=found, limit=limit, fix=fix)


def warn(
    code: str,
    message: str,
    *,
    severity: Severity = Severity.WARNING,
    operand: str = "",
    found: Any = None,
    limit: Any = None,
    fix: str = "",
) -> None:
    """Note a finding that doesn't stop the kernel (once per code and source line)."""
    core = _current.core
    if core is not None:
        core.report(code, message, severity, operand=operand, found=found, limit=limit, fix=fix)


def unsupported(what: str) -> NoReturn:
    """Stop: the language has this, we don't model it."""
    core = _current.core
    where = core.where() if core is not None else None
    raise UnsupportedError(f"{what}" + (f" ({where})" if where else ""))


def uninitialised(tensor: Tensor, where: tuple[int, ...]) -> None:
    """Report that an instruction reads an element that nothing ever wrote.

    Masked operations of Beta 1 leave elements unwritten by design, and everything computed from their results reads
    them; there the finding is made once per origin, and further reading lines are added to it.
    """
    core = _current.core
    if core is None:
        return
    buffer = tensor.buffer
    line, launch = buffer.line, core.launch
    allocated = launch.line_text(line)
    shape = "x".join(map(str, buffer.shape))
    if launch.dialect == "nki" or not allocated or buffer.written is None or not buffer.written.any():
        warn(
            "KW-UNINITIALISED",
            f"reads element {list(where)} of a {list(tensor.shape)} view of {buffer.name or 'a tensor'} "
            f"({buffer.space}, {shape} {buffer.dtype}{allocated}), which was never written",
            operand=buffer.name,
            found=list(where),
            fix="write it first (dma_copy, memset or an instruction), or shrink the operand to the part that was written",
        )
        return
    origin = SourceRange(*launch.lines[line])
    reader = core.where()
    for i, known in enumerate(launch.diagnostics):
        if known.code == "KW-UNINITIALISED" and known.related[:1] == (origin,):
            if reader is not None and reader != known.where and reader not in known.related:
                launch.diagnostics[i] = replace(known, related=(*known.related, reader))
            return
    place = f"{origin.file.rsplit('/', 1)[-1]}:{origin.line}"
    what = f"the {buffer.name or 'masked result'} at {place} " if buffer.role == "result" else f"the tile of {place} "
    launch.diagnostics.append(
        Diagnostic(
            code="KW-UNINITIALISED",
            message=f"reads element {list(where)} of a {list(tensor.shape)} view of {what}({buffer.space}, {shape} "
            f"{buffer.dtype}), which was written in part only; what comes of it must not reach an output",
            severity=Severity.WARNING,
            where=reader,
            operand=buffer.name,
            found=list(where),
            fix="mask what reduces or stores it as well, or memset the whole tile before the masked write",
            related=(origin,),
        )
    )


def index_value(value: Any) -> int:
    """An index as a Python integer: ints, registers, 1-element tensors."""
    if type(value) is int:
        return value
    if isinstance(value, int | np.integer):
        return int(value)
    resolve = getattr(value, "__index_value__", None)
    if resolve is not None:
        return int(resolve())
    from tools.sim.tensor import Tensor

    if isinstance(value, Tensor):
        if value.size != 1:
            fail("KW-INDEX-TYPE", f"{value!r} is used as one index but holds {value.size} elements")
        core = _current.core
        if (core is None and value.buffer.data is None) or (core is not None and not core.settle()):
            if core is not None:
                core.depends_on_data = True
            return 0
        return int(value.read().reshape(-1)[0])
    if isinstance(value, float) and value.is_integer():
        fail(
            "KW-INDEX-TYPE",
            f"index {value!r} is a float",
            found=value,
            fix="divide with // instead of /",
        )
    fail("KW-INDEX-TYPE", f"{type(value).__name__} {value!r} can't be an index", fix="use an integer")
