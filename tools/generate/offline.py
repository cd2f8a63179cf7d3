"""The offline policy's generator: drafts a kernel for a task and improves it by simulating schedules without data.

It needs no model. Everything that it writes follows from the traced operator graph and the machine's table; nothing is
looked up by the request's words.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tools.generate.errors import BeyondOffline
from tools.generate.estimate import Estimator, one_by_one
from tools.generate.graph import Graph
from tools.generate.moves import Move, Space
from tools.generate.plan import Plan, defer_row_scales, make_plan
from tools.generate.render import Rendered, render
from tools.generate.roofline import Roofline, output_dtypes, roofline
from tools.generate.schedule import MatmulSchedule, PlanName, Schedule
from tools.generate.tracing import trace_reference
from tools.sim import machine
from tools.task import Evaluation, Kernel, Task

_PLAN_CHANGES: dict[PlanName, str] = {
    "fused": "Applied per-row factors before the matmul",
    "deferred": "Moved per-row factors behind the matmul, where emptying PSUM applies them for free",
    "apart": "Wrote the matmul's left operand to HBM first",
}

WORTH_SHARING = 0.02
"""Seconds that a candidate must take for a batch to be handed to the estimator."""

Tracer = Callable[[str, str, Sequence[Mapping[str, Any]]], dict[str, Any]]
"""`trace_reference` or something that runs it elsewhere, such as a sandboxed worker."""


@dataclass(frozen=True, slots=True)
class Draft:
    """A kernel that deserves a full evaluation.

    Attributes:
        kernel: its source.
        change: one sentence: what changed, why, and the simulated time before and after.
        schedule: the choices behind it, in plain values.
    """

    kernel: Kernel
    change: str
    schedule: dict[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Attempt:
    """A draft and its judgement."""

    draft: Draft
    evaluation: Evaluation


@dataclass(frozen=True, slots=True)
class _Candidate:
    schedule: Schedule
    source: str
    latency_us: float


class Generator:
    """Drafts and improves kernels for one task.

    Args:
        task: what is asked for.
        tracer: traces the reference; pass one that runs in a sandbox when the reference is foreign code.
        slice_seconds: time that one call of `improve` may spend on simulating candidates.
        least_gain: relative gain below which a change isn't worth an evaluation.
        estimator: times a batch of candidates without data, as several processes may; used where candidates take long.
        batch: candidates that are timed at once.
    """

    def __init__(
        self,
        task: Task,
        tracer: Tracer = trace_reference,
        *,
        slice_seconds: float = 6.0,
        least_gain: float = 0.005,
        estimator: Estimator = one_by_one,
        batch: int = 1,
    ) -> None:
        self.task = task
        self._estimator, self.batch = estimator, batch
        self._each = 0.0
        self.slice_seconds, self.least_gain = slice_seconds, least_gain
        self.machine = machine(task.target)
        specs = [{"name": s.name, "shape": list(s.shape), "dtype": s.dtype} for s in task.inputs]
        self.graph = Graph.from_json(tracer(task.reference.source, task.reference.function, specs))
        dtypes = output_dtypes(task, len(self.graph.outputs))
        for dtype in [*dtypes, *(s.dtype for s in task.inputs)]:
            if dtype in ("float64", "complex64", "int64", "uint64"):
                raise BeyondOffline(f"{dtype} tensors")
        self.plans: dict[PlanName, Plan] = {"fused": make_plan(self.graph, dtypes, task.precision)}
        deferred = defer_row_scales(self.graph)
        if deferred.to_json() != self.graph.to_json():
            self.plans["deferred"] = make_plan(deferred, dtypes, task.precision)
        if any(s.kind == "matmul" for s in self.plans["fused"].stages):
            apart = make_plan(self.graph, dtypes, task.precision, fuse_left=False)
            if len(apart.stages) != len(self.plans["fused"].stages):
                self.plans["apart"] = apart
        self.spaces = {name: Space(plan, self.machine) for name, plan in self.plans.items()}
        self._tried: dict[Schedule, _Candidate | None] = {}
        self._by_digest: dict[str, _Candidate] = {}
        self._refused: set[str] = set()
        self._best: _Candidate | None = None
        self.reason = ""
        """Why the last candidate that failed did."""

    def roofline(self) -> Roofline:
        """Least bytes and flops of the task on its target."""
        return roofline(self.task, self.graph, self.machine)

    # -- the policy's two questions ----------------------------------------------------------------------------------

    def first(self) -> Draft:
        """A simple schedule that fits the machine.

        Raises:
            BeyondOffline: no schedule of the generator fits.
        """
        for name, space in self.spaces.items():
            for schedule in space.starts(name):
                found = self._try(schedule)
                if found is not None:
                    self._best = found
                    stages = len(self.plans[name].stages)
                    what = "one loop nest" if stages == 1 else f"{stages} loop nests"
                    return self._draft(
                        found,
                        f"First draft: {what}, the plainest schedule that fits (simulated {found.latency_us:.1f} us).",
                    )
        raise BeyondOffline(
            f"no schedule of the generator fits this task on {self.task.target} ({self.reason or 'no candidate'})"
        )

    def improve(self, history: Sequence[Attempt]) -> Draft | None:
        """The next candidate worth a full evaluation, or None when nothing better is known.

        Args:
            history: attempts so far; drafts that were judged wrong are left alone from then on.
        """
        current = self._resume(history)
        if current is None:
            return self._another()
        deadline = time.monotonic() + self.slice_seconds
        step = self._best_step(current, deadline)
        if step is None:
            step = self._best_pair(current, deadline)
        if step is None:
            return None
        found, why = step
        self._best = found
        gain = current.latency_us / found.latency_us
        return self._draft(
            found, f"{why} (simulated {current.latency_us:.1f} -> {found.latency_us:.1f} us, {gain:.2f}x)."
        )

    # -- search ------------------------------------------------------------------------------------------------------

    def _resume(self, history: Sequence[Attempt]) -> _Candidate | None:
        """The fastest candidate that was judged correct; drafts from an earlier process are recognised by digest."""
        best: _Candidate | None = None
        for attempt in history:
            digest = attempt.draft.kernel.digest
            if not attempt.evaluation.correct:
                self._refused.add(digest)
                continue
            found = self._by_digest.get(digest) or self._replay(attempt.draft)
            if found is not None and (best is None or found.latency_us < best.latency_us):
                best = found
        if not history and self._best is not None:
            return self._best
        return best

    def _replay(self, draft: Draft) -> _Candidate | None:
        """Find the schedule of a draft that another process made."""
        schedule = Schedule.parse(draft.schedule)
        if schedule is not None and schedule.plan in self.plans:
            plan = self.plans[schedule.plan]
            kinds = [
                isinstance(c, MatmulSchedule) == (s.kind == "matmul") for c, s in zip(schedule.stages, plan.stages)
            ]
            if len(schedule.stages) == len(plan.stages) and all(kinds):
                return self._try(schedule)
        return None

    def _best_step(self, current: _Candidate, deadline: float) -> tuple[_Candidate, str] | None:
        best: tuple[_Candidate, str] | None = None
        limit = current.latency_us * (1 - self.least_gain)
        for move, found in self._tries(self._moves(current.schedule)):
            if found is not None and found.latency_us < limit:
                best, limit = (found, move.why), found.latency_us
            if time.monotonic() > (deadline if best is not None else deadline + 4 * self.slice_seconds):
                break
        return best

    def _best_pair(self, current: _Candidate, deadline: float) -> tuple[_Candidate, str] | None:
        """Two changes at once, for choices that only pay together; the most promising first steps come first."""
        firsts = []
        for move, found in self._tries(self._moves(current.schedule)):
            if found is not None:
                firsts.append((found.latency_us, move))
            if time.monotonic() > deadline:
                return None
        firsts.sort(key=lambda pair: pair[0])
        limit = current.latency_us * (1 - self.least_gain)
        for latency, first in firsts[:12]:
            if latency > 1.5 * current.latency_us:
                break
            for second, found in self._tries(self._moves(first.schedule)):
                if found is not None and found.latency_us < limit:
                    return found, f"{first.why}; {second.why[0].lower()}{second.why[1:]}"
                if time.monotonic() > deadline:
                    return None
        return None

    def _moves(self, schedule: Schedule) -> list[Move]:
        moves = list(self.spaces[schedule.plan].moves(schedule))
        kinds = [s.kind for s in self.plans[schedule.plan].stages]
        for name, plan in self.plans.items():
            if name != schedule.plan and [s.kind for s in plan.stages] == kinds:
                moves.insert(0, Move(Schedule(name, schedule.stages), _PLAN_CHANGES[name]))
        return moves

    def _another(self) -> Draft | None:
        """After wrong drafts only: the next schedule that is different enough to be right."""
        for name, space in self.spaces.items():
            for start in space.starts(name):
                for schedule in (start, *(m.schedule for m in space.moves(start))):
                    found = self._try(schedule)
                    if found is not None:
                        self._best = found
                        return self._draft(
                            found,
                            f"The earlier kernel was judged wrong; tried another schedule (simulated {found.latency_us:.1f} us).",
                        )
        return None

    def _try(self, schedule: Schedule) -> _Candidate | None:
        """Render and time a schedule without data; None when it doesn't fit the machine or was judged wrong."""
        self._measure([schedule])
        found = self._tried[schedule]
        if found is not None and Kernel(source=found.source).digest in self._refused:
            return None
        return found

    def _measure(self, schedules: Sequence[Schedule]) -> None:
        """Have all of these timed that weren't yet."""
        new = [s for s in dict.fromkeys(schedules) if s not in self._tried]
        if not new:
            return
        sources = [self.render(s).source for s in new]
        started = time.perf_counter()
        # Quick candidates cost less than handing them to other processes does.
        timed = self._estimator if len(new) > 1 and self._each >= WORTH_SHARING else one_by_one
        estimates = timed(sources, self.task.inputs, self.task.target)
        self._each = (time.perf_counter() - started) / len(new)
        for schedule, source, estimate in zip(new, sources, estimates):
            if estimate.latency_us is None:
                self.reason = estimate.reason
                self._tried[schedule] = None
                continue
            found = _Candidate(schedule, source, estimate.latency_us)
            self._tried[schedule] = found
            self._by_digest.setdefault(Kernel(source=source).digest, found)

    def _tries(self, moves: Sequence[Move]) -> Iterator[tuple[Move, _Candidate | None]]:
        """Each move with its candidate, timed a batch at a time."""
        for start in range(0, len(moves), self.batch):
            some = moves[start : start + self.batch]
            self._measure([m.schedule for m in some])
            yield from ((m, self._try(m.schedule)) for m in some)

    def render(self, schedule: Schedule) -> Rendered:
        """Source for one schedule of this task."""
        title = f"{self.task.name} for {self.task.target}, written by the offline generator."
        return render(self.plans[schedule.plan], schedule, self.machine, title=title)

    def _draft(self, found: _Candidate, change: str) -> Draft:
        return Draft(Kernel(source=found.source), change, found.schedule.describe())
