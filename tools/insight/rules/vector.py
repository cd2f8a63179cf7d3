"""V1 to V13: elementwise work on the Vector, Scalar and GpSimd Engines."""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import NDArray

from tools.insight import counterfactual as what_if
from tools.insight.advice import Advice, Case, rule
from tools.insight.counterfactual import Counterfactual
from tools.sim.instruction import Engine, Flag, Inst, Operand
from tools.sim.profiler import ENGINE_NAMES

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

SHARE = 0.05
SHORT = 128
FEW_LANES = 64
MANY = 8
STEP = 8
"""Elements a lane up to which an instruction counts as one step of a recurrence."""
CHAIN = 16
"""Steps from which a chain counts as a recurrence."""
LANE_ENGINES = (Engine.VECTOR, Engine.SCALAR, Engine.GPSIMD)


def on_lanes(case: Case) -> Bools:
    """Compute instructions of the Vector, Scalar and GpSimd Engines."""
    return np.isin(case.seen.engine, [int(e) for e in LANE_ENGINES]) & ~case.seen.is_dma & (case.seen.law != "control")


def _worth(case: Case, rows: Ints) -> bool:
    return len(rows) > 0 and case.share(float(case.seen.held_ns[rows].sum())) >= SHARE


def _repeated(case: Case, rows: Ints, least: int = MANY) -> Ints:
    """Those of `rows` whose source line issues at least `least` of them."""
    lines, counts = np.unique(case.seen.line[rows], return_counts=True)
    return rows[np.isin(case.seen.line[rows], lines[counts >= least])]


@rule("V1")
def short_rows(case: Case) -> Advice | None:
    """Many instructions with a small free size: the fixed cost dominates."""
    seen = case.seen
    free = seen.trace.column(Inst.FREE)
    rows = _repeated(case, np.flatnonzero(on_lanes(case) & (free < SHORT) & (free > 0)))
    rows = rows[~_chained(case, rows)]
    if not _worth(case, rows):
        return None
    lines = case.heaviest(rows)
    typical = float(np.median(free[rows]))
    size = max(int(2 * SHORT // max(typical, 1)), 2)
    change = f"With {what_if.describe_group(seen, rows)} {size} times as wide"
    return Advice(
        "V1",
        "Elementwise instructions are short.",
        f"{len(rows)} instructions at {case.places(lines)} work on {typical:.0f} elements a partition; below about {SHORT} "
        f"their fixed cost dominates.",
        "enlarge the free dimension: process several tiles, heads or rows side by side in one instruction.",
        case.numbers(lines),
        case.prove(lambda: what_if.joined_instructions(seen, rows, size, (Inst.FREE,), change)),
    )


def _chained(case: Case, rows: Ints) -> Bools:
    """Which of `rows` wait for the result of another instruction of their own line."""
    producers, consumers = case.seen.results
    own = case.seen.line[producers] == case.seen.line[consumers]
    found = np.zeros(len(case.seen.trace), np.bool_)
    found[consumers[own]] = True
    return found[rows]


@rule("V2")
def few_lanes(case: Case) -> Advice | None:
    """Instructions that use half of the partitions or less."""
    seen = case.seen
    lanes = seen.trace.column(Inst.PARTITIONS)
    rows = _repeated(case, np.flatnonzero(on_lanes(case) & (lanes <= FEW_LANES) & (lanes > 0)), 2)
    if not _worth(case, rows):
        return None
    lines = case.heaviest(rows)
    typical = float(np.median(lanes[rows]))
    size = int(128 // max(typical, 1))
    change = f"With {what_if.describe_group(seen, rows)} packed {size} to one"
    return Advice(
        "V2",
        "Elementwise instructions leave lanes empty.",
        f"{len(rows)} instructions at {case.places(lines)} use {typical:.0f} of 128 partitions.",
        f"put {size} such tiles on top of each other in the partition dimension.",
        case.numbers(lines),
        case.prove(lambda: what_if.joined_instructions(seen, rows, size, (Inst.PARTITIONS,), change, 128)),
    )


def _only_readers(case: Case, producers_of: Bools, readers: Bools) -> Ints:
    """Instructions of `producers_of` whose results are read, and only by instructions of `readers`."""
    producers, consumers = case.seen.results
    n = len(case.seen.trace)
    good = np.bincount(producers[readers[consumers]], minlength=n)
    return np.flatnonzero(producers_of & (case.seen.consumers > 0) & (good == case.seen.consumers))


@rule("V3")
def scale_before_activation(case: Case) -> Advice | None:
    """A multiply or add by a number a lane, read only by an activation that could do it itself."""
    seen = case.seen
    affine = np.array([bool(re.search(r"multiply|add|subtract", seen.source(k))) for k in range(len(seen.trace.lines))])
    scales = (seen.opcode == "tensor_scalar") & (affine[seen.line] if len(affine) else False)
    rows = _only_readers(case, scales, seen.opcode == "activation")
    if not len(rows):
        return None
    lines = case.heaviest(rows)
    change = f"With {what_if.describe_group(seen, rows)} done by the activation"
    return Advice(
        "V3",
        "A scale or shift runs as its own instruction before an activation.",
        f"{len(rows)} tensor_scalar at {case.places(lines)} ({seen.source(lines[0])}) feed only activations.",
        "pass it as scale= and bias= of nisa.activation: func(x * scale + bias) is one instruction.",
        case.numbers(lines),
        case.prove(lambda: what_if.fused_away(seen, rows, change)),
    )


@rule("V4")
def reduce_after_activation(case: Case) -> Advice | None:
    """A sum over the free dimension of what an activation just wrote."""
    seen = case.seen
    sums = np.array([bool(re.search(r"add|sum", seen.source(k))) for k in range(len(seen.trace.lines))])
    producers, consumers = seen.results
    from_activation = np.zeros(len(seen.trace), np.bool_)
    from_activation[consumers[seen.opcode[producers] == "activation"]] = True
    rows = np.flatnonzero(
        (seen.opcode == "tensor_reduce") & from_activation & (sums[seen.line] if len(sums) else False)
    )
    if not len(rows):
        return None
    lines = case.heaviest(rows)
    change = f"With {what_if.describe_group(seen, rows)} done by the activation"
    return Advice(
        "V4",
        "A sum runs as its own pass after an activation.",
        f"{len(rows)} tensor_reduce at {case.places(lines)} read what an activation wrote.",
        "use activation_reduce (or reduce_op and reduce_res of activation): it sums while it computes.",
        case.numbers(lines),
        case.prove(lambda: what_if.fused_away(seen, rows, change)),
    )


@rule("V5")
def explicit_broadcast(case: Case) -> Advice | None:
    """One number a lane is copied along the free dimension, to be used by tensor_tensor."""
    seen = case.seen
    operands = seen.trace.operands
    width = operands[:, Operand.BYTE1] - operands[:, Operand.BYTE0]
    reads = operands[:, Operand.FLAGS] == 2
    widest = np.zeros(len(seen.trace), np.int64)
    np.maximum.at(widest, seen.owner[reads], width[reads])
    copies = (seen.opcode == "tensor_copy") & (widest <= 8) & (widest > 0) & (seen.trace.column(Inst.FREE) >= 16)
    rows = _only_readers(case, copies, seen.opcode == "tensor_tensor")
    if not len(rows):
        return None
    lines = case.heaviest(rows)
    return Advice(
        "V5",
        "A number a lane is broadcast by a copy.",
        f"{len(rows)} tensor_copy at {case.places(lines)} spread one column over {int(seen.trace.column(Inst.FREE)[rows[0]])} "
        f"elements, for tensor_tensor.",
        "use tensor_scalar with a [P, 1] operand: it broadcasts for free.",
        case.numbers(lines),
        case.prove(lambda: what_if.fused_away(seen, rows, f"Without {what_if.describe_group(seen, rows)}")),
    )


@rule("V7")
def recurrence(case: Case) -> Advice | None:
    """A loop of short instructions, each waiting for the one before."""
    seen = case.seen
    free = seen.trace.column(Inst.FREE)
    rows = np.flatnonzero(on_lanes(case) & (free <= STEP))
    rows = _repeated(case, rows[_chained(case, rows)], CHAIN)
    if not _worth(case, rows):
        return None
    lines = case.heaviest(rows)
    size = int(len(rows) / max(len(np.unique(seen.line[rows])), 1))
    change = f"With {what_if.describe_group(seen, rows)} as one scan"
    return Advice(
        "V7",
        "A recurrence runs step by step.",
        f"{len(rows)} instructions of at most {STEP} elements at {case.places(lines)} each wait for the one before.",
        "use tensor_tensor_scan: it runs the recurrence along the free dimension in one instruction.",
        case.numbers(lines),
        case.prove(lambda: what_if.joined_instructions(seen, rows, max(size, 2), (Inst.FREE,), change)),
    )


@rule("V8")
def one_engine_saturated(case: Case) -> Advice | None:
    """One of Vector, Scalar and GpSimd has most of the work while another, which could do it, has little."""
    seen = case.seen
    uses = {e.engine: e for e in seen.profile.engines if e.core == 0}
    names = [ENGINE_NAMES[int(e)] for e in LANE_ENGINES]
    hot = max(names, key=lambda name: uses[name].busy_us)
    cold = [name for name in names if uses[name].busy_us < 0.5 * uses[hot].busy_us]
    if uses[hot].active_percent < 40 or not cold:
        return None
    rows = np.flatnonzero(on_lanes(case) & (seen.engine == ENGINE_NAMES.index(hot)))
    trials: list[tuple[Engine, Ints, float]] = []
    for name in cold:
        target = Engine(ENGINE_NAMES.index(name))
        for line in case.heaviest(rows):
            mine = rows[seen.line[rows] == line]
            if len(mine) > 1 and what_if.can_run(seen.trace, mine, target).all() and _fits(case, line, target):
                trials += [(target, mine, 1.0), (target, mine, 0.5)]
    if not trials:
        return None

    def trial() -> Counterfactual | None:
        results = [what_if.other_engine(seen, mine, target, share) for target, mine, share in trials[:6]]
        return max((r for r in results if r is not None), key=lambda r: r.gain_us, default=None)

    proof = case.prove(trial)
    if proof is not None and proof.gain_us <= 0:
        return None
    lines = case.heaviest(rows)
    loads = ", ".join(f"{name} {uses[name].active_percent:.0f}%" for name in names)
    change = (
        f"move the work: {proof.change.removeprefix('With ')}."
        if proof
        else f"move a part of it to {' or '.join(cold)}."
    )
    return Advice(
        "V8", f"The {hot} Engine has most of the elementwise work.", f"Active: {loads}; most of it at {case.places(lines)}.",
        change, case.numbers(lines), proof,
    )  # fmt: skip


def _fits(case: Case, line: int, target: Engine) -> bool:
    """Whether the operators that the source names exist on the Scalar Engine, which multiplies and adds only."""
    ops = set(re.findall(r"\bn[lp]\.(\w+)", case.seen.source(line))) - {"float32", "bfloat16", "float16"}
    return target is not Engine.SCALAR or ops <= {"multiply", "add"}


@rule("V9")
def alignment_copies(case: Case) -> Advice | None:
    """Copies whose only effect is another start partition."""
    seen = case.seen
    operands = seen.trace.operands
    first, count = seen.trace.column(Inst.FIRST_OPERAND), seen.trace.column(Inst.OPERANDS)
    copies = np.flatnonzero(
        (seen.opcode == "tensor_copy") & (count == 2) & ((seen.flags & (Flag.PSUM_SRC | Flag.PSUM_DST)) == 0)
    )
    dst, src = operands[first[copies]], operands[first[copies] + 1]
    shifted = dst[:, Operand.ROW0] != src[:, Operand.ROW0]
    rows = copies[shifted & (dst[:, Operand.DTYPE] == src[:, Operand.DTYPE])]
    if not len(rows):
        return None
    lines = case.heaviest(rows)
    return Advice(
        "V9",
        "Tiles are copied only to start at another partition.",
        f"{len(rows)} tensor_copy at {case.places(lines)} move a tile between partitions inside SBUF.",
        "load (or compute) it into the right partitions in the first place.",
        case.numbers(lines),
        case.prove(lambda: what_if.fused_away(seen, rows, f"Without {what_if.describe_group(seen, rows)}")),
    )


@rule("V13")
def repeated_work(case: Case) -> Advice | None:
    """The same instruction on the same unchanged inputs, again and again."""
    seen = case.seen
    original = _redundant(case)
    rows = _repeated(case, np.flatnonzero(original >= 0), 2)
    if not len(rows):
        return None
    lines = case.heaviest(rows)
    return Advice(
        "V13",
        "The same instruction runs on the same inputs in every iteration.",
        f"{len(rows)} instructions at {case.places(lines)} repeat one whose input tiles haven't changed since.",
        "compute it once before the loop and keep the tile (unless a number that the loop changes is passed to it).",
        case.numbers(lines),
        case.prove(lambda: what_if.work_hoisted(seen, original)),
    )


def _redundant(case: Case) -> Ints:
    """For each instruction that an earlier one of the same line made superfluous, that one, else -1; int64 [n].

    Same opcode, same versions of the same inputs, same place inside an output tile. Numbers passed to an instruction
    aren't recorded, so a loop that changes only such a number is taken for a repetition.
    """
    seen = case.seen
    operands = seen.trace.operands
    version = np.zeros(len(seen.trace.buffers), np.int64)
    eligible = on_lanes(case) & ((seen.flags & Flag.ACCUMULATE) == 0)
    first, count = seen.trace.column(Inst.FIRST_OPERAND).tolist(), seen.trace.column(Inst.OPERANDS).tolist()
    done: dict[tuple[object, ...], int] = {}
    found = np.full(len(seen.trace), -1, np.int64)
    lines, codes = seen.line.tolist(), seen.trace.column(Inst.OPCODE).tolist()
    flags, rows_of = operands[:, Operand.FLAGS].tolist(), operands.tolist()
    for i in range(len(seen.trace)):
        span = range(first[i], first[i] + count[i])
        reads = [rows_of[k] for k in span if flags[k] == 2]
        if eligible[i] and reads and not any(flags[k] == 3 for k in span):
            written = {rows_of[k][Operand.BUFFER] for k in span if flags[k] == 1}
            inputs = [(*r, int(version[r[Operand.BUFFER]])) for r in reads]
            outputs = [tuple(rows_of[k][Operand.ROW0 :]) for k in span if flags[k] == 1]
            if not written & {r[Operand.BUFFER] for r in reads}:
                key = (lines[i], codes[i], *inputs, *outputs)
                first_time = done.setdefault(key, i)
                if first_time != i:
                    found[i] = first_time
        for k in span:
            if flags[k] & 1:
                version[rows_of[k][Operand.BUFFER]] += 1
    return found


@rule("S1")
def table_thrash(case: Case) -> Advice | None:
    """The Scalar Engine keeps exchanging its activation tables."""
    seen = case.seen
    rows = np.flatnonzero(seen.timeline.costs.table_load)
    spent = len(rows) * seen.machine.scalar_table_load_ns
    if len(rows) < 4 or case.share(spent) < SHARE:
        return None
    lines = case.heaviest(rows)
    return Advice(
        "S1",
        "The Scalar Engine reloads activation tables.",
        f"{len(rows)} loads of {seen.machine.scalar_table_load_ns:.0f} ns, at {case.places(lines)}, where functions of "
        f"different tables alternate.",
        "group the calls of one function over several tiles, or choose functions that share a table.",
        case.numbers(lines),
        case.prove(lambda: what_if.tables_kept(seen)),
    )
