"""Reads a request: target, goal, element types, tolerance and tensors; what remains are the words of a sentence."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass, field

from tools.generate.declarations import Declarations, NamedTensor
from tools.generate.expression import find_expressions
from tools.generate.lexicon import NOT_SAID, PHRASES
from tools.generate.tokens import Token, may_name, phrases, size, tokenize
from tools.generate.vocabulary import (
    BAD_DTYPE,
    DTYPES,
    FOREIGN_TARGET,
    GOALS,
    TARGET,
    TARGETS,
    VAGUE_GOAL,
)
from tools.task import Goal, GoalKind
from tools.task_errors import RequestError

WAY_OUT = (
    "say it in other words, as an expression such as relu(x @ w + b), or give a NumPy reference with "
    "--reference file.py:function."
)


@dataclass(slots=True)
class Request:
    """What a text says, before it is put together.

    Attributes:
        tokens: the sentence: phrases, names, numbers, expressions, and tensors where they were declared.
        tensors: in order of declaration.
        bias: False when the request excludes one.
    """

    text: str
    tokens: list[Token] = field(default_factory=list)
    tensors: list[NamedTensor] = field(default_factory=list)
    target: str = ""
    goal: Goal | None = None
    dtype: str = ""
    output_dtype: str = ""
    precision: str = ""
    tolerance: float | None = None
    rows: int = 0
    columns: int = 0
    without: set[str] = field(default_factory=set)
    names: set[str] = field(default_factory=set)
    """Words that name tensors, wherever they stand."""

    @property
    def operates(self) -> bool:
        """Whether it names an operator or holds an expression."""
        infix = any(
            t.kind == "symbol"
            and t.text in ("@", "+", "-", "*", "/")
            and before.kind in ("tensor", "word")
            and after.kind in ("tensor", "word")
            for before, t, after in zip(self.tokens, self.tokens[1:], self.tokens[2:])
        )
        return infix or any(
            t.kind == "expression" or (t.entry is not None and t.entry.kind in _OPERATING) for t in self.tokens
        )


_OPERATING = ("op", "infix", "postfix", "transposed", "ambiguous", "foreign", "quality")
_DIM = r"\d[\d_]*k?"
_TYPE_NAMES = "|".join(sorted(map(re.escape, DTYPES), key=len, reverse=True))
_TYPE = rf"({_TYPE_NAMES})(?!\w)"
_OUTPUT_TYPE = re.compile(
    rf"(?:(?<!\w)(?:with|and|an?|the|give|store|return|write)\s+)*(?:outputs?|results?)\s*(?:in|as|is|of|are|dtype|type|:|=|should be|must be)?\s*(?:type |dtype )?[:=]?\s*{_TYPE}|"
    rf"(?:(?<!\w)(?:with|and|an?|the|to|in|as)\s+)*(?<!\w){_TYPE}\s+(?:output|result)s?(?!\w)",
    re.IGNORECASE,
)
_PRECISION = re.compile(
    r"(?:(?<!\w)(?:and|but|with)\s+)*(?<!\w)(?:comput(?:e|ed|ing|ation|ations)|accumulat(?:e|ed|ing|ion|ions)|multiplications|matmuls|math)\s+(?:it\s+|them\s+|everything\s+|is\s+|are\s+)?(?:only\s+)?(?:in|with)\s+(?:full\s+)?(fp32|float32|full precision)(?:\s+accumulation)?|"
    r"(?:with\s+)?(fp32|float32|f32)\s+(?:accumulation|accumulate|math|accumulator)s?",
    re.IGNORECASE,
)
_TOLERANCE = re.compile(
    r"(?:(?<!\w)(?:with|within|and|to|a|an|of|the)\s+)*(?<!\w)(?:(?:rel(?:ative)?|abs(?:olute)?|max(?:imum)?|allowed|error)\.?\s+)*(?:tolerance|rtol|tol|error|accuracy)\s*"
    r"(?:<=?|below|under|at most|of|is|=|:|less than|within)?\s*(?:of\s+)?(\d+\.?\d*e-?\d+|\d*\.\d+|\d+(?:\.\d+)?\s*%|\d+)(?![\w.])",
    re.IGNORECASE,
)
_WITHOUT = re.compile(
    r"(?:,?\s*\b(?:and|but|with|has|having)\s+)?\b(?:without|no)\s+(?:an?\s+|any\s+|the\s+|learnable\s+)*(bias(?:es)?|gains?|weights?|scale|affine(?:\s+parameters)?|"
    r"residual|parameters|activation|shift|gamma|beta)(?:\s+(?:or|and|nor|,)\s+(?:no\s+|without\s+|an?\s+)?(bias(?:es)?|gains?|scale|weights?|shift|gamma|beta))?\b",
    re.IGNORECASE,
)
"""What a request says that it doesn't want."""
_ONE = {"biases": "bias", "gains": "gain", "weights": "weight"}
_ROWS = re.compile(
    rf"(?:(?<!\w)(?:for|with|on|of|over|and|x has|has)\s+)*(?<!\w)(?:({_DIM})\s+(?:rows|tokens|sequences|samples)|(?:rows|tokens|n_rows|num_rows)\s*[=:]\s*({_DIM}))(?!\w)",
    re.IGNORECASE,
)
_COLUMNS = re.compile(
    rf"(?:(?<!\w)(?:for|with|on|of|over|and|by|x)\s+)*(?<!\w)(?:({_DIM})\s+(?:columns|cols|features|channels|elements(?: per row| each)?|values per row|wide)|"
    rf"(?:columns|cols|features|hidden(?: size| dim(?:ension)?)?|n_cols|num_cols|width)\s*[=:]?\s*({_DIM})(?!\s*[x*]\s*\d))(?!\w)",
    re.IGNORECASE,
)
_PROJECT = re.compile(
    rf"(?:(?:from|with|of)\s+)?(?<![\w.])({_DIM})\s*(?:->|→|=>|\bto\b|\binto\b)\s*({_DIM})(?:\s+(?:features|units|dims?|outputs?))?(?!\w)",
    re.IGNORECASE,
)
_MNK = re.compile(rf"(?<!\w)(?:with\s+)?([mnk])\s*[=:]\s*({_DIM})(?!\w|\s*[x*]\s*\d)", re.IGNORECASE)
_QKV = re.compile(r"(?<!\w)(q\s*/\s*k\s*/\s*v|k\s*/\s*v|qkv)(?!\w)", re.IGNORECASE)
_LEAD_IN = r"(?:(?<!\w)(?:in|on|for|with|using|as|and|at|of|to|targeting|target(?:s|ed)?|dtype|type|element type|data type|precision|a|an|the|both|all|everything|is|are|run(?:ning)?|only|hardware|device|chip|machine|it|inputs?|tensors?|matrices|values|elements|now)[\s:=]+)*"


def read(text: str, names: tuple[str, ...] = ()) -> Request:
    """Find everything that a request says.

    Args:
        text: the request.
        names: of tensors that are known already, in a follow-up.

    Raises:
        RequestError: an unknown target or element type, two goals, a size of 0.
    """
    found = Request(text)
    rest = _plain(text)
    rest = _read_target(found, rest)
    rest = _read_goal(found, rest)
    rest = _read_types(found, rest)
    rest = _read_without(found, rest)
    declared = found.names = _declared_names(rest) | set(names)
    expressions = find_expressions(rest, declared)
    rest = _read_sizes(found, rest, expressions)
    tokens = tokenize(rest, expressions)
    tokens = phrases(tokens, declared)
    shaped = {m[1] for m in _DECLARES.finditer(rest)}
    declarations = Declarations(tokens, declared, shaped, found.tensors)
    found.tokens = declarations.read()
    found.dtype = declarations.dtype
    _check_tensors(found)
    return found


def _plain(text: str) -> str:
    """The text with one spelling for signs, thousands and transpositions."""
    text = (
        text.replace("×", "x").replace("μ", "µ").replace("−", "-").replace("–", "-").replace("’", "'").replace("·", "*")
    )
    text = re.sub(r"(?<=\d),(?=\d{3}(?!\d))(?![^\[(]*[\])])", "", text)
    text = re.sub(r"(?<=[\w)])(?:\s*\^\s*(?:T|⊤)(?!\w)|ᵀ|⊤)", ".T", text)
    text = re.sub(r"(?<=\d)\s*\.\.\.?\s*(?=-?\.?\d)", " to ", text)
    text = re.sub(r"\bdon't\b|\bdo not\b|\bdoes not\b|\bdoesn't\b", "not", text, flags=re.IGNORECASE)
    return _QKV.sub(
        lambda m: " and ".join(c for c in m[0].lower() if c in "qkv").replace(" and ", ", ", len(m[0]) > 3), text
    )


def _blank(text: str, start: int, end: int) -> str:
    return text[:start] + " " * (end - start) + text[end:]


def _read_target(found: Request, rest: str) -> str:
    pattern = re.compile(
        _LEAD_IN + TARGET.pattern + r"(?:\s+(?:chips?|devices?|cores?|hardware|instances?|neuroncores?))?",
        re.IGNORECASE,
    )
    for match in list(pattern.finditer(rest)):
        family = (match[1] or "").lower().replace("trainium", "trn").replace("inferentia", "inf")
        name = (match[3] or f"{family}{match[2]}").lower()
        if name not in TARGETS:
            raise RequestError(
                f"unknown target '{family or match[3]}{match[2] or ''}': ask for trn1, trn2, trn3 or inf2."
            )
        if found.target and found.target != TARGETS[name]:
            raise RequestError(f"the request names two targets, {found.target} and {name}: ask for one of them.")
        found.target = TARGETS[name]
        rest = _blank(rest, match.start(), match.end())
    foreign = FOREIGN_TARGET.search(rest)
    if foreign:
        raise RequestError(f"unknown target {foreign[1].strip()!r}: kernels are written for trn1, trn2, trn3 or inf2.")
    return rest


def _read_goal(found: Request, rest: str) -> str:
    for kind, pattern in GOALS:
        while (match := pattern.search(rest)) is not None:
            goal = _goal(kind, match)
            if found.goal is not None and found.goal != goal:
                raise RequestError(f"the request names two goals, {found.goal} and {goal}: ask for one of them.")
            found.goal = goal
            rest = _blank(rest, match.start(), match.end())
    while (match := VAGUE_GOAL.search(rest)) is not None:
        rest = _blank(rest, match.start(), match.end())
    return rest


def _goal(kind: str, match: re.Match[str]) -> Goal:
    if kind == "half":
        return Goal(kind=GoalKind.ROOFLINE, value=0.5)
    if kind == "twice":
        return Goal(kind=GoalKind.SPEEDUP, value=2.0)
    value = float(match[1])
    if kind == "latency":
        unit = match[2].lower()
        value *= 1000 if unit.startswith(("ms", "mill")) else 0.001 if unit.startswith("n") else 1
        if value <= 0:
            raise RequestError("the goal asks for a latency of 0: give a positive number of microseconds.")
        return Goal(kind=GoalKind.LATENCY, value=value)
    if kind == "speedup":
        if value <= 0:
            raise RequestError("the goal asks for a speed-up of 0: give a positive factor, such as 2x faster.")
        return Goal(kind=GoalKind.SPEEDUP, value=value)
    share = value / 100 if kind == "percent" or value > 1 else value
    if not 0 < share <= 1:
        raise RequestError(f"the goal asks for {value:g} % of the roofline: ask for more than 0 and at most 100 %.")
    return Goal(kind=GoalKind.ROOFLINE, value=share)


def _read_types(found: Request, rest: str) -> str:
    bad = BAD_DTYPE.search(rest)
    if bad:
        raise RequestError(f"element type {bad[0]} isn't offered: use float32, bfloat16, float16 or fp8.")
    for match in list(_PRECISION.finditer(rest)):
        found.precision = "fp32"
        rest = _blank(rest, match.start(), match.end())
    for match in list(_OUTPUT_TYPE.finditer(rest)):
        dtype = DTYPES[re.sub(r"\s+", " ", next(g for g in match.groups() if g).lower())]
        if found.output_dtype and found.output_dtype != dtype:
            raise RequestError(f"the request names two output types, {found.output_dtype} and {dtype}: give one.")
        found.output_dtype = dtype
        rest = _blank(rest, match.start(), match.end())
    for match in list(_TOLERANCE.finditer(rest)):
        value = float(match[1].rstrip(" %")) / (100 if match[1].endswith("%") else 1)
        if not 0 < value <= 0.1:
            raise RequestError(f"a tolerance of {value:g} isn't sensible: give one above 0 and up to 0.1.")
        if found.tolerance is not None and found.tolerance != value:
            raise RequestError("the request names two tolerances: give one.")
        found.tolerance = value
        rest = _blank(rest, match.start(), match.end())
    return rest


def _read_without(found: Request, rest: str) -> str:
    for match in list(_WITHOUT.finditer(rest)):
        found.without |= {_ONE.get(g.lower(), g.lower()) for g in match.groups() if g}
        rest = _blank(rest, match.start(), match.end())
    return rest


def _read_sizes(found: Request, rest: str, expressions: list[tuple[int, int]]) -> str:
    """Rows and columns in words, sizes of a product by letter, and `1024 -> 4096` of a linear layer."""

    def outside(match: re.Match[str]) -> bool:
        return not any(match.start() < b and match.end() > a for a, b in expressions)

    letters = [m for m in _MNK.finditer(rest) if outside(m)]
    sizes = {m[1].lower(): size(m[2]) for m in letters}
    if set(sizes) == {"m", "n", "k"} and len(letters) == 3:
        found.tensors += [NamedTensor("x", (sizes["m"], sizes["k"])), NamedTensor("w", (sizes["k"], sizes["n"]))]
        for match in letters:
            rest = _blank(rest, match.start(), match.end())
    for pattern, name in ((_ROWS, "rows"), (_COLUMNS, "columns")):
        for match in [m for m in pattern.finditer(rest) if outside(m)]:
            value = size(next(g for g in match.groups() if g))
            if getattr(found, name) not in (0, value):
                raise RequestError(
                    f"the request gives two numbers of {name}, {getattr(found, name)} and {value}: give one."
                )
            if value < 1:
                raise RequestError(f"the request gives a size of 0 for the {name}: give 1 or more.")
            setattr(found, name, value)
            rest = _blank(rest, match.start(), match.end())
    for match in [m for m in _PROJECT.finditer(rest) if outside(m)]:
        clip = re.search(r"\b(?:clip|clamp)\w*\b[^,;]*$", rest[: match.start()], re.IGNORECASE)
        if clip is None:
            found.tensors.append(NamedTensor("w", (size(match[1]), size(match[2]))))
            rest = _blank(rest, match.start(), match.end())
    return rest


_DECLARES = re.compile(
    r"(?<![\w.])([^\W\d]\w*)\s*(?:[:=]|\bof (?:shape|size|length)\b|\b(?:with|has|have) (?:a )?(?:shape|size)\b|\bshaped\b|\bis\b|\bare\b|\bof\b|\bin\b)?\s*"
    rf"(?:an?\s+|both\s+|all\s+)?(?:(?:{_TYPE_NAMES})\s+)?(?:transposed\s+)?(?=[\[(]\s*\d|\d[\d_]*k?\s*(?:[x*]|by\b)\s*\d|\d[\d_]*k?(?![\w.%]))",
    re.IGNORECASE,
)
_LISTED = re.compile(r"(?:[^\W\d]\w*\s*,\s*)*[^\W\d]\w*\s*,?\s*(?:and|&)\s+$", re.IGNORECASE)
_LETTERS = re.compile(r"(?<![\w.'-])([b-hj-zA-Z]\d?)(?![\w.'])")


def _declared_names(text: str) -> set[str]:
    """Words that stand before a shape, and single letters: they name tensors, whatever else they might mean."""
    found = set()
    for match in _DECLARES.finditer(text):
        word = match[1]
        explicit = re.search(r"[:=]|shape|size|length", match[0][len(word) :]) is not None
        if may_name(word) or (explicit and (word.lower(),) not in PHRASES and word.lower() not in NOT_SAID):
            found.add(word)
            listed = _LISTED.search(text, 0, match.start())
            found |= {w for w in re.findall(r"\w+", listed[0]) if may_name(w)} if listed else set()
    found |= {m[1] for m in _LETTERS.finditer(text)}
    shaped = re.search(r"(?<![\w.'-])[aA](?=\s*(?:[:=]\s*)?(?:is\s+)?[\[(]?\s*\d)", text)
    if (({"b", "B"} & found) and re.search(r"(?<![\w.'-])[aA](?![\w.'])", text)) or (
        shaped and re.match(r"[aA]\s*[:=]", text[shaped.start() :])
    ):
        found.add("a")
    if re.search(r"\btop[- ]?k\b", text, re.IGNORECASE):
        found -= {"k", "K"}
    return found - {"I"}


def _check_tensors(found: Request) -> None:
    names = [t.name for t in found.tensors if t.name]
    for name in names:
        if sum(n.lower() == name.lower() for n in set(names)) > 1:
            raise RequestError(
                f"two tensors are called {name!r} but for the case of letters: give them different names."
            )


def check_words(tokens: list[Token], names: set[str]) -> None:
    """Refuse words that are neither in the lexicon nor names of tensors.

    Args:
        tokens: of the sentence.
        names: what may stand for a tensor.

    Raises:
        RequestError: some aren't; the sentence names them, and the nearest known word.
    """
    foreign = next((t for t in tokens if t.is_("foreign")), None)
    if foreign is not None:
        raise RequestError(
            f"requests in words don't cover {foreign.text!r}: give a NumPy reference with --reference file.py:function."
        )
    unknown = []
    for token in tokens:
        if token.kind == "word" and token.entry is None and token.text not in names and not _letter(token.text):
            unknown.append(token.text)
    if not unknown:
        return
    some = list(dict.fromkeys(unknown))[:4]
    quoted = [repr(w) for w in some]
    listed = quoted[0] if len(quoted) == 1 else f"{', '.join(quoted[:-1])} and {quoted[-1]}"
    near = next((n for w in some if (n := nearest(w))), "")
    hint = f"did you mean {near!r}? Otherwise " if near else ""
    turned = [w for w in some if w.lower() in NOT_SAID]
    if turned and not near:
        hint = "say only what is to be computed; "
    raise RequestError(
        f"the word{'s' if len(some) > 1 else ''} {listed} {'are' if len(some) > 1 else 'is'}n't understood here: {hint}{WAY_OUT}"
    )


def _letter(word: str) -> bool:
    return re.fullmatch(r"[^\W\d_]\d?", word) is not None and word.lower() not in ("i",)


def nearest(word: str) -> str:
    """The known operator that a word may be a misspelling of, or nothing."""
    known = [" ".join(p) for p, e in PHRASES.items() if e.kind == "op" and len(p) <= 2]
    close = difflib.get_close_matches(word.lower(), known, 1, 0.75) if len(word) > 3 else []
    return close[0] if close else ""
