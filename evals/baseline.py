"""Comparison of two sets of results: what got better, what got worse, what is no longer comparable."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from evals.result import Result

BASELINES = Path(__file__).resolve().parent / "baselines"
NOISE = 0.01
"""Relative change of simulated latency that is no news: the search is bounded by wall time, so schedules vary a little."""


@dataclass(frozen=True, slots=True)
class Change:
    """One problem now against then."""

    problem: str
    kind: Literal["better", "worse", "same", "new", "gone", "incomparable"]
    text: str


def compare_results(then: Sequence[Result], now: Sequence[Result]) -> list[Change]:
    """Changes by problem, in the order of `now`, then those that are gone.

    Latencies are compared only within one version of the timing model, one target and one task.
    """
    old = {r.problem: r for r in then}
    changes = [_change(old.get(r.problem), r) for r in now]
    present = {r.problem for r in now}
    changes += [Change(r.problem, "gone", "not run") for r in then if r.problem not in present]
    return changes


def _change(then: Result | None, now: Result) -> Change:
    if then is None:
        return Change(now.problem, "new", now.outcome)
    if then.solved != now.solved:
        reason = f": {now.message}" if now.message and not now.solved else ""
        return Change(now.problem, "better" if now.solved else "worse", f"{then.outcome} -> {now.outcome}{reason}")
    if then.correct != now.correct:
        return Change(now.problem, "better" if now.correct else "worse", f"{then.outcome} -> {now.outcome}")
    if then.latency_us is None or now.latency_us is None or not now.correct:
        return Change(now.problem, "same", now.outcome)
    if (then.model_version, then.target) != (now.model_version, now.target):
        return Change(
            now.problem,
            "incomparable",
            f"timing model {then.model_version} on {then.target} against {now.model_version} on {now.target}",
        )
    if then.task_digest != now.task_digest:
        return Change(now.problem, "incomparable", "the task has changed")
    ratio = now.latency_us / then.latency_us
    text = f"{then.latency_us:.2f} -> {now.latency_us:.2f} us ({ratio - 1:+.1%})"
    if ratio < 1 - NOISE:
        return Change(now.problem, "better", text)
    return Change(now.problem, "worse" if ratio > 1 + NOISE else "same", text)


def baseline_path(suite: str, policy: str) -> Path:
    """Where the baseline of a suite under a policy is kept."""
    return BASELINES / f"{suite}-{policy}.jsonl"
