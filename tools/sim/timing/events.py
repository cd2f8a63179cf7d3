"""The event loop: every lane issues, every result tells those who wait for it, in time order.

`play` is the reference in plain Python; `compiled.play` does the same with numba for very long traces.
"""

from __future__ import annotations

from dataclasses import dataclass
from heapq import heappop, heappush

import numpy as np
from numpy.typing import NDArray

from tools.sim.instruction import Engine

from .timeline import Wait

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Streams:
    """Instruction streams with their costs and waits, as flat arrays (n instructions, e edges); times in ns.

    Attributes:
        lane: [n] issuing lane.
        sequence: [n] instructions by lane, then in the order in which the lane considers them.
        position: [n] index of each instruction in `sequence`.
        offsets: [lanes * cores + 1] where each lane begins in `sequence`.
        windows: [lanes * cores] instructions that a lane looks ahead.
        pointer: [n + 1] where each instruction's edges begin.
        successor: [e] who waits.
        kind: [e] `Edge` of the wait.
        delay: [e] signalling time.
        missing: [n] unfinished instructions that each one waits for.
        issue, latency, release: [n] see `Costs`.
        activity: [n] Tensor Engine: issue time weighted by the rows in use, for the clock cap.
        is_dma, work, first_engine, last_engine, ports: [n] see `Costs`.
        turns: DMAs in the order in which the DMA engines serve them; empty: first come, first served.
        hbm: [n] time of the transfer at the HBM stack's full rate.
        lanes: lanes of one core.
        cores: cores of the launch.
        dma_engines: DMA engines of one core.
        cores_per_stack: cores that share an HBM stack.
        dma_start: end of the trigger to the first packet.
        dma_done: last packet to a consumer's start.
        load: Tensor Engine weight load when nothing hides it.
        quantum: window of the clock cap, 0 without one.
        slow: factor on Tensor Engine times while capped.
        share: activity in a window that lifts the cap.
    """

    lane: Ints
    sequence: Ints
    position: Ints
    offsets: Ints
    windows: Ints
    pointer: Ints
    successor: Ints
    kind: Ints
    delay: Floats
    missing: Ints
    issue: Floats
    latency: Floats
    release: Floats
    activity: Floats
    is_dma: NDArray[np.bool_]
    work: Floats
    first_engine: Ints
    last_engine: Ints
    turns: Ints
    hbm: Floats
    ports: Ints
    lanes: int
    cores: int
    dma_engines: int
    cores_per_stack: int
    dma_start: float
    dma_done: float
    load: float
    quantum: float
    slow: float
    share: float


@dataclass(frozen=True, slots=True)
class Times:
    """What the event loop found, arrays [n] as in `Timeline`; `start` is NaN where an instruction never ran."""

    start: Floats
    issue: Floats
    end: Floats
    data_start: Floats
    data_end: Floats
    wait: Ints
    who: Ints
    idle: Floats


WAIT_OF_EDGE = (Wait.RESULT, Wait.RELEASE, Wait.ORDER, Wait.SPACE, Wait.SPACE)
"""Wait reason by `Edge`; a result that a DMA brings counts as `Wait.DMA`."""


def play(streams: Streams) -> Times:
    """Times of every instruction of `streams`."""
    n = len(streams.lane)
    lanes, cores = streams.lanes, streams.cores
    total_lanes = lanes * cores
    lane, sequence, position = streams.lane.tolist(), streams.sequence.tolist(), streams.position.tolist()
    offsets, windows = streams.offsets.tolist(), streams.windows.tolist()
    base = offsets[:-1].copy()
    horizon = [min(b + w, e) for b, e, w in zip(base, offsets[1:], windows)]
    ptr, succ, succ_kind = streams.pointer.tolist(), streams.successor.tolist(), streams.kind.tolist()
    succ_delay, missing = streams.delay.tolist(), streams.missing.tolist()
    issue, latency, releases = streams.issue.tolist(), streams.latency.tolist(), streams.release.tolist()
    activity, is_dma, work = streams.activity.tolist(), streams.is_dma.tolist(), streams.work.tolist()
    first_engine, last_engine = streams.first_engine.tolist(), streams.last_engine.tolist()
    turns, served, arrived = streams.turns.tolist(), 0, bytearray(n if len(streams.turns) else 0)
    hbm_ns, ports = streams.hbm.tolist(), streams.ports.tolist()
    dma_start, dma_done, load_ns = streams.dma_start, streams.dma_done, streams.load
    quantum, slow, share = streams.quantum, streams.slow, streams.share
    stacks = streams.cores_per_stack

    ready, who, cause = [0.0] * n, [-1] * n, [0] * n
    start_at, issue_at, end_at = [float("nan")] * n, [0.0] * n, [0.0] * n
    data_start, data_end = [0.0] * n, [0.0] * n
    wait, idle = [0] * n, [0.0] * n
    issued = bytearray(n)
    free = [0.0] * total_lanes
    pending: list[list[tuple[float, int]]] = [[] for _ in range(total_lanes)]
    avail: list[list[int]] = [[] for _ in range(total_lanes)]
    infinity = float("inf")
    wake = [infinity] * total_lanes
    events: list[tuple[float, int]] = []
    port_free = [0.0] * (4 * cores)
    dma_free = [[0.0] * streams.dma_engines for _ in range(cores)]
    hbm_free = [0.0] * (cores // stacks + 1)
    quantum_no, quantum_busy, stretch = [-1] * cores, [0.0] * cores, [slow] * cores
    spill = [0.0] * cores
    tensor = int(Engine.TENSOR)

    def admit(i: int) -> None:
        """Queue a ready instruction inside its lane's window, and see that the lane wakes up for it."""
        owner = lane[i]
        heappush(pending[owner], (ready[i], i))
        time = ready[i] if ready[i] > free[owner] else free[owner]
        if time < wake[owner]:
            wake[owner] = time
            heappush(events, (time, owner))

    def finish(i: int, end: float, released: float, issued_at: float) -> None:
        """Tell everyone who waits for instruction `i`."""
        for e in range(ptr[i], ptr[i + 1]):
            s, kind = succ[e], succ_kind[e]
            if kind == 0 or kind == 3:
                time = end + succ_delay[e]
            elif kind == 2:
                time = issued_at
            else:
                time = released + succ_delay[e]
            if time > ready[s]:
                ready[s], who[s], cause[s] = time, i, kind
            missing[s] -= 1
            if not missing[s] and position[s] < horizon[lane[s]]:
                admit(s)

    for owner in range(total_lanes):
        for p in range(base[owner], horizon[owner]):
            if not missing[sequence[p]]:
                admit(sequence[p])

    while events:
        now, owner = heappop(events)
        if owner < 0:
            # Data of a DMA arrives at its engines; ahead of its turn it waits there.
            i = ~owner
            if turns:
                arrived[i] = 1
                if turns[served] != i:
                    continue
                served += 1
                if served < len(turns) and arrived[turns[served]]:
                    heappush(events, (now, ~turns[served]))
            core = lane[i] // lanes
            engines, last = dma_free[core], now
            for k in range(first_engine[i], last_engine[i]):
                begin = engines[k] if engines[k] > now else now
                begin += work[i]
                engines[k] = begin
                if begin > last:
                    last = begin
            stack = core // stacks
            begin = (hbm_free[stack] if hbm_free[stack] > now else now) + hbm_ns[i]
            hbm_free[stack] = begin
            if begin > last:
                last = begin
            data_start[i], data_end[i], end_at[i] = now, last, last + dma_done
            finish(i, last + dma_done, last, issue_at[i])
            continue
        if now != wake[owner]:
            continue
        wake[owner] = infinity
        waiting, candidates = pending[owner], avail[owner]
        while waiting and waiting[0][0] <= now:
            heappush(candidates, position[heappop(waiting)[1]])
        i = sequence[heappop(candidates)]
        issued[i] = 1
        begin, reason = now, 0
        if ports[i]:
            core4 = owner // lanes * 4
            for bit in (1, 2):
                if ports[i] & bit and port_free[core4 + bit] > begin:
                    begin, reason = port_free[core4 + bit], 5
            for bit in (1, 2):
                if ports[i] & bit:
                    port_free[core4 + bit] = begin + issue[i]
        gap = begin - free[owner]
        if gap > 1e-9 and not reason and who[i] >= 0:
            kind = cause[i]
            reason = 2 if kind == 0 and is_dma[who[i]] else WAIT_OF_EDGE[kind]
        wait[i], idle[i] = reason, gap if gap > 0 else 0.0
        start_at[i] = begin
        if is_dma[i]:
            done = begin + issue[i]
            issue_at[i] = free[owner] = done
            heappush(events, (done + dma_start, ~i))
        else:
            taken, result, released = issue[i], latency[i], releases[i]
            if owner % lanes == tensor:
                core = owner // lanes
                if quantum:
                    number = int(begin // quantum)
                    if number != quantum_no[core]:
                        follows = number == quantum_no[core] + 1
                        stretch[core] = 1.0 if follows and quantum_busy[core] >= share else slow
                        quantum_no[core] = number
                        quantum_busy[core], spill[core] = spill[core] if follows else 0.0, 0.0
                    extra = taken * (stretch[core] - 1.0)
                    taken, result, released = taken + extra, result + extra, released + extra
                    beyond = begin + taken - (number + 1) * quantum
                    late = activity[i] * beyond / taken if beyond > 0 else 0.0
                    spill[core] += late
                    quantum_busy[core] += activity[i] - late
                if gap > 0:
                    exposed = load_ns if load_ns < gap else gap
                    taken, result, released = taken + exposed, result + exposed, released + exposed
            issue_at[i] = free[owner] = begin + taken
            end_at[i] = begin + result
            data_start[i], data_end[i] = begin, begin + result
            finish(i, begin + result, begin + released, begin + taken)
        if base[owner] == position[i]:
            at, stop = position[i], offsets[owner + 1]
            while at < stop and issued[sequence[at]]:
                at += 1
            base[owner] = at
            reach = min(at + windows[owner], stop)
            for p in range(horizon[owner], reach):
                if not missing[sequence[p]]:
                    # Not yet visible to `finish`: the horizon moves only after this loop.
                    admit(sequence[p])
            horizon[owner] = reach
        if candidates:
            time = free[owner]
        elif waiting:
            time = waiting[0][0] if waiting[0][0] > free[owner] else free[owner]
        else:
            continue
        if time < wake[owner]:
            wake[owner] = time
            heappush(events, (time, owner))

    return Times(
        np.array(start_at), np.array(issue_at), np.array(end_at), np.array(data_start), np.array(data_end),
        np.array(wait, np.int64), np.array(who, np.int64), np.array(idle),
    )  # fmt: skip
