"""Memory that nothing wrote, where it is read or returned, as far as the recorded stream shows that without values.

A trace knows the rectangle that an operand spans, not each element: only a read none of whose rectangle was written is
reported, and only outputs that the rectangles of all writes can't cover. So every finding is certain, and a tile that was
written in part goes unseen (a run on data sees that too).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tools.figures import percent
from tools.insight.edits import owners
from tools.sim.errors import Diagnostic, Severity, SourceRange
from tools.sim.instruction import BufferInfo, Inst, Operand, Trace
from tools.sim.rectangles import area

Ints = NDArray[np.int64]

READ, WRITTEN = 2, 1
MOST_BUFFERS = 5000
"""Tiles that are looked at rectangle by rectangle, the first ones; all others are plainly written before they are read."""


def unwritten_reads(trace: Trace) -> tuple[Diagnostic, ...]:
    """A warning for each line that reads a tile (or a scratch tensor) no part of which was written before, once a tile's line."""
    owner, operands = owners(trace), trace.operands
    flags, buffer = operands[:, Operand.FLAGS], operands[:, Operand.BUFFER]
    local = np.array([b.role == "local" for b in trace.buffers] or [False])[buffer]
    reads, writes = np.flatnonzero(local & (flags == READ)), np.flatnonzero(local & ((flags & WRITTEN) != 0))
    reads, writes = (rows[np.argsort(buffer[rows], kind="stable")] for rows in (reads, writes))
    found: dict[tuple[int, int], Diagnostic] = {}
    for suspect in _suspects(trace, owner, reads, writes)[:MOST_BUFFERS].tolist():
        mine, theirs = (rows[slice(*np.searchsorted(buffer[rows], (suspect, suspect + 1)))] for rows in (reads, writes))
        for row in _early(operands, owner, mine, theirs).tolist():
            line = int(trace.instructions[owner[row], Inst.LINE])
            key = (line, trace.buffers[suspect].line)
            if key not in found:
                found[key] = _warning(trace, line, suspect)
    return tuple(found.values())


def unwritten_outputs(trace: Trace) -> tuple[Diagnostic, ...]:
    """A warning for each tensor in HBM that the kernel allocates, stores to and never reads, but doesn't fill."""
    operands = trace.operands
    found = []
    for info in trace.buffers:
        if info.space != "shared_hbm" or info.role not in ("shared", "output"):
            continue
        mine = operands[operands[:, Operand.BUFFER] == info.id]
        rows = np.unique(mine[:, Operand.ROW_BYTES])
        if not len(mine) or (mine[:, Operand.FLAGS] == READ).any() or len(rows) > 1 or rows[0] <= 0:
            continue
        share = area(mine[:, Operand.ROW0 : Operand.BYTE1 + 1]) / max(info.row_bytes, 1)
        if share < 1:
            found.append(_partly(trace, info, share))
    return tuple(found)


def _partly(trace: Trace, info: BufferInfo, share: float) -> Diagnostic:
    file, number = trace.lines[info.line] if 0 <= info.line < len(trace.lines) else ("", 0)
    text = trace.sources.get(file, "").splitlines()
    return Diagnostic(
        code="KW-OUTPUT-UNWRITTEN",
        message=f"of {info.name or 'an output'} ({'x'.join(map(str, info.shape))} {info.dtype}) at most {percent(share)} are written",
        severity=Severity.WARNING,
        where=SourceRange(file, number, text=text[number - 1].strip() if 0 < number <= len(text) else ""),
        operand=info.name,
        found=round(share, 4),
        limit=1.0,
        fix="store every element; check the loop bounds and the last partial tile",
    )


def _suspects(trace: Trace, owner: Ints, reads: Ints, writes: Ints) -> Ints:
    """Buffers of which more is read than what their first instruction wrote."""
    operands = trace.operands
    count = len(trace.buffers)
    first_read = np.full(count, len(trace))
    np.minimum.at(first_read, operands[reads, Operand.BUFFER], owner[reads])
    clean = np.zeros(count, np.bool_)
    written, position = np.unique(operands[writes, Operand.BUFFER], return_index=True)
    first = writes[position]
    clean[written] = owner[first] < first_read[written]
    for low, high in ((Operand.ROW0, Operand.ROW1), (Operand.BYTE0, Operand.BYTE1)):
        least, most = np.full(count, np.iinfo(np.int64).max), np.full(count, -1)
        np.minimum.at(least, operands[reads, Operand.BUFFER], operands[reads, low])
        np.maximum.at(most, operands[reads, Operand.BUFFER], operands[reads, high])
        clean[written] &= (operands[first, low] <= least[written]) & (operands[first, high] >= most[written])
    return np.flatnonzero((first_read < len(trace)) & ~clean)


def _early(operands: Ints, owner: Ints, reads: Ints, writes: Ints) -> Ints:
    """Those of `reads` (of one buffer) that overlap nothing written by an earlier instruction; each rectangle once."""
    columns = [Operand.ROW0, Operand.ROW1, Operand.BYTE0, Operand.BYTE1]
    wanted, first_read = np.unique(operands[reads][:, columns], axis=0, return_index=True)
    given, first_write = np.unique(operands[writes][:, columns], axis=0, return_index=True)
    when_read, when_written = owner[reads[first_read]], owner[writes[first_write]]
    overlap = when_written[None, :] < when_read[:, None]
    for low, high in ((0, 1), (2, 3)):
        overlap &= (wanted[:, None, low] < given[None, :, high]) & (given[None, :, low] < wanted[:, None, high])
    return reads[np.sort(first_read[~overlap.any(axis=1)])]


def _warning(trace: Trace, line: int, buffer: int) -> Diagnostic:
    info = trace.buffers[buffer]
    file, number = trace.lines[line] if 0 <= line < len(trace.lines) else ("", 0)
    text = trace.sources.get(file, "").splitlines()
    allocated = f", allocated on line {trace.lines[info.line][1]}" if 0 <= info.line < len(trace.lines) else ""
    return Diagnostic(
        code="KW-UNINITIALISED",
        message=f"reads {info.name or 'a tensor'} ({info.space}, {'x'.join(map(str, info.shape))} {info.dtype}{allocated}) "
        "where nothing was written before",
        severity=Severity.WARNING,
        where=SourceRange(file, number, text=text[number - 1].strip() if 0 < number <= len(text) else ""),
        operand=info.name,
        fix="write it first (dma_copy, memset or an instruction), or shrink the operand to the part that was written",
    )
