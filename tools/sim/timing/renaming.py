"""What the compiler does to names: a tile that is overwritten as a whole becomes a new tile.

A kernel that declares its tile outside a loop and fills it anew in every iteration doesn't get serialised for it: the
compiler gives each whole overwrite its own space, as if the tile had been declared inside the loop.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from tools.sim.instruction import Operand, Trace
from tools.sim.timing.allocation import owners


def renamed(trace: Trace) -> Trace:
    """`trace` with a new buffer for every whole overwrite of an on-chip tile that the kernel didn't place itself.

    An overwrite is whole when one operand writes, without reading, every byte that any instruction accesses in the
    tile. Instruction order and operands' rectangles stay as they are.
    """
    operands = trace.operands
    if not len(operands):
        return trace
    owner = owners(trace)
    buffer = operands[:, Operand.BUFFER]
    count = len(trace.buffers)
    movable = np.array([b.space == "sbuf" and b.address is None for b in trace.buffers] or [False])
    extent = np.zeros((count, 5), np.int64)
    extent[:, 0] = extent[:, 2] = np.iinfo(np.int64).max
    np.minimum.at(extent[:, 0], buffer, operands[:, Operand.ROW0])
    np.maximum.at(extent[:, 1], buffer, operands[:, Operand.ROW1])
    np.minimum.at(extent[:, 2], buffer, operands[:, Operand.BYTE0])
    np.maximum.at(extent[:, 3], buffer, operands[:, Operand.BYTE1])
    mine = extent[buffer]
    whole = (
        movable[buffer]
        & (operands[:, Operand.FLAGS] == 1)
        & (operands[:, Operand.ROW0] == mine[:, 0])
        & (operands[:, Operand.ROW1] == mine[:, 1])
        & (operands[:, Operand.BYTE0] == mine[:, 2])
        & (operands[:, Operand.BYTE1] == mine[:, 3])
    )
    # In each instruction, reads come before the write that renames.
    order = np.lexsort((operands[:, Operand.FLAGS] & 1, owner, buffer))
    ordered = buffer[order]
    version = np.cumsum(whole[order])
    begins = np.concatenate([[True], ordered[1:] != ordered[:-1]])
    starts = np.flatnonzero(begins)
    lengths = np.diff(np.append(starts, len(ordered)))
    before = version[starts] - whole[order][starts]
    local = version - np.repeat(before, lengths)
    # Versions 0 and 1 keep the old buffer: nothing real was in it before its first whole write.
    fresh = np.flatnonzero((local >= 2) & whole[order])
    if not len(fresh):
        return trace
    names = np.zeros(len(ordered), np.int64)
    names[fresh] = np.arange(len(fresh)) + 1
    latest = np.maximum.accumulate(names)
    new = np.where(local >= 2, count + latest - 1, ordered)
    changed = operands.copy()
    changed[order, Operand.BUFFER] = new
    copies = [replace(trace.buffers[int(b)], id=count + k) for k, b in enumerate(ordered[fresh])]
    return replace(trace, operands=changed, buffers=[*trace.buffers, *copies])
