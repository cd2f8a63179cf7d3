"""Timing: from a recorded instruction stream to when everything happens on one NeuronCore.

`schedule(trace, machine)` gives a `Timeline`. The cost laws are in `costs`, waits in `dependence`, the reuse
of SBUF and PSUM in `allocation`, the event loop in `scheduling`; every number comes from `tools.sim.machine`.
"""

from .allocation import LiveRanges, live_ranges, peak_usage
from .costs import LAW_NAMES, Costs, costs
from .dependence import Edge, Edges, dependencies
from .options import BETA1, BETA2, IN_ORDER, CompilerModel, TimingOptions
from .scheduling import ENGINES, schedule
from .timeline import Spills, Timeline, Wait, on_grid

__all__ = [
    "BETA1",
    "BETA2",
    "ENGINES",
    "IN_ORDER",
    "LAW_NAMES",
    "CompilerModel",
    "Costs",
    "Edge",
    "Edges",
    "LiveRanges",
    "Spills",
    "Timeline",
    "TimingOptions",
    "Wait",
    "costs",
    "dependencies",
    "live_ranges",
    "on_grid",
    "peak_usage",
    "schedule",
]
