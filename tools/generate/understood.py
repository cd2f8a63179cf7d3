"""Refuses a request of which a part was not understood, rather than computing something else without saying so."""

from __future__ import annotations

import re
from itertools import pairwise

from tools.generate.axes import check_axis
from tools.generate.request import Mention, Request
from tools.task_errors import RequestError

_WAY_OUT = (
    "say it in other words, as an expression such as relu(x @ w + b), or give a NumPy reference with "
    "--reference file.py:function."
)
_PRAISE = (
    r"(?!\s+(?:performance|speed|throughput|latency|time|efficiency|bandwidth|utili[sz]ation|(?:rel|abs)\w*\s+error))"
)
_ARITHMETIC = re.compile(
    r"(?<![\w.-])("
    r"cube[ds]?|cube root|roots?|squares?|squared|raised to|to the power|pow|modulo|remainder|round(?:ed|ing)?|floor|"
    r"ceil(?:ing)?|sign|clip(?:ped|ping)?|clamp(?:ed|ing)?|threshold(?:ed|ing)?|masked|causal|median|std|"
    r"(?:standard )?deviation|norms?|normali[sz]e|normali[sz]ing|normali[sz]ation|(?:squared|absolute|mean) error|mse|mae|rmse|"
    r"(?<!without )loss(?! of)|distances?|similarity|entropy|divergence|outer|products?|cumulative|cum(?:sum|prod|max|min)|"
    r"reversed?|flip(?:ped)?|roll(?:ed)?|concat(?:enat\w+)?|diagonal|elu|selu|celu|glu|geglu|reglu|prelu|"
    r"hard[- ]?(?:tanh|sigmoid|swish)|relu6|softsign|softmin|log2|log10|log1p|expm1|exp2|arc(?:sin|cos|tan)|asin|acos|atan|"
    r"tan|sinh|cosh|ratio|plus|minus|divided|subtracted|multiplied|(?:sums?|means?|averages?|max(?:imum)?|min(?:imum)?|"
    rf"variances?)(?<!on average)(?<!at max)(?<!at min){_PRAISE}"
    r")(?![\w-])",
    re.IGNORECASE,
)
"""Words that ask for arithmetic; one that no operator has taken would be left out of the kernel."""
_NEXT = re.compile(
    r"\b(?:then|followed by)\s+(?:(?:apply|do|take|use|an?|the)\s+)*([a-z][\w-]*)\s*(?=[,;.:]|$|\bthen\b|\bfollowed\b|\bof\b)",
    re.IGNORECASE,
)
_NO_OPERATION = ("please", "stop", "store", "save", "return", "write", "now", "done", "it", "that", "then", "again")
_SYMBOL = re.compile(
    r"(?:(?<![\w.])([a-z]\w*)|\))\s*(?:\*\*?|[+/@^]|(?<=\s)-(?=\s))\s*(?:([a-z]\w*)|\d|\()", re.IGNORECASE
)
_NEGATED = re.compile(r"(?:^|[(\s,])[-\u2212]\s*([a-z]\w*)(?![\w-])", re.IGNORECASE)
_NUMBER = re.compile(r"(?<![\w.])\d+(?:\.\d+)?(?:e[-+]?\d+)?(?!-?d\b)(?![\w.]*\w)", re.IGNORECASE)
_AXIS_NUMBER = re.compile(r"(?:axis|dim(?:ension)?)\s*[=:]?\s*[-\u2212]?\s*\d", re.IGNORECASE)
_LENGTH = re.compile(r"\b(?:scale|bias|residual|skip)\s+(?:of\s+)?(?:length\s+|size\s+)?\d+(?![\w.])", re.IGNORECASE)
"""A tensor of an operator's name with its length: `scale 20`."""
_SEVERAL = re.compile(
    r"\b(three|four|five|six|seven|eight|[3-9])\s+(?:\w+\s+)?(?:tensors|matrices|arrays|inputs|vectors)\b",
    re.IGNORECASE,
)
_COUNTS = {"three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8}
_STEP = re.compile(r"[,;:]|\b(?:then|followed|and|finally|after|next|with)\b", re.IGNORECASE)
_TAKEN = "\0"


_TWO_MEANINGS = re.compile(r"(?<![\w.-])(?:l2|euclidean)[\s_-]+norms?(?![\w-])", re.IGNORECASE)


def check_meaning(request: Request) -> None:
    """Words that name two different operators must be said more closely.

    Raises:
        RequestError: one of them stands alone; the sentence gives both readings.
    """
    found = _TWO_MEANINGS.search(_left_over(request))
    if found is not None:
        raise RequestError(
            f"{found[0]!r} can mean the norm of each row or each row divided by its norm: say 'L2 norm of each row' or "
            "'L2 normalise each row'."
        )


def check_understood(request: Request) -> None:
    """Every word that asks for arithmetic must have become part of the reference.

    Raises:
        RequestError: one has not; the sentence quotes it.
    """
    check_meaning(request)
    check_axis(request)
    left = _left_over(request)
    if any(m.word.arity == "attention" for m in request.mentions):
        left = re.sub(r"dot[- ]products?", " ", left, flags=re.IGNORECASE)
    names = {t.name.lower() for t in request.tensors if t.name}
    found = next((m for m in _ARITHMETIC.finditer(left) if m[0].lower() not in names), None)
    if found is not None:
        raise RequestError(f"{found[1]!r} isn't understood here: {_WAY_OUT}")
    step = next((m for m in _NEXT.finditer(left) if m[1].lower() not in {*names, *_NO_OPERATION}), None)
    if step is not None:
        raise RequestError(f"the step {step[1]!r} isn't known: {_WAY_OUT}")
    for symbol in _SYMBOL.finditer(left):
        if any(side and (len(side) <= 2 or side.lower() in names) for side in symbol.groups()):
            raise RequestError(f"{symbol[0].strip()!r} isn't understood among words: {_WAY_OUT}")
    _check_numbers(request, left)
    negated = next((m for m in _NEGATED.finditer(left) if len(m[1]) <= 2 or m[1].lower() in names), None)
    if negated is not None:
        raise RequestError(f"{negated[0].strip(' (,')!r} isn't understood among words: {_WAY_OUT}")
    if not request.expression:
        _check_operands(request)


def _check_numbers(request: Request, left: str) -> None:
    """A number that nothing has taken (a temperature, a slope, an epsilon) would be left out of the kernel."""
    several = _SEVERAL.search(left)
    if several is not None:
        count = _COUNTS.get(several[1].lower()) or int(several[1])
        if len(request.tensors) < count and not request.expression:
            raise RequestError(f"{several[0]!r} isn't understood, because their shapes aren't all given: {_WAY_OUT}")
        left = left.replace(several[0], "")
    left = _LENGTH.sub(" ", _AXIS_NUMBER.sub(" ", left))
    number = _NUMBER.search(left)
    if number is not None:
        raise RequestError(f"the number {number[0]} isn't understood here: {_WAY_OUT}")


def _left_over(request: Request) -> str:
    left = request.words
    for mention in request.mentions:
        left = left[: mention.start] + _TAKEN * (mention.end - mention.start) + left[mention.end :]
    return left


def _check_operands(request: Request) -> None:
    """`exp of x plus exp of y` combines two results, which a chain of operators can't say."""
    in_text = sorted(request.mentions, key=lambda m: m.start)
    for mention in in_text:
        pronoun = re.match(r"\s+(?:it|them|that|this|those)(?!\w)", request.words[mention.end :])
        if mention.word.arity == "binary" and mention.number is None and pronoun:
            raise RequestError(
                f"{(request.words[mention.start : mention.end] + pronoun[0]).strip()!r} isn't understood, because it takes "
                f"up an earlier result: {_WAY_OUT}"
            )
    for mention, after in pairwise(in_text):
        if mention.word.arity == "binary" and mention.number is None and _takes_operand(after):
            gap = request.words[mention.end : after.start]
            if not _STEP.search(gap):
                raise RequestError(
                    f"{request.words[mention.start : after.end].strip()!r} isn't understood, because it combines two "
                    f"results: {_WAY_OUT}"
                )


def _takes_operand(mention: Mention) -> bool:
    return mention.word.arity in ("unary", "reduce", "norm", "matmul", "gated")
