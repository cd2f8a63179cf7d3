"""A kernel as the bare list of its instructions: recorded without data, replayed with data in another process.

The process that runs kernel source never computes a result that counts. It records which instructions the kernel issues
(`Recorder`), the record travels as integers and plain JSON, and `replay` carries it out on real inputs where no foreign
code ever ran. So kernel source can neither read inputs nor write outputs but through instructions.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tools.sim import context, dtypes, memory
from tools.sim.core import Core, Launch, SimOptions
from tools.sim.dtypes import DType
from tools.sim.errors import Diagnostic, KernelError, SourceRange
from tools.sim.execute import _flatten, _Run
from tools.sim.frontend.beta1.tile import Tile
from tools.sim.frontend.loader import LoadedKernel
from tools.sim.instruction import OPCODES, BufferInfo, Engine, Inst, Opcode, Operand, ParallelLoop, Trace
from tools.sim.isa import enums, ops
from tools.sim.isa.control import Register
from tools.sim.machine import Machine, machine
from tools.sim.memory import Buffer
from tools.sim.tensor import Indirect, Outside, Tensor

_ENUMS = {name: getattr(enums, name) for name in enums.__dict__ if isinstance(getattr(enums, name), type)}
_DTYPES = dtypes.ALL
MOST_INSTRUCTIONS = 2_000_000
"""What a judged kernel may issue: a larger record takes minutes to check."""


class Malformed(Exception):
    """A record that no kernel can have produced."""


@dataclass(slots=True)
class Program:
    """A recorded kernel.

    Attributes:
        trace: the instruction stream for timing; its tables belong to the same instructions.
        steps: int64, for each instruction the number of outputs and inputs, index of its parameters, then tensor ids.
        tensors: int64, for each tensor: buffer, type, offset, index tensor or -1, row stride, rank, sizes, strides.
        parameters: distinct parameter sets in JSON form.
        outputs: tensor ids of the results.
        constants: contents of constant buffers, by buffer id.
        depends_on_data: control flow took a value that a shapes-only run doesn't know.
        opaque: why the instructions can't be carried out from this record, or nothing.
    """

    trace: Trace
    steps: NDArray[np.int64]
    tensors: NDArray[np.int64]
    parameters: list[Any]
    outputs: list[int]
    constants: dict[int, NDArray[Any]] = field(default_factory=dict)
    depends_on_data: bool = False
    opaque: str = ""

    def pack(self) -> tuple[dict[str, Any], list[NDArray[Any]]]:
        """Header and arrays for the wire."""
        header = {
            "target": self.trace.target,
            "buffers": [
                [
                    b.name[:80],
                    b.space,
                    list(b.shape),
                    b.dtype,
                    b.partitions,
                    b.row_bytes,
                    b.line,
                    b.core,
                    b.address,
                    b.role,
                ]
                for b in self.trace.buffers
            ],
            "lines": self.trace.lines,
            "parallel": [[loop.line, list(loop.starts)] for loop in self.trace.parallel],
            "dialect": self.trace.dialect,
            "cores": self.trace.cores,
            "parameters": self.parameters,
            "outputs": self.outputs,
            "constants": list(self.constants),
            "depends_on_data": self.depends_on_data,
            "opaque": self.opaque,
        }
        tables = [self.trace.instructions, self.trace.operands, self.steps, self.tensors]
        return header, [*tables, *(v.reshape(-1).view(np.uint8) for v in self.constants.values())]

    def tensor_facts(self) -> list[tuple[tuple[int, ...], int]]:
        """Shape and type code of each tensor."""
        return [(row[5], row[1]) for row in _tensor_rows(self.tensors)]

    @classmethod
    def unpack(cls, header: dict[str, Any], arrays: Sequence[NDArray[Any]], source: str, filename: str) -> Program:
        """Read and check what `pack` wrote.

        Raises:
            Malformed: it is inconsistent.
        """
        try:
            return _unpack(header, arrays, source, filename)
        except (KeyError, ValueError, TypeError, IndexError, AttributeError, OverflowError) as error:
            raise Malformed(f"{type(error).__name__}: {error}") from error


def _parallel(packed: Any, lines: int, instructions: int) -> ParallelLoop:
    """A noted loop, its iterations in order and inside the record."""
    line, starts = int(packed[0]), tuple(int(n) for n in packed[1])
    if not -1 <= line < max(lines, 1) or len(starts) < 3 or starts[0] < 0 or starts[-1] > instructions:
        raise Malformed("a loop lies outside the record")
    if any(a > b for a, b in pairwise(starts)):
        raise Malformed("a loop's iterations aren't in order")
    return ParallelLoop(line, starts)


def _unpack(header: dict[str, Any], arrays: Sequence[NDArray[Any]], source: str, filename: str) -> Program:
    buffers = []
    for i, (name, space, shape, dtype, partitions, row_bytes, line, core, address, role) in enumerate(
        header["buffers"]
    ):
        sizes = tuple(int(n) for n in shape)
        kind = dtypes.as_dtype(dtype)
        place = None if address is None else (int(address[0]), int(address[1]))
        info = BufferInfo(
            i,
            str(name),
            str(space),
            sizes,
            str(kind),
            int(partitions),
            int(row_bytes),
            int(line),
            int(core),
            place,
            str(role),
        )
        if info.partitions * info.row_bytes != prod(sizes) * kind.itemsize or min(sizes, default=0) < 1:
            raise Malformed(f"buffer {i} has {info.partitions}x{info.row_bytes} bytes for {sizes} {kind}")
        buffers.append(info)
    lines = [(str(file), int(number)) for file, number in header["lines"]]
    instructions, operands, steps, tensors = arrays[:4]
    width, operand_width = len(Inst), len(Operand)
    if (
        instructions.ndim != 2
        or instructions.shape[1] != width
        or operands.ndim != 2
        or operands.shape[1] != operand_width
    ):
        raise Malformed("the instruction tables have the wrong width")
    if any(a.dtype != np.int64 for a in arrays[:4]):
        raise Malformed("the tables must hold int64")
    n, m = len(instructions), len(operands)
    _within(instructions[:, Inst.OPCODE], len(OPCODES), "opcode")
    _within(instructions[:, Inst.ENGINE], len(Engine), "engine")
    _within(instructions[:, Inst.LINE], max(len(lines), 1), "line", low=-1)
    _within(instructions[:, Inst.CORE], 2, "core")
    counts = instructions[:, Inst.OPERANDS]
    _within(counts, 64, "operand count")
    if n and (np.cumsum(counts) - counts != instructions[:, Inst.FIRST_OPERAND]).any():
        raise Malformed("operands aren't in order")
    if int(counts.sum()) != m:
        raise Malformed("the operand table is too long or too short")
    _within(operands[:, Operand.BUFFER], len(buffers), "buffer")
    _within(operands[:, Operand.DTYPE], len(_DTYPES), "type")
    if (instructions[:, [Inst.PARTITIONS, Inst.FREE, Inst.AUX, Inst.BYTES, Inst.FLAGS]] < 0).any():
        raise Malformed("a size is negative")
    trace = Trace(
        machine(str(header["target"])).name, instructions, operands, buffers, lines, {filename: source},
        str(header["dialect"]), int(header["cores"]), [_parallel(loop, len(lines), n) for loop in header["parallel"]],
    )  # fmt: skip
    parameters, outputs, constants = header["parameters"], header["outputs"], header["constants"]
    if not isinstance(parameters, list) or len(arrays) != 4 + len(constants):
        raise Malformed("parameters or constants are missing")
    return Program(
        trace,
        steps.reshape(-1),
        tensors.reshape(-1),
        parameters,
        [int(i) for i in outputs],
        {int(i): a for i, a in zip(constants, arrays[4:])},
        bool(header["depends_on_data"]),
        str(header["opaque"])[:200],
    )


def _within(values: NDArray[np.int64], limit: int, what: str, low: int = 0) -> None:
    if len(values) and (int(values.min()) < low or int(values.max()) >= limit):
        raise Malformed(f"{what} out of range")


_EXCHANGES = ("sendrecv", "collective", "collective_v")
"""Instructions whose values come from another core or rank and are handed over when they are issued."""


class _Opaque(Exception):
    """Something that the record has no form for; the text says what, after "the kernel's record is partial: "."""


def _is_plain(kind: type[Tensor]) -> bool:
    """Whether a tensor class reads and writes as plain strided views do."""
    same = all(getattr(kind, name) is getattr(Tensor, name) for name in ("map_view", "read", "write", "wrote"))
    return same and kind.view in (Tensor.view, Tile.view)  # without a type, a tile of Beta 1 shows what any tensor does


class _Recording(Core):
    """A core that also writes down tensors and parameters of every instruction."""

    def __init__(self, launch: Launch) -> None:
        super().__init__(launch)
        self.opaque = ""
        self.steps = array("q")
        self.tensor_rows = array("q")
        self.tensor_ids: dict[Any, int] = {}
        self.parameters: list[Any] = []
        self.parameter_ids: dict[Any, int] = {}
        self.constant_data: dict[int, NDArray[Any]] = {}

    def wrap(self, array: NDArray[Any], name: str, role: str = "input") -> Tensor:
        tensor = super().wrap(array, name, role)
        if role != "input":
            self.constant_data[tensor.buffer.id] = np.array(array, copy=True)
        return tensor

    def issue(
        self,
        op: Opcode,
        engine: Engine,
        outs: tuple[Tensor, ...],
        ins: tuple[Tensor, ...],
        *,
        params: dict[str, Any] | None = None,
        **form: Any,
    ) -> None:
        if op.name == "register_load" and not self.data:
            self.depends_on_data = True
        if not self.data:
            for tensor in outs:
                tensor.buffer.pending = False
        if op.name in _EXCHANGES:
            self.opaque = self.opaque or "values pass between cores or ranks"
        if not self.opaque:
            try:
                self._note(op, outs, ins, params)
            except _Opaque as reason:
                self.opaque = str(reason)
        super().issue(op, engine, outs, ins, params=params, **form)

    def _note(
        self, op: Opcode, outs: tuple[Tensor, ...], ins: tuple[Tensor, ...], params: dict[str, Any] | None
    ) -> None:
        encoded = self._parameters(op, outs, params)
        ids = [self.tensor_id(tensor) for tensor in (*outs, *ins)]
        self.steps.extend((len(outs), len(ins), encoded, *ids))

    def tensor_id(self, tensor: Tensor) -> int:
        """Id of a view; equal views share one."""
        if type(tensor) is not Tensor and not _is_plain(type(tensor)):
            raise _Opaque(f"it uses views that are no strided rectangle ({type(tensor).__name__})")
        indirect = None if isinstance(tensor.rows, Outside) else tensor.rows
        at = -1 if indirect is None else self.tensor_id(indirect.index)
        key = (tensor.buffer.id, tensor.dtype.code, tensor.offset, at, tensor.shape, tensor.strides)
        found = self.tensor_ids.get(key)
        if found is None:
            found = self.tensor_ids[key] = len(self.tensor_ids)
            stride = 0 if indirect is None else indirect.row_stride
            row = (tensor.buffer.id, tensor.dtype.code, tensor.offset, at, stride, len(tensor.shape))
            self.tensor_rows.extend((*row, *tensor.shape, *tensor.strides))
        return found

    def _parameters(self, op: Opcode, outs: tuple[Tensor, ...], params: dict[str, Any] | None) -> int:
        if not params:
            return -1
        values = tuple((name, self._encode(value)) for name, value in params.items())
        if params.get("mode") == "merge":  # the meaning asks which parts of the bank hold a running sum
            own = (outs[0].offset, outs[0].shape, outs[0].strides, outs[0].dtype.itemsize)
            groups = [key for key in outs[0].buffer.groups or {} if key != own]
            values = (*values, ("", ("groups", tuple((o, tuple(s), tuple(t), i) for o, s, t, i in groups))))
        found = self.parameter_ids.get(values)
        if found is None:
            found = self.parameter_ids[values] = len(self.parameters)
            self.parameters.append(values)
        return found

    def _encode(self, value: Any) -> Any:
        kind = type(value)
        if value is None or kind is bool:
            return ("v", value)
        if kind is int or kind is float or kind is str:
            return (kind.__name__, value)  # the name keeps 1 and 1.0 apart as keys
        if kind is Tensor:
            return ("tensor", self.tensor_id(value))
        if kind is ops.AluOp:
            return ("alu", value.name)
        if kind is ops.Activation:
            return ("activation", value.name)
        if kind is DType:
            return ("dtype", str(value))
        if kind in (tuple, list):
            return ("tuple", tuple(self._encode(v) for v in value))
        if kind.__name__ in _ENUMS and isinstance(value, _ENUMS[kind.__name__]):
            return ("enum", kind.__name__, value.name)
        if isinstance(value, np.generic) and value.dtype.kind in "iufb":
            return ("number", value.dtype.name, value.item())
        if isinstance(value, np.ndarray):
            # Values that crossed between cores or ranks when the instruction was issued: unknown without data.
            raise _Opaque("values pass between cores or ranks")
        if kind is Register:
            return ("register", value.value)
        if isinstance(value, Tensor):
            return ("tensor", self.tensor_id(value))
        name = _OPERATOR_NAMES.get(id(value))
        if name is not None:
            return ("operator", name)
        raise _Opaque(f"an instruction has a parameter of type {kind.__name__}")


_OPERATOR_NAMES = {id(op.function): op.name for op in ops.ALU.values()}


class _Recorded(_Run):
    """One launch whose results are tensor ids."""

    def __init__(self, loaded: LoadedKernel, launch: Launch) -> None:
        super().__init__(loaded, launch)
        self.recording = _Recording(launch)
        self.recording.tensor_class = self.core.tensor_class
        if prod(launch.grid) > 1 and launch.dialect == "nki":
            self.recording.opaque = "it runs on several cores"
        self.core = self.recording
        self.output_ids: list[int] = []

    def _outputs(self, returned: Any) -> tuple[NDArray[Any], ...]:
        for i, value in enumerate(_flatten(returned)):
            if not isinstance(value, Tensor):
                self._fault(
                    "KW-OUTPUT-TYPE",
                    f"output {i} is {type(value).__name__}, not a tensor",
                    found=type(value).__name__,
                    fix="return the HBM tensors that the kernel wrote (buffer=nl.shared_hbm)",
                )
            self._placement(value, i)
            try:
                self.output_ids.append(self.recording.tensor_id(value))
            except _Opaque as reason:
                self.recording.opaque = self.recording.opaque or str(reason)
        return ()

    def _placement(self, value: Tensor, index: int) -> None:
        if value.buffer.on_chip:
            self._fault(
                "KW-OUTPUT-PLACEMENT",
                f"output {index} lies in {value.space.upper()}",
                found=value.space,
                limit="shared_hbm",
                fix="allocate the result with buffer=nl.shared_hbm and dma_copy into it",
            )


def record(
    loaded: LoadedKernel,
    arguments: Sequence[Any],
    target: str,
    *,
    data: bool = False,
    max_instructions: int = MOST_INSTRUCTIONS,
    max_bytes: int = 16 << 30,
) -> tuple[Program, tuple[Diagnostic, ...], tuple[str, ...]]:
    """Run a kernel and write down what it does; returns the record, findings, and lines of `device_print`.

    Args:
        arguments: arrays; without `data` only their shapes and types are looked at.
        data: compute as well (a kernel whose control flow depends on values can't be recorded otherwise).

    Raises:
        KernelError, UnsupportedError: see `tools.sim.simulate`.
    """
    options = SimOptions(data=data, max_instructions=max_instructions, max_bytes=max_bytes)
    grid = loaded.jit.grid if loaded.jit is not None else ()
    launch = Launch(machine(target), options, files=loaded.files, dialect=loaded.dialect, grid=tuple(grid))
    run = _Recorded(loaded, launch)
    trace = run.execute(tuple(arguments), {}).trace
    recording = run.recording
    program = Program(
        trace,
        np.frombuffer(recording.steps, np.int64) if recording.steps else np.empty(0, np.int64),
        np.frombuffer(recording.tensor_rows, np.int64) if recording.tensor_rows else np.empty(0, np.int64),
        recording.parameters,
        run.output_ids,
        recording.constant_data,
        recording.depends_on_data and not data,
        recording.opaque,
    )
    return program, tuple(launch.diagnostics), tuple(launch.printed)


def run_directly(
    loaded: LoadedKernel, arguments: Sequence[NDArray[Any]], target: str, max_instructions: int = MOST_INSTRUCTIONS
) -> tuple[Program, tuple[NDArray[Any], ...], tuple[Diagnostic, ...]]:
    """Run a kernel on values in this process, for kernels whose record is opaque; the program holds only the trace."""
    grid = loaded.jit.grid if loaded.jit is not None else ()
    options = SimOptions(max_instructions=max_instructions)
    launch = Launch(machine(target), options, files=loaded.files, dialect=loaded.dialect, grid=tuple(grid))
    done = _Run(loaded, launch).execute(tuple(np.array(a, copy=True) for a in arguments), {})
    nothing = np.empty(0, np.int64)
    program = Program(done.trace, nothing, nothing, [], [], opaque="run directly")
    return program, done.outputs, tuple(launch.diagnostics)


class _Replaying(Core):
    """A core that names the recorded line where the live one would look at the kernel's frames."""

    def __init__(self, launch: Launch, trace: Trace) -> None:
        super().__init__(launch)
        launch.lines = trace.lines
        self.trace = trace
        self.at = 0

    def where(self) -> SourceRange | None:
        if not 0 <= self.at < len(self.trace):
            return None
        line = int(self.trace.instructions[self.at, Inst.LINE])
        if not 0 <= line < len(self.trace.lines):
            return None
        file, number = self.trace.lines[line]
        text = self.trace.sources.get(file, "").splitlines()
        return SourceRange(file, number, text=text[number - 1].strip() if 0 < number <= len(text) else "")


@dataclass(frozen=True, slots=True)
class Replayed:
    """What a replay gave: the outputs and the findings that only values bring to light."""

    outputs: tuple[NDArray[Any], ...]
    diagnostics: tuple[Diagnostic, ...]


Carrier = Callable[[int, Opcode, tuple[Tensor, ...], tuple[Tensor, ...], dict[str, Any]], None]
"""Carries out instruction number i: opcode, outputs, inputs, parameters of its meaning."""


def replay(
    program: Program,
    inputs: Sequence[NDArray[Any]],
    target: Machine,
    *,
    max_bytes: int = 64 << 30,
    carrier: Carrier | None = None,
) -> Replayed:
    """Carry out a recorded kernel.

    Args:
        inputs: one array for each input buffer, in order; they are not changed.
        carrier: called for each instruction in place of its meaning, to look at operands before and after.

    Raises:
        KernelError: an instruction is at fault that shows only with data.
        Malformed: the record is inconsistent.
    """
    launch = Launch(target, SimOptions(max_bytes=max_bytes), dialect=program.trace.dialect)
    core = _Replaying(launch, program.trace)
    before = context.enter(core)
    try:
        return _Replay(program, inputs, core, carrier).run()
    finally:
        context.enter(before)


class _Replay:
    def __init__(
        self, program: Program, inputs: Sequence[NDArray[Any]], core: _Replaying, carrier: Carrier | None = None
    ) -> None:
        self.program = program
        self.carrier = carrier
        self.core = core
        self.rows = _tensor_rows(program.tensors)
        self.buffers = [self._buffer(info) for info in program.trace.buffers]
        self.live: list[dict[int, Tensor]] = [{} for _ in self.buffers]
        self.parameters: dict[int, dict[str, Any]] = {}
        self.dynamic = [_holds_tensor(p) for p in program.parameters]
        held = iter(inputs)
        for info, buffer in zip(program.trace.buffers, self.buffers):
            if info.role == "input":
                value = next(held, None)
                if value is None or tuple(value.shape or (1,)) != info.shape or value.nbytes != buffer.row_bytes:
                    raise Malformed(f"input {info.name} isn't among the arguments")
                buffer.adopt(np.array(value, order="C", copy=True))
            elif info.id in program.constants:
                value = program.constants[info.id]
                if value.nbytes != buffer.row_bytes * buffer.partitions:
                    raise Malformed(f"constant {info.id} has the wrong size")
                buffer.adopt(np.array(value, copy=True))

    def check(self) -> None:
        """Compare the tables that timing reads with the operands that the replay uses.

        Raises:
            Malformed: the record claims less work than it does.
        """
        trace = self.program.trace
        sizes = np.array([prod(row[5]) for row in self.rows] or [0], np.int64)
        facts = np.zeros((max(len(self.rows), 1), len(Operand)), np.int64)
        for id, (buffer, dtype, offset, indirect, row_stride, shape, strides) in enumerate(self.rows):
            index = (
                None
                if indirect < 0
                else Indirect(Tensor(self.buffers[buffer], shape, _DTYPES[0], 0, strides), 0, row_stride)
            )
            region = Tensor(self.buffers[buffer], shape, _DTYPES[dtype], offset, strides, index).region()
            facts[id] = (buffer, 0, *region, dtype)
        steps = self.program.steps
        counts = trace.instructions[:, Inst.OPERANDS]
        heads = np.cumsum(counts + 3) - counts - 3
        if (
            len(steps) != int((counts + 3).sum())
            or (steps[heads] + steps[heads + 1] != counts).any()
            or (steps[heads] < 0).any()
        ):
            raise Malformed("the steps don't match the instructions")
        tensors = np.ones(len(steps), np.bool_)
        tensors[(heads[:, None] + np.arange(3)).reshape(-1)] = False
        ids = steps[tensors]
        _within(ids, len(self.rows), "tensor")
        _within(steps[heads + 2], len(self.program.parameters), "parameters", low=-1)
        expected, found = facts[ids], trace.operands
        same = [c for c in range(len(Operand)) if c != Operand.FLAGS]
        if (expected[:, same] != found[:, same]).any():
            raise Malformed("the operand table doesn't belong to these instructions")
        owner = np.repeat(np.arange(len(counts)), counts)
        written = np.arange(len(ids)) - np.repeat(np.cumsum(counts) - counts, counts) < np.repeat(steps[heads], counts)
        if ((found[:, Operand.FLAGS] & 1 != 0) != written).any():
            raise Malformed("the operand table hides what an instruction writes")
        most = np.zeros(len(counts), np.int64)
        np.maximum.at(most, owner[written], sizes[ids[written]])
        rows = trace.instructions
        kinds = np.array([op.kind for op in OPCODES])[rows[:, Inst.OPCODE]]
        lanes = np.where(kinds == "matmul", rows[:, Inst.AUX], rows[:, Inst.PARTITIONS])
        work = np.where(kinds == "dma", rows[:, Inst.BYTES], lanes * rows[:, Inst.FREE])
        slack = 8 * rows[:, Inst.PARTITIONS]  # statistics: a few results a lane whatever the size
        if ((2 * work + slack < most) & (kinds != "control")).any():
            raise Malformed("an instruction claims less work than its result holds")

    def run(self) -> Replayed:
        self.check()
        trace, core = self.program.trace, self.core
        steps = self.program.steps.tolist()
        opcodes = trace.instructions[:, Inst.OPCODE].tolist()
        dying = self._last_uses(steps, len(opcodes))
        place = 0
        for index, code in enumerate(opcodes):
            core.at = index
            n_outs, n_ins, parameters = steps[place : place + 3]
            ids = steps[place + 3 : place + 3 + n_outs + n_ins]
            place += 3 + n_outs + n_ins
            tensors = [self.tensor(i) for i in ids]
            outs, ins = tuple(tensors[:n_outs]), tuple(tensors[n_outs:])
            values = self._values(parameters, outs)
            if code == _REGISTER_LOAD:
                values = {"register": Register()}
            if self.carrier is None:
                OPCODES[code].meaning(outs, ins, **values)
            else:
                self.carrier(index, OPCODES[code], outs, ins, values)
            for dead in dying[index]:
                buffer = self.buffers[dead]
                buffer.data = buffer.written = buffer.cache = None
                self.live[dead] = {}
        core.at = -1
        return Replayed(
            tuple(self._output(t, i) for i, t in enumerate(self.program.outputs)), tuple(core.launch.diagnostics)
        )

    def tensor(self, id: int) -> Tensor:
        """The view with this id, over memory that exists now."""
        buffer_id, dtype, offset, indirect, row_stride, shape, strides = self.rows[id]
        live = self.live[buffer_id]
        found = live.get(id)
        if found is None:
            buffer = self.buffers[buffer_id]
            if buffer.data is None:
                self.core._claim(buffer)
                buffer.allocate()
                assert buffer.data is not None
                buffer.data.fill(memory.POISON_BYTE)  # what is read unwritten shall not happen to be zero
            index = None if indirect < 0 else Indirect(self.tensor(indirect), 0, row_stride)
            found = live[id] = Tensor(buffer, shape, _DTYPES[dtype], offset, strides, index)
            if index is None and not found.is_inside():
                found.rows = Outside(dynamic=True)  # only a DMA that skips may use it; all else refuses
        elif indirect >= 0:
            self.tensor(indirect)
        return found

    def _buffer(self, info: BufferInfo) -> Buffer:
        limit = self.core.machine
        if info.space in ("sbuf", "psum") and info.partitions > limit.partitions:
            raise Malformed(f"buffer {info.id} has {info.partitions} partitions")
        return Buffer(
            info.id, info.space, info.name, info.shape, dtypes.as_dtype(info.dtype), info.partitions, info.row_bytes,
            line=info.line, role=info.role, address=info.address,
        )  # fmt: skip

    def _values(self, id: int, outs: tuple[Tensor, ...]) -> dict[str, Any]:
        if id < 0:
            return {}
        known = self.parameters.get(id)
        if known is None:
            known = {name: self._decode(value) for name, value in self.program.parameters[id]}
            if not self.dynamic[id]:
                self.parameters[id] = known
        groups = known.get("")
        if groups is not None:
            outs[0].buffer.groups = dict.fromkeys(groups, True)
            known = {name: value for name, value in known.items() if name}
        return known

    def _decode(self, value: Any) -> Any:
        kind, *rest = value
        if kind in ("v", "int", "float", "str"):
            return rest[0]
        if kind == "tensor":
            return self.tensor(int(rest[0]))
        if kind == "alu":
            return ops.ALU[rest[0]]
        if kind == "activation":
            return ops.ACTIVATIONS[rest[0]]
        if kind == "operator":
            return ops.ALU[rest[0]].function
        if kind == "dtype":
            return dtypes.as_dtype(rest[0])
        if kind == "tuple":
            return tuple(self._decode(v) for v in rest[0])
        if kind == "enum":
            return _ENUMS[rest[0]][rest[1]]
        if kind == "number":
            return np.dtype(rest[0]).type(rest[1])
        if kind == "register":
            return Register(rest[0])
        if kind == "groups":
            return [(o, tuple(s), tuple(t), i) for o, s, t, i in rest[0]]
        raise Malformed(f"unknown parameter {kind!r}")

    def _last_uses(self, steps: list[int], count: int) -> list[list[int]]:
        """For each instruction the buffers that nothing needs after it."""
        last: dict[int, int] = {}
        place = 0
        needs = [self._needs(p) for p in self.program.parameters]
        buffer_of = [row[0] for row in self.rows]
        for index in range(count):
            n_outs, n_ins, parameters = steps[place : place + 3]
            for id in steps[place + 3 : place + 3 + n_outs + n_ins]:
                last[buffer_of[id]] = index
                indirect = self.rows[id][3]
                if indirect >= 0:
                    last[buffer_of[indirect]] = index
            if parameters >= 0:
                for id in needs[parameters]:
                    last[buffer_of[id]] = index
            place += 3 + n_outs + n_ins
        if place != len(steps):
            raise Malformed("the steps don't match the instructions")
        kept = {buffer_of[id] for id in self.program.outputs}
        dying: list[list[int]] = [[] for _ in range(count)]
        for buffer, index in last.items():
            if buffer not in kept:
                dying[index].append(buffer)
        return dying

    def _needs(self, parameters: Any) -> list[int]:
        found = []
        stack = [value for _, value in parameters]
        while stack:
            value = stack.pop()
            if value[0] == "tensor":
                found.append(int(value[1]))
            elif value[0] == "tuple":
                stack.extend(value[1])
        return found

    def _output(self, id: int, index: int) -> NDArray[Any]:
        tensor = self.tensor(id)
        buffer = tensor.buffer
        if buffer.on_chip:
            raise Malformed("an output lies on the chip")
        if buffer.pending:
            where = buffer.unwritten_in(tensor)
            if where is not None:
                raise KernelError(
                    Diagnostic(
                        code="KW-OUTPUT-UNWRITTEN",
                        message=f"output {index} ({buffer.name or 'unnamed'}, {'x'.join(map(str, buffer.shape))} "
                        f"{buffer.dtype}{self.core.launch.line_text(buffer.line)}) was never written at element {list(where)}",
                        found=list(where),
                        fix="store every element; check the loop bounds and the last partial tile",
                    )
                )
        return np.array(tensor.view())


def _holds_tensor(parameters: Any) -> bool:
    return any(value[0] in ("tensor", "tuple", "register") for _, value in parameters)


def _tensor_rows(flat: NDArray[np.int64]) -> list[tuple[int, int, int, int, int, tuple[int, ...], tuple[int, ...]]]:
    values = flat.tolist()
    rows: list[tuple[int, int, int, int, int, tuple[int, ...], tuple[int, ...]]] = []
    place = 0
    while place < len(values):
        buffer, dtype, offset, indirect, row_stride, rank = values[place : place + 6]
        place += 6
        shape, strides = tuple(values[place : place + rank]), tuple(values[place + rank : place + 2 * rank])
        place += 2 * rank
        if (
            not 0 <= dtype < len(_DTYPES)
            or buffer < 0
            or len(strides) != rank
            or any(n < 1 for n in shape)
            or indirect >= len(rows)
        ):
            raise Malformed("a tensor is malformed")
        rows.append((buffer, dtype, offset, indirect, row_stride, shape, strides))
    return rows


_REGISTER_LOAD = next(op.code for op in OPCODES if op.name == "register_load")
