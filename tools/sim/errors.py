"""Findings and failures: what the simulator says about a kernel, and to whom.

A kernel's fault is a `Diagnostic` (carried by `KernelError` when it stops the run). A gap of ours is an
`UnsupportedError`. Everything else that escapes is a bug of ours.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class Severity(StrEnum):
    """How bad a finding is: an `error` makes the kernel unusable, a `warning` asks for a look."""

    ERROR = "error"
    WARNING = "warning"
    NOTE = "note"


@dataclass(frozen=True, slots=True)
class SourceRange:
    """A place in kernel source: 1-based line, 0-based column (-1 when unknown)."""

    file: str
    line: int
    column: int = -1
    end_line: int = -1
    end_column: int = -1
    text: str = ""

    def __str__(self) -> str:
        column = f":{self.column + 1}" if self.column >= 0 else ""
        return f"{self.file}:{self.line}{column}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnostic:
    """One finding about a kernel, for people and for models.

    Attributes:
        code: stable identifier, e.g. `KW-PARTITION-LIMIT`; the table is `docs/diagnostics.md`.
        severity: `error`, `warning` or `note`.
        message: one sentence saying what is wrong.
        where: kernel source range, if a line of the kernel is to blame.
        operand: name of the argument that is at fault.
        found: the value met.
        limit: the value allowed.
        fix: one sentence saying what to do.
    """

    code: str
    message: str
    severity: Severity = Severity.ERROR
    where: SourceRange | None = None
    operand: str = ""
    found: Any = None
    limit: Any = None
    fix: str = ""
    related: tuple[SourceRange, ...] = field(default=())

    def __str__(self) -> str:
        place = f"{self.where}: " if self.where else ""
        stop = "" if self.message.endswith((".", "!", "?")) else "."
        fix = f"{stop} Fix: {self.fix}" if self.fix else ""
        return f"{place}{self.severity} {self.code}: {self.message}{fix}"

    def to_json(self) -> dict[str, Any]:
        """This finding as plain JSON values."""
        where = self.where
        return {
            "code": self.code,
            "severity": str(self.severity),
            "message": self.message,
            "file": where.file if where else None,
            "line": where.line if where else None,
            "column": where.column + 1 if where and where.column >= 0 else None,
            "source": where.text if where else "",
            "operand": self.operand,
            "found": _plain(self.found),
            "limit": _plain(self.limit),
            "fix": self.fix,
        }


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return str(value)


class KernelError(Exception):
    """The kernel is at fault; carries the `Diagnostic` that says why and how to mend it."""

    def __init__(self, diagnostic: Diagnostic) -> None:
        super().__init__(str(diagnostic))
        self.diagnostic = diagnostic


class UnsupportedError(Exception):
    """The simulator doesn't model something that the language allows: our gap, not the kernel's fault."""

    def __init__(self, what: str) -> None:
        super().__init__(f"not modelled by this simulator: {what}")
        self.what = what
