"""Walks along the tokens of a request: what comes next, and which words stand for tensors."""

from __future__ import annotations

from dataclasses import replace

from tools.generate.formula import IT, Node
from tools.generate.request import WAY_OUT, Request
from tools.generate.tokens import Token
from tools.task_errors import RequestError


class Cursor:
    """A place in a request's tokens, and what has been understood up to there."""

    def __init__(self, request: Request, started: bool = False) -> None:
        """Start at the first token.

        Args:
            request: what was read.
            started: whether there is a result already that the words go on from.
        """
        self.request = request
        self.tokens = _without_harmless_parentheses(_assignments(request.tokens))
        self.at = 0
        self.value: Node | None = IT if started else None
        self.results: list[Node] = []
        """Reductions of the same value that are wanted side by side."""
        self.open = ""
        """The last phrase that took operands: what follows it directly could belong to its operand as well."""
        self.open_plain = True
        self.last: Token | None = None
        self.axis = ""
        self.qualities: list[Token] = []
        self.side = ""
        """Which operand a single one is: `left` of `matmul of x`, `right` of `matmul with w`."""
        self.pending = ""
        """A `then` that no operator has followed yet."""
        self.counted = 0
        """The 4 of `4 largest values`."""
        self.assigned: dict[str, Node] = {}
        self.loose = -1

    def peek(self, ahead: int = 0) -> Token | None:
        """The token that comes next."""
        at = self.at + ahead
        return self.tokens[at] if at < len(self.tokens) else None

    def take(self) -> Token:
        """Consume the next token."""
        self.at += 1
        return self.tokens[self.at - 1]

    def _is(self, kind: str, key: str = "", ahead: int = 0) -> bool:
        token = self.peek(ahead)
        return token is not None and token.is_(kind, key)

    def _text(self, ahead: int = 0) -> str:
        token = self.peek(ahead)
        return token.text.lower() if token is not None else ""

    def _skip(self, *kinds: str) -> None:
        while (token := self.peek()) is not None and (
            (token.entry is not None and token.entry.kind in kinds and not self._named(token))
            or token.text in ("'", '"', "`")
        ):
            self.at += 1

    def _named(self, token: Token | None) -> bool:
        """Whether a word stands for a tensor: it has no other meaning, or it is declared and nothing follows it as an article's noun."""
        if token is None or token.kind != "word":
            return False
        if token.entry is None:
            return True
        return token.text == "a" and self._bare_a(token)

    def _bare_a(self, token: Token) -> bool:
        if not any(t.name.lower() == "a" for t in self.request.tensors) and not any(
            t.kind == "word" and t.text.lower() == "b" for t in self.tokens
        ):
            return False
        at = self.tokens.index(token)
        after = self.tokens[at + 1] if at + 1 < len(self.tokens) else None
        if after is None or after.kind == "symbol" or after.text == "b":
            return True
        return after.entry is not None and after.entry.kind in (
            "and",
            "prep",
            "infix",
            "postfix",
            "transposed",
            "then",
            "both",
        )

    def refuse(self, what: str, why: str = "") -> RequestError:
        """The error for words that no rule takes."""
        return RequestError(
            f"{what.strip()!r} isn't understood{' here' if not why else ''}{', because ' + why if why else ''}: {WAY_OUT}"
        )

    def unclear(self, token: Token) -> RequestError:
        """The error for a word that names two things, or something that has no grammar."""
        assert token.entry is not None
        if token.is_("foreign"):
            return RequestError(
                f"requests in words don't cover {token.text!r}: give a NumPy reference with --reference file.py:function."
            )
        return RequestError(
            f"{token.entry.key}; what goes further needs a NumPy reference with --reference file.py:function."
        )

    def _between(self, first: int, last: int) -> str:
        parts = self.tokens[first:last]
        return " ".join(t.text for t in parts)

    def _tensor_nodes(self) -> list[Node]:
        """The tensors of one token, with `squared` or `transposed` behind them."""
        token = self.take()
        if token.kind == "tensor" and not token.names:
            nodes = []
            for _ in range(int(token.value) or 1):
                self.loose += 1
                nodes.append(Node("loose", str(self.loose)))
        elif token.kind == "tensor":
            nodes = [Node("name", n) for n in token.names]
        else:
            nodes = [self.assigned.get(token.text, Node("name", token.text))]
        return [*nodes[:-1], self._postfixes(nodes[-1])]

    def _postfixes(self, node: Node) -> Node:
        while (token := self.peek()) is not None:
            if token.is_("postfix"):
                assert token.entry is not None
                node = Node("op", token.entry.key, "unary", (node,))
            elif token.is_("transposed"):
                node = Node("op", "transpose", "transpose", (node,))
            elif (
                token.text == "."
                and self._text(1) == "t"
                and (after := self.peek(1)) is not None
                and after.start == token.end
            ):
                node = Node("op", "transpose", "transpose", (node,))
                self.at += 1
            else:
                return node
            self.at += 1
        return node

    def _name_behind(self) -> Node | None:
        """The tensor that a noun names: `bias b`, `gain g 1024`."""
        at = self.at
        while self._text() in ("vector", "of", "from", "=", ":", "tensor", "matrix", "with"):
            self.take()
        token = self.peek()
        if token is not None and token.kind == "tensor" and len(token.names) <= 1:
            return self._tensor_nodes()[0]
        if self._named(token):
            return self._tensor_nodes()[0]
        self.at = at
        return None

    def _number(self) -> float | None:
        """A number behind `=`, `of` or nothing: 1e-5, -3, 1/8."""
        at = self.at
        while self._text() in ("=", ":", "of", "is", "to", "at", "value", "set to", "equal"):
            self.take()
        sign = 1.0
        if self._text() == "-":
            self.take()
            sign = -1.0
        token = self.peek()
        if token is None or token.kind != "number":
            self.at = at
            return None
        self.take()
        value = sign * token.value
        if self._text() == "/" and (after := self.peek(1)) is not None and after.kind == "number" and after.value:
            self.at += 2
            value /= after.value
        return value


def _without_harmless_parentheses(tokens: list[Token]) -> list[Token]:
    """Tokens without parentheses around facts such as `(over the last axis)`; those around operators stay and are refused."""
    kept = list(tokens)
    while True:
        opened = next(
            (i for i, t in enumerate(kept) if t.text == "(" and t.kind == "symbol" and _closed(kept, i) is not None),
            None,
        )
        if opened is None:
            return kept
        end = _closed(kept, opened)
        assert end is not None
        inside = kept[opened + 1 : end]
        if any(t.is_("op") or t.is_("infix") or t.is_("then") or t.is_("foreign") for t in inside) or not inside:
            text = " ".join(t.text for t in kept[opened : end + 1])
            raise RequestError(f"{text!r} isn't understood among words: {WAY_OUT}")
        kept = [*kept[:opened], *inside, *kept[end + 1 :]]


def _assignments(tokens: list[Token]) -> list[Token]:
    """`y = x + 1` and `f(x) = x + 1` as one expression that has a name."""
    made: list[Token] = []
    for token in tokens:
        if token.kind == "expression" and made and made[-1].text in ("=", ":=") and len(made) > 1:
            head = made[:-1]
            if head[-1].text == ")" and len(head) >= 4 and head[-3].text == "(" and head[-4].kind == "word":
                head = head[:-3]
            if (head[-1].kind == "word" and (head[-1].entry is None or len(head[-1].text) == 1)) or head[
                -1
            ].text.lower() in (
                "out",
                "output",
                "result",
                "hidden",
                "scores",
            ):
                made = [*head[:-1], replace(token, names=(head[-1].text,))]
                continue
        made.append(token)
    return made


def _closed(tokens: list[Token], start: int) -> int | None:
    return next((i for i in range(start + 1, len(tokens)) if tokens[i].text == ")"), None)
