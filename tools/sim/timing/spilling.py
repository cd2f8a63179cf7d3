"""Tiles that don't fit SBUF: the neuronxcc.nki compiler saves them to HBM and loads them again.

In program order, whenever a tile needs room that isn't there, the tile that is used again last makes way (Belady's
rule: a compiler sees the whole program). It is saved first unless HBM still holds what is in it. On published profiles of
NKIBench kernels on trn1 this gives the bytes spilled by mamba (55 MB each way), bmm_softmax (754 MB) and gqa_full (1.1 GB) to
a few percent; of those of lora and swiglu it gives a half or less.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from heapq import heappop, heappush

import numpy as np
from numpy.typing import NDArray

from tools.sim.instruction import BY_NAME, BufferInfo, Engine, Inst, Operand, Trace
from tools.sim.machine import Machine

from .allocation import live_ranges, owners
from .tiles import tiles_of

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

NEVER = 1 << 62
"""Next use of a tile that isn't used again."""


@dataclass(frozen=True, slots=True)
class Transfer:
    """A save or a reload of a tile.

    Attributes:
        at: instruction in front of which it stands.
        tile: buffer on chip.
        home: buffer in HBM.
        reload: from HBM; otherwise to it.
    """

    at: int
    tile: int
    home: int
    reload: bool


def spilled(trace: Trace, machine: Machine) -> tuple[Trace, Ints]:
    """`trace` with the saves and reloads that its SBUF use makes necessary, and the index of each of its instructions in it.

    Tiles that the kernel placed stay where they are; a tile larger than SBUF is left alone.
    """
    rows, tile = _crowded(trace, machine)
    if not len(rows):
        return trace, np.arange(len(trace))
    plan = _Plan(trace, rows, tile, machine.sbuf_partition_bytes)
    plan.run()
    return plan.inserted() if plan.transfers else (trace, np.arange(len(trace)))


def _crowded(trace: Trace, machine: Machine) -> tuple[Ints, Ints]:
    """(operand rows, their tiles) of the cores whose live tiles exceed SBUF at some point; both empty if none does."""
    columns, ranges = tiles_of(trace.buffers), live_ranges(trace)
    used = columns.sbuf & (ranges.last >= 0)
    full = np.zeros(len(trace.buffers), np.bool_)
    for core in np.unique(columns.core[used]).tolist():
        mine = used & (columns.core == core)
        level = np.zeros(len(trace) + 1, np.int64)
        np.add.at(level, ranges.first[mine], columns.size[mine])
        np.add.at(level, ranges.last[mine] + 1, -columns.size[mine])
        if np.cumsum(level).max() > machine.sbuf_partition_bytes and not columns.placed[mine].any():
            full |= mine
    full &= columns.size <= machine.sbuf_partition_bytes
    rows = np.flatnonzero(full[trace.operands[:, Operand.BUFFER]]) if full.any() else np.empty(0, np.int64)
    return rows, trace.operands[rows, Operand.BUFFER]


class _Plan:
    """Goes through a program in order and decides which tiles make way.

    Attributes:
        transfers: saves and reloads, in program order.
        names: buffer that each operand row means; a reloaded tile is a new one.
        buffers: those of the trace, then reloaded tiles and their homes in HBM.
    """

    def __init__(self, trace: Trace, rows: Ints, tile: Ints, capacity: int) -> None:
        self.trace = trace
        self.capacity = capacity
        self.rows, self.tile = rows.tolist(), tile.tolist()
        owner = owners(trace)
        self.owner = owner[rows].tolist()
        flags = trace.operands[rows, Operand.FLAGS]
        self.writes = ((flags & 1) != 0).tolist()
        order = np.lexsort((np.arange(len(rows)), tile))
        follows = np.full(len(rows), NEVER)
        same = tile[order[1:]] == tile[order[:-1]]
        follows[order[:-1][same]] = owner[rows][order[1:][same]]
        self.next_use = follows.tolist()
        columns = tiles_of(trace.buffers)
        self.size, self.core = columns.size.tolist(), columns.core.tolist()
        self.clean = _loaded_only(trace, columns.hbm)
        self.buffers: list[BufferInfo] = list(trace.buffers)
        self.names = trace.operands[:, Operand.BUFFER].copy()
        self.transfers: list[Transfer] = []
        self.homes: dict[int, int] = {}
        self.name: dict[int, int] = {}
        self.resident: dict[int, int] = {}
        self.unsaved: set[int] = set()
        self.used: dict[int, int] = {}
        # By core: resident tiles, the one used again last on top; entries that no longer hold are skipped.
        self.queues: dict[int, list[tuple[int, int]]] = {}

    def run(self) -> None:
        """Decide for every access in turn."""
        rows, tiles, owner, writes, upcoming = self.rows, self.tile, self.owner, self.writes, self.next_use
        resident, name, unsaved = self.resident, self.name, self.unsaved
        queues = [self.queues.setdefault(core, []) for core in range(max(self.core, default=0) + 1)]
        at, count = 0, len(rows)
        while at < count:
            i, end = owner[at], at + 1
            while end < count and owner[end] == i:
                end += 1
            for k in range(at, end):
                tile = tiles[k]
                if tile not in resident:
                    self._enter(i, tile, tiles[at:end])
                if writes[k]:
                    unsaved.add(tile)
                if name[tile] != tile:
                    self.names[rows[k]] = name[tile]
            for k in range(at, end):
                # The last operand row of a tile in this instruction knows its next use.
                tile, following = tiles[k], upcoming[k]
                if following == NEVER:
                    self._leave(tile)
                elif following != i:
                    resident[tile] = following
                    heappush(queues[self.core[tile]], (-following, tile))
            at = end

    def _leave(self, tile: int) -> None:
        if self.resident.pop(tile, None) is not None:
            self.used[self.core[tile]] -= self.size[tile]

    def _enter(self, i: int, tile: int, busy: list[int]) -> None:
        """Make room for `tile` in front of instruction `i`, and bring it back if it was here before."""
        core = self.core[tile]
        while self.used.get(core, 0) + self.size[tile] > self.capacity:
            other = self._used_last(core, busy)
            if other < 0:
                break
            if other in self.unsaved and other not in self.clean:
                self.transfers.append(Transfer(i, self.name[other], self._home(other), False))
            self.unsaved.discard(other)
            self._leave(other)
        self.used[core] = self.used.get(core, 0) + self.size[tile]
        self.resident[tile] = i
        if tile not in self.name:
            self.name[tile] = tile
            return
        self.name[tile] = self._buffer(replace(self.trace.buffers[tile], id=len(self.buffers)))
        self.transfers.append(Transfer(i, self.name[tile], self._home(tile), True))

    def _used_last(self, core: int, busy: list[int]) -> int:
        """Resident tile whose next use is the farthest, none of `busy`; -1 if there is no such tile."""
        queue, kept, found = self.queues.setdefault(core, []), [], -1
        while queue and found < 0:
            entry = heappop(queue)
            if self.resident.get(entry[1]) == -entry[0]:
                kept.append(entry)
                found = -1 if entry[1] in busy else entry[1]
        for entry in kept:
            heappush(queue, entry)
        return found

    def _buffer(self, info: BufferInfo) -> int:
        self.buffers.append(info)
        return info.id

    def _home(self, tile: int) -> int:
        if tile not in self.homes:
            info = self.trace.buffers[tile]
            size = info.partitions * info.row_bytes
            home = replace(info, id=len(self.buffers), space="private_hbm", partitions=1, row_bytes=size, address=None)
            self.homes[tile] = self._buffer(home)
        return self.homes[tile]

    def inserted(self) -> tuple[Trace, Ints]:
        """The trace with the transfers in their places, and where each of its own instructions is now."""
        trace, moves = self.trace, self.transfers
        n = len(trace)
        instructions = np.zeros((len(moves), len(Inst)), np.int64)
        operands = np.zeros((2 * len(moves), len(Operand)), np.int64)
        code = BY_NAME["dma_copy"].code
        for k, move in enumerate(moves):
            info = self.buffers[move.tile]
            rows, width = info.partitions, info.row_bytes
            instructions[k, : Inst.FIRST_OPERAND] = (
                code, int(Engine.UNKNOWN), len(trace.lines), info.core, rows, width, width, rows * width, 0,
            )  # fmt: skip
            chip, home = (1, 2) if move.reload else (2, 1)
            operands[2 * k] = (move.tile, chip, 0, rows, 0, width, width, 0)
            operands[2 * k + 1] = (move.home, home, 0, 1, 0, rows * width, rows * width, 0)
        instructions[:, Inst.OPERANDS] = 2
        place = np.concatenate([np.arange(n) * 2 + 1, np.array([m.at for m in moves]) * 2])
        order = np.argsort(place, kind="stable")
        own = trace.operands.copy()
        own[:, Operand.BUFFER] = self.names
        every = np.concatenate([trace.instructions, instructions])[order]
        counts = every[:, Inst.OPERANDS]
        every[:, Inst.FIRST_OPERAND] = np.cumsum(counts) - counts
        owner = np.concatenate([owners(trace), np.repeat(np.arange(n, n + len(moves)), 2)])
        position = np.empty(len(order), np.int64)
        position[order] = np.arange(len(order))
        rows_in_order = np.argsort(position[owner], kind="stable")
        changed = replace(
            trace, instructions=every, operands=np.concatenate([own, operands])[rows_in_order], buffers=self.buffers,
            lines=[*trace.lines, ("", 0)],
        )  # fmt: skip
        return changed, position[:n]


def _loaded_only(trace: Trace, hbm: Bools) -> set[int]:
    """Tiles that only DMAs fill, from HBM that nobody writes: what is in them needn't be saved."""
    operands = trace.operands
    owner, buffer, flags = owners(trace), operands[:, Operand.BUFFER], operands[:, Operand.FLAGS]
    count = len(trace.buffers)
    written = np.zeros(count, np.bool_)
    written[buffer[(flags & 1) != 0]] = True
    constant = np.zeros(len(trace), np.bool_)
    constant[owner[((flags & 2) != 0) & (hbm & ~written)[buffer]]] = True
    constant &= trace.column(Inst.OPCODE) == BY_NAME["dma_copy"].code
    computed = np.zeros(count, np.bool_)
    computed[buffer[((flags & 1) != 0) & ~constant[owner]]] = True
    return set(np.flatnonzero(written & ~computed).tolist())
