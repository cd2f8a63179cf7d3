"""The graph's nodes: state and desk in, a partial state out. Policies think, nodes keep the books."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from langgraph.runtime import Runtime

from agent.budget import BudgetSpent
from agent.desk import Desk
from agent.events import Decided, Noted, PhaseEntered, Profiled, RunFinished, TaskSpecified
from agent.policies.protocol import Policy, PolicyFailed
from agent.report import build_report
from agent.state import Candidate, Phase, Proposal, RunState, StopReason, goal_status
from tools.task import Goal, Task
from tools.task_errors import RequestError

Update = dict[str, Any]


class Node(Protocol):
    """What LangGraph calls."""

    def __call__(self, state: RunState, *, runtime: Runtime[Desk]) -> Update:
        """Work on a state; the result is merged into it."""


GAIN = 0.005
"""Relative gain in latency that counts as progress; less is noise of the schedule."""
NEAR_ROOFLINE = 0.95
"""Share of the roofline above which further search isn't worth its cost (rule T7 of the optimisation rules)."""


def build_nodes(policy: Policy) -> dict[Phase, Node]:
    """The eight nodes, with this policy behind specify, draft, debug and improve."""
    return {
        Phase.SPECIFY: _node(Phase.SPECIFY, lambda state, desk: specify(policy, state, desk)),
        Phase.DRAFT: _node(Phase.DRAFT, lambda state, desk: propose(policy.draft, state, desk)),
        Phase.CHECK: _node(Phase.CHECK, check),
        Phase.DEBUG: _node(Phase.DEBUG, lambda state, desk: propose(policy.debug, state, desk)),
        Phase.PROFILE: _node(Phase.PROFILE, profile),
        Phase.IMPROVE: _node(Phase.IMPROVE, lambda state, desk: propose(policy.improve, state, desk)),
        Phase.DECIDE: _node(Phase.DECIDE, decide),
        Phase.REPORT: _node(Phase.REPORT, report),
    }


def _node(phase: Phase, work: Callable[[RunState, Desk], Update]) -> Node:
    def node(state: RunState, *, runtime: Runtime[Desk]) -> Update:
        desk = runtime.context
        desk.journal.emit(PhaseEntered(phase=phase))
        update = work(state, desk)
        return {**update, "used": desk.meter.used}

    return node


def specify(policy: Policy, state: RunState, desk: Desk) -> Update:
    """Words or reference to a checked task; a task that is there already (a fork) is only checked."""
    task = state.task or apply_overrides(policy.specify(state.request, desk), state)
    desk.bench.check_task(task)
    desk.journal.emit(
        TaskSpecified(
            name=task.name,
            inputs=tuple(f"{t.name} {'x'.join(map(str, t.shape))} {t.dtype}" for t in task.inputs),
            target=task.target,
            goal=str(task.goal),
            tolerance=task.tolerance.reason,
            reference=task.reference.source,
        )
    )
    return {"task": task, "phase": Phase.DRAFT}


def apply_overrides(task: Task, state: RunState) -> Task:
    """Flags hold over words.

    Raises:
        RequestError: the words of the task and the flags can't both be meant.
    """
    request = state.request
    update: dict[str, object] = {}
    if request.target is not None:
        update["target"] = request.target
    if request.goal is not None:
        try:
            update["goal"] = Goal.parse(request.goal)
        except ValueError as error:
            raise RequestError(str(error)) from error
    return task.model_copy(update=update)


def propose(think: Callable[[RunState, Desk], Proposal | None], state: RunState, desk: Desk) -> Update:
    """Ask the policy for a kernel; a spent budget or an empty answer goes to the decision."""
    current = state.model_copy(update={"candidates": desk.journal.candidates})
    try:
        desk.meter.check()
        proposal = think(current, desk)
    except BudgetSpent as spent:
        return {"candidates": desk.journal.unseen(state), "stop": spent.reason, "phase": Phase.DECIDE}
    except PolicyFailed as failure:
        desk.journal.emit(Noted(text=str(failure)))
        update: Update = {"notes": [str(failure)], "stop": StopReason.MODEL_FAILED, "phase": Phase.DECIDE}
        return {**update, "candidates": desk.journal.unseen(state)}
    if proposal is None:
        return {"candidates": desk.journal.unseen(state), "exhausted": True, "phase": Phase.DECIDE}
    candidate = desk.journal.propose(proposal)
    return {"candidates": desk.journal.unseen(state), "pending": candidate.number, "phase": Phase.CHECK}


def check(state: RunState, desk: Desk) -> Update:
    """Judge the pending candidate, unless that happened before an interruption."""
    task = _task(state)
    pending: Candidate = next(c for c in desk.journal.candidates if c.number == state.pending)
    if pending.evaluation is None:
        try:
            pending = desk.judge(pending, task)
        except BudgetSpent as spent:
            return {"stop": spent.reason, "phase": Phase.DECIDE}
    phase = Phase.PROFILE if pending.correct else Phase.DECIDE
    return {"candidates": desk.journal.unseen(state), "pending": None, "phase": phase}


def profile(state: RunState, desk: Desk) -> Update:
    """Say where the time of the candidate goes."""
    last = state.last
    performance = last.evaluation.performance if last and last.evaluation else None
    if last is None or performance is None:
        desk.journal.emit(Noted(text="The kernel is correct but has no profile: it was not timed."))
        return {"phase": Phase.DECIDE}
    desk.journal.emit(
        Profiled(
            number=last.number,
            bottleneck=performance.bottleneck,
            bound=performance.bound,
            engines=performance.engines,
            notes=performance.notes,
        )
    )
    return {"phase": Phase.DECIDE}


def decide(state: RunState, desk: Desk) -> Update:
    """Debug, improve or stop."""
    stop, reason = stop_reason(state, desk)
    if stop is not None:
        phase = Phase.REPORT
    elif state.last is not None and not state.last.correct and _wrong_in_a_row(state) < _debug_rounds(state, desk):
        phase, reason = Phase.DEBUG, "the last kernel is wrong"
    else:
        status = goal_status(_task(state), state.candidates)
        phase = Phase.IMPROVE
        reason = "no performance goal was named; is there a faster one?" if status.met else status.text
    desk.journal.emit(Decided(next=phase, reason=reason))
    return {"phase": phase, "stop": stop}


def stop_reason(state: RunState, desk: Desk) -> tuple[StopReason | None, str]:
    """Why the run ends here, with the words for it; (None, "") when it goes on."""
    task, settings, best = _task(state), desk.settings, state.best
    status = goal_status(task, state.candidates)
    named_goal = str(task.goal) != "correct"
    if status.met and named_goal:
        return StopReason.GOAL_MET, status.text
    if status.met and state.request.wants_only_correct:
        return StopReason.CORRECT, status.text
    if (spent := state.stop or desk.meter.stop) is not None:
        return spent, f"{spent}; {status.text}"
    if state.exhausted:
        return StopReason.EXHAUSTED, f"the policy has nothing left to try; {status.text}"
    if best is None:
        wrong = _wrong_in_a_row(state)
        if wrong >= settings.give_up_after:
            return StopReason.STUCK, f"{wrong} kernels in a row were wrong"
        return None, ""
    share = best.evaluation.performance.roofline_fraction if best.evaluation and best.evaluation.performance else 0.0
    if not named_goal and share >= NEAR_ROOFLINE:
        return StopReason.NO_GAIN, f"{share:.0%} of roofline: little left to gain"
    judged = [c for c in state.candidates if c.evaluation is not None]
    first = state.first_correct
    start = max(first.number, state.inherited) if first else 0
    if not named_goal and first and sum(c.number > start for c in judged) >= settings.polish_attempts:
        return (
            StopReason.CORRECT,
            f"no performance goal was named and {settings.polish_attempts} more attempts were made",
        )
    since = _attempts_without_gain(state)
    if since >= settings.patience:
        return StopReason.NO_GAIN, f"{since} attempts without a gain; {status.text}"
    return None, ""


def report(state: RunState, desk: Desk) -> Update:
    """Sum up; the report is the last thing that a run says."""
    stop = state.stop or StopReason.EXHAUSTED
    final = state.model_copy(update={"used": desk.meter.used, "candidates": desk.journal.candidates})
    desk.journal.emit(RunFinished(report=build_report(final, stop)))
    return {"stop": stop, "candidates": desk.journal.unseen(state)}


def _task(state: RunState) -> Task:
    assert state.task is not None, "only specify runs without a task"
    return state.task


def _debug_rounds(state: RunState, desk: Desk) -> int:
    return desk.settings.debug_rounds if state.best else desk.settings.give_up_after


def _wrong_in_a_row(state: RunState) -> int:
    count = 0
    for candidate in reversed(state.candidates):
        if candidate.evaluation is None:
            continue
        if candidate.correct or candidate.number <= state.inherited:
            break
        count += 1
    return count


def _attempts_without_gain(state: RunState) -> int:
    """Judged candidates since latency last fell by more than `GAIN`."""
    best: float | None = None
    since = 0
    for candidate in state.candidates:
        if candidate.evaluation is None:
            continue
        latency = candidate.latency_us if candidate.correct else None
        if latency is not None and (best is None or latency < best * (1 - GAIN)):
            best, since = latency, 0
        elif best is not None and candidate.number > state.inherited:
            since += 1
    return since
