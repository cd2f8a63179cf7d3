"""V6, V11 and A1: the same result by less arithmetic."""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import NDArray

from tools.insight import counterfactual as what_if
from tools.insight.advice import Advice, Case, rule
from tools.insight.rules.tensor import matmuls
from tools.sim.instruction import Flag, Inst, Operand

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

_SUM = re.compile(r"\b(?:add|sum|mean)\b")
_SQUARE = re.compile(r"\bsquare\b")
_DIVISION = re.compile(r"\b(?:multiply|divide)\b")
_EXP = re.compile(r"\bexp\b")


def _says(case: Case, pattern: re.Pattern[str]) -> Bools:
    """Instructions whose source statement matches."""
    lines = np.array([bool(pattern.search(case.seen.source(k))) for k in range(len(case.seen.trace.lines))] or [False])
    return lines[case.seen.line]


def _reads(case: Case, of: Bools) -> dict[int, list[int]]:
    """Instructions of `of` by each buffer that they read."""
    operands = case.seen.trace.operands
    found: dict[int, list[int]] = {}
    for k in np.flatnonzero(of[case.seen.owner] & (operands[:, Operand.FLAGS] == 2)).tolist():
        found.setdefault(int(operands[k, Operand.BUFFER]), []).append(int(case.seen.owner[k]))
    return found


@rule("V6")
def separate_moments(case: Case) -> Advice | None:
    """The sum and the sum of squares of one tile in separate passes."""
    seen = case.seen
    producers, consumers = seen.results
    reduces = ((seen.opcode == "tensor_reduce") | (seen.opcode == "activation_reduce")) | (
        (seen.opcode == "activation") & ((seen.flags & Flag.REDUCE) != 0)
    )
    sums = reduces & (seen.opcode == "tensor_reduce") & _says(case, _SUM)
    squares = _squares(case)
    reduced = np.zeros(len(seen.trace), np.bool_)
    reduced[producers[sums[consumers]]] = True
    squared = squares & (reduces | reduced)
    plain, twice = _reads(case, sums & ~squares), _reads(case, squared)
    both = sorted(set(plain) & set(twice))
    if not both:
        return None
    passes = np.unique(np.array([i for b in both for i in twice[b]], np.int64))
    is_pass = np.zeros(len(seen.trace), np.bool_)
    is_pass[passes] = True
    rows = np.union1d(passes, np.unique(consumers[is_pass[producers] & sums[consumers]]))
    first = np.unique(np.array([i for b in both for i in plain[b]], np.int64))
    lines = case.heaviest(np.union1d(rows, first))
    change = f"Without {what_if.describe_group(seen, rows)}"
    caveat = "bn_stats takes the pass of the plain sum; bn_aggr of its six numbers a row comes on top"
    return Advice(
        "V6",
        "Mean and variance are summed in separate passes.",
        f"{len(both)} tiles are read for their sum and again for their squares, by {len(rows) + len(first)} instructions at "
        f"{case.places(lines)}.",
        "use bn_stats and bn_aggr: mean and variance come from one pass over the tile.",
        case.numbers(lines),
        case.prove(lambda: what_if.without(seen, rows, "instructions fused", change, caveat)),
    )


def _squares(case: Case) -> Bools:
    """Instructions that square a tile: by name, or as a product with itself."""
    seen = case.seen
    operands = seen.trace.operands
    found = np.isin(seen.opcode, ("activation", "activation_reduce", "tensor_scalar")) & _says(case, _SQUARE)
    first, count = seen.trace.column(Inst.FIRST_OPERAND), seen.trace.column(Inst.OPERANDS)
    for i in np.flatnonzero((seen.opcode == "tensor_tensor") & _says(case, re.compile(r"\bmultiply\b"))).tolist():
        own = operands[first[i] : first[i] + count[i]]
        read = own[own[:, Operand.FLAGS] == 2][:, Operand.BUFFER : Operand.BYTE1 + 1]
        found[i] = len(read) == 2 and bool((read[0] == read[1]).all())
    return found


@rule("V11")
def chained_constants(case: Case) -> Advice | None:
    """Two operations with numbers, one right after the other, where one instruction has room for both."""
    seen = case.seen
    alone = np.array(["op1" not in seen.source(k) for k in range(len(seen.trace.lines))] or [False])[seen.line]
    single = (seen.opcode == "tensor_scalar") & alone
    producers, consumers = seen.results
    to_single = np.bincount(producers[single[consumers]], minlength=len(seen.trace))
    # In one engine the second waits for nobody, so the pair shows as order.
    before, after = seen.flows
    followed = np.zeros(len(seen.trace), np.bool_)
    followed[before[single[before] & single[after]]] = True
    only = (seen.consumers == 0) | (to_single == seen.consumers)
    rows = _ends_in(case, np.flatnonzero(single & followed & only))
    if not len(rows):
        return None
    lines = case.heaviest(rows)
    change = f"With {what_if.describe_group(seen, rows)} done by the tensor_scalar that follows"
    return Advice(
        "V11",
        "Operations with constants run as separate instructions.",
        f"{len(rows)} tensor_scalar at {case.places(lines)} ({seen.source(lines[0])}) feed only another tensor_scalar.",
        "fold them: tensor_scalar takes two operations (op0, op1) in one pass, and constants can be multiplied beforehand.",
        case.numbers(lines),
        case.prove(lambda: what_if.fused_away(seen, rows, change)),
    )


def _ends_in(case: Case, rows: Ints) -> Ints:
    """Every second instruction of each chain, so that none is folded into one that is folded itself."""
    before, after = case.seen.flows
    mine = np.zeros(len(case.seen.trace), np.bool_)
    mine[rows] = True
    folded = np.zeros(len(case.seen.trace), np.bool_)
    sources: dict[int, list[int]] = {}
    for b, a in zip(before[mine[after]].tolist(), after[mine[after]].tolist()):
        sources.setdefault(a, []).append(b)
    for i in rows.tolist():
        folded[i] = not any(folded[b] for b in sources.get(i, []))
    return np.flatnonzero(folded)


@rule("A1")
def early_division(case: Case) -> Advice | None:
    """Attention divides its probabilities before the second product instead of dividing the product."""
    seen = case.seen
    producers, consumers = seen.flows
    exp = np.isin(seen.opcode, ("activation", "activation_reduce")) & _says(case, _EXP)
    if not exp.any() or not matmuls(case).any():
        return None
    divides = np.isin(seen.opcode, ("tensor_scalar", "tensor_tensor", "activation")) & _says(case, _DIVISION)
    from_exp = np.zeros(len(seen.trace), np.bool_)
    from_exp[consumers[exp[producers]]] = True
    # Probabilities reach the second product directly, or through transposes and copies.
    reaches = matmuls(case).copy()
    carries = np.isin(seen.opcode, ("nc_transpose", "tensor_copy", "dma_transpose")) | (seen.law == "transpose")
    for _ in range(4):
        reaches[producers[reaches[consumers] & (carries[producers] | divides[producers])]] = True
    to_product = np.zeros(len(seen.trace), np.bool_)
    to_product[producers[reaches[consumers] & (matmuls(case) | carries)[consumers]]] = True
    free = seen.trace.column(Inst.FREE)
    rows = np.flatnonzero(divides & from_exp & to_product & (free >= 64))
    if not len(rows):
        return None
    lines = case.heaviest(rows)
    change = f"Without {what_if.describe_group(seen, rows)}"
    caveat = "dividing the narrower product comes on top"
    return Advice(
        "A1",
        "Probabilities are divided before they are multiplied with the values.",
        f"{len(rows)} {seen.opcode[rows[0]]} at {case.places(lines)} work on {int(np.median(free[rows]))} probabilities a row.",
        "multiply the plain exponentials with the values and divide the product by the row sum: it has only head-size columns.",
        case.numbers(lines),
        case.prove(lambda: what_if.fused_away(seen, rows, change, caveat)),
    )
