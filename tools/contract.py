"""What a task forbids although the values come out right: computing in narrower types than it allows.

A cast to a narrower type can hide under a tolerance; the recorded instruction stream shows it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tools.roofline import MANTISSA, narrowest_type
from tools.sim import dtypes
from tools.sim.instruction import OPCODES, Flag, Inst, Operand, Trace
from tools.task import Finding, Task

_BITS = np.array([MANTISSA.get(str(d), 99) for d in dtypes.ALL] + [99])
"""Mantissa bits by type code; integers and packed types never count as narrow."""


def precision_findings(trace: Trace, task: Task) -> tuple[Finding, ...]:
    """Places where the kernel computes on data of the inputs in a type narrower than the task allows."""
    if not len(trace.operands):
        return ()
    kinds = np.array([op.kind for op in OPCODES])[trace.column(Inst.OPCODE)]
    moves = (trace.column(Inst.FLAGS) & Flag.TRANSPOSE) != 0
    owner = np.repeat(np.arange(len(trace)), trace.column(Inst.OPERANDS))
    bits = _BITS[trace.operands[:, Operand.DTYPE]]
    tainted = _derived(trace, owner)[trace.operands[:, Operand.BUFFER]]
    storage = min(MANTISSA[narrowest_type(task)], *(MANTISSA.get(d, 99) for d in (task.output_dtypes or ("float32",))))
    narrow = tainted & (bits < storage)
    operand = ((trace.operands[:, Operand.FLAGS] & 1) == 0) & ((kinds == "matmul") & ~moves)[owner]
    if task.precision == "fp32":
        narrow |= tainted & operand & (bits < MANTISSA["float32"])
    found: dict[int, Finding] = {}
    for row in np.flatnonzero(narrow):
        line = int(trace.instructions[owner[row], Inst.LINE])
        if line in found:
            continue
        name = str(dtypes.ALL[int(trace.operands[row, Operand.DTYPE])])
        wanted = "float32" if operand[row] and task.precision == "fp32" else narrowest_type(task)
        text = trace.sources.get("kernel.py", "").splitlines()
        number = trace.lines[line][1] if 0 <= line < len(trace.lines) else None
        found[line] = Finding(
            code="KW-PRECISION",
            message=f"{trace.opcode_name(int(owner[row]))} works on {name} data; the task allows nothing narrower than {wanted}",
            line=number,
            source=text[number - 1].strip() if number and number <= len(text) else "",
            found=name,
            limit=wanted,
            fix=f"keep the data in {wanted}; precision is the task's choice, not the kernel's",
        )
    return tuple(list(found.values())[:8])


def _derived(trace: Trace, owner: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which buffers hold data that comes from the kernel's inputs."""
    buffers, flags = trace.operands[:, Operand.BUFFER], trace.operands[:, Operand.FLAGS]
    held = np.array([b.role == "input" for b in trace.buffers] or [False])
    reads, writes = (flags & 2) != 0, (flags & 1) != 0
    while True:
        touched = np.zeros(len(trace), np.bool_)
        np.logical_or.at(touched, owner[reads], held[buffers[reads]])
        grown = held.copy()
        np.logical_or.at(grown, buffers[writes], touched[owner[writes]])
        if (grown == held).all():
            return held
        held = grown
