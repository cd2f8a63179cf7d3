"""The worker process: warm and trusted itself, it forks a confined child for every job. Untrusted source lives only there.

Started by `tools.sandbox` with three file descriptors: jobs in, results out (written by the children), control out.
A job is one frame (`tools.wire`); its child answers with one frame on the result pipe and ends. The child for the next job
is forked ahead of time and waits for it, so a job pays neither for imports nor for a fork. It shuts itself in once it has
read the job, before anything of it runs; the worker itself never holds a job.
"""

from __future__ import annotations

import gc
import importlib
import importlib.util
import io
import os
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, partial
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tools import confinement, program, source_rules, wire
from tools.generate import estimate as estimates
from tools.generate.errors import BeyondOffline
from tools.generate.tracing import trace_reference
from tools.sim import KernelError, LoadedKernel, UnsupportedError, load_source, machine, memory
from tools.sim.errors import Diagnostic
from tools.sim.frontend.loader import detect_dialect
from tools.sim.frontend.modules import language_module
from tools.sim.frontend.rules import compiler_rules
from tools.sim.frontend.source_names import unknown_names
from tools.sim.frontend.source_shapes import partition_limits
from tools.sim.timing import compiled

FILENAME = "kernel.py"
"""What diagnostics and traces call the kernel's source."""

LARGEST_JOB = 8 << 30
Result = tuple[dict[str, Any], Sequence[NDArray[Any]]]


class RequestFault(Exception):
    """The reference (or another part of the request) is at fault; the text is for the person who made it."""


class _Talk(io.TextIOBase):
    """Keeps the head of what foreign code prints and stops code that prints without end."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.kept: list[str] = []
        self.count = 0

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        self.count += len(text)
        if self.count > self.limit:
            raise _TooMuchTalk(f"it printed more than {self.limit} characters")
        if self.count <= 20_000:
            self.kept.append(text)
        return len(text)


class _TooMuchTalk(BaseException):
    """Foreign code printed more than it may. Not an `Exception`, so that it isn't caught in passing."""


# -- jobs ----------------------------------------------------------------------------------------------------------------


def lint(job: dict[str, Any], arrays: Sequence[NDArray[Any]]) -> Result:
    """Findings about kernel source that is not run."""
    source = job["source"]
    findings = list(source_rules.violations(source, FILENAME))
    if job.get("strict"):
        findings += compiler_rules(source, FILENAME, detect_dialect(source))
    said = set(map(_place, findings))
    more = (*unknown_names(source, FILENAME), *partition_limits(source, FILENAME))
    findings += [d for d in more if _place(d) not in said]
    findings.sort(key=_place)
    return {"findings": [d.to_json() for d in findings]}, ()


def _place(finding: Diagnostic) -> tuple[int, int]:
    return (finding.where.line, finding.where.column) if finding.where else (0, -1)


def record(job: dict[str, Any], arrays: Sequence[NDArray[Any]]) -> Result:
    """Run kernel source without data (or with `arrays`, when `data` is set) and write down its instructions."""
    loaded = _load_kernel(job)
    arguments = arrays if job["data"] else [_placeholder(s["shape"], s["dtype"]) for s in job["inputs"]]
    found, findings, printed = program.record(
        loaded, arguments, job["target"], data=job["data"], max_instructions=job["max_instructions"]
    )
    header, tables = found.pack()
    return {"program": header, "findings": [d.to_json() for d in findings], "device_print": list(printed)[:100]}, tables


def _load_kernel(job: dict[str, Any]) -> LoadedKernel:
    for problem in source_rules.violations(job["source"], FILENAME):
        raise KernelError(problem)
    # dataclasses look their module up by name; this process is thrown away afterwards.
    sys.modules.setdefault("kernel", ModuleType("kernel"))
    return load_source(
        job["source"],
        job["function"],
        FILENAME,
        source_rules.KERNEL_IMPORTS,
        source_rules.kernel_builtins(),
        source_rules.kernel_modules(),
    )


def direct(job: dict[str, Any], arrays: Sequence[NDArray[Any]]) -> Result:
    """Run kernel source on values, for kernels whose record can't be carried out elsewhere."""
    memory.POISON_BYTE = job["poison"]
    found, outputs, findings = program.run_directly(_load_kernel(job), arrays, job["target"], job["max_instructions"])
    header, tables = found.pack()
    return {"program": header, "tables": len(tables), "findings": [d.to_json() for d in findings]}, [*tables, *outputs]


def _placeholder(shape: Sequence[int], dtype: str) -> NDArray[Any]:
    return np.broadcast_to(np.zeros((), wire.storage_type(dtype)), tuple(shape))


def replay(job: dict[str, Any], arrays: Sequence[NDArray[Any]]) -> Result:
    """Carry out a record on several sets of inputs; each run names the byte that fills memory nobody wrote."""
    count = job["tables"]
    found = program.Program.unpack(job["program"], arrays[:count], job["source"], FILENAME)
    inputs = arrays[count:]
    each = job["inputs"]
    outputs: list[NDArray[Any]] = []
    runs = []
    for draw, poison in job["runs"]:
        memory.POISON_BYTE = poison
        done = program.replay(found, inputs[draw * each : (draw + 1) * each], machine(found.trace.target))
        outputs.extend(done.outputs)
        runs.append({"outputs": len(done.outputs), "findings": [d.to_json() for d in done.diagnostics]})
    return {"runs": runs}, outputs


def reference(job: dict[str, Any], arrays: Sequence[NDArray[Any]]) -> Result:
    """Run a NumPy reference on several sets of inputs, computing floats in `precision`."""
    function = _load_reference(job["source"], job["function"])
    each = job["inputs"]
    kind = np.dtype(job["precision"])
    outputs: list[NDArray[Any]] = []
    draws = []
    for draw in range(len(arrays) // each if each else 0):
        values = [_widened(a, kind) for a in arrays[draw * each : (draw + 1) * each]]
        with np.errstate(all="ignore"):
            found = [_narrowed(a) for a in _results(_call_reference(function, values))]
        outputs.extend(found)
        draws.append(len(found))
    return {"draws": draws}, outputs


def _narrowed(array: NDArray[Any]) -> NDArray[Any]:
    """Float64 results as float32: finer than any tolerance, and half as much to send."""
    return array.astype(np.float32) if array.dtype == np.float64 else array


def _widened(array: NDArray[Any], kind: np.dtype[Any]) -> NDArray[Any]:
    if array.dtype.kind in "iub":
        return np.array(array, copy=True)
    return array.astype(kind, copy=False)  # the arrays are this job's own: a reference may write into them


def _load_reference(source: str, function: str) -> Callable[..., Any]:
    names = dict(vars(__import__("builtins")))
    plain = names["__import__"]

    def imported(name: str, globals: Any = None, locals: Any = None, fromlist: Any = (), level: int = 0) -> Any:
        calling = (globals or {}).get("__name__") == "reference"
        if calling and (level or name.split(".")[0] not in source_rules.REFERENCE_IMPORTS):
            raise RequestFault(
                f"the reference imports {name!r}; write it with numpy, math and the standard library's functools, "
                "itertools and typing only"
            )
        return plain(name, globals, locals, fromlist, level)

    names["__import__"] = imported
    namespace: dict[str, Any] = {"__name__": "reference", "__builtins__": names}
    try:
        exec(compile(source, "<reference>", "exec"), namespace)
    except (RequestFault, MemoryError):
        raise
    except Exception as error:
        raise RequestFault(f"the reference can't be loaded: {_blame(error)}") from error
    found = namespace.get(function)
    if not callable(found):
        names_there = ", ".join(k for k, v in namespace.items() if callable(v) and not k.startswith("_")) or "none"
        raise RequestFault(f"the reference defines no function {function!r}; it has {names_there}")
    return found


def _call_reference(function: Callable[..., Any], values: list[NDArray[Any]]) -> Any:
    try:
        return function(*values)
    except (RequestFault, MemoryError):
        raise
    except Exception as error:
        shapes = ", ".join("x".join(map(str, v.shape)) for v in values)
        raise RequestFault(f"the reference fails on inputs of {shapes}: {_blame(error)}") from error


def _blame(error: BaseException) -> str:
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename == "<reference>"]
    line = f" (line {frames[-1].lineno})" if frames and frames[-1].lineno else ""
    if isinstance(error, SyntaxError):
        line = f" (line {error.lineno})"
    text = str(error).split("\n")[0][:300]
    return f"{type(error).__name__}: {text}{line}" if text else f"{type(error).__name__}{line}"


def _results(value: Any) -> list[NDArray[Any]]:
    items = list(value) if isinstance(value, tuple | list) else [value]
    found = []
    for i, item in enumerate(items):
        if not isinstance(item, np.ndarray):
            raise RequestFault(
                f"output {i} of the reference is {type(item).__name__}, not an array; return NumPy arrays (keepdims=True keeps "
                "a dimension in a reduction)"
            )
        if item.ndim == 0 or not item.size:
            raise RequestFault(
                f"output {i} of the reference has shape {item.shape}; return at least one dimension and element"
            )
        if item.dtype.kind == "b":
            item = item.astype(np.uint8)
        if item.dtype.kind not in "iuf" and item.dtype.name not in wire._KINDS:
            raise RequestFault(f"output {i} of the reference has type {item.dtype}; return real numbers")
        found.append(np.ascontiguousarray(item))
    if not found:
        raise RequestFault("the reference returns nothing; return one array or a tuple of arrays")
    return found


def trace(job: dict[str, Any], arrays: Sequence[NDArray[Any]]) -> Result:
    """Trace a reference into an operator graph."""
    try:
        return {"graph": trace_reference(job["source"], job["function"], job["inputs"])}, ()
    except ValueError as error:
        raise RequestFault(str(error)) from error


def estimate(job: dict[str, Any], arrays: Sequence[NDArray[Any]]) -> Result:
    """Simulated times, without data, of several candidates of one author."""
    shaped = [_placeholder(s["shape"], s["dtype"]) for s in job["inputs"]]
    found = []
    for source in job["sources"]:
        load = partial(_load_kernel, {"source": source, "function": "kernel"})
        found.append(estimates.estimate(load, shaped, job["target"]))
    return {"estimates": [[e.latency_us, e.reason] for e in found]}, ()


JOBS: dict[str, Callable[[dict[str, Any], Sequence[NDArray[Any]]], Result]] = {
    job.__name__: job for job in (lint, record, replay, direct, reference, trace, estimate)
}


# -- the child -----------------------------------------------------------------------------------------------------------


def _run_job(job: dict[str, Any], arrays: Sequence[NDArray[Any]]) -> Result:
    """The job's answer; every way to fail becomes a header with `status`."""
    started = time.perf_counter()
    try:
        header, results = JOBS[job["job"]](job, arrays)
        return {"status": "value", "seconds": time.perf_counter() - started, **header}, results
    except KernelError as error:
        if isinstance(error.__cause__, MemoryError):
            return {"status": "memory"}, ()
        if isinstance(error.__cause__, confinement.Refused):
            return {"status": "kernel", "finding": _forbidden(error.diagnostic, error.__cause__).to_json()}, ()
        return {"status": "kernel", "finding": error.diagnostic.to_json()}, ()
    except UnsupportedError as error:
        return {"status": "unsupported", "message": str(error)}, ()
    except BeyondOffline as error:
        return {"status": "beyond", "message": str(error), "reason": error.reason}, ()
    except RequestFault as error:
        cause = error.__cause__
        if isinstance(cause, confinement.Refused):
            return {"status": "request", "message": f"the reference reaches outside: {cause.strerror}"}, ()
        return {"status": "request", "message": str(error)}, ()
    except MemoryError:
        return {"status": "memory"}, ()
    except RecursionError:
        return {"status": "recursion"}, ()
    except _TooMuchTalk as error:
        return {"status": "output", "message": str(error)}, ()
    except (SystemExit, KeyboardInterrupt, GeneratorExit) as error:
        return {"status": "exit", "message": type(error).__name__}, ()
    except confinement.Refused as error:
        return {"status": "refused", "message": str(error.strerror)}, ()
    except program.Malformed as error:
        return {"status": "malformed", "message": str(error)}, ()
    except Exception:  # noqa: BLE001 - the sandbox's border: the parent raises it as a fault of ours
        return {"status": "fault", "message": traceback.format_exc(limit=-12)}, ()
    except BaseException as error:  # noqa: BLE001 - foreign code may define exceptions beside Exception
        return {"status": "exit", "message": type(error).__name__}, ()


def _forbidden(found: Diagnostic, cause: confinement.Refused) -> Diagnostic:
    return Diagnostic(
        code="KW-FORBIDDEN",
        message=str(cause.strerror),
        where=found.where,
        fix="a kernel works on its arguments with nki instructions only; remove this",
    )


def _child(job: dict[str, Any], arrays: Sequence[NDArray[Any]], results: int) -> None:
    nonce = job["nonce"]
    limits = confinement.Limits(**job["limits"])
    talk = _Talk(limits.printed_characters)
    sys.stdout = sys.stderr = talk
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    walls = confinement.confine(limits)
    if job["job"] == "walls":
        header: dict[str, Any] = {"status": "value", "walls": walls}
        found: Sequence[NDArray[Any]] = ()
    else:
        header, found = _run_job(job, arrays)
    header["nonce"] = nonce
    header["printed"] = "".join(talk.kept)[:20_000]
    try:
        wire.send(results, header, found)
    except MemoryError:
        wire.send(results, {"nonce": nonce, "status": "memory", "printed": ""})


@dataclass(frozen=True, slots=True)
class _Spare:
    """A child that waits for its job.

    Attributes:
        taken: where it says, by the job's nonce, that it has read its job.
    """

    pid: int
    taken: int


def serve(jobs: int, results: int, control: int) -> None:
    """Have jobs done until the parent hangs up."""
    _warm()
    spare = _spare(jobs, results, control)
    wire.send(control, {"ready": os.getpid()})
    while True:
        nonce = os.read(spare.taken, 64).decode("ascii")
        os.close(spare.taken)
        if not nonce:  # it ended without a job: the parent hung up, or the child was killed and the job with it
            with suppress(ProcessLookupError):
                os.kill(spare.pid, signal.SIGKILL)
            os.waitpid(spare.pid, 0)
            return
        running = spare.pid
        wire.send(control, {"started": running, "nonce": nonce})
        spare = _spare(jobs, results, control)
        code = _outlive(running, jobs)
        if code is None:
            os.kill(spare.pid, signal.SIGKILL)
            os.waitpid(spare.pid, 0)
            return
        wire.send(control, {"ended": code, "nonce": nonce})


def _spare(jobs: int, results: int, control: int) -> _Spare:
    """Fork the child for the next job."""
    taken, taking = os.pipe()
    pid = os.fork()
    if pid:
        os.close(taking)
        return _Spare(pid, taken)
    status = 1
    try:
        confinement.die_with_parent()
        os.close(control)
        os.close(taken)
        try:
            frame = wire.receive(jobs, LARGEST_JOB)
        except wire.Closed:
            status = 0
        else:
            os.close(jobs)
            os.write(taking, frame.header["nonce"].encode("ascii"))
            os.close(taking)
            _child(frame.header, frame.arrays, results)
            status = 0
    finally:
        os._exit(status)


def _outlive(pid: int, jobs: int) -> int | None:
    """Wait for the child; None when the parent went away meanwhile (the child is ended then).

    Not left to a death signal: that one comes when the parent's *thread* that started this process ends.
    """
    watch = select.poll()
    watch.register(jobs, select.POLLHUP)
    handle = os.pidfd_open(pid) if hasattr(os, "pidfd_open") else -1
    if handle >= 0:
        watch.register(handle, select.POLLIN)
    try:
        while True:
            events = dict(watch.poll(None if handle >= 0 else 20))
            done, code = os.waitpid(pid, os.WNOHANG)
            if done:
                return code
            if events.get(jobs, 0) & select.POLLHUP:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                return None
    finally:
        if handle >= 0:
            os.close(handle)


def _warm() -> None:
    """Load now what a confined child can't: it may open no file."""
    for name in sorted(source_rules.KERNEL_IMPORTS | source_rules.REFERENCE_IMPORTS):
        if importlib.util.find_spec(name) is not None:
            importlib.import_module(name)
    for name in (
        "numpy.linalg",
        "numpy.fft",
        "numpy.random",
        "numpy.polynomial",
        "encodings.idna",
        "collections.abc",
        "linecache",
    ):
        importlib.import_module(name)
    for name in ("nki", "nki.language", "nki.isa"):
        language_module(name)
    source_rules.kernel_modules()
    machine("trn1"), machine("trn2"), machine("trn3")
    # A confined process can't load numba; long candidates are timed by the plain loop there.
    compiled.available = cache(lambda: False)
    _rehearse()
    gc.collect()
    gc.freeze()  # a child's collector then leaves the shared pages alone


REHEARSALS = (
    """
import nki
import nki.isa as nisa
import nki.language as nl


@nki.jit
def kernel(x, y):
    out = nl.ndarray((128, 128), dtype=x.dtype, buffer=nl.shared_hbm)
    for i in range(2):
        left = nl.ndarray((128, 128), dtype=x.dtype, buffer=nl.sbuf)
        right = nl.ndarray((128, 128), dtype=x.dtype, buffer=nl.sbuf)
        column = nl.ndarray((128, 1), dtype=nl.float32, buffer=nl.sbuf)
        total = nl.ndarray((128, 128), dtype=nl.float32, buffer=nl.psum)
        turned = nl.ndarray((128, 128), dtype=x.dtype, buffer=nl.psum)
        nisa.dma_copy(dst=left, src=x)
        nisa.dma_copy(dst=right, src=y)
        nisa.tensor_reduce(dst=column, op=nl.maximum, data=left, axis=1, negate=True)
        nisa.activation(dst=left, op=nl.exp, data=left, bias=column)
        nisa.tensor_scalar(dst=left, data=left, op0=nl.multiply, operand0=column)
        nisa.tensor_tensor(dst=left, data1=left, data2=right, op=nl.add)
        nisa.nc_transpose(dst=turned, data=left)
        nisa.tensor_copy(dst=left, src=turned)
        nisa.nc_matmul(dst=total, stationary=left, moving=right[:, 0:128])
        nisa.tensor_copy(dst=right, src=total)
        nisa.dma_copy(dst=out, src=right)
    return out
""",
    """
import neuronxcc.nki as nki
import neuronxcc.nki.language as nl


@nki.jit
def kernel(x, y):
    out = nl.ndarray((128, 128), dtype=x.dtype, buffer=nl.shared_hbm)
    for i in nl.affine_range(1):
        a = nl.load(x)
        b = nl.load(y)
        nl.store(out, value=nl.multiply(nl.exp(a), b))
    return out
""",
)
"""Small kernels of ours, one a dialect. The worker records and replays them once, so that what is made on first use (compiled
patterns, checked signatures, tables of costs) is there in every child."""

REHEARSED_REFERENCE = "import numpy as np\n\n\ndef reference(x, y):\n    return np.exp(x @ y) + x\n"


_SHAPE, _KIND = (128, 128), "bfloat16"


def _record(source: str) -> tuple[LoadedKernel, program.Program]:
    """Load and record one of the rehearsals as a job does."""
    for problem in source_rules.violations(source, FILENAME):
        raise KernelError(problem)
    loaded = load_source(
        source,
        "kernel",
        FILENAME,
        source_rules.KERNEL_IMPORTS,
        source_rules.kernel_builtins(),
        source_rules.kernel_modules(),
    )
    placeholders = [_placeholder(_SHAPE, _KIND)] * 2
    found, _, _ = program.record(loaded, placeholders, "trn2", data=False, max_instructions=1000)
    found.pack()
    return loaded, found


def _rehearse() -> None:
    specs = [{"name": name, "shape": list(_SHAPE), "dtype": _KIND} for name in "xy"]
    trace_reference(REHEARSED_REFERENCE, "reference", specs)
    arrays = [np.ones(_SHAPE, wire.storage_type(_KIND)) for _ in specs]
    for source in REHEARSALS:
        loaded, recorded = _record(source)
        estimates.estimate(lambda again=loaded: again, [_placeholder(_SHAPE, _KIND)] * 2, "trn2")  # type: ignore[misc]
        if recorded.opaque:
            program.run_directly(loaded, arrays, "trn2", 1000)
        else:
            header, tables = recorded.pack()
            program.replay(program.Program.unpack(header, tables, source, FILENAME), arrays, machine("trn2"))


def main() -> None:
    """Entry point: `worker JOBS RESULTS CONTROL` (file descriptors)."""
    jobs, results, control = (int(a) for a in sys.argv[-3:])
    confinement.leave_network()
    serve(jobs, results, control)
