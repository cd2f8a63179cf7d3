"""The tool `profile`: where the time of a launch goes, by engine, line and cause."""

from __future__ import annotations

from pydantic import Field

from tools.sandbox import JobFailed, Worker, borrowed
from tools.sim.errors import UnsupportedError
from tools.sim.machine import MODEL_VERSION, machine
from tools.sim.profiler import profile as profile_of
from tools.sim.timing import schedule
from tools.simulate import KernelArgs, carry_out, failed
from tools.task import EngineTime, Finding, Frozen, Target


class ProfileArgs(KernelArgs):
    """Profile a kernel: busy time of each engine, the heaviest lines and loops, the longest waits, bytes and utilisation."""

    top: int = Field(default=10, ge=1, le=100, description="How many lines, loops and waits to list.")


class LineCost(Frozen):
    """Engine time that one source line causes."""

    line: int
    source: str
    busy_us: float
    stall_us: float
    instructions: int
    dma_bytes: int
    engine: str


class LoopCost(Frozen):
    """Engine time that one loop causes, loops inside it included."""

    line: int
    header: str
    depth: int
    iterations: int | None
    """How often its body ran; null where the instructions don't tell."""
    busy_us: float
    stall_us: float
    instructions: int
    dma_bytes: int
    engines: dict[str, float]


class WaitCost(Frozen):
    """Idle time of an engine in front of one line."""

    engine: str
    line: int
    us: float
    cause: str
    waits_for: str
    waits_for_line: int


class ProfileResult(Frozen):
    """A profile, or the findings that prevented one. All times are simulated."""

    ok: bool
    target: Target
    model_version: str
    findings: tuple[Finding, ...] = ()
    latency_us: float = 0.0
    bottleneck: str = ""
    memory_us: float = 0.0
    """HBM bytes at the rate that one core can draw."""
    compute_us: float = 0.0
    """Matmul work at the Tensor Engine's peak."""
    pipeline_us: float = 0.0
    """The busiest engine without any waiting."""
    engines: tuple[EngineTime, ...] = ()
    lines: tuple[LineCost, ...] = ()
    loops: tuple[LoopCost, ...] = ()
    waits: tuple[WaitCost, ...] = ()
    hbm_read_bytes: int = 0
    hbm_write_bytes: int = 0
    reload_read_bytes: int = 0
    """Input bytes read more than once."""
    pe_row_utilisation_percent: float = 0.0
    pe_column_utilisation_percent: float = 0.0
    mfu_estimated_percent: float = 0.0


def profile(args: ProfileArgs, *, worker: Worker | None = None) -> ProfileResult:
    """Profile a kernel on random inputs.

    Raises:
        RequestError: an input has an unknown type.
    """
    with borrowed(worker) as hired:
        try:
            trace, _, findings, _ = carry_out(args, hired)
            target = machine(args.target)
            found = profile_of(trace, schedule(trace, target), target)
        except JobFailed as failure:
            return ProfileResult(ok=False, target=args.target, model_version=MODEL_VERSION, findings=(failed(failure),))
        except UnsupportedError as error:
            finding = Finding(code="KW-UNSUPPORTED", message=str(error))
            return ProfileResult(ok=False, target=args.target, model_version=MODEL_VERSION, findings=(finding,))
    text = args.source.splitlines()
    return ProfileResult(
        ok=True,
        target=args.target,
        model_version=MODEL_VERSION,
        findings=findings,
        latency_us=found.latency_us,
        bottleneck=found.bottleneck,
        memory_us=found.memory_us,
        compute_us=found.compute_us,
        pipeline_us=found.pipeline_us,
        engines=tuple(
            EngineTime(engine=e.engine, busy_us=e.busy_us, share=e.active_percent / 100, instructions=e.instructions)
            for e in found.engines
        ),
        lines=tuple(
            LineCost(
                line=line.line,
                source=text[line.line - 1].strip() if 0 < line.line <= len(text) else "",
                busy_us=line.busy_us,
                stall_us=line.stall_us,
                instructions=line.instructions,
                dma_bytes=line.dma_bytes,
                engine=line.engine,
            )
            for line in found.lines[: args.top]
        ),
        loops=tuple(
            LoopCost(
                line=entry.first_line,
                header=entry.header,
                depth=entry.depth,
                iterations=entry.iterations,
                busy_us=entry.busy_us,
                stall_us=entry.stall_us,
                instructions=entry.instructions,
                dma_bytes=entry.dma_bytes,
                engines=entry.engines,
            )
            for entry in found.loops[: args.top]
        ),
        waits=tuple(
            WaitCost(
                engine=s.engine,
                line=s.line,
                us=s.us,
                cause=s.cause,
                waits_for=s.waits_for,
                waits_for_line=s.waits_for_line,
            )
            for s in found.stalls[: args.top]
        ),
        hbm_read_bytes=found.hbm_read_bytes,
        hbm_write_bytes=found.hbm_write_bytes,
        reload_read_bytes=found.reload_read_bytes,
        pe_row_utilisation_percent=found.pe_row_utilisation_percent,
        pe_column_utilisation_percent=found.pe_column_utilisation_percent,
        mfu_estimated_percent=found.mfu_estimated_percent,
    )
