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

WORTHWHILE = 200_000
"""Instructions above which compiling pays."""


@cache
def available() -> bool:
    """Whether numba is installed."""
    return find_spec("numba") is not None


def wanted(count: int) -> bool:
    """Whether a trace of `count` instructions should use this loop."""
    return count >= WORTHWHILE and available()


def play(streams: Streams) -> Times:
    """Times of every instruction of `streams`; needs numba."""
    n = len(streams.lane)
    floats = [np.zeros(n) for _ in range(6)]
    ints = [np.zeros(n, np.int64), np.full(n, -1, np.int64)]
    _compiled()(
        streams.lane, streams.sequence, streams.position, streams.offsets, streams.windows, streams.pointer,
        streams.successor, streams.kind, streams.delay, streams.missing.copy(), streams.issue, streams.latency,
        streams.release, streams.activity, streams.is_dma, streams.work, streams.first_engine,
        streams.last_engine, streams.hbm, streams.ports, streams.lanes, streams.cores, streams.dma_engines,
        streams.cores_per_stack, streams.dma_start, streams.dma_done, streams.load, streams.quantum,
        streams.slow, streams.share, int(Engine.TENSOR), np.array([int(w) for w in WAIT_OF_EDGE]), *floats, *ints,
    )  # fmt: skip
    start, issue, end, data_start, data_end, idle = floats
    return Times(start, issue, end, data_start, data_end, ints[0], ints[1], idle)


@cache
def _compiled() -> Any:
    numba: Any = import_module("numba")
    return numba.njit(cache=True)(_loop)


def _loop(
    lane: Any, sequence: Any, position: Any, offsets: Any, windows: Any, pointer: Any, successor: Any, kinds: Any,
    delay: Any, missing: Any, issue: Any, latency: Any, release: Any, activity: Any, is_dma: Any, work: Any,
    first_engine: Any, last_engine: Any, hbm: Any, ports: Any, lanes: int, cores: int, dma_engines: int, stacks: int,
    dma_start: float, dma_done: float, load: float, quantum: float, slow: float, share: float, tensor: int,
    wait_of_edge: Any, start_at: Any, issue_at: Any, end_at: Any, data_start: Any, data_end: Any, idle: Any,
    wait: Any, who: Any,
) -> None:  # fmt: skip
    n = len(lane)
    total = lanes * cores
    ready = np.zeros(n)
    cause = np.zeros(n, np.int64)
    issued = np.zeros(n, np.bool_)
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
