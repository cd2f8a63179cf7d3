"""The threads that work on runs.

A run is worked on by a thread of its own. A second thread watches it, so that a step which outlives the time budget
or a cancellation is abandoned and the best kernel so far is reported all the same.
"""

from __future__ import annotations

import threading
from contextlib import ExitStack

from langgraph.checkpoint.sqlite import SqliteSaver

from agent.bench import Benches
from agent.budget import Clock, Meter
from agent.desk import Abandoned, Desk, Journal
from agent.events import Event, RunFailed, RunFinished, RunRefused, RunStarted
from agent.graph import RunGraph, forget_history
from agent.refusal import refusal_of, unspecified
from agent.report import build_report
from agent.settings import Settings
from agent.snapshot import state_of, thread_of
from agent.state import Phase, StopReason
from agent.store import Store

_POLL_SECONDS = 0.05
"""How often the watcher looks at the clock. It ends at once when the work ends."""


class Live:
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


class Supervisor:
    """Works on the runs of one store, as many at a time as the settings allow.

    Attributes:
        live: the runs that this process works on, by id.
    """

    def __init__(self, settings: Settings, store: Store, saver: SqliteSaver, benches: Benches, clock: Clock) -> None:
        self.live: dict[str, Live] = {}
        self._settings = settings
        self._store = store
        self._saver = saver
        self._benches = benches
        self._clock = clock
        self._slots = threading.BoundedSemaphore(settings.parallel_runs)
        self._lock = threading.Lock()

    @property
    def full(self) -> bool:
        """Whether as many runs wait already as may."""
        with self._lock:
            return len(self.live) >= self._settings.parallel_runs + self._settings.max_queued

    def close(self, wait_seconds: float) -> None:
        """Cancel what is still going on and wait for it."""
        for live in list(self.live.values()):
            live.cancel.set()
            live.hurry.set()
            live.thread.join(wait_seconds)

    def launch(self, run_id: str, graph: RunGraph, *, resumed: bool) -> None:
        """Begin or go on with a run, in the background.

        Raises:
            RunBusy: it is being worked on.
        """
        owner = ExitStack()
        owner.enter_context(self._store.owned(run_id))
        live = Live(run_id)
        live.thread = threading.Thread(
            target=self._supervise, args=(live, graph, owner, resumed), name=f"run {run_id}", daemon=True
        )
        with self._lock:
            self.live[run_id] = live
        live.thread.start()

    def _supervise(self, live: Live, graph: RunGraph, owner: ExitStack, resumed: bool) -> None:
        try:
            with owner, self._slots:
                self._work(live, graph, resumed)
        finally:
            with self._lock:
                self.live.pop(live.run_id, None)
            live.over = True
            live.wake()

    def _work(self, live: Live, graph: RunGraph, resumed: bool) -> None:
        run_id, store = live.run_id, self._store
        row = store.row(run_id)
        store.set_status(run_id, "running")
        live.meter = meter = Meter(row.request.budget, self._clock, row.used)
        journal = Journal(store, run_id, meter, live.wake)
        bench = self._benches()
        desk = Desk(bench=bench, meter=meter, journal=journal, settings=self._settings)
        state = state_of(self._store, self._saver, run_id)
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

    def _watch(self, live: Live, meter: Meter, outcome: _Outcome) -> StopReason | None:
        """Wait for the graph; the reason when it has to be abandoned."""
        grace = self._settings.grace_seconds
        cancelled_at: float | None = None
        ticks = 0
        while not outcome.done.wait(_POLL_SECONDS):
            ticks += 1
            if ticks % 10 == 1 and self._store.row(live.run_id).cancel:
                live.cancel.set()
            if live.cancel.is_set():
                meter.cancel()
                cancelled_at = meter.seconds if cancelled_at is None else cancelled_at
                if live.hurry.is_set() or meter.seconds > cancelled_at + grace:
                    return StopReason.CANCELLED
            if meter.seconds > meter.budget.seconds + grace:
                return StopReason.SECONDS
        return None

    def _conclude(self, live: Live, journal: Journal, meter: Meter, error: BaseException | None) -> None:
        run_id = live.run_id
        if error is None:
            self._store.set_status(run_id, "done")
            return
        refusal = refusal_of(error, self._store.row(run_id).request)
        if refusal is not None:
            self._store.set_status(run_id, "refused", refusal.message)
            journal.emit(refusal)
            return
        message = f"fault of Kernelwright in run {run_id}: {type(error).__name__}: {error}"
        self._store.set_status(run_id, "failed", message)
        journal.emit(RunFailed(message=message))
        live.error = error

    def _close_over(self, run_id: str, graph: RunGraph, meter: Meter, reason: StopReason) -> None:
        state = state_of(self._store, self._saver, run_id).model_copy(update={"used": meter.used})
        event: Event
        if state.task is None:
            event = RunRefused(message=unspecified(state.request, reason), kind="cancelled")
            self._store.set_status(run_id, "refused", event.message)
        else:
            values = {"candidates": state.candidates, "stop": reason, "used": meter.used, "phase": Phase.REPORT}
            graph.update_state(thread_of(run_id), values, as_node=Phase.REPORT.value)
            event = RunFinished(report=build_report(state, reason))
            self._store.set_status(run_id, "done")
        stamped = event.model_copy(update={"run_id": run_id, "seconds": round(meter.seconds, 3)})
        self._store.add_event(stamped, meter.used)


class _Outcome:
    """How a graph's thread ended."""

    def __init__(self) -> None:
        self.done = threading.Event()
        self.error: BaseException | None = None


def _run_graph(graph: RunGraph, run_id: str, desk: Desk, outcome: _Outcome) -> None:
    try:
        for _ in graph.stream(None, thread_of(run_id), context=desk, durability="sync"):
            pass
    except Abandoned:
        pass
    except BaseException as error:  # noqa: BLE001 a thread has no caller: the supervisor and `stream` pass it on
        outcome.error = error
    finally:
        outcome.done.set()
