"""A suite: requests as data, in TOML under `evals/suites`."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, ValidationError, model_validator

from agent.faults import fault_text, place_of
from agent.state import RunRequest
from tools.task import Budget, Frozen, Target
from tools.task_errors import RequestError

SUITES = Path(__file__).resolve().parent / "suites"


class Problem(Frozen):
    """One request of a suite."""

    id: str = Field(pattern=r"^[a-z0-9-]+$")
    request: str = ""
    """The words, as a user would type them."""
    reference: str = ""
    """`file.py:function`, relative to the suite's folder."""
    goal: str | None = None
    target: Target | None = None
    attempts: int | None = Field(default=None, ge=1)
    expect: Literal["solved", "refused"] = "solved"
    """`refused`: a request that has to be turned down with a sentence."""
    tags: tuple[str, ...] = ()


class Suite(Frozen):
    """A named list of problems with the budget that each of them gets."""

    name: str
    description: str
    budget: Budget = Budget()
    problems: tuple[Problem, ...] = Field(min_length=1)
    folder: Path = SUITES

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        ids = [p.id for p in self.problems]
        twice = sorted({i for i in ids if ids.count(i) > 1})
        if twice:
            raise ValueError(f"problem ids must differ; {', '.join(twice)} stand twice")
        return self

    def request(self, problem: Problem, policy: str | None, model: str | None = None) -> RunRequest:
        """The problem as a request to the agent.

        Raises:
            RequestError: its reference file is missing, or the request is malformed.
        """
        source = function = None
        if problem.reference:
            file, _, function = problem.reference.partition(":")
            path = self.folder / file
            if not path.is_file():
                raise RequestError(f"suite {self.name}: {path} doesn't exist (problem {problem.id})")
            source, function = path.read_text(encoding="utf-8"), function or "reference"
        budget = self.budget
        if problem.attempts is not None:
            budget = budget.model_copy(update={"attempts": problem.attempts})
        try:
            return RunRequest.model_validate(
                {
                    "request": problem.request,
                    "reference_source": source,
                    "reference_function": function,
                    "goal": problem.goal,
                    "target": problem.target,
                    "policy": policy or "auto",
                    "model": model,
                    "budget": budget,
                }
            )
        except ValidationError as error:
            first = error.errors()[0]
            field = "".join(f"{part}: " for part in first["loc"])
            raise RequestError(f"suite {self.name}, problem {problem.id}: {field}{first['msg']}") from error


def suites() -> list[str]:
    """Names of the suites that come with the project."""
    return sorted(path.stem for path in SUITES.glob("*.toml"))


def load_suite(name: str) -> Suite:
    """A suite by its name, or by the path of a TOML file.

    Raises:
        RequestError: there is no such suite, or it is malformed.
    """
    path = Path(name) if name.endswith(".toml") else SUITES / f"{name}.toml"
    if not path.is_file():
        raise RequestError(
            f"there is no suite {name!r}; choose from {', '.join(suites())}, or give the path of a .toml file"
        )
    try:
        return Suite(**tomllib.loads(path.read_text(encoding="utf-8")), folder=path.parent)
    except tomllib.TOMLDecodeError as error:
        raise RequestError(f"suite {path.name} is no TOML: {error}") from error
    except (ValidationError, TypeError) as error:
        fault = str(error)
        if isinstance(error, ValidationError):
            first = error.errors()[0]
            fault = f"{place_of(first['loc'])}: {fault_text(first)}".removeprefix(": ")
        raise RequestError(f"suite {path.name} is malformed: {fault}") from error
