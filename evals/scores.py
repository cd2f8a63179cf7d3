"""Figures over a set of results."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from evals.result import Result


@dataclass(frozen=True, slots=True)
class Summary:
    """A suite in a few numbers.

    Attributes:
        solved, correct, problems: counts; a refusal that was due counts as solved, not as correct.
        roofline_fraction: geometric mean over correct kernels, None when there is none.
        attempts: full evaluations, all problems together.
        seconds: wall time, all problems together.
        failed: faults of ours.
    """

    problems: int
    solved: int
    correct: int
    failed: int
    roofline_fraction: float | None
    attempts: int
    seconds: float
    tokens: int
    dollars: float

    @property
    def sentence(self) -> str:
        """The summary in words."""
        share = f", geometric mean {self.roofline_fraction:.1%} of roofline" if self.roofline_fraction else ""
        faults = f", {self.failed} failed by a fault of ours" if self.failed else ""
        money = f", {self.tokens} tokens, {self.dollars:.2f} dollars" if self.tokens else ""
        return (
            f"{self.solved} of {self.problems} solved, {self.correct} kernels correct{share}{faults}; "
            f"{self.attempts} attempts in {self.seconds:.0f} s{money}"
        )


def summarise(results: Sequence[Result]) -> Summary:
    """Add up results."""
    shares = [r.roofline_fraction for r in results if r.correct and r.roofline_fraction]
    return Summary(
        problems=len(results),
        solved=sum(r.solved for r in results),
        correct=sum(r.correct for r in results),
        failed=sum(r.outcome == "failed" for r in results),
        roofline_fraction=math.exp(sum(map(math.log, shares)) / len(shares)) if shares else None,
        attempts=sum(r.attempts for r in results),
        seconds=sum(r.seconds for r in results),
        tokens=sum(r.tokens for r in results),
        dollars=sum(r.dollars for r in results),
    )


Scorer = Callable[[Result], float]


def solved(result: Result) -> float:
    """1 when the problem counts as solved."""
    return float(result.solved)


def correct(result: Result) -> float:
    """1 when a correct kernel was found with evidence."""
    return float(result.correct)


def roofline(result: Result) -> float:
    """Share of the roofline, 0 without a correct kernel."""
    return (result.roofline_fraction or 0.0) if result.correct else 0.0


SCORERS: dict[str, Scorer] = {"solved": solved, "correct": correct, "roofline": roofline}
"""Scorers by name; each maps a result to 0..1."""
