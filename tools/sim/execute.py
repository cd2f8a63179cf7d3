"""Runs a loaded kernel: binds arguments, drives the cores, gathers outputs, trace and findings."""

from __future__ import annotations

import itertools
import linecache
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from difflib import get_close_matches
from functools import cached_property
from math import prod
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tools.sim import context
from tools.sim.batch import RecordingCore, Unrecorded, Values
from tools.sim.blas import tile_threads
from tools.sim.core import Core, Launch, SimOptions, source_range
from tools.sim.deferral import DeferringCore
from tools.sim.dtypes import as_dtype
from tools.sim.errors import Diagnostic, KernelError, Severity, SourceRange, UnsupportedError
from tools.sim.frontend.absent import absent, is_stand_in
from tools.sim.frontend.host_arrays import from_torch, is_torch, results
from tools.sim.frontend.jit import JitKernel, default_precision, default_target
from tools.sim.frontend.loader import LoadedKernel
from tools.sim.frontend.modules import is_language_module, other_dialect, tensor_class
from tools.sim.frontend.rules import compiler_rules
from tools.sim.instruction import Operand, Trace
from tools.sim.loops import LoopRecorder, NotUniform
from tools.sim.machine import Machine, machine
from tools.sim.memory import Buffer
from tools.sim.races import RaceWatch
from tools.sim.team import Team
from tools.sim.tensor import Tensor

if TYPE_CHECKING:
    from tools.sim.profiler import Profile
    from tools.sim.timing import Timeline


Bound = tuple[tuple[Any, ...], dict[str, Any]]
"""Positional and keyword arguments of a kernel."""


class SimResult:
    """What one launch gave.

    Attributes:
        outputs: the returned tensors as arrays, in order (shapes-only runs: zero-stride placeholders).
        findings: what was noticed while the kernel ran and didn't stop it.
        trace: the recorded instruction stream.
        machine: the target.
        printed: lines from `device_print`.
    """

    def __init__(
        self,
        outputs: tuple[NDArray[Any], ...],
        diagnostics: tuple[Diagnostic, ...],
        trace: Trace,
        target: Machine,
        printed: tuple[str, ...] = (),
    ) -> None:
        self.outputs = outputs
        self.findings = diagnostics
        self.trace = trace
        self.machine = target
        self.printed = printed

    @cached_property
    def diagnostics(self) -> tuple[Diagnostic, ...]:
        """The findings, and the hazards that only the whole instruction stream shows."""
        from tools.sim.hazards import hazards, without_effect

        lost = without_effect(self.trace) if not self.outputs and not self.printed else []
        return (*self.findings, *lost, *hazards(self.trace, self.machine))

    @cached_property
    def timeline(self) -> Timeline:
        """The trace placed in time."""
        from tools.sim.timing import schedule

        return schedule(self.trace, self.machine)

    @cached_property
    def profile(self) -> Profile:
        """Where the time goes."""
        from tools.sim.profiler import profile

        return profile(self.trace, self.timeline, self.machine)

    @property
    def latency_us(self) -> float:
        """Simulated time from the first DMA trigger to the end of the last DMA, microseconds."""
        return float(self.timeline.latency_us)


def simulate(
    kernel: LoadedKernel | JitKernel | Callable[..., Any],
    *args: Any,
    grid: Any = None,
    target: str | None = None,
    precision: str = "hardware",
    strict: bool = False,
    data: bool = True,
    seed: int = 0,
    max_instructions: int = 20_000_000,
    max_bytes: int = 64 << 30,
    batched: bool = True,
    partial_outputs: bool = False,
    **kwargs: Any,
) -> SimResult:
    """Run a kernel on one simulated NeuronCore (or a pair).

    Args:
        kernel: from `load_kernel`, or a function decorated with the dialect's `jit`.
        args, kwargs: the kernel's arguments. Arrays become HBM tensors; those that the kernel writes are updated in place.
        grid: launch grid, an integer or a tuple.
        target: trn1, trn2 or trn3 (or an alias); by default what the kernel's decorator names, else trn2.
        precision: `hardware`, or `exact`: every float kept in float32.
        strict: add the compiler's rules (Python subset, removed spellings).
        data: False records the instruction stream without computing values.
        seed: for random-number instructions.
        max_instructions, max_bytes: limits on the recorded stream and on host memory.
        batched: record uniform loops once and compute their iterations together, where that is proven to change
            nothing; False iterates one instruction after the other.
        partial_outputs: outputs that the kernel wrote in part are returned with a warning, what it left out as NaN (or
            all bits set); by default they stop it. Outputs that nothing was written to stop it always.

    Raises:
        KernelError: the kernel is at fault; carries the Diagnostic.
        UnsupportedError: it uses something that isn't modelled.
        ValueError: no such target or precision.
    """
    if precision not in ("hardware", "exact"):
        raise ValueError(f"precision {precision!r} must be 'hardware' or 'exact'")
    loaded = _as_loaded(kernel)
    sizes = _grid(grid if grid is not None else (loaded.jit.grid if loaded.jit is not None else ()))
    options = SimOptions(
        data=data,
        precision=precision,
        strict=strict,
        seed=seed,
        max_instructions=max_instructions,
        max_bytes=max_bytes,
        partial_outputs=partial_outputs,
    )
    generation = machine(target or _named_target(loaded.jit) or "trn2")

    def launch() -> Launch:
        made = Launch(generation, options, files=loaded.files, dialect=loaded.dialect, grid=sizes)
        if strict:
            _apply_compiler_rules(loaded, made)
        return made

    with tile_threads() if data else nullcontext():
        if batched and loaded.dialect != "nki":
            if not data:
                return _by_loops(lambda: _Run(loaded, launch()), args, kwargs)
            result = _by_batches(loaded, launch, args, kwargs) if precision == "hardware" else None
            if result is not None:
                return result
        run = _Run(loaded, launch())
        if batched and data and precision == "hardware" and loaded.dialect == "nki" and prod(sizes) <= 1:
            run.use(DeferringCore(run.launch))
        try:
            return run.execute(args, kwargs)
        except Unrecorded:
            return _Run(loaded, launch()).execute(args, kwargs)


def _by_loops(
    make: Callable[[], _Run], args: tuple[Any, ...], kwargs: dict[str, Any], keep_steps: bool = False
) -> SimResult:
    """Run a kernel whose uniform loops are recorded once; a loop that proves uneven is iterated in full."""
    uneven: list[Any] = []
    while True:
        run = make()
        run.core.recorder = LoopRecorder(run.core, uneven, keep_steps)
        try:
            return run.execute(args, kwargs)
        except NotUniform as found:
            uneven.append(found.loop)


def _by_batches(
    loaded: LoadedKernel, launch: Callable[[], Launch], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> SimResult | None:
    """Record a launch without data, then compute its values; None when the record doesn't suffice."""
    try:
        return _by_loops(lambda: _Batched(loaded, launch()), args, kwargs, keep_steps=True)
    except (Unrecorded, KernelError, UnsupportedError):
        return None  # the ordinary run says what there is to say


def _apply_compiler_rules(loaded: LoadedKernel, launch: Launch) -> None:
    """Stop at the first thing in the kernel's source that its compiler refuses; keep the warnings."""
    for file, text in loaded.sources.items():
        for finding in compiler_rules(text, file, loaded.dialect):
            if finding.severity is Severity.ERROR:
                raise KernelError(finding)
            launch.diagnostics.append(finding)


class _Run:
    """One launch: state between binding the arguments and gathering the results."""

    def __init__(self, loaded: LoadedKernel, launch: Launch) -> None:
        self.loaded = loaded
        self.launch = launch
        self.copied: list[tuple[Tensor, NDArray[Any], NDArray[Any]]] = []
        self.use(Core(launch))

    def use(self, core: Core) -> None:
        """Run on this core."""
        core.tensor_class = tensor_class(self.launch.dialect)
        self.core = core

    def execute(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> SimResult:
        before = context.enter(self.core)
        try:
            bound_args, bound_kwargs = self.bind(args, kwargs)
            if self.launch.dialect == "nki" and prod(self.launch.grid) > 1:
                returned = self._call_team(bound_args, bound_kwargs)
            else:
                returned = None
                for program in self._programs():
                    self.core.program = program
                    self.core.shared_count = 0
                    returned = self.call(bound_args, bound_kwargs)
            return self.result(returned)
        finally:
            context.enter(before)

    def result(self, returned: Any) -> SimResult:
        """The finished run: outputs, trace and findings; arrays that the kernel wrote are up to date."""
        outputs = self._outputs(returned)
        self._copy_back()
        trace = self.core.builder.finish(self.loaded.sources, self.loaded.dialect, self.launch.cores)
        return SimResult(
            outputs, tuple(self.launch.diagnostics), trace, self.launch.machine, tuple(self.launch.printed)
        )

    def _programs(self) -> Iterator[tuple[int, ...]]:
        return itertools.product(*(range(n) for n in self.launch.grid)) if self.launch.grid else iter([()])

    def _call_team(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run the kernel on the cores of a logical NeuronCore; returns what core 0 returned."""
        return _run_together([self], [(args, kwargs)])[0]

    def cores(self) -> list[Core]:
        """The cores that the launch grid asks for, ready to run."""
        launch = self.launch
        degree = prod(launch.grid)
        limit = min(launch.machine.cores_per_hbm_stack, 2)
        if len(launch.grid) > 1 or degree > limit:
            self._fault(
                "KW-LNC-DEGREE",
                f"launch grid {list(launch.grid)}; {launch.machine.name} joins at most {limit} core(s) into one",
                found=list(launch.grid),
                limit=limit,
                fix="launch it as kernel[2](...) on trn2 or later, or without a grid",
            )
        launch.cores = degree
        cores = [self.core, *(Core(launch, i, self.core.builder) for i in range(1, degree))]
        for i, core in enumerate(cores):
            core.program = (i,) if launch.grid else ()
        return cores

    def agreed(self, returned: list[Any]) -> Any:
        """What core 0 returned; the other cores must have returned the same tensors."""
        first, *others = (_flatten(r) for r in returned)
        for index, other in enumerate(others, 1):
            if [_identity(v) for v in first] != [_identity(v) for v in other]:
                self._fault(
                    "KW-LNC-OUTPUTS",
                    f"core {index} returns {other!r}, core 0 returns {first!r}",
                    fix="allocate results in nl.shared_hbm and return the same tensors on both cores",
                )
        return returned[0]

    def call(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run the kernel function on the current core."""
        try:
            returned = self.loaded.function(*args, **kwargs)
            if self.core.deferred is not None:
                self.core.deferred.realise()
            self.core.settle()
            return returned
        except (KernelError, UnsupportedError):
            raise
        except Exception as error:
            raise blame(error, self.loaded.files) from error

    # -- arguments ---------------------------------------------------------------------------------------------------

    def bind(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Bound:
        """The kernel's arguments with arrays turned into HBM tensors."""
        try:
            bound = self.loaded.signature.bind(*args, **kwargs)
        except TypeError as error:
            raise KernelError(
                Diagnostic(
                    code="KW-ARGUMENTS",
                    message=f"{self.loaded.name}{self.loaded.signature} can't be called so: {error}",
                    fix="pass one value for each parameter without a default",
                )
            ) from None
        for name, value in bound.arguments.items():
            if self.launch.options.strict and self.launch.dialect == "nki" and isinstance(value, list):
                self._fault(
                    "KW-STRICT-PYTHON",
                    f"argument {name} is a list; the compiler takes tuples",
                    found="list",
                    limit="tuple",
                    fix="pass a tuple",
                )
            bound.arguments[name] = self._convert(value, name)
        return bound.args, bound.kwargs

    def _convert(self, value: Any, name: str) -> Any:
        if isinstance(value, np.ndarray):
            return self._wrap(value, name)
        if is_torch(value):
            return self._wrap(from_torch(value), name)
        if isinstance(value, tuple | list) and any(
            isinstance(v, np.ndarray | tuple | list | dict) or is_torch(v) for v in value
        ):
            return type(value)(self._convert(v, f"{name}[{i}]") for i, v in enumerate(value))
        if isinstance(value, dict) and any(isinstance(v, np.ndarray) or is_torch(v) for v in value.values()):
            return {k: self._convert(v, f"{name}[{k!r}]") for k, v in value.items()}
        if (
            hasattr(value, "__array__")
            and hasattr(value, "dtype")
            and hasattr(value, "shape")
            and not np.isscalar(value)
            and not isinstance(value, type)
        ):
            return self._wrap(np.asarray(value), name)
        return value

    def _wrap(self, array: NDArray[Any], name: str) -> Tensor:
        if not self.launch.options.data:
            return self.core.wrap(array, name)
        usable = array.flags.c_contiguous and array.flags.writeable
        held = array if usable else np.array(array, order="C", copy=True)
        tensor = self.core.wrap(held, name)
        exact = tensor.buffer.host is None
        if (not usable or exact) and array.flags.writeable:
            self.copied.append((tensor, held.copy() if not exact else held, array))
        return tensor

    def _copy_back(self) -> None:
        """Bring in-place writes home to arrays that the kernel saw as copies."""
        for tensor, before, array in self.copied:
            after = tensor.view()
            if tensor.buffer.host is None:
                array[...] = after.reshape(array.shape).astype(array.dtype)
            elif after.tobytes() != before.tobytes():
                array[...] = after.reshape(array.shape)

    # -- results -----------------------------------------------------------------------------------------------------

    def _outputs(self, returned: Any) -> tuple[NDArray[Any], ...]:
        return tuple(self._output(t, i) for i, t in enumerate(_flatten(returned)))

    def _output(self, value: Any, index: int) -> NDArray[Any]:
        if not isinstance(value, Tensor):
            return np.asarray(value)
        buffer = value.buffer
        if (
            self.launch.options.strict
            and self.launch.dialect == "nki"
            and buffer.role != "input"
            and buffer.space != "shared_hbm"
        ):
            self._fault(
                "KW-STRICT-OUTPUT",
                f"output {index} lies in {value.space}; results must be in shared_hbm since 0.3",
                tensor=value,
                found=value.space,
                limit="shared_hbm",
                fix="allocate the result with buffer=nl.shared_hbm",
            )
        if buffer.on_chip and self.launch.dialect == "nki":
            self._fault(
                "KW-OUTPUT-PLACEMENT",
                f"output {index} lies in {value.space.upper()}",
                tensor=value,
                found=value.space,
                limit="shared_hbm",
                fix="allocate the result with buffer=nl.shared_hbm and dma_copy into it",
            )
        if not self.launch.options.data:
            return np.broadcast_to(np.zeros((), value.dtype.storage), value.shape)
        if buffer.pending:
            where = buffer.unwritten_in(value)
            if where is not None:
                finding = Diagnostic(
                    code="KW-OUTPUT-UNWRITTEN",
                    message=f"output {index} ({buffer.name or 'unnamed'}, {'x'.join(map(str, buffer.shape))} {buffer.dtype}"
                    f"{self.launch.line_text(buffer.line)}) was never written at element {list(where)}",
                    # Beta 1 refuses only outputs that nothing was stored to (err_tensor_output_not_written_to)
                    severity=Severity.WARNING
                    if (self.launch.dialect != "nki" or self.launch.options.partial_outputs) and _partly(buffer)
                    else Severity.ERROR,
                    where=self._allocated(value),
                    operand=buffer.name,
                    found=list(where),
                    fix="store every element; check the loop bounds and the last partial tile",
                )
                if finding.severity is Severity.ERROR:
                    raise KernelError(finding)
                self.launch.diagnostics.append(finding)
        return value.view() if buffer.host is None else np.array(value.view())

    def _allocated(self, tensor: Tensor) -> SourceRange | None:
        """The line that allocated a tensor; None for arguments."""
        line = tensor.buffer.line
        if not 0 <= line < len(self.launch.lines):
            return None
        file, number = self.launch.lines[line]
        return SourceRange(file, number, text=linecache.getline(file, number).strip())

    def _fault(
        self,
        code: str,
        message: str,
        *,
        tensor: Tensor | None = None,
        found: Any = None,
        limit: Any = None,
        fix: str = "",
    ) -> None:
        where = self._allocated(tensor) if tensor is not None else None
        name = tensor.buffer.name if tensor is not None else ""
        raise KernelError(
            Diagnostic(code=code, message=message, where=where, operand=name, found=found, limit=limit, fix=fix)
        )


class _Batched(_Run):
    """A launch that is recorded first and computed afterwards."""

    def __init__(self, loaded: LoadedKernel, launch: Launch) -> None:
        super().__init__(loaded, launch)
        self.recording = RecordingCore(launch)
        self.use(self.recording)

    def _wrap(self, array: NDArray[Any], name: str) -> Tensor:
        return self.core.wrap(array, name)

    def result(self, returned: Any) -> SimResult:
        core = self.recording
        results = [t for t in _flatten(returned) if isinstance(t, Tensor)]
        if core.depends_on_data or self.launch.printed or any(t.buffer.pending for t in results):
            raise Unrecorded
        trace = core.builder.finish(self.loaded.sources, self.loaded.dialect, self.launch.cores)
        flags, buffers = trace.operands[:, Operand.FLAGS], trace.operands[:, Operand.BUFFER]
        written = set(np.unique(buffers[(flags & 1) != 0]).tolist())
        present = {number: self._adopted(number, number in written) for number in core.arrays}
        values = Values(core.record([t.buffer.id for t in results], present))
        values.run()
        for tensor in results:
            buffer = tensor.buffer
            known = present.get(buffer.id)
            if known is not None:
                buffer.data, buffer.host = known.data, known.host
            else:
                values.hand_over(buffer)
                buffer.materialise()
            tensor._view = None
        outputs = self._outputs(returned)
        for number, array in core.arrays.items():
            host = present[number].host
            if number in written and array.flags.writeable and trace.buffers[number].role == "input":
                assert host is not None
                array[...] = host.reshape(array.shape)
        return SimResult(
            outputs, tuple(self.launch.diagnostics), trace, self.launch.machine, tuple(self.launch.printed)
        )

    def _adopted(self, number: int, written: bool) -> Buffer:
        """An argument's memory; a copy of it when the kernel writes there, because the run may yet be abandoned."""
        array, info = self.recording.arrays[number], self.recording.builder.buffers[number]
        buffer = Buffer(number, info.space, info.name, info.shape, as_dtype(info.dtype), 1, info.row_bytes)
        usable = array.flags.c_contiguous and not written
        buffer.adopt(array if usable else np.array(array, order="C", copy=True))
        return buffer


def _run_together(runs: Sequence[_Run], bound: Sequence[Bound]) -> list[Any]:
    """Run several launches side by side on one team of cores; returns what each returned."""
    seats: list[Core] = []
    mine: list[tuple[int, ...]] = []
    watches: list[RaceWatch | None] = []
    for run in runs:
        cores = run.cores()
        numbers = tuple(range(len(seats), len(seats) + len(cores)))
        for core in cores:
            core.mates = numbers
        seats.extend(cores)
        mine.append(numbers)
        watches.append(RaceWatch(run.launch, cores) if len(cores) > 1 else None)
    team = Team(seats)

    def meeting(group: frozenset[int]) -> None:
        for numbers, watch in zip(mine, watches):
            if watch is not None and group.issuperset(numbers):
                watch.meeting()

    team.on_meeting = meeting
    home = {number: k for k, numbers in enumerate(mine) for number in numbers}
    returned = team.run(lambda core: runs[home[core.seat]].call(*bound[home[core.seat]]))
    meeting(frozenset(home))
    return [run.agreed([returned[n] for n in numbers]) for run, numbers in zip(runs, mine)]


def simulate_group(
    kernel: LoadedKernel | JitKernel | Callable[..., Any],
    arguments: Sequence[Sequence[Any] | Mapping[str, Any]],
    *,
    grid: Any = None,
    target: str | None = None,
    precision: str = "hardware",
    data: bool = True,
    seed: int = 0,
) -> list[SimResult]:
    """Run a kernel on several ranks at once, so that `nki.collectives` work between them.

    Args:
        kernel: as for `simulate`.
        arguments: one entry a rank: the kernel's arguments, in order or by name.
        grid: cores of each rank, as for `simulate`.
        target, precision, data, seed: as for `simulate`.

    Returns:
        One result a rank. Latencies don't include waiting for other ranks.

    Raises:
        KernelError, UnsupportedError, ValueError: as for `simulate`.
    """
    if precision not in ("hardware", "exact"):
        raise ValueError(f"precision {precision!r} must be 'hardware' or 'exact'")
    loaded = _as_loaded(kernel)
    sizes = _grid(grid if grid is not None else (loaded.jit.grid if loaded.jit is not None else ()))
    runs, bound = [], []
    for rank, given in enumerate(arguments):
        launch = Launch(
            machine(target or _named_target(loaded.jit) or "trn2"),
            SimOptions(data=data, precision=precision, seed=seed),
            files=loaded.files,
            dialect=loaded.dialect,
            grid=sizes,
            rank=rank,
            ranks=len(arguments),
        )
        run = _Run(loaded, launch)
        before = context.enter(run.core)
        try:
            args, kwargs = ((), dict(given)) if isinstance(given, Mapping) else (tuple(given), {})
            bound.append(run.bind(args, kwargs))
        finally:
            context.enter(before)
        runs.append(run)
    returned = _run_together(runs, bound)
    return [run.result(value) for run, value in zip(runs, returned)]


def _flatten(value: Any) -> list[Any]:
    if value is None:
        return []
    if isinstance(value, tuple | list):
        return [leaf for item in value for leaf in _flatten(item)]
    if isinstance(value, dict):
        return [leaf for item in value.values() for leaf in _flatten(item)]
    return [value]


def _named_target(kernel: JitKernel | None) -> str | None:
    """The target that a decorator asks for by `platform_target=`."""
    named = kernel.options.get("platform_target") if kernel is not None else None
    return str(named) if named else None


def _partly(buffer: Buffer) -> bool:
    """Whether something was written to a buffer that isn't full."""
    return bool(buffer.cells) or (buffer.written is not None and bool(buffer.written.any()))


def _identity(value: Any) -> Any:
    return (value.buffer.id, value.offset, value.shape) if isinstance(value, Tensor) else type(value)


def _grid(grid: Any) -> tuple[int, ...]:
    sizes = tuple(grid) if isinstance(grid, tuple | list) else (grid,)
    return tuple(int(n) for n in sizes)


def _as_loaded(kernel: Any) -> LoadedKernel:
    if isinstance(kernel, LoadedKernel):
        return kernel
    from pathlib import Path

    from tools.sim.frontend.host import HostFiles
    from tools.sim.frontend.loader import ModuleSpace

    jit = kernel if isinstance(kernel, JitKernel) else None
    function = jit.function if jit is not None else kernel
    if not callable(function) or not hasattr(function, "__code__"):
        raise TypeError(f"{kernel!r} is no kernel: pass load_kernel(...) or a function decorated with @nki.jit")
    file = function.__code__.co_filename
    text = Path(file).read_text(encoding="utf-8") if Path(file).is_file() else ""
    space = ModuleSpace(files=HostFiles(file), sources={file: text})
    dialect = jit.dialect if jit is not None else "nki"
    return LoadedKernel(function.__name__, function, function.__globals__, dialect, file, space, jit)


def blame(error: Exception, files: set[str]) -> Exception:
    """A KernelError when `error` was raised by kernel source; otherwise the error itself (our bug, or the host's)."""
    innermost = None
    frame_is_last = False
    walker = error.__traceback__
    while walker is not None:
        frame_is_last = walker.tb_frame.f_code.co_filename in files
        if frame_is_last:
            innermost = walker
        walker = walker.tb_next
    if innermost is None:
        return error
    if not frame_is_last and not isinstance(error, AssertionError | ImportError):
        last = error.__traceback__
        while last is not None and last.tb_next is not None:
            last = last.tb_next
        inner = last.tb_frame.f_code if last is not None else None
        # a name that one of our objects says it doesn't have is the kernel's fault all the same
        denied = isinstance(error, AttributeError) and inner is not None and inner.co_name == "__getattr__"
        if inner is not None and "/tools/sim/" in inner.co_filename.replace("\\", "/") and not denied:
            return error
    where = source_range(innermost.tb_frame)
    line = innermost.tb_lineno
    if where.line != line:
        where = SourceRange(where.file, line, text=linecache.getline(where.file, line).strip())
    name = type(error).__name__
    code = "KW-ARGUMENT" if isinstance(error, TypeError) and "argument" in str(error) else "KW-PYTHON"
    message = f"{name}: {error}" if str(error) else name
    fix = "read the line it names; the kernel's own Python raised this"
    found: Any = None
    if code == "KW-ARGUMENT":
        fix = "this dialect has no mask=: slice to what exists, x[i : min(i + 128, n)]" if "'mask'" in message else fix
    if isinstance(error, AssertionError):
        message = message if str(error) else f"AssertionError: {where.text}"
        fix = "the kernel's own check failed; pass arguments that satisfy it, or change the kernel"
    if isinstance(error, NameError) and error.name in ("sbuf", "psum", "hbm"):
        fix = f"allocate with nl.ndarray(shape, dtype, buffer=nl.{error.name}); {error.name}.view() was a preview's"
    if isinstance(error, AttributeError):
        fix = "this name doesn't exist in the dialect; check the spelling and the version"
        if isinstance(error.obj, ModuleType) and is_language_module(error.obj.__name__):
            code, found = "KW-UNKNOWN-NAME", error.name
            near = get_close_matches(str(error.name), dir(error.obj), 1)
            moved = other_dialect(error.obj.__name__, str(error.name))
            fix = moved or (f"did you mean {near[0]}? {fix}" if near else fix)
    elif isinstance(error, TypeError) and "support" in str(error) and "'Tensor'" in str(error):
        code = "KW-TENSOR-OPERATOR"
        message = f"tensors have no Python operators in this dialect ({error})"
        fix = "use nl.add(x, y) and the like, or nisa.tensor_tensor and nisa.tensor_scalar with a dst"
    return KernelError(Diagnostic(code=code, message=message, where=where, found=found, fix=fix))


def run_for_user(kernel: JitKernel, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """A direct call of a jitted kernel outside any kernel: simulate it and return what the kernel returns.

    A script that launches its kernel on tensors of a module that isn't installed goes on with a stand-in.
    """
    if any(is_stand_in(value) for value in (*args, *kwargs.values())):
        return absent(f"{kernel.function.__name__}()")
    target = _named_target(kernel) or default_target()
    result = simulate(kernel, *args, target=target, precision=default_precision(), partial_outputs=True, **kwargs)
    for finding in result.diagnostics:
        if finding.severity is not Severity.NOTE:
            print(finding)
    return results(result.outputs, (args, kwargs))
