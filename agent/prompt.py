"""Prompts: Markdown files with a head of TOML, rendered by Jinja2 with strict variables.

Every word that a model reads lies in `prompts/`, except tool schemas, which come from their pydantic models.
"""

from __future__ import annotations

import hashlib
import re
import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from jinja2 import Environment, StrictUndefined, Template

FOLDER = Path(__file__).resolve().parents[1] / "prompts"

_HEAD = re.compile(r"\A\+\+\+\n(.*?)\n\+\+\+\n(.*)\Z", re.DOTALL)


@dataclass(frozen=True)
class Prompt:
    """One prompt file.

    Attributes:
        name: file name without its ending.
        purpose: what it is for.
        variables: the names it needs; rendering with other names is an error.
    """

    name: str
    purpose: str
    variables: tuple[str, ...]
    template: Template

    def render(self, **values: object) -> str:
        """The text for these values.

        Raises:
            ValueError: a variable is missing, or one is given that the head doesn't name.
        """
        if set(values) != set(self.variables):
            raise ValueError(f"prompt {self.name} needs {sorted(self.variables)}, got {sorted(values)}")
        return self.template.render(**values).strip() + "\n"


@cache
def load_prompt(name: str) -> Prompt:
    """Read `prompts/NAME.md`.

    Raises:
        FileNotFoundError: there is no such prompt.
        ValueError: it has no head with `purpose` and `variables`.
    """
    match = _HEAD.match((FOLDER / f"{name}.md").read_text(encoding="utf-8"))
    if match is None:
        raise ValueError(f"prompts/{name}.md has no head between two lines of +++")
    head = tomllib.loads(match[1])
    environment = Environment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, autoescape=False)
    return Prompt(
        name=name,
        purpose=head["purpose"],
        variables=tuple(head["variables"]),
        template=environment.from_string(match[2]),
    )


@cache
def prompts_version() -> str:
    """Short hash over all prompt files: two runs with the same one were told the same."""
    digest = hashlib.sha256()
    for path in sorted(FOLDER.glob("*.md")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:10]
