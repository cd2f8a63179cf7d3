"""`kernelwright profile`: where a kernel's time goes, why, and what each change would gain; tables, SQL, trace, report."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from tools.task import Kernel, Reference, Target, TensorSpec, Tolerance
from tools.task_errors import RequestError

if TYPE_CHECKING:
    from tools.export import Result
    from tools.insight import Answer, Observed
    from tools.profiled import Profiled

TARGETS = ("trn1", "trn2", "trn3")


@dataclass(frozen=True, slots=True)
class Asked:
    """A kernel and what it runs on."""

    kernel: Kernel
    filename: str
    inputs: tuple[TensorSpec, ...]
    target: Target
    reference: Reference | None
    tolerance: Tolerance


def register(app: typer.Typer) -> None:
    """Add the `profile` command to the command line."""
    app.command()(profile)


def profile(
    kernel: Annotated[
        str, typer.Argument(metavar="FILE.py[:FUNCTION]", help="The kernel, or the name of one of the library.")
    ],
    inputs: Annotated[
        list[str] | None,
        typer.Option(
            "--input", metavar="NAME=SHAPE:DTYPE", help="One per argument, in order, e.g. a=512x1024:bfloat16."
        ),
    ] = None,
    target: Annotated[str | None, typer.Option("--target", help="trn1, trn2 (default) or trn3.")] = None,
    sql: Annotated[
        str | None, typer.Option("--sql", help="One SELECT over the tables (Instruction, Summary, Stall, ...).")
    ] = None,
    explain: Annotated[
        str | None,
        typer.Option(
            "--explain",
            metavar="QUESTION",
            help="An engine whose idle time to explain, or a question: why is Tensor idle, what does line 42 wait for, "
            "what would bf16 gain.",
        ),
    ] = None,
    what_if: Annotated[bool, typer.Option("--what-if", help="Time the same program on trn1, trn2 and trn3.")] = False,
    precision: Annotated[
        bool, typer.Option("--precision", help="Which lines lose bits, and what more would cost.")
    ] = False,
    locate: Annotated[bool, typer.Option("--locate", help="The line where a wrong result's error enters.")] = False,
    reference: Annotated[
        str | None, typer.Option("--reference", metavar="FILE.py:FUNCTION", help="NumPy function for --locate.")
    ] = None,
    html: Annotated[Path | None, typer.Option("--html", help="Write a self-contained report.")] = None,
    parquet: Annotated[Path | None, typer.Option("--parquet", help="Write the tables into this folder.")] = None,
    perfetto: Annotated[Path | None, typer.Option("--perfetto", help="Write a trace for the Perfetto UI.")] = None,
    seed: Annotated[int, typer.Option("--seed", help="For the inputs of --locate and --precision.")] = 0,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the result as JSON, alone, on standard output.")
    ] = False,
) -> int:
    """Say where a kernel's time goes, why, on which line, and what each change would gain."""
    from agent import profile_view as view
    from tools.insight import advise, answer
    from tools.insight import what_if as generations_of
    from tools.profiled import find_error, find_precision, profile_kernel

    asked = _asked(kernel, inputs or [], target, reference)
    _check_places(files=[html, perfetto], folders=[parquet])
    _check_together(sql, explain, {"--what-if": what_if, "--precision": precision, "--locate": locate})
    if reference is not None and not locate:
        raise RequestError("--reference is compared only by --locate; add --locate, or use kernelwright simulate")
    if locate and asked.reference is None:
        raise RequestError("--locate compares with a reference; give --reference FILE.py:FUNCTION")
    done = profile_kernel(asked.kernel, asked.inputs, asked.target, filename=asked.filename)
    seen = done.seen
    if sql is not None:
        rows = _rows(seen, sql)
        if as_json:
            print(json.dumps(rows.to_json(), indent=2, default=str))
        else:
            view.show_rows(view.console(), rows)
        _write(done, html, parquet, perfetto, quiet=as_json)
        return 0
    found: dict[str, Any] = {
        "kernel": done.title,
        "findings": [finding.model_dump(mode="json") for finding in done.findings],
        "profile": seen.profile.to_json(),
    }
    console = view.console()
    sections: list[Callable[[], None]] = [lambda: view.show_profile(console, done)]
    asked_for_part = explain is not None or what_if or precision or locate
    if explain is not None:
        said = _checked(lambda: answer(seen, explain))
        found["answer"] = said.text
        if said.explanation is not None:
            explanation = said.explanation
            found["explanation"] = explanation.to_json()
            sections.append(lambda: view.show_explanation(console, explanation))
        else:
            sections.append(lambda: view.show_answer(console, explain, said.text))
    if what_if:
        generations = generations_of(seen.trace, options=seen.options)
        found["generations"] = [row.to_json() for row in generations]
        sections.append(lambda: view.show_generations(console, generations))
    if precision:
        report = find_precision(done, asked.inputs, seed)
        found["precision"] = report.to_json()
        sections.append(lambda: view.show_answer(console, "Precision", report.answer))
    if locate and asked.reference is not None:
        location = find_error(done, asked.inputs, asked.reference, asked.tolerance, seed)
        found["location"] = location.to_json()
        text = "\n".join([location.sentence, *([location.pattern] if location.pattern else [])])
        text += "".join(f"\n- {s.where}: {s.reason}: {s.source}" for s in location.suspects)
        sections.append(lambda: view.show_answer(console, "Where the error enters", text))
    if not asked_for_part:
        advice = advise(seen)
        found["advice"] = [a.to_json() for a in advice]
        sections.append(lambda: view.show_advice(console, advice))
    if as_json:
        print(json.dumps(found, indent=2))
    else:
        for section in sections:
            section()
    _write(done, html, parquet, perfetto, quiet=as_json)
    return 0


# -- what is asked -----------------------------------------------------------------------------------------------------


def _asked(name: str, texts: list[str], target: str | None, reference: str | None) -> Asked:
    """Read the kernel, its inputs and its reference.

    Raises:
        RequestError: one of them can't be used.
    """
    from agent.simulation import input_of
    from agent.sources import read_file, read_function
    from tools.generate.specify import tolerance_for
    from tools.library import LibraryError, load
    from tools.profiled import entry_of

    if target is not None and target not in TARGETS:
        raise RequestError(f"target {target!r} isn't known; use {', '.join(TARGETS)}")
    machine = cast(Target | None, target)
    specs = tuple(map(input_of, texts))
    given = None
    if reference is not None:
        source, function = read_function(reference)
        given = Reference(source=source, function=function, origin="file")
    if name.isidentifier():
        try:
            kernel, task = load(name, None, machine)
        except LibraryError as error:
            raise RequestError(f"{error}; or give a file: FILE.py:FUNCTION") from error
        return Asked(kernel, f"{name}.py", specs or task.inputs, task.target, given or task.reference, task.tolerance)
    path, _, function = name.rpartition(":")
    if not path or not function.isidentifier():
        path, function = name, ""
    source = read_file(Path(path))
    filename = Path(path).name
    if not specs:
        raise RequestError(
            "give the kernel's inputs: --input NAME=SHAPE:DTYPE once for each, e.g. --input a=512x1024:bfloat16"
        )
    kernel = Kernel(source=source, function=function or entry_of(source, filename))
    return Asked(kernel, filename, specs, machine or "trn2", given, tolerance_for([s.dtype for s in specs]))


def _check_together(sql: str | None, explain: str | None, parts: dict[str, bool]) -> None:
    """Refuse what --sql, whose rows stand alone, would leave unsaid.

    Raises:
        RequestError: another answer is asked for beside the rows.
    """
    others = [*(["--explain"] if explain is not None else []), *(name for name, asked in parts.items() if asked)]
    if sql is not None and others:
        raise RequestError(f"--sql prints its rows alone; ask for {' and '.join(others)} in another call")


def _checked(run: Callable[[], Answer]) -> Answer:
    try:
        return run()
    except ValueError as error:
        raise RequestError(str(error)) from error


def _rows(seen: Observed, sql: str) -> Result:
    from tools.export import QueryError, query, tables

    try:
        return query(tables(seen), sql)
    except QueryError as error:
        raise RequestError(f"--sql: {error}") from error


# -- files -------------------------------------------------------------------------------------------------------------


def _check_places(files: list[Path | None], folders: list[Path | None]) -> None:
    """Refuse places that can't be written, before any work is spent.

    Raises:
        RequestError: a path is of the wrong kind, or its folder doesn't exist or can't be written.
    """
    for path in filter(None, files):
        if path.is_dir():
            raise RequestError(f"can't write {path}: it is a folder; name a file in it")
        if path.exists() and not path.is_file():
            raise RequestError(f"can't write {path}: it isn't a file that could be replaced; name another")
        _probe(path, path.parent)
    for path in filter(None, folders):
        if path.exists() and not path.is_dir():
            raise RequestError(f"can't write the tables into {path}: it is a file; name a folder")
        _probe(path, next(place for place in (path, *path.absolute().parents) if place.is_dir()))


def _probe(path: Path, folder: Path) -> None:
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise RequestError(f"can't write {path} ({error.strerror}); check the folder") from error


def _write(done: Profiled, html: Path | None, parquet: Path | None, perfetto: Path | None, *, quiet: bool) -> None:
    """Write what was asked for, each file whole or not at all.

    Raises:
        RequestError: a path can't be written.
    """
    from tools.export import tables, write_parquet, write_perfetto
    from tools.report_html import write_report

    jobs: list[tuple[Path, Callable[[Path], object]]] = []
    if html is not None:
        jobs.append((html, lambda path: write_report(path, done.seen, done.title, tuple(map(str, done.findings)))))
    if parquet is not None:
        jobs.append((parquet, lambda path: write_parquet(path, tables(done.seen))))
    if perfetto is not None:
        jobs.append((perfetto, lambda path: write_perfetto(path, done.seen)))
    for path, job in jobs:
        try:
            job(path)
        except OSError as error:
            raise RequestError(f"can't write {path} ({error.strerror}); check the folder") from error
        if not quiet:
            print(f"wrote {path}")
