"""What the compiler does to names: a tile that is overwritten as a whole becomes a new tile.

A kernel that declares its tile outside a loop and fills it anew in every iteration doesn't get serialised for it: the
compiler gives each whole overwrite its own space, as if the tile had been declared inside the loop.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from tools.sim.instruction import Operand, Trace
from tools.sim.timing.allocation import owners

from .tiles import tiles_of, with_copies

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


def renamed(trace: Trace) -> Trace:
    """`trace` with a new buffer for every whole overwrite of an on-chip tile that the kernel didn't place itself.

    An overwrite is whole when one operand writes, without reading, every byte that any instruction accesses in the
    tile. Instruction order and operands' rectangles stay as they are; operands are renamed in place.
    """
    operands = trace.operands
    if not len(operands):
        return trace
    buffer = operands[:, Operand.BUFFER]
    count = len(trace.buffers)
    columns = tiles_of(trace.buffers)
    movable = columns.sbuf & ~columns.placed
    # Candidates write without reading, in tiles that are written so more than once.
    pure = np.flatnonzero((operands[:, Operand.FLAGS] == 1) & movable[buffer])
    often = np.bincount(buffer[pure], minlength=count) > 1
    rows = np.flatnonzero(often[buffer])
    if not len(rows):
        return trace
    operands, buffer, owner = operands[rows], buffer[rows], owners(trace)[rows]
    extent = np.zeros((count, 4), np.int64)
    extent[:, 0] = extent[:, 2] = np.iinfo(np.int64).max
    whole = operands[:, Operand.FLAGS] == 1
    for k, column in enumerate((Operand.ROW0, Operand.ROW1, Operand.BYTE0, Operand.BYTE1)):
        reduce = np.maximum if k % 2 else np.minimum
        reduce.at(extent[:, k], buffer, operands[:, column])
        whole &= operands[:, column] == extent[buffer, k]
    # What an instruction computes from a tile into the same tile stays in its place.
    whole &= ~_read_too(owner, buffer, operands)
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
    trace.operands[rows[order], Operand.BUFFER] = new
    return replace(trace, buffers=with_copies(trace.buffers, ordered[fresh]))


def _read_too(owner: Ints, buffer: Ints, operands: Ints) -> Bools:
    """Operand rows whose tile is also read by their own instruction."""
    tile = owner * (int(buffer.max()) + 1) + buffer
    return np.isin(tile, tile[(operands[:, Operand.FLAGS] & 2) != 0])
