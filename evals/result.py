"""What came of one problem: a line of the results file, with the evidence that a win needs."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from agent.report import Report
from tools.task import Frozen
from tools.task_errors import RequestError

Outcome = Literal["solved", "missed", "wrong", "refused", "unanswered", "failed"]
"""`missed`: correct, goal not met; `wrong`: no correct kernel; `refused`: turned down with a sentence; `unanswered`:
refused although it had to be solved, or the other way round; `failed`: a fault of ours."""


class Result(Frozen):
    """One problem under one policy. Latencies are simulated."""

    suite: str
    problem: str
    request: str
    policy: str
    model: str = ""
    outcome: Outcome
    solved: bool
    """Whether it counts: the goal is met with evidence, or a bad request was refused as it should be."""
    correct: bool = False
    goal: str = ""
    goal_met: bool = False
    target: str = ""
    latency_us: float | None = None
    roofline_us: float | None = None
    roofline_fraction: float | None = None
    speedup: float | None = None
    max_rel_error: float | None = None
    attempts: int = 0
    seconds: float = 0.0
    tokens: int = 0
    dollars: float = 0.0
    model_version: str = ""
    trials: int = 0
    """Comparisons with the reference that stand behind the verdict."""
    kernel_digest: str = ""
    task_digest: str = ""
    stop: str = ""
    message: str = ""
    """Why not, in one sentence."""


def from_report(suite: str, problem: str, request: str, report: Report, wanted: bool) -> Result:
    """The result that a finished run gives.

    Args:
        wanted: whether the problem should be solved (and not refused).
    """
    proven = report.correct and bool(report.trials) and all(t.passed for t in report.trials)
    if proven:
        outcome: Outcome = "solved" if report.goal_met else "missed"
    else:
        outcome = "wrong"
    if not wanted:
        outcome = "unanswered"
    return Result(
        suite=suite,
        problem=problem,
        request=request,
        policy=report.policy,
        model=report.model,
        outcome=outcome,
        solved=outcome == "solved",
        correct=proven,
        goal=report.goal,
        goal_met=report.goal_met,
        target=report.target,
        latency_us=report.latency_us,
        roofline_us=report.roofline_us,
        roofline_fraction=report.roofline_fraction,
        speedup=report.speedup,
        max_rel_error=report.max_rel_error,
        attempts=report.attempts,
        seconds=report.seconds,
        tokens=report.tokens,
        dollars=report.dollars,
        model_version=report.model_version,
        trials=len(report.trials),
        kernel_digest=report.kernel_digest,
        task_digest=report.task_digest,
        stop=report.stop,
        message="" if outcome == "solved" else report.verdict,
    )


def write_results(path: Path, results: Iterable[Result]) -> None:
    """Write results as JSON Lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{r.model_dump_json()}\n" for r in results), encoding="utf-8")


def append_result(path: Path, result: Result) -> None:
    """Add one line, so that an interrupted eval keeps what it has."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(f"{result.model_dump_json()}\n")


def read_results(path: Path) -> list[Result]:
    """Read results back.

    Raises:
        RequestError: no such file, or a line that is no result.
    """
    if not path.is_file():
        raise RequestError(f"{path} doesn't exist; write one with `kernelwright eval run SUITE --out {path}`")
    found = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if line.strip():
            try:
                found.append(Result.model_validate_json(line))
            except ValidationError as error:
                raise RequestError(f"{path}, line {number}: {error.errors()[0]['msg']}") from error
    return found
