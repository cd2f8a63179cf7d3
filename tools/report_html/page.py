"""Renders the page from its template, style and script, which lie beside this file."""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from pathlib import Path

from tools.export.atomic import write_text
from tools.insight import Advice, Explanation, Generation, Observed, TraceError, advise, explain_gap, what_if
from tools.report_html.content import content

HERE = Path(__file__).resolve().parent
SECONDS = 20.0
"""Time for the proofs of the findings, and for four engines' explanations; a long launch gets fewer of them."""


def render(
    seen: Observed,
    title: str,
    *,
    advice: tuple[Advice, ...] | None = None,
    explanations: tuple[Explanation, ...] | None = None,
    generations: tuple[Generation, ...] | None = None,
    warnings: Sequence[str] = (),
) -> str:
    """The page as one HTML text that loads nothing else.

    Args:
        seen: the timed launch.
        title: name of the kernel, shown as the heading.
        advice, explanations, generations: what the insight tools found; by default they are run.
        warnings: errors and warnings of the recording, in words.
    """
    if advice is None:
        advice = advise(seen, seconds=SECONDS)
    if explanations is None:
        explanations = tuple(
            explain_gap(seen, engine=use.engine, core=use.core, limit=5, seconds=SECONDS / 4)
            for use in seen.profile.engines
            if use.instructions and use.engine != "Sync"
        )
    if generations is None:
        generations = what_if(seen.trace, options=seen.options)
    data = json.dumps(content(seen, title, advice, explanations, generations, warnings), allow_nan=False)
    # Inside a script element only `<` could end the data early.
    data = data.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
    page = (HERE / "page.html").read_text(encoding="utf-8")
    parts = {
        "{{title}}": html.escape(title),
        "{{style}}": (HERE / "page.css").read_text(encoding="utf-8"),
        "{{script}}": (HERE / "page.js").read_text(encoding="utf-8"),
        "{{data}}": data,
    }
    for mark, text in parts.items():
        before, _, after = page.partition(mark)
        page = before + text + after
    return page


def write_report(path: Path, seen: Observed, title: str, warnings: Sequence[str] = ()) -> None:
    """Write the page whole or not at all.

    Raises:
        OSError: the folder can't be written.
    """
    write_text(path, render(seen, title, warnings=warnings))


__all__ = ["TraceError", "render", "write_report"]
