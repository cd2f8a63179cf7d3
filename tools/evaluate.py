"""The judge: `evaluate(kernel, task) -> Evaluation`, the only way to say that a kernel is right and how fast it is.

The kernel's source runs in a confined process without data and leaves a record of its instructions. Another process carries
the record out on inputs that the kernel never sees; a third runs the reference. Values are compared and time is computed
here, from the record.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Literal

from numpy.typing import NDArray

from tools.compare import Comparison, compare
from tools.confinement import Limits
from tools.contract import precision_findings
from tools.execution import POISONS, Execution, Ran, prepare
from tools.performance import performance_of
from tools.roofline import Roofline
from tools.sandbox import POOL, JobFailed, Worker, borrowed
from tools.sim.errors import UnsupportedError
from tools.sim.hazards import hazards
from tools.sim.instruction import Trace
from tools.sim.machine import MODEL_VERSION, machine
from tools.specification import Known, Specification, fresh, specification
from tools.task import Evaluation, Finding, Kernel, Performance, Task, Trial

SMALL_BYTES = 2 << 20
"""Inputs below this are run twice even when no read of unwritten memory was reported."""

KERNEL_LIMITS = Limits(seconds=60.0, memory_bytes=8 << 30, result_bytes=6 << 30)

Failure = Literal["", "rejected", "crashed", "wrong", "timeout", "memory", "unsupported"]
_FAILURES: dict[str, Failure] = {
    "kernel": "rejected", "unsupported": "unsupported", "timeout": "timeout", "memory": "memory", "output": "crashed",
    "crashed": "crashed", "stopped": "crashed",
}  # fmt: skip


def check_task(task: Task, *, worker: Worker | None = None) -> None:
    """Make sure that a task can be judged.

    Raises:
        RequestError: the reference raises, gives NaN, disagrees with the declared types, or is such that a kernel which does
            nothing, copies an input or ignores one would pass.
    """
    with borrowed(worker) as hired:
        specification(task, hired)


def evaluate(kernel: Kernel, task: Task, *, worker: Worker | None = None, limits: Limits | None = None) -> Evaluation:
    """Judge a kernel against a task.

    Args:
        kernel: source and entry point; it takes the task's inputs by position and returns its outputs.
        worker: whose process to use; None: one of the process's own.
        limits: what each job may use.

    Raises:
        RequestError: the task itself can't be judged (see `check_task`).
        WorkerFault: a bug of ours; says nothing about the kernel.
    """
    started = time.monotonic()
    bounds = limits or KERNEL_LIMITS
    with borrowed(worker) as hired:
        spec = specification(task, hired)
        try:
            verdict = _judge(kernel, task, spec, hired, bounds)
        except JobFailed as failure:
            finding = failure.finding or Finding(code=_code(failure), message=failure.message)
            verdict = _Verdict(_FAILURES.get(failure.kind, "crashed"), (finding,))
    return Evaluation(
        kernel_digest=kernel.digest,
        task_digest=task.digest,
        model_version=MODEL_VERSION,
        target=task.target,
        correct=verdict.failure == "",
        findings=verdict.findings,
        trials=verdict.trials,
        performance=verdict.performance,
        seconds=round(time.monotonic() - started, 4),
        failure=verdict.failure,
    )


def lint(source: str) -> tuple[Finding, ...]:
    """Findings about kernel source that is not run."""
    with POOL.worker() as worker:
        return worker.lint(source)


def interrupt() -> None:
    """Make running evaluations return soon, with failure `crashed`."""
    POOL.interrupt()


class _Verdict:
    def __init__(
        self,
        failure: Failure,
        findings: Sequence[Finding] = (),
        trials: Sequence[Trial] = (),
        performance: Performance | None = None,
    ) -> None:
        self.failure = failure
        self.findings = tuple(findings)
        self.trials = tuple(trials)
        self.performance = performance


def _code(failure: JobFailed) -> str:
    return "KW-UNSUPPORTED" if failure.kind == "unsupported" else f"KW-{failure.kind.upper()}"


def _judge(kernel: Kernel, task: Task, spec: Specification, worker: Worker, limits: Limits) -> _Verdict:
    execution = prepare(kernel, task.inputs, task.target, worker, limits)
    findings = [*_mismatches(execution.returns, spec), *execution.recorded.findings]
    if _errors(findings):
        return _Verdict("rejected", _unique(findings))
    known = [fresh(task, spec, worker), *([] if spec.staged else spec.standing_draws(task, worker))]
    ran, traces = execution.run([k.draw.arrays for k in known])
    findings += [f for run in ran for f in run.findings]
    returned = [[(a.shape, a.dtype.name) for a in run.outputs] for run in ran]
    findings += [f for found in returned if execution.returns is None for f in _mismatches(found, spec)]
    findings += [f for trace in traces for f in _stream_findings(trace, task)]
    if _errors(findings):
        return _Verdict("rejected", _unique(findings))
    trials = [_trial(k, run.outputs, task, spec) for k, run in zip(known, ran)]
    trials[0] = _repeated(execution, known[0], ran[0], trials[0], findings)
    if spec.staged and trials[0].passed:
        del known, ran  # large outputs, compared already
        further = spec.standing_draws(task, worker)
        ran, more = execution.run([k.draw.arrays for k in further]) if further else ([], [])
        unseen = [trace for trace in more if not any(trace is seen for seen in traces)]
        traces += unseen
        findings += [f for run in ran for f in run.findings]
        findings += [f for trace in unseen for f in _stream_findings(trace, task)]
        if _errors(findings):
            return _Verdict("rejected", _unique(findings))
        trials += [_trial(k, run.outputs, task, spec) for k, run in zip(further, ran)]
    remarks = [*spec.remarks, *([execution.remark] if execution.remark else [])]
    findings += [Finding(code="KW-COVERAGE", severity="note", message=text) for text in remarks]
    if not all(t.passed for t in trials):
        return _Verdict("wrong", _unique(findings), trials)
    try:
        performance = _timed(traces, task, spec.roofline)
    except UnsupportedError as error:
        return _Verdict("unsupported", _unique([*findings, Finding(code="KW-UNSUPPORTED", message=str(error))]), trials)
    impossible = _impossible(performance, spec.roofline)
    if impossible is not None:
        return _Verdict("rejected", _unique([*findings, impossible]), trials, performance)
    return _Verdict("", _unique(findings), trials, performance)


def _stream_findings(trace: Trace, task: Task) -> list[Finding]:
    """What the whole instruction stream shows: capacity, placement, wasted work, forbidden precision."""
    found = [Finding(**d.to_json()) for d in hazards(trace, machine(task.target))]
    return [*precision_findings(trace, task), *found]


def _repeated(execution: Execution, known: Known, ran: Ran, trial: Trial, findings: Sequence[Finding]) -> Trial:
    """The first trial, failed if a second run with other garbage in unwritten memory gives other bits."""
    suspects = [f for f in findings if f.code == "KW-UNINITIALISED"]
    if not suspects and not execution.opaque and sum(a.nbytes for a in known.draw.arrays) >= SMALL_BYTES:
        return trial
    (again,), _ = execution.run([known.draw.arrays], POISONS[1])
    if all(a.tobytes() == b.tobytes() for a, b in zip(ran.outputs, again.outputs)):
        return trial
    why = suspects[0].message if suspects else "two runs on the same inputs differ"
    detail = f"the output depends on memory that was never written: {why}"
    return trial.model_copy(update={"passed": False, "detail": detail})


def _timed(traces: Sequence[Trace], task: Task, limits: Roofline) -> Performance:
    """The slowest of the recorded streams: all of them are the same unless control flow depends on values."""
    return max((performance_of(trace, task.target, limits) for trace in traces), key=lambda p: p.latency_us)


def _impossible(performance: Performance, limits: Roofline) -> Finding | None:
    floor = limits.floor_us
    if performance.latency_us >= floor * 0.999:
        return None
    return Finding(
        code="KW-IMPOSSIBLE",
        message=f"{performance.latency_us:.2f} us is less than the {floor:.2f} us that the task's bytes and arithmetic need at "
        "least: the kernel can't have done the work",
        found=round(performance.latency_us, 3),
        limit=round(floor, 3),
        fix="report this kernel: either it bypasses the simulator or the bound is wrong",
    )


def _mismatches(got: Sequence[tuple[tuple[int, ...], str]] | None, spec: Specification) -> list[Finding]:
    """What is wrong with count, shapes and types of the outputs."""
    if got is None:
        return []
    if len(got) != len(spec.shapes):
        return [
            Finding(
                code="KW-OUTPUT-COUNT",
                message=f"the kernel returns {len(got)} tensors, the reference {len(spec.shapes)}",
                found=len(got),
                limit=len(spec.shapes),
                fix="return the outputs in the reference's order",
            )
        ]
    found = []
    for i, ((shape, name), wanted, kind) in enumerate(zip(got, spec.shapes, spec.dtypes)):
        if shape != wanted:
            found.append(
                Finding(
                    code="KW-OUTPUT-SHAPE",
                    message=f"output {i} has shape {'x'.join(map(str, shape))}, the reference gives {'x'.join(map(str, wanted))}",
                    found=list(shape),
                    limit=list(wanted),
                    fix="allocate the result with the reference's shape",
                )
            )
        elif name != kind:
            found.append(
                Finding(
                    code="KW-OUTPUT-DTYPE",
                    message=f"output {i} is {name}, the task asks for {kind}",
                    found=name,
                    limit=kind,
                    fix=f"allocate the result with dtype nl.{kind}",
                )
            )
    return found


def _trial(known: Known, outputs: Sequence[NDArray[Any]], task: Task, spec: Specification) -> Trial:
    compared: list[Comparison] = [
        compare(got, want, task.tolerance, known.draw.arrays) for got, want in zip(outputs, known.wanted)
    ]
    failed = [(i, c) for i, c in enumerate(compared) if not c.passed]
    name = f"output {failed[0][0]}: " if failed and len(compared) > 1 else ""
    return Trial(
        seed_label=known.draw.label,
        shapes=tuple(t.shape for t in task.inputs),
        passed=not failed,
        max_abs_error=max(c.max_abs_error for c in compared),
        max_rel_error=max(c.max_rel_error for c in compared),
        rel_l2=max(c.rel_l2 for c in compared),
        detail=f"{name}{failed[0][1].detail}" if failed else "",
    )


def _errors(findings: Sequence[Finding]) -> bool:
    return any(f.severity == "error" for f in findings)


def _unique(findings: Sequence[Finding]) -> list[Finding]:
    """Findings without repeats, errors first."""
    seen = {(f.code, f.line, f.message.split(" view ")[0]): f for f in reversed(findings)}
    order = {"error": 0, "warning": 1, "note": 2}
    return sorted(reversed(list(seen.values())), key=lambda f: order[f.severity])


__all__ = ["check_task", "evaluate", "interrupt", "lint"]
