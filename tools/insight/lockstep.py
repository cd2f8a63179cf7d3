"""A recorded kernel run twice in lockstep: as the hardware would, and with a float64 shadow of every tile.

After each instruction three results lie side by side: the hardware's, the shadow's (no rounding since the inputs), and the
same instruction applied in float64 to the hardware's own operands. The last one tells what this instruction alone lost.
The shadow stores float64 and computes in it; activation functions and accumulator registers compute in float32 as the
instruction set defines them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tools.program import Program, replay
from tools.sim import context
from tools.sim.core import Core, Launch, SimOptions
from tools.sim.errors import Diagnostic, KernelError, UnsupportedError
from tools.sim.instruction import Inst, Opcode
from tools.sim.isa.tensor import group_map
from tools.sim.machine import Machine
from tools.sim.memory import Buffer
from tools.sim.tensor import Indirect, Tensor, to_integer
from tools.sim.timing import live_ranges

Array = NDArray[np.float64]

RANDOM = frozenset({"rng", "rand2", "dropout", "set_rng_seed", "rand_set_state", "rand_get_state"})
"""Instructions whose result depends on a hidden state: the shadow takes over the hardware's."""


@dataclass(slots=True)
class LineError:
    """What the instructions of one source line did to the values.

    Attributes:
        local: largest relative error that one of them added by itself, against the rms of its result.
        inherited: largest relative error of a result against the shadow: everything lost up to there.
        count: instructions of the line that write floats.
        dtype: type of the results.
        opcode: instruction.
        worst: index of the instruction with the largest local error.
        first_bad: first instruction that made a NaN or infinity from finite operands, else -1.
    """

    local: float = 0.0
    inherited: float = 0.0
    count: int = 0
    dtype: str = ""
    opcode: str = ""
    worst: int = -1
    first_bad: int = -1


@dataclass(frozen=True, slots=True)
class Lockstep:
    """Both runs of one kernel.

    Attributes:
        outputs: the hardware's results.
        shadow: the same results in float64 without any rounding on the way.
        lines: by line id, what happened there.
        local: each instruction's own relative error; 0 where it writes no float.
        bad: instructions that made a NaN or infinity from finite operands, in order.
        ranges: for those, smallest and largest operand value.
        unshadowed: lines whose instructions have no float64 form; the shadow took over the hardware's result there.
        diagnostics: findings of the hardware run, e.g. reads of memory that was never written.
    """

    outputs: tuple[NDArray[Any], ...]
    shadow: tuple[NDArray[Any], ...]
    lines: dict[int, LineError]
    local: Array
    bad: tuple[int, ...]
    ranges: dict[int, tuple[float, float]]
    unshadowed: tuple[int, ...]
    diagnostics: tuple[Diagnostic, ...]


Watch = tuple[frozenset[int], Callable[[int, Sequence[Tensor]], None]]
"""Instructions, and what is called with each one's number and the shadows of its results right after it."""


def lockstep(program: Program, inputs: Sequence[NDArray[Any]], target: Machine, watch: Watch | None = None) -> Lockstep:
    """Run a recorded kernel with its shadow.

    Args:
        program: from `tools.program.record` (or the sandbox's `record`).
        inputs: one array for each input, in order.
        target: the machine.
        watch: instructions whose shadow results are to be shown to a function.

    Raises:
        KernelError: an instruction is at fault that shows only with data.
        Malformed: the record is inconsistent.
    """
    carrier = _Pair(program, target, watch)
    done = replay(program, inputs, target, carrier=carrier)
    facts = carrier.twin_outputs()
    return Lockstep(
        done.outputs, facts, carrier.lines, np.array(carrier.local), tuple(carrier.bad), carrier.ranges,
        tuple(sorted(carrier.unshadowed)), done.diagnostics,
    )  # fmt: skip


class _Wide(Tensor):
    """A view of a buffer that stores float64."""

    __slots__ = ()

    def read(self) -> NDArray[Any]:
        return self.view()

    def read_float(self) -> NDArray[Any]:
        values = self.view()
        return values if values.dtype == np.float64 else values.astype(np.float64)

    def read_cached(self) -> NDArray[Any]:
        values = self.read_float()
        return values if values.ndim == 2 else values.reshape(values.shape[0], -1)

    def write(self, values: Any) -> None:
        target = self.view()
        if target.dtype.kind in "iu":
            values = to_integer(values, target.dtype)
        with np.errstate(all="ignore"):
            np.copyto(target, values, casting="unsafe")

    def wrote(self) -> None:
        return


def _wide_buffer(like: Buffer, shape: tuple[int, ...], partitions: int, row_bytes: int) -> Buffer:
    storage = np.dtype(np.float64) if like.dtype.is_float else None
    buffer = Buffer(
        like.id, like.space, like.name, shape, like.dtype, partitions, row_bytes, line=like.line, storage=storage
    )
    buffer.allocate()
    buffer.pending = False
    return buffer


@dataclass
class _Pair:
    """Carries out each instruction three times and compares."""

    program: Program
    target: Machine
    watch: Watch | None = None
    lines: dict[int, LineError] = field(default_factory=dict)
    local: list[float] = field(default_factory=list)
    bad: list[int] = field(default_factory=list)
    ranges: dict[int, tuple[float, float]] = field(default_factory=dict)
    unshadowed: set[int] = field(default_factory=set)
    buffers: dict[int, Buffer] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.shadow_core = self._core()
        self.local_core = self._core()
        self.last = live_ranges(self.program.trace).last
        self.hbm = [b.space not in ("sbuf", "psum") for b in self.program.trace.buffers]

    def _core(self) -> Core:
        return Core(Launch(self.target, SimOptions(), dialect=self.program.trace.dialect))

    def __call__(
        self, index: int, op: Opcode, outs: tuple[Tensor, ...], ins: tuple[Tensor, ...], values: dict[str, Any]
    ) -> None:
        line = int(self.program.trace.instructions[index, Inst.LINE])
        wide_outs = [self._twin(t) for t in outs]
        wide_ins = [self._twin(t) for t in ins]
        wide_values = {name: _mapped(v, self._twin) for name, v in values.items()}
        finite, low, high = _condition(ins)
        alone = self._alone(op, outs, ins, values)
        op.meaning(outs, ins, **values)
        if not self._shadowed(op, tuple(wide_outs), tuple(wide_ins), wide_values, outs):
            self.unshadowed.add(line)
            for twin, real in zip(wide_outs, outs):
                if twin.rows is None:
                    twin.write(real.view().astype(np.float64) if real.dtype.is_float else real.view())
        self._note(index, line, op, outs, wide_outs, alone)
        if self.watch is not None and index in self.watch[0]:
            self.watch[1](index, wide_outs)
        if finite and any(t.dtype.is_float and not np.isfinite(_plain(t)).all() for t in outs if t.rows is None):
            self.bad.append(index)
            self.ranges[index] = (low, high)
            entry = self.lines.setdefault(line, LineError(opcode=op.name))
            entry.first_bad = index if entry.first_bad < 0 else entry.first_bad
        for tensor in (*outs, *ins):
            b = tensor.buffer.id
            if self.last[b] <= index and not self.hbm[b]:
                self.buffers.pop(b, None)

    def _note(
        self,
        index: int,
        line: int,
        op: Opcode,
        outs: Sequence[Tensor],
        wide: Sequence[Tensor],
        alone: list[Array] | None,
    ) -> None:
        worst = 0.0
        for k, (real, twin) in enumerate(zip(outs, wide)):
            if not real.dtype.is_float or real.rows is not None:
                continue
            entry = self.lines.setdefault(line, LineError(opcode=op.name))
            entry.count += 1
            entry.dtype = str(real.dtype)
            got = _plain(real)
            entry.inherited = max(entry.inherited, relative(got, twin.view()))
            mine = relative(got, alone[k]) if alone is not None else 0.0
            if mine > entry.local or entry.worst < 0:
                entry.local, entry.worst = max(mine, entry.local), index
            worst = max(worst, mine)
        while len(self.local) <= index:
            self.local.append(0.0)
        self.local[index] = worst

    # -- the two float64 executions ------------------------------------------------------------------------------------

    def _shadowed(
        self,
        op: Opcode,
        outs: tuple[Tensor, ...],
        ins: tuple[Tensor, ...],
        values: dict[str, Any],
        real: Sequence[Tensor],
    ) -> bool:
        """Carry out the instruction on the shadow; False when it has no float64 form."""
        if op.name in RANDOM:
            return False
        before = context.enter(self.shadow_core)
        try:
            with np.errstate(all="ignore"):
                _wide_meaning(op, outs, ins, values, real)
        except (UnsupportedError, KernelError, TypeError, ValueError):
            return False
        finally:
            context.enter(before)
        return True

    def _alone(
        self, op: Opcode, outs: tuple[Tensor, ...], ins: tuple[Tensor, ...], values: dict[str, Any]
    ) -> list[Array] | None:
        """The instruction's float64 results from the hardware's operands, or None where that can't be had."""
        if op.name in RANDOM or any(t.rows is not None for t in (*outs, *ins)):
            return None
        if op.kind == "control" or not any(t.dtype.is_float for t in outs):
            return None
        self.local_core.registers = {k: v.copy() for k, v in context.current().registers.items()}
        copies = [_compact(t) for t in outs]
        before = context.enter(self.local_core)
        try:
            with np.errstate(all="ignore"):
                sources = tuple(_compact(t) for t in ins)
                _wide_meaning(op, tuple(copies), sources, {n: _mapped(v, _compact) for n, v in values.items()}, outs)
        except (UnsupportedError, KernelError, TypeError, ValueError):
            return None
        finally:
            context.enter(before)
        return [np.asarray(t.view(), np.float64) for t in copies]

    def _twin(self, tensor: Tensor) -> Tensor:
        buffer = self.buffers.get(tensor.buffer.id)
        if buffer is None:
            buffer = self.buffers[tensor.buffer.id] = self._copied(tensor.buffer)
        index = tensor.rows
        far = None if index is None else Indirect(self._twin(index.index), index.dim, index.row_stride)
        return _Wide(buffer, tensor.shape, tensor.dtype, tensor.offset, tensor.strides, far)

    def _copied(self, real: Buffer) -> Buffer:
        buffer = _wide_buffer(real, real.shape, real.partitions, real.row_bytes)
        if real.data is not None and buffer.data is not None:
            count = real.partitions * real.row_bytes // real.dtype.itemsize
            values = np.ndarray((count,), real.dtype.storage, real.data)
            with np.errstate(all="ignore"):
                np.ndarray((count,), buffer.storage, buffer.data)[...] = values.astype(buffer.storage)
        return buffer

    def twin_outputs(self) -> tuple[NDArray[Any], ...]:
        """The kernel's results in float64."""
        from tools.program import _tensor_rows
        from tools.sim.dtypes import ALL

        found = []
        rows = _tensor_rows(self.program.tensors)
        for id in self.program.outputs:
            buffer_id, dtype, offset, _, _, shape, strides = rows[id]
            twin = _Wide(self.buffers[buffer_id], shape, ALL[dtype], offset, strides)
            found.append(np.array(twin.view()))
        return tuple(found)


def _plain(tensor: Tensor) -> Array:
    with np.errstate(all="ignore"):
        return np.asarray(tensor.view(), np.float64) if tensor.dtype.kind != "packed" else np.zeros(1)


def _condition(ins: Sequence[Tensor]) -> tuple[bool, float, float]:
    """Whether all float operands are finite, and their range."""
    low, high = np.inf, -np.inf
    for t in ins:
        if t.dtype.is_float and t.rows is None and t.buffer.data is not None:
            values = _plain(t)
            if not np.isfinite(values).all():
                return False, 0.0, 0.0
            low, high = min(low, float(values.min())), max(high, float(values.max()))
    return True, low, high


def relative(got: Array, want: NDArray[Any]) -> float:
    """Largest |got - want| over (|want| + rms of want); infinite where only one of the two is finite."""
    exact = np.asarray(want, np.float64)
    with np.errstate(all="ignore"):
        broken = np.isfinite(got) != np.isfinite(exact)
        if broken.any():
            return float("inf")
        both = np.isfinite(exact)
        if not both.any():
            return 0.0
        scale = float(np.sqrt(np.mean(np.square(exact[both]))))
        error = np.abs(got[both] - exact[both]) / (np.abs(exact[both]) + scale + np.finfo(np.float64).tiny)
    return float(error.max())


def _compact(tensor: Tensor) -> Tensor:
    """A float64 copy of what a view shows, in memory of its own."""
    shape = tensor.shape
    on_chip = tensor.buffer.on_chip
    partitions = shape[0] if on_chip else 1
    size = int(np.prod(shape))
    item = tensor.buffer.dtype.itemsize
    if tensor.dtype is not tensor.buffer.dtype:
        raise UnsupportedError("a reinterpreting view in float64")
    buffer = _wide_buffer(tensor.buffer, shape, partitions, size // partitions * item)
    strides = tuple(int(np.prod(shape[k + 1 :])) for k in range(len(shape)))
    twin = _Wide(buffer, shape, tensor.dtype, 0, strides)
    if tensor.buffer.data is not None:
        with np.errstate(all="ignore"):
            twin.view()[...] = tensor.view()
    return twin


def _mapped(value: Any, twin: Callable[[Tensor], Tensor]) -> Any:
    """A parameter with its tensors replaced by their twins."""
    if isinstance(value, Tensor):
        return twin(value)
    if isinstance(value, tuple | list):
        return type(value)(_mapped(v, twin) for v in value)
    return value


def _wide_meaning(
    op: Opcode, outs: tuple[Tensor, ...], ins: tuple[Tensor, ...], values: dict[str, Any], real: Sequence[Tensor]
) -> None:
    """The instruction on float64 tensors. Matmuls have a form of their own: the usual one accumulates into float32."""
    if op.name != "nc_matmul":
        op.meaning(outs, ins, **values)
        return
    stationary, moving = ins[0].read_float(), ins[1].read_float()
    k = stationary.shape[0]
    if values.get("double_row"):
        a = stationary.reshape(k, 2, -1).transpose(1, 0, 2).reshape(2 * k, -1)
        b = moving.reshape(k, 2, -1).transpose(1, 0, 2).reshape(2 * k, -1)
    else:
        a, b = stationary.reshape(k, -1), moving.reshape(k, -1)
    product = (a.T @ b).reshape(outs[0].shape)
    target = outs[0].view()
    mode = values["mode"]
    if mode == "add":
        product = product + target
    elif mode == "merge":
        product = product + np.where(group_map(real[0]).reshape(target.shape), target, 0.0)
    target[...] = product
