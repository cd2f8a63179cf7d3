"""Runs a suite through the agent's public API, a few problems at a time. What the agent says is what counts, nothing else."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from agent.events import Event, RunFailed, RunFinished, RunRefused
from agent.runs import Runs
from agent.settings import Settings
from evals.result import Result, from_report
from evals.suite import Problem, Suite

MakeRuns = Callable[[Settings], Runs]


def run_suite(
    suite: Suite,
    settings: Settings,
    *,
    policy: str | None = None,
    model: str | None = None,
    problems: Sequence[Problem] | None = None,
    jobs: int = 1,
    make_runs: MakeRuns = Runs,
) -> Iterator[Result]:
    """Run problems and yield each result when it is there.

    Runs are kept in a folder of their own, which is removed at the end: an eval leaves nothing among the user's runs.

    Args:
        problems: which of the suite's; None: all.
        jobs: how many at once.

    Raises:
        SettingsError: the policy can't be used with these settings.
        RequestError: a problem is malformed.
    """
    chosen = suite.problems if problems is None else problems
    requests = {p.id: suite.request(p, policy, model) for p in chosen}  # malformed ones are told before any work
    with tempfile.TemporaryDirectory(prefix="kernelwright-eval-") as folder:
        own = settings.model_copy(update={"home": Path(folder), "parallel_runs": max(jobs, 1)})
        runs = make_runs(own)
        stop = threading.Event()
        pool = ThreadPoolExecutor(max(jobs, 1))

        def work(problem: Problem) -> Result | None:
            if stop.is_set():
                return None
            run_id = runs.start(requests[problem.id])
            return score(suite, problem, requests[problem.id].policy, list(runs.stream(run_id)))

        try:
            waiting = [pool.submit(work, p) for p in chosen]
            for done in as_completed(waiting):
                result = done.result()
                if result is not None:
                    yield result
        finally:
            stop.set()
            runs.close()
            pool.shutdown(wait=True, cancel_futures=True)


def score(suite: Suite, problem: Problem, policy: str, events: Sequence[Event]) -> Result:
    """The result that a run's events give."""
    said = problem.request or problem.reference
    wanted = problem.expect == "solved"
    last = events[-1] if events else None
    if isinstance(last, RunFinished):
        return from_report(suite.name, problem.id, said, last.report, wanted)
    base = {"suite": suite.name, "problem": problem.id, "request": said, "policy": policy}
    seconds = last.seconds if last is not None else 0.0
    if isinstance(last, RunRefused):
        refused = last.kind in ("input", "beyond")
        right = refused and not wanted
        return Result.model_validate(
            {
                **base,
                "outcome": "refused" if right else "unanswered",
                "solved": right,
                "seconds": seconds,
                "message": last.message,
            }
        )
    message = last.message if isinstance(last, RunFailed) else "the run ended without a report"
    return Result.model_validate({**base, "outcome": "failed", "solved": False, "seconds": seconds, "message": message})
