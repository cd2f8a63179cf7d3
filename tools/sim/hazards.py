"""Findings that need the whole recorded stream: placement, capacity, and work whose result nobody uses.

Reads traces and machine tables only. Severities: `error` where the compiler or the hardware would refuse the kernel,
`warning` where the result may be wrong, `note` where only time or memory is wasted.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tools.sim.errors import Diagnostic, Severity
from tools.sim.instruction import OPCODES, BufferInfo, Inst, Operand, Trace
from tools.sim.iterations import repeated_writes
from tools.sim.machine import Machine

Ints = NDArray[np.int64]
_WRITTEN, _READ = 1, 2


def hazards(trace: Trace, machine: Machine) -> tuple[Diagnostic, ...]:
    """Everything this module finds in `trace`, in order of kernel lines within each kind."""
    if not len(trace):
        return ()
    use = _Use(trace)
    found: list[Diagnostic] = []
    for check in (
        outside_addresses, overlapping_addresses, over_capacity, start_partitions, bank_crossings, unused_results
    ):  # fmt: skip
        found.extend(check(trace, machine, use))
    found.extend(_once(repeated_writes(trace)))
    return tuple(found)


class _Use:
    """First and last access, and last write and read, of every buffer."""

    def __init__(self, trace: Trace) -> None:
        count = len(trace.buffers)
        self.owner: Ints = np.repeat(np.arange(len(trace)), trace.column(Inst.OPERANDS))
        self.first: Ints = np.full(count, np.iinfo(np.int64).max)
        self.last: Ints = np.full(count, -1, np.int64)
        self.read: Ints = np.full(count, -1, np.int64)
        self.written: Ints = np.full(count, -1, np.int64)
        buffer, flags = trace.operands[:, Operand.BUFFER], trace.operands[:, Operand.FLAGS]
        np.minimum.at(self.first, buffer, self.owner)
        np.maximum.at(self.last, buffer, self.owner)
        reads, writes = (flags & _READ) != 0, (flags & _WRITTEN) != 0
        pure = reads & ~writes
        np.maximum.at(self.read, buffer[pure], self.owner[pure])
        np.maximum.at(self.written, buffer[writes], self.owner[writes])


def _short(trace: Trace, line: int) -> str:
    where = trace.where(line)
    return f"{where.file.rsplit('/', 1)[-1]}:{where.line}" if where else "an unknown line"


def _label(buffer: BufferInfo) -> str:
    return f"{buffer.name or 'a tile'} ({'x'.join(map(str, buffer.shape))} {buffer.dtype})"


def _once(found: Iterable[Diagnostic]) -> list[Diagnostic]:
    """One finding per code and line."""
    kept: dict[tuple[str, str, int], Diagnostic] = {}
    for item in found:
        key = (item.code, item.where.file if item.where else "", item.where.line if item.where else 0)
        kept.setdefault(key, item)
    return list(kept.values())


# -- addresses ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Placed:
    """A tile at a fixed address: its rectangle of partitions and bytes."""

    buffer: BufferInfo
    row0: int
    row1: int
    byte0: int
    byte1: int


def _placed(trace: Trace, space: str, core: int) -> list[_Placed]:
    tiles = []
    for buffer in trace.buffers:
        if buffer.space == space and buffer.core == core and buffer.address is not None:
            row, byte = buffer.address
            tiles.append(_Placed(buffer, row, row + buffer.partitions, byte, byte + buffer.row_bytes))
    return tiles


def outside_addresses(trace: Trace, machine: Machine, use: _Use) -> list[Diagnostic]:
    """Tiles that the kernel placed beyond the end of SBUF or PSUM, or of their partitions."""
    limits = {"sbuf": machine.sbuf_partition_bytes, "psum": machine.psum_banks * machine.psum_bank_bytes}
    return _once(
        Diagnostic(
            code="KW-ADDRESS-RANGE",
            severity=Severity.ERROR,
            message=f"{_label(t.buffer)} at address {t.buffer.address} reaches partition {t.row1} and byte {t.byte1}; the "
            f"{space.upper()} has {machine.partitions} partitions of {limit} bytes",
            where=trace.where(t.buffer.line),
            operand="address",
            found=[t.row1, t.byte1],
            limit=[machine.partitions, limit],
            fix="place the tile lower, or make it smaller",
        )
        for space, limit in limits.items()
        for core in range(max(trace.cores, 1))
        for t in _placed(trace, space, core)
        if t.byte1 > limit or t.row1 > machine.partitions
    )


def overlapping_addresses(trace: Trace, machine: Machine, use: _Use) -> list[Diagnostic]:
    """Tiles that the kernel placed over each other while both hold live data."""
    return _once(_overlaps(trace, use))


def _overlaps(trace: Trace, use: _Use) -> Iterator[Diagnostic]:
    for space in ("sbuf", "psum"):
        for core in range(max(trace.cores, 1)):
            live = [t for t in _placed(trace, space, core) if use.last[t.buffer.id] >= 0]
            live.sort(key=lambda t: int(use.first[t.buffer.id]))
            active: list[_Placed] = []
            for tile in live:
                begin = int(use.first[tile.buffer.id])
                active = [t for t in active if int(use.read[t.buffer.id]) > begin]
                for other in active:
                    if (
                        tile.row0 < other.row1
                        and other.row0 < tile.row1
                        and tile.byte0 < other.byte1
                        and other.byte0 < tile.byte1
                        and _clobbers(use, tile, other)
                    ):
                        yield _overlap(trace, use, tile, other)
                        break
                active.append(tile)


def _clobbers(use: _Use, tile: _Placed, other: _Placed) -> bool:
    """Whether `tile` is written while `other` is still read later (and was written before)."""
    begin = int(use.first[tile.buffer.id])
    return int(use.written[tile.buffer.id]) >= begin and int(use.written[other.buffer.id]) < int(
        use.read[other.buffer.id]
    )


def _overlap(trace: Trace, use: _Use, tile: _Placed, other: _Placed) -> Diagnostic:
    later = int(use.read[other.buffer.id])
    return Diagnostic(
        code="KW-ADDRESS-OVERLAP",
        severity=Severity.WARNING,
        message=f"{_label(tile.buffer)} at address {tile.buffer.address} lies over {_label(other.buffer)} at "
        f"{other.buffer.address} ({_short(trace, other.buffer.line)}), which is read again at "
        f"{_short(trace, int(trace.instructions[later, Inst.LINE]))}",
        where=trace.where(tile.buffer.line),
        operand=tile.buffer.name,
        found=list(tile.buffer.address or ()),
        fix="move one of them, or finish with the older tile before writing the new one",
    )


# -- capacity ----------------------------------------------------------------------------------------------------------


def over_capacity(trace: Trace, machine: Machine, use: _Use) -> list[Diagnostic]:
    """More bytes live at once than SBUF or PSUM has; tiles count from their first to their last access."""
    limits = {"sbuf": machine.sbuf_partition_bytes, "psum": machine.psum_banks * machine.psum_bank_bytes}
    found = []
    for space, limit in limits.items():
        for core in range(max(trace.cores, 1)):
            ids = [
                b.id
                for b in trace.buffers
                if b.space == space and b.core == core and use.last[b.id] >= 0 and not b.address
            ]
            if not ids:
                continue
            live = np.array(ids)
            sizes = np.array([trace.buffers[i].row_bytes for i in ids])
            level = np.zeros(len(trace) + 1, np.int64)
            np.add.at(level, use.first[live], sizes)
            np.add.at(level, use.last[live] + 1, -sizes)
            level = np.cumsum(level)
            peak = int(np.argmax(level))
            if level[peak] > limit:
                found.append(_capacity(trace, space, int(level[peak]), limit, peak, live, use))
    return found


def _capacity(trace: Trace, space: str, level: int, limit: int, peak: int, live: Ints, use: _Use) -> Diagnostic:
    held = [trace.buffers[i] for i in live if use.first[i] <= peak <= use.last[i]]
    held.sort(key=lambda b: -b.row_bytes)
    largest = ", ".join(f"{_label(b)} from {_short(trace, b.line)}: {b.row_bytes} B" for b in held[:3])
    # The Beta-1 compiler allocates SBUF itself and spills what doesn't fit; tiles that the kernel places can't be spilled.
    spills = space == "sbuf" and trace.dialect == "neuronxcc.nki" and all(b.address is None for b in held)
    return Diagnostic(
        code="KW-SBUF-CAPACITY" if space == "sbuf" else "KW-PSUM-CAPACITY",
        severity=Severity.WARNING if spills else Severity.ERROR,
        message=f"{len(held)} tiles that hold live data need {level} bytes a partition, the {space.upper()} has {limit}; "
        f"largest: {largest}",
        where=trace.where(int(trace.instructions[peak, Inst.LINE])),
        found=level,
        limit=limit,
        fix="use smaller tiles, finish with tiles before loading new ones, or keep data in a narrower type"
        if space == "sbuf"
        else "copy results out of PSUM before starting new groups; one bank holds 512 float32 a partition",
    )


# -- where accesses lie ------------------------------------------------------------------------------------------------


def _engine_operands(trace: Trace, use: _Use) -> Ints:
    """Rows of the operand table that compute and matmul instructions use."""
    kinds = np.array([o.kind in ("compute", "matmul") for o in OPCODES])
    return np.flatnonzero(kinds[trace.column(Inst.OPCODE)[use.owner]])


def _spaces(trace: Trace, space: str) -> NDArray[np.bool_]:
    return np.array([b.space == space for b in trace.buffers])


def start_partitions(trace: Trace, machine: Machine, use: _Use) -> list[Diagnostic]:
    """Engine accesses that start at a partition where the hardware can't start (architecture guide).

    More than 64 partitions start at 0; 33 to 64 at 0 or 64; up to 32 at 0, 32, 64 or 96. A tile without an address is
    taken to start at partition 0, where an allocator would put it.
    """
    rows = _engine_operands(trace, use)
    operands = trace.operands[rows]
    buffer = operands[:, Operand.BUFFER]
    chip = _spaces(trace, "sbuf") | _spaces(trace, "psum")
    base = np.array([b.address[0] if b.address else 0 for b in trace.buffers])
    start = operands[:, Operand.ROW0] + base[buffer]
    height = operands[:, Operand.ROW1] - operands[:, Operand.ROW0]
    step = np.where(height > 64, machine.partitions, np.where(height > 32, 64, 32))
    bad = np.flatnonzero(chip[buffer] & (start % step != 0))
    return _once(_starts(trace, use, rows[bad], start[bad], height[bad], step[bad]))


def _starts(trace: Trace, use: _Use, rows: Ints, start: Ints, height: Ints, step: Ints) -> Iterator[Diagnostic]:
    for row, first, count, legal in zip(rows.tolist(), start.tolist(), height.tolist(), step.tolist()):
        owner = int(use.owner[row])
        buffer = trace.buffers[int(trace.operands[row, Operand.BUFFER])]
        yield Diagnostic(
            code="KW-START-PARTITION",
            severity=Severity.WARNING,
            message=f"{trace.opcode_name(owner)} accesses {count} partitions of {_label(buffer)} from partition {first} on",
            where=trace.where(int(trace.instructions[owner, Inst.LINE])),
            operand=buffer.name,
            found=first,
            limit=f"multiples of {legal}" if legal < 128 else "0",
            fix="place the data at a legal start partition, or move it there by DMA",
        )


def bank_crossings(trace: Trace, machine: Machine, use: _Use) -> list[Diagnostic]:
    """Matmul results that reach over a PSUM bank (before trn3 a result must fit one bank)."""
    if machine.generation >= 4:
        return []
    bank = machine.psum_bank_bytes
    rows = _engine_operands(trace, use)
    matmul = np.array([o.kind == "matmul" for o in OPCODES])
    operands = trace.operands[rows]
    buffer = operands[:, Operand.BUFFER]
    base = np.array([b.address[1] if b.address else 0 for b in trace.buffers])
    written = (operands[:, Operand.FLAGS] & _WRITTEN) != 0
    mine = written & _spaces(trace, "psum")[buffer] & matmul[trace.column(Inst.OPCODE)[use.owner[rows]]]
    low = (operands[:, Operand.BYTE0] + base[buffer]) // bank
    high = (operands[:, Operand.BYTE1] + base[buffer] - 1) // bank
    return _once(_crossings(trace, use, rows[np.flatnonzero(mine & (low != high))], bank))


def _crossings(trace: Trace, use: _Use, rows: Ints, bank: int) -> Iterator[Diagnostic]:
    for row in rows.tolist():
        owner = int(use.owner[row])
        operand = trace.operands[row]
        buffer = trace.buffers[int(operand[Operand.BUFFER])]
        begin, end = int(operand[Operand.BYTE0]), int(operand[Operand.BYTE1])
        yield Diagnostic(
            code="KW-PSUM-BANK",
            severity=Severity.ERROR if end - begin > bank else Severity.WARNING,
            message=f"{trace.opcode_name(owner)} writes bytes {begin} to {end} of {_label(buffer)}, across a bank of {bank} bytes",
            where=trace.where(int(trace.instructions[owner, Inst.LINE])),
            operand="dst",
            found=[begin, end],
            limit=bank,
            fix="let each matmul write inside one bank: 512 float32 a partition, starting at a bank boundary",
        )


# -- work for nothing --------------------------------------------------------------------------------------------------


def unused_results(trace: Trace, machine: Machine, use: _Use) -> list[Diagnostic]:
    """On-chip tiles that are written and never read: the work behind them is wasted."""
    return _once(_unused(trace, use))


def _unused(trace: Trace, use: _Use) -> Iterator[Diagnostic]:
    siblings = _required_outputs(trace)
    for buffer in trace.buffers:
        writer = int(use.written[buffer.id])
        if buffer.space not in ("sbuf", "psum") or writer < 0 or use.read[buffer.id] >= 0 or buffer.id in siblings:
            continue
        yield Diagnostic(
            code="KW-UNUSED-RESULT",
            severity=Severity.NOTE,
            message=f"{_label(buffer)} is written ({trace.opcode_name(writer)}) and never read",
            where=trace.where(int(trace.instructions[writer, Inst.LINE])),
            operand=buffer.name,
            fix="drop the instruction, or store what it computes",
        )


def without_effect(trace: Trace) -> list[Diagnostic]:
    """A kernel that gives nothing back: it returns no tensor (the caller knows) and writes none of its arguments."""
    writes = trace.operands[trace.operands[:, Operand.FLAGS] & 1 == 1, Operand.BUFFER]
    written = [trace.buffers[number] for number in sorted(set(writes.tolist()))]
    if not written or any(buffer.role == "input" for buffer in written):
        return []
    lost = [buffer for buffer in written if not buffer.space.startswith(("sbuf", "psum"))]
    return [
        Diagnostic(
            code="KW-NO-OUTPUT",
            severity=Severity.WARNING,
            message=f"the kernel returns no tensor and writes none of its arguments{f'; {_label(lost[-1])} is written and lost' if lost else ''}",
            fix="return the tensor in nl.shared_hbm that holds the result, or write into an argument",
        )
    ]


def _required_outputs(trace: Trace) -> set[int]:
    """Buffers that an instruction had to write beside another result (a dst whose reduction was wanted)."""
    required: set[int] = set()
    counts = trace.column(Inst.OPERANDS)
    firsts = trace.column(Inst.FIRST_OPERAND)
    flags = trace.operands[:, Operand.FLAGS]
    writes = np.add.reduceat((flags & _WRITTEN) != 0, firsts[counts > 0]) if len(flags) else np.empty(0)
    for index in np.flatnonzero(counts > 0)[np.flatnonzero(writes > 1)].tolist():
        for row in range(int(firsts[index]), int(firsts[index] + counts[index])):
            if flags[row] & _WRITTEN:
                required.add(int(trace.operands[row, Operand.BUFFER]))
    return required
