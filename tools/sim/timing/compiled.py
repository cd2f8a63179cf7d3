"""The event loop compiled with numba, for traces of many instructions (install the extra `fast`).

Same rules and same results as `events.play`; a lane scans its window instead of keeping heaps. Without numba
the plain loop is used.
"""

from __future__ import annotations

from functools import cache
from heapq import heappop, heappush
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np

from tools.sim.instruction import Engine

from .events import WAIT_OF_EDGE, Streams, Times

WORTHWHILE = 400_000
"""Instructions above which compiling the event loop pays."""
WORTHWHILE_TILES = 100_000
"""Tiles above which compiling their placement pays."""
WORTHWHILE_ACCESSES = 1_000_000
"""Accesses above which compiling the search for waits pays."""


@cache
def available() -> bool:
    """Whether numba is installed and imports: a host's stand-ins for other packages can break it."""
    if find_spec("numba") is None:
        return False
    try:
        import_module("numba")
    except (ImportError, AttributeError):
        return False
    return True


def wanted(count: int) -> bool:
    """Whether a trace of `count` instructions should use this loop."""
    return count >= WORTHWHILE and available()


def wanted_tiles(count: int) -> bool:
    """Whether placing `count` tiles should be compiled."""
    return count >= WORTHWHILE_TILES and available()


def play(streams: Streams) -> Times:
    """Times of every instruction of `streams`; needs numba."""
    n = len(streams.lane)
    floats = [np.zeros(n) for _ in range(6)]
    floats[0][:] = np.nan
    ints = [np.zeros(n, np.int64), np.full(n, -1, np.int64)]
    _compiled()(
        streams.lane, streams.sequence, streams.position, streams.offsets, streams.windows, streams.pointer,
        streams.successor.astype(np.int32, copy=False), streams.kind.astype(np.int8, copy=False), streams.delay, streams.missing.copy(), streams.issue, streams.latency,
        streams.release, streams.activity, streams.is_dma, streams.work, streams.first_engine,
        streams.last_engine, streams.turns, streams.hbm, streams.ports, streams.lanes, streams.cores, streams.dma_engines,
        streams.cores_per_stack, streams.dma_start, streams.dma_done, streams.load, streams.quantum,
        streams.slow, streams.share, int(Engine.TENSOR), np.array([int(w) for w in WAIT_OF_EDGE]), *floats, *ints,
    )  # fmt: skip
    start, issue, end, data_start, data_end, idle = floats
    return Times(start, issue, end, data_start, data_end, ints[0], ints[1], idle)


def compile_function(function: Any) -> Any:
    """`function` compiled by numba; kept on disk for the next process where there is a place to write."""
    numba: Any = import_module("numba")
    try:
        return numba.njit(cache=True)(function)
    except RuntimeError:
        # A read-only installation without a writable home: numba finds no folder for its cache.
        return numba.njit(function)


@cache
def _compiled() -> Any:
    return compile_function(_loop)


def _loop(
    lane: Any, sequence: Any, position: Any, offsets: Any, windows: Any, pointer: Any, successor: Any, kinds: Any,
    delay: Any, missing: Any, issue: Any, latency: Any, release: Any, activity: Any, is_dma: Any, work: Any,
    first_engine: Any, last_engine: Any, turns: Any, hbm: Any, ports: Any, lanes: int, cores: int, dma_engines: int, stacks: int,
    dma_start: float, dma_done: float, load: float, quantum: float, slow: float, share: float, tensor: int,
    wait_of_edge: Any, start_at: Any, issue_at: Any, end_at: Any, data_start: Any, data_end: Any, idle: Any,
    wait: Any, who: Any,
) -> None:  # fmt: skip
    n = len(lane)
    total = lanes * cores
    ready = np.zeros(n)
    cause = np.zeros(n, np.int64)
    issued = np.zeros(n, np.bool_)
    served, arrived = 0, np.zeros(n if len(turns) else 0, np.bool_)
    free = np.zeros(total)
    wake = np.full(total, np.inf)
    base = offsets[:-1].copy()
    horizon = np.minimum(base + windows, offsets[1:])
    port_free = np.zeros(4 * cores)
    dma_free = np.zeros((cores, dma_engines))
    hbm_free = np.zeros(cores // stacks + 1)
    quantum_no = np.full(cores, -1)
    quantum_busy, spill = np.zeros(cores), np.zeros(cores)
    stretch = np.full(cores, slow)
    events = [(0.0, 0)]
    heappop(events)
    for owner in range(total):
        for p in range(base[owner], horizon[owner]):
            if missing[sequence[p]] == 0 and wake[owner] > 0.0:
                wake[owner] = 0.0
                heappush(events, (0.0, owner))
    while len(events) > 0:
        now, owner = heappop(events)
        if owner < 0:
            i = -1 - owner
            if len(turns):
                arrived[i] = True
                if turns[served] != i:
                    continue
                served += 1
                if served < len(turns) and arrived[turns[served]]:
                    heappush(events, (now, -1 - turns[served]))
            core = lane[i] // lanes
            last = now
            for k in range(first_engine[i], last_engine[i]):
                begin = max(dma_free[core, k], now) + work[i]
                dma_free[core, k] = begin
                last = max(last, begin)
            begin = max(hbm_free[core // stacks], now) + hbm[i]
            hbm_free[core // stacks] = begin
            last = max(last, begin)
            data_start[i], data_end[i], end_at[i] = now, last, last + dma_done
            end, released, issued_at = last + dma_done, last, issue_at[i]
        else:
            if now != wake[owner]:
                continue
            wake[owner] = np.inf
            i = -1
            for p in range(base[owner], horizon[owner]):
                s = sequence[p]
                if not issued[s] and missing[s] == 0 and ready[s] <= now:
                    i = s
                    break
            issued[i] = True
            begin, reason = now, 0
            if ports[i] != 0:
                core4 = owner // lanes * 4
                for bit in (1, 2):
                    if ports[i] & bit and port_free[core4 + bit] > begin:
                        begin, reason = port_free[core4 + bit], 5
                for bit in (1, 2):
                    if ports[i] & bit:
                        port_free[core4 + bit] = begin + issue[i]
            gap = begin - free[owner]
            if gap > 1e-9 and reason == 0 and who[i] >= 0:
                reason = 2 if cause[i] == 0 and is_dma[who[i]] else wait_of_edge[cause[i]]
            wait[i] = reason
            idle[i] = max(gap, 0.0)
            start_at[i] = begin
            end, released, issued_at = 0.0, 0.0, 0.0
            if is_dma[i]:
                done = begin + issue[i]
                issue_at[i] = done
                free[owner] = done
                heappush(events, (done + dma_start, -1 - i))
            else:
                taken, result, freed = issue[i], latency[i], release[i]
                if owner % lanes == tensor:
                    core = owner // lanes
                    if quantum > 0:
                        number = int(begin // quantum)
                        if number != quantum_no[core]:
                            follows = number == quantum_no[core] + 1
                            stretch[core] = 1.0 if follows and quantum_busy[core] >= share else slow
                            quantum_no[core] = number
                            quantum_busy[core] = spill[core] if follows else 0.0
                            spill[core] = 0.0
                        extra = taken * (stretch[core] - 1.0)
                        taken, result, freed = taken + extra, result + extra, freed + extra
                        beyond = begin + taken - (number + 1) * quantum
                        late = activity[i] * beyond / taken if beyond > 0 else 0.0
                        spill[core] += late
                        quantum_busy[core] += activity[i] - late
                    if gap > 0:
                        exposed = min(load, gap)
                        taken, result, freed = taken + exposed, result + exposed, freed + exposed
                issue_at[i] = begin + taken
                free[owner] = begin + taken
                end_at[i] = begin + result
                data_start[i], data_end[i] = begin, begin + result
                end, released, issued_at = begin + result, begin + freed, begin + taken
        if owner < 0 or not is_dma[i]:
            for e in range(pointer[i], pointer[i + 1]):
                s, kind = successor[e], kinds[e]
                if kind == 0 or kind == 3:
                    time = end + delay[e]
                elif kind == 2:
                    time = issued_at
                else:
                    time = released + delay[e]
                if time > ready[s]:
                    ready[s], who[s], cause[s] = time, i, kind
                missing[s] -= 1
                if missing[s] == 0 and position[s] < horizon[lane[s]]:
                    time = max(ready[s], free[lane[s]])
                    if time < wake[lane[s]]:
                        wake[lane[s]] = time
                        heappush(events, (time, lane[s]))
        if owner < 0:
            continue
        if base[owner] == position[i]:
            at, stop = position[i], offsets[owner + 1]
            while at < stop and issued[sequence[at]]:
                at += 1
            base[owner] = at
            horizon[owner] = min(at + windows[owner], stop)
        earliest = np.inf
        for p in range(base[owner], horizon[owner]):
            s = sequence[p]
            if not issued[s] and missing[s] == 0:
                earliest = min(earliest, ready[s])
                if earliest <= free[owner]:
                    break
        time = max(earliest, free[owner])
        if time < wake[owner]:
            wake[owner] = time
            heappush(events, (time, owner))


def place(
    tiles: Any, space: Any, size: Any, address: Any, first: Any, last: Any, capacity: int, banks: int, bank_bytes: int
) -> tuple[Any, Any]:
    """`allocation.place` compiled: pairs (new tile, older tile whose space it takes); needs numba."""
    found = _compiled_place()(tiles, space, size, address, first, last, capacity, banks, bank_bytes)
    return found[0], found[1]


@cache
def _compiled_place() -> Any:
    return compile_function(_place)


def _place(
    tiles: Any, space: Any, size: Any, address: Any, first: Any, last: Any, capacity: int, banks: int, bank_bytes: int
) -> Any:
    n = len(tiles)
    starts, holders = np.zeros(2 * n + 4, np.int64), np.full(2 * n + 4, -1)
    count, ring_next = 1, 0
    width = 128
    bank_tile, bank_size = np.full((banks, width), -1), np.zeros((banks, width), np.int64)
    bank_count = np.zeros(banks, np.int64)
    room = 4 * n + 16
    new, old = np.empty(room, np.int64), np.empty(room, np.int64)
    pairs = 0
    before = np.empty(2 * n + 4, np.int64)
    for t in tiles:
        now, need, at = first[t], size[t], address[t]
        taken = 0
        if space[t] == 0:
            place_at = -1
            if at >= 0:
                place_at = at if at + need <= capacity else -1
            elif need <= capacity:
                spot, wrapped, travelled = ring_next, False, 0
                while travelled <= 2 * capacity:
                    if spot + need > capacity:
                        if wrapped:
                            break
                        travelled += capacity - spot
                        spot, wrapped = 0, True
                    k = int(np.searchsorted(starts[:count], spot, side="right")) - 1
                    blocked = -1
                    while k < count and starts[k] < spot + need:
                        if holders[k] >= 0 and last[holders[k]] >= now:
                            blocked = k
                        k += 1
                    if blocked < 0:
                        place_at = spot
                        break
                    after = starts[blocked + 1] if blocked + 1 < count else capacity
                    travelled += after - spot
                    spot = after
            if place_at >= 0:
                index = int(np.searchsorted(starts[:count], place_at, side="right")) - 1
                stop = index
                while stop < count and starts[stop] < place_at + need:
                    if holders[stop] >= 0:
                        before[taken] = holders[stop]
                        taken += 1
                    stop += 1
                end = starts[stop] if stop < count else capacity
                head, head_holder = starts[index] < place_at, holders[index]
                tail, tail_holder = place_at + need < end, holders[stop - 1]
                head_start = starts[index]
                fresh = 1 + int(head) + int(tail)
                shift = fresh - (stop - index)
                if shift > 0:
                    for k in range(count - 1, stop - 1, -1):
                        starts[k + shift], holders[k + shift] = starts[k], holders[k]
                elif shift < 0:
                    for k in range(stop, count):
                        starts[k + shift], holders[k + shift] = starts[k], holders[k]
                count += shift
                k = index
                if head:
                    starts[k], holders[k] = head_start, head_holder
                    k += 1
                starts[k], holders[k] = place_at, t
                if tail:
                    starts[k + 1], holders[k + 1] = place_at + need, tail_holder
                ring_next = place_at + need
        else:
            wanted_banks = max(-(-need // bank_bytes), 1)
            best = -1
            if at >= 0:
                best = at // bank_bytes
                wanted_banks = min(wanted_banks, banks - best)
            else:
                age = 1 << 62
                for b in range(banks - wanted_banks + 1):
                    newest, live = -1, False
                    for c in range(b, b + wanted_banks):
                        for k in range(bank_count[c]):
                            if last[bank_tile[c, k]] >= now:
                                live = True
                            newest = max(newest, last[bank_tile[c, k]])
                    if not live and newest < age:
                        best, age = b, newest
            if best >= 0:
                for c in range(best, best + wanted_banks):
                    for k in range(bank_count[c]):
                        seen = False
                        for j in range(taken):
                            seen = seen or before[j] == bank_tile[c, k]
                        if not seen:
                            before[taken] = bank_tile[c, k]
                            taken += 1
                    bank_count[c] = 1
                    bank_tile[c, 0], bank_size[c, 0] = t, min(need, bank_bytes)
            elif wanted_banks == 1 and at < 0:
                for c in range(banks):
                    used, kept = 0, 0
                    for k in range(bank_count[c]):
                        if last[bank_tile[c, k]] >= now:
                            used += bank_size[c, k]
                            kept += 1
                    if used + need <= bank_bytes and kept < width:
                        kept = 0
                        for k in range(bank_count[c]):
                            if last[bank_tile[c, k]] >= now:
                                bank_tile[c, kept], bank_size[c, kept] = bank_tile[c, k], bank_size[c, k]
                                kept += 1
                            else:
                                before[taken] = bank_tile[c, k]
                                taken += 1
                        bank_tile[c, kept], bank_size[c, kept] = t, need
                        bank_count[c] = kept + 1
                        break
        for k in range(taken):
            if last[before[k]] < now:
                if pairs == room:
                    room *= 2
                    grown_new, grown_old = np.empty(room, np.int64), np.empty(room, np.int64)
                    grown_new[:pairs], grown_old[:pairs] = new, old
                    new, old = grown_new, grown_old
                new[pairs], old[pairs] = t, before[k]
                pairs += 1
    return new[:pairs], old[:pairs]


def wanted_accesses(count: int) -> bool:
    """Whether searching `count` cell accesses for waits should be compiled."""
    return count >= WORTHWHILE_ACCESSES and available()


def waits(
    owner: Any, cell: Any, writes: Any, reads: Any, cells: int, engine: Any, is_dma: Any
) -> tuple[Any, Any, Any, Any]:
    """`dependence.waits` compiled: (before, after, kind, whether each access is its cell's first write)."""
    found = _compiled_waits()(owner, cell, writes, reads, cells, engine, is_dma, int(Engine.TENSOR))
    return found[0], found[1], found[2], found[3]


@cache
def _compiled_waits() -> Any:
    return compile_function(_waits)


def _waits(owner: Any, cell: Any, writes: Any, reads: Any, cells: int, engine: Any, is_dma: Any, tensor: int) -> Any:
    n = len(owner)
    written = np.full(cells, -1, np.int32)
    readers = np.full(cells, -1, np.int32)
    chain = np.empty(n, np.int32)
    # A read waits for one write and is waited for by one; a write waits for one more.
    room = 2 * n + 16
    before, after = np.empty(room, np.int32), np.empty(room, np.int32)
    kind = np.empty(room, np.int8)
    first = np.zeros(n, np.bool_)
    count = 0
    begin = 0
    while begin < n:
        end = begin
        while end < n and owner[end] == owner[begin]:
            end += 1
        i = owner[begin]
        for k in range(begin, end):
            if not writes[k]:
                c = cell[k]
                w = written[c]
                if w >= 0:
                    before[count], after[count], kind[count] = w, i, 0
                    count += 1
                chain[k] = readers[c]
                readers[c] = k
        for k in range(begin, end):
            if writes[k]:
                c = cell[k]
                w = written[c]
                if w == i:
                    continue
                if w >= 0:
                    same = engine[w] == engine[i] and not is_dma[w] and not is_dma[i]
                    order = same and (engine[i] == tensor or not reads[k])
                    before[count], after[count], kind[count] = w, i, 2 if order else 0
                    count += 1
                else:
                    first[k] = True
                r = readers[c]
                while r >= 0:
                    if owner[r] != i:
                        before[count], after[count], kind[count] = owner[r], i, 1
                        count += 1
                    r = chain[r]
                readers[c] = -1
                written[c] = i
        begin = end
    return before[:count], after[:count], kind[:count], first
