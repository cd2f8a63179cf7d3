"""E1 to E10: how the Tensor Engine's array is used."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from tools.insight import counterfactual as what_if
from tools.insight import edits
from tools.insight.advice import Advice, Case, rule
from tools.insight.counterfactual import Counterfactual
from tools.sim.instruction import BY_NAME, Engine, Flag, Inst, Operand
from tools.sim.profiler import flops

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

SHARE = 0.05
"""Share of the Tensor Engine's time below which a symptom isn't worth a finding."""
FULL = 128
MOVING = 512
LOW_USE, HIGH_CEILING = 30.0, 60.0
"""Percent of the peaks: below the one nothing is well used, above the other it could be."""
SHORT = 32
"""Stationary columns up to which a matmul is a product with few vectors."""


def matmuls(case: Case) -> Bools:
    """Products on the Tensor Engine, transposes left out."""
    seen = case.seen
    return (seen.law == "matmul") & ((seen.flags & Flag.TRANSPOSE) == 0)


def _worth(case: Case, rows: Ints) -> bool:
    total = float(case.seen.held_ns[case.seen.engine == Engine.TENSOR].sum())
    return len(rows) > 0 and float(case.seen.held_ns[rows].sum()) >= SHARE * total


@rule("E1")
def unused_rows(case: Case) -> Advice | None:
    """Matmuls that fill half of the array's rows or less."""
    seen = case.seen
    k, m = seen.trace.column(Inst.PARTITIONS), seen.trace.column(Inst.AUX)
    rows = np.flatnonzero(matmuls(case) & (k * 2 <= FULL) & (m > SHORT))
    if not _worth(case, rows):
        return None
    lines = case.heaviest(rows)
    used = float(np.median(k[rows]))
    size = int(FULL // max(used, 1))
    change = f"With {what_if.describe_group(seen, rows)} packed {size} to one"
    evidence = (
        f"{len(rows)} matmuls at {case.places(lines)} contract over {used:.0f} of {FULL} rows; "
        f"{seen.profile.pe_row_utilisation_percent:.0f}% of the rows and {seen.profile.pe_column_utilisation_percent:.0f}% of "
        f"the columns work on average."
    )
    if _summed(case, rows) < 1 - 1 / size:
        # No sum goes on in the next matmul: the contraction isn't longer, so there is nothing to regroup.
        return Advice(
            "E1",
            "Matmuls leave rows of the PE array empty.",
            evidence,
            f"the contraction is no longer than that: fold another axis of the sum into it, or run {size} independent products "
            f"side by side on row tiles (tile_position, which this timing model doesn't overlap).",
            case.numbers(lines),
        )
    return Advice(
        "E1",
        "Matmuls leave rows of the PE array empty.",
        evidence,
        f"load {FULL} rows of the contraction at once (reshape or regroup it) so that one matmul does the work of {size}.",
        case.numbers(lines),
        case.prove(lambda: what_if.joined_instructions(seen, rows, size, (Inst.PARTITIONS,), change, FULL)),
    )


def _summed(case: Case, rows: Ints) -> float:
    """Share of these matmuls that add to what others left in PSUM."""
    adds = np.zeros(len(case.seen.trace), np.bool_)
    adds[case.seen.owner[case.seen.trace.operands[:, Operand.FLAGS] == 3]] = True
    return float(adds[rows].mean())


@rule("E2")
def short_moving(case: Case) -> Advice | None:
    """Matmuls with a short moving operand, so that fixed costs and weight loads show."""
    seen = case.seen
    n, m = seen.trace.column(Inst.FREE), seen.trace.column(Inst.AUX)
    rows = np.flatnonzero(matmuls(case) & (n * 2 <= MOVING) & (m > SHORT))
    if not _worth(case, rows) or len(rows) < 2:
        return None
    lines = case.heaviest(rows)
    typical = float(np.median(n[rows]))
    size = int(MOVING // max(typical, 1))
    change = f"With {what_if.describe_group(seen, rows)} {size} times as wide"
    return Advice(
        "E2",
        "Matmuls stream short moving tiles.",
        f"{len(rows)} matmuls at {case.places(lines)} stream {typical:.0f} columns; one instruction can stream {MOVING} for "
        f"the same weight load.",
        f"make the moving tile {MOVING} wide (a full PSUM bank of float32).",
        case.numbers(lines),
        case.prove(lambda: what_if.joined_instructions(seen, rows, size, (Inst.FREE,), change, MOVING)),
    )


@rule("E3")
def transposes(case: Case) -> Advice | None:
    """Much of the Tensor Engine's time goes into transposes."""
    seen = case.seen
    hardware, moved, _ = flops(seen.trace, seen.timeline.costs.law)
    rows = np.flatnonzero(moved > 0)
    spent = float(seen.held_ns[rows].sum())
    total = float(seen.held_ns[seen.engine == Engine.TENSOR].sum())
    if not len(rows) or spent < 0.1 * total or not matmuls(case).any():
        return None
    lines = case.heaviest(rows)
    copies = _copies_of(case, rows)
    change = f"Without {what_if.describe_group(seen, rows)}"
    caveat = (
        f"with the {what_if.counted(len(copies), 'copy', 'copies')} of their results out of PSUM" if len(copies) else ""
    )
    both = np.union1d(rows, copies)
    return Advice(
        "E3",
        "The Tensor Engine transposes instead of multiplying.",
        f"{len(rows)} transposes at {case.places(lines)} take {spent / total:.0%} of its time "
        f"({int(moved.sum())} of {int(hardware.sum())} FLOPs).",
        "swap stationary and moving so that the product comes out in the layout its consumer needs, or load it transposed.",
        case.numbers(lines),
        case.prove(lambda: what_if.fused_away(seen, both, change, caveat)),
    )


def _copies_of(case: Case, rows: Ints) -> Ints:
    """Copies that bring nothing but the results of `rows` out of PSUM."""
    producers, consumers = case.seen.results
    mine = np.zeros(len(case.seen.trace), np.bool_)
    mine[rows] = True
    theirs = np.bincount(consumers[mine[producers]], minlength=len(case.seen.trace))
    every = np.bincount(consumers, minlength=len(case.seen.trace))
    moves = np.isin(case.seen.opcode, ("tensor_copy", "activation")) & ((case.seen.flags & Flag.PSUM_SRC) != 0)
    return np.flatnonzero(moves & (theirs > 0) & (theirs == every))


@rule("E4")
def matvec(case: Case) -> Advice | None:
    """The large operand streams as the moving one past a few stationary columns."""
    seen = case.seen
    m, n = seen.trace.column(Inst.AUX), seen.trace.column(Inst.FREE)
    rows = np.flatnonzero(matmuls(case) & (m <= SHORT) & (n >= FULL))
    if not _worth(case, rows):
        return None
    lines = case.heaviest(rows)

    def trial() -> Counterfactual:
        # 128 columns become stationary (fast load) per step of at least 64 cycles.
        table = seen.trace.instructions.copy()
        step = seen.machine.tensor_min_interval_cycles
        table[rows, Inst.FREE] = np.ceil(n[rows] / FULL) * np.maximum(step, m[rows])
        table[rows, Inst.AUX] = FULL
        change = f"With the operands of {what_if.describe_group(seen, rows)} swapped"
        return what_if.replay(seen, "operands swapped", change, trace=replace(seen.trace, instructions=table))

    return Advice(
        "E4",
        "A matrix-vector product streams the matrix.",
        f"{len(rows)} matmuls at {case.places(lines)} have {int(np.median(m[rows]))} stationary columns and stream "
        f"{int(np.median(n[rows]))}: 128 columns take 128 cycles, as stationary they would take 64.",
        "make the large operand stationary and the vector moving.",
        case.numbers(lines),
        case.prove(trial),
    )


@rule("E5")
def sbuf_accumulation(case: Case) -> Advice | None:
    """Partial products are added in SBUF instead of accumulating in PSUM."""
    seen = case.seen
    producers, consumers = seen.results
    from_matmul = np.zeros(len(seen.trace), np.bool_)
    from_matmul[consumers[matmuls(case)[producers]]] = True
    operands = seen.trace.operands
    first, count = seen.trace.column(Inst.FIRST_OPERAND), seen.trace.column(Inst.OPERANDS)
    candidates = np.flatnonzero(
        np.isin(seen.opcode, ("tensor_tensor", "scalar_tensor_tensor"))
        & from_matmul
        & ((seen.flags & Flag.PSUM_SRC) != 0)
    )
    rows = np.array([i for i in candidates if _adds_to_itself(operands[first[i] : first[i] + count[i]])], np.int64)
    if len(rows) < 2:
        return None
    lines = case.heaviest(rows)
    return Advice(
        "E5",
        "Partial products are added up on the Vector Engine.",
        f"{len(rows)} {seen.opcode[rows[0]]} at {case.places(lines)} add a PSUM tile to a running sum in SBUF.",
        "accumulate in PSUM: let all matmuls of the K loop write the same PSUM tile and evict it once.",
        case.numbers(lines),
        case.prove(
            lambda: what_if.fused_away(
                seen, rows, f"Without {what_if.describe_group(seen, rows)}", "one copy out of PSUM comes on top"
            )
        ),
    )


def _adds_to_itself(operands: NDArray[np.int64]) -> bool:
    written = operands[(operands[:, Operand.FLAGS] & 1) != 0, Operand.BUFFER]
    read = operands[operands[:, Operand.FLAGS] == 2, Operand.BUFFER]
    return bool(np.isin(written, read).any())


@rule("E7")
def float32_matmul(case: Case) -> Advice | None:
    """Matmuls of float32 operands, at a quarter of the rate."""
    seen = case.seen
    rows = np.flatnonzero(matmuls(case) & ((seen.flags & Flag.FP32) != 0))
    if not _worth(case, rows):
        return None
    lines = case.heaviest(rows)
    return Advice(
        "E7",
        "Matmuls run in float32.",
        f"{len(rows)} matmuls at {case.places(lines)} take {seen.machine.tensor_fp32_passes:.0f} passes each.",
        "cast the operands to bfloat16, only if the user's precision policy allows it.",
        case.numbers(lines),
        case.prove(lambda: what_if.other_dtype(seen)),
    )


@rule("E10")
def serialisation_stall(case: Case) -> Advice | None:
    """Neither array nor memory is well used, though the arithmetic intensity would allow it."""
    profile = case.seen.profile
    if not matmuls(case).any() or max(profile.mfu_estimated_percent, profile.mbu_estimated_percent) >= LOW_USE:
        return None
    if profile.mfu_max_achievable_estimated_percent < HIGH_CEILING or profile.pipeline_us > 0.67 * profile.latency_us:
        return None
    rows = np.flatnonzero(matmuls(case))
    lines = case.heaviest(rows, case.seen.timeline.waited_ns)
    if not (edits.repeated_loads(case.seen.trace, case.seen.is_load) >= 0).any():
        return None  # nothing to hoist: T5 and P2 say whom it waits for

    return Advice(
        "E10",
        "The Tensor Engine waits in turn with everything else; this is no memory wall.",
        f"MFU {profile.mfu_estimated_percent:.0f}%, MBU {profile.mbu_estimated_percent:.0f}%, while the arithmetic intensity "
        f"allows {profile.mfu_max_achievable_estimated_percent:.0f}%; its matmuls stand at {case.places(lines)}.",
        "load both operands before the loops that reuse them, put K innermost, and give loads and sums tiles of their own.",
        case.numbers(lines),
        case.prove(lambda: what_if.loads_hoisted(case.seen)),
    )


@rule("E8")
def partition_reductions(case: Case) -> Advice | None:
    """Reductions across partitions on GpSimd while the Tensor Engine has time."""
    seen = case.seen
    rows = np.flatnonzero(seen.opcode == "tensor_partition_reduce")
    idle = min((100 - e.active_percent for e in seen.profile.engines if e.engine == "Tensor"), default=0.0)
    if not len(rows) or case.share(float(seen.held_ns[rows].sum())) < SHARE or idle < 50:
        return None
    lines = case.heaviest(rows)

    def trial() -> Counterfactual:
        # A matmul with a column of ones: the tile is the stationary operand, or streams past it.
        table = seen.trace.instructions.copy()
        table[rows, Inst.ENGINE] = int(Engine.TENSOR)
        table[rows, Inst.AUX] = 1
        table[rows, Inst.OPCODE] = BY_NAME["nc_matmul"].code
        table[rows, Inst.FLAGS] = 0
        change = f"With {what_if.describe_group(seen, rows)} as matmuls with ones"
        caveat = "copies out of PSUM come on top"
        return what_if.replay(
            seen, "other engine", change, trace=replace(seen.trace, instructions=table), caveat=caveat
        )

    return Advice(
        "E8",
        "Reductions across partitions run on GpSimd while the Tensor Engine idles.",
        f"{len(rows)} at {case.places(lines)} take {float(seen.held_ns[rows].sum()) / 1e3:.2f} us; the Tensor Engine is idle "
        f"{idle:.0f}%.",
        "multiply by a matrix of ones on the Tensor Engine: it sums over partitions (and broadcasts) in one pass.",
        case.numbers(lines),
        case.prove(trial),
    )
