"""Simulated time of a recorded kernel, in the contract's terms, with what the profile says in words."""

from __future__ import annotations

from typing import Literal

import numpy as np

from tools.roofline import Roofline
from tools.sim.instruction import OPCODES, Inst, Trace
from tools.sim.machine import machine
from tools.sim.profiler import Profile, profile
from tools.sim.timing import schedule
from tools.task import EngineTime, Performance

SMALL_ROW_BYTES = 512
"""A DMA descriptor moves at least this much before its fixed cost stops dominating (NKI guide, DMA efficiency)."""
HOT_LINES = 8


def performance_of(trace: Trace, target: str, limits: Roofline) -> Performance:
    """Place a trace in time on `target` and sum it up.

    Raises:
        UnsupportedError: an instruction has no known cost.
    """
    found = profile(trace, schedule(trace, machine(target)), machine(target))
    engines = tuple(
        EngineTime(engine=e.engine, busy_us=e.busy_us, share=e.active_percent / 100, instructions=e.instructions)
        for e in found.engines
    )
    dma = EngineTime(
        engine="DMA",
        busy_us=found.dma_active_us,
        share=found.dma_active_percent / 100,
        instructions=found.dma_transfer_count,
    )
    return Performance(
        latency_us=found.latency_us,
        roofline_us=limits.us,
        roofline_fraction=limits.us / found.latency_us if found.latency_us else 0.0,
        bound=_bound(found),
        bottleneck=found.bottleneck,
        engines=(*engines, dma),
        hbm_read_bytes=found.hbm_read_bytes,
        hbm_write_bytes=found.hbm_write_bytes,
        instructions=found.instructions,
        notes=tuple(notes(trace, found)),
        hot_lines=tuple((line.line, round(line.busy_us, 3)) for line in found.lines[:HOT_LINES]),
    )


def _bound(found: Profile) -> Literal["memory", "compute", "pipeline"]:
    """What limits the launch: the DMA engines, the Tensor Engine, or waiting and the other engines."""
    if found.pipeline_us < 0.6 * found.latency_us:
        return "pipeline"
    if found.bottleneck == "DMA":
        return "memory"
    return "compute" if found.bottleneck.startswith("Tensor") else "pipeline"


def notes(trace: Trace, found: Profile) -> list[str]:
    """Symptoms, lines and likely changes, the most important first."""
    said = []
    busy = {e.engine: e.active_percent for e in found.engines} | {"DMA": found.dma_active_percent}
    if found.latency_us and found.pipeline_us < 0.6 * found.latency_us:
        said.append(
            f"No unit is busy for most of the time: {found.bottleneck} would need {found.pipeline_us:.1f} of "
            f"{found.latency_us:.1f} us alone. Overlap loads, compute and stores: more buffers, larger tiles, fewer dependent "
            "steps."
        )
    elif found.bottleneck != "none":
        name = found.bottleneck.removesuffix(" Engine")
        said.append(
            f"{found.bottleneck} bounds the kernel: {found.pipeline_us:.1f} of {found.latency_us:.1f} us without any waiting "
            f"(active {busy.get(name, 0):.0f}%). Take work from it or make its instructions larger."
        )
    said += _row_notes(trace)
    if found.input_read_bytes and found.reload_read_bytes > 0.25 * found.input_read_bytes:
        times = 1 + found.reload_read_bytes / found.input_read_bytes
        said.append(
            f"Inputs are read {times:.1f} times over ({found.reload_read_bytes / 1e6:.2f} MB again). Keep the reused operand "
            "in SBUF, or block the loops so that each tile is loaded once."
        )
    if found.hardware_flops and min(found.pe_row_utilisation_percent, found.pe_column_utilisation_percent) < 60:
        said.append(
            f"The PE array is part empty: {found.pe_row_utilisation_percent:.0f}% of its rows and "
            f"{found.pe_column_utilisation_percent:.0f}% of its columns are used. Contract over 128 partitions and give 128 "
            "stationary columns."
        )
    if found.hardware_flops and found.transpose_flops > 0.3 * found.hardware_flops:
        said.append(
            f"{found.transpose_flops / found.hardware_flops:.0%} of the Tensor Engine's work are transposes. Load the operand "
            "transposed, or swap stationary and moving."
        )
    for stall in found.stalls[:3]:
        if stall.us > 0.1 * found.latency_us:
            cause = f"for {stall.waits_for} on line {stall.waits_for_line}" if stall.waits_for else f"({stall.cause})"
            said.append(f"{stall.engine} Engine waits {stall.us:.1f} us in front of line {stall.line} {cause}.")
    return said


def _row_notes(trace: Trace) -> list[str]:
    if not len(trace):
        return []
    dma = np.array([op.kind == "dma" for op in OPCODES])[trace.column(Inst.OPCODE)]
    run, moved, line = (trace.column(c)[dma] for c in (Inst.AUX, Inst.BYTES, Inst.LINE))
    small = (run > 0) & (run < SMALL_ROW_BYTES) & (moved > 4096)
    total = int(moved.sum())
    if not total or int(moved[small].sum()) < 0.1 * total:
        return []
    lines, where = np.unique(line[small], return_inverse=True)
    worst = int(lines[np.argmax(np.bincount(where.reshape(-1), moved[small]))])
    here = small & (line == worst)
    number = trace.lines[worst][1] if 0 <= worst < len(trace.lines) else 0
    return [
        f"DMAs on line {number} move rows of only {int(run[here].min())} bytes; below {SMALL_ROW_BYTES} bytes each descriptor's "
        "fixed cost dominates. Move longer contiguous rows, or load whole rows and transpose on the chip."
    ]
