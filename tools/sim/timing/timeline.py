"""When everything happened: the result of scheduling a trace."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from .costs import Costs


def on_grid(ns: float) -> float:
    """Microseconds rounded to 2^-20 us (about a picosecond), so that sums and differences are exact."""
    return round(ns / 1e3 * 1048576) / 1048576


class Wait(IntEnum):
    """Why an instruction started later than its engine was free."""

    NONE = 0
    """It started as soon as its engine could take it."""
    RESULT = 1
    """The result of another compute instruction."""
    DMA = 2
    """Data that a DMA was still bringing (or, for a write, a DMA that still wrote)."""
    RELEASE = 3
    """Another instruction was still reading what it overwrites."""
    SPACE = 4
    """Room in SBUF or a PSUM bank: an older tile's last use."""
    PORT = 5
    """A memory port that two engines share on this generation."""
    ORDER = 6
    """Its turn behind another instruction of the same engine."""


@dataclass(frozen=True, slots=True)
class Spills:
    """Transfers that the compiler model added because tiles didn't fit SBUF.

    Attributes:
        save_bytes: written to HBM.
        reload_bytes: read back.
        transfers: number of saves and reloads.
        data_start_ns: first packet of each.
        data_end_ns: last packet of each.
        engine_ns: time of all of them, summed over the DMA engines that each uses.
        moved_bytes: bytes of each.
        saves: which of them write to HBM; the others read back.
        core: whose tile each moves.
    """

    save_bytes: int = 0
    reload_bytes: int = 0
    transfers: int = 0
    data_start_ns: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))
    data_end_ns: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))
    engine_ns: float = 0.0
    moved_bytes: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    saves: NDArray[np.bool_] = field(default_factory=lambda: np.empty(0, np.bool_))
    core: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))


@dataclass(frozen=True, slots=True)
class Timeline:
    """Times of every instruction of a trace, as arrays over the trace in ns from the launch.

    Attributes:
        start_ns: start on its engine (DMA: of the trigger).
        issue_ns: when its lane was free for the next instruction.
        end_ns: when its result could be read.
        data_start_ns: DMA: first data packet; otherwise `start_ns`.
        data_end_ns: DMA: last data packet; otherwise `end_ns`.
        wait: `Wait` code.
        waited_for: index of the instruction that it waited for longest, or -1.
        waited_ns: how long its lane stood idle in front of it.
        lane: issuing lane: core * lanes + (0..4 engines in `Engine` order, then load queues, then store
            queues).
        lanes: lanes of one core.
        costs: undisturbed times by the cost laws.
        dropped: instructions that the compiler model removed; they take no time and move nothing.
        latency_ns: end of the last instruction.
        compiler_model: name of the compiler model used.
        spills: transfers that aren't the kernel's.
    """

    start_ns: NDArray[np.float64]
    issue_ns: NDArray[np.float64]
    end_ns: NDArray[np.float64]
    data_start_ns: NDArray[np.float64]
    data_end_ns: NDArray[np.float64]
    wait: NDArray[np.int64]
    waited_for: NDArray[np.int64]
    waited_ns: NDArray[np.float64]
    lane: NDArray[np.int64]
    lanes: int
    costs: Costs
    dropped: NDArray[np.bool_]
    latency_ns: float
    compiler_model: str
    spills: Spills = field(default_factory=Spills)

    def __len__(self) -> int:
        return len(self.start_ns)

    @property
    def latency_us(self) -> float:
        """Time of the whole launch in microseconds, on the profile's grid."""
        return on_grid(self.latency_ns)
