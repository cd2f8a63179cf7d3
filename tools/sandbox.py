"""The parent side of the sandbox: hands jobs to a worker process and turns what comes back into values or typed failures.

The parent never loads foreign source. It holds the clock, the limits and the kill switch, and trusts nothing that a job
sends: sizes are capped, tables are checked.
"""

from __future__ import annotations

import atexit
import os
import secrets
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tools import wire
from tools.confinement import Limits
from tools.generate.estimate import Estimate
from tools.program import Malformed, Program
from tools.task import Finding, TensorSpec

ROOT = Path(__file__).resolve().parent.parent
_BOOT = "import sys; sys.path.insert(0, sys.argv[1]); from tools.worker import main; main()"
_START_SECONDS = 60.0
_SETTLE_SECONDS = 5.0

FailureKind = Literal["timeout", "memory", "crashed", "output", "kernel", "unsupported", "request", "beyond", "stopped"]

_SPECIFIC_FIX = {
    "timeout": "check the loop bounds",
    "memory": "allocate less; reuse tiles instead of keeping all of them",
}


class JobFailed(Exception):
    """A job ended without a value, and not by a fault of ours.

    Attributes:
        kind: what happened; `kernel` and `request` blame the source, `unsupported` our simulator.
        message: one sentence.
        finding: the kernel's fault as a finding, when `kind` is `kernel`.
    """

    def __init__(self, kind: FailureKind, message: str, finding: Finding | None = None) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message
        self.finding = finding


class WorkerFault(RuntimeError):
    """The worker broke in a way that no kernel is to blame for: a bug of ours."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What a job gave: plain JSON values, arrays, and the head of what it printed."""

    values: dict[str, Any]
    arrays: list[NDArray[Any]]
    printed: str = ""


@dataclass(frozen=True, slots=True)
class Recorded:
    """A kernel's instructions and the findings from recording them."""

    program: Program
    header: dict[str, Any]
    tables: list[NDArray[Any]]
    findings: tuple[Finding, ...]
    printed: str


class Worker:
    """One worker process, started when first needed. A context manager; usable from one thread at a time.

    Args:
        limits: what a job may use when the call doesn't say otherwise.
    """

    def __init__(self, limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        self._process: subprocess.Popen[bytes] | None = None
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._jobs = self._results = self._control = -1
        self._lock = threading.Lock()
        self._running: int | None = None
        self._ending = ""
        self._ready = False
        self._sitting = False
        self._stop = False

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- jobs --------------------------------------------------------------------------------------------------------

    def lint(self, source: str, strict: bool = False) -> tuple[Finding, ...]:
        """Findings about kernel source that is not run; `strict` adds the compiler's rules of its dialect."""
        reply = self.run({"job": "lint", "source": source, "strict": strict}, what="the check")
        return tuple(Finding(**f) for f in reply.values["findings"])

    def record(
        self,
        source: str,
        function: str,
        inputs: Sequence[Mapping[str, Any]],
        target: str,
        *,
        arrays: Sequence[NDArray[Any]] | None = None,
        limits: Limits | None = None,
        max_instructions: int = 2_000_000,
    ) -> Recorded:
        """Run kernel source and write down its instructions.

        Args:
            inputs: `shape` and `dtype` of each argument.
            arrays: values, for a kernel whose control flow depends on them; None: shapes only.

        Raises:
            JobFailed: kernel, unsupported, timeout, memory, output, crashed, stopped.
        """
        job = {
            "job": "record", "source": source, "function": function, "target": target, "data": arrays is not None,
            "inputs": [{"shape": list(s["shape"]), "dtype": s["dtype"]} for s in inputs],
            "max_instructions": max_instructions,
        }  # fmt: skip
        reply = self.run(job, arrays or (), limits=limits, what="the kernel")
        try:
            header = reply.values["program"]
            found = Program.unpack(header, reply.arrays, source, "kernel.py")
            findings = tuple(Finding(**f) for f in reply.values["findings"])
        except (Malformed, KeyError, TypeError, ValueError) as error:
            raise _tampered(str(error)) from error
        return Recorded(found, header, reply.arrays, findings, reply.printed)

    def replay(
        self,
        recorded: Recorded,
        source: str,
        draws: Sequence[Sequence[NDArray[Any]]],
        runs: Sequence[tuple[int, int]],
        limits: Limits | None = None,
    ) -> list[tuple[list[NDArray[Any]], tuple[Finding, ...]]]:
        """Carry out recorded instructions in a process that never saw the kernel's source run.

        Args:
            draws: sets of inputs.
            runs: (draw, byte that fills memory which was never written) of each run.

        Returns:
            For each run its outputs and the findings that values brought to light.

        Raises:
            JobFailed: see `record`.
        """
        job = {
            "job": "replay", "program": recorded.header, "tables": len(recorded.tables), "source": source,
            "inputs": len(draws[0]) if draws else 0, "runs": [list(r) for r in runs],
        }  # fmt: skip
        arrays = [*recorded.tables, *(a for draw in draws for a in draw)]
        reply = self.run(job, arrays, limits=limits, what="the kernel")
        found = []
        rest = reply.arrays
        for run in reply.values["runs"]:
            found.append((rest[: run["outputs"]], tuple(Finding(**f) for f in run["findings"])))
            rest = rest[run["outputs"] :]
        return found

    def direct(
        self,
        source: str,
        function: str,
        arrays: Sequence[NDArray[Any]],
        target: str,
        poison: int,
        limits: Limits | None = None,
        max_instructions: int = 2_000_000,
    ) -> tuple[Program, list[NDArray[Any]], tuple[Finding, ...]]:
        """Run kernel source on values in one confined process, for kernels whose record is opaque.

        Returns:
            The trace (as a program without steps), the outputs, and the findings.

        Raises:
            JobFailed: see `record`.
        """
        job = {
            "job": "direct", "source": source, "function": function, "target": target, "poison": poison,
            "max_instructions": max_instructions,
        }  # fmt: skip
        reply = self.run(job, arrays, limits=limits, what="the kernel")
        try:
            count = int(reply.values["tables"])
            found = Program.unpack(reply.values["program"], reply.arrays[:count], source, "kernel.py")
            findings = tuple(Finding(**f) for f in reply.values["findings"])
        except (Malformed, KeyError, TypeError, ValueError) as error:
            raise _tampered(str(error)) from error
        return found, reply.arrays[count:], findings

    def reference(
        self,
        source: str,
        function: str,
        draws: Sequence[Sequence[NDArray[Any]]],
        precision: str = "float64",
        limits: Limits | None = None,
    ) -> list[list[NDArray[Any]]]:
        """Outputs of a NumPy reference for each set of inputs, floats computed in `precision`.

        Raises:
            JobFailed: request, timeout, memory, output, crashed, stopped.
        """
        job = {
            "job": "reference", "source": source, "function": function, "precision": precision,
            "inputs": len(draws[0]) if draws else 0,
        }  # fmt: skip
        reply = self.run(job, [a for draw in draws for a in draw], limits=limits, what="the reference")
        found = []
        rest = reply.arrays
        for count in reply.values["draws"]:
            found.append(rest[:count])
            rest = rest[count:]
        return found

    def trace(
        self, source: str, function: str, inputs: Sequence[Mapping[str, Any]], limits: Limits | None = None
    ) -> dict[str, Any]:
        """Operator graph of a reference (`tools.generate.graph.Graph.from_json` reads it).

        Args:
            inputs: `name`, `shape` and `dtype` of each input.

        Raises:
            JobFailed: beyond (it can't be traced), request, timeout, memory, crashed, stopped.
        """
        specs = [{"name": s["name"], "shape": list(s["shape"]), "dtype": s["dtype"]} for s in inputs]
        job = {"job": "trace", "source": source, "function": function, "inputs": specs}
        graph = self.run(job, limits=limits, what="the reference").values["graph"]
        if not isinstance(graph, dict):
            raise WorkerFault("the worker sent no graph")
        return graph

    def estimate(
        self,
        sources: Sequence[str],
        inputs: Sequence[TensorSpec],
        target: str,
        limits: Limits | None = None,
    ) -> list[Estimate]:
        """Simulated times, without data, of candidates that one author wrote: they share one confined process.

        They are for ranking only; the judge computes time from a record of its own.

        Raises:
            JobFailed: timeout, memory, output, crashed, stopped; any of the sources may be the cause.
        """
        job = {
            "job": "estimate", "sources": list(sources), "target": target,
            "inputs": [{"shape": list(s.shape), "dtype": s.dtype} for s in inputs],
        }  # fmt: skip
        reply = self.run(job, limits=limits, what="the kernel")
        try:
            found = [Estimate(None if us is None else float(us), str(why)) for us, why in reply.values["estimates"]]
        except (KeyError, TypeError, ValueError) as error:
            raise _tampered(str(error)) from error
        if len(found) != len(sources):
            raise _tampered(f"{len(found)} estimates of {len(sources)} kernels")
        return found

    def walls(self) -> tuple[str, ...]:
        """What confines a job on this machine."""
        return tuple(self.run({"job": "walls"}, what="the worker").values["walls"])

    # -- the process -------------------------------------------------------------------------------------------------

    def run(
        self, job: dict[str, Any], arrays: Sequence[NDArray[Any]] = (), *, limits: Limits | None = None, what: str
    ) -> Reply:
        """Run one job.

        Args:
            what: who is running, as the subject of failure sentences.

        Raises:
            JobFailed: it ended without a value.
            WorkerFault: a bug of ours.
        """
        bounds = limits or self.limits
        with self._lock:
            if not self._sitting:
                self._stop = False
            elif self._stop:
                raise JobFailed("stopped", "the judge was asked to stop")
            self._ensure()
            self._settle()
            nonce = secrets.token_hex(16)
            try:
                wire.send(self._jobs, {**job, "nonce": nonce, "limits": asdict(bounds)}, arrays)
                started = wire.receive(self._control, 0, deadline=time.monotonic() + _START_SECONDS)
            except (BrokenPipeError, wire.Closed, wire.Late) as error:
                self._shut()
                raise WorkerFault(f"the worker process is gone ({error})") from error
            pid = int(started.header["started"])
            self._running = pid
            if self._stop:  # asked for while the worker was starting
                _kill(pid)
            try:
                return self._await(pid, nonce, bounds, what)
            finally:
                self._running = None

    @contextmanager
    def sitting(self) -> Iterator[Worker]:
        """Jobs that belong together: an interruption ends the running one and refuses those that follow."""
        outer, self._sitting = self._sitting, True
        if not outer:
            self._stop = False
        try:
            yield self
        finally:
            self._sitting = outer

    def interrupt(self) -> None:
        """Make the running job, and the sitting that it belongs to, end now; they fail as `stopped`."""
        pid = self._running
        self._stop = pid is not None or self._sitting
        if pid is not None:
            _kill(pid)

    def close(self) -> None:
        """End the worker process."""
        with self._lock:
            self._shut()

    def _await(self, pid: int, nonce: str, limits: Limits, what: str) -> Reply:
        deadline = time.monotonic() + limits.seconds
        problem: JobFailed | None = None
        frame: wire.Frame | None = None
        try:
            frame = wire.receive(self._results, limits.result_bytes, deadline=deadline, ended=self._has_ended)
        except wire.Late:
            problem = JobFailed(
                "timeout", f"{what} did not finish within {limits.seconds:g} s; {_SPECIFIC_FIX['timeout']}"
            )
        except wire.TooLarge as error:
            problem = JobFailed("output", f"{what} sent too much: {error}")
        except wire.Closed:
            pass
        except wire.WireError as error:
            problem = _tampered(str(error))
        _kill(pid)
        self._ending = nonce
        # The exit code only matters where there is no answer; otherwise the next job waits for the end, not this one.
        code = self._settle() if frame is None else 0
        if self._stop:
            raise JobFailed("stopped", "the judge was asked to stop")
        if problem is not None:
            raise problem
        if frame is None:
            raise _died(code, what, limits)
        if frame.header.get("nonce") != nonce:
            raise _tampered("its answer isn't to the question asked")
        return _reply(frame, what, limits)

    def _has_ended(self) -> bool:
        return bool(select.select([self._control], [], [], 0)[0])

    def _settle(self) -> int:
        """Wait for the end of the job before; nothing that it still sent is left for the next one. Returns its status."""
        nonce, self._ending = self._ending, ""
        if not nonce:
            return 0
        code = self._ended(nonce)
        self._drain()
        return code

    def _ended(self, nonce: str) -> int:
        try:
            frame = wire.receive(self._control, 0, deadline=time.monotonic() + _SETTLE_SECONDS)
        except (wire.WireError, wire.Late) as error:
            self._shut()
            raise WorkerFault(f"the worker process doesn't answer ({type(error).__name__})") from error
        if frame.header.get("nonce") != nonce:
            self._shut()
            raise WorkerFault("the worker process is out of step")
        return int(frame.header["ended"])

    def _drain(self) -> None:
        while select.select([self._results], [], [], 0)[0]:
            if not os.read(self._results, 1 << 20):
                return

    def start(self) -> None:
        """Start the process without waiting until it is ready; the first job does."""
        with self._lock:
            self._launch()

    @property
    def ready(self) -> bool:
        """Whether a job would begin at once."""
        return self._process is not None and (self._ready or bool(select.select([self._control], [], [], 0)[0]))

    def _ensure(self) -> None:
        self._launch()
        if self._ready:
            return
        try:
            wire.receive(self._control, 0, deadline=time.monotonic() + _START_SECONDS)
        except (wire.WireError, wire.Late) as error:
            process = self._process
            assert process is not None
            process.kill()
            said = process.stderr.read().decode(errors="replace").strip() if process.stderr else ""
            self._shut()
            raise WorkerFault(f"the worker process doesn't start: {said or error}") from error
        self._ready = True

    def _launch(self) -> None:
        if self._process is not None and self._process.poll() is None:
            return
        self._shut()
        job_read, self._jobs = wire.pipe()
        self._results, result_write = wire.pipe()
        self._control, control_write = os.pipe()
        self._folder = tempfile.TemporaryDirectory(prefix="kernelwright-", ignore_cleanup_errors=True)
        environment = {
            "PATH": "/usr/bin:/bin",
            "LANG": "C.UTF-8",
            "HOME": self._folder.name,
            "TMPDIR": self._folder.name,
            # Tiles are small: more threads cost more than they bring, above all on a busy machine.
            "OPENBLAS_NUM_THREADS": "1",
            "OMP_NUM_THREADS": "1",
            "MKL_NUM_THREADS": "1",
        }
        environment.update({k: os.environ[k] for k in ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH") if k in os.environ})
        ends = (job_read, result_write, control_write)
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-c", _BOOT, str(ROOT), *map(str, ends)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                cwd=self._folder.name,
                env=environment,
                pass_fds=ends,
                start_new_session=True,
            )
        finally:
            for fd in ends:
                os.close(fd)

    def _shut(self) -> None:
        for fd in (self._jobs, self._results, self._control):
            if fd >= 0:
                os.close(fd)
        self._jobs = self._results = self._control = -1
        self._ending, self._ready = "", False
        process, self._process = self._process, None
        if process is not None:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            if process.stderr:
                process.stderr.close()
            process.wait()
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None


def _kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def _tampered(detail: str) -> JobFailed:
    message = f"the kernel's process sent an answer that no kernel can produce ({detail})"
    finding = Finding(code="KW-TAMPERED", message=message, fix="work on the arguments with nki instructions only")
    return JobFailed("kernel", message, finding)


def _died(code: int, what: str, limits: Limits) -> JobFailed:
    if os.WIFSIGNALED(code):
        number = os.WTERMSIG(code)
        if number == signal.SIGXCPU:
            return JobFailed("timeout", f"{what} used more processor time than {limits.seconds:g} s allow")
        if number == signal.SIGKILL:
            return JobFailed("memory", f"{what} was killed by the system, most likely for want of memory")
        name = signal.Signals(number).name
        return JobFailed(
            "crashed", f"the process that ran {what} died of {name}; look for runaway recursion or huge arrays"
        )
    return JobFailed(
        "crashed", f"the process that ran {what} ended without an answer (exit status {os.WEXITSTATUS(code)})"
    )


def _reply(frame: wire.Frame, what: str, limits: Limits) -> Reply:
    values = frame.header
    status = values.get("status")
    message = str(values.get("message", ""))[:4000]
    if status == "value":
        return Reply(values, frame.arrays, str(values.get("printed", "")))
    if status == "kernel":
        try:
            finding = Finding(**values["finding"])
        except (KeyError, TypeError, ValueError) as error:
            raise _tampered(f"malformed finding: {error}") from error
        raise JobFailed("kernel", str(finding), finding)
    if status == "unsupported":
        raise JobFailed("unsupported", message)
    if status == "beyond":
        raise JobFailed("beyond", message)
    if status == "request":
        raise JobFailed("request", message)
    if status == "malformed":
        raise _tampered(message)
    if status == "output":
        raise JobFailed("output", f"{what} was stopped: {message}; remove the print statements")
    if status == "memory":
        gib = limits.memory_bytes / (1 << 30)
        raise JobFailed("memory", f"{what} needs more than {gib:g} GiB of memory; {_SPECIFIC_FIX['memory']}")
    blamed = {
        "recursion": ("KW-RECURSION", f"{what} recurses without end", "bound the recursion or write a loop"),
        "exit": ("KW-EXIT", f"{what} tried to end its process ({message})", "return from the function instead"),
        "refused": ("KW-FORBIDDEN", message, "work on the arguments only; no files, processes or network"),
    }
    if status in blamed:
        code, text, fix = blamed[str(status)]
        if what == "the reference":
            raise JobFailed("request", f"{text}; {fix}")
        raise JobFailed("kernel", text, Finding(code=code, message=text, fix=fix))
    if status == "fault":
        raise WorkerFault(f"a bug of ours, not of {what}:\n{message}")
    raise _tampered(f"status {status!r}")


class Pool:
    """Workers that threads share; each call takes one and gives it back."""

    def __init__(self, size: int = max(2, os.cpu_count() or 1)) -> None:
        self._size = size
        self._idle: list[Worker] = []
        self._all: list[Worker] = []
        self._changed = threading.Condition()

    @contextmanager
    def worker(self) -> Iterator[Worker]:
        """A worker of this pool, for this thread only; waits while all are busy."""
        taken = self._take()
        try:
            yield taken
        finally:
            with self._changed:
                self._idle.append(taken)
                self._changed.notify()

    def _take(self) -> Worker:
        with self._changed:
            while not self._idle:
                if len(self._all) < self._size:
                    self._all.append(Worker())
                    return self._all[-1]
                self._changed.wait()
            at = next((i for i in reversed(range(len(self._idle))) if self._idle[i].ready), len(self._idle) - 1)
            return self._idle.pop(at)

    def start(self) -> None:
        """Start all workers without waiting until they are ready; those that are warm are given out first."""
        with self._changed:
            while len(self._all) < self._size:
                fresh = Worker()
                fresh.start()
                self._all.append(fresh)
                self._idle.append(fresh)
                self._changed.notify()

    def estimate(
        self, sources: Sequence[str], inputs: Sequence[TensorSpec], target: str, limits: Limits | None = None
    ) -> list[Estimate]:
        """Simulated times of candidates, all warm workers at once (see `Worker.estimate`).

        Workers that aren't there yet are started for the batches to come. A candidate that takes its process down is told
        apart from those beside it: each of them then gets a process of its own.

        Raises:
            JobFailed: stopped.
        """
        self.start()
        with self._changed:
            warm = sum(w.ready for w in self._idle)
        count = max(1, min(warm, len(sources)))
        shares = [range(i, len(sources), count) for i in range(count)]
        found: list[Estimate | None] = [None] * len(sources)

        def work(share: range) -> None:
            for i, estimate in zip(share, self._estimated([sources[i] for i in share], inputs, target, limits)):
                found[i] = estimate

        if len(shares) < 2:
            return self._estimated(sources, inputs, target, limits)
        with ThreadPoolExecutor(len(shares)) as threads:
            list(threads.map(work, shares))
        return [e for e in found if e is not None]

    def _estimated(
        self, sources: Sequence[str], inputs: Sequence[TensorSpec], target: str, limits: Limits | None
    ) -> list[Estimate]:
        try:
            with self.worker() as worker:
                return worker.estimate(sources, inputs, target, limits)
        except JobFailed as failure:
            if failure.kind == "stopped":
                raise
            if len(sources) == 1:
                return [Estimate(None, failure.message)]
        return [e for source in sources for e in self._estimated([source], inputs, target, limits)]

    def interrupt(self) -> None:
        """Make all running jobs end now."""
        for worker in list(self._all):
            worker.interrupt()

    def close(self) -> None:
        """End all workers."""
        for worker in list(self._all):
            worker.interrupt()
            worker.close()


class Lease:
    """One run's use of a pool: it can end its own jobs without touching those of others."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._held: set[Worker] = set()
        self._lock = threading.Lock()

    @contextmanager
    def worker(self) -> Iterator[Worker]:
        """A worker for this thread, for jobs that belong together."""
        with self._pool.worker() as worker, worker.sitting():
            with self._lock:
                self._held.add(worker)
            try:
                yield worker
            finally:
                with self._lock:
                    self._held.discard(worker)

    def interrupt(self) -> None:
        """Make the jobs of this lease end now; they fail as `stopped`."""
        with self._lock:
            for worker in self._held:
                worker.interrupt()


POOL = Pool()
"""The process's own workers."""

atexit.register(POOL.close)


@contextmanager
def borrowed(worker: Worker | None) -> Iterator[Worker]:
    """`worker`, or one of the shared pool."""
    if worker is not None:
        with worker.sitting():
            yield worker
    else:
        with POOL.worker() as shared, shared.sitting():
            yield shared


def rounded(values: NDArray[Any], dtype: str) -> NDArray[Any]:
    """`values` stored as `dtype`."""
    with np.errstate(over="ignore", invalid="ignore"):
        return values.astype(wire.storage_type(dtype))
