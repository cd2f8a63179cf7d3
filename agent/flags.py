"""The flags that several commands share, and what they make: a request and a budget."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from pydantic import ValidationError

from agent.faults import fault_text, place_of
from agent.sources import read_function
from agent.state import RunRequest
from tools.task import Budget
from tools.task_errors import RequestError

T = TypeVar("T")

ReferenceFlag = Annotated[
    str | None, typer.Option("--reference", metavar="FILE.py:FUNCTION", help="NumPy function to take as specification.")
]
GoalFlag = Annotated[str | None, typer.Option("--goal", help="roofline>=0.6, latency<=120us, speedup>=2 or correct.")]
TargetFlag = Annotated[
    str | None, typer.Option("--target", help="trn1, trn2 or trn3; default: what the words say, else trn2.")
]
PolicyFlag = Annotated[str | None, typer.Option("--policy", help="offline, openai, anthropic, scripted or auto.")]
ModelFlag = Annotated[str | None, typer.Option("--model", help="The vendor's model name.")]
OutFlag = Annotated[Path | None, typer.Option("--out", help="Folder for kernel.py and report.json.")]
JsonFlag = Annotated[bool, typer.Option("--json", help="Print the result as JSON, alone, on standard output.")]
AttemptsFlag = Annotated[int | None, typer.Option("--attempts", help="Full evaluations at most.")]
SecondsFlag = Annotated[float | None, typer.Option("--seconds", help="Wall seconds at most.")]
TokensFlag = Annotated[int | None, typer.Option("--tokens", help="Model tokens at most.")]
DollarsFlag = Annotated[float | None, typer.Option("--dollars", help="Model dollars at most.")]


def budget_of(
    base: Budget, attempts: int | None, seconds: float | None, tokens: int | None, dollars: float | None
) -> Budget:
    """A budget with the flags that were given.

    Raises:
        RequestError: a limit is out of range.
    """
    given = {"attempts": attempts, "seconds": seconds, "tokens": tokens, "dollars": dollars}
    values = {**base.model_dump(), **{name: value for name, value in given.items() if value is not None}}
    return checked(lambda: Budget(**values))


def request_of(
    words: str,
    reference: str | None,
    goal: str | None,
    target: str | None,
    policy: str | None,
    model: str | None,
    budget: Budget,
) -> RunRequest:
    """The request that the flags make.

    Raises:
        RequestError: one of them can't be used.
    """
    given: dict[str, Any] = {"request": words, "goal": goal, "target": target, "model": model, "budget": budget}
    if policy is not None:
        given["policy"] = policy
    if reference is not None:
        given["reference_source"], given["reference_function"] = read_function(reference)
        given["reference_file"] = Path(reference.rpartition(":")[0]).name
    return checked(lambda: RunRequest(**given))


def checked(make: Callable[[], T]) -> T:
    """Make a model; its faults become one sentence.

    Raises:
        RequestError: a field can't be used.
    """
    try:
        return make()
    except ValidationError as error:
        raise RequestError(sentence(error)) from error


def sentence(error: ValidationError) -> str:
    """The first fault of a model in one sentence."""
    first = error.errors()[0]
    place = place_of(first["loc"])
    if first["type"] == "literal_error":
        return f"{place} {first['input']!r} isn't known; use {first['ctx']['expected']}"
    return f"{place}: {fault_text(first)}" if place else fault_text(first)
