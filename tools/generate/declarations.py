"""Finds tensors with their shapes among the tokens of a request: `x 4096x1024`, `q, k and v are all [8, 128, 64]`, `bias of length 512`."""

from __future__ import annotations

from dataclasses import dataclass, field

from tools.generate.lexicon import PHRASES
from tools.generate.tokens import Token
from tools.task_errors import RequestError


@dataclass(frozen=True, slots=True)
class NamedTensor:
    """A tensor as a request mentions it; `name` is empty when only its shape was given."""

    name: str
    shape: tuple[int, ...]
    dtype: str = ""
    transposed: bool = False
    """Whether it is stored transposed."""


_ALSO_NAMES = frozenset(
    """scale bias residual gate up down gain gamma beta shift weight offset input data weights scores targets x k matrix tensor vector
    array other cos sin hidden mask inputs head""".split()
)
"""Words of the lexicon that name a tensor where a shape stands beside them."""
_ROLES = ("scale", "bias", "residual")
"""Operators that give their tensor its name: `add bias 1024` means both."""
_OF_SHAPE = (
    "shape", "size", "sized", "shaped", "of shape", "of size", "with shape", "each of shape", "with shapes", "of shapes", "are of shape",
    "with sizes", "length", "of length", ":", "=",
)  # fmt: skip
_LINKS = (*_OF_SHAPE, "is", "are", "of", "in", "with", "has", "have", "being", "them being")
_NO_LENGTHS = ("k", "top", "i", "axis", "dim")
_BEFORE_TYPES = (
    "in",
    "as",
    "using",
    "with",
    "of",
    "dtype",
    "type",
    "to",
    "for",
    ":",
    "=",
    "at",
    "of type",
    "of dtype",
    "with dtype",
    "with type",
)


@dataclass(slots=True)
class Declarations:
    """The reader of declarations.

    Attributes:
        tokens: of the request.
        names: words that name tensors.
        shaped: those that a shape of their own follows.
        tensors: what was found, in order.
        dtype: the type that belongs to no tensor alone.
    """

    tokens: list[Token]
    names: set[str]
    shaped: set[str]
    tensors: list[NamedTensor] = field(default_factory=list)
    dtype: str = ""

    def read(self) -> list[Token]:
        """The tokens, with one tensor token in the place of each declaration.

        Raises:
            RequestError: a size of 0, or two shapes or types of one tensor.
        """
        made: list[Token] = []
        at = 0
        while at < len(self.tokens):
            token = self.tokens[at]
            if token.kind == "type" and token.text.lower() == "half":
                self._check_half(made, at)
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

    # -- shapes ------------------------------------------------------------------------------------------------------

    def _shape(self, made: list[Token], at: int) -> int:
        """A shape: its type and names may stand on either side."""
        shape = self.tokens[at]
        if made and made[-1].text == "-":
            raise RequestError(f"a size in -{shape.text} is negative: give sizes of 1 or more.")
        if shape.text[0] in "[(" and _no_shape(made):
            made.append(shape)
            return at + 1
        at += 1
        dtype, transposed = "", False
        names: list[str] = []
        while (token := self._next(at)) is not None:
            if token.kind == "type" and not dtype:
                dtype = token.dtype
            elif token.is_("transposed") and not transposed:
                transposed = True
            elif not token.is_("noun") and not token.is_("both"):
                break
            at += 1
            if token.is_("noun") and self._is_name(self._next(at)) and not self._declares(at):
                names, at = self._names_after(at)
                break
        if not names:
            names, also = self._names_before(made)
            transposed = transposed or any(t.is_("transposed") for t in also)
            dtype = dtype or next((t.dtype for t in also if t.kind == "type"), "")
        self._declare(made, shape, names, dtype, transposed)
        return at

    def _check_half(self, made: list[Token], at: int) -> None:
        """`half` names a type beside a shape or between commas, and a factor elsewhere."""
        after = self._next(at + 1)
        ended = after is None or after.kind == "symbol" or after.is_("noun") or after.is_("filler") or after.is_("prep")
        typed = (
            bool(made)
            and made[-1].text.lower() in (":", "=", "dtype", "type")
            and after is not None
            and after.kind == "shape"
        )
        if not (ended or typed):
            raise RequestError(
                f"'half {after.text if after else ''}' can mean half precision or half the value: say float16, or multiply by 0.5."
            )

    def _next(self, at: int) -> Token | None:
        return self.tokens[at] if at < len(self.tokens) else None

    def _is_name(self, token: Token | None) -> bool:
        if token is None or token.kind != "word" or token.text not in self.names:
            return False
        return token.entry is None or token.text.lower() in _ALSO_NAMES

    def _declares(self, at: int) -> bool:
        """Whether the name there has a shape of its own."""
        after = self._next(at + 1)
        return after is not None and (
            after.kind in ("shape", "number") or after.text in (":", "=") or after.text.lower() in ("is", "are")
        )

    def _names_after(self, at: int) -> tuple[list[str], int]:
        """`two 64x64 matrices a and b`."""
        names = [self.tokens[at].text]
        while True:
            joint, after = self._next(at + 1), self._next(at + 2)
            joined = joint is not None and (joint.text == "," or joint.is_("and"))
            if not joined or not self._is_name(after) or self._declares(at + 2):
                return names, at + 1
            assert after is not None
            names.append(after.text)
            at += 2

    def _names_before(self, made: list[Token]) -> tuple[list[str], list[Token]]:
        """Take back what declares: the names and the links such as `are all of shape`; other words stay in the sentence."""
        start = len(made)
        while start and self._links(made, start - 1):
            start -= 1
        links = made[start:]
        if not start or not (self._is_name(made[start - 1]) or self._is_a(made, start - 1)):
            made[start:] = [t for t in links if t.is_("prep") or t.text.lower() in ("is", "are")]
            return [], links
        first, names = self._listed(made, start - 1)
        del made[first:]
        return names, links

    def _links(self, made: list[Token], at: int) -> bool:
        token = made[at]
        if token.is_("article"):
            return not self._is_a(made, at)
        return token.text.lower() in _LINKS or token.kind == "type" or token.is_("transposed") or token.is_("both")

    def _is_a(self, made: list[Token], at: int) -> bool:
        """Whether an `a` before a shape is a name and not the article."""
        if made[at].text.lower() != "a" or not {"a", "A"} & self.names:
            return False
        before = made[at - 1] if at else None
        return before is None or before.kind != "word" or not before.is_("filler")

    def _listed(self, made: list[Token], last: int) -> tuple[int, list[str]]:
        """The names of `q, k and v`, `q, k, v` and `q k v` that end at `last`, and where they begin."""
        first = last
        joints: list[Token] = []
        while (
            first >= 2
            and (made[first - 1].text in (",", "&") or made[first - 1].is_("and"))
            and (self._is_name(made[first - 2]) or self._is_a(made, first - 2))
        ):
            joints.insert(0, made[first - 1])
            first -= 2
        if joints:
            alone = all(made[i].text not in self.shaped for i in range(first, last, 2))
            if joints[-1].text != "," or alone:
                return first, [made[i].text for i in range(first, last + 1, 2)]
            return last, [made[last].text]
        while (
            first
            and (self._is_name(made[first - 1]) or self._is_a(made, first - 1))
            and len(made[first - 1].text) == 1
            and made[first - 1].text not in self.shaped
        ):
            first -= 1
        return first, [made[i].text for i in range(first, last + 1)]

    def _declare(self, made: list[Token], shape: Token, names: list[str], dtype: str, transposed: bool) -> None:
        count = _counted(made) if not names else 1
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

    def _add(self, tensor: NamedTensor) -> None:
        same = [t for t in self.tensors if tensor.name and t.name == tensor.name]
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
            self.tensors.append(tensor)

    # -- lengths -----------------------------------------------------------------------------------------------------

    def _length(self, made: list[Token], at: int) -> int:
        """A number that is the length of a vector: `bias 1024`, `g of length 512`, `both 4096`."""
        token, after = self.tokens[at], self._next(at + 1)
        start = len(made)
        while start and made[start - 1].text.lower() in (*_LINKS, "long"):
            start -= 1
        said = any(t.text.lower() in _OF_SHAPE for t in made[start:])
        name = made[start - 1] if start else None
        behind = after is not None and (after.text in ("%", "*", "/", "x") or after.is_("param"))
        if (
            token.value != int(token.value)
            or token.value < 1
            or not token.text.rstrip("kK").replace("_", "").isdigit()
            or behind
        ):
            made.append(token)
            return at + 1
        shape = Token("shape", token.text, token.start, token.end, shape=(int(token.value),))
        dtype = after.dtype if after is not None and after.kind == "type" else ""
        alone = bool(made) and (made[-1].is_("both") or made[-1].text.lower() in ("length", "of length"))
        if name is not None and (self._has_length(name, said) or self._is_a(made, start - 1)):
            first, names = self._listed(made, start - 1)
            role = name.text.lower()
            before = made[first - 1] if first else None
            listed = before is not None and (before.kind in ("symbol", "tensor") and before.text != "+")
            once = role in _ROLES and not listed and not any(t is not name and t.is_("op", role) for t in self.tokens)
            kept = [Token("word", name.text, name.start, name.end, PHRASES[(role,)])] if once else []
            made[first:] = kept
            self._declare(made, shape, names, dtype, False)
        elif alone:
            while made and (made[-1].is_("both") or made[-1].text.lower() in ("length", "of length")):
                made.pop()
            self._declare(made, shape, [], dtype, False)
        else:
            made.append(token)
            return at + 1
        at += 2 if dtype else 1
        while (later := self._next(at)) is not None and (
            later.text.lower() in ("elements", "long", "entries", "values") or later.is_("both")
        ):
            at += 1
        return at

    def _has_length(self, name: Token, said: bool) -> bool:
        """Whether the number behind a word is the length of its tensor, and not a factor or a count."""
        word = name.text.lower()
        if name.kind != "word" or word in _NO_LENGTHS:
            return False
        if word == "scale" and not said:
            return any(t is not name and (t.is_("op", "scale") or t.text.lower() == "scale") for t in self.tokens)
        return self._is_name(name) or word in _ROLES

    # -- types -------------------------------------------------------------------------------------------------------

    def _type(self, made: list[Token], at: int) -> int:
        """A type that no shape has taken: that of all tensors that give none."""
        token, after = self.tokens[at], self._next(at + 1)
        if after is not None and after.kind == "shape":
            made.append(token)
            return at + 1
        if self.dtype and self.dtype != token.dtype:
            raise RequestError(
                f"the request names two types, {self.dtype} and {token.dtype}: give one, or one a tensor."
            )
        self.dtype = token.dtype
        while made and (made[-1].text.lower() in _BEFORE_TYPES or made[-1].is_("both")):
            made.pop()
        return at + 1


def _counted(made: list[Token]) -> int:
    """How many tensors share a shape: `two vectors of length 4096`."""
    start = len(made)
    while start and (made[start - 1].is_("noun") or made[start - 1].text.lower() == "of"):
        start -= 1
    if not start or not made[start - 1].is_("count"):
        return 1
    entry = made[start - 1].entry
    assert entry is not None
    del made[start - 1 :]
    return int(entry.key)


def _no_shape(made: list[Token]) -> bool:
    """Whether what looks like a shape is the range of a clip or a list of axes."""
    if not made:
        return False
    clip = any(t.is_("op", "clip") for t in made[-8:])
    ranged = made[-1].text.lower() in ("to", "between", "in", "range", "within", "into") or made[-1].is_("op", "clip")
    return (clip and ranged) or made[-1].is_("each")
