"""The command line: every command is a thin face over `agent.runs` and `tools`.

Exit status: 0 done and goal met; 1 the best kernel was returned but the goal was missed, or none is correct;
2 bad input or settings (one sentence on standard error); 130 stopped by Ctrl-C, best kernel written all the same.
"""

from __future__ import annotations

import importlib
import json
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from agent import cli_profile
from agent.flags import (
    AttemptsFlag,
    DollarsFlag,
    GoalFlag,
    JsonFlag,
    ModelFlag,
    OutFlag,
    PolicyFlag,
    ReferenceFlag,
    SecondsFlag,
    TargetFlag,
    TokensFlag,
    budget_of,
    checked,
    request_of,
)
from agent.following import BAD_INPUT, INTERRUPTED, MISSED, OK, follow, tell_saved
from agent.output import prepare, save
from agent.render import microseconds, show_report
from agent.settings import Settings, SettingsError, load_settings
from agent.sources import read_file, read_function
from agent.store import RunBusy, RunNotFound, RunRow, UnreadableRun
from tools.task import Budget
from tools.task_errors import RequestError

if TYPE_CHECKING:
    from agent.runs import Runs

app = typer.Typer(
    name="kernelwright",
    help="Words in; a verified, profiled, fast NKI kernel out. No device and no key are needed.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
cli_profile.register(app)

_RESULT_WIDTH = 40


@app.command()
def write(
    request: Annotated[str, typer.Argument(help="What to compute, on what, where and how fast, in words.")] = "",
    reference: ReferenceFlag = None,
    goal: GoalFlag = None,
    target: TargetFlag = None,
    policy: PolicyFlag = None,
    model: ModelFlag = None,
    out: OutFlag = None,
    as_json: JsonFlag = False,
    attempts: AttemptsFlag = None,
    seconds: SecondsFlag = None,
    tokens: TokensFlag = None,
    dollars: DollarsFlag = None,
) -> int:
    """Write a kernel for a request, verify it and make it fast."""
    budget = budget_of(Budget(), attempts, seconds, tokens, dollars)
    asked = request_of(request, reference, goal, target, policy, model, budget)
    if out is not None:
        prepare(out)
    with opened_runs() as runs:
        return follow(runs, runs.start(asked), out=out, as_json=as_json)


@app.command()
def resume(
    run_id: Annotated[str, typer.Argument(help="The run, as printed in its first line.")],
    out: OutFlag = None,
    as_json: JsonFlag = False,
    attempts: AttemptsFlag = None,
    seconds: SecondsFlag = None,
    tokens: TokensFlag = None,
    dollars: DollarsFlag = None,
) -> int:
    """Go on with an interrupted run, or with a finished one and a larger budget."""
    if out is not None:
        prepare(out)
    with opened_runs() as runs:
        flags = (attempts, seconds, tokens, dollars)
        given = any(flag is not None for flag in flags)
        budget = budget_of(runs.row(run_id).request.budget, *flags) if given else None
        after = runs.last_seq(run_id)
        runs.resume(run_id, budget)
        return follow(runs, run_id, after=after, out=out, as_json=as_json)


@app.command()
def chat(
    run_id: Annotated[str | None, typer.Option("--resume", help="Go on from this run.")] = None,
    policy: PolicyFlag = None,
    model: ModelFlag = None,
    attempts: AttemptsFlag = None,
    seconds: SecondsFlag = None,
    tokens: TokensFlag = None,
    dollars: DollarsFlag = None,
) -> int:
    """Talk: describe a kernel, ask why it is as fast as it is, ask for changes."""
    from agent.chat import Conversation
    from agent.repl import converse

    budget = budget_of(Budget(), attempts, seconds, tokens, dollars)
    defaults = request_of("(chat)", None, None, None, policy, model, budget)
    with opened_runs() as runs:
        return converse(Conversation(runs, defaults, run_id), runs)


@app.command(name="runs")
def list_runs(
    limit: Annotated[int, typer.Option("--limit", help="How many, newest first.", min=1)] = 20,
    as_json: JsonFlag = False,
) -> int:
    """List stored runs."""
    with opened_runs() as runs:
        rows = runs.rows(limit)
        if as_json:
            print(json.dumps([row.model_dump(mode="json") for row in rows], indent=2))
            return OK
        console = Console(width=None if sys.stdout.isatty() else 200)
        if not rows:
            console.print("No runs yet; try: kernelwright write 'softmax, x 512x1024, float32, trn2'")
            return OK
        table = Table(box=None, expand=True)
        for name in ("run", "begun", "status", "attempts"):
            table.add_column(name, no_wrap=True)
        # A refusal is a whole sentence: it must not push the run's name, which `resume` needs, off the line.
        table.add_column("result", overflow="ellipsis", no_wrap=True, max_width=_RESULT_WIDTH)
        table.add_column("request", overflow="ellipsis", no_wrap=True, ratio=1)
        for row in rows:
            begun = time.strftime("%d %b %H:%M", time.localtime(row.created))
            result = _result_of(runs, row)
            words = row.request.request or f"{row.request.reference_function}()"
            table.add_row(row.run_id, begun, row.status, str(row.used.attempts), result, words)
        console.print(table, highlight=False)
    return OK


@app.command()
def show(
    run_id: Annotated[str, typer.Argument(help="The run.")],
    as_json: JsonFlag = False,
    out: OutFlag = None,
) -> int:
    """Show a run: its kernel, evidence, profile and changes, so far or at its end."""
    with opened_runs() as runs:
        row = runs.row(run_id)
        report = runs.report(run_id)
        if report is None:
            raise RequestError(f"run {run_id} has nothing to show ({row.status}): {row.message}".removesuffix(": "))
        console = Console()
        if as_json:
            print(report.model_dump_json(indent=2))
        else:
            show_report(console, report)
            if row.status in ("interrupted", "failed"):
                console.print(f"\nThis run is unfinished ({row.status}); kernelwright resume {run_id} goes on.")
        if out is not None:
            tell_saved(save(report, out))
        return OK


@app.command()
def cancel(run_id: Annotated[str, typer.Argument(help="The run.")]) -> int:
    """Ask a run of another process to stop; it reports its best kernel."""
    with opened_runs() as runs:
        status = runs.row(run_id).status
        if status not in ("running", "queued"):
            raise RequestError(f"run {run_id} is not running ({status})")
        runs.cancel(run_id)
    return OK


@app.command()
def serve(
    host: Annotated[str | None, typer.Option("--host", help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option("--port", help="Port to listen on.", min=0, max=65535)] = None,
) -> int:
    """Serve the HTTP API with its documentation at /docs."""
    from agent.service.server import serve_forever

    settings = load_settings()
    serve_forever(settings, host or settings.host, settings.port if port is None else port)
    return OK


@app.command()
def simulate(
    kernel: Annotated[str, typer.Argument(metavar="FILE.py:FUNCTION", help="The kernel.")],
    inputs: Annotated[
        list[str],
        typer.Option(
            "--input", metavar="NAME=SHAPE:DTYPE", help="One per argument, in order, e.g. a=512x1024:bfloat16."
        ),
    ],
    reference: Annotated[
        str | None, typer.Option("--reference", metavar="FILE.py:FUNCTION", help="NumPy function to compare with.")
    ] = None,
    target: Annotated[str | None, typer.Option("--target", help="trn1, trn2 (default) or trn3.")] = None,
    as_json: JsonFlag = False,
) -> int:
    """Run a kernel of your own on the simulator, and compare it with a reference when one is given."""
    from agent.simulation import SimulateRequest, input_of, run_simulation, show_simulation

    source, function = read_function(kernel)
    given: dict[str, Any] = {"target": target} if target else {}
    if reference is not None:
        given["reference_source"], given["reference_function"] = read_function(reference)
    asked = checked(
        lambda: SimulateRequest(source=source, function=function, inputs=tuple(map(input_of, inputs)), **given)
    )
    result = run_simulation(asked)
    if (absent := next((f for f in result.findings if f.code == "KW-NO-FUNCTION"), None)) is not None:
        raise RequestError(f"{kernel}: {absent.message}")
    if as_json:
        print(result.model_dump_json(indent=2))
    else:
        show_simulation(Console(), asked, result)
    return OK if result.ok else MISSED


@app.command()
def lint(
    file: Annotated[Path, typer.Argument(help="Kernel source.")],
    strict: Annotated[
        bool, typer.Option("--strict", help="Add the compiler's rules: the Python subset, spellings by version.")
    ] = False,
    as_json: JsonFlag = False,
) -> int:
    """Check kernel source without running it. Exit status 1 when there are errors."""
    from agent.bench import default_bench

    source = read_file(file)
    with closing(default_bench()) as bench:
        findings = list(bench.lint(source, strict))
    if as_json:
        print(json.dumps([{**finding.model_dump(mode="json"), "file": str(file)} for finding in findings], indent=2))
    else:
        for finding in findings:
            place = f"{finding.line or 1}" + (f":{finding.column}" if finding.column else "")
            print(f"{file}:{place}: {str(finding).removeprefix(f'line {finding.line}: ')}")
        if not findings:
            print(f"{file}: no findings")
    return MISSED if any(finding.severity == "error" for finding in findings) else OK


@app.command()
def library(
    name: Annotated[str, typer.Argument(help="Show this kernel; without a name: list all.")] = "",
    as_json: JsonFlag = False,
) -> int:
    """Read the kernel library: verified kernels with their references."""
    from agent.knowledge import library_text
    from tools.library import LibraryError, library, load

    if name:
        try:
            load(name)
        except LibraryError as error:
            raise RequestError(str(error)) from error
        print(library_text(name))
    elif as_json:
        print(json.dumps([asdict(entry) for entry in library()], indent=2))
    else:
        print(library_text(""))
    return OK


@app.command(
    name="eval", add_help_option=False, context_settings={"allow_extra_args": True, "ignore_unknown_options": True}
)
def evals(context: typer.Context) -> int:
    """Run suites of requests and compare results: run, list, compare, keep."""
    # The eval runner stands above the agent and imports it, so it is reached as a plug-in, by name.
    command = typer.main.get_command(importlib.import_module("evals.cli").app)
    status = command.main(args=context.args, prog_name="kernelwright eval", standalone_mode=False)
    return status if isinstance(status, int) else OK


@contextmanager
def opened_runs(settings: Settings | None = None) -> Iterator[Runs]:
    """The runs of the data directory, closed at the end."""
    # Imported late: the graph library takes longer to load than most commands to run.
    from agent.runs import Runs

    with closing(Runs(settings or load_settings())) as runs:
        yield runs


def _result_of(runs: Runs, row: RunRow) -> str:
    try:
        report = runs.report(row.run_id) if row.status == "done" else None
    except UnreadableRun:
        return "stored by another version"
    if report is None:
        return row.message
    if not report.correct:
        return "no correct kernel"
    latency = microseconds(report.latency_us) if report.latency_us is not None else ""
    return f"{latency}{'' if report.goal_met else ', goal missed'}"


def main() -> None:
    """Entry point: maps errors to one sentence and an exit status."""
    command = typer.main.get_command(app)
    try:
        status = command.main(standalone_mode=False)
    except (RequestError, SettingsError, RunNotFound, RunBusy, UnreadableRun) as error:
        print(f"kernelwright: {error}", file=sys.stderr)
        sys.exit(BAD_INPUT)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except typer.TyperException as error:
        text = error.format_message() if hasattr(error, "format_message") else str(error)
        print(text if "\n" in text else f"kernelwright: {text}", file=sys.stderr)
        sys.exit(BAD_INPUT)
    sys.exit(status if isinstance(status, int) else OK)
