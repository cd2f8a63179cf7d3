"""Driving runs: resume, fork, cancel, abandonment, refusals and faults."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

from agent.budget import BudgetSpent
from agent.desk import Desk
from agent.events import RunFailed, RunFinished, RunRefused, RunStarted
from agent.policies.protocol import BeyondPolicy
from agent.refusal import unspecified
from agent.runs import Busy
from agent.state import Message, Proposal, RunRequest, RunState, StopReason
from agent.store import RunBusy, RunNotFound, UnreadableRun
from tests.agent.doubles import FakeClock, ListPolicy, fake_bench, judge, kernel, make_task
from tools.task import Budget, Evaluation, Kernel, Task
from tools.task_errors import RequestError

REQUEST = RunRequest(request="double x")


def wait_until(true: Callable[[], bool], seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.005)


class Gate:
    """A judge that stops in front of the kernel with this latency until it is let through."""

    def __init__(self, latency: float) -> None:
        self.mark = f"latency={latency}"
        self.reached = threading.Event()
        self.open = threading.Event()

    def __call__(self, candidate: Kernel, task: Task) -> Evaluation:
        if self.mark in candidate.source:
            self.reached.set()
            assert self.open.wait(10)
        return judge(candidate, task)


def test_a_finished_run_goes_on_with_a_larger_budget(make_runs) -> None:
    policy = ListPolicy([100.0, 90.0, 80.0, 70.0, 60.0], make_task("latency<=65us"))
    runs = make_runs(policy)
    run_id = runs.start(REQUEST.model_copy(update={"budget": Budget(attempts=2)}))
    first = list(runs.stream(run_id))
    assert first[-1].report.stop == StopReason.ATTEMPTS
    with pytest.raises(RequestError, match="--attempts 4"):
        runs.resume(run_id)
    runs.resume(run_id, Budget(attempts=10))
    rest = list(runs.stream(run_id, first[-1].seq))
    assert isinstance(rest[0], RunStarted)
    assert rest[0].resumed
    report = rest[-1].report
    assert report.goal_met
    assert report.attempts == 5
    assert [c.number for c in report.candidates] == [1, 2, 3, 4, 5]
    with pytest.raises(RequestError, match="finished"):
        runs.resume(run_id, Budget(attempts=20))


def test_cancelling_ends_after_the_present_step(make_runs) -> None:
    gate = Gate(90.0)
    policy = ListPolicy([100.0, 90.0, 80.0], make_task("latency<=10us"))
    runs = make_runs(policy, fake_bench(gate), grace_seconds=60.0)
    run_id = runs.start(REQUEST)
    assert gate.reached.wait(10)
    runs.cancel(run_id)
    gate.open.set()
    report = list(runs.stream(run_id))[-1].report
    assert report.stop == StopReason.CANCELLED
    assert report.latency_us == 90.0
    runs.resume(run_id)
    assert list(runs.stream(run_id))[-1].report.latency_us == 80.0


def test_a_second_cancellation_does_not_wait(make_runs) -> None:
    gate = Gate(90.0)
    interrupted = threading.Event()
    bench = fake_bench(gate)
    bench = type(bench)(evaluate=gate, check_task=bench.check_task, interrupt=interrupted.set)
    runs = make_runs(ListPolicy([100.0, 90.0], make_task("latency<=10us")), bench, grace_seconds=3600.0)
    run_id = runs.start(REQUEST)
    assert gate.reached.wait(10)
    runs.cancel(run_id)
    runs.cancel(run_id)
    report = list(runs.stream(run_id))[-1].report
    assert interrupted.is_set()
    assert report.stop == StopReason.CANCELLED
    assert report.latency_us == 100.0
    before = len(runs.store.events(run_id))
    gate.open.set()
    time.sleep(0.1)
    assert len(runs.store.events(run_id)) == before, "an abandoned step says nothing more"


def test_a_step_that_outlives_the_time_budget_is_abandoned(make_runs, clock: FakeClock) -> None:
    gate = Gate(90.0)
    policy = ListPolicy([100.0, 90.0], make_task("latency<=10us"))
    runs = make_runs(policy, fake_bench(gate), grace_seconds=5.0)
    run_id = runs.start(REQUEST.model_copy(update={"budget": Budget(seconds=60.0)}))
    assert gate.reached.wait(10)
    clock.advance(66.0)
    report = list(runs.stream(run_id))[-1].report
    gate.open.set()
    assert report.stop == StopReason.SECONDS
    assert report.latency_us == 100.0
    assert runs.row(run_id).status == "done"
    runs.resume(run_id, Budget(seconds=600.0))
    assert list(runs.stream(run_id))[-1].report.latency_us == 90.0


def test_time_spent_before_an_interruption_counts(make_runs, clock: FakeClock) -> None:
    policy = ListPolicy([100.0, 90.0], make_task("latency<=95us"))

    def fault(state: RunState, desk: Desk) -> Proposal:
        clock.advance(30.0)
        policy.steps[1] = 90.0
        raise ZeroDivisionError("a fault of ours")

    policy.steps[1] = fault
    runs = make_runs(policy)
    run_id = runs.start(REQUEST)
    with pytest.raises(ZeroDivisionError):
        list(runs.stream(run_id))
    failed = runs.store.events(run_id)[-1]
    assert isinstance(failed, RunFailed)
    assert run_id in failed.message
    assert runs.row(run_id).status == "failed"
    runs.resume(run_id)
    report = list(runs.stream(run_id, failed.seq))[-1].report
    assert report.goal_met
    assert report.attempts == 2
    assert report.seconds == 30.0
    assert policy.asked.count("draft") == 1, "what was done is not done again"


def test_a_kernel_judged_inside_a_step_survives_the_step(make_runs) -> None:
    """A model's own evaluation is kept when its step never ends."""
    policy = ListPolicy([100.0, None], make_task("latency<=10us"))

    def trial_then_fault(state: RunState, desk: Desk) -> Proposal | None:
        tried = desk.journal.propose(Proposal(kernel=kernel(50.0), change="trial", parents=(1,)))
        assert state.task is not None
        desk.judge(tried, state.task)
        raise BudgetSpent(StopReason.TOKENS)

    policy.steps[1] = trial_then_fault
    runs = make_runs(policy)
    report = list(runs.stream(runs.start(REQUEST)))[-1].report
    assert report.stop == StopReason.TOKENS
    assert report.latency_us == 50.0
    assert report.attempts == 2


def test_a_refused_request_is_one_sentence_and_cannot_be_resumed(make_runs) -> None:
    policy = ListPolicy([])

    def refuse(request: RunRequest, desk: Desk) -> Task:
        raise RequestError("the shapes contradict each other; write x 4x8, w 8x2")

    policy.specify = refuse  # type: ignore[method-assign]
    runs = make_runs(policy)
    run_id = runs.start(REQUEST)
    last = list(runs.stream(run_id))[-1]
    assert isinstance(last, RunRefused)
    assert last.kind == "input"
    assert last.message == "the shapes contradict each other; write x 4x8, w 8x2"
    assert runs.row(run_id).status == "refused"
    with pytest.raises(RequestError, match="was refused"):
        runs.resume(run_id)


def test_what_is_beyond_a_policy_is_refused_as_such(make_runs) -> None:
    runs = make_runs(ListPolicy([BeyondPolicy("sorting is beyond the offline policy")]))
    last = list(runs.stream(runs.start(REQUEST)))[-1]
    assert isinstance(last, RunRefused)
    assert last.kind == "beyond"


def test_cancelled_before_the_request_is_understood(make_runs) -> None:
    policy = ListPolicy([100.0])
    reached, release = threading.Event(), threading.Event()

    def slow(request: RunRequest, desk: Desk) -> Task:
        reached.set()
        assert release.wait(10)
        desk.meter.check()
        raise AssertionError("the run was cancelled")

    policy.specify = slow  # type: ignore[method-assign]
    runs = make_runs(policy, grace_seconds=60.0)
    run_id = runs.start(REQUEST)
    assert reached.wait(10)
    runs.cancel(run_id)
    wait_until(lambda: bool(runs._live) and runs._live[run_id].cancel.is_set())
    time.sleep(0.15)
    release.set()
    last = list(runs.stream(run_id))[-1]
    assert isinstance(last, RunRefused)
    assert last.kind == "cancelled"


def test_a_fork_with_another_task_keeps_the_conversation_and_the_seed(make_runs) -> None:
    runs = make_runs(ListPolicy([100.0], make_task("latency<=100us")))
    old = runs.start(REQUEST)
    list(runs.stream(old))
    task = make_task("latency<=100us", target="trn3")
    new = runs.fork(old, REQUEST, task=task, messages=[Message(role="user", text="now for trn3")])
    report = list(runs.stream(new))[-1].report
    state = runs.state(new)
    assert report.target == "trn3"
    assert report.attempts == 1
    assert state.seed == kernel(100.0, "number 1")
    assert [m.text for m in state.messages] == ["now for trn3"]
    assert runs.row(new).parent == old


def test_a_fork_of_the_same_task_keeps_its_candidates(make_runs) -> None:
    policy = ListPolicy([100.0, 90.0, 80.0, 70.0])
    runs = make_runs(policy, polish_attempts=1)
    old = runs.start(REQUEST)
    assert list(runs.stream(old))[-1].report.latency_us == 90.0
    new = runs.fork(old, REQUEST)
    report = list(runs.stream(new))[-1].report
    assert report.latency_us == 80.0
    assert report.attempts == 1
    assert [c.number for c in report.candidates] == [1, 2, 3]


def test_unknown_and_busy_runs(make_runs) -> None:
    gate = Gate(100.0)
    runs = make_runs(ListPolicy([100.0]), fake_bench(gate))
    with pytest.raises(RunNotFound, match="kernelwright runs"):
        runs.state("nothing")
    run_id = runs.start(REQUEST)
    assert gate.reached.wait(10)
    assert runs.row(run_id).status == "running"
    with pytest.raises(RunBusy):
        runs.resume(run_id)
    gate.open.set()
    list(runs.stream(run_id))


def test_runs_wait_for_a_free_slot_and_the_queue_has_an_end(make_runs) -> None:
    gate = Gate(100.0)
    policy = ListPolicy([100.0], make_task("latency<=100us"))
    runs = make_runs(policy, fake_bench(gate), parallel_runs=1, max_queued=1)
    first = runs.start(REQUEST)
    assert gate.reached.wait(10)
    second = runs.start(REQUEST)
    assert runs.row(second).status == "queued"
    with pytest.raises(Busy):
        runs.start(REQUEST)
    gate.open.set()
    assert isinstance(list(runs.stream(first))[-1], RunFinished)
    assert isinstance(list(runs.stream(second))[-1], RunFinished)


def test_old_checkpoints_are_dropped(make_runs) -> None:
    runs = make_runs(ListPolicy([100.0 - i for i in range(10)], make_task("latency<=1us")))
    run_id = runs.start(REQUEST)
    list(runs.stream(run_id))
    wait_until(lambda: runs.row(run_id).status == "done" and run_id not in runs._live)
    rows = runs._saver.conn.execute("SELECT COUNT(*) FROM checkpoints WHERE thread_id = ?", (run_id,)).fetchone()
    assert rows == (1,)
    assert runs.state(run_id).task is not None


def test_a_run_of_another_version_is_told_and_hides_no_other(make_runs) -> None:
    runs = make_runs(ListPolicy([100.0], make_task("latency<=100us")))
    old, new = (runs.start(REQUEST) for _ in range(2))
    for run_id in (old, new):
        list(runs.stream(run_id))
    with runs.store._write() as db:
        db.execute('UPDATE events SET json = \'{"type": "finished"}\' WHERE run_id = ?', (old,))
    with pytest.raises(UnreadableRun, match="another version"):
        runs.report(old)
    assert runs.report(new) is not None
    with runs.store._write() as db:
        db.execute("UPDATE runs SET request = '{\"wish\": 1}' WHERE run_id = ?", (old,))
    assert [row.run_id for row in runs.rows()] == [new]


def test_time_spent_in_a_reference_names_the_reference() -> None:
    asked = RunRequest(request="x 4x4", reference_source="def f(x): ...", reference_function="f")
    assert "the reference 'f' had not returned" in unspecified(asked, StopReason.SECONDS)
    assert "the reference" not in unspecified(RunRequest(request="softmax x 4x4"), StopReason.SECONDS)
