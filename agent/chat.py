"""A conversation over runs: requests, follow-ups and questions. Faces feed it lines and render what it yields."""

from __future__ import annotations

import re
from collections.abc import Iterator

from agent.events import Event, RunFinished
from agent.runs import Runs
from agent.specify import grammar_task, revised_task
from agent.state import Message, RunRequest, RunState
from tools.task_errors import RequestError

_ASKS = re.compile(r"^(why|what|how|which|where|when|who|is|are|does|do|did|can you explain|explain|show|tell)\b", re.I)
_PROPOSES = re.compile(r"^(what|how) about\b", re.I)
_FOLLOWS = re.compile(
    r"^(now|then|and|also|but|add|append|make|same|with|without|in|for|on|use|change|set|reach|what about|how about|can|could)\b",
    re.I,
)
"""How a line begins that changes the task at hand; anything else that names operation and shapes is a new request."""
_SHAPE = re.compile(r"\d\s*x\s*\d", re.I)
_GO_ON = re.compile(
    r"\b(faster|speed it up|improve|optimi[sz]e|continue|go on|keep going|try (harder|more|again)|more attempts)\b",
    re.I,
)


class Conversation:
    """One chat: the run it stands at, and what the next line means.

    Attributes:
        run_id: the run that questions and follow-ups are about; None before the first request.
    """

    def __init__(self, runs: Runs, defaults: RunRequest, run_id: str | None = None) -> None:
        """Begin or go on.

        Args:
            runs: where the work is done.
            defaults: policy, model, budget, target and goal of every request; its words are the example's only.
            run_id: a stored run to go on with.

        Raises:
            RunNotFound: no such run.
        """
        self._runs = runs
        self._defaults = defaults
        self.run_id = run_id
        if run_id is not None:
            runs.row(run_id)

    def say(self, text: str) -> Iterator[Event | str]:
        """Answer one line: events of a run, or the words of an answer.

        Raises:
            RequestError: the line is a request that can't be understood.
        """
        text = text.strip()
        state = self._runs.state(self.run_id) if self.run_id else None
        if state is None or state.task is None:
            yield from self._begin(text)
        elif is_question(text):
            yield self._runs.answer(state.run_id, text)
        else:
            yield from self._follow(text, state)

    @property
    def state(self) -> RunState | None:
        """The run that the conversation stands at."""
        return self._runs.state(self.run_id) if self.run_id else None

    def _begin(self, text: str) -> Iterator[Event]:
        request = self._defaults.model_copy(update={"request": text})
        yield from self._work(self._runs.start(RunRequest.model_validate(request.model_dump())), text)

    def _follow(self, text: str, state: RunState) -> Iterator[Event | str]:
        assert state.task is not None, "follow-ups come after a task"
        fault: RequestError | None = None
        if not _FOLLOWS.match(text):
            try:
                grammar_task(self._defaults.model_copy(update={"request": text}))
            except RequestError as error:
                fault = error
            else:
                yield from self._begin(text)
                return
        said = [Message(role="user", text=text)]
        try:
            task = revised_task(state.task, text)
        except RequestError as error:
            # Words with shapes that are no change are a new request with a fault.
            raise fault or error from error
        request = state.request.model_copy(update={"goal": None, "target": None, "budget": self._defaults.budget})
        if task is not None:
            changed = request.model_copy(update={"request": task.request})
            yield from self._work(self._runs.fork(state.run_id, changed, task=task, messages=said), text)
        elif _GO_ON.search(text):
            yield from self._work(self._runs.fork(state.run_id, request, messages=said), text)
        elif fault is not None and _SHAPE.search(text):
            raise fault
        elif state.model:
            # A wish in words that no grammar knows: the model reads it.
            yield from self._work(self._runs.fork(state.run_id, request, messages=said), text)
        else:
            yield self._runs.answer(state.run_id, text)

    def _work(self, run_id: str, text: str) -> Iterator[Event]:
        for event in self._runs.stream(run_id):
            yield event
            if isinstance(event, RunFinished):
                # Only a run that understood its request becomes what the conversation is about.
                self.run_id = run_id
        if self.run_id == run_id and (report := self._runs.report(run_id)) is not None:
            turns = [Message(role="assistant", text=report.verdict)]
            state = self._runs.state(run_id)
            if not state.messages:
                turns.insert(0, Message(role="user", text=text))
            self._runs.remember(run_id, turns)


def is_question(text: str) -> bool:
    """Whether a line asks about the work rather than for more work."""
    if _PROPOSES.match(text):
        return False
    return bool(_ASKS.match(text)) or (text.endswith("?") and not re.match(r"^(now|and|can|could|make)\b", text, re.I))
