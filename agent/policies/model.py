"""A policy that asks a model: tool-calling conversations for specify, draft, debug and improve.

Each step is a conversation of its own, built from the run's state, so that a resumed run needs no memory of the old
one. The vendor is behind `ChatModel`.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator

from agent.desk import Desk
from agent.events import BudgetUsed, ModelRetried, ModelText, Noted
from agent.policies.chat_model import AssistantTurn, ChatModel, ModelRefused, Reply, ToolTurn, Turn, UserTurn
from agent.policies.prices import dollars
from agent.policies.protocol import PolicyFailed
from agent.policies.retry import with_backoff
from agent.prompt import load_prompt, prompts_version
from agent.specify import grammar_task, model_task
from agent.state import Candidate, Proposal, RunRequest, RunState, goal_status
from agent.toolbox import Arguments, Finish, GiveUp, SubmitKernel, Toolbox, candidate_text, kernel_tools, parents_of
from tools.task import Goal, Kernel, Target, Task, TensorSpec
from tools.task_errors import RequestError

_REMEMBERED = 8
"""Candidates listed in a prompt: the best and the last ones."""


class InputSpec(Arguments):
    """One input tensor."""

    name: str
    shape: Annotated[list[Annotated[int, Field(ge=1)]], Field(min_length=1, max_length=5)]
    dtype: Literal["float32", "bfloat16", "float16", "int32"] = "float32"
    distribution: Literal["normal", "uniform", "positive", "large", "small_int"] = "normal"

    def tensor(self) -> TensorSpec:
        """The same as part of a task."""
        return TensorSpec(name=self.name, shape=tuple(self.shape), dtype=self.dtype, distribution=self.distribution)


class SubmitTask(Arguments):
    """State the task: the NumPy function that defines the result, and its inputs."""

    name: Annotated[str, Field(max_length=80, description="Short name in lower case, e.g. rmsnorm_matmul.")]
    reference_source: Annotated[
        str, Field(max_length=50_000, description="Python module with a pure NumPy function; import numpy as np.")
    ]
    function: Annotated[str, Field(description="Name of the function; it takes the inputs by position.")] = "reference"
    inputs: Annotated[list[InputSpec], Field(min_length=1, max_length=16)]
    target: Target = "trn2"
    goal: Annotated[str, Field(description="roofline>=0.6, latency<=120us, speedup>=2 or correct")] = "correct"

    @field_validator("goal")
    @classmethod
    def _readable(cls, goal: str) -> str:
        Goal.parse(goal)
        return goal


class RefuseRequest(Arguments):
    """Say that the request names no operation, contradicts itself, or can't be a kernel."""

    reason: Annotated[str, Field(description="One sentence: what is wrong and what the user should write instead.")]


class ModelPolicy:
    """Drives the graph with a model."""

    def __init__(self, name: str, chat: ChatModel) -> None:
        self._name = name
        self._chat = chat

    @property
    def name(self) -> str:
        """The vendor."""
        return self._name

    @property
    def model(self) -> str:
        """The vendor's model name."""
        return self._chat.model

    @property
    def prompts(self) -> str:
        """Version of the prompts."""
        return prompts_version()

    def specify(self, request: RunRequest, desk: Desk) -> Task:
        """Let the model state the task; where it can't, the grammar reads the request.

        Raises:
            RequestError: the request is wrong, or neither of the two understands it.
        """
        if request.reference_source is not None:
            # The user's own function is the specification; only its shapes have to be read, and the grammar is exact.
            return grammar_task(request)
        toolbox = Toolbox([], {"submit_task": SubmitTask, "refuse_request": RefuseRequest}, desk)
        user = load_prompt("specify").render(request=request.request, goal=request.goal, target=request.target)
        try:
            finish = self._converse(user, toolbox, desk)
        except PolicyFailed as failure:
            return self._fall_back(request, desk, str(failure))
        if isinstance(finish, RefuseRequest):
            return self._fall_back(request, desk, finish.reason)
        assert isinstance(finish, SubmitTask), "the toolbox of specify has two finishers"
        inputs = tuple(spec.tensor() for spec in finish.inputs)
        goal = Goal.parse(finish.goal)
        return model_task(request, finish.name, finish.reference_source, finish.function, inputs, finish.target, goal)

    def _fall_back(self, request: RunRequest, desk: Desk, reason: str) -> Task:
        try:
            task = grammar_task(request)
        except RequestError as error:
            raise RequestError(reason) from error
        desk.journal.emit(Noted(text=f"The model stated no task ({reason}); the request was read by the grammar."))
        return task

    def draft(self, state: RunState, desk: Desk) -> Proposal | None:
        """The first kernel; in a fork that kept its candidates, a better one."""
        if state.best is not None:
            return self.improve(state, desk)
        user = load_prompt("draft").render(
            task=_described(state.task),
            seed=state.seed.source if state.seed else "",
            messages=state.messages,
        )
        return self._kernel(user, state, desk)

    def debug(self, state: RunState, desk: Desk) -> Proposal | None:
        """Mend the last kernel."""
        last = state.last
        assert last is not None, "debug follows a judgement"
        user = load_prompt("debug").render(
            task=_described(state.task), wrong=candidate_text(last), history=_history(state)
        )
        return self._kernel(user, state, desk)

    def improve(self, state: RunState, desk: Desk) -> Proposal | None:
        """A faster kernel than the best."""
        best = state.best
        if best is None:
            return None
        assert state.task is not None, "improve follows specify"
        user = load_prompt("improve").render(
            task=_described(state.task),
            best=candidate_text(best),
            goal=goal_status(state.task, state.candidates).text,
            history=_history(state),
            messages=state.messages,
        )
        return self._kernel(user, state, desk)

    def answer(self, question: str, state: RunState, desk: Desk) -> str:
        """Ask the model, with the best kernel and its profile before it."""
        best = state.best or state.last
        user = load_prompt("answer").render(
            question=question,
            task=_described(state.task),
            kernel=candidate_text(best) if best else "",
            history=_history(state),
            messages=state.messages,
        )
        return self._ask([UserTurn(text=user)], Toolbox([], {}, desk), desk).text

    def _kernel(self, user: str, state: RunState, desk: Desk) -> Proposal | None:
        parents = parents_of(state)
        finish = self._converse(user, kernel_tools(state, desk), desk)
        if isinstance(finish, GiveUp):
            desk.journal.emit(Noted(text=f"The model has no further idea: {finish.reason}"))
            return None
        assert isinstance(finish, SubmitKernel), "the toolbox of kernels has two finishers"
        kernel = Kernel(source=finish.source, function=finish.function)
        return Proposal(kernel=kernel, change=finish.change, parents=parents)

    def _converse(self, user: str, toolbox: Toolbox, desk: Desk) -> Arguments:
        """Talk until a finishing tool is called.

        Raises:
            PolicyFailed: the model is out of reach, or doesn't finish within the allowed turns.
            BudgetSpent: a limit is reached.
        """
        turns: list[Turn] = [UserTurn(text=user)]
        for _ in range(desk.settings.model_turns):
            reply = self._ask(turns, toolbox, desk)
            turns.append(AssistantTurn(reply=reply))
            if reply.stop == "refusal":
                raise PolicyFailed("the model declined to answer")
            if not reply.calls:
                problem = "length" if reply.stop == "length" else "no_call"
                turns.append(UserTurn(text=load_prompt("nudge").render(problem=problem)))
                continue
            try:
                turns.append(ToolTurn(results=tuple(toolbox.use(call) for call in reply.calls)))
            except Finish as finish:
                return finish.arguments
        raise PolicyFailed(f"the model didn't finish its step within {desk.settings.model_turns} calls")

    def _ask(self, turns: list[Turn], toolbox: Toolbox, desk: Desk) -> Reply:
        desk.meter.check_model_allowed()
        system = load_prompt("system").render(knowledge=load_prompt("nki").render())
        text = _Lines(desk)
        try:
            reply = with_backoff(
                lambda: self._chat.complete(system, turns, toolbox.specs, text.add),
                desk.meter,
                desk.settings.model_retries,
                lambda reason, wait: desk.journal.emit(ModelRetried(reason=reason, wait_seconds=round(wait, 2))),
            )
        except ModelRefused as error:
            raise PolicyFailed(str(error)) from error
        finally:
            text.flush()
        cost = dollars(self._chat.model, reply) if self._chat.listed_price else None
        desk.meter.charge_tokens(reply.input_tokens + reply.output_tokens, cost)
        desk.journal.emit(BudgetUsed(used=desk.meter.used))
        return reply


class _Lines:
    """Gathers streamed text into lines: an event for each token would fill the store."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._buffer = ""

    def add(self, piece: str) -> None:
        self._desk_check()
        self._buffer += piece
        *lines, self._buffer = self._buffer.split("\n")
        for line in lines:
            if line.strip():
                self._desk.journal.emit(ModelText(text=line))

    def _desk_check(self) -> None:
        # A long answer must not outlive a cancellation.
        if self._desk.meter.cancelled:
            self._desk.meter.check()

    def flush(self) -> None:
        if self._buffer.strip():
            self._desk.journal.emit(ModelText(text=self._buffer))
        self._buffer = ""


def _described(task: Task | None) -> str:
    assert task is not None, "kernels and answers come after specify"
    return load_prompt("task").render(task=task)


def _history(state: RunState) -> list[Candidate]:
    judged = [c for c in state.candidates if c.evaluation is not None]
    recent = judged[-_REMEMBERED:]
    best = state.best
    return recent if best is None or best in recent else [best, *recent]
