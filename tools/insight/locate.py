"""Where a wrong result comes from: the line at which the error entered.

Four questions in turn. Did the wrong elements read memory that was never written? Then the line that read it is to blame.
Did a NaN or infinity arise from finite operands? Then that line made it. Is the float64 shadow
right where the hardware's result is wrong? Then rounding is to blame, and the line that rounded most. Otherwise the
kernel computes something else. Then three things tell where: parts of an input that nothing reads, the first value that
agrees with no step of the reference (`divergence`), and the lines that only the wrong elements went through.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tools.compare import Comparison, compare
from tools.figures import percent
from tools.insight.divergence import divergence, unread_regions
from tools.insight.lockstep import Lockstep, lockstep
from tools.insight.observed import READS, WRITES, Observed
from tools.insight.precision import NOISE
from tools.insight.steps import Step
from tools.program import Program, _tensor_rows, replay
from tools.sim.instruction import BufferInfo, Operand
from tools.sim.machine import Machine, machine
from tools.task import Tolerance

Ints = NDArray[np.int64]

Verdict = Literal["agrees", "not finite", "uninitialised", "rounding", "logic"]

MOST_SUSPECTS = 5
_ELSE = "Even exact arithmetic gives this result, so the kernel computes something else than the reference"


@dataclass(frozen=True, slots=True)
class Suspect:
    """A source line that may be at fault, and why."""

    line: int
    where: str
    source: str
    reason: str


@dataclass(frozen=True, slots=True)
class Location:
    """What went wrong and where.

    Attributes:
        verdict: `agrees`, `not finite`, `uninitialised`, `rounding` or `logic`.
        line: line number of the prime suspect; 0 when none can be singled out.
        sentence: the finding.
        pattern: what the comparison with the reference says about the wrong output; empty without one.
        suspects: further lines, the most likely first.
    """

    verdict: Verdict
    line: int
    sentence: str
    pattern: str
    suspects: tuple[Suspect, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


_AGREES = Location("agrees", 0, "Every output agrees with the reference within the tolerance.", "", ())


def locate(
    program: Program,
    inputs: Sequence[NDArray[Any]],
    wanted: Sequence[NDArray[Any]],
    tolerance: Tolerance,
    target: Machine | None = None,
    steps: Callable[[], Sequence[Step]] | None = None,
) -> Location:
    """Name the line at which a recorded kernel's error enters.

    Args:
        program: the recorded kernel.
        inputs: one array for each input.
        wanted: the reference's outputs for these inputs.
        tolerance: what counts as equal.
        target: the machine; by default the one it was recorded for.
        steps: gives the reference's intermediate values on these inputs (`tools.insight.steps`); asked only for a logic error.

    Raises:
        ValueError: the number or shapes of the outputs differ from the reference's.
        KernelError, Malformed: see `lockstep`.
    """
    there = target or machine(program.trace.target)
    outputs = replay(program, inputs, there).outputs
    wrong, result = _first_wrong(outputs, wanted, tolerance, inputs)
    if result is None:
        return _AGREES
    run = lockstep(program, inputs, there)
    seen = Observed.of(program.trace, there)
    pattern = f"output {wrong}: {result.detail}"
    bad = _wrong_mask(run.outputs[wrong], wanted[wrong], tolerance)
    stores = _stores(program, seen, wrong, bad)
    slices = _backward(seen, stores[0])
    found = _uninitialised(seen, run, slices, pattern) or _not_finite(seen, run, slices, pattern)
    if found is not None:
        return found
    exact = compare(run.shadow[wrong], wanted[wrong], tolerance, inputs)
    if exact.passed:
        return _rounding(seen, run, slices, result, pattern)
    known = list(steps()) if steps is not None and len(stores[0]) else []
    if not known:
        return _logic(seen, stores, slices, pattern)
    known += [Step(b.name, 0, np.asarray(a, np.float64)) for b, a in zip(_inputs(seen), inputs)]
    known.append(Step("the result", 0, np.asarray(wanted[wrong], np.float64)))
    return _logic(seen, stores, slices, pattern, _Evidence(program, inputs, known, there))


def locate_by_trace(
    program: Program,
    outputs: Sequence[NDArray[Any]],
    inputs: Sequence[NDArray[Any]],
    wanted: Sequence[NDArray[Any]],
    tolerance: Tolerance,
    findings: Sequence[str] = (),
) -> Location:
    """Name the line at which an error enters as far as the instruction stream tells, for records that can't be replayed.

    Args:
        program: the recorded kernel; only its trace and the places of its outputs are used.
        outputs: what it returned for `inputs`.
        inputs: one array for each input.
        wanted: the reference's outputs.
        tolerance: what counts as equal.
        findings: errors and warnings of the run, in words.

    Raises:
        ValueError: the number or shapes of the outputs differ from the reference's.
    """
    wrong, result = _first_wrong(outputs, wanted, tolerance, inputs)
    if result is None:
        return _AGREES
    pattern = f"output {wrong}: {result.detail}"
    seen = Observed.of(program.trace, machine(program.trace.target))
    stores = _stores(program, seen, wrong, _wrong_mask(outputs[wrong], wanted[wrong], tolerance))
    found = _logic(seen, stores, _backward(seen, stores[0]), pattern)
    why = f"Without a float64 shadow ({program.opaque}) only the instruction stream tells: "
    sentence = found.sentence.removeprefix(f"{_ELSE}; ")
    unset = next((f for f in findings if "KW-UNINITIALISED" in f), "")
    return replace(found, sentence=f"{unset + ' ' if unset else ''}{why}{sentence}")


def _first_wrong(
    outputs: Sequence[NDArray[Any]],
    wanted: Sequence[NDArray[Any]],
    tolerance: Tolerance,
    inputs: Sequence[NDArray[Any]],
) -> tuple[int, Comparison | None]:
    """The first output that differs from the reference's, and how; (-1, None) when all agree.

    Raises:
        ValueError: the number or shapes of the outputs differ from the reference's.
    """
    if len(outputs) != len(wanted):
        raise ValueError(f"the kernel returns {len(outputs)} outputs, the reference {len(wanted)}")
    results = [compare(got, want, tolerance, inputs) for got, want in zip(outputs, wanted)]
    return next(((k, r) for k, r in enumerate(results) if not r.passed), (-1, None))


def _wrong_mask(got: NDArray[Any], want: NDArray[Any], tolerance: Tolerance) -> NDArray[np.bool_]:
    found, wanted = np.asarray(got, np.float64), np.asarray(want, np.float64)
    with np.errstate(all="ignore"):
        scale = float(np.sqrt(np.mean(np.square(wanted))))
        mask = ~(np.abs(found - wanted) <= tolerance.atol * scale + tolerance.rtol * np.abs(wanted))
    return mask if mask.any() else np.ones_like(mask)  # wrong as a whole only (rel_l2)


def _stores(program: Program, seen: Observed, output: int, bad: NDArray[np.bool_]) -> tuple[Ints, Ints]:
    """Instructions that wrote wrong elements of an output, and those that wrote only right ones."""
    row = _tensor_rows(program.tensors)[program.outputs[output]]
    buffer, offset, strides = row[0], row[2], row[6]
    operands = seen.trace.operands
    mine = np.flatnonzero((operands[:, Operand.BUFFER] == buffer) & ((operands[:, Operand.FLAGS] & WRITES) != 0))
    info = seen.trace.buffers[buffer]
    item = info.row_bytes * info.partitions // int(np.prod(info.shape))
    place = np.full(bad.shape, offset, np.int64)
    for axis, stride in enumerate(strides):
        shape = [1] * bad.ndim
        shape[axis] = bad.shape[axis]
        place = place + (np.arange(bad.shape[axis]) * stride).reshape(shape)
    at = place[bad] * item
    guilty: list[int] = []
    innocent: list[int] = []
    for k in mine.tolist():
        width = int(operands[k, Operand.ROW_BYTES])
        rows, columns = at // width, at % width
        hit = (
            (rows >= operands[k, Operand.ROW0])
            & (rows < operands[k, Operand.ROW1])
            & (columns >= operands[k, Operand.BYTE0])
            & (columns < operands[k, Operand.BYTE1])
        )
        (guilty if hit.any() else innocent).append(int(seen.owner[k]))
    return np.array(guilty, np.int64), np.array(innocent, np.int64)


def _backward(seen: Observed, rows: Ints) -> NDArray[np.bool_]:
    """Instructions on whose results `rows` depend, themselves included."""
    producers, consumers = seen.flows
    order = np.argsort(consumers, kind="stable")
    producers, consumers = producers[order], consumers[order]
    start = np.searchsorted(consumers, np.arange(len(seen.trace) + 1))
    marked = np.zeros(len(seen.trace), np.bool_)
    marked[rows] = True
    queue = rows.tolist()
    while queue:
        i = queue.pop()
        for p in producers[start[i] : start[i + 1]].tolist():
            if not marked[p]:
                marked[p] = True
                queue.append(p)
    return marked


def _suspect(seen: Observed, line: int, reason: str) -> Suspect:
    return Suspect(seen.number(line), seen.where(line), seen.source(line), reason)


def _not_finite(seen: Observed, run: Lockstep, mine: NDArray[np.bool_], pattern: str) -> Location | None:
    first = next((i for i in run.bad if mine[i]), None)
    if first is None:
        return None
    line = int(seen.line[first])
    low, high = run.ranges[first]
    sentence = (
        f"{seen.where(line)} makes a NaN or infinity out of finite operands (between {low:.4g} and {high:.4g}) for the first "
        f"time: {seen.source(line)}"
    )
    others = dict.fromkeys(int(seen.line[i]) for i in run.bad if mine[i])
    suspects = tuple(_suspect(seen, k, "makes NaN or infinity") for k in others if k != line)
    return Location("not finite", seen.number(line), sentence, pattern, suspects[:MOST_SUSPECTS])


def _uninitialised(seen: Observed, run: Lockstep, mine: NDArray[np.bool_], pattern: str) -> Location | None:
    lines = {seen.number(int(k)) for k in np.unique(seen.line[mine])}
    found = [
        d
        for d in run.diagnostics
        if d.code == "KW-UNINITIALISED" and d.where and lines & {w.line for w in (d.where, *d.related[1:])}
    ]
    if not found:
        return None
    first = found[0]
    assert first.where is not None
    return Location("uninitialised", first.where.line, str(first), pattern, _writers(seen, first.where.line, mine))


def _writers(seen: Observed, line: int, mine: NDArray[np.bool_]) -> tuple[Suspect, ...]:
    """Lines that write the tiles which a line reads: one of them may write the wrong part, or too little."""
    operands = seen.trace.operands
    at = np.array([seen.number(k) == line for k in range(len(seen.trace.lines))])[seen.line] & mine
    read = operands[at[seen.owner] & ((operands[:, Operand.FLAGS] & READS) != 0), Operand.BUFFER]
    tiles = np.zeros(len(seen.trace.buffers), np.bool_)
    tiles[read[~seen.hbm_buffer[read]]] = True
    writes = tiles[operands[:, Operand.BUFFER]] & ((operands[:, Operand.FLAGS] & WRITES) != 0)
    lines = [int(k) for k in dict.fromkeys(seen.line[seen.owner[writes]].tolist()) if seen.number(int(k)) != line]
    return tuple(_suspect(seen, k, "writes a tile that is read there") for k in lines[::-1][:MOST_SUSPECTS])


def _rounding(seen: Observed, run: Lockstep, mine: NDArray[np.bool_], result: Comparison, pattern: str) -> Location:
    lost = np.where(mine[: len(run.local)], run.local, 0.0)
    worst = int(lost.argmax()) if len(lost) else 0
    line = int(seen.line[worst])
    per_line: dict[int, float] = {}
    for i in np.flatnonzero(lost > NOISE).tolist():
        k = int(seen.line[i])
        per_line[k] = max(per_line.get(k, 0.0), float(lost[i]))
    dtype = run.lines[line].dtype if line in run.lines else ""
    sentence = (
        f"Exact arithmetic agrees with the reference, so rounding is to blame: most is lost at {seen.where(line)}, where "
        f"{seen.opcode[worst]} to {dtype} adds a relative error of {float(lost[worst]):.1e} (output error "
        f"{result.max_rel_error:.1e}): {seen.source(line)}"
    )
    ranked = sorted((k for k in per_line if k != line), key=lambda k: -per_line[k])
    suspects = tuple(_suspect(seen, k, f"adds a relative error of {per_line[k]:.1e}") for k in ranked)
    return Location("rounding", seen.number(line), sentence, pattern, suspects[:MOST_SUSPECTS])


@dataclass(frozen=True, slots=True)
class _Evidence:
    """What a logic error can be compared with."""

    program: Program
    inputs: Sequence[NDArray[Any]]
    steps: Sequence[Step]
    target: Machine


def _inputs(seen: Observed) -> list[BufferInfo]:
    return [b for b in seen.trace.buffers if b.role == "input"]


def _logic(
    seen: Observed,
    stores: tuple[Ints, Ints],
    mine: NDArray[np.bool_],
    pattern: str,
    evidence: _Evidence | None = None,
) -> Location:
    """The kernel computes something else than the reference: the lines that may do so, ranked."""
    guilty, innocent = stores
    if not len(guilty):
        sentence = "No instruction stores to the wrong elements: they are never written."
        return Location("logic", 0, sentence, pattern, ())
    found = _unread(seen, mine)
    if evidence is not None:
        first = int(guilty[0])
        slice_of = _backward(seen, guilty[:1])
        split = divergence(evidence.program, seen, evidence.inputs, evidence.steps, first, slice_of, evidence.target)
        if split is not None:
            found.append(_suspect(seen, split.line, split.reason))
            found += [_suspect(seen, k, "computes the wrong elements") for k in split.others]
    else:
        found += _passed(seen, innocent, mine)
    last = int(seen.line[guilty[-1]])
    sentence = _ELSE
    if found:
        sentence += f"; {found[0].where} stands out ({found[0].reason}): {found[0].source}"
    else:
        found = [_suspect(seen, last, "stores the wrong elements")]
        sentence += (
            f"; right and wrong elements pass through the same lines. The wrong ones are stored at {seen.where(last)}: "
        )
        sentence += seen.source(last)
    unread = _unread_inputs(seen, mine)
    if unread:
        sentence += f" The wrong elements never depend on input {', '.join(unread)}."
    chain = dict.fromkeys(seen.line[np.flatnonzero(mine)][::-1].tolist())
    found += [_suspect(seen, int(k), "computes the wrong elements") for k in chain]
    ranked = {s.where: s for s in reversed(found)}
    suspects = [s for s in dict.fromkeys(ranked[s.where] for s in found) if s.where != found[0].where]
    return Location("logic", found[0].line, sentence, pattern, tuple(suspects[:MOST_SUSPECTS]))


def _unread(seen: Observed, mine: NDArray[np.bool_]) -> list[Suspect]:
    """Loads of inputs that are never read as a whole."""
    return [
        _suspect(seen, line, f"of input {name} only {percent(share)} is ever read, here and elsewhere")
        for name, share, line in unread_regions(seen, mine)
    ]


def _passed(seen: Observed, innocent: Ints, mine: NDArray[np.bool_]) -> list[Suspect]:
    """Lines that wrong elements passed through and right ones didn't, then those that wrong ones missed."""
    if not len(innocent):
        return []
    lines_wrong, lines_right = np.unique(seen.line[mine]), np.unique(seen.line[_backward(seen, innocent)])
    only = [int(k) for k in lines_wrong if k not in lines_right]
    missing = [int(k) for k in lines_right if k not in lines_wrong]
    return [_suspect(seen, k, "only wrong elements pass through this line") for k in only] + [
        _suspect(seen, k, "right elements pass through this line, wrong ones never do") for k in missing
    ]


def _unread_inputs(seen: Observed, mine: NDArray[np.bool_]) -> list[str]:
    """Inputs that none of these instructions reads."""
    operands = seen.trace.operands
    read = operands[mine[seen.owner] & ((operands[:, Operand.FLAGS] & READS) != 0), Operand.BUFFER]
    used = set(np.unique(read).tolist())
    return [b.name or f"number {b.id}" for b in seen.trace.buffers if b.role == "input" and b.id not in used]
