"""All tools as one table: name, description, argument and result models, function. Every face is made from it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from pydantic import BaseModel

from tools.docs import DocsArgs, DocsResult, docs
from tools.explain import ExplainArgs, ExplainResult, explain
from tools.lint import LintArgs, LintResult, lint
from tools.profile import ProfileArgs, ProfileResult, profile
from tools.simulate import SimulateArgs, SimulateResult, simulate

A = TypeVar("A", bound=BaseModel)
R = TypeVar("R", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Tool(Generic[A, R]):
    """One thing that can be done to a kernel.

    Attributes:
        description: what it does, for people and models (the argument model's docstring).
        arguments: model of its arguments; the schema of every face comes from it.
        result: model of its result.
    """

    name: str
    arguments: type[A]
    result: type[R]
    function: Callable[[A], R]

    @property
    def description(self) -> str:
        """One or two sentences, from the argument model."""
        return " ".join((self.arguments.__doc__ or "").split())

    @property
    def schema(self) -> dict[str, Any]:
        """JSON schema of the arguments."""
        return self.arguments.model_json_schema()

    def call(self, arguments: dict[str, Any]) -> R:
        """Check plain values against the argument model and run the tool.

        Raises:
            pydantic.ValidationError: the arguments don't fit.
            RequestError: they fit the model but can't be meant.
        """
        return self.function(self.arguments.model_validate(arguments))


TOOLS: tuple[Tool[Any, Any], ...] = (
    Tool("simulate", SimulateArgs, SimulateResult, simulate),
    Tool("lint", LintArgs, LintResult, lint),
    Tool("profile", ProfileArgs, ProfileResult, profile),
    Tool("explain", ExplainArgs, ExplainResult, explain),
    Tool("docs", DocsArgs, DocsResult, docs),
)
"""Every tool, in the order in which they are listed."""


def tool(name: str) -> Tool[Any, Any]:
    """The tool called `name`.

    Raises:
        KeyError: no such tool; the message lists them.
    """
    for found in TOOLS:
        if found.name == name:
            return found
    raise KeyError(f"no tool {name!r}; there are {', '.join(t.name for t in TOOLS)}")
