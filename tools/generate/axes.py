"""Which axis a request names. Operators in words work along the last one, so any other that no operator took is refused."""

from __future__ import annotations

import re

from tools.generate.request import Request
from tools.task_errors import RequestError

_ALONG = ("reduce", "norm", "attention")
"""Operators for which the axis matters, by arity."""
_ALONG_KEYS = ("softmax", "log_softmax", "l2norm")

_NUMBERED = re.compile(
    r"(?:\baxis\s*[=:]?\s*|\bdim(?:ension)?\s*[=:]\s*|\b(?:over|along|across|on)\s+(?:the\s+)?dim(?:ension)?\s+)([-\u2212]?\d)(?!\d)",
    re.IGNORECASE,
)
_ORDINAL = re.compile(
    r"\b(zeroth|first|second|third|fourth|middle|leading|batch|row|outer(?:most)?)\s+(?:axis|dim(?:ension)?)\b",
    re.IGNORECASE,
)
_COLUMNS = re.compile(
    r"\b(?:(?:over|along|across|down)\s+(?:the\s+|all\s+)?columns?|(?:of|for)\s+(?:each|every)\s+column|"
    r"column[- ]?wise|(?:sums?|means?|averages?|max(?:imum)?|min(?:imum)?|variances?|norms?|soft\s?max)\s+per\s+column|"
    r"column[- ](?:sums?|means?|averages?|max(?:imum|ima)?|min(?:imum|ima)?|variances?|norms?|soft\s?max))\b"
    r"(?!\s+(?:of|in)\s+(?:each|every)\s+row)",
    re.IGNORECASE,
)
_POSITIONS = {"zeroth": 0, "first": 0, "leading": 0, "second": 1, "third": 2, "fourth": 3}


def check_axis(request: Request) -> None:
    """An axis that is named must be the one that the operators work along.

    Raises:
        RequestError: it is another one; the sentence quotes it.
    """
    sensitive = [m for m in request.mentions if m.word.arity in _ALONG or m.word.key in _ALONG_KEYS]
    if not sensitive:
        return
    words = request.words
    for mention in sensitive:
        if mention.word.key.startswith("column_"):
            words = words[: mention.start] + "\0" * (mention.end - mention.start) + words[mention.end :]
    rank = max((len(t.shape) for t in request.tensors), default=2)
    phrase = _other_axis(f"{words} {request.expression}", rank)
    if phrase:
        raise RequestError(
            f"{phrase!r} isn't understood here: operators in words work along the last axis; transpose before and after, ask for "
            "a column sum or column mean, or give a NumPy reference with --reference file.py:function."
        )


def _other_axis(text: str, rank: int) -> str:
    """The first phrase that names an axis other than the last of `rank`, or nothing."""
    for match in _NUMBERED.finditer(text):
        number = int(match[1].replace("\u2212", "-"))
        if number not in (-1, rank - 1):
            return match[0].strip()
    for match in _ORDINAL.finditer(text):
        if _POSITIONS.get(match[1].lower(), -1) != rank - 1:
            return match[0].strip()
    columns = _COLUMNS.search(text)
    return columns[0].strip() if columns else ""
