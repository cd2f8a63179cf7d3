"""Loops that are recorded once: a body runs for a few iterations, the rest of its instructions follow by index arithmetic.

Beta 1 traces the body of a loop once, with a symbolic index. Here a body that uses its index only affinely (the front
end's proof) runs for the iterations 0, 1, 2, n-2 and n-1. If the instructions of n-2 are what those of 1 and 2 predict,
those in between are too: offsets are affine in the index, and whatever a mask or a bound decides is decided by affine
inequalities, which hold on an interval. If they aren't, the kernel is run again with that loop iterated in full.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tools.sim.instruction import BufferInfo, Inst, Operand
from tools.sim.memory import Buffer
from tools.sim.repetition import Repetition
from tools.sim.steps import Form, Step, StepTable
from tools.sim.tensor import Tensor

if TYPE_CHECKING:
    from tools.sim.core import Core

Table = NDArray[np.int64]
_ROW, _OPERAND = len(Inst), len(Operand)
_PLACED = [c for c in range(_ROW) if c != Inst.FIRST_OPERAND]
_FIXED = [Operand.FLAGS, Operand.ROW_BYTES, Operand.DTYPE]
_MOVING = [Operand.ROW0, Operand.ROW1, Operand.BYTE0, Operand.BYTE1]


class NotUniform(BaseException):
    """A loop whose iterations aren't what its first ones predict; the launch starts again without deriving it.

    It isn't an `Exception`, so that no handler of the kernel takes it for its own.
    """

    def __init__(self, loop: Any) -> None:
        self.loop = loop


@dataclass(slots=True)
class _Span:
    """What one iteration recorded: instructions, operands and buffers [start, stop), and the loops inside."""

    rows: tuple[int, int]
    operands: tuple[int, int]
    buffers: tuple[int, int]
    inner: list[Repetition]
    tables: _Tables | None = None


@dataclass(slots=True)
class _Tables:
    """The instructions and operands of one iteration, and the first element of each operand where values are computed."""

    rows: Table
    operands: Table
    elements: Table


@dataclass(slots=True)
class Frozen:
    """State of a block's buffer after the iteration that is copied, for the blocks of derived iterations."""

    tile: Any
    pending: bool
    cells: dict[tuple[int, int], tuple[int, int]]
    groups: dict[Any, Any] | None

    @classmethod
    def of(cls, tile: Any) -> Frozen:
        """The state of a tile as it is now."""
        buffer = tile.buffer
        return cls(tile, buffer.pending, dict(buffer.cells), dict(buffer.groups) if buffer.groups else None)

    def thaw(self, number: int, address: tuple[int, int] | None) -> Any:
        """A tile like this one in a buffer of its own."""
        old = self.tile.buffer
        buffer = Buffer(
            number, old.space, old.name, old.shape, old.dtype, old.partitions, old.row_bytes, line=old.line,
            core=old.core, role=old.role, address=address, storage=old.storage,
        )  # fmt: skip
        buffer.pending, buffer.grid, buffer.area, buffer.unwritten = self.pending, old.grid, old.area, old.unwritten
        buffer.cells = dict(self.cells)
        buffer.groups = dict(self.groups) if self.groups else None
        buffer.from_data = old.from_data
        return type(self.tile)(buffer, self.tile.shape, self.tile.dtype, self.tile.offset, self.tile.strides)


class LoopRecorder:
    """Watches the loops of one launch and derives the iterations that need not run.

    Attributes:
        ragged: loops whose last iteration isn't like the others.
        skipped: loops that are iterated in full.
        loops: the uniform loops of the launch, outermost first.
        table: the different steps.
        steps: for launches with values: a step an instruction, None for derived ones.
        offsets: for launches with values: first element of each operand in its buffer.
        unproven: set while a body does something that isn't known to be affine; why.
    """

    def __init__(self, core: Core, uneven: Sequence[Any] = (), keep_steps: bool = False) -> None:
        self.core = core
        self.builder = core.builder
        self.ragged = set(uneven)
        self.skipped = {loop for loop in uneven if uneven.count(loop) > 1}
        self.loops: list[Repetition] = []
        self.unproven = False
        self.keep_steps = keep_steps
        self.table = StepTable()
        self.steps: list[Step | None] = []
        self.offsets = array("q")
        self.home: dict[int, tuple[Any, int]] = {}
        self.running: list[Any] = []

    def taint(self) -> None:
        """The running bodies did something that may not be affine in their indices."""
        if self.running:
            self.unproven = True

    def note_block(self, buffer: int, store: Any, at: int) -> None:
        """Remember which block of which tensor a buffer is."""
        self.home[buffer] = (store, at)

    # -- one loop ----------------------------------------------------------------------------------------------------

    def iterate(
        self, loop: Any, values: range, make: Callable[[int, bool], Any], proven: Callable[[], bool], masked: bool
    ) -> Iterator[Any]:
        """The values of a loop that must really run; what the others would record is added between them.

        Args:
            loop: what tells this loop from others.
            values: the index of each iteration.
            make: (value, whether it is the first) to the object that the kernel sees.
            proven: asked after the first iteration: whether the body uses that object only affinely.
            masked: whether the body masks by the index, so that the last iteration may be a partial one.
        """
        trips = len(values)
        tail = 2 if masked or loop in self.ragged else 1
        derive = trips >= tail + 3 and loop not in self.skipped
        if not self.keep_steps and not derive:
            for k, value in enumerate(values):
                yield make(value, k == 0)
            return
        outer, self.loops = self.loops, []
        before, self.unproven = self.unproven, False
        spans: dict[int, _Span] = {}
        model = derived = 0
        k = 0
        self.running.append(loop)
        try:
            while k < trips:
                self.loops = []
                row, operand, buffer = self._row(), self.builder.operand_count, len(self.builder.buffers)
                yield make(values[k], k == 0)
                if self.core.deferred is not None:
                    self.unproven = True  # the next iteration, or what follows the loop, decides where it goes
                spans[k] = _Span(
                    (row, self._row()),
                    (operand, self.builder.operand_count),
                    (buffer, len(self.builder.buffers)),
                    self.loops,
                )
                if k == 0 and not proven():
                    self.unproven = True
                checked = derived and k == trips - tail
                if checked and not self._fits(spans[model], spans[model + 1], spans[k], k - model - 1):
                    raise NotUniform(loop)
                k += 1
                if derive and not derived and not self.unproven and k in (2, 3) and trips - tail > k:
                    model = k - 2
                    if self._predicts(spans[model], spans[model + 1]):
                        derived = trips - tail - k
                        self._derive(spans[model], spans[model + 1], derived)
                        k = trips - tail
        finally:
            self.running.pop()
            self.loops = outer
        if derived and self.unproven:
            raise NotUniform(loop)
        if spans and self.keep_steps:
            self._close(spans, trips, model if derived else min(1, trips - 2))
        self.unproven = before or self.unproven

    def _row(self) -> int:
        return len(self.builder.rows) // _ROW

    def _read(self, span: _Span) -> _Tables:
        """What an iteration recorded."""
        if span.tables is not None:
            return span.tables
        builder = self.builder
        rows = np.array(builder.rows[span.rows[0] * _ROW : span.rows[1] * _ROW], np.int64)
        operands = np.array(builder.operand_rows[span.operands[0] * _OPERAND : span.operands[1] * _OPERAND], np.int64)
        elements = np.array(self.offsets[span.operands[0] : span.operands[1]] if self.keep_steps else [], np.int64)
        return _Tables(rows.reshape(-1, _ROW), operands.reshape(-1, _OPERAND), elements)

    def _model(self, span: _Span) -> _Tables:
        """What an iteration recorded that others are compared with: it is read again and again."""
        span.tables = self._read(span)
        return span.tables

    # -- comparing iterations ----------------------------------------------------------------------------------------

    def _alike(self, a: _Span, b: _Span, first: _Tables, second: _Tables) -> bool:
        """Whether two iterations recorded the same instructions on views of the same form."""
        if a.rows[1] - a.rows[0] != b.rows[1] - b.rows[0] or len(a.inner) != len(b.inner):
            return False
        if a.buffers[1] - a.buffers[0] != b.buffers[1] - b.buffers[0]:
            return False
        if not np.array_equal(first.rows[:, _PLACED], second.rows[:, _PLACED]):
            return False
        o, p = first.operands, second.operands
        if o.shape != p.shape or not np.array_equal(o[:, _FIXED], p[:, _FIXED]):
            return False
        if not all(m.shifted(-a.rows[0]).same(n.shifted(-b.rows[0])) for m, n in zip(a.inner, b.inner)):
            return False
        if self.keep_steps:
            return self.steps[a.rows[0] : a.rows[1]] == self.steps[b.rows[0] : b.rows[1]]
        return True

    def _predicts(self, a: _Span, b: _Span) -> bool:
        """Whether iteration b is a step from a that can be repeated."""
        first, second = self._model(a), self._model(b)
        if not self._alike(a, b, first, second):
            return False
        o, p = first.operands, second.operands
        move = p[:, _MOVING] - o[:, _MOVING]
        if (move[:, 0] != move[:, 1]).any() or (move[:, 2] != move[:, 3]).any():
            return False
        return self._buffers(o, p, a, b, [1]) is not None and self._blocks_step(a, b)

    def _blocks_step(self, a: _Span, b: _Span) -> bool:
        """Whether new blocks of b are those of a moved on, and all other new buffers alike."""
        infos = self.builder.buffers
        for x, y in zip(range(*a.buffers), range(*b.buffers)):
            m, n = infos[x], infos[y]
            if (m.space, m.shape, m.dtype, m.line, m.role, m.name) != (
                n.space,
                n.shape,
                n.dtype,
                n.line,
                n.role,
                n.name,
            ):
                return False
            s, t = self.home.get(x), self.home.get(y)
            if (s is None) != (t is None):
                return False
            if s is not None and t is not None and s[0] is t[0]:
                continue
            # memory of the iteration's own: nothing outside can ask for it
            if m.address != n.address or (s is not None and t is not None and s[1] != t[1]):
                return False
        return True

    def _buffers(
        self, o: Table, p: Table, a: _Span, b: _Span, ahead: list[int], at: list[int] | None = None
    ) -> Table | None:
        """Buffer of each operand `ahead` iterations after b, [len(ahead), operands]; None where that isn't known.

        Args:
            at: for each of those iterations the first of its new buffers; by default none of them has any yet.
        """
        x, y = o[:, Operand.BUFFER], p[:, Operand.BUFFER]
        result = np.repeat(y[None, :], len(ahead), 0)
        differ = x != y
        if not differ.any():
            return result
        fresh = differ & (x >= a.buffers[0]) & (y >= b.buffers[0])
        if (x[fresh] - a.buffers[0] != y[fresh] - b.buffers[0]).any():
            return None
        if at is not None:
            result[:, fresh] = (y[fresh] - b.buffers[0])[None, :] + np.array(at)[:, None]
        for k in np.nonzero(differ & ~fresh)[0]:
            s, t = self.home.get(int(x[k])), self.home.get(int(y[k]))
            if s is None or t is None or s[0] is not t[0]:
                return None
            store, step = t[0], t[1] - s[1]
            for row, far in enumerate(ahead):
                number = store.known(t[1] + far * step)
                if number is None:
                    return None
                result[row, k] = number
        return result

    def _fits(self, a: _Span, b: _Span, other: _Span, far: int) -> bool:
        """Whether an iteration is what a and b (the one after a) predict for `far` iterations after b."""
        first, second, third = self._model(a), self._model(b), self._read(other)
        if not self._alike(b, other, second, third):
            return False
        o, p, q = first.operands, second.operands, third.operands
        if not np.array_equal(p[:, _MOVING] + (p - o)[:, _MOVING] * far, q[:, _MOVING]):
            return False
        if self.keep_steps:
            x0, y0, z0 = first.elements, second.elements, third.elements
            if not np.array_equal(y0 + (y0 - x0) * far, z0):
                return False
        for x, y, z in zip(range(*a.buffers), range(*b.buffers), range(*other.buffers)):
            s, t, u = self.home.get(x), self.home.get(y), self.home.get(z)
            if (t is None) != (u is None):
                return False
            if s is not None and t is not None and u is not None:
                own = s[0] is not t[0]
                if own == (u[0] is t[0]) or u[1] != t[1] + (t[1] - s[1]) * far:
                    return False
        predicted = self._buffers(o, p, a, b, [far], [other.buffers[0]])
        return predicted is not None and np.array_equal(predicted[0], q[:, Operand.BUFFER])

    # -- adding iterations -------------------------------------------------------------------------------------------

    def _derive(self, a: _Span, b: _Span, count: int) -> None:
        """Record `count` iterations after b."""
        builder = self.builder
        ahead = list(range(1, count + 1))
        made = b.buffers[1] - b.buffers[0]
        first = len(builder.buffers)
        starts = [first + made * j for j in range(count)]
        self._add_buffers(a, b, count)
        first_tables, tables = self._model(a), self._model(b)
        rows, o, p = tables.rows, first_tables.operands, tables.operands
        buffers = self._buffers(o, p, a, b, ahead, starts)
        if buffers is None:
            raise NotUniform(self.running[-1])
        more = np.repeat(rows[None], count, 0)
        more[:, :, Inst.FIRST_OPERAND] += (
            builder.operand_count - b.operands[0] + len(p) * np.arange(count, dtype=np.int64)[:, None]
        )
        operands = np.repeat(p[None], count, 0)
        operands[:, :, Operand.BUFFER] = buffers
        operands[:, :, _MOVING] += (p - o)[None, :, _MOVING] * np.array(ahead, np.int64)[:, None, None]
        builder.rows.frombytes(np.ascontiguousarray(more).tobytes())
        builder.operand_rows.frombytes(np.ascontiguousarray(operands).tobytes())
        builder.operand_count += len(p) * count
        if self.keep_steps:
            self.steps.extend([None] * (len(rows) * count))
            before, after = first_tables.elements, tables.elements
            starting = after[None] + (after - before)[None] * np.array(ahead, np.int64)[:, None]
            self.offsets.frombytes(np.ascontiguousarray(starting).tobytes())
            self._mark(operands, starting, b)

    def _add_buffers(self, a: _Span, b: _Span, count: int) -> None:
        """Buffers that the derived iterations would allocate; blocks become tiles when something asks for them."""
        builder, home = self.builder, self.home
        frozen: dict[int, Frozen] = {}
        for j in range(1, count + 1):
            for x, y in zip(range(*a.buffers), range(*b.buffers)):
                info = builder.buffers[y]
                number = len(builder.buffers)
                address = info.address
                s, t = home.get(x), home.get(y)
                if s is not None and t is not None and s[0] is t[0]:
                    store, at = t[0], t[1] + j * (t[1] - s[1])
                    if store.known(at) is not None:
                        raise NotUniform(self.running[-1])
                    address = store.address(at)
                    state = frozen.get(y)
                    if state is None:
                        known = store.tiles.get(t[1])
                        state = frozen[y] = store.later[t[1]][1] if known is None else Frozen.of(known)
                    store.later[at] = (number, state)
                    home[number] = (store, at)
                builder.buffers.append(
                    BufferInfo(
                        number, info.name, info.space, info.shape, info.dtype, info.partitions, info.row_bytes,
                        info.line, info.core, address, info.role,
                    )
                )  # fmt: skip

    def _mark(self, operands: Table, starting: Table, model: _Span) -> None:
        """Note what derived iterations write to buffers that aren't theirs alone."""
        partly: dict[int, Buffer] = self.core.partly  # type: ignore[attr-defined]
        if not partly:
            return
        views: list[Form] = []
        for step in self.steps[model.rows[0] : model.rows[1]]:
            if step is None:
                raise NotUniform(self.running[-1])
            views.extend((*step.outs, *step.ins))
        waiting = np.isin(operands[:, :, Operand.BUFFER], list(partly))
        for far, at in np.argwhere(waiting).tolist():
            buffer = partly.get(int(operands[far, at, Operand.BUFFER]))
            if buffer is None or not buffer.pending:
                continue
            like = views[at]
            view = Tensor(buffer, like.shape, like.dtype, int(starting[far, at]), like.strides)
            if operands[far, at, Operand.FLAGS] & 2 and not buffer.covers(view):
                raise NotUniform(self.running[-1])
            if operands[far, at, Operand.FLAGS] & 1:
                buffer.mark(view)
                if not buffer.pending:
                    partly.pop(buffer.id)

    # -- the result --------------------------------------------------------------------------------------------------

    def _close(self, spans: dict[int, _Span], trips: int, model: int) -> None:
        """Add the loop to those around it; iterations `model` and the next one show its step."""
        derived = set(range(trips)) - spans.keys()
        if trips == 1 or spans[0].rows[0] == spans[trips - 1].rows[1]:
            for span in spans.values():
                self.loops.extend(span.inner)
            return
        a, b = spans[model], spans[model + 1]
        if not derived and (self.unproven or not self._predicts(a, b)):
            for span in spans.values():
                self.loops.extend(span.inner)
            return
        uniform = {model, model + 1, *derived}
        uniform.update(k for k in spans if k not in uniform and self._fits(a, b, spans[k], k - model - 1))
        first, stop = model, model
        while first - 1 in uniform:
            first -= 1
        while stop in uniform:
            stop += 1
        length = b.rows[1] - b.rows[0]
        begin = b.rows[0] - (model + 1 - first) * length
        for k in range(first):
            self.loops.extend(spans[k].inner)
        self.loops.append(Repetition(begin, length, stop - first, [n.shifted(-b.rows[0]) for n in b.inner]))
        for k in range(stop, trips):
            if k in spans:
                self.loops.extend(spans[k].inner)
        self._share(begin, length, stop - first, b.rows[0])

    def _share(self, begin: int, length: int, trips: int, model: int) -> None:
        """Instructions of uniform iterations share the steps of one of them."""
        steps = self.steps
        own = steps[model : model + length]
        for k in range(trips):
            steps[begin + k * length : begin + (k + 1) * length] = own
