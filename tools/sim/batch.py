"""Values of recorded instructions, many iterations of a loop at a time.

Instructions are recorded without data first (`tools.sim.loops` for Beta 1, `tools.sim.deferral` for the current dialect);
this module then carries the record out. Iterations that the recorded accesses prove independent run together: lane-wise
instructions see their tiles stacked along the partitions, matmuls that share the moving operand become one larger matmul.
Each element is computed by the same operation on the same numbers as alone, so the values are the same bit for bit. What
can't be proven runs tile by tile, in program order.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tools.sim import context
from tools.sim.core import Core, Launch, Place, Reported
from tools.sim.dtypes import DType, as_dtype
from tools.sim.errors import Severity, SourceRange
from tools.sim.instruction import BufferInfo, Effect, Engine, Inst, Opcode, Operand, TraceBuilder
from tools.sim.isa.enums import reduce_cmd
from tools.sim.isa.operands import copy_transposed
from tools.sim.isa.registers import lane_registers
from tools.sim.memory import Buffer
from tools.sim.products import products, stacks
from tools.sim.repetition import Repetition
from tools.sim.steps import Form, Step
from tools.sim.tensor import Tensor

Table = NDArray[np.int64]
_RECTANGLE = [Operand.ROW0, Operand.ROW1, Operand.BYTE0, Operand.BYTE1]
_CACHE_BYTES = 12 << 20
"""Working set of a batch: what fits a last-level cache that other processes use too."""
_NEAR_BYTES = 1 << 20
"""The same for scans and for matmuls that BLAS joins: they walk over their tiles several times."""
_LARGE_BYTES = 16 << 20
"""What a batch may take at most: memory is bounded too."""
_SMALL_TILE = 1 << 16
"""Bytes of an operand up to which one NumPy call a tile is mostly overhead."""
_TINY_TILE = 1 << 14
"""The same up to which the call costs more than what putting an instruction off does."""
_LEAST_GAIN = 2
"""A record is batched when at least one in so many instructions gains by having been put off."""
_LEAST_TOGETHER = 4
"""Iterations that make up for tiles that no longer fit the nearest cache together."""
_TRIED = 16
"""Iterations at most for which joining matmuls is tried: more behave alike."""
_COPIES = 1 << 22
"""Bytes of an operand that may be copied together for a batch."""
_SCRATCH = 1 << 20
"""Elements of products that are computed together before they are added up one by one."""
_LOOSE = -1
"""Number of buffers that hold such copies."""
_Steps = tuple[Buffer, int, int]
"""Where an operand of each iteration lies: allocation, first element of the first one, elements from one to the next."""


class Unrecorded(BaseException):
    """The record doesn't determine the values, or they have findings: the launch runs tile by tile instead.

    It isn't an `Exception`, so that no handler of the kernel takes it for its own.
    """


class RecordingCore(Core):
    """A core that records a Beta-1 launch without data, with all that its values need.

    Attributes:
        arrays: host arrays of inputs and constants, by buffer.
        partly: buffers that were written but not known to be full.
    """

    def __init__(self, launch: Launch) -> None:
        super().__init__(launch)
        self.data = False
        self.arrays: dict[int, NDArray[Any]] = {}
        self.partly: dict[int, Buffer] = {}

    def wrap(self, array: NDArray[Any], name: str, role: str = "input") -> Tensor:
        tensor = super().wrap(array, name, role)
        self.arrays[tensor.buffer.id] = array
        return tensor

    def allocate(self, *args: Any, **kwargs: Any) -> Tensor:
        tensor = super().allocate(*args, **kwargs)
        self._claim(tensor.buffer)
        return tensor

    def issue(
        self,
        op: Opcode,
        engine: Engine,
        outs: tuple[Tensor, ...],
        ins: tuple[Tensor, ...],
        *,
        update: bool = False,
        params: dict[str, Any] | None = None,
        **form: Any,
    ) -> None:
        recorder = self.recorder
        assert recorder is not None
        if any(hasattr(type(tensor), "locate") for tensor in (*outs, *ins)):
            raise Unrecorded
        step = recorder.table.find(op, outs, ins, params) if recordable(op, outs, ins, params, update) else None
        if step is None:
            raise Unrecorded
        for tensor in outs:
            buffer = tensor.buffer
            if buffer.pending:
                buffer.mark(tensor)
                if buffer.pending:
                    self.partly[buffer.id] = buffer
                else:
                    self.partly.pop(buffer.id, None)
        recorder.steps.append(step)
        recorder.offsets.extend([tensor.offset for tensor in (*outs, *ins)])
        super().issue(op, engine, outs, ins, update=update, params=params, **form)

    def record(self, keep: Sequence[int], present: Mapping[int, Buffer]) -> Record:
        """What was recorded; buffers `keep` survive to be read, those of the arguments are `present`."""
        recorder, builder = self.recorder, self.builder
        assert recorder is not None
        rows = np.frombuffer(builder.rows, np.int64) if builder.rows else np.empty(0, np.int64)
        operands = np.frombuffer(builder.operand_rows, np.int64) if builder.operand_rows else np.empty(0, np.int64)
        return Record(
            launch=self.launch,
            builder=builder,
            steps=recorder.steps,
            instructions=rows.reshape(-1, len(Inst)),
            operands=operands.reshape(-1, len(Operand)),
            offsets=np.frombuffer(recorder.offsets, np.int64) if recorder.offsets else np.empty(0, np.int64),
            loops=recorder.loops,
            kept=set(keep),
            present=present,
            clear_psum=True,
        )


def recordable(
    op: Opcode, outs: tuple[Tensor, ...], ins: tuple[Tensor, ...], params: dict[str, Any] | None, update: bool
) -> bool:
    """Whether an instruction may be carried out later, from its operands alone, without a finding."""
    if op.effect is Effect.BEYOND or (params and params.get("mode") == "merge"):
        return False
    for tensor in outs:
        if tensor.rows is not None:
            return False
    for tensor in ins:
        if tensor.rows is not None:
            return False
        buffer = tensor.buffer
        if buffer.pending and not buffer.covers(tensor):
            return False
    kept = update or op.effect is Effect.KEEPS
    return not (kept and outs[0].buffer.pending and not outs[0].buffer.covers(outs[0]))


@dataclass(slots=True, kw_only=True)
class Record:
    """Instructions to carry out.

    Attributes:
        launch, builder: what they belong to.
        steps: what each instruction means.
        instructions, operands: their rows of the trace; FIRST_OPERAND counts from the trace's start.
        offsets: first element of each operand in its buffer.
        loops: repetitions among the instructions, outermost first.
        kept: ids of buffers that are read afterwards.
        present: buffers that have memory already, by id.
        places: where each instruction was written, for findings; without them a finding ends the run.
        state: the core whose engine registers and random numbers are used.
        clear_psum: whether fresh PSUM holds zeros (Beta 1: `nl.zeros` in PSUM is no instruction).
    """

    launch: Launch
    builder: TraceBuilder
    steps: Sequence[Step | None]
    instructions: Table
    operands: Table
    offsets: Table
    loops: list[Repetition] = field(default_factory=list)
    kept: set[int]
    present: Mapping[int, Buffer] = field(default_factory=dict)
    places: Sequence[Place | None] | None = None
    state: Core | None = None
    clear_psum: bool = False


class _ValueCore(Core):
    """The core that meanings see while values are computed.

    Attributes:
        row: the instruction that is being carried out; -1 for several at a time.
        found: findings and the instruction that each belongs to.
    """

    def __init__(self, record: Record) -> None:
        super().__init__(record.launch, builder=record.builder)
        self._where = record.places
        self.row = -1
        self.found: list[tuple[int, Reported]] = []
        if record.state is not None:
            self.registers = record.state.registers
            self.random, self.random_states = record.state.random, record.state.random_states

    def where(self) -> SourceRange | None:
        self.place = self._where[self.row] if self._where is not None and self.row >= 0 else None
        return super().where()

    def report(self, code: str, message: str, severity: Severity, **details: Any) -> None:
        if self._where is None or self.row < 0:
            raise Unrecorded
        self.found.append((self.row, self.reported(code, message, severity, **details)))


class Values:
    """Carries out a record.

    Buffers are numbered by their first position among those that the record touches ("local" numbers).

    Attributes:
        numbers: ids of those buffers, ascending.
        memory: host bytes of each live buffer, by local number: the allocation they are part of and their first byte in it.
    """

    def __init__(self, record: Record) -> None:
        self.record = record
        self.steps = record.steps
        self.table = record.operands
        base = int(record.instructions[0, Inst.FIRST_OPERAND]) if len(record.instructions) else 0
        self.first = record.instructions[:, Inst.FIRST_OPERAND] - base
        self.count = record.instructions[:, Inst.OPERANDS].copy()
        numbers, local = np.unique(record.operands[:, Operand.BUFFER], return_inverse=True)
        self.numbers: Table = numbers
        self.buffer_of: Table = local.reshape(-1).astype(np.int64)
        self.infos = [record.builder.buffers[n] for n in numbers.tolist()]
        self.offsets = record.offsets
        self.memory: dict[int, tuple[Buffer, int]] = {}
        self.types: dict[str, DType] = {}
        self.core = _ValueCore(record)
        self._refused: set[int] = set()
        self._worth: dict[int, tuple[dict[int, int], list[int]]] = {}
        self._live: dict[int, int] = {}
        self._proofs: dict[int, tuple[Table, Table, set[int]]] = {}
        self._lifetimes()
        self.row_lists: tuple[list[int], list[int], list[int]] = (
            self.first.tolist(), self.buffer_of.tolist(), self.offsets.tolist()
        )  # fmt: skip

    def _lifetimes(self) -> None:
        """First and last instruction of each buffer, and which buffers end where."""
        total = len(self.infos)
        self.rows = np.repeat(np.arange(len(self.count)), self.count)
        self.begins = np.full(total, -1, np.int64)
        self.begins[self.buffer_of[::-1]] = self.rows[::-1]
        self.ends = np.full(total, -1, np.int64)
        self.ends[self.buffer_of] = self.rows
        self.sizes = np.array([b.partitions * b.row_bytes for b in self.infos], np.int64)
        known = self.record.present
        for at, number in enumerate(self.numbers.tolist()):
            if number in known:
                self.begins[at] = -1
                there = self._buffer(self.infos[at], 1)
                there.data, there.host = known[number].data, known[number].host
                self.memory[at] = (there, 0)
            if number in known or number in self.record.kept:
                self.ends[at] = len(self.count)
        self.ending: dict[int, list[int]] = {}
        for at, row in enumerate(self.ends.tolist()):
            self.ending.setdefault(row, []).append(at)

    def crossing(self) -> Table:
        """How many buffers are alive across the boundary in front of each instruction, and behind the last."""
        change = np.zeros(len(self.count) + 2, np.int64)
        np.add.at(change, self.begins + 1, 1)
        np.add.at(change, self.ends + 1, -1)
        return np.cumsum(change)[:-1]

    def run(self) -> list[tuple[int, Reported]]:
        """Compute everything; returns the findings, each with its instruction."""
        before = context.enter(self.core)
        try:
            self._span(0, len(self.steps), self.record.loops, 0)
        finally:
            context.enter(before)
        return self.core.found

    def hand_over(self, buffer: Buffer) -> None:
        """Give the kernel's own buffer the bytes that were computed for it, if any instruction touched it."""
        at = int(np.searchsorted(self.numbers, buffer.id))
        if at == len(self.numbers) or self.numbers[at] != buffer.id or at not in self.memory:
            return
        home, start = self.memory[at]
        assert home.data is not None
        size = int(self.sizes[at])
        buffer.data = home.data if size == home.data.size else home.data[start : start + size]

    # -- memory ------------------------------------------------------------------------------------------------------

    def _buffer(self, info: BufferInfo, copies: int) -> Buffer:
        kind = self.types.get(info.dtype)
        if kind is None:
            kind = self.types[info.dtype] = as_dtype(info.dtype)
        made = Buffer(
            info.id, info.space, info.name, info.shape, kind, info.partitions * copies, info.row_bytes, role=info.role
        )
        made.pending = False
        return made

    def _place(self, numbers: list[int]) -> None:
        """Memory for buffers of one form, side by side."""
        info = self.infos[numbers[0]]
        buffer = self._buffer(info, len(numbers))
        buffer.allocate()
        if self.record.clear_psum and info.space == "psum" and buffer.data is not None:
            buffer.data.fill(0)
        size = info.partitions * info.row_bytes
        for slot, number in enumerate(numbers):
            self.memory[number] = (buffer, slot * size)

    def release(self, row: int, since: int = -1) -> list[int]:
        """Drop buffers whose last use was an instruction; returns those that are older than instruction `since` instead."""
        kept = []
        for number in self.ending.get(row, ()):
            if self.begins[number] >= since:
                del self.memory[number]
            else:
                kept.append(number)
        return kept

    # -- one instruction ---------------------------------------------------------------------------------------------

    def _one(self, row: int) -> None:
        """Carry out one instruction."""
        step = self.steps[row]
        assert step is not None
        first, buffers, offsets = self.row_lists
        at = first[row]
        views = []
        memory = self.memory
        for form in (*step.outs, *step.ins):
            number = buffers[at]
            place = memory.get(number)
            if place is None:
                self._place([number])
                place = memory[number]
            buffer, start = place
            views.append(
                Tensor(buffer, form.shape, form.dtype, offsets[at] + start // form.dtype.itemsize, form.strides)
            )
            at += 1
        self.core.row = row
        self._mean(step, views)

    def _mean(self, step: Step, views: list[Tensor]) -> None:
        outs = len(step.outs)
        params = step.params
        if step.tensors:
            params = {**params, **{name: views[position] for name, position in step.tensors}}
        step.op.meaning(tuple(views[:outs]), tuple(views[outs:]), **params)

    # -- loops -------------------------------------------------------------------------------------------------------

    def _span(self, start: int, stop: int, loops: list[Repetition], origin: int) -> None:
        """Instructions [start, stop) in program order, loops by batches where that is proven."""
        row = start
        for loop in loops:
            begin = origin + loop.start
            self._alone(row, begin)
            self._loop(loop, begin)
            row = begin + loop.length * loop.trips
        self._alone(row, stop)

    def _alone(self, start: int, stop: int) -> None:
        """Instructions [start, stop), one by one."""
        ending = self.ending
        for row in range(start, stop):
            self._one(row)
            if row in ending:
                self.release(row)

    def _loop(self, loop: Repetition, begin: int) -> None:
        plan = self._plan(loop, begin) if loop.trips > 1 else None
        if plan is not None:
            chunk, serial = plan
            for k in range(0, loop.trips, chunk):
                _Batch(self, loop, begin + k * loop.length, min(chunk, loop.trips - k), serial).run()
            return
        for k in range(loop.trips):
            at = begin + k * loop.length
            self._span(at, at + loop.length, loop.inner, at)

    def pays(self) -> bool:
        """Whether carrying the record out with its loops batched is cheaper than having carried it out as it came."""
        gain, heavy = self._gain(self.record.loops, 0)
        return heavy or _LEAST_GAIN * gain >= len(self.steps)

    def _gain(self, loops: Sequence[Repetition], origin: int) -> tuple[int, bool]:
        """Instructions on tiny tiles that run together, and whether one gains whatever its size."""
        total, heavy = 0, False
        for loop in loops:
            begin = origin + loop.start
            plan = self._plan(loop, begin)
            if plan is None:
                inner, found = self._gain(loop.inner, begin)
                total += loop.trips * inner
                heavy = heavy or found
                continue
            small, large = self._worthwhile(loop, begin)
            total += loop.trips * sum(
                times
                for place, times in small.items()
                if place not in plan[1] and _tile_bytes(self._step_at(begin + place)) <= _TINY_TILE
            )
            heavy = heavy or any(place not in plan[1] for place in large)
        return total, heavy

    def _worthwhile(self, loop: Repetition, begin: int) -> tuple[dict[int, int], list[int]]:
        """Places in the body that gain by running together: those on small tiles, with how often an iteration comes
        there, and those that gain whatever their size: scans, and matmuls that BLAS may join. Nothing when something
        forbids it.
        """
        known = self._worth.get(id(loop))
        if known is None:
            small: dict[int, int] = {}
            large: list[int] = []
            for row, times in self._distinct(loop, begin):
                step = self.steps[row]
                assert step is not None
                if not _free_of_registers(step):
                    small, large = {}, []
                    break
                if step.op.name == "tensor_tensor_scan" or (
                    step.op.name == "nc_matmul" and self._shares_moving(row, loop.length) and _joins(step, loop.trips)
                ):
                    large.append(row - begin)
                elif _together(step) and _tile_bytes(step) <= _SMALL_TILE:
                    small[row - begin] = times
            known = self._worth[id(loop)] = small, large
        return known

    def _step_at(self, row: int) -> Step:
        step = self.steps[row]
        assert step is not None
        return step

    def _plan(self, loop: Repetition, begin: int) -> tuple[int, set[int]] | None:
        """How many iterations to take together and which places go one by one; None when it isn't allowed or doesn't pay."""
        if id(loop) in self._refused:
            return None
        plan = self._plan_anew(loop, begin)
        if plan is None:
            self._refused.add(id(loop))
        return plan

    def _plan_anew(self, loop: Repetition, begin: int) -> tuple[int, set[int]] | None:
        small, large = self._worthwhile(loop, begin)
        if not small and not large:
            return None
        live = self._live.get(id(loop))
        if live is None:
            live = self._live[id(loop)] = max(self._most_live(begin, begin + loop.length), 1)
        budget = max(_NEAR_BYTES // live, _LEAST_TOGETHER) if large else _CACHE_BYTES // live
        chunk = min(loop.trips, budget, _LARGE_BYTES // live)
        if chunk < (2 if large else _LEAST_TOGETHER):
            return None
        for inner in loop.inner:
            better = self._plan(inner, begin + inner.start)
            if better is not None and better[0] > chunk:
                return None  # its iterations are more and smaller
        serial = self._independent_like_before(loop, begin)
        if serial is None or all(place in serial for place in (*small, *large)):
            return None
        return -(-loop.trips // -(-loop.trips // chunk)), serial

    def _shares_moving(self, row: int, length: int) -> bool:
        """Whether a matmul and its next iteration have the moving operand in common, and only that."""
        first, buffers, offsets = self.row_lists
        at, after = first[row], first[row + length]
        same = [
            buffers[at + i] == buffers[after + i] and offsets[at + i] == offsets[after + i] for i in range(3)
        ]  # fmt: skip
        return same == [False, False, True] and buffers[at + 1] != buffers[at + 2]

    def _most_live(self, start: int, stop: int) -> int:
        """The most bytes that live at a time in tiles of instructions [start, stop) only."""
        a, b = self.first[start], self.first[stop - 1] + self.count[stop - 1]
        numbers = np.unique(self.buffer_of[a:b])
        own = numbers[(self.begins[numbers] >= start) & (self.ends[numbers] < stop)]
        sizes = self.sizes[own]
        change = np.zeros(stop - start + 1, np.int64)
        np.add.at(change, self.begins[own] - start, sizes)
        np.add.at(change, self.ends[own] - start + 1, -sizes)
        return int(np.cumsum(change).max())

    def _distinct(self, loop: Repetition, begin: int) -> list[tuple[int, int]]:
        """An instruction of each place in the body, inner loops entered once, and how often an iteration comes there."""
        rows: list[tuple[int, int]] = []
        at = begin
        for inner in loop.inner:
            rows.extend((row, 1) for row in range(at, begin + inner.start))
            rows.extend((row, n * inner.trips) for row, n in self._distinct(inner, begin + inner.start))
            at = begin + inner.start + inner.length * inner.trips
        rows.extend((row, 1) for row in range(at, begin + loop.length))
        return rows

    def _independent_like_before(self, loop: Repetition, begin: int) -> set[int] | None:
        """`_independent`, by comparison with an earlier run of the same loop.

        If the buffers of both correspond one to one, and each buffer's accesses are those of the other moved by the same
        distance, then the same accesses overlap.
        """
        a = int(self.first[begin])
        last = begin + loop.length * loop.trips - 1
        b = int(self.first[last] + self.count[last])
        _, first, which = np.unique(self.buffer_of[a:b], return_index=True, return_inverse=True)
        table = self.table[a:b]
        known = self._proofs.get(id(loop))
        if known is not None:
            before, order, serial = known
            if np.array_equal(which, order) and np.array_equal(table[:, Operand.FLAGS], before[:, Operand.FLAGS]):
                moved = table[:, _RECTANGLE] - before[:, _RECTANGLE]
                if np.array_equal(moved, moved[first][which]):
                    return serial
        found = self._independent(loop, begin)
        if found is not None and known is None:
            self._proofs[id(loop)] = table, which, found
        return found

    def _independent(self, loop: Repetition, begin: int) -> set[int] | None:
        """Places in the body that must go iteration by iteration; None when iterations depend on each other otherwise.

        Iterations may run together if no two of them touch the same bytes, one of them writing; a conflict of a place
        only with itself keeps its order when that instruction runs once for each iteration.
        """
        stop = begin + loop.length * loop.trips
        a, b = int(self.first[begin]), int(self.first[stop - 1] + self.count[stop - 1])
        numbers = self.buffer_of[a:b]
        written = np.unique(numbers[(self.table[a:b, Operand.FLAGS] & 1) != 0])
        iteration = (self.rows[a:b] - begin) // loop.length
        order = np.flatnonzero(np.isin(numbers, written))
        order = order[np.argsort(numbers[order], kind="stable")]
        serial: set[int] = set()
        edges = np.flatnonzero(np.diff(numbers[order])) + 1
        starts, stops = np.concatenate([[0], edges]), np.concatenate([edges, [len(order)]])
        # in program order: a buffer's first and last access tell whether several iterations touch it
        several = iteration[order[starts]] < iteration[order[stops - 1]] if len(order) else np.empty(0, bool)
        for k in np.flatnonzero(several).tolist():
            group = order[starts[k] : stops[k]]
            place = (self.rows[a + group] - begin) % loop.length
            found = _conflicts(self.table[a + group], iteration[group], place)
            if found is None:
                return None
            serial |= found
        return serial


def promising(steps: Sequence[Step]) -> bool:
    """Whether instructions are of the kind that gains by running together, whatever their dependences turn out to be."""
    tiny = sum(1 for step in steps if _together(step) and _tile_bytes(step) <= _TINY_TILE)
    return _LEAST_GAIN * tiny >= len(steps) or any(_gains_at_any_size(step) for step in set(steps))


def _gains_at_any_size(step: Step) -> bool:
    return step.op.name == "tensor_tensor_scan" or (step.op.name == "nc_matmul" and _joins(step, _LEAST_TOGETHER))


def _joins(step: Step, trips: int) -> bool:
    """Whether matmuls over one moving operand are one larger matmul, bit for bit."""
    left, right = step.ins[0], step.ins[1]
    k = left.shape[0]
    return stacks(min(trips, _TRIED), k, left.size // k, right.size // right.shape[0])


def _tile_bytes(step: Step) -> int:
    """Bytes of the largest operand: a reduction leaves little and reads much."""
    return max((form.size * form.dtype.itemsize for form in (*step.outs, *step.ins)), default=0)


def _free_of_registers(step: Step) -> bool:
    """Whether an instruction neither needs what an earlier one left in an engine's registers nor shuffles the engine's state."""
    if step.params.get("reduce_op") is not None and step.op.effect is Effect.LANES:
        return step.params.get("order") is reduce_cmd.reset_reduce
    return step.op.effect is not Effect.REGISTERS


def _by_lanes(step: Step) -> bool:
    """Whether an instruction computes each partition from the same partition of its operands, and can't have a finding."""
    if step.op.effect is not Effect.LANES:
        return False
    if step.op.name == "activation":
        function = step.params["op"]
        return bool(function.low == -np.inf and function.high == np.inf)
    if step.op.name == "dma_copy":
        return step.params["accumulate"] is None and step.outs[0].shape == step.ins[0].shape
    return True


def _conflicts(table: Table, iteration: Table, place: Table) -> set[int] | None:
    """Places whose accesses to one buffer conflict between iterations, if only with themselves; else None."""
    writes = (table[:, Operand.FLAGS] & 1) != 0
    boxes, which = np.unique(table[:, _RECTANGLE], axis=0, return_inverse=True)
    which = which.reshape(-1)
    if not _apart(boxes):
        return None
    serial: set[int] = set()
    order = np.argsort(which, kind="stable")
    for group in np.split(order, np.nonzero(np.diff(which[order]))[0] + 1):
        if not writes[group].any() or (iteration[group] == iteration[group[0]]).all():
            continue
        if (place[group] != place[group[0]]).any():
            return None
        serial.add(int(place[group[0]]))
    return serial


def _apart(boxes: Table) -> bool:
    """Whether distinct rectangles [row0, row1, byte0, byte1] don't overlap each other."""
    height, width = boxes[:, 1] - boxes[:, 0], boxes[:, 3] - boxes[:, 2]
    if len(boxes) == 1:
        return True
    even = (height == height[0]).all() and (width == width[0]).all()
    if even and not (boxes[:, 0] % height[0]).any() and not ((boxes[:, 2] - boxes[0, 2]) % width[0]).any():
        return True  # cells of one grid
    if len(boxes) > 1024:
        return False
    rows = (boxes[:, None, 0] < boxes[None, :, 1]) & (boxes[None, :, 0] < boxes[:, None, 1])
    columns = (boxes[:, None, 2] < boxes[None, :, 3]) & (boxes[None, :, 2] < boxes[:, None, 3])
    return int((rows & columns).sum()) == len(boxes)


def _together(step: Step) -> bool:
    """Whether a batch computes an instruction for all iterations at once, if their operands lie evenly."""
    return _by_lanes(step) or step.op.name in ("nc_matmul", "nc_transpose")


class _Batch:
    """Some iterations of a loop, instruction by instruction for all of them."""

    def __init__(self, values: Values, loop: Repetition, begin: int, trips: int, serial: set[int]) -> None:
        self.values = values
        self.loop = loop
        self.begin = begin
        self.trips = trips
        self.serial = serial
        self.shared: list[int] = []  # several iterations use these: a later place may still do so

    def run(self) -> None:
        """Compute all iterations."""
        self._walk(0, self.loop.length, self.loop.inner, 0)
        for number in self.shared:
            del self.values.memory[number]

    def _walk(self, start: int, stop: int, loops: list[Repetition], origin: int) -> None:
        row = start
        for loop in loops:
            begin = origin + loop.start
            for at in range(row, begin):
                self._step(at)
            for k in range(loop.trips):
                inner = begin + k * loop.length
                self._walk(inner, inner + loop.length, loop.inner, inner)
            row = begin + loop.length * loop.trips
        for at in range(row, stop):
            self._step(at)

    def _step(self, place: int) -> None:
        """One instruction of the body, for all iterations."""
        values, stride = self.values, self.loop.length
        row = self.begin + place
        step = values.steps[row]
        assert step is not None
        first, buffers, offsets = values.row_lists
        starts = [first[row + k * stride] for k in range(self.trips)]
        numbers = [[buffers[at + i] for at in starts] for i in range(len(step.outs) + len(step.ins))]
        self._allocate(numbers)
        done = False
        if place not in self.serial or step.op.name == "nc_matmul":
            work = self._work(step)
            if work is not None:
                values.core.row = -1
                done = work(
                    step,
                    [
                        self._places(form, numbers[i], [offsets[at + i] for at in starts])
                        for i, form in enumerate((*step.outs, *step.ins))
                    ],
                    place,
                )
        for k in range(self.trips):
            at = row + k * stride
            if not done:
                values._one(at)
            if at in values.ending:
                self.shared += values.release(at, since=self.begin + k * stride)

    def _work(self, step: Step) -> Callable[[Step, list[_Steps | None], int], bool] | None:
        """What computes an instruction for all iterations, if anything may; it returns whether it did."""
        if step.op.name == "nc_matmul":
            return self._matmul
        if step.op.name == "nc_transpose":
            return self._transpose
        return self._lanewise if _by_lanes(step) else None

    def _allocate(self, numbers: list[list[int]]) -> None:
        """Memory for the operands that have none yet: one run for the iterations' own tiles."""
        memory, infos = self.values.memory, self.values.infos
        for own in numbers:
            missing = [n for n in dict.fromkeys(own) if n not in memory]
            if not missing:
                continue
            like = infos[missing[0]]
            form = (like.space, like.dtype, like.partitions, like.row_bytes)
            if all((i.space, i.dtype, i.partitions, i.row_bytes) == form for i in map(infos.__getitem__, missing)):
                self.values._place(missing)
            else:
                for number in missing:
                    self.values._place([number])

    def _places(self, form: Form, numbers: list[int], offsets: list[int]) -> _Steps | None:
        """(allocation, first element, elements between iterations) of an operand, or None when they aren't even."""
        memory = self.values.memory
        home, start = memory[numbers[0]]
        item = form.dtype.itemsize
        begin = start // item + offsets[0]
        step = None
        before = begin
        for number, offset in zip(numbers[1:], offsets[1:]):
            buffer, at = memory[number]
            if buffer is not home:
                return None
            here = at // item + offset
            if step is None:
                step = here - before
            elif here - before != step:
                return None
            before = here
        return home, begin, step or 0

    def _stack(self, form: Form, place: _Steps | None, output: bool) -> Tensor | None:
        """An operand of all iterations as one tile, iterations along the partitions; None when they can't be.

        One that lies otherwise and is small is copied: a result's copy is still to be brought home (`_scatter`).
        """
        if place is None:
            return None
        home, begin, step = place
        lanes = form.shape[0]
        shape = (lanes * self.trips, *form.shape[1:])
        if step == lanes * form.strides[0] and step:
            return Tensor(home, shape, form.dtype, begin, form.strides)
        # NumPy reduces along the axis of the smallest stride first: the iterations must not become that axis
        if lanes == 1 and step > max((abs(s) for s, n in zip(form.strides[1:], form.shape[1:]) if n > 1), default=0):
            return Tensor(home, shape, form.dtype, begin, (step, *form.strides[1:]))
        if form.size * form.dtype.itemsize * self.trips > _COPIES:
            return None
        if output:
            return _Loose.of(np.empty(shape, form.dtype.storage), form.dtype)
        return _Loose.of(np.ascontiguousarray(self._row(form, place)).reshape(shape), form.dtype)

    def _row(self, form: Form, place: _Steps) -> NDArray[Any]:
        """An operand of all iterations as an array [iterations, *shape]."""
        home, begin, step = place
        view: NDArray[Any] = Tensor(home, (self.trips, *form.shape), form.dtype, begin, (step, *form.strides)).view()
        return view

    def _lanewise(self, step: Step, places: list[_Steps | None], at: int) -> bool:
        outs = len(step.outs)
        views = []
        for i, form in enumerate((*step.outs, *step.ins)):
            view = self._stack(form, places[i], i < outs)
            if view is None:
                return False
            views.append(view)
        self._mean(step, views)
        for form, view, place in zip(step.outs, views, places):
            if view.buffer.id == _LOOSE and place is not None:
                np.copyto(self._row(form, place), view.view().reshape(self.trips, *form.shape))
                place[0].cache = None
        return True

    def _mean(self, step: Step, views: list[Tensor]) -> None:
        """Carry out a lane-wise instruction on the stacked tiles of all iterations."""
        if step.params.get("reduce_op") is None:
            self.values._mean(step, views)
            return
        # each iteration resets the registers, folds its own tile and spills: the last one's contents stay in them
        registers, lanes = lane_registers(Engine.SCALAR), step.outs[0].shape[0]
        core = self.values.core
        core.registers[Engine.SCALAR] = every = np.empty(lanes * self.trips, np.float32)
        self.values._mean(step, views)
        registers[:lanes] = every[-lanes:]
        core.registers[Engine.SCALAR] = registers

    def _transpose(self, step: Step, places: list[_Steps | None], at: int) -> bool:
        dst, data = step.outs[0], step.ins[0]
        if dst.ndim != 2 or data.ndim != 2 or dst.dtype.storage != data.dtype.storage:
            return False
        if places[0] is None or places[1] is None:
            return False
        for goal, source in zip(self._row(dst, places[0]), self._row(data, places[1])):
            copy_transposed(goal, source)
        places[0][0].cache = None
        return True

    def _matmul(self, step: Step, places: list[_Steps | None], place: int) -> bool:
        """The products of all iterations in one call."""
        params = step.params
        dst, (left, right) = step.outs[0], step.ins
        if params["double_row"] or params["transpose"] or left.ndim != 2 or right.ndim != 2 or dst.ndim != 2:
            return False
        if "tfloat32" in (str(left.dtype), str(right.dtype)) or dst.dtype.storage != np.float32:
            return False
        if places[0] is None or places[1] is None or places[2] is None:
            return False
        if place in self.serial and (places[0][2] or params["mode"] == "set" or dst.size * self.trips > _SCRATCH):
            return False
        moving = self._row(right, places[2])[0] if not places[2][2] else self._row(right, places[2])
        stationary = self._row(left, places[1])
        if stationary.dtype != np.float32:
            stationary, moving = stationary.astype(np.float32), moving.astype(np.float32)
        goal = self._row(dst, places[0])
        # PSUM that several iterations add to: the order of the additions stays
        several = places[0][2] == 0
        if params["mode"] == "set" and goal[0].flags.c_contiguous and not several:
            products(stationary, moving, goal)
        else:
            product = self.values.core.scratch(goal.size).reshape(goal.shape)
            products(stationary, moving, product)
            if params["mode"] == "set":
                goal[...] = product
            elif several:
                for part in product:
                    goal[0] += part
            else:
                goal += product
        places[0][0].cache = None
        return True


class _Loose:
    """Makes tiles of host arrays."""

    @staticmethod
    def of(array: NDArray[Any], dtype: DType) -> Tensor:
        """A tile over a contiguous array [P, F...]."""
        rows = array.shape[0]
        buffer = Buffer(_LOOSE, "sbuf", "", array.shape, dtype, rows, array.nbytes // rows)
        buffer.adopt(np.ascontiguousarray(array))
        run = array.size // rows
        strides = [run]
        for n in array.shape[1:]:
            run //= n
            strides.append(run)
        return Tensor(buffer, array.shape, dtype, 0, tuple(strides))
