"""Iterations that aren't as independent as their loop says: several write one place.

`affine_range` of Beta 1 promises iterations that may run in any order; its compiler refuses what breaks the promise
(err_unexpected_output_dependencies). Accumulation is allowed, so only plain writes count. Reads traces only.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from tools.sim.errors import Diagnostic, Severity
from tools.sim.instruction import OPCODES, Flag, Inst, Operand, ParallelLoop, Trace

Ints = NDArray[np.int64]
_WRITTEN = 1
_PLACE = [Operand.BUFFER, Operand.ROW0, Operand.ROW1, Operand.BYTE0, Operand.BYTE1]


def repeated_writes(trace: Trace) -> Iterator[Diagnostic]:
    """Places that several iterations of a parallel loop write, each iteration anew.

    A write counts when it covers its rectangle of bytes, so that equal rectangles are the same bytes, and when its
    instruction doesn't read the tensor (accumulation does). Rows picked by an index tile aren't known here.
    """
    for loop in trace.parallel:
        yield from _of_loop(trace, loop)


def _of_loop(trace: Trace, loop: ParallelLoop) -> Iterator[Diagnostic]:
    rows, iteration = _plain_writes(trace, loop)
    if not len(rows):
        return
    order = np.lexsort((iteration, *trace.operands[rows][:, _PLACE].T))
    rows, iteration = rows[order], iteration[order]
    places = trace.operands[rows][:, _PLACE]
    same = (places[1:] == places[:-1]).all(axis=1) & (iteration[1:] != iteration[:-1])
    owners = np.searchsorted(trace.column(Inst.FIRST_OPERAND), rows, side="right") - 1
    told: set[tuple[int, int]] = set()
    for at in np.flatnonzero(same).tolist():
        line = int(trace.instructions[owners[at + 1], Inst.LINE])
        key = (line, int(places[at, 0]))
        if key not in told:
            told.add(key)
            yield _finding(trace, loop, line, places[at], (int(iteration[at]), int(iteration[at + 1])))


def _plain_writes(trace: Trace, loop: ParallelLoop) -> tuple[Ints, Ints]:
    """Rows of the operand table that iterations write without reading the tensor, and the iteration of each."""
    starts = np.array(loop.starts, np.int64)
    begin, end = int(starts[0]), int(starts[-1])
    part = trace.instructions[begin:end]
    if not len(part):
        return np.empty(0, np.int64), np.empty(0, np.int64)
    counts = part[:, Inst.OPERANDS]
    first = int(part[0, Inst.FIRST_OPERAND])
    operands = trace.operands[first : first + int(counts.sum())]
    owner = np.repeat(np.arange(len(part)), counts)
    iteration = np.searchsorted(starts, owner + begin, side="right") - 1
    keep = (operands[:, Operand.FLAGS] == _WRITTEN) & ((part[owner, Inst.FLAGS] & Flag.INDIRECT) == 0)
    keep &= _several(operands[:, Operand.BUFFER], iteration, keep)
    rows = np.flatnonzero(keep)
    keep[rows] &= _dense(part[owner[rows]], operands[rows])
    rows = np.flatnonzero(keep)
    reads = (operands[:, Operand.FLAGS] & _WRITTEN) == 0
    read = set(zip(owner[reads].tolist(), operands[reads, Operand.BUFFER].tolist())) if len(rows) else set()
    folded = [key in read for key in zip(owner[rows].tolist(), operands[rows, Operand.BUFFER].tolist())]
    rows = rows[~np.array(folded, bool)]
    return rows + first, iteration[rows]


def _several(buffer: Ints, iteration: Ints, mine: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Operands among `mine` whose buffer more than one iteration writes; what one iteration owns is private to it."""
    most = int(buffer.max()) + 1 if len(buffer) else 0
    low, high = np.full(most, np.iinfo(np.int64).max), np.full(most, -1, np.int64)
    np.minimum.at(low, buffer[mine], iteration[mine])
    np.maximum.at(high, buffer[mine], iteration[mine])
    found: NDArray[np.bool_] = low[buffer] < high[buffer]
    return found


def _dense(instructions: Ints, operands: Ints) -> NDArray[np.bool_]:
    """Whether a write fills its rectangle. On chip equal rectangles have equal first bytes; in HBM a view that isn't a
    rectangle of rows is widened to whole rows, so there the bytes moved must be those of the rectangle."""
    dma = np.array([o.kind == "dma" for o in OPCODES])[instructions[:, Inst.OPCODE]]
    area = (operands[:, Operand.ROW1] - operands[:, Operand.ROW0]) * (
        operands[:, Operand.BYTE1] - operands[:, Operand.BYTE0]
    )
    whole = operands[:, Operand.BYTE1] - operands[:, Operand.BYTE0] == operands[:, Operand.ROW_BYTES]
    filled: NDArray[np.bool_] = ~dma | ~whole | (instructions[:, Inst.BYTES] >= area)
    return filled


def _finding(trace: Trace, loop: ParallelLoop, line: int, place: Ints, pair: tuple[int, int]) -> Diagnostic:
    buffer = trace.buffers[int(place[0])]
    rows, bytes_ = [int(place[1]), int(place[2])], [int(place[3]), int(place[4])]
    where = trace.where(line)
    header = trace.where(loop.line)
    name = buffer.name or "a tile"
    return Diagnostic(
        code="KW-AFFINE-OUTPUT",
        severity=Severity.WARNING,
        message=f"err_unexpected_output_dependencies: iterations {pair[0]} and {pair[1]} of the affine_range at line "
        f"{header.line if header else '?'} both write rows {rows[0]} to {rows[1]}, bytes {bytes_[0]} to {bytes_[1]} of "
        f"{name} ({'x'.join(map(str, buffer.shape))} {buffer.dtype})",
        where=where,
        operand=buffer.name,
        found=list(pair),
        limit="one iteration a place",
        fix="index the destination by the loop's variable, create the tile inside the loop, or use nl.sequential_range",
        related=(header,) if header else (),
    )
