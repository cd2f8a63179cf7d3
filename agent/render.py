"""Events and reports as text for a terminal or a pipe. Rendering only: nothing here decides or stores."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from rich.console import Console, Group, RenderableType
from rich.status import Status
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text

from agent.events import (
    CandidateChecked,
    CandidateDrafted,
    Decided,
    Event,
    ModelRetried,
    ModelText,
    Noted,
    PhaseEntered,
    RunStarted,
    TaskSpecified,
    ToolCalled,
)
from agent.report import CandidateSummary, Report
from agent.state import Phase
from tools.task import EngineTime, Trial

_DOING = {
    Phase.SPECIFY: "reading the request",
    Phase.DRAFT: "writing the first kernel",
    Phase.CHECK: "running it on the simulator and comparing with the reference",
    Phase.DEBUG: "looking for the fault",
    Phase.PROFILE: "reading the profile",
    Phase.IMPROVE: "looking for a faster schedule",
    Phase.DECIDE: "deciding",
    Phase.REPORT: "summing up",
}


class Progress:
    """Shows a run's events as they come: one line each, with a spinner on a terminal."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._status: Status | None = None
        self._held: Event | None = None

    def show(self, event: Event) -> None:
        """Show one event; those that say nothing new to a person make no line."""
        if isinstance(event, PhaseEntered):
            self._spin(_DOING[event.phase])
            return
        if isinstance(event, RunStarted):
            # Held until something follows: a refused request needs no more than its one sentence.
            self._held = event
            return
        if eventLine(event) is None:
            return
        if self._held is not None:
            self._print(self._held)
            self._held = None
        self._print(event)

    def _print(self, event: Event) -> None:
        line = eventLine(event)
        if line is None:
            return
        stamp = f"{event.seconds:7.1f}s"
        if not self._console.is_terminal:
            # On a pipe a line is one line.
            text = f"{stamp}  {line.label:<9}{line.text}"
            self._console.print(text, soft_wrap=True, highlight=False, markup=False)
            return
        row = Table.grid(padding=(0, 2, 0, 0))
        row.add_column(style="dim", no_wrap=True)
        row.add_column(style="cyan", no_wrap=True, min_width=8)
        row.add_column(ratio=1)
        row.add_row(stamp, line.label, Text(line.text, style=line.style))
        self._console.print(row, highlight=False)

    def stop(self) -> None:
        """Take the spinner away."""
        if self._status is not None:
            self._status.stop()
            self._status = None

    def _spin(self, text: str) -> None:
        if not self._console.is_terminal:
            return
        if self._status is None:
            self._status = self._console.status(text, spinner_style="cyan")
            self._status.start()
        else:
            self._status.update(text)


class Line(NamedTuple):
    """An event for a person."""

    label: str
    text: str
    style: str = ""


def eventLine(event: Event) -> Line | None:
    """An event in one line; None when a person needs no line for it."""
    if isinstance(event, RunStarted):
        model = f" ({event.model})" if event.model else ""
        again = "goes on" if event.resumed else "starts"
        return Line("run", f"{event.run_id} {again}, policy {event.policy}{model}")
    if isinstance(event, TaskSpecified):
        inputs = ", ".join(event.inputs)
        return Line("task", f"{event.name}: {inputs}; {event.target}, goal {event.goal}")
    if isinstance(event, CandidateDrafted):
        return Line(f"write {event.number}", event.change)
    if isinstance(event, CandidateChecked):
        return _checked(event)
    if isinstance(event, Decided):
        return Line("decide", f"{event.next}: {event.reason}", style="dim")
    if isinstance(event, ModelText):
        return Line("model", event.text, style="dim")
    if isinstance(event, ToolCalled):
        return Line("tool", f"{event.name}: {event.summary}", style="dim" if event.ok else "yellow")
    if isinstance(event, ModelRetried):
        return Line("retry", f"in {event.wait_seconds:.1f} s: {event.reason}", style="yellow")
    if isinstance(event, Noted):
        return Line("note", event.text, style="yellow")
    return None


def _checked(event: CandidateChecked) -> Line:
    label = f"check {event.number}"
    if not event.correct:
        return Line(label, f"not correct: {event.problem or event.failure}", style="red")
    parts = ["correct"]
    if event.max_rel_error is not None:
        parts.append(f"max rel error {event.max_rel_error:.1e}")
    if event.latency_us is not None:
        parts.append(f"{microseconds(event.latency_us)} simulated")
    if event.roofline_fraction is not None:
        parts.append(f"{event.roofline_fraction:.1%} of roofline")
    return Line(label, ", ".join(parts) + (", best so far" if event.best else ""), "green" if event.best else "")


def microseconds(value: float) -> str:
    """A latency with as many digits as are worth reading."""
    return f"{value:,.0f} us" if value >= 10_000 else f"{value:,.1f} us" if value >= 100 else f"{value:.2f} us"


def show_report(console: Console, report: Report) -> None:
    """The kernel, the evidence, the time by engine, the changes, the limits."""
    if report.kernel:
        title = (
            "Kernel" if report.correct else f"Last attempt ({'not correct' if report.model_version else 'not judged'})"
        )
        console.print(heading(title))
        if console.is_terminal:
            console.print(Syntax(report.kernel.rstrip(), "python", background_color="default", word_wrap=True))
        else:
            console.print(report.kernel.rstrip(), soft_wrap=True, highlight=False, markup=False)
    console.print()
    console.print(Group(*_sections(report)), highlight=False)


def _sections(report: Report) -> list[RenderableType]:
    parts: list[RenderableType] = [_result(report)]
    if report.reference_origin in ("words", "model"):
        parts += [heading("Reference, as the request was understood"), Text(_body(report.reference))]
    if report.trials:
        parts += [heading("Correctness (hidden inputs against the reference)"), trial_table(report.trials)]
    if report.engines:
        parts += [heading(f"Simulated time by engine, {report.target}"), engine_table(report.engines)]
    parts.append(bullets(report.notes))
    if report.changes:
        parts += [heading("Changes that led here"), _changes(report)]
    parts += [heading("Limits"), bullets(report.limits)]
    return parts


def _body(source: str) -> str:
    """A derived reference without its imports: what the words were taken to mean."""
    return source[max(source.find("def "), 0) :].rstrip()


def heading(text: str) -> Text:
    """A line over a section."""
    return Text(f"\n{text}", style="bold")


def bullets(texts: Sequence[str]) -> Table:
    """Sentences, one below the other, folded with an indent."""
    table = Table.grid(padding=(0, 1))
    table.add_column()
    table.add_column(ratio=1)
    for text in texts:
        table.add_row(" -", Text(text))
    return table


def _result(report: Report) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="cyan", no_wrap=True)
    table.add_column()
    table.add_row("Result", Text(report.verdict, style="green" if report.goal_met else "yellow"))
    if report.latency_us is not None and report.roofline_us is not None and report.roofline_fraction is not None:
        table.add_row(
            "Latency",
            f"{microseconds(report.latency_us)} simulated on {report.target} (timing model {report.model_version}); "
            f"{report.bound} bound, bottleneck {report.bottleneck}",
        )
        table.add_row("Roofline", f"{microseconds(report.roofline_us)}, {report.roofline_fraction:.1%} reached")
    if report.speedup is not None:
        table.add_row("Speed-up", f"{report.speedup:.2f}x over the first correct kernel")
    spent = f"{report.attempts} attempt{'' if report.attempts == 1 else 's'}, {report.seconds:.1f} s"
    if report.tokens:
        spent += f", {report.tokens:,} tokens, ${report.dollars:.4f}"
    table.add_row("Spent", f"{spent}; stopped: {report.stop}")
    return table


def trial_table(trials: Sequence[Trial]) -> Table:
    """The comparisons with the reference."""
    table = Table(box=None, pad_edge=True)
    for name in ("inputs", "shapes", "verdict", "max rel error", "rel L2"):
        table.add_column(name, justify="right" if name.startswith(("max", "rel")) else "left")
    for trial in trials:
        shapes = " ".join("x".join(map(str, shape)) for shape in trial.shapes)
        verdict = Text("passed", style="green") if trial.passed else Text(f"failed {trial.detail}", style="red")
        table.add_row(trial.seed_label, shapes, verdict, f"{trial.max_rel_error:.2e}", f"{trial.rel_l2:.2e}")
    return table


def engine_table(engines: Sequence[EngineTime]) -> Table:
    """Busy time by engine."""
    table = Table(box=None, pad_edge=True)
    table.add_column("engine")
    table.add_column("busy", justify="right")
    table.add_column("share", justify="right")
    table.add_column("instructions", justify="right")
    table.add_column("")
    for engine in engines:
        if not engine.instructions:
            continue
        bar = "█" * round(20 * min(engine.share, 1.0))
        table.add_row(
            engine.engine, microseconds(engine.busy_us), f"{engine.share:.0%}", f"{engine.instructions:,}", bar
        )
    return table


def _changes(report: Report) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(justify="right")
    table.add_column(justify="right", no_wrap=True)
    table.add_column(ratio=1)
    before: CandidateSummary | None = None
    for change in report.changes:
        result = microseconds(change.latency_us) if change.latency_us is not None else ""
        if not change.correct:
            result = "not judged" if change.problem == "not judged" else "not correct"
        gain = ""
        if before is not None and before.latency_us and change.latency_us:
            gain = f" ({before.latency_us / change.latency_us:.2f}x)"
        table.add_row(f"  {change.number}.", f"{result}{gain}", change.change)
        before = change
    return table
