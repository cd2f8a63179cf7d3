"""What a run says while it works. This stream is a run's only output; progress lines, SSE and chat render it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from agent.report import Report
from agent.state import Phase, RunRequest, Used
from tools.task import EngineTime, Frozen


class EventBase(Frozen):
    """Fields of every event."""

    run_id: str = ""
    seq: int = 0
    """Position in the run's stream, from 1; the SSE id."""
    seconds: float = 0.0
    """Wall seconds of the run when it was said, earlier sittings included."""


class RunStarted(EventBase):
    """Work begins or, after an interruption, goes on."""

    type: Literal["run_started"] = "run_started"
    request: RunRequest
    policy: str
    model: str
    resumed: bool = False


class PhaseEntered(EventBase):
    """A node of the graph starts."""

    type: Literal["phase"] = "phase"
    phase: Phase


class TaskSpecified(EventBase):
    """The request is understood."""

    type: Literal["task"] = "task"
    name: str
    inputs: tuple[str, ...]
    """One text per input: name, shape, type."""
    target: str
    goal: str
    tolerance: str
    reference: str
    """Source of the NumPy reference that decides what is correct."""


class CandidateDrafted(EventBase):
    """A policy proposes a kernel."""

    type: Literal["candidate"] = "candidate"
    number: int
    change: str
    parents: tuple[int, ...]
    source: str


class CandidateChecked(EventBase):
    """A kernel was judged."""

    type: Literal["checked"] = "checked"
    number: int
    correct: bool
    failure: str
    problem: str
    latency_us: float | None
    roofline_fraction: float | None
    max_rel_error: float | None
    best: bool
    """Whether it is the best of the run so far."""


class Profiled(EventBase):
    """Where the time of a correct kernel goes."""

    type: Literal["profile"] = "profile"
    number: int
    bottleneck: str
    bound: str
    engines: tuple[EngineTime, ...]
    notes: tuple[str, ...]


class Decided(EventBase):
    """What happens next, and why."""

    type: Literal["decided"] = "decided"
    next: Phase
    reason: str


class ModelText(EventBase):
    """A piece of what the model says."""

    type: Literal["model_text"] = "model_text"
    text: str


class ToolCalled(EventBase):
    """The model used a tool."""

    type: Literal["tool"] = "tool"
    name: str
    summary: str
    ok: bool


class ModelRetried(EventBase):
    """The vendor refused or was not reachable; the call is repeated."""

    type: Literal["retry"] = "retry"
    reason: str
    wait_seconds: float


class BudgetUsed(EventBase):
    """A model answered: what the run has spent now."""

    type: Literal["used"] = "used"
    used: Used


class Noted(EventBase):
    """Something that the user should know."""

    type: Literal["note"] = "note"
    text: str


class RunFinished(EventBase):
    """The run is over; the report holds the best kernel."""

    type: Literal["finished"] = "finished"
    report: Report


class RunRefused(EventBase):
    """The request can't be served: bad input, or beyond the policy. One sentence."""

    type: Literal["refused"] = "refused"
    message: str
    kind: Literal["input", "settings", "beyond", "cancelled"] = "input"


class RunFailed(EventBase):
    """A fault of ours. The run can be resumed."""

    type: Literal["failed"] = "failed"
    message: str


Event = Annotated[
    RunStarted
    | PhaseEntered
    | TaskSpecified
    | CandidateDrafted
    | CandidateChecked
    | Profiled
    | Decided
    | ModelText
    | ToolCalled
    | ModelRetried
    | BudgetUsed
    | Noted
    | RunFinished
    | RunRefused
    | RunFailed,
    Field(discriminator="type"),
]

EVENT: TypeAdapter[Event] = TypeAdapter(Event)

FINAL = (RunFinished, RunRefused, RunFailed)
"""Events after which a run says nothing more until it is resumed."""
