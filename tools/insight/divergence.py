"""Where the values of a kernel stop agreeing with the steps of its reference.

Of the instructions that a wrong element depends on, each result (float64 shadow, so rounding is no matter) is looked for
among the reference's intermediate values. Kernels may take other ways in between, so a result that agrees with nothing is
no fault if something computed from it agrees again. The error enters at the first result after which nothing agrees.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tools.insight.lockstep import lockstep
from tools.insight.observed import READS, WRITES, Observed
from tools.insight.steps import CLOSE, Agreement, Step, agreement
from tools.program import Program
from tools.sim.instruction import Operand
from tools.sim.machine import Machine
from tools.sim.rectangles import area, distinct
from tools.sim.tensor import Tensor

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

MOST_WATCHED = 1500
"""Instructions of the slice whose results are looked for, the last ones."""
MOVES = frozenset({"dma_copy", "tensor_copy", "nc_transpose", "dma_transpose", "tensor_copy_predicated"})
"""Instructions that move values and don't compute."""


@dataclass(frozen=True, slots=True)
class Divergence:
    """Where agreement ends.

    Attributes:
        line: id of the source line at which the error enters.
        reason: why this line, in words.
        others: ids of further lines that may be at fault, the likeliest first.
    """

    line: int
    reason: str
    others: tuple[int, ...]


def divergence(
    program: Program,
    seen: Observed,
    inputs: Sequence[NDArray[np.generic]],
    steps: Sequence[Step],
    store: int,
    mine: Bools,
    target: Machine,
) -> Divergence | None:
    """Find where the values that reach one wrong store stop agreeing with the reference.

    Args:
        program: the recorded kernel.
        seen: its timed trace.
        inputs: one array for each input.
        steps: the reference's intermediate values on these inputs, its result last, and the inputs themselves.
        store: the instruction that stores wrong elements.
        mine: which instructions its values depend on, itself included.
        target: the machine.

    Returns:
        None where nothing agrees, so nothing can be told.
    """
    rows = np.flatnonzero(mine)[-MOST_WATCHED:]
    held = _held(program, inputs, target, rows, steps)
    agrees = {int(i): held.get(int(i), "same") for i in rows}  # what writes no float has nothing to disagree
    if not any(isinstance(a, Agreement) for a in agrees.values()):
        return None
    final = agrees[store]
    producers = _producers(seen, agrees)
    if isinstance(final, Agreement):
        return _misplaced(seen, producers, agrees, store, final, steps)
    open_ended = _open_ended(agrees, producers)
    first = next((i for i in open_ended if all(agrees[p] is not None for p in producers[i])), open_ended[0])
    rest = tuple(dict.fromkeys(int(seen.line[i]) for i in open_ended if seen.line[i] != seen.line[first]))
    if str(seen.opcode[first]) in MOVES and producers[first] and first != open_ended[-1]:
        return _assembled(seen, producers, first, rest)
    if str(seen.opcode[first]) in MOVES and len(producers[first]) > 1:
        return _assembled(seen, producers, first, rest)
    source = _operands(seen, producers[first], agrees)
    reason = f"{source}, but what it makes of that and all that follows agree with no step of the reference"
    back = tuple(dict.fromkeys(int(seen.line[p]) for p in sorted(producers[first], reverse=True)))
    return Divergence(int(seen.line[first]), reason, tuple(dict.fromkeys((*rest, *back))))


def _held(
    program: Program, inputs: Sequence[NDArray[np.generic]], target: Machine, rows: Ints, steps: Sequence[Step]
) -> dict[int, Agreement | str | None]:
    """What each of `rows` wrote: a step, `same` (one value everywhere, which tells nothing), or None: no step."""
    factors = _factors(inputs)
    found: dict[int, Agreement | str | None] = {}

    def look(index: int, outs: Sequence[Tensor]) -> None:
        results: list[Agreement | str | None] = []
        for out in outs:
            if not out.dtype.is_float or out.rows is not None:
                continue
            values = np.asarray(out.view(), np.float64)
            plain = not np.isfinite(values).all() or np.ptp(values) == 0
            results.append("same" if plain and np.isfinite(values).all() else agreement(values, steps, factors))
        if results:
            found[index] = None if None in results else next((r for r in results if r != "same"), "same")

    lockstep(program, inputs, target, watch=(frozenset(rows.tolist()), look))
    return found


def _factors(inputs: Sequence[NDArray[np.generic]]) -> tuple[float, ...]:
    """Factors by which sums and means differ: the sizes of the inputs' axes."""
    sizes = sorted({size for a in inputs for size in a.shape if size > 1})[:6]
    return tuple(float(f) for size in sizes for f in (size, -size))


def _producers(seen: Observed, known: dict[int, Agreement | str | None]) -> dict[int, list[int]]:
    before, after = seen.flows
    found: dict[int, list[int]] = {i: [] for i in known}
    for b, a in zip(before.tolist(), after.tolist()):
        if a in found and b in found:
            found[a].append(b)
    return found


def _open_ended(agrees: dict[int, Agreement | str | None], producers: dict[int, list[int]]) -> list[int]:
    """Instructions without agreement, from whose results nothing that agrees was computed; in program order."""
    leads = dict.fromkeys(agrees, False)
    for i in sorted(agrees, reverse=True):
        if leads[i] or isinstance(agrees[i], Agreement):
            for p in producers[i]:
                leads[p] = True
    return [i for i in sorted(agrees) if agrees[i] is None and not leads[i]]


def _operands(seen: Observed, rows: Sequence[int], agrees: dict[int, Agreement | str | None]) -> str:
    """What the operands hold, in words."""
    held = {seen.where(int(seen.line[p])): a.text for p in rows if isinstance(a := agrees[p], Agreement)}
    if not held:
        return "nothing before it differs from the reference"
    return "it is given " + " and ".join(f"{text} (from {where})" for where, text in list(held.items())[:3])


def _assembled(seen: Observed, producers: dict[int, list[int]], first: int, rest: tuple[int, ...]) -> Divergence:
    """A move can't compute anything wrong: the tile was put together wrongly, or the move takes the wrong part."""
    own = int(seen.line[first])
    pieces = tuple(dict.fromkeys(int(seen.line[p]) for p in producers[first]))
    reason = (
        f"each piece that it puts into the tile agrees with the reference, the whole as {seen.where(own)} moves it on doesn't: "
        f"the pieces lie in the wrong places, or aren't transposed"
    )
    return Divergence(pieces[-1], reason, tuple(dict.fromkeys((own, *pieces[:-1][::-1], *rest))))


def _misplaced(
    seen: Observed,
    producers: dict[int, list[int]],
    agrees: dict[int, Agreement | str | None],
    store: int,
    final: Agreement,
    steps: Sequence[Step],
) -> Divergence:
    """What is stored agrees with a step: right values in the wrong place, or a step that isn't the result."""
    back = tuple(dict.fromkeys(int(seen.line[p]) for p in sorted(producers[store], reverse=True)))
    own = int(seen.line[store])
    ends, result = final.step.values, steps[-1].values
    is_result = ends.shape == result.shape and np.allclose(ends, result, CLOSE, 0.0, equal_nan=True)
    if is_result and not final.how:
        reason = "what it stores is a part of the reference's result, but of another part than where it is stored"
        return Divergence(own, reason, back)
    what = "the reference's result" if is_result else "an intermediate step of the reference"
    line = f" (line {final.step.line} of the reference)" if final.step.line else " (an input)"
    reason = f"what it stores is {final.text}{line}, {what}{' up to that' if is_result else ', not its result'}"
    if is_result:  # the factor came in where the value was computed
        return Divergence(back[0] if back else own, reason, (own, *back[1:]))
    return Divergence(own, reason, back)


def unread_regions(seen: Observed, mine: Bools) -> list[tuple[str, float, int]]:
    """Inputs of which a part is never read though wrong elements depend on them: (name, share read, line id)."""
    operands = seen.trace.operands
    reads = (operands[:, Operand.FLAGS] & READS) != 0
    found = []
    for b in seen.trace.buffers:
        if b.role != "input" or not b.row_bytes:
            continue
        rows = np.flatnonzero((operands[:, Operand.BUFFER] == b.id) & reads)
        theirs = rows[mine[seen.owner[rows]]]
        widths = np.unique(operands[rows, Operand.ROW_BYTES])
        written = ((operands[:, Operand.BUFFER] == b.id) & ((operands[:, Operand.FLAGS] & WRITES) != 0)).any()
        if not len(theirs) or len(widths) > 1 or widths[0] <= 0 or written:
            continue
        share = area(distinct(operands[rows][:, Operand.ROW0 : Operand.BYTE1 + 1])) / (b.row_bytes * b.partitions)
        if share < 1:
            found.append((b.name or f"number {b.id}", share, int(seen.line[seen.owner[theirs[-1]]])))
    return found
