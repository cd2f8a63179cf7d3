"""Kernel source as findings point at it: a file's name and its lines."""

from __future__ import annotations

import ast
from typing import Any

from tools.sim.errors import Diagnostic, Severity, SourceRange


class SourceText:
    """One module's text, which knows where its syntax nodes lie."""

    def __init__(self, filename: str, source: str) -> None:
        self.filename = filename
        self.lines = source.splitlines()

    def finding(
        self,
        node: ast.AST,
        code: str,
        message: str,
        fix: str,
        severity: Severity = Severity.ERROR,
        *,
        operand: str = "",
        found: Any = None,
        limit: Any = None,
    ) -> Diagnostic:
        """A finding about the source range of `node`."""
        line = getattr(node, "lineno", 1)
        text = self.lines[line - 1].strip() if 0 < line <= len(self.lines) else ""
        column = getattr(node, "col_offset", -1)
        end_line, end_column = getattr(node, "end_lineno", -1) or -1, getattr(node, "end_col_offset", -1)
        where = SourceRange(self.filename, line, column, end_line, -1 if end_column is None else end_column, text)
        return Diagnostic(
            code=code,
            message=message,
            severity=severity,
            where=where,
            operand=operand,
            found=found,
            limit=limit,
            fix=fix,
        )
