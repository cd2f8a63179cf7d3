"""The scheduler: plays the instruction streams against each other in time order.

Every lane (an engine, or a DMA queue that the model picked) issues its instructions in program order, or,
under a compiler model with a window, the first ready one among the next few. An instruction is ready when
everything it depends on has finished. DMA data moves on DMA engines that all queues share, first come, first
served.
"""

from __future__ import annotations

from heapq import heappop, heappush

import numpy as np
from numpy.typing import NDArray

from tools.sim.instruction import Engine, Inst, Trace
from tools.sim.machine import Machine

from .costs import Costs, costs
from .dependence import Edge, Edges, dependencies
from .options import CompilerModel, TimingOptions
from .renaming import renamed
from .timeline import Timeline, Wait

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

ENGINES = 5
"""Engine lanes of a core; DMA queues follow."""


def schedule(trace: Trace, machine: Machine, options: TimingOptions | None = None) -> Timeline:
    """Times of every instruction of `trace` on `machine`.

    Raises:
        UnsupportedError: an instruction has no known cost.
    """
    options = options or TimingOptions()
    model = options.compiler(trace.dialect)
    if model.rename:
        trace = renamed(trace)
    cost = costs(trace, machine)
    edges = dependencies(trace, machine, cost, space=options.space)
    lane, lanes = lanes_of(trace, machine, cost)
    return _play(trace, machine, options, model, cost, edges, lane, lanes)


def lanes_of(trace: Trace, machine: Machine, cost: Costs) -> tuple[Ints, int]:
    """Issuing lane of every instruction, and the lanes of one core.

    A DMA that names an engine is triggered from that engine's stream. The others are spread by the compiler:
    loads go round the load queues, stores round the store queues, so that a store that waits holds no load
    up.
    """
    queues = machine.dma_queues
    lanes = ENGINES + queues
    lane = cost.engine.copy()
    free = np.flatnonzero(cost.is_dma & (cost.engine == Engine.UNKNOWN))
    if len(free):
        lane[free] = ENGINES + np.arange(len(free)) % queues
    return lane + trace.column(Inst.CORE) * lanes, lanes


def _needed(cost: Costs, edges: Edges, placed: NDArray[np.bool_]) -> Ints:
    """Order in which the compiler issues: program order, but each DMA that it places just before its first reader."""
    n = len(cost.is_dma)
    first = np.full(n, n)
    read = edges.kind == Edge.RESULT
    np.minimum.at(first, edges.before[read], edges.after[read])
    rank = np.arange(n)
    moved = placed & cost.is_dma & (first < n)
    rank[moved] = first[moved]
    return rank


_WAIT_OF_EDGE = (Wait.RESULT, Wait.RELEASE, Wait.ORDER, Wait.SPACE, Wait.SPACE)


def _play(
    trace: Trace,
    machine: Machine,
    options: TimingOptions,
    model: CompilerModel,
    cost: Costs,
    edges: Edges,
    lane_of: Ints,
    lanes: int,
) -> Timeline:
    n = len(trace)
    window = model.window
    total_lanes = lanes * max(int(trace.cores), 1 + (int(trace.column(Inst.CORE).max()) if n else 0))
    # Successors in compressed form, with the signalling delay of each edge worked out beforehand.
    order = np.argsort(edges.before, kind="stable")
    before, after, kinds = edges.before[order], edges.after[order], edges.kind[order]
    pointer = np.zeros(n + 1, np.int64)
    np.cumsum(np.bincount(before, minlength=n), out=pointer[1:])
    same_lane = lane_of[before] == lane_of[after]
    delay = np.where(same_lane, machine.same_engine_gap_ns, machine.semaphore_ns)
    delay[cost.is_dma[before]] = 0.0
    delay[kinds == Edge.ORDER] = 0.0
    release = (kinds == Edge.RELEASE) | (kinds == Edge.SPACE_RELEASE)
    delay[same_lane & release] = 0.0
    missing = np.bincount(after, minlength=n).tolist()
    succ, succ_kind, succ_delay = after.tolist(), kinds.tolist(), delay.tolist()
    ptr = pointer.tolist()

    rank = np.arange(n)
    if model.place_loads:
        rank = _needed(cost, edges, lane_of % lanes >= ENGINES)
    by_lane = np.lexsort((np.arange(n), rank, lane_of))
    counts = np.bincount(lane_of, minlength=total_lanes)
    offsets = np.concatenate([[0], np.cumsum(counts)]).tolist()
    sequence = by_lane.tolist()
    place = np.empty(n, np.int64)
    place[by_lane] = np.arange(n)
    position = place.tolist()
    base = offsets[:-1].copy()
    windows = [window if owner % lanes < ENGINES else model.queue_window for owner in range(total_lanes)]
    horizon = [min(b + w, e) for b, e, w in zip(base, offsets[1:], windows)]

    lane = lane_of.tolist()
    issue, latency, releases = cost.issue_ns.tolist(), cost.latency_ns.tolist(), cost.release_ns.tolist()
    is_dma = cost.is_dma.tolist()
    work, first_engine, last_engine = (
        cost.work_ns.tolist(),
        cost.first_engine.tolist(),
        cost.last_engine.tolist(),
    )
    hbm_ns = (cost.hbm_bytes / machine.hbm_stack_gbps).tolist()
    ports = cost.ports.tolist()

    ready, who, cause = [0.0] * n, [-1] * n, [0] * n
    start_at, issue_at, end_at = [0.0] * n, [0.0] * n, [0.0] * n
    data_start, data_end = [0.0] * n, [0.0] * n
    wait, idle = [0] * n, [0.0] * n
    issued = bytearray(n)
    free = [0.0] * total_lanes
    pending: list[list[tuple[float, int]]] = [[] for _ in range(total_lanes)]
    avail: list[list[int]] = [[] for _ in range(total_lanes)]
    infinity = float("inf")
    wake = [infinity] * total_lanes
    events: list[tuple[float, int]] = []
    port_free = [0.0] * (4 * max(total_lanes // lanes, 1))
    dma_free = [[0.0] * machine.dma_engines for _ in range(max(total_lanes // lanes, 1))]
    stacks = max(machine.cores_per_hbm_stack, 1)
    hbm_free = [0.0] * (max(total_lanes // lanes, 1) // stacks + 1)
    dma_start, dma_done = machine.dma_start_ns, machine.dma_completion_ns
    load_ns, quantum = machine.tensor_load_ns, machine.throttle_window_ns if options.throttle else 0.0
    slow = 1.0 / machine.throttle_factor if quantum else 1.0
    share = machine.throttle_share * quantum
    cores = max(total_lanes // lanes, 1)
    quantum_no, quantum_busy, stretch = [-1] * cores, [0.0] * cores, [slow] * cores
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
            # Data of a DMA arrives at its engines.
            i = ~owner
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
            reason = 2 if kind == 0 and is_dma[who[i]] else _WAIT_OF_EDGE[kind]
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
                        full = number == quantum_no[core] + 1 and quantum_busy[core] >= share
                        stretch[core] = 1.0 if full else slow
                        quantum_no[core], quantum_busy[core] = number, 0.0
                    extra = taken * (stretch[core] - 1.0)
                    taken, result, released = taken + extra, result + extra, released + extra
                    quantum_busy[core] += taken
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

    return Timeline(
        np.array(start_at), np.array(issue_at), np.array(end_at), np.array(data_start), np.array(data_end),
        np.array(wait, np.int64), np.array(who, np.int64), np.array(idle), lane_of, lanes, cost,
        max(end_at, default=0.0), model.name,
    )  # fmt: skip
