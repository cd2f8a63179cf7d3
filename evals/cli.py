"""`kernelwright eval`: run a suite, keep its results, compare them with a baseline."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from agent.settings import SettingsError, load_settings
from evals.baseline import baseline_path, compare_results
from evals.result import Result, append_result, read_results, write_results
from evals.runner import run_suite
from evals.scores import summarise
from evals.suite import Problem, Suite, load_suite, suites
from evals.table import change_table, result_table
from tools.task_errors import RequestError

OK, MISSED, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130

app = typer.Typer(
    help="Run suites of requests and compare results.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)

PolicyFlag = Annotated[str | None, typer.Option("--policy", help="offline, openai, anthropic, scripted or auto.")]
ModelFlag = Annotated[str | None, typer.Option("--model", help="The vendor's model name.")]
OutFlag = Annotated[Path | None, typer.Option("--out", help="JSON Lines file, or a folder for one.")]
LimitFlag = Annotated[int | None, typer.Option("--limit", min=1, help="Only the first problems.")]
OnlyFlag = Annotated[list[str] | None, typer.Option("--only", help="Only this problem; may be given several times.")]
JobsFlag = Annotated[int, typer.Option("--jobs", min=1, max=64, help="Problems at once.")]
BaselineFlag = Annotated[Path | None, typer.Option("--baseline", help="Results to compare with.")]


def run(
    suite: str,
    *,
    policy: str | None = None,
    out: Path | None = None,
    limit: int | None = None,
    jobs: int = 1,
    model: str | None = None,
    only: list[str] | None = None,
    baseline: Path | None = None,
    console: Console | None = None,
) -> int:
    """Run a suite, print a table, and return the exit status: 0 when every problem is solved, else 1.

    Raises:
        RequestError: no such suite or problem, or results that exist already.
        SettingsError: the policy can't be used.
    """
    screen = console or Console()
    loaded = load_suite(suite)
    problems = _chosen(loaded, limit, only)
    file = _file(out, loaded.name)
    if file is not None and file.exists():
        raise RequestError(f"{file} exists already; choose another --out, or remove it")
    found: list[Result] = []
    try:
        for result in run_suite(loaded, load_settings(), policy=policy, model=model, problems=problems, jobs=jobs):
            found.append(result)
            if file is not None:
                append_result(file, result)
            _progress(screen, result, len(found), len(problems))
    except KeyboardInterrupt:
        screen.print("interrupted; what follows is what was finished", style="yellow")
        _show(screen, loaded, problems, found, file, baseline)
        return INTERRUPTED
    _show(screen, loaded, problems, found, file, baseline)
    return OK if len(found) == len(problems) and all(r.solved for r in found) else MISSED


def _chosen(suite: Suite, limit: int | None, only: list[str] | None) -> list[Problem]:
    problems = list(suite.problems)
    if only:
        unknown = sorted(set(only) - {p.id for p in problems})
        if unknown:
            raise RequestError(
                f"suite {suite.name} has no problem {unknown[0]!r}; it has {', '.join(p.id for p in problems)}"
            )
        problems = [p for p in problems if p.id in only]
    return problems[:limit]


def _file(out: Path | None, suite: str) -> Path | None:
    if out is None:
        return None
    return out if out.suffix == ".jsonl" else out / f"{suite}.jsonl"


def _progress(screen: Console, result: Result, done: int, total: int) -> None:
    latency = f", {result.latency_us:.2f} us simulated" if result.correct and result.latency_us is not None else ""
    screen.print(f"[{done}/{total}] {result.problem}: {result.outcome}{latency}", highlight=False, markup=False)


def _show(
    screen: Console,
    suite: Suite,
    problems: list[Problem],
    found: list[Result],
    file: Path | None,
    baseline: Path | None,
) -> None:
    order = {p.id: i for i, p in enumerate(problems)}
    found = sorted(found, key=lambda r: order[r.problem])
    screen.print(result_table(found))
    for result in found:
        if not result.solved and result.message:
            screen.print(f"{result.problem}: {result.message}", highlight=False, markup=False)
    screen.print(f"{suite.name}: {summarise(found).sentence}", highlight=False)
    if file is not None:
        screen.print(f"results: {file}", highlight=False)
    if baseline is not None:
        screen.print(change_table(compare_results(read_results(baseline), found)))


@app.command(name="run")
def run_command(
    suite: Annotated[str, typer.Argument(help="Name of a suite in evals/suites, or the path of a .toml file.")],
    policy: PolicyFlag = None,
    out: OutFlag = None,
    limit: LimitFlag = None,
    jobs: JobsFlag = 1,
    model: ModelFlag = None,
    only: OnlyFlag = None,
    baseline: BaselineFlag = None,
) -> None:
    """Run a suite and print how many requests were solved."""
    raise typer.Exit(
        _told(
            lambda: run(
                suite, policy=policy, out=out, limit=limit, jobs=jobs, model=model, only=only, baseline=baseline
            )
        )
    )


@app.command()
def compare(
    then: Annotated[Path, typer.Argument(help="Results of before, or the name of a suite for its kept baseline.")],
    now: Annotated[Path, typer.Argument(help="Results of now.")],
) -> None:
    """Say what got better and worse between two results files; exit status 1 when something got worse."""
    raise typer.Exit(_told(lambda: _compare(then, now)))


def _compare(then: Path, now: Path) -> int:
    current = read_results(now)
    if not then.exists() and current and str(then) in suites():
        then = baseline_path(str(then), current[0].policy)
    changes = compare_results(read_results(then), current)
    Console().print(change_table(changes))
    return MISSED if any(c.kind == "worse" for c in changes) else OK


@app.command()
def keep(
    results: Annotated[Path, typer.Argument(help="Results to keep as the suite's baseline.")],
) -> None:
    """Keep results as the baseline of their suite and policy."""
    raise typer.Exit(_told(lambda: _keep(results)))


def _keep(results: Path) -> int:
    found = read_results(results)
    if not found:
        raise RequestError(f"{results} holds no results")
    path = baseline_path(found[0].suite, found[0].policy)
    write_results(path, found)
    Console().print(f"kept {len(found)} results as {path}", highlight=False)
    return OK


@app.command(name="list")
def list_command() -> None:
    """List the suites."""
    for name in suites():
        suite = load_suite(name)
        Console().print(f"{name}: {len(suite.problems)} problems. {suite.description}", highlight=False)


def _told(work: Callable[[], int]) -> int:
    try:
        return work()
    except (RequestError, SettingsError) as error:
        print(f"kernelwright eval: {error}", file=sys.stderr)
        return BAD_INPUT
