"""The tool `docs`: what the simulator knows about instructions and machines, from the tables that it runs by."""

from __future__ import annotations

import inspect
import re
from functools import cache

from pydantic import BaseModel, ConfigDict, Field

from tools.sim.frontend.modules import language_module
from tools.sim.instruction import BY_NAME
from tools.sim.machine import TARGETS, machine
from tools.task import Frozen

_WORD = re.compile(r"[a-z0-9]+")


class DocsArgs(BaseModel):
    """Look up instructions, language functions, and limits, clocks or rates of the machines."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    query: str = Field(max_length=300, description="A name or a few words, e.g. 'nc_matmul' or 'psum banks'.")
    limit: int = Field(default=5, ge=1, le=20, description="How many entries.")


class Entry(Frozen):
    """One entry of the reference."""

    name: str
    text: str


class DocsResult(Frozen):
    """The entries that fit best, the best first; empty when nothing does."""

    entries: tuple[Entry, ...]


def docs(args: DocsArgs) -> DocsResult:
    """Look something up: a name counts most, then words in it, then words in the text."""
    asked = args.query.strip().lower()
    words = set(_WORD.findall(asked))
    scored = []
    for index, entry in enumerate(_entries()):
        name = entry.name.lower()
        score = 100 * (name == asked or name.endswith(f".{asked}"))
        named, said = _WORD.findall(name), _WORD.findall(entry.text.lower())
        score += sum(10 * (w in named) + min(said.count(w), 3) for w in words)
        if score:
            scored.append((-score, index))
    return DocsResult(entries=tuple(_entries()[i] for _, i in sorted(scored)[: args.limit]))


@cache
def _entries() -> tuple[Entry, ...]:
    found = []
    for namespace in ("nki.isa", "nki.language"):
        module = language_module(namespace)
        for name, value in sorted(vars(module).items()):
            if inspect.isfunction(value) and not name.startswith("_"):
                found.append(Entry(name=f"{namespace}.{name}", text=_described(name, value)))
    for field in sorted(machine(TARGETS[0]).facts):
        parts = []
        for target in TARGETS:
            fact = machine(target).fact(field)
            parts.append(f"{target}: {fact.value:g} {fact.unit}".rstrip())
        fact = machine(TARGETS[-1]).fact(field)
        found.append(Entry(name=f"machine.{field}", text=f"{'; '.join(parts)}. Source: {fact.source}"))
    return tuple(found)


def _described(name: str, value: object) -> str:
    assert inspect.isfunction(value)
    signature = str(inspect.signature(value)).replace("tools.sim.tensor.", "").replace("'", "")
    text = f"{name}{signature}\n{inspect.getdoc(value) or ''}".strip()
    opcode = BY_NAME.get(name)
    if opcode is not None and opcode.engines:
        engines = ", ".join(e.name.title() for e in opcode.engines)
        text += f"\nEngines: {engines} (the first is the default). Source: {opcode.source}"
    return text
