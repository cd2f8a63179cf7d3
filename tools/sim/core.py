"""One NeuronCore at work: allocates memory, records instructions, carries out their meaning.

A `Launch` is one kernel call; it owns what its cores share: options, shared HBM, source files and findings.
"""

from __future__ import annotations

import linecache
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import prod
from types import CodeType, FrameType
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import ref

import numpy as np
from numpy.typing import NDArray

from tools.sim import context
from tools.sim.dtypes import DType, as_dtype
from tools.sim.errors import Diagnostic, Severity, SourceRange
from tools.sim.indirection import IndirectTensor, Settled, engine_rules, group_of
from tools.sim.instruction import BufferInfo, Engine, Flag, Opcode, TraceBuilder
from tools.sim.machine import Machine
from tools.sim.memory import ON_CHIP, Buffer
from tools.sim.tensor import Tensor

if TYPE_CHECKING:
    from tools.sim.loops import LoopRecorder
    from tools.sim.team import Team


_FLOAT32 = np.dtype(np.float32)


@dataclass(frozen=True, slots=True, kw_only=True)
class SimOptions:
    """Every choice of fidelity, strict by default.

    Attributes:
        data: compute values; False records the instruction stream only (shapes-only).
        precision: `hardware` stores low-precision types as they are; `exact` keeps every float in float32.
        strict: add the compiler's own rules to the hardware's.
        seed: for random-number instructions.
        max_instructions: stop a kernel that records more than this.
        max_bytes: stop a kernel that allocates more than this in host memory.
        partial_outputs: an output written in part is a warning; on hardware the rest is whatever was there.
    """

    data: bool = True
    precision: str = "hardware"
    strict: bool = False
    seed: int = 0
    max_instructions: int = 20_000_000
    max_bytes: int = 64 << 30
    partial_outputs: bool = False


@dataclass(slots=True)
class Launch:
    """What the cores of one kernel call share."""

    machine: Machine
    options: SimOptions
    files: set[str] = field(default_factory=set)
    diagnostics: list[Diagnostic] = field(default_factory=list)
    reported: set[tuple[str, str, int]] = field(default_factory=set)
    dialect: str = "nki"
    grid: tuple[int, ...] = ()
    cores: int = 1
    rank: int = 0
    ranks: int = 1
    shared: list[Tensor] = field(default_factory=list)
    lines: list[tuple[str, int]] = field(default_factory=list)
    allocated_bytes: int = 0
    printed: list[str] = field(default_factory=list)

    def line_text(self, line: int) -> str:
        """`, allocated at FILE:LINE` for a line id of the trace, or nothing."""
        if 0 <= line < len(self.lines):
            file, number = self.lines[line]
            return f", allocated at {file.rsplit('/', 1)[-1]}:{number}"
        return ""


class Place(NamedTuple):
    """A position in kernel source: trace line id, code, line number and offset of the bytecode instruction."""

    line_id: int
    code: CodeType
    line: int
    lasti: int


Reported = tuple[tuple[str, str, int], Diagnostic]
"""A finding and what tells it from others: code, file and line."""


class Core:
    """One NeuronCore of a launch.

    Attributes:
        index: which core of the pair.
        program: SPMD coordinates of the running program instance.
        builder: the trace being recorded.
        registers: accumulator state of the Scalar and Vector Engines, by engine.
        team: the cores that run beside this one, if any; `seat` is this one's number, `mates` those of its launch.
        watch: views of shared HBM that DMAs used since the last meeting (whether written, trace line), for the race check.
        tensor_class: class of the tensors that this core makes; a dialect may offer more operations on them.
        deferred: Beta 1: the result tile whose instruction hasn't been issued yet, because its destination isn't known.
        place: where a deferred instruction was written, while it is being issued.
        indirection: whether the kernel has made a view by `indirect`.
        ordered: whether the kernel is inside `no_reorder`.
        placed: Beta 1: whether the kernel has placed a tile itself (direct allocation).
        last_place: what `line_id` found last.
        held: while values are put off: the buffers made so far.
        legal: operand shapes and types that passed an instruction's checks, and what those worked out.
    """

    def __init__(self, launch: Launch, index: int = 0, builder: TraceBuilder | None = None) -> None:
        self.launch = launch
        self.machine = launch.machine
        self.options = launch.options
        self.data = launch.options.data
        self.index = index
        self.program: tuple[int, ...] = ()
        self.builder = builder if builder is not None else TraceBuilder(launch.machine.name)
        launch.lines = self.builder.lines
        self.registers: dict[Engine, NDArray[np.float32]] = {}
        self.random = np.random.default_rng(launch.options.seed + index)
        self.random_states: dict[Engine, NDArray[np.uint32]] = {}
        self.team: Team | None = None
        self.seat = 0
        self.mates: tuple[int, ...] = (0,)
        self.watch: list[tuple[Tensor, bool, int]] | None = None
        self.shared_count = 0
        self.exact = launch.options.precision == "exact"
        self._strict = launch.options.strict and launch.dialect == "nki"
        self._rows = self.builder.rows
        self._operands = self.builder.operand_rows
        self._files = launch.files
        self._places: dict[tuple[int, int], Place] = {}
        self._limit = launch.options.max_instructions * 11
        self.constants: dict[Any, Tensor] = {}
        self.legal: dict[Any, Any] = {}
        self.tensor_class: type[Tensor] = Tensor
        self.deferred: Any = None
        self.place: Place | None = None
        self.placed = False
        self.indirection = False
        self.ordered = False
        self.last_place: Place | None = None
        self.held: list[ref[Buffer]] | None = None
        self.depends_on_data = False
        """Set when a shapes-only run took an index from a tensor's (unknown) value."""
        self.recorder: LoopRecorder | None = None
        self._scratch = np.empty(0, np.float32)

    def defer(
        self,
        op: Opcode,
        outs: tuple[Tensor, ...],
        ins: tuple[Tensor, ...],
        params: dict[str, Any] | None,
        update: bool,
    ) -> bool:
        """Remember the instruction that was just recorded, to carry it out later (cores whose buffers are `held`).

        Returns:
            False when it must be carried out now; all earlier ones have been, then.
        """
        raise NotImplementedError

    def settle(self) -> bool:
        """Make the values of all instructions so far available; whether this core computes any."""
        return self.data

    def scratch(self, size: int) -> NDArray[np.float32]:
        """Float32 working memory [size], valid until the next call: spares an allocation in each accumulating matmul."""
        if self._scratch.size < size:
            self._scratch = np.empty(max(size, 1 << 16), np.float32)
        return self._scratch[:size]

    # -- source positions --------------------------------------------------------------------------------------------

    def line_id(self) -> int:
        """Trace line id of the kernel source line that is executing."""
        if self.place is not None:
            self.last_place = self.place
            return self.place.line_id
        frame: FrameType | None = sys._getframe(2)
        files = self._files
        while frame is not None:
            code = frame.f_code
            if code.co_filename in files:
                found = self._places.get((id(code), frame.f_lasti))
                if found is None:
                    found = self._place(frame)
                self.last_place = found
                return found.line_id
            frame = frame.f_back
        self.last_place = None
        return -1

    def _place(self, frame: FrameType) -> Place:
        """The position of a kernel frame, remembered: CPython decodes a function's line table from its start each time.

        Holding the code keeps its identity from being used again.
        """
        code, line, lasti = frame.f_code, frame.f_lineno, frame.f_lasti
        made = Place(self.builder.line_id(code.co_filename, line), code, line, lasti)
        self._places[id(code), lasti] = made
        return made

    def here(self) -> Place | None:
        """The kernel source position that is executing, to blame for an instruction that is issued later."""
        frame: FrameType | None = sys._getframe(2)
        files = self._files
        while frame is not None:
            code = frame.f_code
            if code.co_filename in files:
                found = self._places.get((id(code), frame.f_lasti))
                return found if found is not None else self._place(frame)
            frame = frame.f_back
        return None

    def where(self) -> SourceRange | None:
        """Source range of the kernel expression that is executing, with columns."""
        if self.place is not None:
            return _range(self.place.code, self.place.line, self.place.lasti)
        frame: FrameType | None = sys._getframe(1)
        while frame is not None and frame.f_code.co_filename not in self._files:
            frame = frame.f_back
        return source_range(frame) if frame is not None else None

    def report(self, code: str, message: str, severity: Severity, **details: Any) -> None:
        """Add a finding, once per code and source line; `details` are those of `reported`."""
        key, finding = self.reported(code, message, severity, **details)
        if key not in self.launch.reported:
            self.launch.reported.add(key)
            self.launch.diagnostics.append(finding)

    def reported(
        self,
        code: str,
        message: str,
        severity: Severity,
        *,
        operand: str = "",
        found: Any = None,
        limit: Any = None,
        fix: str = "",
    ) -> Reported:
        """A finding about the kernel source that is executing."""
        where = self.where()
        finding = Diagnostic(
            code=code,
            message=message,
            severity=severity,
            where=where,
            operand=operand,
            found=found,
            limit=limit,
            fix=fix,
        )
        return (code, where.file if where else "", where.line if where else 0), finding

    # -- memory ------------------------------------------------------------------------------------------------------

    def allocate(
        self,
        shape: Sequence[int],
        dtype: Any,
        space: str,
        *,
        name: str = "",
        address: tuple[int, int] | None = None,
        role: str = "local",
        partition_axis: int = 0,
    ) -> Tensor:
        """A new, uninitialised tensor.

        Args:
            shape: sizes; dimension `partition_axis` is the partition dimension on chip, those before it are blocks.
            dtype: element type.
            space: `sbuf`, `psum`, `hbm`, `shared_hbm` or `private_hbm`.
            address: (start partition, byte offset in a partition), when the kernel places the tensor itself.
        """
        sizes = tuple(map(int, shape))
        kind = dtype if type(dtype) is DType else as_dtype(dtype)
        key = (sizes, kind.code, space, partition_axis)
        layout = self.legal.get(key)
        if layout is None:
            layout = self.legal[key] = self._layout(sizes, kind, space, name, partition_axis)
        partitions, row_bytes, strides = layout
        storage = _FLOAT32 if self.exact and kind.is_float else None
        buffer = self.new_buffer(
            space, name, sizes, kind, partitions, row_bytes,
            line=self.line_id(), role=role, address=address, storage=storage,
        )  # fmt: skip
        if self.data:
            self._claim(buffer)
            buffer.allocate()
        elif self.held is not None:
            self._claim(buffer)
        return self.tensor_class(buffer, sizes, kind, 0, strides)

    def _layout(
        self, sizes: tuple[int, ...], kind: DType, space: str, name: str, partition_axis: int
    ) -> tuple[int, int, tuple[int, ...]]:
        """Partitions, bytes a partition and strides of a tensor, which must fit its memory."""
        if not sizes or min(sizes) < 1:
            context.fail(
                "KW-SHAPE",
                f"shape {sizes} must have at least one dimension and only sizes of 1 or more",
                found=str(sizes),
                fix="skip the iteration when nothing is left to do",
            )
        if space not in ON_CHIP:
            return 1, prod(sizes) * kind.itemsize, _row_major(sizes)
        partitions = sizes[partition_axis]
        row = prod(sizes) // partitions
        self._check_on_chip(sizes, partitions, row * kind.itemsize, kind, space, name)
        return partitions, row * kind.itemsize, _row_major(sizes, partition_axis, row)

    def _claim(self, buffer: Buffer) -> None:
        nbytes = buffer.partitions * buffer.row_bytes
        if not buffer.on_chip:
            self.launch.allocated_bytes += nbytes
        if self.launch.allocated_bytes > self.launch.options.max_bytes:
            context.fail(
                "KW-HBM-CAPACITY",
                f"the kernel's HBM tensors need more than {self.launch.options.max_bytes >> 20} MiB",
                found=self.launch.allocated_bytes,
                limit=self.launch.options.max_bytes,
                fix="allocate fewer or smaller tensors; reuse a scratch tensor",
            )

    def _check_on_chip(
        self, sizes: tuple[int, ...], partitions: int, row_bytes: int, kind: DType, space: str, name: str
    ) -> None:
        machine = self.machine
        label = name or space
        if partitions > machine.partitions:
            context.fail(
                "KW-PARTITION-LIMIT",
                f"{label} {list(sizes)} has {partitions} partitions, the {space.upper()} has {machine.partitions}",
                operand=name,
                found=partitions,
                limit=machine.partitions,
                fix=f"tile dimension 0 into pieces of {machine.partitions}",
            )
        if space == "psum" and row_bytes > machine.psum_banks * machine.psum_bank_bytes:
            context.fail(
                "KW-PSUM-CAPACITY",
                f"{label} {list(sizes)} {kind} needs {row_bytes} bytes a partition, PSUM has "
                f"{machine.psum_banks * machine.psum_bank_bytes}",
                operand=name,
                found=row_bytes,
                limit=machine.psum_banks * machine.psum_bank_bytes,
                fix="tile the free dimension: one bank holds 512 float32",
            )

    def new_buffer(
        self, space: str, name: str, shape: tuple[int, ...], dtype: DType, partitions: int, row_bytes: int, **kw: Any
    ) -> Buffer:
        """Register an allocation in the trace and return its buffer (without memory)."""
        buffers = self.builder.buffers
        storage = kw.pop("storage", None)
        buffer = Buffer(
            len(buffers), space, name, shape, dtype, partitions, row_bytes, core=self.index, storage=storage, **kw
        )
        if self.held is not None:
            self.held.append(ref(buffer))
        buffers.append(
            BufferInfo(
                buffer.id,
                name,
                space,
                shape,
                str(dtype),
                partitions,
                row_bytes,
                buffer.line,
                self.index,
                buffer.address,
                buffer.role,
            )
        )
        return buffer

    def wrap(self, array: NDArray[Any], name: str, role: str = "input") -> Tensor:
        """An HBM tensor over a host array (contiguous); writes go through to it."""
        kind = as_dtype(array.dtype)
        shape = array.shape if array.ndim else (1,)
        exact = self.exact and kind.is_float and kind.itemsize < 4
        buffer = self.new_buffer(
            "shared_hbm" if self.launch.dialect == "nki" else "hbm",
            name,
            tuple(shape),
            kind,
            1,
            prod(shape) * kind.itemsize,
            role=role,
            storage=np.dtype(np.float32) if exact else None,
        )
        if self.data:
            if exact:
                buffer.allocate()
                buffer.pending = False
            else:
                buffer.adopt(array)
        else:
            buffer.pending = False
        tensor = self.tensor_class(buffer, tuple(shape), kind, 0, _row_major(tuple(shape)))
        if self.data and exact:
            tensor.view()[...] = array.reshape(shape).astype(np.float32)
        return tensor

    # -- instructions ------------------------------------------------------------------------------------------------

    def issue(
        self,
        op: Opcode,
        engine: Engine,
        outs: tuple[Tensor, ...],
        ins: tuple[Tensor, ...],
        *,
        free: int,
        partitions: int,
        aux: int = 0,
        nbytes: int = 0,
        flags: int = 0,
        update: bool = False,
        params: dict[str, Any] | None = None,
    ) -> None:
        """Record one instruction and, unless the run is shapes-only, carry out its meaning.

        Args:
            outs, ins: tensor operands; `update` marks the first output as read-modify-write.
            free, partitions, aux, nbytes, flags: see the `Inst` columns.
            params: keyword arguments of the opcode's meaning.
        """
        builder = self.builder
        operands = self._operands
        count = builder.operand_count
        if self._strict:
            _few_dimensions(op, (*outs, *ins))
        for tensor in outs:
            region = tensor._region or tensor.region()
            operands.extend((tensor.buffer.id, 3 if update else 1, *region, tensor.dtype.code))
        picked: list[IndirectTensor] = []
        read = ins
        if self.indirection:
            picked = [t for t in (*outs, *ins) if isinstance(t, IndirectTensor)]
            if picked:
                engine_rules(op.name, engine, outs)
                read = (*ins, *(t.index for t in picked))
        for tensor in read:
            region = tensor._region or tensor.region()
            operands.extend((tensor.buffer.id, 2, *region, tensor.dtype.code))
        n = len(outs) + len(read)
        builder.operand_count = count + n
        if self.watch is not None and op.kind == "dma":
            line = self.line_id()
            self.watch.extend((t, True, line) for t in outs if t.buffer.space == "shared_hbm")
            self.watch.extend((t, False, line) for t in ins if t.buffer.space == "shared_hbm")
        self._rows.extend((op.code, engine, self.line_id(), self.index, partitions, free, aux, nbytes, flags, count, n))
        if len(self._rows) > self._limit:
            context.fail(
                "KW-INSTRUCTION-LIMIT",
                f"the kernel issued more than {self.options.max_instructions} instructions",
                limit=self.options.max_instructions,
                fix="check the loop bounds; use larger tiles",
            )
        now = self.data or (self.held is not None and not self.defer(op, outs, ins, params, update))
        if now and picked:
            Settled(group_of(engine), outs, ins, params).carry_out(op.meaning)
        elif now:
            op.meaning(outs, ins, **(params or {}))
        if self.watch is not None and self.team is not None and self.place is None and op.kind == "dma":
            self._keep_pace(outs)

    def _keep_pace(self, outs: tuple[Tensor, ...]) -> None:
        """Beside other cores: let them catch up after a write to shared HBM."""
        if self.team is not None and any(t.buffer.space == "shared_hbm" for t in outs):
            self.team.pause(self)


_MOST_DIMENSIONS = 5
"""Dimensions of a view's access pattern (NKI language guide, NkiTensor)."""


def _few_dimensions(op: Opcode, operands: tuple[Tensor, ...]) -> None:
    """Refuse operands whose view has more dimensions than an access pattern holds."""
    for tensor in operands:
        if tensor.ndim > _MOST_DIMENSIONS:
            context.fail(
                "KW-RANK",
                f"{op.name}: {tensor!r} has {tensor.ndim} dimensions; a view has at most {_MOST_DIMENSIONS}",
                operand=tensor.buffer.name,
                found=tensor.ndim,
                limit=_MOST_DIMENSIONS,
                fix="merge dimensions with flatten_dims, or loop over the outermost",
            )


def _row_major(sizes: tuple[int, ...], partition_axis: int = -1, row: int = 0) -> tuple[int, ...]:
    """Strides in elements without gaps; the partition axis (if any) steps by a whole row instead."""
    strides = [row] * len(sizes)
    run = 1
    for axis in range(len(sizes) - 1, -1, -1):
        if axis != partition_axis:
            strides[axis] = run
            run *= sizes[axis]
    return tuple(strides)


def source_range(frame: FrameType) -> SourceRange:
    """The range that a frame is executing, with columns where CPython knows them."""
    return _range(frame.f_code, frame.f_lineno, frame.f_lasti)


def _range(code: CodeType, line: int, lasti: int) -> SourceRange:
    column, end_line, end_column = -1, -1, -1
    position = _position(code, lasti)
    if position is not None:
        line, end_line, column, end_column = position
    text = linecache.getline(code.co_filename, line).strip()
    return SourceRange(code.co_filename, line, column, end_line, end_column, text)


def _position(code: CodeType, lasti: int) -> tuple[int, int, int, int] | None:
    for i, (line, end_line, column, end_column) in enumerate(code.co_positions()):
        if i * 2 == lasti:
            if line is None or column is None:
                return None
            return line, end_line or line, column, end_column if end_column is not None else -1
    return None


def common_flags(*tensors: Tensor) -> int:
    """The cost flags that depend only on where and how operands lie."""
    flags = Flag.HALF_IO | Flag.BYTE_IO | Flag.CONTIGUOUS
    for tensor in tensors:
        size = tensor.dtype.itemsize
        if size != 2:
            flags &= ~Flag.HALF_IO
        if size != 1:
            flags &= ~Flag.BYTE_IO
        if len(tensor.shape) > 1 and tensor.shape[-1] > 1 and tensor.strides[-1] != 1:
            flags &= ~Flag.CONTIGUOUS
            if abs(tensor.strides[-1]) * size >= 16:
                flags |= Flag.ONE_ELEMENT_STRIDE
    return flags
