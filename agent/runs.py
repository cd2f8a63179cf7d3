"""The one way to drive work: start, stream, resume, fork, cancel. Every face is thin over this.

A run is worked on by a thread of its own. A second thread watches it, so that a step which outlives the time budget
or a cancellation is abandoned and the best kernel so far is reported all the same.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import NoReturn

from langchain_core.runnables import RunnableConfig
from langgraph.graph import START
from pydantic import ValidationError

from agent.bench import Benches, default_bench
from agent.budget import BudgetSpent, Clock, Meter, SystemClock
from agent.desk import Abandoned, Bench, Desk, Journal
from agent.events import FINAL, CandidateDrafted, Event, RunFailed, RunFinished, RunRefused, RunStarted
from agent.explain import answer_from_profile
from agent.graph import RunGraph, build_graph, forget_history, open_checkpoints
from agent.policies.factory import make_policy
from agent.policies.protocol import BeyondPolicy, Policy, PolicyFailed
from agent.report import Report, build_report
from agent.settings import Settings, SettingsError
from agent.state import Message, Phase, RunRequest, RunState, StopReason
from agent.store import RunBusy, RunRow, Store, UnreadableRun
from tools.task import Budget, Kernel, Task
from tools.task_errors import RequestError

_POLL_SECONDS = 0.05
"""How often the watcher looks at the clock. It ends at once when the work ends."""


class Busy(Exception):
    """Too many runs wait already."""


class _Live:
    """A run that this process works on."""

    def __init__(self, run_id: str) -> None:
        self.run_id = run_id
        self.cancel = threading.Event()
        self.hurry = threading.Event()
        """A second cancellation: don't wait for the step to end."""
        self.changed = threading.Condition()
        self.over = False
        self.error: BaseException | None = None
        self.meter: Meter | None = None
        self.thread = threading.Thread()

    def wake(self) -> None:
        """Tell the streams that there is something to read."""
        with self.changed:
            self.changed.notify_all()


class Runs:
    """The runs of one data directory, and the threads that work on them."""

    def __init__(
        self,
        settings: Settings,
        *,
        benches: Benches = default_bench,
        policies: Callable[[RunRequest, Settings], Policy] = make_policy,
        clock: Clock | None = None,
    ) -> None:
        self.settings = settings
        self.store = Store(settings.data_dir)
        self._benches = benches
        self._policies = policies
        self._clock = clock or SystemClock()
        self._saver = open_checkpoints(self.store.checkpoints)
        self._slots = threading.BoundedSemaphore(settings.parallel_runs)
        self._live: dict[str, _Live] = {}
        self._lock = threading.Lock()

    def close(self, wait_seconds: float = 10.0) -> None:
        """Cancel what is still going on, wait for it, and close the files."""
        for live in list(self._live.values()):
            live.cancel.set()
            live.hurry.set()
            live.thread.join(wait_seconds)
        self._saver.conn.close()
        self.store.close()

    def start(
        self,
        request: RunRequest,
        *,
        parent: str | None = None,
        initial: RunState | None = None,
    ) -> str:
        """Begin a run and return its id; the work goes on in the background.

        Args:
            request: what to do.
            parent: the run that this one was forked from.
            initial: fields that the new run starts with (task, messages, candidates, seed).

        Raises:
            SettingsError: the policy can't be used with these settings.
            Busy: too many runs wait.
        """
        policy = self._policies(request, self.settings)
        with self._lock:
            if len(self._live) >= self.settings.parallel_runs + self.settings.max_queued:
                raise Busy("too many runs are waiting; try again later")
        run_id = self.store.create(request, parent)
        update = {
            "run_id": run_id,
            "request": request,
            "policy": policy.name,
            "model": policy.model,
            "prompts": policy.prompts,
        }
        state = (initial or RunState(run_id=run_id, request=request)).model_copy(update=update)
        graph = build_graph(policy, self._saver)
        # Written before any work, so that a run killed while it waits can be resumed.
        graph.update_state(_config(run_id), dict(state), as_node=START)
        for candidate in state.candidates:
            self.store.save_candidate(run_id, candidate)
        self._launch(run_id, graph, resumed=False)
        return run_id

    def resume(self, run_id: str, budget: Budget | None = None) -> None:
        """Go on where a run stopped: interrupted, failed, or finished with more budget now.

        Args:
            run_id: the run.
            budget: new limits, counted from the run's beginning; None keeps the old ones.

        Raises:
            RunNotFound: no such run.
            RunBusy: it is being worked on.
            RequestError: it was refused, or has reached its goal: there is nothing to go on with.
        """
        row = self.store.row(run_id)
        if row.status in ("running", "queued"):
            raise RunBusy(run_id)
        if row.status == "refused":
            raise RequestError(f"run {run_id} was refused: {row.message}")
        state = self.state(run_id)
        request = row.request.model_copy(update={"budget": budget}) if budget else row.request
        policy = self._policies(request, self.settings)
        graph = build_graph(policy, self._saver)
        if row.status == "done":
            if state.stop in (StopReason.GOAL_MET, StopReason.CORRECT) or (
                budget is None and state.stop is not StopReason.CANCELLED
            ):
                raise RequestError(
                    f"run {run_id} is finished ({state.stop}); give it a larger budget, e.g. --attempts "
                    f"{2 * row.request.budget.attempts}, or start a new one"
                )
            reopened: dict[str, object] = {"stop": None, "exhausted": False, "phase": Phase.DECIDE, "request": request}
            as_node = Phase.PROFILE
            last = state.candidates[-1] if state.candidates else None
            if last is not None and last.evaluation is None:
                # Its judgement was broken off.
                reopened |= {"pending": last.number, "phase": Phase.CHECK}
                as_node = Phase.DRAFT
            graph.update_state(_config(run_id), reopened, as_node=as_node.value)
        self.store.set_request(run_id, request)
        self.store.set_cancel(run_id, cancel=False)
        self._launch(run_id, graph, resumed=True)

    def fork(
        self, run_id: str, request: RunRequest, *, task: Task | None = None, messages: Sequence[Message] = ()
    ) -> str:
        """Begin a new run from an old one.

        Args:
            run_id: the old run; its best kernel is handed on as the seed.
            request: what the new run is asked.
            task: the new task; None keeps the old one, and its candidates.
            messages: turns of the conversation to add.

        Raises:
            RunNotFound: no such run.
        """
        old = self.state(run_id)
        new_task = task or old.task
        same = new_task is not None and old.task is not None and new_task.digest == old.task.digest
        kept = [c for c in old.candidates if c.evaluation] if same else []
        initial = RunState(
            run_id=run_id,
            request=request,
            task=new_task,
            inherited=max((c.number for c in kept), default=0),
            seed=old.best.kernel if old.best else None,
            candidates=kept,
            messages=[*old.messages, *messages],
        )
        return self.start(request, parent=run_id, initial=initial)

    def cancel(self, run_id: str) -> None:
        """Ask a run to stop, in whatever process it runs; asked twice, its present step is abandoned at once.

        Raises:
            RunNotFound: no such run.
        """
        self.store.row(run_id)
        live = self._live.get(run_id)
        if live is None:
            self.store.set_cancel(run_id, cancel=True)
        elif live.cancel.is_set():
            live.hurry.set()
        else:
            live.cancel.set()
            if live.meter is not None:
                live.meter.cancel()

    def stream(self, run_id: str, after: int = 0) -> Iterator[Event]:
        """The events of a run with a number above `after`; ends when nobody works on it any more.

        Raises:
            RunNotFound: no such run.
            Exception: whatever fault of ours ended the run, if it ran in this process.
        """
        self.store.row(run_id)
        while True:
            live = self._live.get(run_id)
            events, going_on = self.poll(run_id, after)
            yield from events
            after = events[-1].seq if events else after
            if events:
                continue
            if live is not None:
                with live.changed:
                    if not live.over and not self.store.events(run_id, after):
                        live.changed.wait(0.5)
                if live.over and not self.store.events(run_id, after):
                    if live.error is not None:
                        raise live.error
                    return
            elif going_on:
                self._clock.sleep(0.2)
            else:
                return

    def poll(self, run_id: str, after: int = 0) -> tuple[list[Event], bool]:
        """The events with a number above `after` that are there now, and whether more may come.

        Raises:
            RunNotFound: no such run.
        """
        # Asked in this order: what a run says last is said before it is given up.
        going_on = run_id in self._live or self.store.row(run_id).status in ("running", "queued")
        return self.store.events(run_id, after), going_on

    def wait_for_task(self, run_id: str, seconds: float = 10.0) -> None:
        """Wait until a run without a model has understood its request, or that long.

        Raises:
            RequestError: it was refused.
        """
        if self.state(run_id).model:
            return
        end = time.monotonic() + seconds
        after = 0
        while time.monotonic() < end:
            events, going_on = self.poll(run_id, after)
            for event in events:
                after = event.seq
                if isinstance(event, RunRefused):
                    raise RequestError(event.message)
                if isinstance(event, CandidateDrafted):
                    return
            if not going_on:
                return
            time.sleep(0.02)

    def state(self, run_id: str) -> RunState:
        """The newest checkpoint of a run, with all candidates and all that was spent.

        Raises:
            RunNotFound: no such run.
        """
        row = self.store.row(run_id)
        saved = self._saver.get_tuple(_config(run_id))
        values = saved.checkpoint["channel_values"] if saved else {}
        fields = {name: values[name] for name in RunState.model_fields if name in values}
        try:
            state = RunState(**{"run_id": run_id, "request": row.request, **fields})
        except ValidationError as error:
            raise UnreadableRun(run_id) from error
        return state.model_copy(update={"candidates": self.store.candidates(run_id), "used": row.used})

    def report(self, run_id: str) -> Report | None:
        """The run's newest report, or one of what there is so far; None before its task is known."""
        finished = [e for e in self.store.events(run_id) if isinstance(e, RunFinished)]
        if finished and self.store.row(run_id).status == "done":
            return finished[-1].report
        state = self.state(run_id)
        return build_report(state, state.stop or StopReason.CANCELLED) if state.task else None

    def last_seq(self, run_id: str) -> int:
        """Number of the run's newest event, 0 when it has none."""
        events = self.store.events(run_id)
        return events[-1].seq if events else 0

    def row(self, run_id: str) -> RunRow:
        """What is stored about a run.

        Raises:
            RunNotFound: no such run.
        """
        return self.store.row(run_id)

    def rows(self, limit: int = 50) -> list[RunRow]:
        """The newest runs."""
        return self.store.rows(limit)

    def remember(self, run_id: str, messages: Sequence[Message]) -> None:
        """Add turns of the conversation to a run at rest."""
        state = self.state(run_id)
        graph = build_graph(self._policies(state.request, self.settings), self._saver)
        last = Phase.REPORT if state.stop else Phase.SPECIFY
        graph.update_state(_config(run_id), {"messages": list(messages)}, as_node=last.value)

    def answer(self, run_id: str, question: str) -> str:
        """Answer a question about a run at rest and remember both.

        Raises:
            RunNotFound: no such run.
            SettingsError: the run's policy can't be used now.
        """
        state = self.state(run_id)
        meter = Meter(state.request.budget, self._clock, state.used)
        desk = Desk(_no_bench(), meter, Journal(self.store, run_id, meter), self.settings)
        try:
            text = self._policies(state.request, self.settings).answer(question, state, desk)
        except (BudgetSpent, PolicyFailed) as error:
            text = f"{answer_from_profile(question, state)}\n(Answered without the model: {error}.)"
        self.remember(run_id, [Message(role="user", text=question), Message(role="assistant", text=text)])
        return text

    def _launch(self, run_id: str, graph: RunGraph, *, resumed: bool) -> None:
        owner = ExitStack()
        owner.enter_context(self.store.owned(run_id))
        live = _Live(run_id)
        live.thread = threading.Thread(
            target=self._supervise, args=(live, graph, owner, resumed), name=f"run {run_id}", daemon=True
        )
        with self._lock:
            self._live[run_id] = live
        live.thread.start()

    def _supervise(self, live: _Live, graph: RunGraph, owner: ExitStack, resumed: bool) -> None:
        try:
            with owner, self._slots:
                self._work(live, graph, resumed)
        finally:
            with self._lock:
                self._live.pop(live.run_id, None)
            live.over = True
            live.wake()

    def _work(self, live: _Live, graph: RunGraph, resumed: bool) -> None:
        run_id, store = live.run_id, self.store
        row = store.row(run_id)
        store.set_status(run_id, "running")
        live.meter = meter = Meter(row.request.budget, self._clock, row.used)
        journal = Journal(store, run_id, meter, live.wake)
        bench = self._benches()
        desk = Desk(bench=bench, meter=meter, journal=journal, settings=self.settings)
        state = self.state(run_id)
        journal.emit(RunStarted(request=row.request, policy=state.policy, model=state.model, resumed=resumed))
        outcome = _Outcome()
        worker = threading.Thread(
            target=_run_graph, args=(graph, run_id, desk, outcome), name=f"graph {run_id}", daemon=True
        )
        worker.start()
        late = self._watch(live, meter, outcome)
        if late is not None:
            journal.close()
            desk.bench.interrupt()
            self._close_over(run_id, graph, meter, late)
        else:
            self._conclude(live, journal, meter, outcome.error)
        bench.close()
        forget_history(self._saver, run_id)

    def _watch(self, live: _Live, meter: Meter, outcome: _Outcome) -> StopReason | None:
        """Wait for the graph; the reason when it has to be abandoned."""
        grace = self.settings.grace_seconds
        cancelled_at: float | None = None
        ticks = 0
        while not outcome.done.wait(_POLL_SECONDS):
            ticks += 1
            if ticks % 10 == 1 and self.store.row(live.run_id).cancel:
                live.cancel.set()
            if live.cancel.is_set():
                meter.cancel()
                cancelled_at = meter.seconds if cancelled_at is None else cancelled_at
                if live.hurry.is_set() or meter.seconds > cancelled_at + grace:
                    return StopReason.CANCELLED
            if meter.seconds > meter.budget.seconds + grace:
                return StopReason.SECONDS
        return None

    def _conclude(self, live: _Live, journal: Journal, meter: Meter, error: BaseException | None) -> None:
        run_id = live.run_id
        if error is None:
            self.store.set_status(run_id, "done")
            return
        refusal = _refusal(error, self.store.row(run_id).request)
        if refusal is not None:
            self.store.set_status(run_id, "refused", refusal.message)
            journal.emit(refusal)
            return
        message = f"fault of Kernelwright in run {run_id}: {type(error).__name__}: {error}"
        self.store.set_status(run_id, "failed", message)
        journal.emit(RunFailed(message=message))
        live.error = error

    def _close_over(self, run_id: str, graph: RunGraph, meter: Meter, reason: StopReason) -> None:
        state = self.state(run_id).model_copy(update={"used": meter.used})
        event: Event
        if state.task is None:
            event = RunRefused(message=_unspecified(state.request, reason), kind="cancelled")
            self.store.set_status(run_id, "refused", event.message)
        else:
            values = {"candidates": state.candidates, "stop": reason, "used": meter.used, "phase": Phase.REPORT}
            graph.update_state(_config(run_id), values, as_node=Phase.REPORT.value)
            event = RunFinished(report=build_report(state, reason))
            self.store.set_status(run_id, "done")
        stamped = event.model_copy(update={"run_id": run_id, "seconds": round(meter.seconds, 3)})
        self.store.add_event(stamped, meter.used)


def _no_bench() -> Bench:
    """For answers about a run: they judge nothing."""

    def evaluate(kernel: Kernel, task: Task) -> NoReturn:
        raise AssertionError("an answer judges no kernel")

    def check_task(task: Task) -> NoReturn:
        raise AssertionError("an answer checks no task")

    return Bench(evaluate=evaluate, check_task=check_task)


class _Outcome:
    """How a graph's thread ended."""

    def __init__(self) -> None:
        self.done = threading.Event()
        self.error: BaseException | None = None


def _run_graph(graph: RunGraph, run_id: str, desk: Desk, outcome: _Outcome) -> None:
    try:
        for _ in graph.stream(None, _config(run_id), context=desk, durability="sync"):
            pass
    except Abandoned:
        pass
    except BaseException as error:  # noqa: BLE001 a thread has no caller: the supervisor and `stream` pass it on
        outcome.error = error
    finally:
        outcome.done.set()


def _unspecified(request: RunRequest, reason: StopReason) -> str:
    """Why a run ended before it had a task."""
    if reason is StopReason.SECONDS and request.reference_function is not None:
        return (
            f"the reference {request.reference_function!r} had not returned when the time was spent ({reason}); look for a loop "
            "that doesn't end, or allow more --seconds"
        )
    return f"stopped before the request was understood ({reason})"


def _refusal(error: BaseException, request: RunRequest) -> RunRefused | None:
    """The event for an error that is the user's or the operator's to mend, None for a fault of ours."""
    if isinstance(error, RequestError):
        return RunRefused(message=str(error), kind="input")
    if isinstance(error, BeyondPolicy):
        return RunRefused(message=str(error), kind="beyond")
    if isinstance(error, SettingsError | PolicyFailed):
        return RunRefused(message=str(error), kind="settings")
    if isinstance(error, BudgetSpent):
        cancelled = error.reason is StopReason.CANCELLED
        return RunRefused(
            message=_unspecified(request, error.reason),
            kind="cancelled" if cancelled else "settings",
        )
    return None


def _config(run_id: str) -> RunnableConfig:
    # A step is a node; the budget ends a run, not LangGraph's own limit of 25.
    return {"configurable": {"thread_id": run_id}, "recursion_limit": 100_000}


def is_final(event: Event) -> bool:
    """Whether a run says nothing after this event until it is resumed."""
    return isinstance(event, FINAL)
