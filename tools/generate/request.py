"""Reads a request: finds target, goal, element types, tensors with shapes and operators in plain words."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from tools.generate.vocabulary import (
    BAD_DTYPE,
    DTYPE,
    DTYPES,
    FOREIGN,
    FOREIGN_TARGET,
    GOALS,
    TARGET,
    TARGETS,
    VAGUE_GOAL,
    WORDS,
    Word,
)
from tools.task import Goal, GoalKind
from tools.task_errors import RequestError


@dataclass(frozen=True, slots=True)
class NamedTensor:
    """A tensor as a request mentions it; `name` is empty when only its shape was given."""

    name: str
    shape: tuple[int, ...]
    dtype: str = ""
    position: int = 0


@dataclass(frozen=True, slots=True)
class Mention:
    """An operator where a request names it."""

    word: Word
    start: int
    end: int
    number: float | None = None


@dataclass(slots=True)
class Request:
    """What a text says, before it is put together."""

    text: str
    tensors: list[NamedTensor] = field(default_factory=list)
    mentions: list[Mention] = field(default_factory=list)
    target: str = ""
    goal: Goal | None = None
    dtype: str = ""
    output_dtype: str = ""
    precision: str = ""
    rows: int = 0
    columns: int = 0
    expression: str = ""
    expression_end: int = 0
    """Where the expression ends in `words`; operators behind it apply to its result."""
    transposed: set[str] = field(default_factory=set)
    """Tensors (or `weights`) that are to be transposed."""
    words: str = ""
    """The text with everything above blanked out except operators."""

    def behind_expression(self) -> list[Mention]:
        """Operators that the text applies to the expression's result: `x + y, then softmax`."""
        if not self.expression:
            return []
        then = re.search(r"\b(?:then|followed by)\b", self.words[self.expression_end :], re.IGNORECASE)
        return [m for m in self.mentions if then and m.start >= self.expression_end + then.end()]


_DIM = r"\d[\d_]*k?"
_SEPARATOR = r"\s*[x×*]\s*"
_BARE = rf"(?:{_DIM}(?:{_SEPARATOR}{_DIM})+|{_DIM}(?:\s+by\s+{_DIM})+(?!{_SEPARATOR}\d))"
_BRACKETED = rf"[\[(]\s*{_DIM}(?:\s*(?:,|x|×|\*)\s*{_DIM})*\s*,?\s*[\])]"
_SHAPE = rf"(?:{_BRACKETED}|{_BARE})"
_BEFORE_SHAPE = re.compile(rf"(.*?[)\w])\s+(?:(?:of|on|for|at)\s+)?(?={_BARE})", re.IGNORECASE)
"""An expression with a shape right behind it: `exp(-x) 20x30`."""
_LINK = (
    r"\s*(?:[:=]|\bof (?:shape|size)\b|\bwith shape\b|\bhas shape\b|\bshaped\b|\bis\b|\bin\b|\bof\b|\s)?\s*(?:an? )?"
)
_TYPE = r"(?:(?:bf16|bfloat16|fp16|float16|fp32|float32|f32|f16|half|fp8|float8(?:_e4m3)?)\s*)?"
_NAMED = re.compile(rf"(?<![\w.])([a-z]\w*){_LINK}({_TYPE}){_LINK}({_SHAPE})\s*({_TYPE})", re.IGNORECASE)
_ALONE = re.compile(rf"(?<![\w.])({_TYPE})({_SHAPE})(?![\w])\s*({_TYPE})", re.IGNORECASE)
_VECTOR = re.compile(
    rf"(?<![\w.])([a-z]\w*)(?=[\s:=])\s*(?:[:=]|\bof (?:length|size)\b|\bhas\b|\bis\b|\bof\b)?\s*(?:length |size )?({_DIM})(?![\w.%]|\s*(?:x|×|\*|by)\s*\d)",
    re.IGNORECASE,
)
_NOT_NAMES = {
    "by", "of", "and", "with", "times", "matmul", "a", "an", "the", "shape", "size", "input", "inputs", "output", "matrix",
    "tensor", "on", "for", "to", "from", "in", "then", "is", "x", "matrices", "tensors", "shapes", "sizes", "gemm", "linear",
    "softmax", "rmsnorm", "layernorm", "gelu", "relu", "silu", "exp", "transpose", "over", "row", "rows", "length", "vector",
    "mm", "multiply", "add", "sum", "mean", "variance", "var", "average", "max", "projection", "dense", "at", "or", "are", "per", "attention", "tanh",
    "sigmoid", "copy", "square", "sqrt", "log", "its", "batch", "dtype", "plus", "minus", "elements", "kernel", "make", "work",
    "float32", "bfloat16", "float16", "bf16", "fp16", "fp32", "fp8", "half", "swiglu", "as", "use", "using", "take",
    "one", "two", "three", "four", "both", "same", "several", "them", "these", "those", "big", "large", "small",
    "target", "now", "axis", "axes", "dim", "dimension", "dimensions", "column", "columns", "first", "last", "each", "every", "sums", "means", "averages", "maxima", "minima", "norms", "k", "data", "norm", "be", "this", "that", "it", "write", "fused", "fuse",
}  # fmt: skip
_OPERATOR_NAMES = ("bias", "residual", "scale", "skip")
"""Names that tensors share with operators: `add residual 300x100` means both."""
_ROWS = re.compile(
    rf"(?<!\w)(?:({_DIM})\s+(?:rows|tokens|sequences|samples)|(?:rows|tokens|n_rows|m)\s*[=:]\s*({_DIM}))(?!\w)",
    re.IGNORECASE,
)
_COLUMNS = re.compile(
    rf"(?<!\w)(?:({_DIM})\s+(?:columns|cols|features|channels|elements(?: per row| each)?)|(?:columns|cols|features|hidden(?: size| dim)?|n_cols)\s*[=:]?\s*({_DIM}))(?!\w)",
    re.IGNORECASE,
)
_PROJECT = re.compile(rf"(?<![\w.])({_DIM})\s*(?:->|→|\bto\b|\binto\b)\s*({_DIM})(?!\w)", re.IGNORECASE)
_CONSTANT = re.compile(
    r"\s*(?:by\s+)?(?:a\s+)?(?:constant\s+|factor\s+(?:of\s+)?)?(-?\d*\.?\d+(?:e-?\d+)?)(?:\s*/\s*(\d+\.?\d*))?(?![\w]|\s*[x×*]\s*\d)",
    re.IGNORECASE,
)
_OUTPUT_TYPE = re.compile(
    r"(?:outputs?|results?)\s+(?:in|as|is|of|dtype|type|:)?\s*(?:type |dtype )?(bf16|bfloat16|fp16|float16|fp32|float32)|"
    r"(bf16|bfloat16|fp16|float16|fp32|float32)\s+(?:output|result)s?",
    re.IGNORECASE,
)
_PRECISION = re.compile(
    r"(?:comput\w*|accumulat\w*|multipl\w*|matmuls?|math)\s+(?:it\s+|them\s+|everything\s+)?(?:only\s+)?(?:in|with)\s+(?:full\s+)?(fp32|float32|full precision)",
    re.IGNORECASE,
)
_WITHOUT = re.compile(
    r"\b(?:without|no)\s+(?:an?\s+|any\s+|the\s+|learnable\s+)*(?:bias(?:es)?|gains?|weights?|scale|affine(?:\s+parameters)?|"
    r"residual|mask(?:ing)?|parameters)\b",
    re.IGNORECASE,
)
"""What a request says that it doesn't want."""
_TRANSPOSED = re.compile(
    r"(?<!\w)(?:([a-z]\w*)\s*(?:\.T|\^T|ᵀ|(?:is\s+|stored\s+)?transposed)|transposed\s+(?:the\s+)?([a-z]\w*)|transpose of\s+(?:the\s+)?([a-z]\w*)(?=\s))(?!\w)",
    re.IGNORECASE,
)


def size(text: str) -> int:
    """A dimension such as 4096, 4_096 or 4k."""
    text = text.lower().replace("_", "")
    return int(text[:-1]) * 1024 if text.endswith("k") else int(text)


def _shape(text: str) -> tuple[int, ...]:
    return tuple(size(part) for part in re.findall(_DIM, text, re.IGNORECASE))


def _blank(text: str, start: int, end: int) -> str:
    return text[:start] + " " * (end - start) + text[end:]


def _dtype(text: str) -> str:
    return DTYPES.get(re.sub(r"\s+", " ", text.strip().lower()), "")


def read(text: str) -> Request:
    """Find everything that a request says.

    Raises:
        RequestError: an unknown target or element type, or a size of 0.
    """
    found = Request(text)
    rest = re.sub(r"(?<=\d),(?=\d{3}(?!\d))(?![^\[(]*[\])])", "", text.replace("×", "x").replace("μ", "µ"))
    rest = _WITHOUT.sub(lambda m: " " * len(m[0]), rest)
    rest = _read_target(found, rest)
    rest = _read_goal(found, rest)
    rest = _read_types(found, rest)
    rest = _read_transposed(found, rest)
    rest = _read_expression(found, rest)
    rest = _read_tensors(found, rest)
    found.words = rest
    found.mentions = _without_tensor_names(_read_mentions(rest), found.tensors)
    matrices = sum(len(t.shape) >= 2 for t in found.tensors)
    products = [m for m in found.mentions if m.word.key == "matmul"]
    if len(products) > max(1, matrices - 1):  # the same product under two names
        found.mentions = [m for m in found.mentions if m not in products[1:]]
    if all(m.word.arity == "reduce" for m in found.mentions) and not found.expression:
        found.mentions = sorted(
            [*found.mentions, *_bare_reductions(_blank_mentions(rest, found.mentions))], key=lambda m: m.start
        )
    return found


def _read_target(found: Request, rest: str) -> str:
    for match in list(TARGET.finditer(rest)):
        family = (match[1] or "").lower().replace("trainium", "trn").replace("inferentia", "inf")
        name = (match[3] or f"{family}{match[2]}").lower()
        if name not in TARGETS:
            raise RequestError(f"unknown target {match[0].strip()!r}: ask for trn1, trn2, trn3 or inf2.")
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
        match = pattern.search(rest)
        if match is None:
            continue
        if found.goal is None:
            found.goal = _goal(kind, match)
        rest = _blank(rest, match.start(), match.end())
    match = VAGUE_GOAL.search(rest)
    return _blank(rest, match.start(), match.end()) if match else rest


def _goal(kind: str, match: re.Match[str]) -> Goal:
    if kind == "half":
        return Goal(kind=GoalKind.ROOFLINE, value=0.5)
    if kind == "twice":
        return Goal(kind=GoalKind.SPEEDUP, value=2.0)
    value = float(match[1])
    if kind == "latency":
        unit = match[2].lower()
        value *= 1000 if unit.startswith(("ms", "mill")) else 0.001 if unit == "ns" else 1
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
    for pattern, name in ((_PRECISION, "precision"), (_OUTPUT_TYPE, "output_dtype")):
        match = pattern.search(rest)
        if match is not None:
            value = next(g for g in match.groups() if g)
            setattr(found, name, "fp32" if name == "precision" else _dtype(value))
            rest = _blank(rest, match.start(), match.end())
    return rest


def _read_transposed(found: Request, rest: str) -> str:
    for match in list(_TRANSPOSED.finditer(rest)):
        name = (match[1] or match[2] or match[3]).lower()
        if name in ("the", "and", "a", "then") and not re.search(r"[.^]T|ᵀ", match[0]):
            continue
        found.transposed.add("weights" if name in ("weight", "weights", "right") else name)
        keep = match[1] if match[1] else ""
        rest = (
            rest[: match.start()]
            + (
                keep + " " * (len(match[0]) - len(keep))
                if match[1] or match[2] is None
                else " " * (len(match[0]) - len(match[2])) + match[2]
            )
            + rest[match.end() :]
        )
    return rest


def _read_expression(found: Request, rest: str) -> str:
    """A Python expression inside the request, such as `gelu(x @ w + b)`."""
    from tools.generate.compose import parse_expression

    pieces = re.split(
        r"(;|,(?![^()\[\]]*[)\]])|\b(?:with|where|for|compute|calculate|kernel|evaluates?|returns?|write|fused?|then|followed by)\b|:(?!\w))",
        rest,
        flags=re.IGNORECASE,
    )
    at = 0
    for piece in pieces:
        body = re.sub(r"^\s*(?:an?|the|of|that)\s+", "", piece)
        body = re.sub(r"^\s*[a-z]\w*\s*=\s*", "", body, flags=re.IGNORECASE)
        if parse_expression(body.strip()) is not None:
            start = at + piece.index(body.strip())
            found.expression, found.expression_end = body.strip(), start + len(body.strip())
            return _blank(rest, start, found.expression_end)
        shaped = _BEFORE_SHAPE.match(body.strip())
        if shaped is not None and parse_expression(shaped[1]) is not None:
            start = at + piece.index(shaped[1])
            found.expression, found.expression_end = shaped[1], start + len(shaped[1])
            return _blank(rest, start, found.expression_end)
        at += len(piece)
    return rest


def _read_tensors(found: Request, rest: str) -> str:
    spans: list[tuple[int, int]] = []
    pair = re.search(r"(?<!\w)b(?!\w)", rest, re.IGNORECASE)  # beside a `b`, `a` is a name and not the article
    for match in _NAMED.finditer(rest):
        name = match[1]
        if name.lower() in _NOT_NAMES and name != "x" and not (name.lower() == "a" and pair):
            continue
        dtype = _dtype(match[2]) or _dtype(match[4])
        for other in _sharing(rest[: match.start()]):
            found.tensors.append(NamedTensor(other[0], _shape(match[3]), dtype, other.start()))
            spans.append(other.span())
        found.tensors.append(NamedTensor(name, _shape(match[3]), dtype, match.start()))
        keep = len(name) if name.lower() in _OPERATOR_NAMES else 0
        spans.append((match.start() + keep, match.end()))
    for start, end in spans:
        rest = _blank(rest, start, end)
    for match in list(_ALONE.finditer(rest)):
        if re.search(r"(?:^|[\s(\[,])[-\u2212]$", rest[: match.start()]):
            raise RequestError(f"a size in -{match[0].strip()} is negative: give sizes of 1 or more.")
        found.tensors.append(NamedTensor("", _shape(match[2]), _dtype(match[1]) or _dtype(match[3]), match.start()))
        rest = _blank(rest, match.start(), match.end())
    for pattern, name in ((_ROWS, "rows"), (_COLUMNS, "columns")):
        match_ = pattern.search(rest)
        if match_ is not None:
            setattr(found, name, size(next(g for g in match_.groups() if g)))
            rest = _blank(rest, match_.start(), match_.end())
    for match in list(_PROJECT.finditer(rest)):
        found.tensors.append(NamedTensor("w", (size(match[1]), size(match[2])), "", match.start()))
        rest = _blank(rest, match.start(), match.end())
    for match in list(DTYPE.finditer(rest)):
        found.dtype = found.dtype or _dtype(match[0])
        rest = _blank(rest, match.start(), match.end())
    for match in list(_VECTOR.finditer(rest)):
        if match[1].lower() in _NOT_NAMES - {"x", "residual"} or any(
            w.pattern.fullmatch(match[1]) for w in WORDS if w.arity != "bias"
        ):
            continue
        found.tensors.append(NamedTensor(match[1], (size(match[2]),), "", match.start()))
        rest = (
            _blank(rest, match.start(), match.end())
            if match[1].lower() not in _OPERATOR_NAMES
            else _blank(rest, match.start(2), match.end(2))
        )
    found.tensors.sort(key=lambda t: t.position)
    for tensor in found.tensors:
        if any(n < 1 for n in tensor.shape):
            raise RequestError(
                f"{tensor.name or 'a tensor'} has a size of 0 in {tensor.shape}: give sizes of 1 or more."
            )
    return rest


def _sharing(before: str) -> list[re.Match[str]]:
    """The further names of `g and u 1024x768` or `q, k and v 8x1024x64`, which share one shape."""
    listed = re.search(r"(?<![\w.])([a-z]\w?(?:\s*,\s*[a-z]\w?)*)\s*,?\s+(?:and|&)\s+$", before, re.IGNORECASE)
    if listed is None:
        return []
    names = re.compile(r"(?<!\w)[a-z]\w?(?!\w)", re.IGNORECASE).finditer(before, listed.start(1), listed.end(1))
    return [n for n in names if n[0].lower() not in _NOT_NAMES - {"x", "a", "k"}]


def _read_mentions(rest: str) -> list[Mention]:
    """Operators in the order in which they apply."""
    mentions: list[Mention] = []
    taken = rest
    for word in WORDS:
        for match in list(word.pattern.finditer(taken)):
            number = None
            end = match.end()
            if word.arity in ("scale", "binary"):
                constant = _CONSTANT.match(taken, match.end())
                if constant is not None:
                    number = float(constant[1]) / (float(constant[2]) if constant[2] else 1.0)
                    end = constant.end()
            mentions.append(Mention(word, match.start(), end, number))
            taken = _blank(taken, match.start(), end)
    mentions.sort(key=lambda m: m.start)
    return _reorder(_without_verbs(_without_operands(mentions, taken), taken), taken)


_BY = re.compile(
    r"\s*(?:[a-z]\w?\s+|inputs?\s+)?(?:by|with|and)\s+(?:an?\s+|the\s+)?(?:row\s+|per-?column\s+)?", re.IGNORECASE
)


def _without_operands(mentions: list[Mention], between: str) -> list[Mention]:
    """Where `scale` is what is multiplied with, one product: `multiply x by scale`, and `scale 20` for its length."""
    plain = [m for m in mentions if m.word.key == "scale" and m.number is None]
    kept = []
    for mention, after in zip(mentions, [*mentions[1:], None]):
        verb = mention.word.key == "multiply" and mention.number is None
        if verb and after is not None and after in plain and _BY.fullmatch(between[mention.end : after.start]):
            continue
        if mention.word.key == "scale" and mention.number is not None and plain and mention.start > plain[0].start:
            continue
        kept.append(mention)
    return kept


def _without_verbs(mentions: list[Mention], between: str) -> list[Mention]:
    """Without the `add` of `add a gelu`, which is only a verb."""
    kept = []
    if any(m.word.key == "matmul" for m in mentions):  # `x times w` with a matmul is that matmul
        mentions = [m for m in mentions if m.word.arity != "scale" or m.number is not None]
    for mention, after in zip(mentions, [*mentions[1:], None]):
        gap = between[mention.end : after.start] if after is not None else "."
        verb = mention.word.key == "add" and mention.number is None and re.fullmatch(r"\s*(?:an?|the)?\s*", gap)
        if not (
            verb and after is not None and after.word.arity in ("unary", "norm", "bias", "residual", "matmul", "reduce")
        ):
            kept.append(mention)
    return kept


def _without_tensor_names(mentions: list[Mention], tensors: list[NamedTensor]) -> list[Mention]:
    """Where an operator is named once as such and once as the name of its tensor, keep the first."""
    named = {t.position for t in tensors if t.name.lower() in _OPERATOR_NAMES}
    return [m for m in mentions if m.start not in named or sum(o.word.key == m.word.key for o in mentions) == 1]


_BARE_REDUCTIONS = {
    "sum": "row_sum", "sums": "row_sum", "mean": "row_mean", "average": "row_mean", "max": "row_max", "maximum": "row_max",
    "min": "row_min", "minimum": "row_min", "variance": "row_var", "var": "row_var",
}  # fmt: skip


def _bare_reductions(rest: str) -> list[Mention]:
    """`mean and variance` without saying over what: over the rows."""
    words = {w.key: w for w in WORDS}
    pattern = re.compile(rf"(?<!\w)({'|'.join(_BARE_REDUCTIONS)})(?!\w)", re.IGNORECASE)
    return [Mention(words[_BARE_REDUCTIONS[m[1].lower()]], m.start(), m.end()) for m in pattern.finditer(rest)]


_BACKWARDS = re.compile(
    r"^\s*(?:of|on|to|after|applied to|on top of|over)\s+(?:an?|the|its)?\s*(?:fused\s+|result of\s+(?:an?|the)?\s*)?$",
    re.IGNORECASE,
)


def _reorder(mentions: list[Mention], between: str) -> list[Mention]:
    """`gelu of a matmul` and `gelu after matmul` mean matmul first."""
    ordered: list[Mention] = []
    for mention in mentions:
        if ordered:
            gap = between[ordered[-1].end : mention.start]
            if _BACKWARDS.match(gap) and mention.word.arity not in ("bias", "residual"):
                at = len(ordered) - 1
                ordered.insert(at, mention)
                continue
        ordered.append(mention)
    return ordered


def _blank_mentions(rest: str, mentions: list[Mention]) -> str:
    for mention in mentions:
        rest = _blank(rest, mention.start, mention.end)
    return rest


def foreign_operator(text: str) -> str:
    """The name of an operator that requests in words have no grammar for, or nothing."""
    match = FOREIGN.search(text)
    return match[0] if match else ""
