"""What the nodes of a run work with: the judge, the meter and the journal. Never checkpointed."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from agent.budget import Clock, Meter
from agent.events import CandidateChecked, CandidateDrafted, Event
from agent.settings import Settings
from agent.state import Candidate, Proposal, RunState, best_of
from agent.store import Store
from tools.task import Evaluation, Finding, Kernel, Task, TensorSpec


class Evaluate(Protocol):
    """The judge; `tools.evaluate.evaluate` in production."""

    def __call__(self, kernel: Kernel, task: Task) -> Evaluation:
        """Judge a kernel; never raises for a fault of the kernel."""


Estimator = Callable[[Sequence[str], Sequence[TensorSpec], str], Sequence[Any]]
"""Sources, inputs and target to an estimate each (`tools.generate.estimate.Estimate`, which loads the simulator)."""

Trace = Callable[[str, str, Sequence[Mapping[str, Any]]], dict[str, Any]]
"""Source, function and input descriptions (name, shape, dtype) to a graph in JSON; raises `BeyondPolicy`."""


@dataclass(frozen=True)
class Bench:
    """The tools that decide about right and wrong."""

    evaluate: Evaluate
    check_task: Callable[[Task], None]
    """Raises `RequestError` for a task that can't be judged."""
    lint: Callable[..., Sequence[Finding]] = lambda source, strict=False: ()
    """Findings about source that is not run; `strict` adds the compiler's rules."""
    trace: Trace | None = None
    """Operator graph of a reference, traced where foreign code may run; None: not offered."""
    estimate: Estimator | None = None
    """Simulated times of generated candidates, several at once; None: the policy times them itself."""
    ask: Callable[[Kernel, Task, str], str] | None = None
    """Answers a question about a kernel's profile; raises `RequestError` for what it doesn't understand; None: not offered."""
    locate: Callable[[Kernel, Task], str] | None = None
    """Names the line at which a kernel's error enters; raises `RequestError`; None: not offered."""
    precision: Callable[[Kernel, Task], str] | None = None
    """Says which lines of a kernel lose bits; raises `RequestError`; None: not offered."""
    interrupt: Callable[[], None] = lambda: None
    """Makes a running `evaluate` return soon."""
    close: Callable[[], None] = lambda: None
    """Ends what the bench alone uses; workers that runs share stay warm."""


class Abandoned(Exception):
    """The run was closed over this thread's head; unwind without a word."""


class Journal:
    """What a run says and finds, written down at once. After `close` nothing more gets in."""

    def __init__(self, store: Store, run_id: str, meter: Meter, wake: Callable[[], None] = lambda: None) -> None:
        self._store = store
        self._run_id = run_id
        self._meter = meter
        self._wake = wake
        self._closed = False
        self._lock = threading.RLock()
        self._candidates = {c.number: c for c in store.candidates(run_id)}

    def emit(self, event: Event) -> None:
        """Append an event to the run's stream.

        Raises:
            Abandoned: the run was closed.
        """
        with self._lock:
            self._check_open()
            used = self._meter.used
            stamped = event.model_copy(update={"run_id": self._run_id, "seconds": round(used.seconds, 3)})
            self._store.add_event(stamped, used)
        self._wake()

    def propose(self, proposal: Proposal) -> Candidate:
        """Number a proposal, keep it and announce it."""
        with self._lock:
            self._check_open()
            number = max(self._candidates, default=0) + 1
            candidate = Candidate(number=number, **dict(proposal))
            self._keep(candidate)
            self.emit(
                CandidateDrafted(
                    number=number,
                    change=proposal.change,
                    parents=proposal.parents,
                    source=proposal.kernel.source,
                )
            )
        return candidate

    def record(self, candidate: Candidate, evaluation: Evaluation) -> Candidate:
        """Keep a judgement and announce it."""
        with self._lock:
            self._check_open()
            judged = candidate.model_copy(update={"evaluation": evaluation})
            self._keep(judged)
            best = best_of(self.candidates)
            performance = evaluation.performance
            self.emit(
                CandidateChecked(
                    number=judged.number,
                    correct=evaluation.correct,
                    failure=evaluation.failure,
                    problem=evaluation.first_problem,
                    latency_us=performance.latency_us if performance else None,
                    roofline_fraction=performance.roofline_fraction if performance else None,
                    max_rel_error=evaluation.max_rel_error,
                    best=best is not None and best.number == judged.number,
                )
            )
        return judged

    @property
    def candidates(self) -> list[Candidate]:
        """All candidates of the run, by number, also those that no checkpoint holds yet."""
        with self._lock:
            return [self._candidates[number] for number in sorted(self._candidates)]

    def unseen(self, state: RunState) -> list[Candidate]:
        """Candidates that this state doesn't hold as they are now."""
        known = {c.number: c for c in state.candidates}
        return [c for c in self.candidates if known.get(c.number) != c]

    def close(self) -> None:
        """Let nothing more in."""
        with self._lock:
            self._closed = True

    def _keep(self, candidate: Candidate) -> None:
        self._candidates[candidate.number] = candidate
        self._store.save_candidate(self._run_id, candidate)

    def _check_open(self) -> None:
        if self._closed:
            raise Abandoned


@dataclass(frozen=True)
class Desk:
    """Context of a run's nodes."""

    bench: Bench
    meter: Meter
    journal: Journal
    settings: Settings

    @property
    def clock(self) -> Clock:
        """The run's clock."""
        return self.meter.clock

    def judge(self, candidate: Candidate, task: Task) -> Candidate:
        """Evaluate a candidate, once: a kernel that this run has judged before costs nothing.

        Raises:
            BudgetSpent: no attempt is left.
        """
        for earlier in self.journal.candidates:
            known = earlier.evaluation
            same = earlier.kernel.digest == candidate.kernel.digest
            if known is not None and same and known.task_digest == task.digest:
                return self.journal.record(candidate, known)
        self.meter.check_judging()
        evaluation = self.bench.evaluate(candidate.kernel, task)
        self.meter.charge_attempt()
        return self.journal.record(candidate, evaluation)
