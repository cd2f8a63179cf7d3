"""What is asked for and what was found: `Task`, `Goal`, `Kernel`, `Evaluation`, the contract between all faces.

These models cross every border (tool calls, HTTP, stored runs, eval results). They hold no behaviour beyond checks.
"""

from __future__ import annotations

import hashlib
import re
from enum import StrEnum
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

Target = Literal["trn1", "trn2", "trn3"]


class Frozen(BaseModel):
    """Immutable, closed model: an unknown field is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class TensorSpec(Frozen):
    """One input or output tensor."""

    name: str
    shape: tuple[int, ...]
    dtype: str = "float32"
    distribution: str = "normal"
    """How test values are drawn: `normal`, `uniform` (0..1), `positive`, `large` (normal times 8), `small_int`."""

    @field_validator("shape")
    @classmethod
    def _positive(cls, shape: tuple[int, ...]) -> tuple[int, ...]:
        if not shape or any(n < 1 for n in shape):
            raise ValueError(f"shape {shape} must have at least one dimension and only sizes of 1 or more")
        return shape


class GoalKind(StrEnum):
    """What the user wants to reach."""

    ROOFLINE = "roofline"
    LATENCY = "latency"
    SPEEDUP = "speedup"
    CORRECT = "correct"


class Goal(Frozen):
    """A performance goal: share of the roofline (0..1), latency in microseconds, or speed-up over the first correct kernel."""

    kind: GoalKind = GoalKind.CORRECT
    value: float = 0.0

    @classmethod
    def parse(cls, text: str) -> Goal:
        """Read `roofline>=0.6`, `latency<=120us`, `speedup>=2`, or `correct`.

        Raises:
            ValueError: anything else; the message shows the three forms.
        """
        squeezed = text.replace(" ", "").lower()
        if squeezed in ("", "correct"):
            return cls()
        if match := re.fullmatch(r"roofline>=?(\d*\.?\d+)(%?)", squeezed):
            value = float(match[1]) / (100 if match[2] else 1)
            if 0 < value <= 1:
                return cls(kind=GoalKind.ROOFLINE, value=value)
        elif match := re.fullmatch(r"latency<=?(\d*\.?\d+)(us|µs|ms)?", squeezed):
            value = float(match[1]) * (1000 if match[2] == "ms" else 1)
            if value > 0:
                return cls(kind=GoalKind.LATENCY, value=value)
        elif (match := re.fullmatch(r"speedup>=?(\d*\.?\d+)x?", squeezed)) and float(match[1]) > 0:
            return cls(kind=GoalKind.SPEEDUP, value=float(match[1]))
        raise ValueError(f"goal {text!r} isn't understood; write roofline>=0.6, latency<=120us, speedup>=2 or correct")

    def __str__(self) -> str:
        if self.kind is GoalKind.ROOFLINE:
            return f"roofline>={self.value:g}"
        if self.kind is GoalKind.LATENCY:
            return f"latency<={self.value:g}us"
        if self.kind is GoalKind.SPEEDUP:
            return f"speedup>={self.value:g}"
        return "correct"


class Tolerance(Frozen):
    """How far a result may lie from the reference, and why that far.

    An element passes when |got - want| <= atol * scale + rtol * |want|, where scale is the reference's root mean
    square over the output. `rel_l2` bounds the norm of the error over the norm of the reference as well.
    """

    rtol: float
    atol: float
    rel_l2: float
    reason: str


class Reference(Frozen):
    """A specification as NumPy source: `function` takes the inputs by position and returns one array or a tuple."""

    source: str
    function: str = "reference"
    origin: Literal["words", "file", "library", "model"] = "words"


class Task(Frozen):
    """A problem: what to compute, on what, how exactly, where, and how fast."""

    name: str
    request: str
    reference: Reference
    inputs: tuple[TensorSpec, ...]
    output_dtypes: tuple[str, ...] = ()
    """Types of the outputs; empty: the type of the first input."""
    target: Target = "trn2"
    goal: Goal = Goal()
    tolerance: Tolerance
    precision: Literal["storage", "fp32"] = "storage"
    """What the kernel may compute matmuls in: the inputs' own types, or float32 only."""

    @property
    def digest(self) -> str:
        """Short hash of everything that decides what is correct and how fast it must be."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()[:16]


class Kernel(Frozen):
    """Kernel source and its entry point."""

    source: str
    function: str = "kernel"
    dialect: Literal["nki", "neuronxcc.nki"] = "nki"

    @property
    def digest(self) -> str:
        """Short hash of source and entry point."""
        return hashlib.sha256(f"{self.function}\n{self.source}".encode()).hexdigest()[:16]


class Finding(Frozen):
    """A `Diagnostic` in JSON form (see `tools.sim.errors`)."""

    code: str
    severity: Literal["error", "warning", "note"] = "error"
    message: str
    file: str | None = None
    line: int | None = None
    column: int | None = None
    source: str = ""
    operand: str = ""
    found: object = None
    limit: object = None
    fix: str = ""

    def __str__(self) -> str:
        place = f"line {self.line}: " if self.line else ""
        stop = "" if self.message.endswith((".", "!", "?")) else "."
        fix = f"{stop} Fix: {self.fix}" if self.fix else ""
        return f"{place}{self.severity} {self.code}: {self.message}{fix}"


class Trial(Frozen):
    """One comparison with the reference: hidden inputs, one seed."""

    seed_label: str
    """Name of the draw (`draw 1`, `large values`, ...), never the seed itself."""
    shapes: tuple[tuple[int, ...], ...]
    passed: bool
    max_abs_error: float
    max_rel_error: float
    """Largest |got - want| over (|want| + root mean square of want)."""
    rel_l2: float
    detail: str = ""
    """Where the first wrong element lies and what pattern the error has, when it failed."""


class EngineTime(Frozen):
    """Busy time of one engine during the launch."""

    engine: str
    busy_us: float
    share: float
    instructions: int


class Performance(Frozen):
    """Simulated time of one launch and what bounds it."""

    latency_us: float
    roofline_us: float
    """Shortest time that this task's minimum bytes and arithmetic allow on the target."""
    roofline_fraction: float
    bound: Literal["memory", "compute", "pipeline"]
    bottleneck: str
    engines: tuple[EngineTime, ...]
    hbm_read_bytes: int
    hbm_write_bytes: int
    instructions: int
    notes: tuple[str, ...] = ()
    """What the profile says in words: symptom, line, likely change."""
    hot_lines: tuple[tuple[int, float], ...] = ()
    """(source line, microseconds of engine time), the largest first."""


class Evaluation(Frozen):
    """The judgement of one kernel against one task. Immutable and attributable."""

    kernel_digest: str
    task_digest: str
    model_version: str
    target: Target
    correct: bool
    findings: tuple[Finding, ...] = ()
    trials: tuple[Trial, ...] = ()
    performance: Performance | None = None
    seconds: float = 0.0
    failure: Literal["", "rejected", "crashed", "wrong", "timeout", "memory", "unsupported"] = ""

    @property
    def max_rel_error(self) -> float | None:
        """Largest relative error over all trials, None when nothing ran."""
        return max((t.max_rel_error for t in self.trials), default=None)

    @property
    def first_problem(self) -> str:
        """The one sentence that a person needs first, or an empty string."""
        for finding in self.findings:
            if finding.severity == "error":
                return str(finding)
        for trial in self.trials:
            if not trial.passed:
                return f"wrong result on {trial.seed_label}: {trial.detail}"
        return ""


class Budget(Frozen):
    """Hard limits of a run."""

    attempts: int = Field(default=24, ge=1, le=10_000)
    seconds: float = Field(default=300.0, gt=0)
    tokens: int = Field(default=400_000, ge=0)
    dollars: float = Field(default=5.0, ge=0)
