"""Values of a recorded launch, many iterations of a loop at a time.

A Beta-1 kernel is recorded without data first (`tools.sim.loops`); this module then carries the record out. Iterations
that the recorded accesses prove independent run together: lane-wise instructions see their tiles stacked along the
partitions, matmuls that share the moving operand become one larger matmul. Each element is computed by the same operation
on the same numbers as alone, so the values are the same bit for bit. What can't be proven runs tile by tile, in program
order; a kernel whose record isn't enough (`Unrecorded`) is left to the ordinary run.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tools.sim import context
from tools.sim.core import Core, Launch
from tools.sim.dtypes import DType, as_dtype
from tools.sim.errors import Severity
from tools.sim.instruction import BufferInfo, Engine, Inst, Opcode, Operand, Trace
from tools.sim.loops import Nest, Step
from tools.sim.memory import Buffer
from tools.sim.tensor import Tensor

Table = NDArray[np.int64]
_ELSEWHERE = frozenset(
    {
        "collective", "core_barrier", "nc_stream_shuffle", "nonzero_with_count", "quantize_mx", "register_load",
        "register_store", "sendrecv",
    }
)  # fmt: skip
"""Instructions whose effect isn't in the operands alone, or that write only some lanes of them."""
_LANEWISE = frozenset(
    {
        "activation", "dma_copy", "memset", "reciprocal", "scalar_tensor_tensor", "tensor_copy", "tensor_reduce",
        "tensor_scalar", "tensor_tensor", "tensor_tensor_scan",
    }
)  # fmt: skip
"""Instructions that compute each partition from the same partition of their operands, without other state."""
_STATEFUL = frozenset(
    {
        "activate2", "dropout", "exponential", "rand2", "rand_get_state", "rand_set_state", "range_select", "rng",
        "select_reduce", "set_rng_seed", "tensor_scalar_cumulative", "tensor_scalar_reduce",
    }
)  # fmt: skip
"""Instructions that read or write an engine's registers: only in program order."""
_CACHE_BYTES = 12 << 20
"""Working set of a batch: what fits a last-level cache that other processes use too."""
_PRODUCT_BYTES = 40 << 20
"""The same for loops whose matmuls become larger: worth more than the cache, since BLAS then uses all its threads."""
_SMALL_TILE = 1 << 16
"""Bytes of an operand up to which one NumPy call a tile is mostly overhead."""
_COPIES = 1 << 17
"""Bytes of a shared operand that may be repeated for a batch."""
_FULL_RATE = 32
"""Rows and columns of a product from which BLAS sums each element alike, however large the matrices are."""


class Unrecorded(BaseException):
    """The record doesn't determine the values, or they have findings: the launch runs tile by tile instead.

    It isn't an `Exception`, so that no handler of the kernel takes it for its own.
    """


class RecordingCore(Core):
    """A core that records a launch without data, with all that its values need.

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
        if op.name in _ELSEWHERE or (params and params.get("mode") == "merge"):
            raise Unrecorded
        for tensor in (*outs, *ins):
            if tensor.rows is not None or hasattr(type(tensor), "locate"):
                raise Unrecorded
        for tensor in (*outs[:1], *ins) if update else ins:
            if tensor.buffer.pending and not tensor.buffer.covers(tensor):
                raise Unrecorded
        for tensor in outs:
            buffer = tensor.buffer
            if buffer.pending:
                buffer.mark(tensor)
                if buffer.pending:
                    self.partly[buffer.id] = buffer
                else:
                    self.partly.pop(buffer.id, None)
        recorder.steps.append(Step(op, outs, ins, params))
        recorder.offsets.extend([tensor.offset for tensor in (*outs, *ins)])
        super().issue(op, engine, outs, ins, update=update, params=params, **form)


class _ValueCore(Core):
    """The core that meanings see while values are computed; a finding ends the batch."""

    def report(self, code: str, message: str, severity: Severity, **details: Any) -> None:
        raise Unrecorded


class Values:
    """Carries out a recorded launch.

    Attributes:
        memory: host bytes of each live buffer, by id: the allocation they are part of and their first element's place
            in bytes.
    """

    def __init__(self, core: RecordingCore, trace: Trace) -> None:
        recorder = core.recorder
        assert recorder is not None
        self.core = core
        self.steps = recorder.steps
        self.nests = recorder.nests
        self.trace = trace
        self.first = trace.instructions[:, Inst.FIRST_OPERAND]
        self.count = trace.instructions[:, Inst.OPERANDS]
        self.buffer_of = trace.operands[:, Operand.BUFFER]
        self.offsets: Table = np.frombuffer(recorder.offsets, np.int64) if recorder.offsets else np.empty(0, np.int64)
        self.written = set(self.buffer_of[(trace.operands[:, Operand.FLAGS] & 1) != 0].tolist())
        self.memory: dict[int, tuple[Buffer, int]] = {}
        self.types: dict[str, DType] = {}
        self.inputs: dict[int, NDArray[Any]] = {}
        self._lifetimes()
        self.row_lists: tuple[list[int], list[int], list[int]] = (
            self.first.tolist(), self.buffer_of.tolist(), self.offsets.tolist()
        )  # fmt: skip

    def _lifetimes(self) -> None:
        """First and last instruction of each buffer, and which buffers end where."""
        total = len(self.trace.buffers)
        rows = np.repeat(np.arange(len(self.count)), self.count)
        self.begins = np.full(total, -1, np.int64)
        self.begins[self.buffer_of[::-1]] = rows[::-1]
        self.ends = np.full(total, -1, np.int64)
        self.ends[self.buffer_of] = rows
        self.sizes = np.array([b.partitions * b.row_bytes for b in self.trace.buffers], np.int64)
        self.kept = set(self.core.arrays)
        self.ending: dict[int, list[int]] = {}
        for number in np.nonzero(self.ends >= 0)[0].tolist():
            self.ending.setdefault(int(self.ends[number]), []).append(number)
        self.rows = rows

    def run(self, keep: list[int]) -> None:
        """Compute everything; buffers `keep` survive to be read."""
        self.kept.update(keep)
        for number, array in self.core.arrays.items():
            info = self.trace.buffers[number]
            usable = array.flags.c_contiguous and number not in self.written
            held = array if usable else np.array(array, order="C", copy=True)
            self.inputs[number] = held
            buffer = self._buffer(info, 1)
            buffer.adopt(held)
            self.memory[number] = (buffer, 0)
        values = _ValueCore(self.core.launch)
        before = context.enter(values)
        try:
            self._span(0, len(self.steps), self.nests, 0)
        finally:
            context.enter(before)

    def write_back(self) -> None:
        """Bring what the kernel wrote to its arguments home to the caller's arrays."""
        for number, array in self.core.arrays.items():
            if number in self.written and array.flags.writeable and self.trace.buffers[number].role == "input":
                array[...] = self.inputs[number].reshape(array.shape)

    def home(self, number: int) -> Buffer:
        """The buffer that holds a kept allocation."""
        if number not in self.memory:
            self._place([number])
        return self.memory[number][0]

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
        info = self.trace.buffers[numbers[0]]
        buffer = self._buffer(info, len(numbers))
        buffer.allocate()
        if info.space == "psum" and buffer.data is not None:
            buffer.data.fill(0)  # nl.zeros in PSUM is no instruction, so the record doesn't hold it
        size = info.partitions * info.row_bytes
        for slot, number in enumerate(numbers):
            self.memory[number] = (buffer, slot * size)

    def _release(self, row: int) -> None:
        for number in self.ending.get(row, ()):
            if number not in self.kept:
                del self.memory[number]

    # -- one instruction ---------------------------------------------------------------------------------------------

    def _one(self, row: int) -> None:
        """Carry out one instruction."""
        step = self.steps[row]
        assert step is not None
        first, buffers, offsets = self.row_lists
        at = first[row]
        views = []
        memory = self.memory
        for tensor in (*step.outs, *step.ins):
            number = buffers[at]
            place = memory.get(number)
            if place is None:
                self._place([number])
                place = memory[number]
            buffer, start = place
            views.append(
                Tensor(buffer, tensor.shape, tensor.dtype, offsets[at] + start // tensor.dtype.itemsize, tensor.strides)
            )
            at += 1
        self._mean(step, views)
        if row in self.ending:
            self._release(row)

    def _mean(self, step: Step, views: list[Tensor]) -> None:
        outs = len(step.outs)
        params = step.params
        if params:
            params = {
                name: views[step.operand(value)] if isinstance(value, Tensor) else value
                for name, value in params.items()
            }
        step.op.meaning(tuple(views[:outs]), tuple(views[outs:]), **(params or {}))

    # -- loops -------------------------------------------------------------------------------------------------------

    def _span(self, start: int, stop: int, nests: list[Nest], origin: int) -> None:
        """Instructions [start, stop) in program order, loops by batches where that is proven."""
        row = start
        for nest in nests:
            begin = origin + nest.start
            for at in range(row, begin):
                self._one(at)
            self._loop(nest, begin)
            row = begin + nest.length * nest.trips
        for at in range(row, stop):
            self._one(at)

    def _loop(self, nest: Nest, begin: int) -> None:
        plan = self._plan(nest, begin) if nest.trips > 1 else None
        if plan is not None:
            chunk, serial = plan
            for k in range(0, nest.trips, chunk):
                _Batch(self, nest, begin + k * nest.length, min(chunk, nest.trips - k), serial).run()
            return
        for k in range(nest.trips):
            at = begin + k * nest.length
            self._span(at, at + nest.length, nest.inner, at)

    def _plan(self, nest: Nest, begin: int) -> tuple[int, set[int]] | None:
        """How many iterations to take together and which places go one by one; None when it isn't allowed or doesn't pay."""
        lanes: list[int] = []
        products: list[int] = []
        for row in self._distinct(nest, begin):
            step = self.steps[row]
            assert step is not None
            name, params = step.op.name, step.params or {}
            if name in _STATEFUL or params.get("reduce_op") is not None:
                return None
            if name == "nc_matmul" and self._shares_moving(row, nest.length):
                products.append(row - begin)
            elif name in _LANEWISE and max(t.size * t.dtype.itemsize for t in step.outs) <= _SMALL_TILE:
                lanes.append(row - begin)
        if not lanes and not products:
            return None
        live = max(self._most_live(begin, begin + nest.length), 1)
        chunk = min(nest.trips, (_PRODUCT_BYTES if products else _CACHE_BYTES) // live)
        if chunk < 2:
            return None
        serial = self._independent(nest, begin)
        if serial is None or all(place in serial for place in (*lanes, *products)):
            return None
        return -(-nest.trips // -(-nest.trips // chunk)), serial

    def _shares_moving(self, row: int, length: int) -> bool:
        """Whether a matmul and its next iteration have the moving operand in common, and only that."""
        at, after = int(self.first[row]), int(self.first[row + length])
        same = [
            self.buffer_of[at + i] == self.buffer_of[after + i] and self.offsets[at + i] == self.offsets[after + i]
            for i in range(3)
        ]
        return same == [False, False, True]

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

    def _distinct(self, nest: Nest, begin: int) -> list[int]:
        """An instruction of each place in the body, inner loops entered once."""
        rows: list[int] = []
        at = begin
        for inner in nest.inner:
            rows.extend(range(at, begin + inner.start))
            rows.extend(self._distinct(inner, begin + inner.start))
            at = begin + inner.start + inner.length * inner.trips
        rows.extend(range(at, begin + nest.length))
        return rows

    def _independent(self, nest: Nest, begin: int) -> set[int] | None:
        """Places in the body that must go iteration by iteration; None when iterations depend on each other otherwise.

        Iterations may run together if no two of them touch the same bytes, one of them writing; a conflict of a place
        only with itself keeps its order when that instruction runs once for each iteration.
        """
        stop = begin + nest.length * nest.trips
        a, b = int(self.first[begin]), int(self.first[stop - 1] + self.count[stop - 1])
        table = self.trace.operands[a:b]
        rows = self.rows[a:b] - begin
        iteration, place = rows // nest.length, rows % nest.length
        numbers = table[:, Operand.BUFFER]
        total = len(self.trace.buffers)
        low = np.full(total, nest.trips, np.int64)
        high = np.full(total, -1, np.int64)
        np.minimum.at(low, numbers, iteration)
        np.maximum.at(high, numbers, iteration)
        written = np.zeros(total, bool)
        written[numbers[(table[:, Operand.FLAGS] & 1) != 0]] = True
        shared = np.nonzero((low < high) & written)[0]
        serial: set[int] = set()
        if not len(shared):
            return serial
        mine = np.isin(numbers, shared)
        order = np.nonzero(mine)[0]
        order = order[np.argsort(numbers[order], kind="stable")]
        edges = np.nonzero(np.diff(numbers[order]))[0] + 1
        for group in np.split(order, edges):
            found = _conflicts(table[group], iteration[group], place[group])
            if found is None:
                return None
            serial |= found
        return serial


def _conflicts(table: Table, iteration: Table, place: Table) -> set[int] | None:
    """Places whose accesses to one buffer conflict between iterations, if only with themselves; else None."""
    writes = (table[:, Operand.FLAGS] & 1) != 0
    boxes, which = np.unique(
        table[:, [Operand.ROW0, Operand.ROW1, Operand.BYTE0, Operand.BYTE1]], axis=0, return_inverse=True
    )
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


class _Batch:
    """Some iterations of a loop, instruction by instruction for all of them."""

    def __init__(self, values: Values, nest: Nest, begin: int, trips: int, serial: set[int]) -> None:
        self.values = values
        self.nest = nest
        self.begin = begin
        self.trips = trips
        self.serial = serial

    def run(self) -> None:
        """Compute all iterations."""
        self._walk(0, self.nest.length, self.nest.inner, 0)

    def _walk(self, start: int, stop: int, nests: list[Nest], origin: int) -> None:
        row = start
        for nest in nests:
            begin = origin + nest.start
            for at in range(row, begin):
                self._step(at)
            for k in range(nest.trips):
                inner = begin + k * nest.length
                self._walk(inner, inner + nest.length, nest.inner, inner)
            row = begin + nest.length * nest.trips
        for at in range(row, stop):
            self._step(at)

    def _step(self, place: int) -> None:
        """One instruction of the body, for all iterations."""
        values, stride = self.values, self.nest.length
        row = self.begin + place
        step = values.steps[row]
        assert step is not None
        first, buffers, offsets = values.row_lists
        starts = [first[row + k * stride] for k in range(self.trips)]
        numbers = [[buffers[at + i] for at in starts] for i in range(len(step.outs) + len(step.ins))]
        self._allocate(numbers)
        done = False
        if place not in self.serial:
            places = [
                self._places(tensor, numbers[i], [offsets[at + i] for at in starts])
                for i, tensor in enumerate((*step.outs, *step.ins))
            ]
            if step.op.name in _LANEWISE:
                done = self._lanewise(step, places)
            elif step.op.name == "nc_matmul":
                done = self._matmul(step, places)
        for k in range(self.trips):
            at = row + k * stride
            if not done:
                values._one(at)
            elif at in values.ending:
                values._release(at)

    def _allocate(self, numbers: list[list[int]]) -> None:
        """Memory for the operands that have none yet: one run for the iterations' own tiles."""
        memory = self.values.memory
        for own in numbers:
            missing = [n for n in dict.fromkeys(own) if n not in memory]
            if missing:
                self.values._place(missing)

    def _places(self, tensor: Tensor, numbers: list[int], offsets: list[int]) -> tuple[Buffer, int, int] | None:
        """(allocation, first element, elements between iterations) of an operand, or None when they aren't even."""
        memory = self.values.memory
        home, start = memory[numbers[0]]
        item = tensor.dtype.itemsize
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

    def _stack(self, tensor: Tensor, place: tuple[Buffer, int, int] | None, output: bool) -> Tensor | None:
        """An operand of all iterations as one tile, iterations along the partitions; None when they can't be."""
        if place is None:
            return None
        home, begin, step = place
        lanes = tensor.shape[0]
        shape = (lanes * self.trips, *tensor.shape[1:])
        if step == lanes * tensor.strides[0] and step:
            return Tensor(home, shape, tensor.dtype, begin, tensor.strides)
        if lanes == 1 and step:
            return Tensor(home, shape, tensor.dtype, begin, (step, *tensor.strides[1:]))
        if output or step or tensor.size * tensor.dtype.itemsize * self.trips > _COPIES:
            return None
        one = Tensor(home, tensor.shape, tensor.dtype, begin, tensor.strides).view()
        return _Loose.of(np.tile(one, (self.trips, *[1] * (one.ndim - 1))), tensor.dtype)

    def _lanewise(self, step: Step, places: list[tuple[Buffer, int, int] | None]) -> bool:
        outs = len(step.outs)
        params = step.params or {}
        if step.op.name == "dma_copy" and (
            params.get("accumulate") is not None or step.outs[0].shape != step.ins[0].shape
        ):
            return False
        views = []
        for i, tensor in enumerate((*step.outs, *step.ins)):
            view = self._stack(tensor, places[i], i < outs)
            if view is None:
                return False
            views.append(view)
        self.values._mean(step, views)
        return True

    def _matmul(self, step: Step, places: list[tuple[Buffer, int, int] | None]) -> bool:
        """One product for all iterations, when they share the moving operand."""
        params = step.params or {}
        dst, (left, right) = step.outs[0], step.ins
        if params["double_row"] or params["transpose"] or left.ndim != 2 or right.ndim != 2 or dst.ndim != 2:
            return False
        if "tfloat32" in (str(left.dtype), str(right.dtype)) or places[1] is None or places[2] is None or places[2][2]:
            return False
        k, m = left.shape
        n = right.shape[1]
        if m % _FULL_RATE or n % _FULL_RATE or not places[1][2]:
            return False
        target = self._stack(dst, places[0], True)
        if target is None or target.dtype.storage != np.float32:
            return False
        home, begin, step_elements = places[1]
        every = Tensor(
            home, (k, self.trips, m), left.dtype, begin, (left.strides[0], step_elements, left.strides[1])
        ).view()
        moving = Tensor(places[2][0], right.shape, right.dtype, places[2][1], right.strides).read_float()
        stationary = np.ascontiguousarray(every).reshape(k, self.trips * m)
        if stationary.dtype != np.float32:
            stationary = stationary.astype(np.float32)
        goal = target.view()
        if params["mode"] == "set" and goal.flags.c_contiguous:
            np.matmul(stationary.T, moving, out=goal)
        else:
            product = np.matmul(stationary.T, moving, out=context.current().scratch(goal.size).reshape(goal.shape))
            if params["mode"] == "set":
                goal[...] = product
            else:
                goal += product
        return True


class _Loose:
    """Makes tiles of host arrays."""

    @staticmethod
    def of(array: NDArray[Any], dtype: DType) -> Tensor:
        """A tile over a contiguous array [P, F...]."""
        rows = array.shape[0]
        buffer = Buffer(-1, "sbuf", "", array.shape, dtype, rows, array.nbytes // rows)
        buffer.adopt(np.ascontiguousarray(array))
        run = array.size // rows
        strides = [run]
        for n in array.shape[1:]:
            run //= n
            strides.append(run)
        return Tensor(buffer, array.shape, dtype, 0, tuple(strides))
