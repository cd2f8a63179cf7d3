"""What-if changes to a recorded program: each takes a `Trace` and gives another one, which can be timed again.

An edit changes only what the timing model reads: instructions, operands' regions and buffers. It says nothing about
values, so a counterfactual is a bound on what a real change of the kernel could gain, never a kernel.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from tools.sim.instruction import BufferInfo, Flag, Inst, Operand, Trace

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

WRITE_BIT = 1
HALF = 2
"""Ratio of sizes between float32 and the 2-byte floats."""


def owners(trace: Trace) -> Ints:
    """Instruction of each operand row."""
    return np.repeat(np.arange(len(trace)), trace.column(Inst.OPERANDS))


def rebuilt(trace: Trace, instructions: Ints, operands: Ints, owner: Ints) -> Trace:
    """A trace of these instructions; `owner` gives the (new) instruction of each operand row.

    Instructions with the same owner number as their row keep their order; operand rows may come in any order.
    """
    order = np.argsort(owner, kind="stable")
    count = np.bincount(owner, minlength=len(instructions))
    table = instructions.copy()
    table[:, Inst.OPERANDS] = count
    table[:, Inst.FIRST_OPERAND] = np.concatenate([[0], np.cumsum(count)[:-1]]) if len(table) else 0
    return replace(trace, instructions=table, operands=operands[order])


def drop(trace: Trace, rows: Bools) -> Trace:
    """The trace without the instructions marked in `rows` (bool [n])."""
    keep = ~rows
    number = np.cumsum(keep) - 1
    owner = owners(trace)
    mine = keep[owner]
    return rebuilt(trace, trace.instructions[keep], trace.operands[mine], number[owner[mine]])


def retarget(trace: Trace, rows: Ints | Bools, engine: int) -> Trace:
    """The trace with `rows` executed (DMA: triggered) by another engine."""
    table = trace.instructions.copy()
    table[rows, Inst.ENGINE] = engine
    return replace(trace, instructions=table)


def forget(trace: Trace, waiting: Ints, waited: Ints) -> Trace:
    """The trace in which `waiting` no longer reads what `waited` wrote.

    The reading operands move to nameless tiles without size, so that nothing else changes.
    """
    owner = owners(trace)
    operands = trace.operands
    flags = operands[:, Operand.FLAGS]
    written = np.zeros(len(trace.buffers), np.bool_)
    from_waited = np.zeros(len(trace), np.bool_)
    from_waited[waited] = True
    written[operands[from_waited[owner] & ((flags & WRITE_BIT) != 0), Operand.BUFFER]] = True
    waits = np.zeros(len(trace), np.bool_)
    waits[waiting] = True
    moved = waits[owner] & (flags == 2) & written[operands[:, Operand.BUFFER]]
    if not moved.any():
        return trace
    changed = operands.copy()
    old, names = np.unique(operands[moved, Operand.BUFFER], return_inverse=True)
    start = len(trace.buffers)
    changed[moved, Operand.BUFFER] = start + names.reshape(-1)
    ghosts = [
        replace(trace.buffers[int(b)], id=start + k, name="", row_bytes=0, address=None, role="local")
        for k, b in enumerate(old)
    ]
    return replace(trace, operands=changed, buffers=[*trace.buffers, *ghosts])


# -- buffers -----------------------------------------------------------------------------------------------------------


def fills(trace: Trace, buffer: int, rows: Ints) -> list[int]:
    """Where the buffer is filled anew: positions in `rows` (its operand rows, in program order) at which a run of pure
    writes starts that covers, before anything reads, every byte that is ever accessed there.
    """
    operands = trace.operands[rows]
    cuts = [
        np.unique(np.concatenate([operands[:, low], operands[:, high]]))
        for low, high in ((Operand.ROW0, Operand.ROW1), (Operand.BYTE0, Operand.BYTE1))
    ]
    touched = np.zeros((max(len(cuts[0]) - 1, 1), max(len(cuts[1]) - 1, 1)), np.bool_)
    spans = [
        (
            slice(*np.searchsorted(cuts[0], (op[Operand.ROW0], op[Operand.ROW1])).tolist()),
            slice(*np.searchsorted(cuts[1], (op[Operand.BYTE0], op[Operand.BYTE1])).tolist()),
        )
        for op in operands
    ]
    for span in spans:
        touched[span] = True
    everything = int(touched.sum())
    flags = operands[:, Operand.FLAGS].tolist()
    found: list[int] = []
    read_since = True
    covered = np.zeros_like(touched)
    begin = -1
    for k, span in enumerate(spans):
        if flags[k] == WRITE_BIT:
            if read_since:
                begin, read_since = k, False
                covered[:] = False
            covered[span] = True
            if begin >= 0 and int(covered.sum()) == everything:
                found.append(begin)
                begin = -1
        else:
            read_since = True
            begin = -1
    return found


def rotate(trace: Trace, buffers: Iterable[int], copies: int) -> Trace:
    """The trace in which each of `buffers` (on chip) is `copies` tiles, used in turn each time it is filled anew.

    Args:
        trace: the program.
        buffers: ids of tiles.
        copies: 2 for double buffering; 0 for a new tile at every fill.
    """
    wanted = np.zeros(len(trace.buffers), np.bool_)
    wanted[[b for b in buffers if trace.buffers[b].space in ("sbuf", "psum")]] = True
    mine = np.flatnonzero(wanted[trace.operands[:, Operand.BUFFER]])
    # In one instruction the reads come before the writes.
    writes = trace.operands[mine, Operand.FLAGS] & WRITE_BIT
    mine = mine[np.lexsort((writes, owners(trace)[mine], trace.operands[mine, Operand.BUFFER]))]
    changed = trace.operands.copy()
    clones: list[BufferInfo] = list(trace.buffers)
    starts = np.flatnonzero(np.diff(trace.operands[mine, Operand.BUFFER], prepend=-1))
    for begin, end in zip(starts, np.append(starts[1:], len(mine))):
        rows = mine[begin:end]
        buffer = int(trace.operands[rows[0], Operand.BUFFER])
        names: list[int] = [buffer]
        for turn, start in enumerate(fills(trace, buffer, rows)):
            slot = turn if copies == 0 else turn % copies
            if slot == len(names):
                clones.append(replace(trace.buffers[buffer], id=len(clones), address=None))
                names.append(len(clones) - 1)
            changed[rows[start:], Operand.BUFFER] = names[slot]
    return replace(trace, operands=changed, buffers=clones)


def retyped(trace: Trace, buffers: Iterable[int], ratio: float) -> Trace:
    """The trace with the elements of `buffers` made wider (`ratio` 2) or narrower (0.5).

    Regions, DMA bytes and descriptor sizes scale; cost flags of the instructions that touch them follow. PSUM is left
    as it is: it accumulates in float32 whatever the operands are.
    """
    which = np.zeros(len(trace.buffers), np.bool_)
    which[[b for b in buffers if trace.buffers[b].space != "psum"]] = True
    owner = owners(trace)
    operands, table = trace.operands.copy(), trace.instructions.copy()
    mine = which[operands[:, Operand.BUFFER]]
    for column in (Operand.BYTE0, Operand.BYTE1, Operand.ROW_BYTES):
        scaled = operands[mine, column] * ratio
        operands[mine, column] = np.ceil(scaled) if column == Operand.BYTE1 else np.floor(scaled)
    operands[mine, Operand.BYTE1] = np.maximum(operands[mine, Operand.BYTE1], operands[mine, Operand.BYTE0] + 1)
    infos = [
        replace(b, row_bytes=max(int(b.row_bytes * ratio), 1), dtype="float32" if ratio > 1 else "bfloat16")
        if which[b.id]
        else b
        for b in trace.buffers
    ]
    changed = np.zeros(len(trace), np.bool_)
    changed[owner[mine]] = True
    moves = changed & (table[:, Inst.BYTES] > 0)
    table[moves, Inst.BYTES] = np.maximum((table[moves, Inst.BYTES] * ratio).astype(np.int64), 1)
    table[moves, Inst.AUX] = np.maximum((table[moves, Inst.AUX] * ratio).astype(np.int64), 1)
    sizes = np.array([_item(b) for b in infos] or [0])
    widest, narrowest = np.zeros(len(trace), np.int64), np.full(len(trace), 9, np.int64)
    np.maximum.at(widest, owner, sizes[operands[:, Operand.BUFFER]])
    np.minimum.at(narrowest, owner, sizes[operands[:, Operand.BUFFER]])
    reads = (operands[:, Operand.FLAGS] == 2) & mine
    source = np.zeros(len(trace), np.bool_)
    source[owner[reads]] = True
    flags = table[:, Inst.FLAGS]
    uniform = changed & (widest == narrowest)
    flags = np.where(changed, flags & ~Flag.HALF_IO, flags)
    flags = np.where(uniform & (widest == HALF), flags | Flag.HALF_IO, flags)
    matmul = source & np.isin(table[:, Inst.OPCODE], _matmul_codes())
    flags = np.where(matmul, flags & ~Flag.FP32 if ratio < 1 else flags | Flag.FP32, flags)
    table[:, Inst.FLAGS] = flags
    return replace(trace, instructions=table, operands=operands, buffers=infos)


def _item(buffer: BufferInfo) -> int:
    elements = int(np.prod(buffer.shape)) or 1
    return max(round(buffer.partitions * buffer.row_bytes / elements), 1)


def _matmul_codes() -> Ints:
    from tools.sim.instruction import OPCODES

    return np.array([entry.code for entry in OPCODES if entry.kind == "matmul"], np.int64)


# -- groups of instructions --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Joining:
    """How instructions become one.

    Attributes:
        summed: columns that add up.
        at_last: the joined instruction stands where the last one stood (stores), else where the first one did.
        most: upper limit of each summed column.
    """

    summed: tuple[Inst, ...]
    at_last: bool = False
    most: int = 1 << 62


def joined(trace: Trace, rows: Ints, size: int, how: Joining) -> Trace:
    """The trace in which every `size` neighbours among `rows` of one line and core are one instruction with all their operands."""
    if size < 2 or len(rows) < 2:
        return trace
    kind = trace.column(Inst.LINE)[rows] * (int(trace.column(Inst.CORE).max()) + 1) + trace.column(Inst.CORE)[rows]
    order = np.lexsort((rows, kind))
    rows, kind = rows[order], kind[order]
    begins = np.flatnonzero(np.diff(kind, prepend=kind[0] - 1))
    place = np.arange(len(rows)) - np.repeat(begins, np.diff(np.append(begins, len(rows))))
    starts = np.flatnonzero(place % size == 0)
    ends = np.append(starts[1:], len(rows)) - 1
    group = np.full(len(trace), -1, np.int64)
    group[rows] = np.cumsum(place % size == 0) - 1
    keeper = rows[ends if how.at_last else starts]
    table = trace.instructions.copy()
    for column in how.summed:
        total = np.add.reduceat(trace.instructions[rows, column], starts)
        table[keeper, column] = np.minimum(total, how.most)
    keep = group < 0
    keep[keeper] = True
    number = np.cumsum(keep) - 1
    target = number.copy()
    target[rows] = number[keeper][group[rows]]
    return rebuilt(trace, table[keep], trace.operands, target[owners(trace)])


def bypassed(trace: Trace, rows: Ints, producers: Ints, consumers: Ints) -> Trace:
    """The trace without `rows`; whoever read their results reads their input instead.

    Args:
        trace: the program.
        rows: instructions to leave out. Of several inputs the one counts that isn't also their output.
        producers, consumers: pairs of instructions, the second of which reads the first one's result.
    """
    first, count = trace.column(Inst.FIRST_OPERAND), trace.column(Inst.OPERANDS)
    gone = np.zeros(len(trace), np.bool_)
    gone[rows] = True
    operands = trace.operands.copy()
    extra: dict[int, list[Ints]] = {}
    # In program order, so that a chain of bypassed instructions leads back to its beginning.
    mine = np.flatnonzero(gone[producers])
    for k in mine[np.argsort(producers[mine], kind="stable")].tolist():
        producer, consumer = int(producers[k]), int(consumers[k])
        own = operands[first[producer] : first[producer] + count[producer]]
        written, read = _written(own), own[own[:, Operand.FLAGS] == 2]
        if written is None or not len(read):
            continue
        others = read[read[:, Operand.BUFFER] != written[Operand.BUFFER]]
        sources = [(others if len(others) else read)[0].copy(), *extra.get(producer, [])]
        if not _reread(operands, int(first[consumer]), int(count[consumer]), written, sources[0]):
            extra.setdefault(consumer, []).append(sources[0])  # it reads what several of them wrote
        extra.setdefault(consumer, []).extend(sources[1:])
    edited = replace(trace, operands=operands)
    return drop(_reading_more(edited, {i: more for i, more in extra.items() if not gone[i]}), gone)


def _reading_more(trace: Trace, extra: dict[int, list[Ints]]) -> Trace:
    """The trace in which instructions read further operands, each once."""
    more = [(i, row) for i, rows in extra.items() for row in {tuple(r.tolist()): r for r in rows}.values()]
    if not more:
        return trace
    operands = np.concatenate([trace.operands, np.stack([row for _, row in more])])
    owner = np.concatenate([owners(trace), np.array([i for i, _ in more], np.int64)])
    return rebuilt(trace, trace.instructions, operands, owner)


def deduplicated(trace: Trace, original: Ints, producers: Ints, consumers: Ints) -> Trace:
    """The trace without its repeated instructions; whoever read the result of one reads that of the original.

    Each original gets a tile of its own, which lives as long as somebody reads it.

    Args:
        trace: the program.
        original: for each repeated instruction the one that it repeats, else -1; int64 [n].
        producers, consumers: pairs of instructions, the second of which reads the first one's result.
    """
    first, count = trace.column(Inst.FIRST_OPERAND), trace.column(Inst.OPERANDS)
    operands = trace.operands.copy()
    buffers: list[BufferInfo] = list(trace.buffers)
    kept: dict[int, NDArray[np.int64]] = {}
    for j in np.unique(original[original >= 0]).tolist():
        span = slice(int(first[j]), int(first[j] + count[j]))
        written = _written(trace.operands[span])
        if written is None:
            continue
        info = trace.buffers[int(written[Operand.BUFFER])]
        width = int(written[Operand.BYTE1] - written[Operand.BYTE0])
        buffers.append(replace(info, id=len(buffers), row_bytes=width, address=None))
        own = operands[span]
        own[(own == written).all(axis=1), Operand.BUFFER] = len(buffers) - 1
        kept[j] = written.copy()
        kept[j][[Operand.BUFFER, Operand.FLAGS]] = len(buffers) - 1, 2
    for producer, consumer in zip(producers.tolist(), consumers.tolist()):
        source = kept.get(int(original[producer]) if original[producer] >= 0 else producer)
        if source is None:
            continue
        written = _written(trace.operands[first[producer] : first[producer] + count[producer]])
        if written is not None:
            _reread(operands, int(first[consumer]), int(count[consumer]), written, source)
    return drop(replace(trace, operands=operands, buffers=buffers), original >= 0)


def _written(operands: NDArray[np.int64]) -> NDArray[np.int64] | None:
    """The first operand that an instruction writes without reading it."""
    found = operands[operands[:, Operand.FLAGS] == WRITE_BIT]
    return found[0] if len(found) else None


def _reread(operands: Ints, first: int, count: int, written: NDArray[np.int64], source: NDArray[np.int64]) -> bool:
    """Let an instruction read `source` wherever it read (a part of) what `written` describes; changes `operands`.

    False when it reads more than that, or nothing of it.
    """
    theirs = operands[first : first + count]
    inside = (theirs[:, Operand.FLAGS] == 2) & (theirs[:, Operand.BUFFER] == written[Operand.BUFFER])
    for low, high in ((Operand.ROW0, Operand.ROW1), (Operand.BYTE0, Operand.BYTE1)):
        inside &= (theirs[:, low] >= written[low]) & (theirs[:, high] <= written[high])
    theirs[inside] = source
    return bool(inside.any())


def repeated_loads(trace: Trace, loads: Bools) -> Ints:
    """For each load that repeats another of the same core, the first one, else -1; int64 [n].

    A repetition brings a region of HBM that an earlier load brought already and that no instruction writes.
    """
    owner = owners(trace)
    operands = trace.operands
    in_hbm = np.array([b.space not in ("sbuf", "psum") for b in trace.buffers] or [False])
    hbm = in_hbm[operands[:, Operand.BUFFER]]
    written = np.zeros(len(trace.buffers), np.bool_)
    written[operands[hbm & ((operands[:, Operand.FLAGS] & WRITE_BIT) != 0), Operand.BUFFER]] = True
    mine = np.flatnonzero(hbm & loads[owner] & ~written[operands[:, Operand.BUFFER]])
    # Gathers read where their indices say: equal rectangles may be different rows.
    mine = mine[(trace.column(Inst.FLAGS)[owner[mine]] & Flag.INDIRECT) == 0]
    found = np.full(len(trace), -1, np.int64)
    if not len(mine):
        return found
    keys = np.concatenate(
        [
            operands[mine][:, [Operand.BUFFER, Operand.ROW0, Operand.ROW1, Operand.BYTE0, Operand.BYTE1]],
            trace.column(Inst.CORE)[owner[mine]][:, None],
        ],
        axis=1,
    )
    _, first, inverse = np.unique(keys, axis=0, return_index=True, return_inverse=True)
    origin = owner[mine[first]][inverse.reshape(-1)]
    again = origin != owner[mine]
    found[owner[mine[again]]] = origin[again]
    return found
