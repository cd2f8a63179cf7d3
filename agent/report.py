"""The report: what was asked, what was found, the evidence, and what was not covered."""

from __future__ import annotations

from agent.state import Candidate, RunState, StopReason, goal_status
from tools.task import (
    EngineTime,
    Evaluation,
    Finding,
    Frozen,
    GoalKind,
    Performance,
    Task,
    TensorSpec,
    Tolerance,
    Trial,
)


class CandidateSummary(Frozen):
    """One line of a run's history."""

    number: int
    parents: tuple[int, ...]
    change: str
    correct: bool
    latency_us: float | None
    roofline_fraction: float | None
    problem: str


class Report(Frozen):
    """Result of a run. Every latency in it is simulated, for `target`, by the timing model `model_version`."""

    run_id: str
    request: str
    task: str
    target: str
    goal: str
    goal_met: bool
    goal_detail: str
    correct: bool
    verdict: str
    """The result in one sentence."""
    max_rel_error: float | None
    latency_us: float | None
    roofline_us: float | None
    roofline_fraction: float | None
    speedup: float | None
    """First correct kernel's simulated latency over the best one's."""
    attempts: int
    seconds: float
    tokens: int
    dollars: float
    policy: str
    model: str
    """The vendor's model name; empty without a model."""
    prompts: str
    """Version of the prompts; empty without a model."""
    model_version: str
    """Version of the timing model."""
    stop: str
    limits: tuple[str, ...]
    """What was not covered, in words."""
    bound: str
    bottleneck: str
    engines: tuple[EngineTime, ...]
    notes: tuple[str, ...]
    inputs: tuple[TensorSpec, ...]
    tolerance: Tolerance
    reference: str
    reference_origin: str = ""
    """Where the reference is from: words, model, file or library; empty in reports of older versions."""
    trials: tuple[Trial, ...]
    findings: tuple[Finding, ...]
    changes: tuple[CandidateSummary, ...]
    """The line of descent of the best kernel, oldest first."""
    candidates: tuple[CandidateSummary, ...]
    function: str
    kernel_digest: str
    task_digest: str
    kernel: str
    """Source of the best kernel; of the last attempt when none is correct."""


def build_report(state: RunState, stop: StopReason) -> Report:
    """Sum up a run that has a task.

    Args:
        state: the run, with `used` up to date.
        stop: why it ended.
    """
    task = state.task
    if task is None:
        raise ValueError("a run without a task has nothing to report")
    status = goal_status(task, state.candidates)
    chosen = state.best or state.last or (state.candidates[-1] if state.candidates else None)
    evaluation = chosen.evaluation if chosen else None
    performance = evaluation.performance if evaluation else None
    correct = bool(evaluation and evaluation.correct)
    first = state.first_correct
    speedup = None
    if correct and first and first.latency_us and performance:
        speedup = first.latency_us / performance.latency_us
    return Report(
        run_id=state.run_id,
        request=task.request,
        task=task.name,
        target=task.target,
        goal=str(task.goal),
        goal_met=status.met,
        goal_detail=status.text,
        correct=correct,
        verdict=_verdict(state, stop, status.met, status.text),
        max_rel_error=evaluation.max_rel_error if evaluation else None,
        latency_us=performance.latency_us if performance else None,
        roofline_us=performance.roofline_us if performance else None,
        roofline_fraction=performance.roofline_fraction if performance else None,
        speedup=speedup,
        attempts=state.used.attempts,
        seconds=round(state.used.seconds, 3),
        tokens=state.used.tokens,
        dollars=round(state.used.dollars, 6),
        policy=state.policy,
        model=state.model,
        prompts=state.prompts,
        model_version=evaluation.model_version if evaluation else "",
        stop=str(stop),
        limits=tuple(_limits(state, task, evaluation)),
        bound=performance.bound if performance else "",
        bottleneck=performance.bottleneck if performance else "",
        engines=performance.engines if performance else (),
        notes=performance.notes if performance else (),
        inputs=task.inputs,
        tolerance=task.tolerance,
        reference=task.reference.source,
        reference_origin=task.reference.origin,
        trials=evaluation.trials if evaluation else (),
        findings=evaluation.findings if evaluation else (),
        changes=tuple(_summary(c) for c in lineage(state, chosen)),
        candidates=tuple(_summary(c) for c in state.candidates),
        function=chosen.kernel.function if chosen else "",
        kernel_digest=chosen.kernel.digest if chosen else "",
        task_digest=task.digest,
        kernel=chosen.kernel.source if chosen else "",
    )


def lineage(state: RunState, candidate: Candidate | None) -> list[Candidate]:
    """The candidates that led to this one, oldest first, along the first parent."""
    line: list[Candidate] = []
    while candidate is not None and candidate not in line:
        line.append(candidate)
        candidate = state.candidate(candidate.parents[0]) if candidate.parents else None
    return line[::-1]


def _summary(candidate: Candidate) -> CandidateSummary:
    evaluation = candidate.evaluation
    performance: Performance | None = evaluation.performance if evaluation else None
    return CandidateSummary(
        number=candidate.number,
        parents=candidate.parents,
        change=candidate.change,
        correct=candidate.correct,
        latency_us=candidate.latency_us,
        roofline_fraction=performance.roofline_fraction if performance else None,
        problem=evaluation.first_problem or evaluation.failure if evaluation else "not judged",
    )


def _verdict(state: RunState, stop: StopReason, met: bool, detail: str) -> str:
    best = state.best
    if best is None:
        last = state.last
        problem = last.evaluation.first_problem if last and last.evaluation else ""
        why = f"; the last problem was: {problem}" if problem else ""
        return f"No correct kernel was found ({stop}){why}"
    if met and state.task is not None and state.task.goal.kind is GoalKind.CORRECT:
        return "The kernel is correct; no performance goal was named."
    if met:
        return f"The kernel is correct and the goal is met: {detail}."
    return f"The kernel is correct but the goal is not met: {detail} ({stop})."


def _limits(state: RunState, task: Task, evaluation: Evaluation | None) -> list[str]:
    limits = [
        "Latency is simulated from a machine table, not measured on a device; launch from the host is not included."
    ]
    if evaluation and evaluation.trials:
        shapes = {trial.shapes for trial in evaluation.trials}
        where = "only the shapes asked for" if len(shapes) == 1 else f"{len(shapes)} sets of shapes"
        limits.append(
            f"Correctness was tested on {len(evaluation.trials)} hidden draws with {where}, not proven; "
            "other shapes and types are not covered."
        )
    else:
        limits.append("Correctness was not tested: no candidate ran to its end.")
    if task.reference.origin in ("words", "model"):
        writer = "by the grammar" if task.reference.origin == "words" else "by the model"
        limits.append(f"The NumPy reference was derived {writer} from the request; read it in this report.")
    if evaluation:
        warnings = sum(finding.severity == "warning" for finding in evaluation.findings)
        if warnings:
            limits.append(f"The kernel carries {warnings} warning(s), listed under findings.")
        limits += [finding.message for finding in evaluation.findings if finding.code == "KW-COVERAGE"]
    if state.used.unpriced_tokens:
        limits.append(
            f"{state.used.unpriced_tokens} tokens came from a model without a listed price: "
            "they count against the token budget, not against the dollar budget."
        )
    return limits + list(dict.fromkeys(state.notes))
