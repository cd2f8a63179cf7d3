"""Who waits for whom: the edges between instructions that touch the same bytes, or the same space.

Operand rectangles of one buffer are cut along each other's borders into cells, so that overlap becomes
equality. In each cell an access waits for the last write before it, and a write also for the reads since.
All of it is done on whole columns; nothing loops over instructions.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from tools.sim.instruction import Engine, Operand, Trace
from tools.sim.machine import Machine

from . import compiled
from .allocation import displaced, owners
from .costs import Costs
from .tiles import tiles_of

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

CELL_LIMIT = 4_000_000
"""Cells over all operands above which a buffer's cuts are rounded outwards (false waits, never missed
ones)."""
COARSE = 32
"""Cuts per axis that a rounded buffer keeps."""


class Edge(IntEnum):
    """What the waiting instruction waits for."""

    RESULT = 0
    """The other's result (read or write after write)."""
    RELEASE = 1
    """The other to have read its inputs (write after read)."""
    ORDER = 2
    """The other's turn on the same engine: accumulation in PSUM, same-engine writes."""
    SPACE_RESULT = 3
    """The space of a tile that the other wrote last."""
    SPACE_RELEASE = 4
    """The space of a tile that the other read last."""


@dataclass(frozen=True, slots=True)
class Edges:
    """Dependencies as parallel arrays: instruction `after` waits for instruction `before`, `kind` of
    `Edge`."""

    before: Ints
    after: Ints
    kind: Ints

    def joined(self, other: Edges) -> Edges:
        """These edges and those of `other`, in these edges' types: long traces have millions, as narrow as they can be."""
        if not len(other.before):
            return self
        pairs = ((self.before, other.before), (self.after, other.after), (self.kind, other.kind))
        return Edges(*(np.concatenate([mine, theirs.astype(mine.dtype)]) for mine, theirs in pairs))


def dependencies(trace: Trace, machine: Machine, cost: Costs, *, space: bool = True) -> Edges:
    """Every wait between instructions of `trace`; a pair may occur more than once.

    Args:
        trace: the recorded program.
        machine: capacities for the reuse of tiles.
        cost: executing engines, and which instructions are DMAs.
        space: include waits for the space of older tiles.
    """
    owner, cell, writes, reads = _accesses(trace)
    search = compiled.waits if compiled.wanted_accesses(len(owner)) else _waits
    cells = int(cell.max()) + 1 if len(cell) else 0
    before, after, kind, first = search(owner, cell, writes, reads, cells, cost.engine, cost.is_dma)
    found, writer = Edges(before, after, kind), owner[first]
    del owner, cell, writes, reads, first  # long traces: the next step is the one that needs most memory
    if space:
        found = found.joined(_space_edges(trace, machine, cost.engine, writer))
    return found


def _waits(
    owner: Ints, cell: Ints, writes: Bools, reads: Bools, cells: int, engine: Ints, is_dma: Bools
) -> tuple[Ints, Ints, Ints, Bools]:
    """Waits between cell accesses in program order: (before, after, kind, first write of its cell)."""
    n = len(owner)
    if n == 0:
        empty = np.empty(0, np.int64)
        return empty, empty, empty, np.empty(0, np.bool_)
    order = np.lexsort((owner * 2 + writes, cell))
    owner, cell, writes, reads = owner[order], cell[order], writes[order], reads[order]
    position = np.arange(n)
    begins = np.concatenate([[True], cell[1:] != cell[:-1]])
    start = np.maximum.accumulate(np.where(begins, position, 0))
    # Last write before each access in its cell, or -1.
    previous = np.concatenate([[-1], np.maximum.accumulate(np.where(writes, position, -1))[:-1]])
    previous[previous < start] = -1
    # An instruction that writes a cell by two operands doesn't wait for itself.
    again = (previous >= 0) & (owner[np.maximum(previous, 0)] == owner)
    has = (previous >= 0) & ~again
    before, after = owner[previous[has]], owner[has]
    same = (engine[before] == engine[after]) & ~is_dma[before] & ~is_dma[after]
    turn = same & writes[has] & ((engine[after] == Engine.TENSOR) | ~reads[has])
    kind = np.where(turn, int(Edge.ORDER), int(Edge.RESULT))
    # Next write after each pure read in its cell.
    following = np.concatenate([np.minimum.accumulate(np.where(writes, position, n)[::-1])[::-1][1:], [n]])
    starts = np.append(np.flatnonzero(begins), n)
    ends = np.repeat(starts[1:], np.diff(starts))
    waiting = ~writes & (following < ends)
    reader, writer = owner[waiting], owner[following[waiting]]
    other = reader != writer
    reader, writer = reader[other], writer[other]
    first = np.zeros(n, np.bool_)
    first[order] = (previous < 0) & writes
    return (
        np.concatenate([before, reader]),
        np.concatenate([after, writer]),
        np.concatenate([kind, np.full(len(reader), int(Edge.RELEASE))]),
        first,
    )


def _accesses(trace: Trace) -> tuple[Ints, Ints, Bools, Bools]:
    """(instruction, cell, writes, reads) of every cell access that can make anyone wait."""
    operands = trace.operands
    owner = owners(trace)
    flags = operands[:, Operand.FLAGS]
    buffer = operands[:, Operand.BUFFER]
    count = len(trace.buffers)
    written = np.zeros(count + 1, np.bool_)
    read = np.zeros(count + 1, np.bool_)
    written[buffer[(flags & 1) != 0]] = True
    read[buffer[(flags & 2) != 0]] = True
    on_chip = np.append(~tiles_of(trace.buffers).hbm, False)
    # Never-written buffers make nobody wait; nor do outputs that nobody reads back.
    matters = written & (read | on_chip)
    rows = np.flatnonzero(matters[buffer])
    owner, buffer = owner[rows], buffer[rows]
    writes, reads = (flags[rows] & 1) != 0, (flags[rows] & 2) != 0
    # Most tiles are always accessed by one and the same rectangle: the whole tile is one cell.
    plain = np.ones(count + 1, np.bool_)
    for column in (Operand.ROW0, Operand.ROW1, Operand.BYTE0, Operand.BYTE1, Operand.ROW_BYTES):
        values = operands[rows, column]
        same = np.zeros(count + 1, np.int64)
        same[buffer] = values
        plain[buffer[values != same[buffer]]] = False
    whole = plain[buffer]
    cut = np.flatnonzero(~whole)
    if not len(cut):
        return owner, buffer, writes, reads
    source, cell = _cells(operands[rows[cut]], count)
    kept, source = np.flatnonzero(whole), cut[source]
    index = np.concatenate([kept, source])
    return owner[index], np.concatenate([buffer[kept], cell + count]), writes[index], reads[index]


def _cells(operands: Ints, count: int) -> tuple[Ints, Ints]:
    """(operand row, cell) for every cell that an operand covers; cells are numbered from 0."""
    buffer = operands[:, Operand.BUFFER]
    row0, row1 = operands[:, Operand.ROW0].copy(), operands[:, Operand.ROW1].copy()
    byte0, byte1 = operands[:, Operand.BYTE0].copy(), operands[:, Operand.BYTE1].copy()
    width = operands[:, Operand.ROW_BYTES]
    mixed = np.zeros(count + 1, np.bool_)
    reference = np.zeros(count + 1, np.int64)
    reference[buffer] = width
    mixed[buffer[width != reference[buffer]]] = True
    flat = mixed[buffer]
    byte0[flat], byte1[flat] = (
        row0[flat] * width[flat] + byte0[flat],
        (row1[flat] - 1) * width[flat] + byte1[flat],
    )
    row0[flat], row1[flat] = 0, 1
    crow0, crow1 = _cut(buffer, row0, row1)
    cbyte0, cbyte1 = _cut(buffer, byte0, byte1)
    cells = (crow1 - crow0) * (cbyte1 - cbyte0)
    if cells.sum() > CELL_LIMIT:
        load = np.bincount(buffer, cells, count + 1) / np.maximum(np.bincount(buffer, minlength=count + 1), 1)
        coarse = (load > 8)[buffer]
        for low, high in ((row0, row1), (byte0, byte1)):
            top = np.zeros(count + 1, np.int64)
            np.maximum.at(top, buffer, high)
            step = np.maximum(top[buffer] // COARSE, 1)
            low[coarse] = (low // step * step)[coarse]
            high[coarse] = (-(-high // step) * step)[coarse]
        crow0, crow1 = _cut(buffer, row0, row1)
        cbyte0, cbyte1 = _cut(buffer, byte0, byte1)
        cells = (crow1 - crow0) * (cbyte1 - cbyte0)
    source = np.repeat(np.arange(len(cells)), cells)
    within = np.arange(len(source)) - np.repeat(np.cumsum(cells) - cells, cells)
    across = (cbyte1 - cbyte0)[source]
    # Each buffer's grid of cells gets its own range of numbers.
    row_base, row_end = _range(buffer, crow0, crow1, count)
    byte_base, byte_end = _range(buffer, cbyte0, cbyte1, count)
    width = byte_end - byte_base
    size = (row_end - row_base) * width
    base = np.cumsum(size) - size
    own = buffer[source]
    row = crow0[source] + within // across - row_base[own]
    return source, base[own] + row * width[own] + cbyte0[source] + within % across - byte_base[own]


def _range(buffer: Ints, low: Ints, high: Ints, count: int) -> tuple[Ints, Ints]:
    """Least `low` and greatest `high` of each buffer; 0, 0 for buffers that don't occur."""
    least, most = np.full(count + 1, np.iinfo(np.int64).max), np.zeros(count + 1, np.int64)
    np.minimum.at(least, buffer, low)
    np.maximum.at(most, buffer, high)
    least[most == 0] = 0
    return least, most


def _cut(buffer: Ints, low: Ints, high: Ints) -> tuple[Ints, Ints]:
    """Ranges [low, high) of each buffer, expressed in cuts along all of that buffer's borders (global
    numbers)."""
    span = int(high.max()) + 1
    keys = np.sort(np.concatenate([buffer * span + low, buffer * span + high]))
    keys = keys[np.concatenate([[True], keys[1:] != keys[:-1]])]
    return np.searchsorted(keys, buffer * span + low), np.searchsorted(keys, buffer * span + high)


def _space_edges(trace: Trace, machine: Machine, engine: Ints, writer: Ints) -> Edges:
    """Edges from the last users of a displaced tile to the first writers of the tile that takes its space.

    `writer` are instructions that write a cell nobody wrote before.
    """
    new, old = displaced(trace, machine)
    if not len(new):
        empty = np.empty(0, np.int64)
        return Edges(empty, empty, empty)
    owner = owners(trace)
    buffer = trace.operands[:, Operand.BUFFER]
    writes = (trace.operands[:, Operand.FLAGS] & 1) != 0
    count = len(trace.buffers)
    # Last access of each buffer by each engine, and whether it wrote.
    stride = int(max(Engine)) + 1
    key = buffer * stride + engine[owner]
    last = np.full(count * stride, -1, np.int64)
    np.maximum.at(last, key, owner * 2 + writes)
    # First writers of each new tile.
    is_new = np.zeros(count, np.bool_)
    is_new[new] = True
    first = np.zeros(len(trace), np.bool_)
    first[writer] = True
    candidates = np.flatnonzero(writes & is_new[buffer] & first[owner])
    tile, instruction = buffer[candidates], owner[candidates]
    order = np.argsort(new, kind="stable")
    new, old = new[order], old[order]
    begin, end = np.searchsorted(new, tile), np.searchsorted(new, tile, side="right")
    reps = end - begin
    source = np.repeat(np.arange(len(tile)), reps)
    which = np.repeat(begin, reps) + np.arange(len(source)) - np.repeat(np.cumsum(reps) - reps, reps)
    tiles, waiting = old[which], instruction[source]
    del source, which, tile, candidates
    parts = []
    for user in last.reshape(count, stride).T:
        access = user[tiles]
        known = (access >= 0) & (access // 2 < waiting)
        parts.append((access[known], waiting[known]))
    accesses = np.concatenate([p[0] for p in parts])
    kind = np.where(accesses % 2 == 1, int(Edge.SPACE_RESULT), int(Edge.SPACE_RELEASE))
    return Edges(accesses // 2, np.concatenate([p[1] for p in parts]), kind)
