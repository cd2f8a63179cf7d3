"""The tool `lint`: what can be said about kernel source without running it."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from tools.sandbox import Worker, borrowed
from tools.task import Finding, Frozen


class LintArgs(BaseModel):
    """Check kernel source without running it: syntax, imports, names that don't exist, oversized tiles."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    source: str = Field(max_length=200_000, description="Complete source of the kernel's module.")
    strict: bool = Field(default=False, description="Add the compiler's rules: Python subset, spellings by version.")


class LintResult(Frozen):
    """Findings in order of lines."""

    findings: tuple[Finding, ...]


def lint(args: LintArgs, *, worker: Worker | None = None) -> LintResult:
    """Check kernel source."""
    with borrowed(worker) as hired:
        return LintResult(findings=hired.lint(args.source, args.strict))
