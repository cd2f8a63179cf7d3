"""Where tiles live: live ranges, peak use, and whose space a new tile takes.

Kernels allocate a new tile in every iteration. Tiles are placed greedily in program order: each takes the
space that has been free for longest, so loops rotate through SBUF and the PSUM banks as an allocator would
let them, and a tile whose space is still in use makes its first writer wait.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tools.sim.instruction import Inst, Operand, Trace
from tools.sim.machine import Machine

from . import compiled
from .tiles import tiles_of

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class LiveRanges:
    """First and last access of every buffer, as instruction indices; -1 where a buffer is never accessed."""

    first: Ints
    last: Ints


def owners(trace: Trace) -> Ints:
    """Index of the instruction that each operand row belongs to."""
    return np.repeat(np.arange(len(trace)), trace.column(Inst.OPERANDS))


def live_ranges(trace: Trace) -> LiveRanges:
    """First and last access of each buffer of `trace`, in instruction indices."""
    count = len(trace.buffers)
    first = np.full(count, np.iinfo(np.int64).max)
    last = np.full(count, -1, np.int64)
    if len(trace.operands):
        owner, buffer = owners(trace), trace.operands[:, Operand.BUFFER]
        np.minimum.at(first, buffer, owner)
        np.maximum.at(last, buffer, owner)
    first[last < 0] = -1
    return LiveRanges(first, last)


def peak_usage(trace: Trace) -> tuple[int, int, int]:
    """(SBUF bytes per partition, PSUM bytes per partition, instruction index of the SBUF peak), each at its
    peak.

    Counts each tile from its first to its last access, cores apart (the fullest core counts). The index is
    -1 when no tile lives in SBUF.
    """
    ranges = live_ranges(trace)
    peaks = {"sbuf": (0, -1), "psum": (0, -1)}
    for space in peaks:
        for core in range(max(trace.cores, 1)):
            columns = tiles_of(trace.buffers)
            ids = np.flatnonzero(getattr(columns, space) & (columns.core == core) & (ranges.last >= 0))
            if not len(ids):
                continue
            sizes = columns.size[ids]
            level = np.zeros(len(trace) + 1, np.int64)
            np.add.at(level, ranges.first[ids], sizes)
            np.add.at(level, ranges.last[ids] + 1, -sizes)
            level = np.cumsum(level)
            index = int(np.argmax(level))
            if level[index] > peaks[space][0]:
                peaks[space] = (int(level[index]), index)
    return peaks["sbuf"][0], peaks["psum"][0], peaks["sbuf"][1]


class _Ring:
    """One core's SBUF per partition: a ring of segments, each remembering the last tile that held it.

    Attributes:
        starts: first byte of each segment, and the capacity as a sentinel.
        holders: last tile of each segment, or -1.
        until: last access of that tile, or -1; the sentinel is never in use.
        next: where the search for space begins.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.starts = [0, size]
        self.holders = [-1, -1]
        self.until = [-1, -1]
        self.next = 0

    def place(self, tile: int, size: int, now: int, last: list[int]) -> list[int] | None:
        """Give `tile` the longest-free space of `size` bytes; the tiles that held it, or None if nothing is
        free."""
        starts, until = self.starts, self.until
        room = self.size - size
        for at in (self.next, 0):
            if at > room:
                continue
            k = bisect_right(starts, at) - 1
            while True:
                if until[k] >= now:
                    k += 1
                    while until[k] >= now:
                        k += 1
                    at = starts[k]
                    if at > room:
                        break
                k += 1
                if starts[k] >= at + size:
                    return self.take(tile, at, size, last[tile])
        return None

    def take(self, tile: int, at: int, size: int, until: int) -> list[int]:
        """Let `tile` hold [at, at + size) for its last access at `until`; returns the tiles that held any of it."""
        starts, holders, lives = self.starts, self.holders, self.until
        index = bisect_right(starts, at) - 1
        end = at + size
        stop = index + 1
        while starts[stop] < end:
            stop += 1
        before = [h for h in holders[index:stop] if h >= 0]
        new_starts, new_holders, new_lives = [at], [tile], [until]
        if starts[index] < at:
            new_starts.insert(0, starts[index])
            new_holders.insert(0, holders[index])
            new_lives.insert(0, lives[index])
        if end < starts[stop]:
            new_starts.append(end)
            new_holders.append(holders[stop - 1])
            new_lives.append(lives[stop - 1])
        starts[index:stop] = new_starts
        holders[index:stop] = new_holders
        lives[index:stop] = new_lives
        self.next = end
        return before


class _Banks:
    """One core's PSUM: banks that are handed out whole, the longest free first; small tiles share one if
    they must. `until` is the last access of each bank's tiles, -1 for an empty bank."""

    def __init__(self, banks: int, bank_bytes: int) -> None:
        self.bank_bytes = bank_bytes
        self.holders: list[list[tuple[int, int]]] = [[] for _ in range(banks)]
        self.until = [-1] * banks

    def place(self, tile: int, size: int, now: int, last: list[int], bank: int | None = None) -> list[int] | None:
        """Give `tile` its banks; the tiles that held them before, or None if none is free."""
        need = -(-size // self.bank_bytes)
        until = self.until
        banks = len(until)
        if bank is not None:
            return self._take(tile, size, range(bank, min(bank + max(need, 1), banks)), last[tile])
        best, age = -1, now
        if need == 1:
            oldest = min(until)
            if oldest < now:
                best = until.index(oldest)
        else:
            for start in range(banks - need + 1):
                newest = max(until[start : start + need])
                if newest < age:
                    best, age = start, newest
        if best >= 0:
            return self._take(tile, size, range(best, best + need), last[tile])
        if need == 1:
            for index, held in enumerate(self.holders):
                used = sum(s for h, s in held if last[h] >= now)
                if used + size <= self.bank_bytes:
                    gone = [h for h, _ in held if last[h] < now]
                    self.holders[index] = [(h, s) for h, s in held if last[h] >= now] + [(tile, size)]
                    until[index] = max(last[h] for h, _ in self.holders[index])
                    return gone
        return None

    def _take(self, tile: int, size: int, banks: range, until: int) -> list[int]:
        before = [h for b in banks for h, _ in self.holders[b]]
        for b in banks:
            self.holders[b] = [(tile, min(size, self.bank_bytes))]
            self.until[b] = until
        return list(dict.fromkeys(before)) if len(before) > 1 else before


def displaced(trace: Trace, machine: Machine, ranges: LiveRanges | None = None) -> tuple[Ints, Ints]:
    """Pairs (new tile, older tile whose space it takes), as two arrays of buffer ids.

    A tile for which nothing is free is placed nowhere and waits for nobody: that a kernel exceeds the
    capacity is the functional core's diagnostic.
    """
    ranges = ranges or live_ranges(trace)
    columns = tiles_of(trace.buffers)
    spaces = np.where(columns.sbuf, 0, np.where(columns.psum, 1, -1))
    chip = np.flatnonzero((spaces >= 0) & (ranges.last >= 0))
    core, address = columns.core, columns.address
    size = np.maximum(columns.size, 1)
    parts = [(np.empty(0, np.int64), np.empty(0, np.int64))]
    place = compiled.place if compiled.wanted_tiles(len(chip)) else _place
    for each in range(int(core.max(initial=0)) + 1):
        tiles = chip[core[chip] == each]
        tiles = tiles[np.argsort(ranges.first[tiles], kind="stable")]
        parts.append(
            place(
                tiles, spaces, size, address, ranges.first, ranges.last, machine.sbuf_partition_bytes,
                machine.psum_banks, machine.psum_bank_bytes,
            )
        )  # fmt: skip
    return np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts])


def _place(
    tiles: Ints, spaces: Ints, size: Ints, address: Ints, first: Ints, last: Ints, capacity: int, banks: int,
    bank_bytes: int,
) -> tuple[Ints, Ints]:  # fmt: skip
    """Place the tiles of one core in order; pairs (new tile, older tile whose space it takes)."""
    ends = last.tolist()
    ring, psum = _Ring(capacity), _Banks(banks, bank_bytes)
    new: list[int] = []
    old: list[int] = []
    columns = (tiles, spaces[tiles], size[tiles], address[tiles], first[tiles])
    for tile, space, need, at, now in zip(*(c.tolist() for c in columns)):
        if space == 0:
            if at < 0:
                before = ring.place(tile, need, now, ends)
            else:
                before = ring.take(tile, at, need, ends[tile]) if at + need <= capacity else None
        else:
            before = psum.place(tile, need, now, ends, None if at < 0 else at // bank_bytes)
        for other in before or ():
            if ends[other] < now:
                new.append(tile)
                old.append(other)
    return np.array(new, np.int64), np.array(old, np.int64)
