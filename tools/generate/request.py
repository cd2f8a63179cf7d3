"""Reads a request: target, goal, element types, tolerance and tensors; what remains are the words of a sentence."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass, field

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


@dataclass(frozen=True, slots=True)
class NamedTensor:
    """A tensor as a request mentions it; `name` is empty when only its shape was given."""

    name: str
    shape: tuple[int, ...]
    dtype: str = ""
    transposed: bool = False
    """Whether it is stored transposed."""


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

    @property
    def operates(self) -> bool:
        """Whether it names an operator or holds an expression."""
        return any(t.kind == "expression" or (t.entry is not None and t.entry.kind in _OPERATING) for t in self.tokens)


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
    r"(?:(?<!\w)(?:and|but|with)\s+)*(?<!\w)(?:comput(?:e|ed|ing|ation|ations)|accumulat(?:e|ed|ing|ion|ions)|multipl(?:y|ied|ying)|matmuls?|math)\s+(?:it\s+|them\s+|everything\s+|is\s+|are\s+)?(?:only\s+)?(?:in|with)\s+(?:full\s+)?(fp32|float32|full precision)(?:\s+accumulation)?|"
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
    declared = _declared_names(rest) | set(names)
    expressions = find_expressions(rest, declared)
    rest = _read_sizes(found, rest, expressions)
    tokens = tokenize(rest, expressions)
    tokens = phrases(tokens, declared)
    found.tokens = _Declarations(found, tokens, declared, {m[1] for m in _DECLARES.finditer(rest)}).read()
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
        found.without |= {g.lower().rstrip("s") for g in match.groups() if g}
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


class _Declarations:
    """Finds tensors with their shapes among the tokens."""

    def __init__(self, found: Request, tokens: list[Token], names: set[str], shaped: set[str]) -> None:
        self.found, self.tokens, self.names = found, tokens, names
        self.shaped = shaped

    def read(self) -> list[Token]:
        """The tokens, with one tensor token in the place of each declaration."""
        made: list[Token] = []
        at = 0
        while at < len(self.tokens):
            token = self.tokens[at]
            if token.kind == "shape":
                at = self._shape(made, at)
            elif token.kind == "number":
                at = self._length(made, at)
            elif token.kind == "type":
                at = self._type(made, at)
            else:
                made.append(token)
                at += 1
        return made

    # -- pieces ------------------------------------------------------------------------------------------------------

    def _next(self, at: int) -> Token | None:
        return self.tokens[at] if at < len(self.tokens) else None

    def _is_name(self, token: Token | None) -> bool:
        if token is None or token.kind != "word":
            return False
        return token.text in self.names and (token.entry is None or token.text.lower() in _BOTH)

    def _shape(self, made: list[Token], at: int) -> int:
        """A shape: its type and name may stand on either side."""
        shape = self.tokens[at]
        if made and made[-1].text == "-":
            raise RequestError(f"a size in -{shape.text} is negative: give sizes of 1 or more.")
        if _no_shape(made) and shape.text[0] in "[(":
            made.append(shape)
            return at + 1
        at += 1
        dtype, transposed = "", False
        while (token := self._next(at)) is not None:
            if token.kind == "type" and not dtype:
                dtype = token.dtype
            elif token.is_("noun") or token.is_("both") or (token.is_("transposed") and not transposed):
                transposed = transposed or token.is_("transposed")
            else:
                break
            at += 1
            if token.is_("noun") and self._is_name(self._next(at)) and not self._declares(at):
                names = self._names_after(at)
                at += 2 * len(names) - 1
                return self._declare(made, shape, names, dtype, transposed, at)
        names, transposed2, dtype2 = self._names_before(made)
        return self._declare(made, shape, names, dtype or dtype2, transposed or transposed2, at)

    def _declares(self, at: int) -> bool:
        after = self._next(at + 1)
        return after is not None and (
            after.kind in ("shape", "number") or after.text in (":", "=") or after.text.lower() in ("is", "are")
        )

    def _names_after(self, at: int) -> list[str]:
        names = [self.tokens[at].text]
        while True:
            joint, after = self._next(at + 1), self._next(at + 2)
            if (
                joint is None
                or not (joint.text == "," or joint.is_("and"))
                or not self._is_name(after)
                or self._declares(at + 2)
            ):
                return names
            assert after is not None
            names.append(after.text)
            at += 2

    def _names_before(self, made: list[Token]) -> tuple[list[str], bool, str]:
        """Take back names and links such as `q, k and v are all` that stand before a shape."""
        kept, dtype, transposed, linked = len(made), "", False, False
        while kept and (made[kept - 1].text.lower() in _LINKS or made[kept - 1].kind == "type" or made[kept - 1].is_("transposed")
                        or made[kept - 1].is_("both") or made[kept - 1].is_("article")) and not (
                            made[kept - 1].text.lower() in ("a", "x") and self._is_name(made[kept - 1]) and made[kept - 1].text in self.names
                            and made[kept - 1].text.lower() != "a"):  # fmt: skip
            token = made[kept - 1]
            if token.text.lower() == "a" and "a" in self.names and self._bare_a(made, kept - 1):
                break
            dtype = token.dtype or dtype
            transposed = transposed or token.is_("transposed")
            linked = linked or token.text in (":", "=")
            kept -= 1
        if not kept or not (
            self._is_name(made[kept - 1]) or (made[kept - 1].text.lower() == "a" and "a" in self.names)
        ):
            while kept < len(made) and not (made[kept].kind == "type" or made[kept].is_("transposed") or made[kept].is_("article") or
                                            made[kept].is_("both")):  # fmt: skip
                kept += 1  # links such as `of` belong to the sentence
            links = [
                t
                for t in made[kept:]
                if t.kind != "type" and not t.is_("transposed") and not t.is_("article") and not t.is_("both")
            ]
            del made[kept:]
            made += [
                t for t in links if t.text.lower() not in ("shape", "size", "shaped", ":", "=", "of shape", "of size")
            ]
            return [], transposed, dtype
        names = [made[kept - 1].text]
        start = kept - 1
        group = start
        while (
            group >= 2
            and (made[group - 1].text == "," or made[group - 1].is_("and") or made[group - 1].text in ("&", "and"))
            and self._is_name(made[group - 2])
        ):
            group -= 2
        joints = [made[i] for i in range(group + 1, start, 2)]
        shared = joints and (
            joints[-1].text != "," or all(made[i].text not in self.shaped for i in range(group, start, 2))
        )
        while (
            not joints
            and group
            and self._is_name(made[group - 1])
            and len(made[group - 1].text) == 1
            and made[group - 1].text not in self.shaped
        ):
            group -= 1
        if group < start and not joints:
            names = [made[i].text for i in range(group, start + 1)]
            start = group
        elif shared:
            names = [made[i].text for i in range(group, start + 1, 2)]
            start = group
        del made[start:]
        return names, transposed, dtype

    @staticmethod
    def _bare_a(made: list[Token], at: int) -> bool:
        before = made[at - 1] if at else None
        return before is None or before.kind != "word" or not before.is_("filler")

    def _declare(self, made: list[Token], shape: Token, names: list[str], dtype: str, transposed: bool, at: int) -> int:
        count = 1
        if not names and made and made[-1].is_("count"):
            count = int(made.pop().entry.key)  # type: ignore[union-attr]
        if any(n < 1 for n in shape.shape):
            raise RequestError(
                f"{names[0] if names else 'a tensor'} has a size of 0 in {shape.shape}: give sizes of 1 or more."
            )
        for name in names or [""] * count:
            self._add(NamedTensor(name, shape.shape, dtype, transposed))
        made.append(
            Token(
                "tensor",
                shape.text,
                shape.start,
                shape.end,
                shape=shape.shape,
                dtype=dtype,
                names=tuple(names),
                value=count,
            )
        )
        return at

    def _add(self, tensor: NamedTensor) -> None:
        same = [t for t in self.found.tensors if tensor.name and t.name == tensor.name]
        for other in same:
            if other.shape != tensor.shape:
                raise RequestError(
                    f"the request gives {tensor.name} two shapes, {'x'.join(map(str, other.shape))} and "
                    f"{'x'.join(map(str, tensor.shape))}: give one."
                )
            if other.dtype and tensor.dtype and other.dtype != tensor.dtype:
                raise RequestError(
                    f"the request gives {tensor.name} two types, {other.dtype} and {tensor.dtype}: give one."
                )
        if not same:
            self.found.tensors.append(tensor)

    def _length(self, made: list[Token], at: int) -> int:
        """A number that is the length of a vector: `bias 1024`, `g of length 512`."""
        token = self.tokens[at]
        whole = (
            token.value == int(token.value)
            and token.value >= 1
            and "." not in token.text
            and "e" not in token.text.lower()
        )
        after = self._next(at + 1)
        kept = len(made)
        said = False
        while kept and made[kept - 1].text.lower() in (*_LINKS, "length", "of length", "long"):
            said = said or made[kept - 1].text.lower() in ("length", "size", "of size", ":", "shape", "of shape")
            kept -= 1
        name = made[kept - 1] if kept else None
        named = self._is_name(name) or (
            name is not None and name.kind == "word" and name.text.lower() in ("scale", "bias", "residual")
        )
        scales = sum(
            t.text.lower() in ("scale", "bias", "residual") and t.text.lower() == (name.text.lower() if name else "")
            for t in self.tokens
        )
        if name is not None and name.text.lower() == "scale" and scales < 2 and not said:
            named = False
        if name is not None and name.text.lower() in ("k", "top", "i", "axis", "dim"):
            named = False
        if named and whole and name is not None and not (after is not None and after.text in ("%", "*", "/")):
            names = [name.text]
            keep = (name.text.lower() in ("scale", "bias", "residual") and name.is_("op")) or name.text.lower() in (
                "scale",
                "bias",
                "residual",
            )
            start = kept - 1
            group = start
            while (
                group >= 2
                and (made[group - 1].text == "," or made[group - 1].is_("and"))
                and self._is_name(made[group - 2])
            ):
                group -= 2
            if group < start and made[start - 1].is_("and"):
                names = [made[i].text for i in range(group, start + 1, 2)]
                start = group
            first = (
                [made[start]]
                if keep
                and not any(t.text.lower() == name.text.lower() for t in [*made[:start], *self.tokens[at + 1 :]])
                else []
            )
            del made[start:]
            made += first
            for n in names:
                self._add(
                    NamedTensor(
                        n, (int(token.value),), after.dtype if after is not None and after.kind == "type" else ""
                    )
                )
            made.append(
                Token(
                    "tensor", token.text, token.start, token.end, shape=(int(token.value),), names=tuple(names), value=1
                )
            )
            at += 1
            if after is not None and after.kind == "type":
                at += 1
            while (later := self._next(at)) is not None and (
                later.text.lower() in ("elements", "long", "entries", "values") or later.is_("both")
            ):
                at += 1
            return at
        alone = made and (made[-1].is_("both") or made[-1].text.lower() in ("length", "of length"))
        if (
            alone
            and whole
            and (after is None or after.text not in ("%", "*", "/", "x"))
            and not (after is not None and after.is_("param"))
        ):
            made.pop()
            return self._declare(
                made,
                Token("shape", token.text, token.start, token.end, shape=(int(token.value),)),
                [],
                "",
                False,
                at + 1,
            )
        made.append(token)
        return at + 1

    def _type(self, made: list[Token], at: int) -> int:
        """A type that no shape has taken: that of all tensors that give none."""
        token, after = self.tokens[at], self._next(at + 1)
        if after is not None and after.kind == "shape":
            made.append(token)
            return at + 1
        before = made[-1] if made else None
        if (
            before is not None
            and before.kind == "tensor"
            and not before.dtype
            and before.names
            and before.end <= token.start
            and token.start - before.end < 3
        ):
            pass
        if self.found.dtype and self.found.dtype != token.dtype:
            raise RequestError(
                f"the request names two types, {self.found.dtype} and {token.dtype}: give one, or one a tensor."
            )
        self.found.dtype = token.dtype
        while made and (made[-1].text.lower() in ("in", "as", "using", "with", "of", "dtype", "type", "to", "for", ":", "=", "at", "data type")
                        or made[-1].is_("both")):  # fmt: skip
            made.pop()
        return at + 1


_BOTH = ("scale", "bias", "residual", "gate", "up", "down", "gain", "gamma", "beta", "shift", "weight", "offset", "input", "data", "weights",
         "scores", "targets", "x", "k", "matrix", "tensor", "vector", "array", "other", "cos", "sin", "hidden", "mask", "inputs", "head")  # fmt: skip
_LINKS = (":", "=", "is", "are", "of", "in", "with", "has", "have", "shape", "size", "shaped", "being", "of shape", "of size", "with shape",
          "each of shape", "with shapes", "of shapes", "are of shape", "sized")  # fmt: skip


def _no_shape(made: list[Token]) -> bool:
    """Whether what looks like a shape is the range of a clip or a list of axes."""
    if not made:
        return False
    clip = any(t.is_("op", "clip") for t in made[-8:])
    return (
        clip
        and (made[-1].text.lower() in ("to", "between", "in", "range", "within", "into") or made[-1].is_("op", "clip"))
    ) or made[-1].is_("each")


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
