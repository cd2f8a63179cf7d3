"""Run a kernel of the user's own on the simulator: behind `kernelwright simulate` and `POST /v1/simulate`.

With a reference this is the judge, `tools.evaluate`. Without one it is the tool `simulate`: the kernel is run and timed, and
nothing is said about whether its results are right.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Self

from pydantic import Field, ValidationError, model_validator
from rich.console import Console, Group

from agent.render import bullets, engine_table, heading, microseconds, trial_table
from tools.task import Evaluation, Finding, Frozen, Kernel, Performance, Target, TensorSpec, Trial
from tools.task_errors import RequestError

if TYPE_CHECKING:
    from tools.sandbox import Worker

_INPUT = re.compile(r"(?P<name>[A-Za-z_]\w*)=(?P<shape>\d+(x\d+)*)(:(?P<dtype>\w+))?")


class SimulateRequest(Frozen):
    """A kernel, its inputs, and the machine to run it on."""

    source: str = Field(max_length=200_000)
    """Complete source of the kernel's module."""
    function: str = Field(default="kernel", max_length=200)
    inputs: tuple[TensorSpec, ...] = Field(min_length=1, max_length=32)
    """In the order of the kernel's parameters; values are drawn at random."""
    target: Target = "trn2"
    reference_source: str | None = Field(default=None, max_length=200_000)
    """NumPy source to compare with; without it nothing is said about correctness."""
    reference_function: str | None = Field(default=None, max_length=200)

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if (self.reference_source is None) != (self.reference_function is None):
            raise ValueError("a reference needs both its source and the name of its function")
        return self


class SimulateResult(Frozen):
    """What the simulator found."""

    ok: bool
    """The kernel ran without errors and, with a reference, agrees with it."""
    correct: bool | None
    """Whether it agrees with the reference; null without one."""
    target: Target
    model_version: str
    outputs: tuple[str, ...]
    """Shape and type of each output; empty when the kernel didn't get that far."""
    findings: tuple[Finding, ...]
    trials: tuple[Trial, ...]
    performance: Performance | None
    """Simulated time. Without a reference its roofline counts bytes only."""


def input_of(text: str) -> TensorSpec:
    """Read `a=512x1024:bfloat16`; without a type it is float32.

    Raises:
        RequestError: it has another form.
    """
    match = _INPUT.fullmatch(text.strip())
    if match is None:
        raise RequestError(f"--input {text!r} isn't understood; write name=shape:type, e.g. a=512x1024:bfloat16")
    shape = tuple(int(size) for size in match["shape"].split("x"))
    try:
        return TensorSpec(name=match["name"], shape=shape, dtype=match["dtype"] or "float32")
    except ValidationError as error:
        raise RequestError(f"--input {text!r}: sizes must be 1 or more") from error


def run_simulation(request: SimulateRequest) -> SimulateResult:
    """Run, time and, with a reference, judge a kernel, in a worker process of its own.

    Raises:
        RequestError: inputs or reference can't be used.
    """
    from tools.sandbox import Worker

    with Worker() as worker:
        if request.reference_source is not None and request.reference_function is not None:
            return _judged(request, worker)
        return _timed(request, worker)


def _judged(request: SimulateRequest, worker: Worker) -> SimulateResult:
    from agent.specify import stated_task
    from tools.evaluate import evaluate

    assert request.reference_source is not None, "checked by the caller"
    assert request.reference_function is not None, "checked by the caller"
    task = stated_task(request.reference_source, request.reference_function, request.inputs, request.target)
    found = evaluate(Kernel(source=request.source, function=request.function), task, worker=worker)
    return _result(request, found)


def _result(request: SimulateRequest, found: Evaluation) -> SimulateResult:
    return SimulateResult(
        ok=found.correct,
        correct=found.correct,
        target=request.target,
        model_version=found.model_version,
        outputs=(),
        findings=found.findings,
        trials=found.trials,
        performance=found.performance,
    )


def _timed(request: SimulateRequest, worker: Worker) -> SimulateResult:
    from tools.evaluate import KERNEL_LIMITS
    from tools.simulate import SimulateArgs, simulate
    from tools.specification import check_size

    check_size(request.inputs)
    asked = SimulateArgs(source=request.source, function=request.function, inputs=request.inputs, target=request.target)
    found = simulate(asked, worker=worker, limits=KERNEL_LIMITS)
    return SimulateResult(
        ok=found.ok,
        correct=None,
        target=request.target,
        model_version=found.model_version,
        outputs=tuple(f"{'x'.join(map(str, spec.shape))} {spec.dtype}" for spec in found.outputs),
        findings=found.findings,
        trials=(),
        performance=found.performance,
    )


def _verdict(result: SimulateResult) -> str:
    """What became of the kernel; one that never ran isn't said to disagree with the reference."""
    if result.correct is None:
        if result.ok:
            return "ran; it was not compared, because no reference is given"
        return "ran, but with errors" if result.outputs else "did not run to its end"
    if result.correct:
        return "agrees with the reference"
    wrong = any(not trial.passed for trial in result.trials)
    return "does not agree with the reference" if wrong else "was refused, so it was not judged against the reference"


def show_simulation(console: Console, request: SimulateRequest, result: SimulateResult) -> None:
    """Print a result for a person."""
    console.print(f"{request.function} {_verdict(result)}", style="green" if result.ok else "red", highlight=False)
    for finding in result.findings:
        console.print(f"  {finding}", highlight=False, markup=False)
    if result.outputs:
        console.print(f"outputs: {', '.join(result.outputs)}", highlight=False)
    if result.trials:
        console.print(Group(heading("Correctness (hidden inputs against the reference)"), trial_table(result.trials)))
    if any(not trial.passed for trial in result.trials):
        console.print("`kernelwright profile` with --locate and the same --input and --reference finds the line.")
    performance = result.performance
    if performance is None:
        return
    bytes_only = "" if result.correct is not None else ", bytes only"
    console.print(
        f"\n{microseconds(performance.latency_us)} simulated on {result.target} (timing model {result.model_version}); "
        f"{performance.roofline_fraction:.1%} of roofline ({microseconds(performance.roofline_us)}{bytes_only}); "
        f"{performance.bound} bound, bottleneck {performance.bottleneck}",
        highlight=False,
    )
    console.print(engine_table(performance.engines), highlight=False)
    lines = request.source.splitlines()
    hot = [
        f"line {number}: {us:.2f} us of engine time: {lines[number - 1].strip() if 0 < number <= len(lines) else ''}"
        for number, us in performance.hot_lines[:5]
    ]
    console.print(bullets([*performance.notes, *hot]), highlight=False)
