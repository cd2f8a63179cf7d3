"""E6, E9 and V10: how PSUM is emptied, filled and shared."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tools.insight import counterfactual as what_if
from tools.insight.advice import Advice, Case, rule
from tools.insight.rules.tensor import matmuls
from tools.sim.instruction import Engine, Flag, Operand
from tools.sim.timing import Wait

Ints = NDArray[np.int64]

SHARE = 0.05


@rule("E6")
def early_eviction(case: Case) -> Advice | None:
    """A PSUM tile is copied out although further matmuls still accumulate into it."""
    seen = case.seen
    rows = _evicted_early(case)
    if len(rows) < 2:
        return None
    lines = case.heaviest(rows)
    change = f"Without {what_if.describe_group(seen, rows)}"
    return Advice(
        "E6",
        "Sums leave PSUM before they are complete.",
        f"{len(rows)} {seen.opcode[rows[0]]} at {case.places(lines)} read an accumulator that later matmuls go on adding to.",
        "copy the tile out once, after the last matmul of its K loop.",
        case.numbers(lines),
        case.prove(lambda: what_if.without(seen, rows, "instruction removed", change)),
    )


def _evicted_early(case: Case) -> Ints:
    """Instructions that read a PSUM tile between two matmuls of one accumulation, for nothing else."""
    seen = case.seen
    operands = seen.trace.operands
    in_psum = np.array([b.space == "psum" for b in seen.trace.buffers] or [False])[operands[:, Operand.BUFFER]]
    product = matmuls(case)
    pending: dict[int, list[int]] = {}
    found: list[int] = []
    for k in np.flatnonzero(in_psum).tolist():
        i, buffer, flags = int(seen.owner[k]), int(operands[k, Operand.BUFFER]), int(operands[k, Operand.FLAGS])
        if product[i] and flags & 1:
            if flags == 3:
                found += pending.get(buffer, [])
            pending[buffer] = []
        elif flags == 2 and not product[i]:
            pending.setdefault(buffer, []).append(i)
        else:
            pending[buffer] = []
    return np.unique(np.array(found, np.int64))


@rule("E9")
def psum_full(case: Case) -> Advice | None:
    """Matmuls wait for the banks of tiles that are no longer needed for long."""
    seen, timeline = case.seen, case.seen.timeline
    psum = np.array([b.space == "psum" for b in seen.trace.buffers] or [False])
    operands = seen.trace.operands
    writes = np.zeros(len(seen.trace), np.bool_)
    writes[seen.owner[psum[operands[:, Operand.BUFFER]] & ((operands[:, Operand.FLAGS] & 1) != 0)]] = True
    rows = np.flatnonzero(writes & (timeline.wait == Wait.SPACE) & (timeline.waited_for >= 0))
    waited = float(timeline.waited_ns[rows].sum())
    if not len(rows) or case.share(waited) < SHARE:
        return None
    lines = case.heaviest(rows, timeline.waited_ns)
    held = case.heaviest(timeline.waited_for[rows])
    banks = seen.machine.psum_partition_bytes // 2048
    return Advice(
        "E9",
        "PSUM is over-subscribed: all banks are taken.",
        f"{waited / 1e3:.2f} us in {what_if.counted(len(rows), 'wait')} at {case.places(lines)} for one of {banks} banks of 2 KiB a partition, until "
        f"{case.places(held)} is done with an older tile.",
        "keep fewer or smaller tiles in PSUM at once: evict each as soon as its sum is complete, on whichever engine is free.",
        case.numbers(lines + held),
        case.prove(lambda: what_if.space_free(seen)),
    )


@rule("V10")
def psum_port(case: Case) -> Advice | None:
    """Vector and Scalar Engine take turns at PSUM."""
    seen, timeline = case.seen, case.seen.timeline
    touches = (seen.flags & (Flag.PSUM_SRC | Flag.PSUM_DST)) != 0
    both = np.isin(seen.engine, [int(Engine.VECTOR), int(Engine.SCALAR)])
    rows = np.flatnonzero(touches & both & (timeline.wait == Wait.PORT) & (timeline.waited_ns > 0))
    if not len(rows) or case.share(float(timeline.waited_ns[rows].sum())) < SHARE:
        return None
    lines = case.heaviest(rows, timeline.waited_ns)
    return Advice(
        "V10",
        "The Vector and Scalar Engines take turns at PSUM.",
        f"{float(timeline.waited_ns[rows].sum()) / 1e3:.2f} us in {what_if.counted(len(rows), 'wait')} at {case.places(lines)}; on "
        f"{seen.machine.name} only one of the two reaches PSUM at a time.",
        "let one engine copy tiles out of PSUM and the other work in SBUF.",
        case.numbers(lines),
        case.prove(lambda: what_if.ports_free(seen)),
    )
