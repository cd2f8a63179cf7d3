"""The scheduler: plays the instruction streams against each other in time order.

Every lane (an engine, or a DMA queue that the model picked) issues its instructions in program order, or,
under a compiler model with a window, the first ready one among the next few. An instruction is ready when
everything it depends on has finished. DMA data moves on DMA engines that all queues share, first come, first
served.

All order is the compiler's, made before the program runs and for the machine as published. On a machine that differs
from that in some number (a what-if) the program runs in that same order, as a device would run it: so a slower part never
makes a program faster, which choosing afresh among what happens to be ready would (Graham's scheduling anomalies).
"""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
from numpy.typing import NDArray

from tools.sim.instruction import Engine, Inst, Operand, Trace
from tools.sim.machine import Machine
from tools.sim.machine import machine as published

from . import compiled
from .barriers import barriers
from .costs import Costs, costs
from .dependence import Edge, Edges, dependencies
from .events import Streams, Times, play
from .handover import handed_over
from .optimising import optimised
from .options import CompilerModel, TimingOptions
from .spilling import spilled
from .tiles import forget
from .timeline import Spills, Timeline

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
    try:
        return _schedule(trace, machine, options, options.compiler(trace.dialect))
    finally:
        forget()


def _schedule(trace: Trace, machine: Machine, options: TimingOptions, model: CompilerModel) -> Timeline:
    known = published(machine.name)
    trace, dropped = optimised(trace, known, model)
    trace, own = spilled(trace, known) if model.spill else (trace, np.arange(len(trace)))
    if len(own) < len(trace):
        gone, dropped = dropped, np.zeros(len(trace), np.bool_)
        dropped[own] = gone
    cost = costs(trace, known, dropped)
    edges = dependencies(trace, known, cost, space=options.space)
    if model.whole_tensors:
        edges = edges.joined(handed_over(trace))
    lane, lanes = lanes_of(trace, known, cost)
    rank = _needed(cost, edges, lane % lanes >= ENGINES) if model.place_loads else np.arange(len(trace))
    held = barriers(trace, known, cost, edges) if model.trip_barriers else None
    if held is not None:
        rank[held.moved] = held.rank
        edges = edges.joined(held.edges)
    actual = cost if machine == known else costs(trace, machine, dropped)
    if len(own) == len(trace):
        trace = replace(trace, operands=np.empty((0, len(Operand)), np.int64))  # room for the edges by instruction
    streams = prepare(trace, known, options, model, cost, edges, lane, lanes, rank)
    if machine != known:
        plan = run(streams)
        cost = actual
        edges = edges.joined(turns_at_ports(plan.start, lane // lanes, cost.ports))
        streams = prepare(trace, machine, options, model, cost, edges, lane, lanes, rank, plan)
    del edges  # a quarter of the memory that the loop would hold
    times = run(streams)
    found = Timeline(
        times.start, times.issue, times.end, times.data_start, times.data_end, times.wait, times.who, times.idle,
        lane, lanes, cost, dropped, float(times.end.max()) if len(trace) else 0.0, model.name,
    )  # fmt: skip
    return found if len(own) == len(trace) else _of_the_kernel(found, trace, own)


def _of_the_kernel(timeline: Timeline, trace: Trace, own: Ints) -> Timeline:
    """`timeline` over the kernel's own instructions, which stand at `own` in the spilled `trace`; the rest is summed up."""
    index = np.full(len(trace) + 1, -1)
    index[own] = np.arange(len(own))
    rows = {
        f.name: getattr(timeline, f.name)[own]
        for f in fields(timeline)
        if isinstance(getattr(timeline, f.name), np.ndarray)
    }
    moved = np.flatnonzero(index[:-1] < 0)
    saves = trace.operands[trace.instructions[moved, Inst.FIRST_OPERAND], Operand.FLAGS] == 2
    sizes, cost = trace.column(Inst.BYTES)[moved], timeline.costs
    engines = (cost.last_engine - cost.first_engine)[moved]
    return replace(
        timeline,
        **{**rows, "waited_for": index[rows["waited_for"]]},
        costs=Costs(*(getattr(cost, f.name)[own] for f in fields(cost))),
        spills=Spills(
            save_bytes=int(sizes[saves].sum()),
            reload_bytes=int(sizes[~saves].sum()),
            transfers=len(moved),
            data_start_ns=timeline.data_start_ns[moved],
            data_end_ns=timeline.data_end_ns[moved],
            engine_ns=float((cost.work_ns[moved] * engines).sum()),
            moved_bytes=sizes,
            saves=saves,
            core=trace.column(Inst.CORE)[moved],
        ),
    )


def run(streams: Streams) -> Times:
    """Times of every instruction of `streams`.

    Raises:
        ValueError: instructions wait for each other in a circle.
    """
    times = compiled.play(streams) if compiled.wanted(len(streams.lane)) else play(streams)
    if np.isnan(times.start).any():
        stuck = int(np.flatnonzero(np.isnan(times.start))[0])
        raise ValueError(f"instruction {stuck} of the trace never becomes ready: its waits form a cycle")
    return times


def turns_at_ports(start: Floats, core: Ints, ports: Ints) -> Edges:
    """Waits that keep the engines which share a port in the order in which they took it at the times `start`."""
    before, after = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for bit in (1, 2):
        users = np.flatnonzero(ports & bit)
        users = users[np.lexsort((users, start[users], core[users]))]
        follows = core[users[1:]] == core[users[:-1]]
        before.append(users[:-1][follows])
        after.append(users[1:][follows])
    waits = np.concatenate(before)
    return Edges(waits, np.concatenate(after), np.full(len(waits), int(Edge.ORDER)))


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
    """Order in which the compiler issues: program order, but each DMA that it places just before who waits for it.

    (order, index) grows along every edge, so lanes that follow it can't block each other.
    """
    n = len(cost.is_dma)
    first = np.full(n, n)
    np.minimum.at(first, edges.before, edges.after)
    rank = np.arange(n)
    moved = placed & cost.is_dma & (first < n)
    rank[moved] = first[moved]
    return rank


def prepare(
    trace: Trace,
    machine: Machine,
    options: TimingOptions,
    model: CompilerModel,
    cost: Costs,
    edges: Edges,
    lane: Ints,
    lanes: int,
    rank: Ints,
    plan: Times | None = None,
) -> Streams:
    """Everything that the event loop needs, as flat arrays; lanes take their instructions in the order of (rank, index).

    With a `plan`, lanes issue and DMA engines serve in exactly the order in which they do there.
    """
    n = len(trace)
    cores = max(int(trace.cores), 1 + (int(trace.column(Inst.CORE).max()) if n else 0))
    # Successors in compressed form, with the signalling delay of each edge worked out beforehand.
    order = np.argsort(edges.before, kind="stable")
    before, after, kinds = edges.before[order], edges.after[order], edges.kind[order]
    pointer = np.zeros(n + 1, np.int64)
    np.cumsum(np.bincount(before, minlength=n), out=pointer[1:])
    same_lane = lane[before] == lane[after]
    delay = np.where(same_lane, machine.same_engine_gap_ns, machine.semaphore_ns)
    delay[cost.is_dma[before]] = 0.0
    delay[kinds == Edge.ORDER] = 0.0
    release = (kinds == Edge.RELEASE) | (kinds == Edge.SPACE_RELEASE)
    delay[same_lane & release] = 0.0
    sequence = np.lexsort((np.arange(n), rank, lane) if plan is None else (np.arange(n), rank, plan.start, lane))
    position = np.empty(n, np.int64)
    position[sequence] = np.arange(n)
    counts = np.bincount(lane, minlength=lanes * cores)
    window = np.where(np.arange(lanes * cores) % lanes < ENGINES, model.window, model.queue_window)
    turns = np.empty(0, np.int64)
    if plan is not None:
        window[:] = 1
        turns = np.flatnonzero(cost.is_dma)
        turns = turns[np.lexsort((-turns, plan.data_start[turns]))]
    quantum = machine.throttle_window_ns if options.throttle else 0.0
    rows = np.minimum(trace.column(Inst.PARTITIONS), machine.partitions)
    return Streams(
        lane=lane,
        sequence=sequence,
        position=position,
        offsets=np.concatenate([[0], np.cumsum(counts)]),
        windows=window,
        pointer=pointer,
        successor=after,
        kind=kinds,
        delay=delay,
        missing=np.bincount(after, minlength=n),
        issue=cost.issue_ns,
        latency=cost.latency_ns,
        release=cost.release_ns,
        activity=cost.issue_ns * rows / machine.partitions,
        is_dma=cost.is_dma,
        work=cost.work_ns,
        first_engine=cost.first_engine,
        last_engine=cost.last_engine,
        turns=turns,
        hbm=cost.hbm_bytes / machine.hbm_stack_gbps,
        ports=cost.ports,
        lanes=lanes,
        cores=cores,
        dma_engines=machine.dma_engines,
        cores_per_stack=max(machine.cores_per_hbm_stack, 1),
        dma_start=machine.dma_start_ns,
        dma_done=machine.dma_completion_ns,
        load=machine.tensor_load_ns,
        quantum=quantum,
        slow=1.0 / machine.throttle_factor if quantum else 1.0,
        share=machine.throttle_share * quantum,
    )
