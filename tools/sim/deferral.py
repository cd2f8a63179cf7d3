"""A core that puts the values of its instructions off, so that many of them can be computed together.

The kernel runs once, as ever: Python iterates, every check is made, every instruction is recorded. Only the arithmetic
waits. It is caught up on (`settle`) as soon as something needs a value (an index, a branch, a print), when an instruction's
effect doesn't follow from its operands, when one reads what was never written or writes to an argument, and when the kernel
ends. From a settlement in its midst on the kernel goes on instruction by instruction. Nothing runs twice, whatever the kernel
does besides.
"""

from __future__ import annotations

import weakref
from array import array
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tools.sim.batch import Record, Values, promising, recordable
from tools.sim.core import Core, Launch, Place, Reported
from tools.sim.errors import Diagnostic, Severity
from tools.sim.instruction import Inst, Opcode, Operand
from tools.sim.memory import Buffer
from tools.sim.repetition import repetitions
from tools.sim.steps import StepTable
from tools.sim.tensor import Tensor

_EARLY = 1 << 6
"""Instructions after which a kernel is carried out as it comes when they aren't of the kind that gains by waiting."""
_PROBE = 1 << 8
"""Instructions after which a kernel that shows no loop worth batching is carried out as it comes."""
_MOST_DEFERRED = 1 << 17
"""Instructions that are put off at most: what is remembered of them must stay small beside the data."""


class DeferringCore(Core):
    """A core that computes values late.

    Attributes:
        table: the different steps; `numbers` holds the one of each instruction that is put off.
        offsets: first element of each operand of those.
        places: where each of them was written.
        present: buffers that they use and that have memory already, by id.
    """

    def __init__(self, launch: Launch) -> None:
        super().__init__(launch)
        self.data = False
        self.table = StepTable()
        self.numbers = array("q")
        self.offsets = array("q")
        self.places: list[Place | None] = []
        self.present: dict[int, Buffer] = {}
        self.held = []
        self._begun = (0, 0)
        self._limit_deferred = _EARLY
        self._noted: list[int] = []

    def wrap(self, array: NDArray[Any], name: str, role: str = "input") -> Tensor:
        deferred, self.data = not self.data, True
        try:
            return super().wrap(array, name, role)
        finally:
            self.data = not deferred

    def report(self, code: str, message: str, severity: Severity, **details: Any) -> None:
        before = len(self.launch.diagnostics)
        super().report(code, message, severity, **details)
        if not self.data and len(self.launch.diagnostics) > before:
            self._noted += [-1] * (before - len(self._noted)) + [len(self.numbers)]

    def defer(
        self,
        op: Opcode,
        outs: tuple[Tensor, ...],
        ins: tuple[Tensor, ...],
        params: dict[str, Any] | None,
        update: bool,
    ) -> bool:
        step = None
        if recordable(op, outs, ins, params, update) and self._provable(outs):
            step = self.table.find(op, outs, ins, params)
        if step is None:
            self.settle()
            return False
        offsets = self.offsets
        for tensor in outs:
            buffer = tensor.buffer
            if buffer.pending:
                buffer.mark(tensor)
            if buffer.data is not None:
                self.present[buffer.id] = buffer
            offsets.append(tensor.offset)
        for tensor in ins:
            buffer = tensor.buffer
            if buffer.data is not None:
                self.present[buffer.id] = buffer
            offsets.append(tensor.offset)
        self.numbers.append(step.number)
        self.places.append(self.last_place)
        if len(self.places) >= self._limit_deferred:
            self._look()
        return True

    def _provable(self, outs: tuple[Tensor, ...]) -> bool:
        """Whether what the results cover can be noted without data, and none lies in the caller's memory.

        An argument may share its memory with another one, and a launch that must start again needs it as it was.
        """
        return not any(
            tensor.buffer.host is not None or (tensor.buffer.pending and min(tensor.strides) < 0) for tensor in outs
        )

    def settle(self) -> bool:
        """Compute what was put off; from here on values are computed as instructions come. Always true."""
        if not self.data:
            self._catch_up(self._values())
            self._release()
        return True

    def _look(self) -> None:
        """Decide about a long record: go on, or settle when no loop in it is worth a batch."""
        if len(self.numbers) < _PROBE and self._limit_deferred == _EARLY:
            if promising([self.table.steps[number] for number in self.numbers]):
                self._limit_deferred = _PROBE
            else:
                self.settle()
            return
        values = self._values()
        if not values.record.loops:
            self._catch_up(values)
            self._release()
        elif len(self.numbers) >= _MOST_DEFERRED:
            self._catch_up(values)
        else:
            self._limit_deferred = _MOST_DEFERRED

    # -- catching up -------------------------------------------------------------------------------------------------

    def _values(self) -> Values:
        """What was put off, its loops found."""
        row, operand = self._begun
        last, stop = row + len(self.numbers), operand + len(self.offsets)
        rows = np.array(self.builder.rows[row * len(Inst) : last * len(Inst)], np.int64)
        operands = np.array(self.builder.operand_rows[operand * len(Operand) : stop * len(Operand)], np.int64)
        steps = self.table.steps
        values = Values(
            Record(
                launch=self.launch,
                builder=self.builder,
                steps=[steps[number] for number in self.numbers],
                instructions=rows.reshape(-1, len(Inst)),
                operands=operands.reshape(-1, len(Operand)),
                offsets=np.array(self.offsets, np.int64),
                kept={buffer.id for buffer in self._alive()},
                present=self.present,
                places=self.places,
                state=self,
            )
        )
        if self.numbers:
            lines = values.record.instructions[:, Inst.LINE]
            tokens = np.array(self.numbers, np.int64) * (len(self.builder.lines) + 1) + lines
            values.record.loops = repetitions(tokens, values.crossing())
            if not values.pays():
                values.record.loops = []
        return values

    def _catch_up(self, values: Values) -> None:
        """Compute what was put off; buffers that the kernel still holds get their bytes."""
        found = values.run()
        alive = self._alive()
        for buffer in alive:
            if buffer.data is None:
                values.hand_over(buffer)
        self.held = [weakref.ref(buffer) for buffer in alive]
        for buffer in self.present.values():
            buffer.cache = None
        self._merge(found)
        self.present = {}
        row, operand = self._begun
        self._begun = (row + len(self.numbers), operand + len(self.offsets))
        self.numbers, self.offsets, self.places = array("q"), array("q"), []

    def _alive(self) -> list[Buffer]:
        """The buffers that the kernel can still reach."""
        return [buffer for buffer in (ref() for ref in self.held or ()) if buffer is not None]

    def _release(self) -> None:
        """Compute from here on: every buffer that is alive gets memory and the ordinary account of what was written."""
        for buffer in self._alive():
            buffer.materialise()
        self.data, self.held = True, None

    def _merge(self, found: list[tuple[int, Reported]]) -> None:
        """Put findings about values between those that were made while instructions were recorded, in program order."""
        diagnostics, launch = self.launch.diagnostics, self.launch
        noted = self._noted + [len(self.numbers)] * (len(diagnostics) - len(self._noted))
        ranked: list[tuple[int, int, Diagnostic]] = [(row, 0, d) for row, d in zip(noted, diagnostics)]
        for row, (key, diagnostic) in sorted(found, key=lambda entry: entry[0]):
            if key not in launch.reported:
                launch.reported.add(key)
                ranked.append((row, 1, diagnostic))
        diagnostics[:] = [d for _, _, d in sorted(ranked, key=lambda entry: entry[:2])]
        self._noted = [-1] * len(diagnostics)
