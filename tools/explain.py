"""The tool `explain`: why an engine is idle and what changes would gain, proved by timing the changed program again."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from tools.insight import TraceError, advise, explain_gap
from tools.insight.observed import Observed
from tools.sandbox import JobFailed, Worker, borrowed
from tools.sim.errors import UnsupportedError
from tools.sim.machine import MODEL_VERSION, machine
from tools.simulate import KernelArgs, carry_out, failed
from tools.task import Finding, Frozen, Target


class ExplainArgs(KernelArgs):
    """Explain why a kernel takes the time it takes: idle time of one engine by cause, and advice with predicted gains."""

    engine: Literal["Tensor", "Vector", "Scalar", "GpSimd", "Sync"] = Field(
        default="Tensor", description="Whose idle time to explain."
    )
    top: int = Field(default=5, ge=1, le=20, description="How many causes and pieces of advice.")


class ExplainResult(Frozen):
    """Causes and advice in words. All times are simulated."""

    ok: bool
    target: Target
    model_version: str
    findings: tuple[Finding, ...] = ()
    answer: str = ""
    advice: tuple[str, ...] = ()


def explain(args: ExplainArgs, *, worker: Worker | None = None) -> ExplainResult:
    """Explain a kernel's time.

    Raises:
        RequestError: an input has an unknown type.
    """
    with borrowed(worker) as hired:
        try:
            trace, _, findings, _ = carry_out(args, hired)
            seen = Observed.of(trace, machine(args.target))
            gap = explain_gap(seen, engine=args.engine, limit=args.top)
            advice = tuple(piece.sentence for piece in advise(seen)[: args.top])
        except JobFailed as failure:
            return ExplainResult(ok=False, target=args.target, model_version=MODEL_VERSION, findings=(failed(failure),))
        except (UnsupportedError, TraceError) as error:
            finding = Finding(code="KW-UNSUPPORTED", message=str(error))
            return ExplainResult(ok=False, target=args.target, model_version=MODEL_VERSION, findings=(finding,))
    return ExplainResult(
        ok=True, target=args.target, model_version=MODEL_VERSION, findings=findings, answer=gap.answer, advice=advice
    )
