"""The tool `simulate`: run a kernel on random inputs and time it, without a reference to compare with."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from tools import draws
from tools.confinement import Limits
from tools.execution import prepare
from tools.performance import performance_of
from tools.roofline import Roofline
from tools.sandbox import JobFailed, Worker, borrowed
from tools.sim.errors import UnsupportedError
from tools.sim.hazards import hazards
from tools.sim.instruction import Trace
from tools.sim.machine import MODEL_VERSION, machine
from tools.task import Finding, Frozen, Kernel, Performance, Target, TensorSpec
from tools.task_errors import RequestError
from tools.wire import WireError


class KernelArgs(BaseModel):
    """A kernel, the inputs to run it on, and the machine."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    source: str = Field(max_length=200_000, description="Complete source of the kernel's module.")
    function: str = Field(default="kernel", max_length=200, description="Name of the kernel function in it.")
    inputs: tuple[TensorSpec, ...] = Field(
        min_length=1, max_length=32, description="Name, shape and type of each argument; values are drawn at random."
    )
    target: Target = Field(default="trn2", description="Generation to simulate: trn1, trn2 or trn3.")


class SimulateArgs(KernelArgs):
    """Run a kernel on the simulator and time it. Says nothing about whether its results are right."""


class SimulateResult(Frozen):
    """What the simulator found."""

    ok: bool
    """The kernel ran to its end without an error."""
    target: Target
    model_version: str
    outputs: tuple[TensorSpec, ...] = ()
    findings: tuple[Finding, ...] = ()
    printed: str = ""
    performance: Performance | None = None
    """Simulated time; its roofline counts bytes only, because the arithmetic that is needed isn't known."""


def carry_out(
    args: KernelArgs, worker: Worker, limits: Limits | None = None
) -> tuple[Trace, list[TensorSpec], tuple[Finding, ...], str]:
    """Run a kernel once on random inputs; returns its trace, outputs, findings, and what it printed.

    Raises:
        JobFailed: the kernel failed.
        RequestError: an input has an unknown type.
    """
    try:
        values = draws.plain(args.inputs, draws.rng())
    except WireError as error:
        raise RequestError(str(error)) from error
    kernel = Kernel(source=args.source, function=args.function)
    execution = prepare(kernel, args.inputs, args.target, worker, limits or worker.limits)
    (ran,), (trace, *_) = execution.run([values])
    outputs = [TensorSpec(name=f"output {i}", shape=a.shape, dtype=a.dtype.name) for i, a in enumerate(ran.outputs)]
    streamed = [Finding(**d.to_json()) for d in hazards(trace, machine(args.target))]
    if execution.remark:
        streamed.append(Finding(code="KW-COVERAGE", severity="note", message=execution.remark))
    # By their text: what a finding found may be a list, which has no hash.
    findings = {str(f): f for f in (*execution.recorded.findings, *ran.findings, *streamed)}
    return trace, outputs, tuple(findings.values()), execution.recorded.printed


def failed(failure: JobFailed) -> Finding:
    """A failed job as a finding."""
    return failure.finding or Finding(code=f"KW-{failure.kind.upper()}", message=failure.message)


def simulate(args: SimulateArgs, *, worker: Worker | None = None, limits: Limits | None = None) -> SimulateResult:
    """Run and time a kernel.

    Raises:
        RequestError: an input has an unknown type.
    """
    with borrowed(worker) as hired:
        try:
            trace, outputs, findings, printed = carry_out(args, hired, limits)
        except JobFailed as failure:
            if failure.kind == "request":
                raise RequestError(failure.message) from failure
            return SimulateResult(
                ok=False, target=args.target, model_version=MODEL_VERSION, findings=(failed(failure),)
            )
    performance: Performance | None = None
    try:
        performance = performance_of(trace, args.target, _bytes_only(args, outputs))
    except UnsupportedError as error:
        findings = (*findings, Finding(code="KW-UNSUPPORTED", message=str(error)))
    return SimulateResult(
        ok=not any(f.severity == "error" for f in findings),
        target=args.target,
        model_version=MODEL_VERSION,
        outputs=tuple(outputs),
        findings=findings,
        printed=printed,
        performance=performance,
    )


def _bytes_only(args: KernelArgs, outputs: list[TensorSpec]) -> Roofline:
    read, written = (sum(draws.nbytes(t) for t in tensors) for tensors in (args.inputs, tuple(outputs)))
    memory_us = (read + written) / machine(args.target).hbm_gbps / 1e3
    return Roofline(memory_us, 0.0, 0.0, read, written, 0, 0, False)
