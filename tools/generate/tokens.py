"""Cuts a request into tokens: words, numbers, shapes, element types, symbols and embedded Python expressions."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from tools.generate.lexicon import PHRASES, TENSOR_NOUNS, Entry
from tools.generate.vocabulary import DTYPE, DTYPES

TokenKind = Literal["word", "number", "shape", "type", "symbol", "expression", "tensor"]
_DIM = r"\d[\d_]*k?"
_SEPARATOR = r"\s*[x*]\s*"
_BARE = rf"(?:{_DIM}(?:{_SEPARATOR}{_DIM})+|{_DIM}(?:\s+by\s+{_DIM})+(?!{_SEPARATOR}\d))(?!\w|\.\d)"
_BRACKETED = rf"[\[(]\s*{_DIM}(?:\s*(?:,|x|\*)\s*{_DIM})*\s*,?\s*[\])]"
_NUMBER = r"(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?(?![\w])|\d[\d_]*k(?!\w)"
_WORD = r"[^\W\d]\w*(?:['’]\w+)?|\d+[^\W\d]\w*"
_SYMBOL = r"->|=>|→|<=|>=|\*\*|[^\s\w]"
_LEXER = re.compile(
    rf"(?P<shape>{_BRACKETED}|(?<![\w.]){_BARE})|(?P<type>{DTYPE.pattern})|(?P<number>(?<![\w.]){_NUMBER})|(?P<word>{_WORD})|"
    rf"(?P<symbol>{_SYMBOL})",
    re.IGNORECASE,
)
_LONGEST = max(map(len, PHRASES))


@dataclass(slots=True)
class Token:
    """A piece of the request.

    Attributes:
        kind: what it is; `tensor` tokens are declarations that were read.
        text: as written.
        start, end: where.
        entry: what the lexicon says of a word or phrase.
        value: a number's value.
        shape: of shapes and tensors.
        dtype: of types, and of tensors that gave one.
        names: of a tensor declaration; empty where only a shape was given.
    """

    kind: TokenKind
    text: str
    start: int
    end: int
    entry: Entry | None = None
    value: float = 0.0
    shape: tuple[int, ...] = ()
    dtype: str = ""
    names: tuple[str, ...] = ()
    transposed: bool = False
    """A tensor that is declared as stored transposed."""

    def is_(self, kind: str, key: str = "") -> bool:
        """Whether it is a phrase of this kind (and key)."""
        return self.entry is not None and self.entry.kind == kind and (not key or self.entry.key == key)


def size(text: str) -> int:
    """A dimension such as 4096, 4_096 or 4k."""
    text = text.lower().replace("_", "")
    return int(text[:-1]) * 1024 if text.endswith("k") else int(text)


def _dims(text: str) -> tuple[int, ...]:
    return tuple(size(part) for part in re.findall(_DIM, text, re.IGNORECASE))


def tokenize(text: str, expressions: list[tuple[int, int]] | None = None) -> list[Token]:
    """All tokens in order.

    Args:
        text: the request, where facts that were read already are blank.
        expressions: spans of Python expressions, each of which becomes one token.
    """
    found: list[Token] = []
    spans = dict(expressions or [])
    at = 0
    while at < len(text):
        if at in spans:
            found.append(Token("expression", text[at : spans[at]], at, spans[at]))
            at = spans[at]
            continue
        match = _LEXER.match(text, at)
        if match is None:
            at += 1
            continue
        kind = match.lastgroup if match.lastgroup in ("shape", "type", "number", "word", "symbol") else "type"
        limit = min((s for s in spans if s > at), default=len(text))
        if match.end() > limit:  # a shape never reaches into an expression
            match = re.compile(_SYMBOL).match(text, at) or match
            kind = "symbol"
        body = match[0]
        token = Token(kind, body, at, match.end())  # type: ignore[arg-type]
        if kind == "shape":
            token.shape = _dims(body)
        elif kind == "number":
            token.value = float(size(body)) if body.lower().endswith("k") else float(body)
        elif kind == "type":
            token.dtype = DTYPES[re.sub(r"\s+", " ", body.lower())]
        if not _hyphen(token, text):
            found.append(token)
        at = match.end()
    return found


def _hyphen(token: Token, text: str) -> bool:
    """The hyphen of `row-wise`, which joins two words."""
    before, after = text[token.start - 1 : token.start], text[token.end : token.end + 1]
    return token.text in "-‐\u2011" and before.isalnum() and after.isalpha()


def phrases(tokens: list[Token], names: set[str]) -> list[Token]:
    """Join the words of known phrases, longest first; words that name tensors stay alone.

    Args:
        tokens: of a request.
        names: of the tensors that it declares.
    """
    found: list[Token] = []
    at = 0
    while at < len(tokens):
        if tokens[at].kind != "word":
            found.append(tokens[at])
            at += 1
            continue
        words = []
        for token in tokens[at : at + _LONGEST]:
            if token.kind not in ("word",):
                break
            words.append(token.text.lower())
        for count in range(len(words), 0, -1):
            entry = PHRASES.get(tuple(words[:count])) or _singular(tuple(words[:count]))
            if entry is not None and not _names_tensor(tokens[at : at + count], names):
                first, last = tokens[at], tokens[at + count - 1]
                found.append(
                    Token("word", " ".join(t.text for t in tokens[at : at + count]), first.start, last.end, entry)
                )
                at += count
                break
        else:
            found.append(tokens[at])
            at += 1
    return found


def _singular(words: tuple[str, ...]) -> Entry | None:
    last = words[-1]
    if len(last) > 3 and last.endswith("s"):
        found = PHRASES.get((*words[:-1], last[:-1]))
        return found if found is not None and found.kind == "op" else None
    return None


def _names_tensor(tokens: list[Token], names: set[str]) -> bool:
    """Whether a word of the phrase is the name of a tensor and not one of the phrase's own words."""
    if len(tokens) == 1:
        word = tokens[0].text
        return (word in names or word.lower() in names) and word.lower() not in ("a", "bias", "residual", "scale", "i")
    return any(t.text in names and len(t.text) <= 2 and t.text.lower() not in ("a", "l2", "l1") for t in tokens)


def may_name(word: str) -> bool:
    """Whether a word may name a tensor without a colon: short, with a digit or an underscore, or a usual name."""
    lower = word.lower()
    if lower in TENSOR_NOUNS:
        return True
    if (lower,) in PHRASES or not re.fullmatch(r"[^\W\d]\w*", word):
        return False
    return len(word) <= 2 or "_" in word or (bool(re.search(r"\d", word)) and len(word) <= 5)
