"""The same program on every generation: what a move from trn1 to trn2 or trn3 would change."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tools.insight.observed import Observed
from tools.sim.errors import UnsupportedError
from tools.sim.instruction import BY_NAME, Flag, Inst, Trace
from tools.sim.machine import TARGETS, machine
from tools.sim.timing import TimingOptions, peak_usage


@dataclass(frozen=True, slots=True)
class Generation:
    """One row of the comparison.

    Attributes:
        target: generation.
        latency_us: simulated latency there; None when the program can't run there.
        speedup: latency on the recorded target over this one.
        bottleneck: what binds there.
        memory_us, compute_us, pipeline_us: the three bounds there.
        obstacle: why the recorded program wouldn't run there, empty when nothing is known against it.
    """

    target: str
    latency_us: float | None
    speedup: float | None
    bottleneck: str
    memory_us: float
    compute_us: float
    pipeline_us: float
    obstacle: str = ""

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


def what_if(
    trace: Trace, targets: Sequence[str] = TARGETS, options: TimingOptions | None = None
) -> tuple[Generation, ...]:
    """Time one recorded program on several generations.

    The instruction stream stays as it was recorded: a kernel that picks tile sizes by generation would record another.

    Args:
        trace: the program.
        targets: generations to try.
        options: switches of the timing model.

    Raises:
        TraceError: the trace can't be judged.
        ValueError: unknown target.
    """
    home = Observed.of(trace, machine(trace.target), options).profile.latency_us
    found = []
    for target in targets:
        obstacle = _obstacle(trace, target)
        try:
            seen = Observed.of(trace, machine(target), options).profile
        except UnsupportedError as error:
            found.append(Generation(target, None, None, "", 0.0, 0.0, 0.0, str(error)))
            continue
        if obstacle:
            found.append(
                Generation(target, None, None, "", seen.memory_us, seen.compute_us, seen.pipeline_us, obstacle)
            )
            continue
        found.append(
            Generation(
                target, seen.latency_us, home / seen.latency_us if seen.latency_us else None, seen.bottleneck,
                seen.memory_us, seen.compute_us, seen.pipeline_us,
            )
        )  # fmt: skip
    return tuple(found)


def _obstacle(trace: Trace, target: str) -> str:
    """Why the program as recorded can't run on `target`, as far as the trace shows."""
    there = machine(target)
    sbuf, psum, _ = peak_usage(trace)
    if sbuf > there.sbuf_partition_bytes:
        return f"needs {sbuf} bytes of SBUF a partition; {target} has {there.sbuf_partition_bytes}"
    if psum > there.psum_partition_bytes:
        return f"needs {psum} bytes of PSUM a partition; {target} has {there.psum_partition_bytes}"
    flags = trace.column(Inst.FLAGS)
    if there.generation < 3 and ((flags & (Flag.DOUBLE_ROW | Flag.HWDGE)) != 0).any():
        return f"uses double_row matmuls or hardware DMA descriptors, which {target} doesn't have"
    if there.generation < 4 and ((flags & Flag.MX) != 0).any():
        return f"uses MX matmuls, which {target} doesn't have"
    code = BY_NAME["nc_matmul"].code
    wide = trace.column(Inst.FREE)[trace.column(Inst.OPCODE) == code]
    if len(wide) and int(wide.max()) > there.gemm_moving_fmax:
        return f"streams {int(wide.max())} columns in one matmul; {target} takes {there.gemm_moving_fmax}"
    return ""
