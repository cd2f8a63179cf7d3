"""Proof by re-simulation: change one thing in the recorded program or the machine, time it again, compare."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tools.figures import amount
from tools.insight import edits
from tools.insight.blocking import blocked_loads
from tools.insight.observed import READS, Observed
from tools.sim.instruction import OPCODES, Engine, Flag, Inst, Operand, Trace
from tools.sim.machine import Machine
from tools.sim.profiler import ENGINE_NAMES
from tools.sim.timing import TimingOptions, peak_usage, schedule

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

WIDE_ROW_BYTES = 4096
"""Contiguous bytes per partition at which DMA efficiency saturates (DMA bandwidth guide)."""
BOUND = "an upper bound"
"""How the caveat of a gain begins that no single change reaches."""
JOIN_LIMIT = 64
"""Most DMAs that one counterfactual merges into one."""


@dataclass(frozen=True, slots=True)
class Counterfactual:
    """One change and what the timing model says it would gain.

    Attributes:
        kind: `stall removed`, `loads hoisted`, `buffers doubled`, `other engine`, `other dtype`, `wider DMA`, ...
        change: what was changed, in words.
        before_us, after_us: latency without and with the change.
        caveat: what the figure doesn't include; empty when nothing.
        feasible: whether the change fits the memories as far as is known.
    """

    kind: str
    change: str
    before_us: float
    after_us: float
    caveat: str = ""
    feasible: bool = True

    @property
    def gain_us(self) -> float:
        """Latency saved; negative when the change makes it worse."""
        return self.before_us - self.after_us

    @property
    def gain_percent(self) -> float:
        """Saved share of the latency."""
        return 100 * self.gain_us / self.before_us if self.before_us else 0.0

    @property
    def is_bound(self) -> bool:
        """Whether the gain is the most that a change can reach, not what one change gives."""
        return self.caveat.startswith(BOUND)

    @property
    def sentence(self) -> str:
        """The finding as one sentence."""
        if self.gain_us > 0:
            effect = f"saves {'at most ' if self.is_bound else ''}{self.gain_us:.2f} us ({self.gain_percent:.1f}%): {self.before_us:.2f} to {self.after_us:.2f} us"
        else:
            effect = f"saves nothing ({self.before_us:.2f} to {self.after_us:.2f} us)"
        return f"{self.change}: {effect}" + (f"; {self.caveat}" if self.caveat else "") + "."

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {**asdict(self), "gain_us": self.gain_us, "gain_percent": self.gain_percent, "sentence": self.sentence}


def replay(
    observed: Observed,
    kind: str,
    change: str,
    *,
    trace: Trace | None = None,
    machine: Machine | None = None,
    options: TimingOptions | None = None,
    caveat: str = "",
    feasible: bool = True,
) -> Counterfactual:
    """Time the changed program, machine or options, and compare with `observed`."""
    after = schedule(trace or observed.trace, machine or observed.machine, options or observed.options)
    return Counterfactual(kind, change, observed.timeline.latency_us, after.latency_us, caveat, feasible)


# -- the changes -------------------------------------------------------------------------------------------------------


def stall_removed(observed: Observed, waiting: Ints, waited: Ints, change: str) -> Counterfactual:
    """`waiting` no longer waits for the results of `waited`: the most that any way of hiding that wait can gain."""
    caveat = f"{BOUND}: what it waits for must still be done in time"
    trace = edits.forget(observed.trace, waiting, waited)
    return replay(observed, "stall removed", change, trace=trace, caveat=caveat)


def buffers_doubled(observed: Observed, buffers: Iterable[int], copies: int = 2) -> Counterfactual:
    """Each tile of `buffers` becomes `copies` tiles that are used in turn (0: a new one at every fill)."""
    ids = sorted(set(buffers))
    trace = edits.rotate(observed.trace, ids, copies)
    names = describe_tiles(observed, ids)
    sbuf, psum, _ = peak_usage(trace)
    caveat = ""
    if sbuf > observed.machine.sbuf_partition_bytes:
        caveat = f"needs {sbuf} bytes of SBUF a partition, there are {observed.machine.sbuf_partition_bytes}"
    elif psum > observed.machine.psum_partition_bytes:
        caveat = f"needs {psum} bytes of PSUM a partition, there are {observed.machine.psum_partition_bytes}"
    many = {0: "a new tile at every fill of", 2: "two tiles in turn for"}.get(copies, f"{copies} tiles in turn for")
    return replay(observed, "buffers doubled", f"With {many} {names}", trace=trace, caveat=caveat, feasible=not caveat)


def loads_hoisted(observed: Observed) -> Counterfactual | None:
    """Every region of an input is loaded once, or as seldom as blocked loops can; None when nothing is loaded twice."""
    original = edits.repeated_loads(observed.trace, observed.is_load)
    repeats = original >= 0
    if not repeats.any():
        return None
    trace = edits.deduplicated(observed.trace, original, *observed.results)
    room = observed.machine.sbuf_partition_bytes
    peak = peak_usage(trace)[0]
    if peak <= room:
        change = f"Loading each region once ({_left_out(observed, repeats)})"
        caveat = f"takes up to {peak} of {room} bytes a partition, resident tiles included"
        return replay(observed, "loads hoisted", change, trace=trace, caveat=caveat)
    plan = blocked_loads(observed, original)
    if plan is None:
        caveat = f"all of it needs {peak} bytes a partition but SBUF has {room}: block the loops to keep a part"
        change = f"Loading each region once ({_left_out(observed, repeats)})"
        return replay(observed, "loads hoisted", change, trace=trace, caveat=caveat, feasible=False)
    once = f"{' and '.join(plan.kept)} loaded once for each block"
    often = f", {' and '.join(plan.streamed)} once for {plan.factor} iterations" if plan.factor > 1 else ""
    change = f"With the loops blocked, {once}{often} ({_left_out(observed, plan.original >= 0)})"
    blocks = f"in blocks of {plan.factor} iterations, which take" if plan.factor > 1 else "which takes"
    caveat = f"{blocks} about {plan.peak_bytes} of {room} bytes a partition (all of it resident would take {peak})"
    trace = edits.deduplicated(observed.trace, plan.original, *observed.results)
    return replay(observed, "loads hoisted", change, trace=trace, caveat=caveat)


def _left_out(observed: Observed, rows: Bools) -> str:
    """Loads that a change saves, in words."""
    moved = int(observed.trace.column(Inst.BYTES)[rows].sum())
    return f"{int(rows.sum())} loads fewer, {amount(moved)}, {describe_lines(observed, np.flatnonzero(rows))}"


def other_engine(observed: Observed, rows: Ints, engine: Engine, share: float = 1.0) -> Counterfactual | None:
    """`rows` (or every second, third, ... of them) run on `engine`; None where the instruction set forbids it."""
    legal = rows[can_run(observed.trace, rows, engine)]
    if not len(legal):
        return None
    if share < 1:
        legal = legal[np.floor(np.arange(len(legal)) * share) != np.floor((np.arange(len(legal)) + 1) * share)]
    if not len(legal):
        return None
    trace = edits.retarget(observed.trace, legal, int(engine))
    part = "" if share >= 1 else f"{len(legal)} of "
    change = f"With {part}{describe_group(observed, rows)} on the {ENGINE_NAMES[int(engine)]} Engine"
    return replay(observed, "other engine", change, trace=trace)


def can_run(trace: Trace, rows: Ints, engine: Engine) -> Bools:
    """Which of `rows` the instruction set lets `engine` execute (GpSimd reaches no PSUM; Scalar copies from trn2 on)."""
    allowed = np.array([engine in entry.engines for entry in OPCODES])[trace.column(Inst.OPCODE)[rows]]
    flags = trace.column(Inst.FLAGS)[rows]
    if engine is Engine.GPSIMD:
        allowed &= (flags & (Flag.PSUM_SRC | Flag.PSUM_DST)) == 0
    if engine is Engine.SCALAR and trace.target == "trn1":
        allowed &= (flags & Flag.COPY_LIKE) == 0
    if engine is Engine.SCALAR:
        # Only multiply and add of one number a lane exist there; the trace doesn't say which operator it was.
        copies = (flags & Flag.COPY_LIKE) != 0
        scalar = np.array([entry.name in ("tensor_scalar", "reciprocal") for entry in OPCODES])
        allowed &= copies | scalar[trace.column(Inst.OPCODE)[rows]]
    return np.asarray(allowed)


def other_dtype(
    observed: Observed, *, wider: bool = False, buffers: Iterable[int] | None = None
) -> Counterfactual | None:
    """float32 operands become bfloat16 (or `wider`: 2-byte ones float32); None when no operand is of that type."""
    size = "bfloat16" if wider else "float32"
    halves = ("bfloat16", "float16") if wider else ("float32",)
    every = [b.id for b in observed.trace.buffers if b.space != "psum" and b.dtype in halves]
    chosen = every if buffers is None else [b for b in buffers if b in set(every)]
    if not chosen:
        return None
    trace = edits.retyped(observed.trace, chosen, 2.0 if wider else 0.5)
    names = "all operands" if buffers is None else describe_tiles(observed, chosen)
    change = f"With {names} in {'float32' if wider else 'bfloat16'} instead of {size}"
    caveat = "" if wider else "only if the user's precision policy allows it"
    return replay(observed, "other dtype", change, trace=trace, caveat=caveat)


def wider_dma(observed: Observed, rows: Ints, row_bytes: int = WIDE_ROW_BYTES) -> Counterfactual | None:
    """Neighbouring DMAs of one line move together until a row has `row_bytes`; None when they are wide already."""
    trace, merged = joined_dmas(observed, rows, row_bytes)
    if not merged:
        return None
    change = f"With {describe_group(observed, rows)} joined into transfers of up to {row_bytes} bytes a partition"
    apart = "" if trace.column(Inst.AUX).max() > observed.trace.column(Inst.AUX)[rows].max() else (
        "their rows don't lie side by side in HBM, so only the number of transfers falls"
    )  # fmt: skip
    return replay(observed, "wider DMA", change, trace=trace, caveat=apart)


def joined_dmas(observed: Observed, rows: Ints, row_bytes: int) -> tuple[Trace, int]:
    """The trace with narrow DMAs of `rows` joined, and how many of them were."""
    trace = observed.trace
    width = trace.column(Inst.AUX)
    done = 0
    # Stores last, from the end of the program: each joining renumbers what follows.
    plan: list[tuple[Ints, int, bool, bool]] = []
    for line, core in np.unique(np.stack([observed.line[rows], observed.core[rows]], axis=1), axis=0).tolist():
        here = (observed.line[rows] == line) & (observed.core[rows] == core)
        mine = rows[here & (width[rows] < row_bytes)]
        if len(mine) > 1:
            size = min(int(np.ceil(row_bytes / max(float(np.median(width[mine])), 1.0))), JOIN_LIMIT, len(mine))
            plan.append((mine, size, bool(observed.is_store[mine[0]]), _side_by_side(observed, mine)))
            done += len(mine)
    number = np.arange(len(trace))
    for mine, size, store, beside in plan:
        marked = np.zeros(len(trace), np.bool_)
        marked[number[mine]] = True
        current = np.flatnonzero(marked)
        columns = (Inst.BYTES, Inst.FREE, *((Inst.AUX,) if beside else ()))
        how = edits.Joining(columns, at_last=store)
        group = np.full(len(trace), -1, np.int64)
        group[current] = np.arange(len(current)) // size
        keep = group < 0
        starts = np.arange(0, len(current), size)
        keep[current[np.minimum(starts + size, len(current)) - 1] if store else current[starts]] = True
        trace = edits.joined(trace, current, size, how)
        renumber = np.cumsum(keep) - 1
        number = np.where(keep[number], renumber[number], 0)
    return trace, done


def _side_by_side(observed: Observed, rows: Ints) -> bool:
    """Whether most of these DMAs go on in HBM, row by row, where the one before them ended."""
    operands, first = observed.trace.operands, observed.trace.column(Inst.FIRST_OPERAND)
    count = observed.trace.column(Inst.OPERANDS)
    places = []
    for i in rows.tolist():
        own = operands[first[i] : first[i] + count[i]]
        far = own[observed.hbm_buffer[own[:, Operand.BUFFER]]]
        if len(far):
            places.append(far[0])
    if len(places) < 2:
        return False
    table = np.stack(places)
    same = (
        table[1:, [Operand.BUFFER, Operand.ROW0, Operand.ROW1]]
        == table[:-1, [Operand.BUFFER, Operand.ROW0, Operand.ROW1]]
    ).all(axis=1)
    on = table[1:, Operand.BYTE0] == table[:-1, Operand.BYTE1]
    # Whole rows, one after another, are one stretch of memory.
    whole = (table[:, Operand.BYTE1] - table[:, Operand.BYTE0]) == table[:, Operand.ROW_BYTES]
    below = (table[1:, Operand.BUFFER] == table[:-1, Operand.BUFFER]) & (
        table[1:, Operand.ROW0] == table[:-1, Operand.ROW1]
    )
    return bool(((same & on) | (below & whole[1:] & whole[:-1])).mean() >= 0.5)


def spread_triggers(observed: Observed, rows: Ints) -> Counterfactual:
    """DMAs that an engine triggers go to queues of their own."""
    trace = edits.retarget(observed.trace, rows, int(Engine.UNKNOWN))
    return replay(
        observed, "other queue", f"With {describe_group(observed, rows)} triggered from free queues", trace=trace
    )


def without(observed: Observed, rows: Ints, kind: str, change: str, caveat: str = "") -> Counterfactual:
    """`rows` are left out; what they produced is taken to be there."""
    gone = np.zeros(len(observed.trace), np.bool_)
    gone[rows] = True
    return replay(observed, kind, change, trace=edits.drop(observed.trace, gone), caveat=caveat)


def fused_away(observed: Observed, rows: Ints, change: str, caveat: str = "") -> Counterfactual:
    """`rows` are left out and their readers read what they read."""
    trace = edits.bypassed(observed.trace, rows, *observed.results)
    return replay(observed, "instruction fused", change, trace=trace, caveat=caveat)


def work_hoisted(observed: Observed, original: Ints) -> Counterfactual:
    """Instructions that repeat another one (`original` >= 0) are left out; their readers read the first result."""
    rows = np.flatnonzero(original >= 0)
    trace = edits.deduplicated(observed.trace, original, *observed.results)
    change = f"Without the repetitions of {describe_group(observed, rows)}"
    return replay(observed, "work hoisted", change, trace=trace)


def joined_instructions(
    observed: Observed,
    rows: Ints,
    size: int,
    summed: tuple[Inst, ...],
    change: str,
    most: int = 1 << 62,
    caveat: str = "",
) -> Counterfactual:
    """Every `size` neighbours of `rows` become one instruction whose `summed` columns add up."""
    trace = edits.joined(observed.trace, rows, size, edits.Joining(summed, most=most))
    return replay(observed, "instructions joined", change, trace=trace, caveat=caveat)


def ports_free(observed: Observed) -> Counterfactual:
    """Every engine has its own memory ports."""
    machine = replace(observed.machine, vector_gpsimd_serial=0, vector_scalar_psum_serial=0)
    return replay(observed, "port freed", "With no shared memory port", machine=machine)


def tables_kept(observed: Observed) -> Counterfactual:
    """Loading an activation table costs nothing."""
    machine = replace(observed.machine, scalar_table_load_ns=0.0)
    return replay(observed, "tables kept", "With no activation table reloaded", machine=machine)


def space_free(observed: Observed) -> Counterfactual:
    """No tile waits for the space of another."""
    options = replace(observed.options, space=False)
    caveat = f"{BOUND}: smaller or fewer live tiles reach a part of it"
    return replay(observed, "space freed", "With SBUF and PSUM space for every tile", options=options, caveat=caveat)


def all_stalls_removed(observed: Observed) -> Counterfactual:
    """No instruction waits for another one: engines and DMAs limited by their own work alone."""
    operands = observed.trace.operands.copy()
    # Nobody waits for a tile that nothing writes.
    operands[~observed.hbm_buffer[operands[:, Operand.BUFFER]], Operand.FLAGS] = READS
    edited = replace(observed.trace, operands=operands)
    options = replace(observed.options, space=False)
    caveat = f"{BOUND}: no order between instructions is left but that of each engine"
    return replay(
        observed, "all stalls removed", "With no waits between engines", trace=edited, options=options, caveat=caveat
    )


# -- words -------------------------------------------------------------------------------------------------------------


def counted(number: int, noun: str, several: str = "") -> str:
    """`1 gap`, `2 gaps`; `several` where the plural is another."""
    return f"{number} {noun}" if number == 1 else f"{number} {several or noun + 's'}"


def describe_tiles(observed: Observed, buffers: list[int]) -> str:
    """Tiles by the lines that allocate them, in words."""
    places: dict[int, int] = {}
    for b in buffers:
        places[observed.trace.buffers[b].line] = places.get(observed.trace.buffers[b].line, 0) + 1
    ranked = sorted(places, key=lambda line: -places[line])
    text = ", ".join(f"the tile of {observed.where(line)}" for line in ranked[:3])
    return text + (f" and {len(ranked) - 3} more" if len(ranked) > 3 else "")


def describe_group(observed: Observed, rows: Ints) -> str:
    """Instructions by number, opcode and line, in words."""
    names, counts = np.unique(observed.opcode[rows], return_counts=True)
    return f"the {len(rows)} {names[int(counts.argmax())]} of {describe_lines(observed, rows)}"


def describe_lines(observed: Observed, rows: Ints) -> str:
    """The lines of instructions, the most frequent first, in words."""
    lines, counts = np.unique(observed.line[rows], return_counts=True)
    ranked = lines[np.argsort(-counts, kind="stable")]
    text = ", ".join(observed.where(int(k)) for k in ranked[:3])
    return text + (f" and {counted(len(ranked) - 3, 'more line')}" if len(ranked) > 3 else "")
