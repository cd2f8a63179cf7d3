"""What a run is made of: the request, the candidates, what was used, and the graph's state.

Everything here is stored in checkpoints, so it is pydantic and survives a round trip through JSON. It knows nothing
about how work is driven.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, JsonValue, model_validator

from tools.task import Budget, Evaluation, Frozen, Goal, GoalKind, Kernel, Target, Task

T = TypeVar("T")

PolicyName = Literal["auto", "offline", "openai", "anthropic", "scripted"]


class Phase(StrEnum):
    """The graph's nodes, in the order of the road."""

    SPECIFY = "specify"
    DRAFT = "draft"
    CHECK = "check"
    DEBUG = "debug"
    PROFILE = "profile"
    IMPROVE = "improve"
    DECIDE = "decide"
    REPORT = "report"


class StopReason(StrEnum):
    """Why a run ended."""

    GOAL_MET = "goal met"
    CORRECT = "correct kernel found"
    EXHAUSTED = "nothing left to try"
    MODEL_FAILED = "the model failed"
    NO_GAIN = "no further gain"
    STUCK = "no correct kernel in sight"
    ATTEMPTS = "attempts spent"
    SECONDS = "time spent"
    TOKENS = "tokens spent"
    DOLLARS = "dollars spent"
    CANCELLED = "cancelled"


class RunRequest(Frozen):
    """What a face (command line, HTTP, chat, evals) asks for; the same fields everywhere."""

    request: str = Field(default="", max_length=20_000)
    """Words: operation, shapes, type, target, goal. With a reference: shapes, type, target, goal."""
    reference_source: str | None = Field(default=None, max_length=200_000)
    """Python source of a NumPy function that is the specification."""
    reference_function: str | None = Field(default=None, max_length=200)
    """Name of that function in `reference_source`."""
    reference_file: str = Field(default="reference.py", max_length=100, pattern=r"^[^/\\\x00]+$")
    """Name of the file it came from, for messages only."""
    goal: str | None = Field(default=None, max_length=200)
    """`roofline>=0.6`, `latency<=120us`, `speedup>=2` or `correct`; None: what the words say."""
    target: Target | None = None
    """`trn1`, `trn2` or `trn3`; None: what the words say, else trn2."""
    policy: PolicyName = "auto"
    """Who writes the kernel; auto: a vendor whose key is set, else offline."""
    model: str | None = Field(default=None, max_length=200)
    """The vendor's model name; None: the setting's default."""
    budget: Budget = Budget()
    """Hard limits on attempts, wall seconds, tokens and dollars."""

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if (self.reference_source is None) != (self.reference_function is None):
            raise ValueError("a reference needs both its source and the name of its function")
        if not self.request.strip() and self.reference_source is None:
            raise ValueError("the request is empty; write the operation and its shapes, e.g. 'softmax, x 512x1024'")
        if self.goal is not None:
            Goal.parse(self.goal)
        return self

    @property
    def wants_only_correct(self) -> bool:
        """Whether the user said in so many words that a correct kernel is enough."""
        return self.goal is not None and Goal.parse(self.goal).kind is GoalKind.CORRECT


class Used(Frozen):
    """What a run has spent so far, in the units of `Budget`."""

    attempts: int = 0
    seconds: float = 0.0
    tokens: int = 0
    dollars: float = 0.0
    unpriced_tokens: int = 0
    """Tokens of models whose price is not in the table: counted as tokens, not as dollars."""


class Proposal(Frozen):
    """A kernel that a policy wants judged, and why it is as it is."""

    kernel: Kernel
    change: str
    parents: tuple[int, ...] = ()
    schedule: dict[str, JsonValue] = Field(default_factory=dict)


class Candidate(Frozen):
    """A kernel of this run: where it came from and how it was judged."""

    number: int
    kernel: Kernel
    change: str
    parents: tuple[int, ...] = ()
    schedule: dict[str, JsonValue] = Field(default_factory=dict)
    evaluation: Evaluation | None = None

    @property
    def correct(self) -> bool:
        """Whether it was judged and found right."""
        return self.evaluation is not None and self.evaluation.correct

    @property
    def latency_us(self) -> float | None:
        """Simulated latency in microseconds; None when it was not timed."""
        performance = self.evaluation.performance if self.evaluation else None
        return performance.latency_us if performance else None


class Message(Frozen):
    """One turn of the conversation with the user."""

    role: Literal["user", "assistant"]
    text: str


def merge_candidates(old: list[Candidate], new: list[Candidate]) -> list[Candidate]:
    """Reducer of `RunState.candidates`: a candidate replaces the one of the same number, others are added."""
    merged = {candidate.number: candidate for candidate in old}
    merged.update({candidate.number: candidate for candidate in new})
    return [merged[number] for number in sorted(merged)]


def extend(old: list[T], new: list[T]) -> list[T]:
    """Reducer of lists that only grow."""
    return [*old, *new]


class RunState(BaseModel):
    """State of the graph: typed, checkpointed after every node."""

    model_config = ConfigDict(extra="forbid")

    run_id: str
    request: RunRequest
    policy: str = ""
    model: str = ""
    prompts: str = ""
    """Version of the prompts that the policy speaks with; empty without a model."""
    task: Task | None = None
    seed: Kernel | None = None
    """Best kernel of the run that this one was forked from: made for a related task, not for this one."""
    candidates: Annotated[list[Candidate], merge_candidates] = Field(default_factory=list)
    inherited: int = 0
    """Number of the last candidate that came with a fork; the search's patience counts from there."""
    pending: int | None = None
    """Number of the candidate that waits for its judgement."""
    used: Used = Used()
    messages: Annotated[list[Message], extend] = Field(default_factory=list)
    notes: Annotated[list[str], extend] = Field(default_factory=list)
    """What the user should know beside the figures; ends up in the report's limits."""
    phase: Phase = Phase.SPECIFY
    """Where the graph goes next."""
    exhausted: bool = False
    """The policy had nothing more to propose."""
    stop: StopReason | None = None

    def candidate(self, number: int) -> Candidate:
        """The candidate of that number.

        Raises:
            KeyError: this run has no such candidate.
        """
        for candidate in self.candidates:
            if candidate.number == number:
                return candidate
        raise KeyError(f"this run has no candidate {number}")

    @property
    def best(self) -> Candidate | None:
        """The fastest correct candidate; the earlier one when two are equal."""
        return best_of(self.candidates)

    @property
    def last(self) -> Candidate | None:
        """The candidate that was judged last."""
        return next((c for c in reversed(self.candidates) if c.evaluation is not None), None)

    @property
    def first_correct(self) -> Candidate | None:
        """The baseline of a speed-up goal."""
        return next((c for c in self.candidates if c.correct), None)


def best_of(candidates: list[Candidate]) -> Candidate | None:
    """The fastest correct candidate, None when none is correct. An untimed one counts as slowest."""
    right = [c for c in candidates if c.correct]
    return min(right, key=lambda c: (c.latency_us is None, c.latency_us or 0.0, c.number), default=None)


class GoalStatus(Frozen):
    """How far a run's best kernel is from what was asked."""

    met: bool
    text: str


def goal_status(task: Task, candidates: list[Candidate]) -> GoalStatus:
    """Compare the best candidate with the task's goal.

    Returns:
        Whether the goal is met, and the comparison in words with its units.
    """
    best = best_of(candidates)
    goal = task.goal
    if best is None or best.evaluation is None:
        return GoalStatus(met=False, text=f"{goal}: no correct kernel yet")
    if goal.kind is GoalKind.CORRECT:
        return GoalStatus(met=True, text="correct; no performance goal was named")
    performance = best.evaluation.performance
    if performance is None:
        return GoalStatus(met=False, text=f"{goal}: the kernel is correct but was not timed")
    if goal.kind is GoalKind.ROOFLINE:
        share = performance.roofline_fraction
        text = f"{_apart(share * 100, goal.value * 100, 1)}% of roofline, {goal.value * 100:g}% asked"
        return GoalStatus(met=share >= goal.value, text=text)
    if goal.kind is GoalKind.LATENCY:
        text = f"{_apart(performance.latency_us, goal.value, 2)} us simulated, {goal.value:g} us asked"
        if goal.value < performance.roofline_us:
            text += f", less than the roofline of {performance.roofline_us:.2f} us"
        return GoalStatus(met=performance.latency_us <= goal.value, text=text)
    first = next(c for c in candidates if c.correct)
    ratio = (first.latency_us or performance.latency_us) / performance.latency_us
    text = f"{_apart(ratio, goal.value, 2)}x over the first correct kernel, {goal.value:g}x asked"
    return GoalStatus(met=ratio >= goal.value, text=text)


def _apart(reached: float, asked: float, digits: int) -> str:
    """What was reached, with as many digits as it takes not to look like what was asked: a near miss reads as one."""
    while digits < 6 and reached != asked and f"{reached:.{digits}f}" == f"{asked:.{digits}f}":
        digits += 1
    return f"{reached:.{digits}f}"
