"""Advice: what a bottleneck rule says about a launch, and the registry of rules.

A rule is a function of an `Observed` launch that gives an `Advice` when its symptom is there, else None. The rules stand
in `tools.insight.rules`, by family; their ids are those of the project's catalogue of optimisation rules.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tools.insight.counterfactual import Counterfactual
from tools.insight.observed import Observed

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Advice:
    """One symptom, its evidence, and the change that removes it.

    Attributes:
        rule: id, e.g. `D1`.
        symptom: what is wrong, in one sentence.
        evidence: the numbers and lines behind it.
        change: what to do to the kernel.
        lines: source line numbers concerned, the heaviest first.
        proof: the re-simulation that predicts the gain; None when the rule only directs attention.
    """

    rule: str
    symptom: str
    evidence: str
    change: str
    lines: tuple[int, ...] = ()
    proof: Counterfactual | None = None

    @property
    def gain_us(self) -> float | None:
        """Predicted gain in microseconds, None when it wasn't simulated."""
        return None if self.proof is None else self.proof.gain_us

    @property
    def sentence(self) -> str:
        """The advice as one line for reports and models."""
        gain = ""
        if self.proof is not None:
            most = "at most " if self.proof.is_bound else ""
            gain = f" Predicted gain {most}{self.proof.gain_us:.2f} us ({self.proof.gain_percent:.1f}%)"
            gain += f"; {self.proof.caveat}." if self.proof.caveat else "."
        return f"[{self.rule}] {self.symptom} {self.evidence} Change: {self.change}{gain}"

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        found = asdict(self)
        found["proof"] = None if self.proof is None else self.proof.to_json()
        return {**found, "gain_us": self.gain_us, "sentence": self.sentence}


@dataclass(frozen=True, slots=True)
class Case:
    """A launch under the rules, with or without proofs.

    Attributes:
        seen: the timed launch.
        proving: whether rules may run counterfactuals (each times the program again).
    """

    seen: Observed
    proving: bool = True

    def prove(self, trial: Callable[[], Counterfactual | None]) -> Counterfactual | None:
        """The trial's result, or None when no proofs are wanted."""
        return trial() if self.proving else None

    def share(self, ns: float) -> float:
        """A time as a share of the latency, 0..1."""
        return ns / self.seen.timeline.latency_ns if self.seen.timeline.latency_ns else 0.0

    def heaviest(self, rows: Ints, weight: NDArray[Any] | None = None, most: int = 3) -> list[int]:
        """Line ids of `rows`, by summed weight (default: time held), the largest first."""
        weight = self.seen.held_ns if weight is None else weight
        lines, inverse = np.unique(self.seen.line[rows], return_inverse=True)
        total = np.bincount(inverse.reshape(-1), weight[rows])
        return [int(k) for k in lines[np.argsort(-total, kind="stable")][:most]]

    def places(self, lines: list[int]) -> str:
        """Line ids as `file:line` words."""
        return ", ".join(self.seen.where(k) for k in lines)

    def numbers(self, lines: list[int]) -> tuple[int, ...]:
        """Line ids as line numbers."""
        return tuple(self.seen.number(k) for k in lines)


Rule = Callable[[Case], Advice | None]

LEAST_GAIN_PERCENT = 0.1
"""A proven gain below this isn't worth a change: the wait or the work was hidden behind something else."""

RULES: dict[str, Rule] = {}
"""All rules by id, family by family; importing `tools.insight` fills it."""


def rule(name: str) -> Callable[[Rule], Rule]:
    """Register a function as rule `name`."""

    def register(function: Rule) -> Rule:
        RULES[name] = function
        return function

    return register


def advise(
    seen: Observed, *, prove: bool = True, seconds: float = 20.0, rules: tuple[str, ...] = ()
) -> tuple[Advice, ...]:
    """Run the bottleneck rules over a timed launch.

    Args:
        seen: the launch.
        prove: predict gains by re-simulation.
        seconds: after this long, further symptoms are still named but no longer proven.
        rules: ids to run; empty for all.

    Returns:
        Advice with the largest proven gain first, then the unproven in catalogue order. Advice whose proof shows that
        the change would gain nothing (a gap isn't a saving) is left out.

    Raises:
        ValueError: a rule id that doesn't exist.
    """
    unknown = [name for name in rules if name not in RULES]
    if unknown:
        raise ValueError(f"no rule {unknown[0]!r}; there are {', '.join(RULES)}")
    deadline = time.monotonic() + seconds
    found: list[Advice] = []
    for name in rules or tuple(RULES):
        advice = RULES[name](Case(seen, prove and time.monotonic() < deadline))
        if advice is not None and (advice.proof is None or advice.proof.gain_percent >= LEAST_GAIN_PERCENT):
            found.append(replace(advice, rule=name))
    position = {name: k for k, name in enumerate(RULES)}
    return tuple(sorted(found, key=lambda a: (a.gain_us is None, -(a.gain_us or 0.0), position[a.rule])))
