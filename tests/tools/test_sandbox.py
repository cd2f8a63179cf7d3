"""The sandbox: every way that foreign source can misbehave gives one typed failure, and the next job runs as if nothing was."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.tools.tasks import ADD_KERNEL, HEAD
from tools import sandbox, wire
from tools.confinement import Limits
from tools.generate.estimate import one_by_one
from tools.sandbox import JobFailed, Lease, Pool, Worker, WorkerFault
from tools.sim import load_source, simulate
from tools.task import TensorSpec

SPECS = [{"name": "x", "shape": (192, 96), "dtype": "float32"}] * 2
SHORT = Limits(seconds=1.5, memory_bytes=512 << 20)


def record(worker: Worker, body: str, head: str = HEAD, limits: Limits = SHORT) -> object:
    return worker.record(head + body, "kernel", SPECS, "trn2", limits=limits)


@pytest.mark.parametrize(
    ("body", "kind", "says"),
    [
        ("def kernel(x, y):\n    while True: pass", "timeout", "did not finish within 1.5 s"),
        ("def kernel(x, y):\n    kept = []\n    while True: kept.append(bytes(1 << 20))", "memory", "0.5 GiB"),
        ("import numpy as np\ndef kernel(x, y):\n    return np.ones(1 << 40)", "memory", "0.5 GiB"),
        ("def kernel(x, y):\n    return 'x' * (1 << 40)", "memory", "0.5 GiB"),
        ("def kernel(x, y):\n    while True: print('x' * 1000)", "output", "printed more than"),
        ("print('x' * (1 << 22))\ndef kernel(x, y): pass", "output", "printed more than"),
        ("def kernel(x, y):\n    raise SystemExit", "kernel", "end its process"),
        ("def kernel(x, y):\n    raise KeyboardInterrupt", "kernel", "end its process"),
        ("class Odd(BaseException): pass\ndef kernel(x, y):\n    raise Odd", "kernel", "end its process"),
        ("def kernel(x, y):\n    return kernel(x, y)", "kernel", "recursion"),
        ("def kernel(x, y):\n    return [[]] * 3 + [x.nothing]", "kernel", "AttributeError"),
        ("import os\ndef kernel(x, y): pass", "kernel", "may not import 'os'"),
        ("import numpy as np\ndef kernel(x, y):\n    return np.load('/etc/passwd')", "kernel", "no attribute 'load'"),
        ("def kernel(x, y):\n    return open('/etc/passwd').read()", "kernel", "may not use open"),
        ("def kernel(x, y):\n    return nl.shared_constant('/etc/passwd')", "kernel", "open ('/etc/passwd')"),
    ],
)  # fmt: skip
def test_misbehaviour_is_one_typed_failure(worker: Worker, body: str, kind: str, says: str) -> None:
    with pytest.raises(JobFailed) as caught:
        record(worker, body)
    assert caught.value.kind == kind
    assert says in caught.value.message
    assert "\n" not in caught.value.message
    assert (caught.value.finding is not None) == (kind == "kernel")
    assert worker.record(ADD_KERNEL.source, "kernel", SPECS, "trn2").findings == ()


def test_jobs_leave_nothing_for_the_next(worker: Worker) -> None:
    body = "import math\nmath.pi = 3\nnl.add = nl.multiply\ndef kernel(x, y):\n    return x"
    record(worker, body)
    made = "import math\ndef kernel(x, y):\n    assert math.pi > 3.14 and nl.add is not nl.multiply\n    return x"
    assert record(worker, made) is not None


def test_what_a_kernel_prints_is_kept_apart(worker: Worker, capfd: pytest.CaptureFixture[str]) -> None:
    found = worker.record(HEAD + "def kernel(x, y):\n    print('hello')\n    return x", "kernel", SPECS, "trn2")
    assert found.printed == "hello\n"
    assert capfd.readouterr() == ("", "")


def test_a_replay_equals_a_direct_run(worker: Worker) -> None:
    values = [np.random.default_rng(1).standard_normal((192, 96)).astype(np.float32) for _ in range(2)]
    found = worker.record(ADD_KERNEL.source, "kernel", SPECS, "trn2")
    (outputs, findings), *_ = worker.replay(found, ADD_KERNEL.source, [values], [(0, 0xFF)])
    direct = simulate(load_source(ADD_KERNEL.source), *values)
    assert findings == ()
    assert np.array_equal(outputs[0], direct.outputs[0])
    assert np.array_equal(found.program.trace.instructions, direct.trace.instructions)
    assert np.array_equal(found.program.trace.operands, direct.trace.operands)


def test_references_run_in_the_asked_precision(worker: Worker) -> None:
    source = "def reference(x):\n    return x.astype(x.dtype), (x * 0 + x.dtype.itemsize)"
    x = np.ones((2, 2), np.float32)
    assert worker.reference(source, "reference", [[x]], "float64")[0][1][0, 0] == 8
    assert worker.reference(source, "reference", [[x]], "float32")[0][1][0, 0] == 4


def test_references_may_not_use_files_or_foreign_packages(worker: Worker) -> None:
    for source, says in (
        ("import torch\ndef reference(x): return x", "imports 'torch'"),
        ("import numpy as np\ndef reference(x): return np.load('/tmp/x.npy')", "reaches outside"),
        ("import numpy as np\ndef reference(x): np.save('/tmp/x', x)", "reaches outside"),
    ):
        with pytest.raises(JobFailed, match=says) as caught:
            worker.reference(source, "reference", [[np.ones(3, np.float32)]])
        assert caught.value.kind == "request"


def test_a_trace_crosses_as_a_graph(worker: Worker) -> None:
    graph = worker.trace("import numpy as np\ndef reference(x, y):\n    return np.exp(x) + y", "reference", SPECS)
    assert [n["op"] for n in graph["nodes"]] == ["input", "input", "exp", "add"]
    with pytest.raises(JobFailed) as caught:
        worker.trace("import numpy as np\ndef reference(x, y):\n    return np.sort(x)", "reference", SPECS)
    assert caught.value.kind == "beyond"


def test_a_bug_of_ours_is_not_blamed_on_the_kernel(worker: Worker) -> None:
    with pytest.raises(WorkerFault, match="a bug of ours"):
        worker.run({"job": "no such job"}, what="the kernel")


def test_the_worker_comes_back_after_it_was_killed() -> None:
    with Worker(SHORT) as worker:
        worker.lint("x = 1")
        assert worker._process is not None
        worker._process.kill()
        worker._process.wait()
        assert worker.lint("x = 1") == ()


def children(worker: Worker) -> list[int]:
    assert worker._process is not None
    pid = worker._process.pid
    return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc")
def test_the_child_for_the_next_job_is_there_before_the_job() -> None:
    with Worker(SHORT) as worker:
        worker.lint("x = 1")
        worker._settle()
        (waiting,) = children(worker)
        started = []
        kill = sandbox._kill
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sandbox, "_kill", lambda pid: (started.append(pid), kill(pid)))
            worker.lint("x = 1")
        assert started == [waiting]
        worker._settle()
        assert len(children(worker)) == 1
        assert waiting not in children(worker)


@pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc")
def test_the_worker_comes_back_after_its_waiting_child_was_killed() -> None:
    with Worker(SHORT) as worker:
        worker.lint("x = 1")
        worker._settle()
        first = worker._process
        assert first is not None
        os.kill(children(worker)[0], 9)
        first.wait(timeout=10)
        assert worker.lint("x = 1") == ()
        assert worker._process is not first


def test_an_interruption_ends_the_running_job(worker: Worker) -> None:
    threading.Timer(0.4, worker.interrupt).start()
    started = time.monotonic()
    with pytest.raises(JobFailed) as caught:
        record(worker, "def kernel(x, y):\n    while True: pass", limits=Limits(seconds=30))
    assert caught.value.kind == "stopped"
    assert time.monotonic() - started < 10


def test_a_worker_outlives_the_thread_that_started_it(worker: Worker) -> None:
    with Worker(SHORT) as other:
        starter = threading.Thread(target=other.lint, args=("x = 1",))
        starter.start()
        starter.join()
        time.sleep(0.1)
        assert other._process is not None
        assert other._process.poll() is None
        assert other.lint("x = 1") == ()


def test_a_pool_serves_threads_side_by_side() -> None:
    pool = Pool(2)
    found: list[int] = []

    def work() -> None:
        with pool.worker() as hired:
            found.append(len(hired.record(ADD_KERNEL.source, "kernel", SPECS, "trn2").program.trace))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    pool.close()
    assert found == [8] * 4


INPUTS = [TensorSpec(name=name, shape=(192, 96), dtype="float32") for name in "xy"]
FOREVER = HEAD + "def kernel(x, y):\n    while True: pass"
HOSTILE = HEAD + "def kernel(x, y):\n    return open('/etc/passwd')"


@pytest.fixture
def pool() -> Iterator[Pool]:
    found = Pool(2)
    found.start()
    yield found
    found.close()


def test_candidates_are_timed_side_by_side_in_their_order(pool: Pool) -> None:
    padded = [f"{ADD_KERNEL.source}\n# {i}" for i in range(5)]
    sources = [padded[0], HEAD + "def kernel(x, y):\n    return x.no_such_thing", *padded[1:]]
    for _ in range(2):  # the second time both workers are there
        found = pool.estimate(sources, INPUTS, "trn2")
        alone = one_by_one(sources, INPUTS, "trn2")
        assert [e.latency_us for e in found] == [e.latency_us for e in alone]
        assert found[1].latency_us is None
        assert "no_such_thing" in found[1].reason


def test_a_candidate_that_takes_its_process_down_costs_the_others_nothing(pool: Pool) -> None:
    found = pool.estimate([ADD_KERNEL.source, FOREVER, ADD_KERNEL.source, HOSTILE], INPUTS, "trn2", SHORT)
    assert found[0].latency_us == found[2].latency_us
    assert found[0].latency_us is not None
    assert "did not finish within 1.5 s" in found[1].reason
    assert found[3].latency_us is None
    assert "open" in found[3].reason


def test_a_lease_ends_its_own_jobs_only(pool: Pool) -> None:
    mine, other = Lease(pool), Lease(pool)
    failed: list[str] = []

    def work() -> None:
        with mine.worker() as worker, pytest.raises(JobFailed) as caught:
            worker.record(FOREVER, "kernel", SPECS, "trn2", limits=Limits(seconds=30))
        failed.append(caught.value.kind)

    thread = threading.Thread(target=work)
    thread.start()
    with other.worker() as worker:
        time.sleep(0.5)
        mine.interrupt()
        thread.join(10)
        assert failed == ["stopped"]
        assert len(worker.record(ADD_KERNEL.source, "kernel", SPECS, "trn2").program.trace) == 8
    with mine.worker() as worker:  # what was ended is over: the lease goes on
        assert worker.lint("x = 1") == ()


@pytest.mark.parametrize("busy", [False, True])
def test_the_worker_ends_with_its_parent(busy: bool) -> None:
    job = "w.record('def kernel():\\n    while True: pass', 'kernel', [], 'trn2')" if busy else "0"
    code = (
        "import os, sys, threading, time\nsys.path.insert(0, sys.argv[1])\nfrom tools.sandbox import Worker\nw = Worker()\n"
        f"w.lint('x = 1')\nprint(w._process.pid, flush=True)\nthreading.Thread(target=lambda: {job}, daemon=True).start()\n"
        "time.sleep(0.5)\nos.kill(os.getpid(), 9)\n"
    )
    root = str(Path(__file__).resolve().parents[2])
    ran = subprocess.run([sys.executable, "-c", code, root], capture_output=True, text=True, check=False)
    pid = int(ran.stdout)
    for _ in range(100):
        state = Path(f"/proc/{pid}/stat")
        if not state.exists() or state.read_text().split()[2] in "ZX":
            return
        time.sleep(0.05)
    os.kill(pid, 9)
    pytest.fail("the worker outlived its parent")


@pytest.mark.skipif(sys.platform != "linux", reason="the system-call filter is Linux's")
def test_the_walls_of_this_machine_are_known(worker: Worker) -> None:
    assert {"resource limits", "audit hook"} <= set(worker.walls())


def test_frames_survive_the_wire_and_liars_do_not() -> None:
    import struct

    import ml_dtypes

    read, write = wire.pipe()
    sent = [np.arange(6, dtype=np.float32).reshape(2, 3), np.ones((4,), ml_dtypes.bfloat16), np.empty((0, 3), np.int64)]
    wire.send(write, {"a": 1}, sent)
    frame = wire.receive(read, 1 << 20)
    assert frame.header == {"a": 1}
    assert all(np.array_equal(a, b) and a.dtype == b.dtype for a, b in zip(sent, frame.arrays))
    for lie in (
        b"[]",
        b'{"arrays": [{"dtype": "object", "shape": [1]}]}',
        b'{"arrays": [{"dtype": "int8", "shape": [9]}]}',
        b"{",
    ):
        os.write(write, struct.pack("<QQ", len(lie), 0) + lie)
        with pytest.raises(wire.WireError):
            wire.receive(read, 1 << 20)
    os.write(write, struct.pack("<QQ", 2, 1 << 40))
    with pytest.raises(wire.TooLarge):
        wire.receive(read, 1 << 20)
    with pytest.raises(wire.Late):
        wire.receive(read, 1 << 20, deadline=time.monotonic() + 0.2)
    with pytest.raises(wire.WireError):
        wire.send(write, {}, [np.array([object()])])
    os.close(write)
    os.close(read)
