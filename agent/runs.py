"""The one way to drive work: start, stream, resume, fork, cancel. Every face is thin over this."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import NoReturn

from langgraph.graph import START

from agent.bench import Benches, default_bench
from agent.budget import BudgetSpent, Clock, Meter, SystemClock
from agent.desk import Bench, Desk, Journal
from agent.events import CandidateDrafted, Event, RunFinished, RunRefused
from agent.explain import answer_from_profile
from agent.graph import build_graph, open_checkpoints
from agent.policies.factory import make_policy
from agent.policies.protocol import Policy, PolicyFailed
from agent.report import Report, build_report
from agent.settings import Settings
from agent.snapshot import state_of, thread_of
from agent.state import Message, Phase, RunRequest, RunState, StopReason
from agent.store import RunBusy, RunRow, Store
from agent.supervisor import Supervisor
from tools.task import Budget, Kernel, Task
from tools.task_errors import RequestError


class Busy(Exception):
    """Too many runs wait already."""


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
        self._policies = policies
        self._clock = clock or SystemClock()
        self._saver = open_checkpoints(self.store.checkpoints)
        self._benches = benches
        self._supervisor = Supervisor(settings, self.store, self._saver, benches, self._clock)
        self._live = self._supervisor.live

    def close(self, wait_seconds: float = 10.0) -> None:
        """Cancel what is still going on, wait for it, and close the files."""
        self._supervisor.close(wait_seconds)
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
        if self._supervisor.full:
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
        graph.update_state(thread_of(run_id), dict(state), as_node=START)
        for candidate in state.candidates:
            self.store.save_candidate(run_id, candidate)
        self._supervisor.launch(run_id, graph, resumed=False)
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
                budget is None and state.stop not in (StopReason.CANCELLED, StopReason.MODEL_FAILED)
            ):
                raise RequestError(
                    f"run {run_id} is finished ({state.stop}); give it a larger budget, e.g. --attempts "
                    f"{2 * row.request.budget.attempts}, or start a new one"
                )
            reopened: dict[str, object] = {"stop": None, "exhausted": False, "phase": Phase.DECIDE, "request": request}
            as_node = Phase.PROFILE
            last = state.candidates[-1] if state.candidates else None
            if last is None:
                # It ended before its first kernel: there is nothing yet to improve.
                reopened |= {"phase": Phase.DRAFT}
                as_node = Phase.SPECIFY
            elif last.evaluation is None:
                # Its judgement was broken off.
                reopened |= {"pending": last.number, "phase": Phase.CHECK}
                as_node = Phase.DRAFT
            graph.update_state(thread_of(run_id), reopened, as_node=as_node.value)
        self.store.set_request(run_id, request)
        self.store.set_cancel(run_id, cancel=False)
        self._supervisor.launch(run_id, graph, resumed=True)

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
        return state_of(self.store, self._saver, run_id)

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
        graph.update_state(thread_of(run_id), {"messages": list(messages)}, as_node=last.value)

    def answer(self, run_id: str, question: str) -> str:
        """Answer a question about a run at rest and remember both.

        Raises:
            RunNotFound: no such run.
            SettingsError: the run's policy can't be used now.
        """
        state = self.state(run_id)
        meter = Meter(state.request.budget, self._clock, state.used)
        desk = Desk(_no_bench(self._ask), meter, Journal(self.store, run_id, meter), self.settings)
        try:
            text = self._policies(state.request, self.settings).answer(question, state, desk)
        except (BudgetSpent, PolicyFailed) as error:
            text = f"{answer_from_profile(question, state, self._ask)}\n(Answered without the model: {error}.)"
        self.remember(run_id, [Message(role="user", text=question), Message(role="assistant", text=text)])
        return text

    def _ask(self, kernel: Kernel, task: Task, question: str) -> str:
        """A bench's answer about a kernel's timeline; the bench is opened for this question only."""
        bench = self._benches()
        try:
            if bench.ask is None:
                raise RequestError("no profile is at hand")
            return bench.ask(kernel, task, question)
        finally:
            bench.close()


def _no_bench(ask: Callable[[Kernel, Task, str], str]) -> Bench:
    """For answers about a run: they judge nothing, and only look at profiles."""

    def evaluate(kernel: Kernel, task: Task) -> NoReturn:
        raise AssertionError("an answer judges no kernel")

    def check_task(task: Task) -> NoReturn:
        raise AssertionError("an answer checks no task")

    return Bench(evaluate=evaluate, check_task=check_task, ask=ask)
