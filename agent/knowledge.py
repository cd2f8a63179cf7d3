"""What a model may look up: sections of the knowledge pages, and the kernel library. Plain word search, offline."""

from __future__ import annotations

import re
from functools import cache

from agent.prompt import FOLDER, load_prompt
from tools.task import Frozen

_WORD = re.compile(r"[a-z0-9_]+")


class Section(Frozen):
    """A headed piece of a page."""

    page: str
    title: str
    text: str


@cache
def sections() -> tuple[Section, ...]:
    """All sections of the knowledge pages (`prompts/nki*.md`)."""
    found: list[Section] = []
    for path in sorted(FOLDER.glob("nki*.md")):
        text = load_prompt(path.stem).render()
        for part in re.split(r"(?m)^(?=## )", text):
            title, _, body = part.partition("\n")
            found.append(Section(page=path.stem, title=title.lstrip("# "), text=body.strip()))
    return tuple(found)


def search(query: str, limit: int = 3) -> list[Section]:
    """The sections that share most words with the query; a word in a title counts three times."""
    words = set(_WORD.findall(query.lower()))
    scored: list[tuple[int, int]] = []
    for index, section in enumerate(sections()):
        title, text = _WORD.findall(section.title.lower()), _WORD.findall(section.text.lower())
        score = sum(3 * title.count(word) + min(text.count(word), 5) for word in words)
        if score:
            scored.append((-score, index))
    return [sections()[index] for _, index in sorted(scored)[:limit]]


def search_text(query: str) -> str:
    """Search result for a model."""
    found = search(query)
    if not found:
        return f"nothing found; sections: {'; '.join(s.title for s in sections())}"
    return "\n\n".join(f"## {section.title}\n{section.text}" for section in found)


def library_text(name: str) -> str:
    """An example's task, reference and kernel; the list of examples when there is none of that name."""
    from tools.library import KERNELS, library

    entries = library()
    if name not in [entry.op for entry in entries]:
        head = f"there is no example {name!r}; examples:\n" if name else ""
        return head + "\n".join(f"{entry.op}: {entry.description}" for entry in entries)
    folder = KERNELS / name
    parts = [
        f"# kernels/{name}/{file}\n{(folder / file).read_text(encoding='utf-8')}"
        for file in ("task.toml", "reference.py", "kernel.py")
    ]
    return "\n".join(parts)
