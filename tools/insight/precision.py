"""Which lines lost the bits, and what keeping them would cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import log2
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tools.insight import counterfactual as what_if
from tools.insight.gaps import written_tiles
from tools.insight.lockstep import Lockstep, lockstep, relative
from tools.insight.observed import Observed
from tools.program import Program
from tools.sim.machine import Machine, machine

FLOAT32_BITS = 24
"""Significant bits of float32: an error of 2^-24 relative is one that float32 can't avoid."""
NOISE = 2.0**-20
"""Relative error below which a line counts as exact: the order of a float32 sum makes as much."""
NARROW = ("bfloat16", "float16", "float8_e4m3", "float8_e4m3fn", "float8_e5m2")


@dataclass(frozen=True, slots=True)
class LinePrecision:
    """What one source line lost.

    Attributes:
        where, source: the line.
        opcode, dtype: instruction and type of its results.
        local_error: largest relative error that one instruction of the line added by itself.
        inherited_error: largest relative error of its results, everything before included.
        bits_lost: significant bits that it lost against float32.
        wider_cost_us: time that float32 results there would cost, microseconds; None when they are wide already.
    """

    line: int
    where: str
    source: str
    opcode: str
    dtype: str
    local_error: float
    inherited_error: float
    bits_lost: float
    wider_cost_us: float | None

    @property
    def sentence(self) -> str:
        """The line's loss in words."""
        if self.local_error <= NOISE:
            return f"{self.where} ({self.opcode}, {self.dtype}) loses nothing."
        cost = ""
        if self.wider_cost_us is not None:
            cost = f" Keeping float32 there would cost {max(self.wider_cost_us, 0.0):.2f} us."
        return (
            f"{self.where} ({self.opcode}, {self.dtype}) adds a relative error of {self.local_error:.1e} "
            f"({self.bits_lost:.0f} bits below float32).{cost}"
        )


@dataclass(frozen=True, slots=True)
class PrecisionReport:
    """Where a kernel's precision went, the most lossy line first.

    Attributes:
        output_error: relative error of each output against the float64 shadow.
        unshadowed: `file:line` of instructions without a float64 form; losses there are not seen.
    """

    target: str
    output_error: tuple[float, ...]
    lines: tuple[LinePrecision, ...]
    unshadowed: tuple[str, ...]

    @property
    def answer(self) -> str:
        """The report in a few sentences."""
        lossy = [entry for entry in self.lines if entry.local_error > NOISE]
        worst = max(self.output_error, default=0.0)
        head = f"The outputs differ from exact arithmetic by up to {worst:.1e} (relative)."
        if not lossy:
            return f"{head} No line loses more than float32 does."
        return "\n".join([head, *(f"- {entry.sentence}" for entry in lossy[:6])])

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {**asdict(self), "answer": self.answer}


def precision_report(
    program: Program, inputs: Sequence[NDArray[Any]], target: Machine | None = None, *, prove: bool = True
) -> PrecisionReport:
    """Run a recorded kernel with its float64 shadow and attribute the rounding to source lines.

    Args:
        program: the recorded kernel.
        inputs: one array for each input.
        target: the machine; by default the one it was recorded for.
        prove: also time what wider results would cost.

    Raises:
        KernelError, Malformed: see `lockstep`.
    """
    there = target or machine(program.trace.target)
    return report_of(program, lockstep(program, inputs, there), there, prove=prove)


def report_of(program: Program, run: Lockstep, target: Machine, *, prove: bool = True) -> PrecisionReport:
    """The report of a run that was made already."""
    seen = Observed.of(program.trace, target)
    rows = []
    for line, entry in run.lines.items():
        if not entry.count:
            continue
        lossy = entry.local > NOISE
        bits = FLOAT32_BITS + log2(entry.local) if lossy and np.isfinite(entry.local) else 0.0
        cost = _cost(seen, line) if prove and lossy and entry.dtype in NARROW else None
        rows.append(
            LinePrecision(
                line, seen.where(line), seen.source(line), entry.opcode, entry.dtype, entry.local, entry.inherited,
                max(bits, 0.0) if np.isfinite(entry.local) else float(FLOAT32_BITS), cost,
            )
        )  # fmt: skip
    rows.sort(key=lambda r: -r.local_error)
    errors = tuple(_output_error(got, exact) for got, exact in zip(run.outputs, run.shadow))
    return PrecisionReport(target.name, errors, tuple(rows), tuple(seen.where(k) for k in run.unshadowed))


def _output_error(got: NDArray[Any], exact: NDArray[Any]) -> float:
    return relative(np.asarray(got, np.float64), exact)


def _cost(seen: Observed, line: int) -> float | None:
    """Latency that float32 tiles at this line would add, microseconds."""
    tiles = written_tiles(seen, np.flatnonzero(seen.line == line))
    wider = what_if.other_dtype(seen, wider=True, buffers=tiles)
    return None if wider is None else -wider.gain_us
