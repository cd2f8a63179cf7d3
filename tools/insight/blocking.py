"""Which repeated loads a kernel can do without when SBUF can't hold all of them.

A blocked loop nest keeps as much of the tensors that are small per iteration as fits, and uses each piece of the others
for as many iterations at once. So the former are loaded once, and the latter every `factor`-th time only. Which loads are
left out is spread evenly over the program, as a blocked kernel would spread them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tools.insight import edits
from tools.insight.observed import Observed
from tools.sim.instruction import Operand
from tools.sim.timing import peak_usage

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Blocking:
    """Loads that a blocked kernel leaves out.

    Attributes:
        original: for each load that is left out the one whose tile is used instead, else -1; int64 [n].
        factor: how many iterations share a load of the streamed tensors; 1 when they gain nothing.
        kept: names of the tensors that are loaded once.
        streamed: names of the others.
        peak_bytes: SBUF bytes a partition that this takes, everything else included.
    """

    original: Ints
    factor: int
    kept: tuple[str, ...]
    streamed: tuple[str, ...]
    peak_bytes: int


def blocked_loads(observed: Observed, original: Ints) -> Blocking | None:
    """The largest blocking that fits SBUF; None when none saves a load.

    Args:
        observed: the launch.
        original: from `edits.repeated_loads`: for each repeated load the first one, else -1.
    """
    trace, machine = observed.trace, observed.machine
    room = machine.sbuf_partition_bytes
    tensor = _tensors(observed, original)
    base = peak_usage(trace)[0]
    needs = {
        b: _peak(observed, np.where(tensor == b, original, -1)) - base for b in np.unique(tensor[tensor >= 0]).tolist()
    }
    kept: list[int] = []
    used = base
    for b in sorted(needs, key=lambda k: needs[k]):
        if used + needs[b] <= room:
            kept.append(b)
            used += needs[b]
    streamed = [b for b in needs if b not in kept]
    # One iteration's tiles of what is kept are needed `factor` times over, and a bank of PSUM for each product.
    share = max(used - base, 1)
    factor = min((room - base) // share, machine.psum_banks) if kept and streamed else 1
    found = np.where(np.isin(tensor, kept), original, -1)
    for b in streamed if factor > 1 else ():
        found = np.where(tensor == b, _every(original, tensor == b, factor), found)
    if not (found >= 0).any():
        return None
    names = {b.id: b.name or f"tensor {b.id}" for b in trace.buffers}
    peak = base + share * factor if kept else base
    return Blocking(found, factor, tuple(names[b] for b in kept), tuple(names[b] for b in streamed), peak)


def _peak(observed: Observed, original: Ints) -> int:
    return peak_usage(edits.deduplicated(observed.trace, original, *observed.results))[0]


def _tensors(observed: Observed, original: Ints) -> Ints:
    """Buffer that each repeated load reads, else -1."""
    operands = observed.trace.operands
    found = np.full(len(observed.trace), -1, np.int64)
    mine = observed.hbm_buffer[operands[:, Operand.BUFFER]] & (original[observed.owner] >= 0)
    found[observed.owner[mine]] = operands[mine, Operand.BUFFER]
    return found


def _every(original: Ints, mine: NDArray[np.bool_], factor: int) -> Ints:
    """`original` where of each region only every `factor`-th load stays, in turn from region to region."""
    found = np.full(len(original), -1, np.int64)
    latest: dict[int, int] = {}
    turn: dict[int, int] = {}
    phase: dict[int, int] = {}
    for i in np.flatnonzero(mine).tolist():
        first = int(original[i])
        if first not in latest:
            latest[first], phase[first], turn[first] = first, len(phase) % factor, 0
        turn[first] += 1
        if (turn[first] + phase[first]) % factor:
            found[i] = latest[first]
        else:
            latest[first] = i
    return found
