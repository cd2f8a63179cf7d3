"""Why an engine is idle, with proof: every idle nanosecond by cause and line, and what removing a cause would gain."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tools.insight import counterfactual as what_if
from tools.insight.counterfactual import Counterfactual
from tools.insight.critical import PathShare, Turn, path_shares, turns
from tools.insight.observed import READS, WRITES, Observed
from tools.sim.instruction import Engine, Operand, Trace
from tools.sim.machine import Machine
from tools.sim.profiler import ENGINE_NAMES, EngineUse
from tools.sim.timing import TimingOptions, Wait, on_grid

Ints = NDArray[np.int64]

LEAST_GAIN = 0.002
"""Share of the latency below which a gain is within the model's noise and not worth a sentence."""

LEAST_SHARE = 0.01
"""Of an engine's idle time: lesser causes have no place in the short answer."""
MOST_FOLLOWED = 2000
"""Waits whose chains are followed; of more, every so many-th."""

_CAUSES = {
    Wait.RESULT: "the result of {waited}",
    Wait.DMA: "data that {waited} was still moving",
    Wait.RELEASE: "{waited}, which was still reading the tile that it overwrites",
    Wait.SPACE: "the space that {waited} used last",
    Wait.PORT: "a memory port that it shares with another engine",
    Wait.ORDER: "its turn behind {waited}",
}


@dataclass(frozen=True, slots=True)
class IdleCause:
    """One part of an engine's idle time.

    Attributes:
        cause: `result`, `dma`, `release`, `space`, `port`, `order`, `issue` (the time between two instructions), or
            `drained` (nothing left to do until the launch ended).
        us: idle time, microseconds.
        share: of the engine's idle time, 0..1.
        count: gaps.
        where: `file:line` of the instructions that started late.
        source: their source statement.
        waits_for: `file:line` of what was waited for; empty when nothing in particular.
        waits_for_opcode, waits_for_source: that instruction.
        sentence: all this in words.
    """

    cause: str
    us: float
    share: float
    count: int
    line: int
    where: str
    source: str
    waits_for_line: int
    waits_for: str
    waits_for_opcode: str
    waits_for_source: str
    sentence: str


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why one engine of one core idled, and what each remedy would gain.

    `busy_us` plus `idle_us` is the latency, and the causes add up to `idle_us`, both exactly.
    """

    engine: str
    core: int
    target: str
    latency_us: float
    busy_us: float
    idle_us: float
    causes: tuple[IdleCause, ...]
    counterfactuals: tuple[Counterfactual, ...]
    path: tuple[PathShare, ...]
    turns: tuple[Turn, ...]
    """What other engines and DMAs did in that time: the chains behind the waits, by line, the longest first."""
    answer: str

    @property
    def idle_percent(self) -> float:
        """Idle share of the latency."""
        return 100 * self.idle_us / self.latency_us if self.latency_us else 0.0

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        found = asdict(self)
        found["idle_percent"] = self.idle_percent
        found["counterfactuals"] = [c.to_json() for c in self.counterfactuals]
        return found


def explain_gap(
    trace: Trace | Observed,
    machine: Machine | None = None,
    engine: str = "Tensor",
    core: int = 0,
    options: TimingOptions | None = None,
    limit: int = 8,
    seconds: float = 20.0,
) -> Explanation:
    """Explain the idle time of one engine and prove what each remedy gains by timing the changed program again.

    Args:
        trace: the recorded program, or a launch that was timed already.
        machine: where to time it; needed with a `Trace`.
        engine: `Tensor`, `Vector`, `Scalar`, `GpSimd` or `Sync` (any case).
        core: which core.
        options: switches of the timing model.
        limit: causes and counterfactuals to report.
        seconds: after this long no further counterfactual is tried (each times the whole program again).

    Raises:
        ValueError: no such engine or core, or a `Trace` without a machine.
        TraceError: the trace can't be judged.
        UnsupportedError: an instruction has no known cost.
    """
    if isinstance(trace, Observed):
        observed = trace
    elif machine is None:
        raise ValueError("explain_gap needs a machine to time the trace on")
    else:
        observed = Observed.of(trace, machine, options)
    names = {name.lower(): name for name in ENGINE_NAMES}
    chosen = names.get(engine.strip().lower().removesuffix(" engine"))
    if chosen is None:
        raise ValueError(f"no engine {engine!r}; choose one of {', '.join(ENGINE_NAMES)}")
    if not any(e.core == core for e in observed.profile.engines):
        raise ValueError(f"no core {core}; the launch used {max(e.core for e in observed.profile.engines) + 1}")
    use = observed.profile.engine(chosen, core)
    causes, groups = _causes(observed, ENGINE_NAMES.index(chosen), core, use.idle_us)
    meanwhile = _meanwhile(observed, groups)[:limit]
    trials = _trials(observed, groups, limit, time.monotonic() + seconds)
    path = path_shares(observed)[:limit]
    return Explanation(
        chosen, core, observed.machine.name, observed.profile.latency_us, use.busy_us, use.idle_us, causes[:limit]
        if len(causes) <= limit else _folded(causes, limit), trials, path, meanwhile,
        _answer(chosen, observed, use, causes, trials, meanwhile),
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Group:
    """Gaps of one (cause, line, waited-for line): the waiting and the waited-for instructions."""

    cause: Wait
    us: float
    waiting: Ints
    waited: Ints


def _causes(observed: Observed, engine: int, core: int, idle_us: float) -> tuple[tuple[IdleCause, ...], list[_Group]]:
    timeline = observed.timeline
    rows = np.flatnonzero((observed.engine == engine) & (observed.core == core))
    rows = rows[np.argsort(timeline.start_ns[rows], kind="stable")]
    if not len(rows):
        text = f"The {ENGINE_NAMES[engine]} Engine had no instruction in this launch."
        return (IdleCause("unused", idle_us, 1.0 if idle_us else 0.0, 0, -1, "", "", -1, "", "", "", text),), []
    start, end = timeline.start_ns[rows], observed.busy_end[rows]
    reach = np.concatenate([[0.0], np.maximum.accumulate(end)[:-1]])
    gap = np.maximum(start - reach, 0.0)
    late = np.flatnonzero(gap > 0)
    cause = timeline.wait[rows[late]]
    waited = np.where(cause != Wait.NONE, timeline.waited_for[rows[late]], -1)
    waited_line = np.where(waited >= 0, observed.line[np.maximum(waited, 0)], -1)
    keys = (
        np.stack([cause, observed.line[rows[late]], waited_line], axis=1) if len(late) else np.empty((0, 3), np.int64)
    )
    unique, inverse = np.unique(keys, axis=0, return_inverse=True)
    inverse = inverse.reshape(-1)
    groups: list[tuple[float, IdleCause, _Group]] = []
    left = idle_us
    for k in range(len(unique)):
        mine = late[inverse == k]
        us = on_grid(float(gap[mine].sum()))
        left -= us
        kind, line, there = (int(v) for v in unique[k])
        others = waited[inverse == k]
        entry = _cause(observed, engine, kind, line, there, others[others >= 0], us, len(mine), idle_us)
        groups.append((us, entry, _Group(Wait(kind), us, rows[mine], others[others >= 0])))
    groups.sort(key=lambda g: -g[0])
    causes = [g[1] for g in groups]
    tail_ns = max(timeline.latency_ns - float(end.max()), 0.0)
    # What rounding to the profile's grid left over (picoseconds) belongs to the tail, so that the sum is exact.
    sentence = (
        f"It had nothing left to do for the last {left:.2f} us, while other engines and DMAs finished."
        if tail_ns
        else "Rounding to the profile's grid."
    )
    if left:
        last = int(observed.line[rows[int(end.argmax())]])
        share = left / idle_us if idle_us else 0.0
        causes.append(
            IdleCause(
                "drained", left, share, 1, last, observed.where(last), observed.source(last), -1, "", "", "", sentence
            )
        )
    causes.sort(key=lambda c: -c.us)
    return tuple(causes), [g[2] for g in groups]


def _cause(
    observed: Observed,
    engine: int,
    kind: int,
    line: int,
    there: int,
    waited: Ints,
    us: float,
    count: int,
    idle_us: float,
) -> IdleCause:
    opcode = ""
    if len(waited):
        names, counts = np.unique(observed.opcode[waited], return_counts=True)
        opcode = str(names[int(counts.argmax())])
    where, other = observed.where(line), observed.where(there) if there >= 0 else ""
    share = us / idle_us if idle_us else 0.0
    lead = f"{us:.2f} us ({share:.0%} of its idle time, {what_if.counted(count, 'gap')})"
    if kind == Wait.NONE:
        sentence = (
            f"{lead} passed between instructions of {where} and the ones before them, without waiting for anyone."
        )
    else:
        spilled = kind in (Wait.DMA, Wait.SPACE) and observed.timeline.spills.transfers > 0
        target = (
            f"{opcode} at {other}"
            if opcode
            else "a transfer of the compiler's spills"
            if spilled
            else "another instruction"
        )
        sentence = f"{lead} at {where} it waited for {_CAUSES.get(Wait(kind), '{waited}').format(waited=target)}."
    name = "issue" if kind == Wait.NONE else Wait(kind).name.lower()
    return IdleCause(
        name, us, share, count, line, where, observed.source(line), there, other, opcode,
        observed.source(there) if there >= 0 else "", sentence,
    )  # fmt: skip


def _folded(causes: tuple[IdleCause, ...], limit: int) -> tuple[IdleCause, ...]:
    """The largest `limit - 1` causes and one that sums up the rest."""
    kept, rest = causes[: limit - 1], causes[limit - 1 :]
    us = sum(c.us for c in rest)
    text = f"{us:.2f} us in {what_if.counted(sum(c.count for c in rest), 'gap')} of {what_if.counted(len(rest), 'smaller cause')}."
    other = IdleCause(
        "other", us, sum(c.share for c in rest), sum(c.count for c in rest), -1, "", "", -1, "", "", "", text
    )
    return (*kept, other)


# -- counterfactuals ---------------------------------------------------------------------------------------------------


def _trials(observed: Observed, groups: list[_Group], limit: int, deadline: float) -> tuple[Counterfactual, ...]:
    found: dict[str, Counterfactual] = {}
    tried = 0
    for trial in _remedies(observed, groups[:3]):
        if tried >= 2 * limit or time.monotonic() > deadline:
            break
        result = trial()
        if result is None:
            continue
        tried += 1
        if result.gain_us >= LEAST_GAIN * result.before_us:
            found.setdefault(f"{result.kind}: {result.change}", result)
    ranked = sorted(found.values(), key=lambda c: (not c.feasible, -c.gain_us))
    return tuple(ranked[:limit])


def _remedies(observed: Observed, groups: list[_Group]) -> Iterator[Callable[[], Counterfactual | None]]:
    """Experiments that fit the causes, the most telling first."""
    for group in groups:
        if group.cause in (Wait.RESULT, Wait.DMA) and len(group.waited):
            yield partial(_removed, observed, group)
        if group.cause in (Wait.RELEASE, Wait.SPACE, Wait.DMA) and len(group.waited):
            yield partial(_doubled, observed, group)
        if group.cause is Wait.SPACE:
            yield partial(what_if.space_free, observed)
        if group.cause is Wait.PORT:
            yield partial(what_if.ports_free, observed)
        if group.cause in (Wait.RESULT, Wait.RELEASE, Wait.SPACE) and len(group.waited):
            for engine in (Engine.VECTOR, Engine.SCALAR, Engine.GPSIMD):
                yield partial(_elsewhere, observed, group, engine)
    yield partial(what_if.loads_hoisted, observed)
    dmas = np.flatnonzero(observed.is_dma)
    yield partial(what_if.wider_dma, observed, dmas)
    yield partial(what_if.other_dtype, observed)
    triggered = np.flatnonzero(observed.is_dma & (observed.engine != Engine.UNKNOWN))
    if len(triggered):
        yield partial(what_if.spread_triggers, observed, triggered)


def _removed(observed: Observed, group: _Group) -> Counterfactual:
    line, there = int(observed.line[group.waiting[0]]), int(observed.line[group.waited[0]])
    waiting = np.flatnonzero(
        (observed.line == line) & np.isin(observed.opcode, np.unique(observed.opcode[group.waiting]))
    )
    waited = np.flatnonzero(
        (observed.line == there) & np.isin(observed.opcode, np.unique(observed.opcode[group.waited]))
    )
    change = f"If {observed.where(line)} never waited for {observed.where(there)}"
    return what_if.stall_removed(observed, waiting, waited, change)


def _doubled(observed: Observed, group: _Group) -> Counterfactual | None:
    """Double the tiles that the waiting instructions (or the loads that they wait for) overwrite."""
    rows = group.waited if group.cause is Wait.DMA else group.waiting
    buffers = written_tiles(observed, rows)
    if group.cause is Wait.SPACE:
        buffers |= read_tiles(observed, group.waited)
    return what_if.buffers_doubled(observed, buffers) if buffers else None


def _elsewhere(observed: Observed, group: _Group, engine: Engine) -> Counterfactual | None:
    there = int(observed.line[group.waited[0]])
    rows = np.flatnonzero((observed.line == there) & ~observed.is_dma & (observed.engine != int(engine)))
    return what_if.other_engine(observed, rows, engine) if len(rows) else None


def written_tiles(observed: Observed, rows: Ints) -> set[int]:
    """Tiles on chip that these instructions write."""
    return _tiles(observed, rows, WRITES)


def read_tiles(observed: Observed, rows: Ints) -> set[int]:
    """Tiles on chip that these instructions read."""
    return _tiles(observed, rows, READS)


def _tiles(observed: Observed, rows: Ints, access: int) -> set[int]:
    marked = np.zeros(len(observed.trace), np.bool_)
    marked[rows] = True
    operands = observed.trace.operands
    mine = marked[observed.owner] & ((operands[:, Operand.FLAGS] & access) != 0)
    mine &= ~observed.hbm_buffer[operands[:, Operand.BUFFER]]
    return {int(b) for b in np.unique(operands[mine, Operand.BUFFER])}


def _meanwhile(observed: Observed, groups: list[_Group]) -> tuple[Turn, ...]:
    """What the time of the waits was spent on elsewhere."""
    rows = np.concatenate([g.waiting for g in groups]) if groups else np.empty(0, np.int64)
    if len(rows) > MOST_FOLLOWED:
        rows = rows[:: -(-len(rows) // MOST_FOLLOWED)]
    begins = observed.timeline.start_ns[rows] - observed.timeline.waited_ns[rows]
    return turns(observed, rows, begins)


def _answer(
    engine: str,
    observed: Observed,
    use: EngineUse,
    causes: tuple[IdleCause, ...],
    trials: tuple[Counterfactual, ...],
    meanwhile: tuple[Turn, ...],
) -> str:
    latency = observed.profile.latency_us
    name = f"{engine} Engine" + (f" of core {use.core}" if observed.trace.cores > 1 else "")
    if not use.instructions:
        return f"The {name} has no work in this kernel: it is idle for all of the {latency:.2f} us (simulated)."
    percent = 100 * use.idle_us / latency if latency else 0.0
    lines = [
        f"The {name} is idle {percent:.1f}% of the time on {observed.machine.name}: {use.idle_us:.2f} of {latency:.2f} us "
        f"(simulated), busy {use.busy_us:.2f} us."
    ]
    lines += [f"- {c.sentence}" for k, c in enumerate(causes[:3]) if k == 0 or c.share >= LEAST_SHARE]
    chain = _behind(observed, causes, meanwhile)
    lines += [f"- {chain}"] if chain else []
    lines += [f"- {t.sentence}" for t in trials[:3]]
    if not trials and len(causes):
        lines.append("- None of the changes that were tried gains anything measurable.")
    return "\n".join(lines)


def behind(observed: Observed, found: Explanation) -> str:
    """The chains behind an engine's waits in one sentence; empty when they say no more than its causes."""
    return _behind(observed, found.causes, found.turns)


def _behind(observed: Observed, causes: tuple[IdleCause, ...], meanwhile: tuple[Turn, ...]) -> str:
    direct = {c.waits_for_line for c in causes[:1]}
    total = sum(t.us for t in meanwhile)
    most = [t for t in meanwhile[:3] if t.us >= 0.05 * total]
    if not most or not {t.line for t in most} - direct:
        return ""
    text = ", ".join(f"{t.opcode} at {observed.where(t.line)} {t.us / total:.0%}" for t in most)
    return f"Behind these waits it was the turn of {text} of that time."
