"""Simulated time of a recorded kernel, in the contract's terms, with what the profile says in words."""

from __future__ import annotations

import math
from typing import Literal

from tools.insight import Observed, advise
from tools.roofline import Roofline
from tools.sim.instruction import Trace
from tools.sim.machine import machine
from tools.sim.profiler import Profile, profile
from tools.sim.timing import TimingOptions, schedule
from tools.task import EngineTime, Performance

HOT_LINES = 8
MOST_NOTES = 6
LEAST_PERCENT = 1.0
"""Predicted gain below which a change isn't worth a note."""
MOST_PROVEN = 20_000
"""Instructions up to which each note is proven by timing the changed program: about a second for all rules."""


def performance_of(trace: Trace, target: str, limits: Roofline) -> Performance:
    """Place a trace in time on `target` and sum it up.

    Raises:
        UnsupportedError: an instruction has no known cost.
    """
    where, options = machine(target), TimingOptions()
    timeline = schedule(trace, where, options)
    found = profile(trace, timeline, where)
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
        notes=tuple(notes(Observed(trace, where, options, timeline, found))),
        hot_lines=tuple((line.line, round(line.busy_us, 3)) for line in found.lines[:HOT_LINES]),
    )


def _bound(found: Profile) -> Literal["memory", "compute", "pipeline"]:
    """What limits the launch: the DMA engines, the Tensor Engine, or waiting and the other engines."""
    if found.pipeline_us < 0.6 * found.latency_us:
        return "pipeline"
    if found.bottleneck == "DMA":
        return "memory"
    return "compute" if found.bottleneck.startswith("Tensor") else "pipeline"


def notes(seen: Observed) -> list[str]:
    """What the bottleneck rules say, the largest predicted gain first: symptom, evidence with lines, change.

    The same launch always gives the same notes: gains are re-simulated for all rules or, in long programs, for none.
    """
    short = len(seen.trace) <= MOST_PROVEN
    found = advise(seen, prove=short, seconds=math.inf)
    worth = [a for a in found if a.proof is None or a.proof.gain_percent >= LEAST_PERCENT]
    said = [advice.sentence for advice in worth[:MOST_NOTES]]
    if said and not short:
        said.append(
            f"The program has {len(seen.trace)} instructions; gains were not re-simulated (kernelwright profile does)."
        )
    return said or ["No bottleneck rule found a symptom."]
