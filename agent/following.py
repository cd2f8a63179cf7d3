"""A run as the command line shows it: progress while it goes on, then its result and the files that it leaves."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from agent.events import Event, RunFinished, RunRefused
from agent.output import save
from agent.render import Progress, show_report
from agent.report import Report
from tools.task_errors import RequestError

if TYPE_CHECKING:
    from agent.runs import Runs

OK, MISSED, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130
"""Exit status: goal met; goal missed or nothing correct; bad input or settings; stopped by Ctrl-C."""


def follow(runs: Runs, run_id: str, *, after: int = 0, out: Path | None, as_json: bool) -> int:
    """Show a run until it ends, then its result; returns the exit status."""
    progress = Progress(Console(stderr=True))
    report: Report | None = None
    refused: RunRefused | None = None
    interrupted = False
    try:
        for event, again in watched(runs, run_id, after):
            interrupted = again
            progress.show(event)
            report = event.report if isinstance(event, RunFinished) else report
            refused = event if isinstance(event, RunRefused) else refused
    finally:
        progress.stop()
    if report is None:
        message = refused.message if refused else f"run {run_id} ended without a report"
        if interrupted:
            print(f"kernelwright: {message}", file=sys.stderr)
            return INTERRUPTED
        raise RequestError(message)
    if as_json:
        print(report.model_dump_json(indent=2))
    else:
        show_report(Console(), report)
    if out is not None:
        tell_saved(save(report, out))
    if interrupted:
        return INTERRUPTED
    return OK if report.correct and report.goal_met else MISSED


def watched(runs: Runs, run_id: str, after: int) -> Iterator[tuple[Event, bool]]:
    """A run's events, and whether Ctrl-C was pressed; the first asks for a stop, the second doesn't wait for it."""
    interrupted = False
    while True:
        try:
            for event in runs.stream(run_id, after):
                after = event.seq
                yield event, interrupted
            return
        except KeyboardInterrupt:
            interrupted = True
            runs.cancel(run_id)
            print("\nstopping; the best kernel so far follows (Ctrl-C again: at once)", file=sys.stderr)


def tell_saved(paths: list[Path]) -> None:
    """Say which files were written, on standard error."""
    print(f"saved {' and '.join(map(str, paths))}", file=sys.stderr)
