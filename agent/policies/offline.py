"""The policy without a model: the kernel generator of `tools.generate`, searched on the simulator."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from agent.desk import Desk
from agent.explain import answer_from_profile
from agent.policies.protocol import BeyondPolicy
from agent.specify import grammar_task
from agent.state import Proposal, RunRequest, RunState
from tools.task import Task

if TYPE_CHECKING:
    from tools.generate.offline import Attempt, Draft, Generator

BATCH = 8
"""Candidates timed at once: enough to share a fork's price, few enough to keep to the search's time."""


class OfflinePolicy:
    """Needs no key and no network. Its search state is a cache: everything it needs is in the run's state."""

    name = "offline"
    model = ""
    prompts = ""

    def __init__(self) -> None:
        self._generators: dict[str, Generator] = {}

    def specify(self, request: RunRequest, desk: Desk) -> Task:
        """Read the request by the grammar.

        Raises:
            RequestError: it doesn't name operation, shapes or target in a way that the grammar reads.
        """
        desk.meter.check()
        return grammar_task(request)

    def draft(self, state: RunState, desk: Desk) -> Proposal | None:
        """The generator's first schedule; in a fork of an old run, the next one.

        Raises:
            BeyondPolicy: the reference has operators that the generator doesn't know.
        """
        if state.candidates:
            return self.improve(state, desk)
        return _proposal(self._ask(state, desk, first=True), ())

    def debug(self, state: RunState, desk: Desk) -> Proposal | None:
        """Another schedule: a generated kernel that is wrong is a fault of the generator, not to be patched."""
        return self.improve(state, desk)

    def improve(self, state: RunState, desk: Desk) -> Proposal | None:
        """The next schedule that the generator's own search finds worth an evaluation."""
        desk.meter.check()
        draft = self._ask(state, desk, first=False)
        best = state.best
        return _proposal(draft, (best.number,) if best else ())

    def answer(self, question: str, state: RunState, desk: Desk) -> str:
        """Answer from the profile of the best kernel."""
        return answer_from_profile(question, state, desk.bench.ask)

    def _ask(self, state: RunState, desk: Desk, *, first: bool) -> Draft | None:
        from tools.generate.errors import BeyondOffline
        from tools.generate.offline import Generator

        assert state.task is not None, "kernels are written after specify"
        try:
            generator = self._generators.get(state.task.digest)
            if generator is None:
                generator = Generator(state.task, **_helpers(desk))
                self._generators[state.task.digest] = generator
            return generator.first() if first else generator.improve(_attempts(state))
        except BeyondOffline as error:
            raise BeyondPolicy(str(error)) from error


def _helpers(desk: Desk) -> dict[str, Any]:
    """What the bench does for the generator in other processes."""
    found: dict[str, Any] = {}
    if desk.bench.trace is not None:
        found["tracer"] = desk.bench.trace
    if desk.bench.estimate is not None:
        found |= {"estimator": desk.bench.estimate, "batch": BATCH}
    return found


def _proposal(draft: Draft | None, parents: tuple[int, ...]) -> Proposal | None:
    if draft is None:
        return None
    fields = {"kernel": draft.kernel, "change": draft.change, "schedule": draft.schedule, "parents": parents}
    return Proposal.model_validate(fields)


def _attempts(state: RunState) -> list[Attempt]:
    from tools.generate.offline import Attempt, Draft

    return [
        Attempt(draft=Draft(kernel=c.kernel, change=c.change, schedule=dict(c.schedule)), evaluation=c.evaluation)
        for c in state.candidates
        if c.evaluation is not None
    ]
