"""A recorded and timed kernel, from which reports, tables and debug answers are made; kernel source runs in the sandbox only."""

from __future__ import annotations

import ast
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from tools import draws
from tools.execution import POISONS
from tools.insight import (
    Location,
    Observed,
    PrecisionReport,
    Step,
    TraceError,
    instrumented,
    locate,
    locate_by_trace,
    precision_report,
    unwritten_outputs,
    unwritten_reads,
)
from tools.program import Malformed, Program
from tools.sandbox import JobFailed, Worker, borrowed
from tools.sim.errors import KernelError, UnsupportedError
from tools.sim.hazards import hazards
from tools.sim.machine import machine
from tools.task import Finding, Kernel, Reference, Target, TensorSpec, Tolerance
from tools.task_errors import RequestError
from tools.wire import WireError

T = TypeVar("T")

RECORDED_FILE = "kernel.py"
"""Name that the sandbox gives to kernel source in traces."""


@dataclass(frozen=True, slots=True)
class Profiled:
    """A recorded and timed kernel.

    Attributes:
        title: file and function.
        kernel: its source and entry point.
        program: the recorded instructions, which can be replayed on data.
        seen: the trace placed in time, under the user's own file name.
        findings: errors and warnings that recording and the instruction stream show; wrong values need a run on data.
    """

    title: str
    kernel: Kernel
    program: Program
    seen: Observed
    findings: tuple[Finding, ...] = ()


def profile_kernel(
    kernel: Kernel,
    inputs: Sequence[TensorSpec],
    target: Target,
    *,
    filename: str = RECORDED_FILE,
    worker: Worker | None = None,
) -> Profiled:
    """Record a kernel shapes-only in the sandbox and time it.

    Args:
        kernel: source and entry point.
        inputs: shapes and types of its arguments, in order.
        target: the machine.
        filename: how reports call the source file.
        worker: sandbox to use; by default one of the shared ones.

    Raises:
        RequestError: the kernel is at fault, stores nothing, or uses what isn't modelled; one sentence.
    """
    with borrowed(worker) as sandbox:
        try:
            recorded = sandbox.record(
                kernel.source, kernel.function, [{"shape": s.shape, "dtype": s.dtype} for s in inputs], target
            )
        except JobFailed as failure:
            raise RequestError(str(failure.finding or failure.message)) from failure
    program = recorded.program
    lines = [(filename if file == RECORDED_FILE else file, number) for file, number in program.trace.lines]
    trace = replace(program.trace, lines=lines, sources={filename: kernel.source})
    try:
        seen = Observed.of(trace, machine(target))
    except (TraceError, UnsupportedError) as error:
        raise RequestError(f"{filename}: {error}") from error
    streamed = [
        Finding(**d.to_json())
        for d in (*unwritten_reads(trace), *unwritten_outputs(trace), *hazards(trace, machine(target)))
    ]
    findings = {str(f): f for f in (*recorded.findings, *streamed) if f.severity != "note"}
    title = f"{filename}:{kernel.function}"
    return Profiled(title, kernel, replace(program, trace=trace), seen, tuple(findings.values()))


def find_precision(profiled: Profiled, inputs: Sequence[TensorSpec], seed: int = 0) -> PrecisionReport:
    """Which lines of a profiled kernel lose bits, on one draw of inputs.

    Raises:
        RequestError: the kernel fails on data, or its control flow depends on data.
    """
    return _on_data(profiled, lambda: precision_report(profiled.program, drawn(inputs, seed)))


def find_error(
    profiled: Profiled,
    inputs: Sequence[TensorSpec],
    reference: Reference,
    tolerance: Tolerance,
    seed: int = 0,
    worker: Worker | None = None,
) -> Location:
    """The line at which a profiled kernel's result departs from a NumPy reference, on one draw of inputs.

    Raises:
        RequestError: kernel or reference fail on data, or their outputs differ in number or shape.
    """
    values = drawn(inputs, seed)
    with borrowed(worker) as sandbox:
        try:
            wanted = sandbox.reference(reference.source, reference.function, [values])[0]
        except JobFailed as failure:
            raise RequestError(failure.message) from failure

        if profiled.program.opaque:
            return _by_trace(profiled, values, wanted, tolerance, sandbox)

        def steps() -> list[Step]:
            made = instrumented(reference.source, reference.function)
            try:
                return made.steps(sandbox.reference(made.source, made.function, [values])[0])
            except JobFailed:
                return []  # e.g. too much memory with all that is kept: the line is found without

        return _on_data(profiled, lambda: locate(profiled.program, values, wanted, tolerance, steps=steps))


def _by_trace(
    profiled: Profiled,
    values: list[NDArray[np.generic]],
    wanted: Sequence[NDArray[np.generic]],
    tolerance: Tolerance,
    sandbox: Worker,
) -> Location:
    """Locate an error of a kernel whose record can't be replayed: it runs once more as it is."""
    kernel, target = profiled.kernel, profiled.program.trace.target
    try:
        _, outputs, findings = sandbox.direct(kernel.source, kernel.function, values, target, POISONS[0])
        return locate_by_trace(profiled.program, outputs, values, wanted, tolerance, tuple(map(str, findings)))
    except JobFailed as failure:
        raise RequestError(str(failure.finding or failure.message)) from failure
    except (Malformed, ValueError) as error:
        raise RequestError(f"{profiled.title}: {error}") from error


def _on_data(profiled: Profiled, run: Callable[[], T]) -> T:
    if profiled.program.depends_on_data:
        raise RequestError(
            f"{profiled.title} loads registers from tensors, so its instructions depend on data and can't be replayed"
        )
    if profiled.program.opaque:
        raise RequestError(f"{profiled.title} can't be replayed in float64: {profiled.program.opaque}")
    try:
        return run()
    except KernelError as error:
        raise RequestError(str(error)) from error
    except (Malformed, ValueError) as error:
        raise RequestError(f"{profiled.title}: {error}") from error


def drawn(inputs: Sequence[TensorSpec], seed: int) -> list[NDArray[np.generic]]:
    """Values for each input, the same for the same seed.

    Raises:
        RequestError: a type that can't be drawn.
    """
    try:
        return draws.plain(inputs, np.random.default_rng(seed))
    except WireError as error:
        raise RequestError(str(error)) from error


def entry_of(source: str, filename: str) -> str:
    """Name of the kernel function in a file that holds one: the only one decorated with `jit`, or `kernel`.

    Raises:
        RequestError: there is none, or more than one; the message lists them.
    """
    try:
        tree = ast.parse(source)
    except SyntaxError as error:
        raise RequestError(f"{filename} line {error.lineno}: {error.msg}") from error
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    jitted = [f.name for f in functions if any(_is_jit(d) for d in f.decorator_list)]
    names = jitted or [f.name for f in functions]
    if "kernel" in names:
        return "kernel"
    if len(names) != 1:
        raise RequestError(
            f"{filename} holds {len(names)} kernels ({', '.join(names) or 'none'}); write {filename}:function"
        )
    return names[0]


def _is_jit(decorator: ast.expr) -> bool:
    node = decorator.func if isinstance(decorator, ast.Call) else decorator
    name = node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""
    return name in ("jit", "baremetal", "benchmark", "profile", "trace")
