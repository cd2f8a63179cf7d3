"""Carries a kernel out on several draws: from a record in another process where that is possible, else directly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from tools.confinement import Limits
from tools.sandbox import Recorded, Worker
from tools.sim.dtypes import ALL
from tools.sim.instruction import Trace
from tools.task import Finding, Kernel, Target, TensorSpec

Arrays = Sequence[NDArray[Any]]
POISONS = (0xFF, 0x3C)
"""Bytes that fill memory nobody wrote: NaN in every float type, then a small number."""


@dataclass(frozen=True, slots=True)
class Ran:
    """One draw carried out: outputs, and the findings that values brought to light."""

    outputs: Arrays
    findings: tuple[Finding, ...]


@dataclass(frozen=True, slots=True)
class Execution:
    """A kernel that was recorded and is ready to be carried out.

    Attributes:
        returns: shape and type name of each output, None when only a run tells.
        remark: why values come from the process that ran the kernel's source, or nothing.
    """

    kernel: Kernel
    target: Target
    worker: Worker
    limits: Limits
    described: list[dict[str, Any]]
    recorded: Recorded

    @property
    def opaque(self) -> bool:
        """Whether the record can't be carried out elsewhere."""
        return bool(self.recorded.program.opaque)

    @property
    def returns(self) -> list[tuple[tuple[int, ...], str]] | None:
        """Shape and type of each output, as far as the record says."""
        if self.opaque:
            return None
        facts = self.recorded.program.tensor_facts()
        return [(facts[i][0], type_name(facts[i][1])) for i in self.recorded.program.outputs]

    @property
    def remark(self) -> str:
        """What the user should know about how the values came about."""
        if not self.opaque:
            return ""
        return f"values were computed in the process that ran the kernel's source: {self.recorded.program.opaque}"

    def run(self, draws: Sequence[Arrays], poison: int = POISONS[0]) -> tuple[list[Ran], list[Trace]]:
        """Carry the kernel out on each draw; returns the runs and the distinct instruction streams that were timed.

        Raises:
            JobFailed: the kernel failed.
        """
        source, function = self.kernel.source, self.kernel.function
        if self.opaque:
            done = [self.worker.direct(source, function, d, self.target, poison, self.limits) for d in draws]
            return [Ran(outputs, findings) for _, outputs, findings in done], [p.trace for p, _, _ in done]
        if not self.recorded.program.depends_on_data:
            runs = [(i, poison) for i in range(len(draws))]
            found = self.worker.replay(self.recorded, source, draws, runs, self.limits)
            return [Ran(*f) for f in found], [self.recorded.program.trace]
        ran, traces = [], []
        for draw in draws:
            recorded = self.worker.record(
                source, function, self.described, self.target, arrays=draw, limits=self.limits
            )
            outputs, findings = self.worker.replay(recorded, source, [draw], [(0, poison)], self.limits)[0]
            ran.append(Ran(outputs, (*recorded.findings, *findings)))
            traces.append(recorded.program.trace)
        return ran, traces


def type_name(code: int) -> str:
    """Name of a type by its code, as tasks spell it."""
    return "bool" if ALL[code] == "bool" else ALL[code].storage.name


def prepare(kernel: Kernel, inputs: Sequence[TensorSpec], target: Target, worker: Worker, limits: Limits) -> Execution:
    """Record a kernel.

    Raises:
        JobFailed: it failed.
    """
    described = [{"shape": t.shape, "dtype": t.dtype} for t in inputs]
    recorded = worker.record(kernel.source, kernel.function, described, target, limits=limits)
    return Execution(kernel, target, worker, limits, described, recorded)
