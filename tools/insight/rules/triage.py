"""T1 to T7: which family of causes to look at first."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tools.figures import amount
from tools.insight import counterfactual as what_if
from tools.insight import edits
from tools.insight.advice import Advice, Case, rule
from tools.sim.profiler import ENGINE_NAMES, EngineUse

SATURATED = 90.0
GOOD_BANDWIDTH = 60.0
UNDER_USED = 60.0
DONE = 0.95
NEXT = 0.75
"""Work of the second busiest resource over the busiest one's from which both bind."""
SERIAL = 1.5
"""Latency over the busiest engine's time from which a launch counts as serialised."""


def _busiest(case: Case) -> EngineUse:
    return max((e for e in case.seen.profile.engines if e.engine != "Sync"), key=lambda e: e.busy_us)


def _roofline_us(case: Case) -> float:
    return max(case.seen.profile.memory_us, case.seen.profile.compute_us)


@rule("T1")
def compute_bound(case: Case) -> Advice | None:
    """An engine is active at least 90 % of the time."""
    use = _busiest(case)
    if use.active_percent < SATURATED:
        return None
    others = [e.busy_us for e in case.seen.profile.engines if e.core == use.core and e.engine != use.engine]
    ceiling = case.seen.profile.latency_us / max(*others, case.seen.profile.dma_active_us, 1e-9)
    return Advice(
        "T1",
        f"The {use.engine} Engine is the bottleneck.",
        f"It is active {use.active_percent:.0f}% of {case.seen.profile.latency_us:.2f} us in {use.instructions} instructions; "
        f"the next busiest resource would allow {ceiling:.2f}x.",
        f"make the {use.engine} Engine's own work cheaper or move some of it; hiding more waits can't help.",
    )


@rule("T2")
def memory_bound(case: Case) -> Advice | None:
    """DMA bandwidth use of at least 60 %."""
    profile = case.seen.profile
    used = 100 * profile.memory_us / profile.latency_us if profile.latency_us else 0.0
    if used < GOOD_BANDWIDTH:
        return None
    moved = profile.hbm_read_bytes + profile.hbm_write_bytes
    return Advice(
        "T2",
        "The kernel is memory-bound and uses the bandwidth well.",
        f"{moved} bytes take at least {profile.memory_us:.2f} us of {profile.latency_us:.2f} us ({used:.0f}%); "
        f"{profile.reload_read_bytes} of them are read again.",
        "move fewer bytes: keep operands resident, fuse with neighbours, use a narrower type if that is allowed.",
        proof=case.prove(lambda: what_if.loads_hoisted(case.seen)),
    )


@rule("T3")
def low_intensity(case: Case) -> Advice | None:
    """Matmuls with an arithmetic intensity below the ridge, while bytes are loaded again."""
    profile = case.seen.profile
    if not profile.hardware_flops or profile.mm_arithmetic_intensity >= profile.peak_flops_bandwidth_ratio:
        return None
    if not (edits.repeated_loads(case.seen.trace, case.seen.is_load) >= 0).any():
        return None
    return Advice(
        "T3",
        "Arithmetic intensity lies below the ridge point.",
        f"{profile.mm_arithmetic_intensity:.0f} FLOP/byte against {profile.peak_flops_bandwidth_ratio:.0f}; "
        f"{amount(profile.reload_read_bytes)} of inputs are loaded more than once.",
        "raise reuse first (blocking, resident operands, fusion); faster arithmetic can't help below the ridge.",
        proof=case.prove(lambda: what_if.loads_hoisted(case.seen)),
    )


@rule("T4")
def under_used(case: Case) -> Advice | None:
    """Neither any engine nor the DMA bandwidth is used above 60 %."""
    profile = case.seen.profile
    use = _busiest(case)
    bandwidth = 100 * profile.memory_us / profile.latency_us if profile.latency_us else 0.0
    if max(use.active_percent, bandwidth) >= UNDER_USED:
        return None
    busiest = (
        f"the busiest engine ({use.engine}) is active {use.active_percent:.0f}%"
        if use.instructions
        else "no engine computes"
    )
    return Advice(
        "T4",
        "Neither compute nor memory is well used.",
        f"In {profile.latency_us:.2f} us {busiest}, and the bandwidth is used to {bandwidth:.0f}%.",
        "look for small tiles, a broken pipeline or fixed costs per instruction before anything else.",
    )


def _latency_inside(case: Case) -> str:
    """Why an engine counts as active longer than its work takes; empty when none does."""
    use, profile = _busiest(case), case.seen.profile
    if use.busy_us <= profile.pipeline_us:
        return ""
    return (
        f"; the {use.engine} Engine counts as active {use.active_percent:.0f}% because it does so until the last result of "
        "an instruction is there, while it could take the next one earlier"
    )


@rule("T5")
def serialised(case: Case) -> Advice | None:
    """Total time far above the busiest engine's."""
    profile = case.seen.profile
    if profile.pipeline_us <= 0 or profile.latency_us < SERIAL * profile.pipeline_us:
        return None
    return Advice(
        "T5",
        "Engines take turns instead of overlapping.",
        f"The busiest resource ({profile.bottleneck}) needs {profile.pipeline_us:.2f} us back to back, the launch takes "
        f"{profile.latency_us:.2f} us ({profile.latency_us / profile.pipeline_us:.2f}x){_latency_inside(case)}.",
        "work tile by tile with a buffer per iteration, so that loads, compute and stores of different tiles overlap.",
        proof=case.prove(lambda: what_if.all_stalls_removed(case.seen)),
    )


@rule("T6")
def next_limit(case: Case) -> Advice | None:
    """A second resource has nearly as much work as the busiest one, so relieving that one alone gains little."""
    profile = case.seen.profile
    rows = {name: _back_to_back(case, name) for name in (*ENGINE_NAMES, "DMA")}
    ranked = sorted(rows, key=lambda name: -rows[name][0])
    (most, mine), (second, _) = rows[ranked[0]], rows[ranked[1]]
    if most < 0.5 * profile.latency_us or second < NEXT * most:
        return None
    ceiling = profile.latency_us / max(second, _roofline_us(case), 1e-9)
    return Advice(
        "T6",
        f"{_name(ranked[0])[0].upper()}{_name(ranked[0])[1:]} and {_name(ranked[1])} have nearly the same amount of work.",
        f"They need {most:.2f} and {second:.2f} us back to back of {profile.latency_us:.2f} us: relieving the first alone can gain "
        f"at most {ceiling:.2f}x before the second binds.",
        "lighten both, or move work to a third engine; a change to one of them alone soon stops paying.",
        proof=case.prove(
            lambda: what_if.without(
                case.seen,
                mine,
                "ceiling",
                f"With all work of {_name(ranked[0])} for free",
                "the most that relieving it can gain",
            )
        ),
    )


def _name(resource: str) -> str:
    return "the DMA engines" if resource == "DMA" else f"the {resource} Engine"


def _back_to_back(case: Case, name: str) -> tuple[float, NDArray[np.int64]]:
    """Time in us that a resource of core 0 needs without any waiting, and its instructions."""
    seen = case.seen
    if name == "DMA":
        rows = np.flatnonzero(seen.is_dma & (seen.core == 0))
        return float(seen.held_ns[rows].sum()) / 1e3, rows
    rows = np.flatnonzero(~seen.is_dma & (seen.engine == ENGINE_NAMES.index(name)) & (seen.core == 0))
    return float(seen.timeline.costs.issue_ns[rows].sum()) / 1e3, rows


@rule("T7")
def finished(case: Case) -> Advice | None:
    """At least 95 % of the roofline is reached."""
    profile = case.seen.profile
    roofline = _roofline_us(case)
    if not profile.latency_us or roofline / profile.latency_us < DONE:
        return None
    return Advice(
        "T7",
        "The kernel is at its roofline.",
        f"{profile.latency_us:.2f} us against a bound of {roofline:.2f} us ({roofline / profile.latency_us:.0%}).",
        "stop: only another algorithm or fewer bytes would make it faster.",
    )
