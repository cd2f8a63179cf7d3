"""Whether a trace can be judged at all: its tables fit together, it does something, and no wait goes in a circle."""

from __future__ import annotations

import numpy as np

from tools.sim.instruction import OPCODES, Engine, Inst, Operand, Trace
from tools.sim.timing import Edges


class TraceError(ValueError):
    """The trace can't be timed or explained; the message is one sentence with the instruction at fault."""


def check(trace: Trace) -> None:
    """Refuse a trace from which no honest report can be made.

    Raises:
        TraceError: no instruction, a table that points outside another one, or nothing stored to HBM.
    """
    table, operands = trace.instructions, trace.operands
    if not len(trace):
        raise TraceError("the trace holds no instruction: the kernel did nothing; make it load, compute and store")
    _within(table[:, Inst.OPCODE], len(OPCODES), "opcode", "the instruction set")
    _within(table[:, Inst.LINE], len(trace.lines), "line", "the line table", lowest=-1)
    _within(table[:, Inst.ENGINE], len(Engine), "engine", "the engines")
    _within(table[:, Inst.CORE], max(trace.cores, 1), "core", "the launch's cores")
    first, count = table[:, Inst.FIRST_OPERAND], table[:, Inst.OPERANDS]
    expected = np.concatenate([[0], np.cumsum(count)[:-1]])
    if (count < 0).any() or (first != expected).any() or int(count.sum()) != len(operands):
        bad = int(np.argmax((first != expected) | (count < 0)))
        raise TraceError(
            f"instruction {bad} of the trace claims operands {int(first[bad])}..{int(first[bad] + count[bad])}, which "
            f"don't follow those of its predecessor; the trace was cut or edited"
        )
    if len(operands):
        _within(operands[:, Operand.BUFFER], len(trace.buffers), "operand's buffer", "the buffer table")
        bad_rows = (operands[:, Operand.ROW1] <= operands[:, Operand.ROW0]) | (
            operands[:, Operand.BYTE1] <= operands[:, Operand.BYTE0]
        )
        if bad_rows.any():
            raise TraceError(f"operand {int(np.argmax(bad_rows))} of the trace is an empty rectangle")
    in_hbm = np.array([b.space not in ("sbuf", "psum") for b in trace.buffers] or [False])
    stored = in_hbm[operands[:, Operand.BUFFER]] & ((operands[:, Operand.FLAGS] & 1) != 0) if len(operands) else []
    if not np.any(stored):
        raise TraceError(
            "the kernel stores nothing to HBM, so it has no result and its time means nothing; dma_copy the result into "
            "a shared_hbm tensor and return it"
        )


def _within(
    column: np.ndarray[tuple[int, ...], np.dtype[np.int64]], size: int, what: str, where: str, lowest: int = 0
) -> None:
    bad = (column < lowest) | (column >= size)
    if bad.any():
        index = int(np.argmax(bad))
        raise TraceError(
            f"{what} {int(column[index])} at row {index} of the trace is outside {where} (0 to {size - 1})"
        )


def check_order(trace: Trace, waits: Edges) -> None:
    """Refuse waits that can never end.

    Args:
        trace: the program; each engine issues its instructions in program order.
        waits: who waits for whom.

    Raises:
        TraceError: the waits and the order of issue form a cycle; names an instruction on it.
    """
    n = len(trace)
    for column in (waits.before, waits.after):
        _within(np.asarray(column, np.int64), n, "instruction", "the trace")
    before, after = np.asarray(waits.before, np.int64), np.asarray(waits.after, np.int64)
    backwards = before >= after
    if not backwards.any():
        return  # program order is a valid order: no cycle is possible
    lane = trace.column(Inst.CORE) * len(Engine) + trace.column(Inst.ENGINE)
    order = np.argsort(lane, kind="stable")
    same = lane[order][1:] == lane[order][:-1]
    before = np.concatenate([before, order[:-1][same]])
    after = np.concatenate([after, order[1:][same]])
    missing = np.bincount(after, minlength=n)
    by = np.argsort(before, kind="stable")
    successors = after[by].tolist()
    pointer = np.concatenate([[0], np.cumsum(np.bincount(before, minlength=n))]).tolist()
    left = missing.tolist()
    ready = [i for i in range(n) if not left[i]]
    done = 0
    while ready:
        i = ready.pop()
        done += 1
        for s in successors[pointer[i] : pointer[i + 1]]:
            left[s] -= 1
            if not left[s]:
                ready.append(s)
    if done < n:
        stuck = next(i for i in range(n) if left[i])
        file, line = trace.lines[int(trace.instructions[stuck, Inst.LINE])] if trace.lines else ("", 0)
        raise TraceError(
            f"the waits form a cycle: {trace.opcode_name(stuck)} (instruction {stuck}, {file}:{line}) waits for something "
            f"that waits for it; {n - done} of {n} instructions could never start"
        )
