"""What a policy is: the part of the agent that thinks. The graph is the same for all of them."""

from __future__ import annotations

from typing import Protocol

from agent.desk import Desk
from agent.state import Proposal, RunRequest, RunState
from tools.task import Task


class BeyondPolicy(Exception):
    """The request is one that this policy can't serve; one sentence with what to do instead."""


class PolicyFailed(Exception):
    """The policy can't go on (its model is out of reach, or makes no sense); one sentence saying why."""


class Policy(Protocol):
    """Turns a request into a task and a task into kernels. May raise `BudgetSpent` at any time."""

    @property
    def name(self) -> str:
        """`offline`, `openai`, `anthropic` or `scripted`."""

    @property
    def model(self) -> str:
        """The vendor's model name; empty without a model."""

    @property
    def prompts(self) -> str:
        """Version of the prompts; empty without a model."""

    def specify(self, request: RunRequest, desk: Desk) -> Task:
        """Understand the request.

        Raises:
            RequestError: the request is wrong in itself.
            BeyondPolicy: the request is beyond this policy.
        """

    def draft(self, state: RunState, desk: Desk) -> Proposal | None:
        """The first kernel. None: no idea.

        Raises:
            BeyondPolicy: the task is beyond this policy.
        """

    def debug(self, state: RunState, desk: Desk) -> Proposal | None:
        """Mend the kernel that was judged last and found wrong. None: no idea."""

    def improve(self, state: RunState, desk: Desk) -> Proposal | None:
        """A faster kernel than the best one. None: nothing left to try."""

    def answer(self, question: str, state: RunState, desk: Desk) -> str:
        """Answer a question about the run, its best kernel and its profile."""
