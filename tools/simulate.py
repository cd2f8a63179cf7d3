"""The tool `simulate`: run a kernel on random inputs and time it, without a reference to compare with."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from tools import draws
from tools.confinement import Limits
from tools.performance import performance_of
from tools.roofline import Roofline
from tools.sandbox import JobFailed, Recorded, Worker, borrowed
from tools.sim.dtypes import ALL
from tools.sim.errors import UnsupportedError
from tools.sim.machine import MODEL_VERSION, machine
from tools.task import Finding, Frozen, Performance, Target, TensorSpec
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


def record(args: KernelArgs, worker: Worker, limits: Limits | None = None) -> tuple[Recorded, tuple[Finding, ...]]:
    """Record a kernel and carry it out once on random inputs; returns the record and all findings.

    Raises:
        JobFailed: the kernel failed.
        RequestError: an input has an unknown type.
    """
    try:
        values = draws.plain(args.inputs, draws.rng())
    except WireError as error:
        raise RequestError(str(error)) from error
    described = [{"shape": t.shape, "dtype": t.dtype} for t in args.inputs]
    recorded = worker.record(args.source, args.function, described, args.target, limits=limits)
    if recorded.program.depends_on_data:
        recorded = worker.record(args.source, args.function, described, args.target, arrays=values, limits=limits)
    _, found = worker.replay(recorded, args.source, [values], [(0, 0xFF)], limits)[0]
    return recorded, tuple(dict.fromkeys((*recorded.findings, *found)))


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
            recorded, findings = record(args, hired, limits)
        except JobFailed as failure:
            return SimulateResult(
                ok=False, target=args.target, model_version=MODEL_VERSION, findings=(failed(failure),)
            )
    facts = recorded.program.tensor_facts()
    outputs = tuple(
        TensorSpec(name=f"output {i}", shape=facts[id][0], dtype=str(ALL[facts[id][1]]))
        for i, id in enumerate(recorded.program.outputs)
    )
    try:
        performance = performance_of(recorded.program.trace, args.target, _bytes_only(args, outputs))
    except UnsupportedError as error:
        performance = None
        findings = (*findings, Finding(code="KW-UNSUPPORTED", message=str(error)))
    return SimulateResult(
        ok=not any(f.severity == "error" for f in findings),
        target=args.target,
        model_version=MODEL_VERSION,
        outputs=outputs,
        findings=findings,
        printed=recorded.printed,
        performance=performance,
    )


def _bytes_only(args: KernelArgs, outputs: tuple[TensorSpec, ...]) -> Roofline:
    read, written = (sum(draws.nbytes(t) for t in tensors) for tensors in (args.inputs, outputs))
    memory_us = (read + written) / machine(args.target).hbm_gbps / 1e3
    return Roofline(memory_us, 0.0, 0.0, read, written, 0, 0, False)
