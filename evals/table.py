"""Results and comparisons as tables."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from evals.baseline import Change
from evals.result import Result

_COLOURS = {
    "solved": "green", "refused": "green", "missed": "yellow", "wrong": "red", "unanswered": "red", "failed": "bold red",
    "better": "green", "worse": "red", "gone": "yellow", "incomparable": "yellow",
}  # fmt: skip


def result_table(results: Sequence[Result]) -> Table:
    """One row a problem: outcome, attempts, simulated latency, share of the roofline."""
    table = Table(box=None, pad_edge=False)
    longest = max((len(r.problem) for r in results), default=8)
    table.add_column("problem", no_wrap=True, min_width=longest)
    table.add_column("outcome", no_wrap=True, min_width=8)
    for name in ("attempts", "simulated us", "roofline", "seconds"):
        table.add_column(name, justify="right", no_wrap=True, min_width=len(name))
    table.add_column("goal", overflow="fold")
    for r in results:
        table.add_row(
            r.problem,
            Text(r.outcome, style=_COLOURS.get(r.outcome, "")),
            str(r.attempts or "-"),
            f"{r.latency_us:.2f}" if r.latency_us is not None and r.correct else "-",
            f"{r.roofline_fraction:.1%}" if r.roofline_fraction is not None and r.correct else "-",
            f"{r.seconds:.1f}",
            r.goal,
        )
    return table


def change_table(changes: Sequence[Change]) -> Table:
    """One row a problem: better, worse or the same, and by how much."""
    table = Table(box=None, pad_edge=False)
    table.add_column("problem", no_wrap=True)
    table.add_column("against baseline", no_wrap=True)
    table.add_column("what", overflow="ellipsis")
    for change in changes:
        table.add_row(change.problem, Text(change.kind, style=_COLOURS.get(change.kind, "")), change.text)
    return table
