"""Parses the words of a request into a formula. Each token is consumed by a rule; where two readings are possible, it refuses."""

from __future__ import annotations

from dataclasses import replace

from tools.generate.formula import ALL, IMPLIED, Node, Options, substituted
from tools.generate.operands import Operands
from tools.generate.request import WAY_OUT
from tools.generate.tokens import Token
from tools.task_errors import RequestError

_SEPARATORS = (",", ";", ".", ":", "!", "?", "|", "&")
_ARROWS = ("->", "→", "=>")
_STRUCTURAL = (
    "matmul",
    "bias",
    "residual",
    "attention",
    "gated",
    "scale",
    "binary",
    "clip",
    "lora",
    "rope",
    "transpose",
)
_NORMS = ("rmsnorm", "layernorm", "softmax", "l2norm", "log_softmax")


class Sentence(Operands):
    """The parser of one request's tokens."""

    def parse(self) -> list[Node]:
        """The results that the words ask for.

        Raises:
            RequestError: a word or an order of words has no meaning, or two.
        """
        link = "start"
        subjects: list[Node] = []
        while (token := self.peek()) is not None:
            if token.kind == "symbol":
                link, subjects = self._symbol(token, link, subjects)
            elif token.kind == "expression":
                if subjects and self._named(self.peek(-1)):
                    raise self.refuse(f"{self._text(-1)} {token.text}")
                self._expression(link)
                link, subjects = "", []
            elif self._named(token) or token.kind == "tensor":
                subjects = self._subject(link, subjects)
                link = "" if link in ("start", "") else link
            elif (
                token.kind == "number"
                and self._is("op", "topk", 1)
                and self._text(1).split()[0] in ("largest", "biggest", "highest")
            ):
                self.counted = int(self.take().value)
            elif token.kind == "number" and self._is("infix", ahead=1) and self.value is None and not subjects:
                subjects = [Node("number", number=self.take().value)]
            elif token.kind in ("number", "shape", "type"):
                raise RequestError(
                    f"the number {token.text} isn't understood here: {WAY_OUT}"
                    if token.kind == "number"
                    else str(self.refuse(token.text))
                )
            elif token.entry is None:
                raise self.refuse(token.text)
            else:
                link, subjects = self._word(token, link, subjects)
        if self.pending:
            raise self.refuse(self.pending, "no operation follows it")
        self._computed(subjects)
        if self.axis:
            raise self.refuse(self.axis)
        for quality in self.qualities:
            if not quality.is_("quality", "batched") and not quality.is_("quality", "unmasked"):
                raise self.refuse(quality.text)
        if self.results:
            return self._grouped()
        return [self.value] if self.value is not None else []

    def _computed(self, subjects: list[Node]) -> None:
        """`x squared` says something by itself."""
        if self.value is None and len(subjects) == 1 and subjects[0].kind == "op":
            self.value = subjects[0]

    def _symbol(self, token: Token, link: str, subjects: list[Node]) -> tuple[str, list[Node]]:
        text = token.text
        if text in _ARROWS:
            last = self.peek(-1) if self.at else None
            if last is not None and (last.is_("then") or last.text in _ARROWS):
                raise self.refuse(f"{last.text} {text}")
            self.pending = text
            self.take()
            return "then", subjects
        if text in _SEPARATORS:
            self.take()
            self.open = ""
            self._computed(subjects)
            return ("sep" if link in ("", "start", "sep") else link), ([] if text not in ("&",) else subjects)
        if text in ("'", '"', "`"):
            self.take()
            return link, subjects
        if text == "+" and self.peek(1) is not None:
            after = self.peek(1)
            assert after is not None
            if (
                after.is_("op")
                and self.value is not None
                and self.last is not None
                and self.last.is_("op")
                and not self.open
                and not subjects
            ):
                self.take()
                return "+", subjects
        if text in ("*", "/", "@") and self.value is not None and self.value.kind == "expression":
            raise self.refuse(
                f"{self.value.key} {text}", "it isn't clear what is computed first; write all of it as one expression"
            )
        if text in ("+", "-", "*", "/", "@") and (subjects or self.value is not None):
            infix = {"+": "add", "-": "subtract", "*": "times", "/": "divide", "@": "matmul"}[text]
            return self._infix(infix, link, subjects), []
        after = self.peek(1)
        raise self.refuse(f"{text} {after.text}" if after is not None and text not in (")", "]") else text)

    def _word(self, token: Token, link: str, subjects: list[Node]) -> tuple[str, list[Node]]:
        entry = token.entry
        assert entry is not None
        kind = entry.kind
        if kind in ("ambiguous", "foreign"):
            raise self.unclear(token)
        if kind == "op":
            return self._operator(link, subjects), []
        if kind == "then":
            last = self.peek(-1) if self.at else None
            if last is not None and (last.is_("verb") or last.is_("first") or last.is_("then") or last.text in _ARROWS):
                raise self.refuse(f"{last.text} {token.text}")
            self.take()
            self.open, self.pending = "", token.text
            return "then", []
        if kind == "and":
            self.take()
            if subjects:
                return link, subjects
            if (
                self._text() in ("apply", "take", "perform", "do", "run", "applies", "takes", "performs")
                and self.value is not None
            ):
                reduced = (
                    self.last is not None
                    and self.last.entry is not None
                    and self.last.entry.arity in ("reduce", "index")
                )
                return ("and" if reduced else "then"), subjects
            return ("and" if link in ("", "and") else link), subjects
        if kind == "infix":
            return self._infix(entry.key, link, subjects), []
        if kind == "postfix":
            return self._postfix(token, link), []
        if kind == "axis":
            return self._axis_word(token, link), subjects
        if kind == "total":
            self.take()
            self.axis = ALL
            return link, subjects
        if kind == "quality":
            return self._quality(token, link), subjects
        if kind == "prep":
            return self._preposition(token, link, subjects)
        if kind in ("affine", "param"):
            return self._late_option(token, link), subjects
        if kind == "each":
            return self._late_axis(token, link), subjects
        if kind == "transposed":
            return self._transposed(token, link, subjects), []
        if kind == "it" and self.value is not None:
            self.take()
            return link, subjects
        if kind in ("article", "verb", "filler", "noun", "both", "first", "count", "unit", "it"):
            if kind == "it" and token.text.lower() not in ("it", "this", "that"):
                raise self.refuse(token.text)
            last = self.peek(-1) if self.at else None
            if (
                kind == "first"
                and last is not None
                and not (
                    last.kind in ("symbol", "tensor") or last.is_("then") or last.is_("verb") or last.is_("filler")
                )
            ):
                raise self.refuse(f"{token.text} {self._text(1)}")
            if kind == "count" and entry.key not in ("2",):
                raise self.refuse(f"{token.text} {self._text(1)}", "their shapes aren't all given")
            self.take()
            return link, subjects
        raise self.refuse(token.text)

    def _subject(self, link: str, subjects: list[Node]) -> list[Node]:
        """A tensor at the top of the sentence: a declaration, or what the next operator works on."""
        start = self.at
        declared = self._declaration_only()
        nodes = self._tensor_nodes()
        if self.value is not None and not declared:
            names = " and ".join(n.key for n in nodes if n.key)
            token = self.tokens[start]
            if token.kind != "tensor":
                raise self.refuse(names or token.text, "nothing says what to do with it")
        if declared and link in ("sep", "then") and not self._joins_next():
            return []
        return [*subjects, *nodes] if self.value is None else []

    def _declaration_only(self) -> bool:
        token = self.peek()
        return token is not None and token.kind == "tensor"

    def _joins_next(self) -> bool:
        """Whether an operator or operand follows without a separator."""
        at = self.at
        while at < len(self.tokens):
            token = self.tokens[at]
            if token.kind == "symbol":
                return token.text in ("+", "-", "*", "/", "@")
            if token.entry is None or token.entry.kind not in ("article", "filler", "verb", "noun", "both"):
                return token.entry is not None and token.entry.kind in (
                    "op",
                    "infix",
                    "prep",
                    "postfix",
                    "transposed",
                    "and",
                    "axis",
                )
            at += 1
        return False

    def _infix(self, key: str, link: str, subjects: list[Node]) -> str:
        self.pending = ""
        token = self.take()
        if self.open and link == "":
            raise self.refuse(
                f"{self.open} {token.text} {self._text()}",
                f"{token.text!r} can belong to the operand or to the result; write it as an expression",
            )
        if len(subjects) > 1:
            raise self.refuse(f"{token.text} {self._text()}", "it isn't clear what stands on its left")
        left = subjects[0] if subjects else self.value
        if left is None:
            raise self.refuse(f"{token.text} {self._text()}")
        role = {"matmul": "matmul", "times": "times", "multiply": "times"}.get(key, key)
        if self.value is not None and (self._is("op") or self._is("article")) and key in ("add", "times"):
            at = self.at
            self._skip("article")
            after = self.peek()
            if (
                after is not None
                and after.is_("op")
                and after.entry is not None
                and after.entry.arity in ("bias", "residual")
            ):
                return "then"  # matmul plus bias
            self.at = at
        if self.peek() is None or self._text() in _SEPARATORS:
            raise self.refuse(token.text, "its right side is missing")
        here = self.at
        right = substituted(self._operand(keepdims=True), IMPLIED, left)
        if (
            left.kind in ("op", "expression")
            and right.kind == "op"
            and self._goes_on(right)
            and self._text(here - self.at) not in ("it", "its", "the result")
        ):
            raise self.refuse(f"{token.text} {self._between(here, self.at)}", "it doesn't say of what")
        self._no_pair_left(token)
        if key == "subtracted":
            left, right, key = right, left, "subtract"
        before = self.value if not subjects else None
        mixed = (
            before is not None
            and before.kind == "op"
            and before.key in ("add", "subtract")
            and before.arity == "binary"
            and link == ""
        )
        if mixed and key in ("multiply", "times", "divide", "matmul"):
            raise self.refuse(
                f"{token.text} {self._text(-1)}", "it isn't clear what is computed first; use parentheses"
            )
        self.value = self._binary(key, left, right, role)
        self.last = token
        return ""

    def _binary(self, key: str, left: Node, right: Node, role: str = "") -> Node:
        if key == "matmul":
            return Node("op", "matmul", "matmul", (left, right))
        if key == "times":
            return Node("op", "times", "binary", (left, right))
        return Node(
            "op", key, "binary", (left, right), options=Options(elementwise=key == "multiply" and role == "elementwise")
        )

    def _no_pair_left(self, token: Token) -> None:
        """`a plus b and c` would leave c out."""
        if self._is("and") and self._named(self.peek(1)):
            raise self.refuse(f"{token.text} ... and {self._text(1)}", "it names one operand too many")

    def _postfix(self, token: Token, link: str) -> str:
        """`matmul, squared`: of the running result."""
        self.pending = ""
        if self.value is None or self.open:
            raise self.refuse(f"{self.open} {token.text}".strip())
        self.take()
        assert token.entry is not None
        self.value = Node("op", token.entry.key, "unary", (self.value,))
        return ""

    def _transposed(self, token: Token, link: str, subjects: list[Node]) -> str:
        """`transposed w`, or `the result transposed`."""
        self.pending = ""
        self.take()
        after = self.peek()
        if self.value is not None and not self.open and not (self._named(after) or self._is("article")):
            self.value = Node("op", "transpose", "transpose", (self.value,))
            return ""
        raise self.refuse(f"{token.text} {self._text()}".strip())

    def _operator(self, link: str, subjects: list[Node]) -> str:
        start = self.at
        self.pending = ""
        token = self.take()
        entry = token.entry
        assert entry is not None
        after = self.peek()
        if token.text.lower() == "scaled" and after is not None and after.is_("op"):
            raise self.refuse(
                f"{token.text} {after.text}", "the factor can stand before or behind it; say 'scale by ... then ...'"
            )
        if self._only_verb(token):
            return link if link not in ("", "and") else "then"
        if self.results and entry.arity not in ("reduce", "index"):
            raise self.refuse(self._between(start - 1, self.at), "several results can't be followed by an operator")
        before = self.last
        if self._appositive(token, link):
            return ""
        if before is not None and (self.value is not None or self.results):
            self._check_link(link, before, token)
        explicit: list[Node] = []
        if len(subjects) == 1 and self.value is None:
            self.value = subjects[0]
        elif subjects and self.value is None:
            explicit = subjects
        node = self._phrase(token, explicit, link)
        if self._grouping(token, link):
            self.results.append(node)
        elif entry.arity in ("reduce", "index") and self._group_follows() and node.arity in ("reduce", "index"):
            self.results = [node]
        else:
            self.value = node
        self.last = token
        return ""

    def _appositive(self, token: Token, link: str) -> bool:
        """`x times w, a matmul` names the product once more."""
        before, here = self.tokens[self.at - 2] if self.at > 1 else None, self.peek()
        value = self.value
        again = value is not None and value.key == "matmul" and all(a.kind in ("begin", "fit") for a in value.args)
        if token.is_("op", "matmul") and again and link == "sep" and (here is None or here.text in _SEPARATORS):
            return sum(len(t.shape) > 1 for t in self.request.tensors) <= 2
        if not (
            token.is_("op", "matmul") and value is not None and value.key in ("times", "product") and link == "sep"
        ):
            return False
        if before is None or not before.is_("article") or not (here is None or here.text in _SEPARATORS):
            return False
        self.value = Node("op", "matmul", "matmul", value.args)
        return True

    def _only_verb(self, token: Token) -> bool:
        """`add a gelu` and `multiply matrices` name no addition of their own."""
        entry = token.entry
        assert entry is not None
        if entry.key != "add" or entry.arity != "binary" or token.text.lower() not in ("add", "adding", "adds"):
            return False
        at = self.at
        self._skip("article", "filler")
        after = self.peek()
        found = after is not None and after.is_("op") and after.entry is not None
        if found:
            assert after is not None
            assert after.entry is not None
            arity = after.entry.arity
            saved = self.at
            if arity in ("bias", "residual"):
                return True
            if arity in (
                "unary",
                "along",
                "matmul",
                "attention",
                "transpose",
                "clip",
                "gated",
            ) and not self._operand_behind(1):
                return True
            self.at = saved
        self.at = at
        return False

    def _check_link(self, link: str, before: Token | None, token: Token) -> None:
        """How an operator is joined to what stands before it must leave one reading."""
        entry = token.entry
        assert entry is not None
        old = before.entry if before is not None else None
        words = f"{before.text if before is not None else ''} {token.text}".strip()
        new_structural = entry.arity in _STRUCTURAL or entry.key in _NORMS
        old_structural = old is not None and (
            old.arity in _STRUCTURAL or old.key in _NORMS or old.kind in ("infix", "postfix")
        )
        reductions = old is not None and old.arity in ("reduce", "index") and entry.arity in ("reduce", "index")
        if link in ("then", "sep", "start"):
            return
        if link in ("and", "with"):
            if reductions and self.results:
                return
            if reductions:
                raise self.refuse(
                    f"{before.text if before else ''} and {token.text}",
                    "it can mean two results or one after the other",
                )
            fused = any(t.text.lower() in ("fused", "fuse", "fusing", "fuses", "fused together") for t in self.tokens)
            if self.open and not (self.open_plain and (entry.arity in _STRUCTURAL or fused)):
                raise self.refuse(
                    f"{self.open} and {token.text}",
                    f"{token.text!r} can follow or belong to the operand; say 'then {token.text}'",
                )
            if not (new_structural or old_structural or fused):
                raise self.refuse(
                    f"{before.text if before else ''} and {token.text}",
                    f"it can mean two results or one after the other; say '{before.text if before else ''} then {token.text}'",
                )
            return
        if link == "+":
            return
        if self.open:
            raise self.refuse(
                f"{self.open} {token.text}",
                f"{token.text!r} can apply to the operand or to the result; say 'then {token.text}'",
            )
        article = self.at > 1 and self.tokens[self.at - 2].is_("article")  # `log the softmax` is no list of steps
        if not old_structural or article:
            raise self.refuse(
                words,
                f"it isn't clear how the two belong together; say '{before.text if before else ''} then {token.text}'",
            )

    def _grouping(self, token: Token, link: str) -> bool:
        assert token.entry is not None
        return bool(self.results) and token.entry.arity in ("reduce", "index")

    def _group_follows(self) -> bool:
        """Whether another reduction follows by `and` or a comma: results side by side."""
        at = self.at
        joined = False
        while at < len(self.tokens):
            token = self.tokens[at]
            if token.text in (",", "&") or token.is_("and"):
                joined = True
            elif token.is_("op") and token.entry is not None:
                return joined and token.entry.arity in ("reduce", "index")
            elif not (
                token.is_("article")
                or (token.is_("axis") and token.entry is not None and token.entry.key in ("row", "column") and joined)
                or token.is_("total")
            ):
                return False
            at += 1
        return False

    def _grouped(self) -> list[Node]:
        """Reductions side by side share the axis and the operand that the last one names."""
        last = self.results[-1]
        axis = next((n.options.axis for n in reversed(self.results) if n.options.axis), "")
        operand = next(
            (n.args[0] for n in reversed(self.results) if n.args and n.args[0].kind not in ("it", "begin")),
            last.args[0],
        )
        found = []
        for node in self.results:
            own = node.args[0] if node.args and node.args[0].kind not in ("it", "begin") else operand
            if own.kind == "it" and self.value is not None and self.value.kind != "it":
                own = self.value
            found.append(replace(node, args=(own,), options=replace(node.options, axis=node.options.axis or axis)))
        return found

    def _axis_word(self, token: Token, link: str) -> str:
        """`row sum` before its operator, `softmax, row-wise` behind it."""
        assert token.entry is not None
        at = self.at + 1
        while at < len(self.tokens) and (
            self.tokens[at].is_("article") or self.tokens[at].is_("quality") or self.tokens[at].is_("filler")
        ):
            at += 1
        after = self.tokens[at] if at < len(self.tokens) else None
        if (
            after is not None
            and after.is_("op")
            and after.entry is not None
            and after.entry.arity in ("reduce", "along", "index", "error", "top")
        ):
            if not any(word in token.text.lower() for word in ("row", "column", "axis", "dim")):
                raise self.refuse(
                    f"{token.text} {after.text}",
                    f"it isn't clear along what; say '{after.text} of each row' or name the axis",
                )
            self.take()
            self.axis = token.entry.key
            return link
        return self._behind(token, link)

    def _behind(self, token: Token, link: str) -> str:
        """An axis behind its operator's operands: `softmax of x 3x4, over the last axis`."""
        start = self.at
        if self._is("prep"):
            self.take()
        axis = self._axis()
        if axis is None:
            self.at = start
            raise self.refuse(f"{token.text} {self._text(1)}".strip())
        for holder in ("results", "value"):
            node = (
                self.results[-1] if holder == "results" and self.results else self.value if holder == "value" else None
            )
            if node is None or node.kind != "op" or node.arity not in ("reduce", "along", "index", "error"):
                continue
            if node.options.axis and node.options.axis != axis and not {node.options.axis, axis} <= {"row", "-1"}:
                raise self.refuse(self._between(start, self.at), "two axes are named")
            changed = replace(node, options=replace(node.options, axis=axis))
            if holder == "results":
                self.results[-1] = changed
            else:
                self.value = changed
            return ""
        if axis in ("-1", "row") and self.value is None:
            raise self.refuse(self._between(start, self.at))
        raise self.refuse(self._between(start, self.at))

    def _late_axis(self, token: Token, link: str) -> str:
        """`axis=0` or `along ...` behind the operands, or before the operator."""
        start = self.at
        axis = self._axis()
        self._skip("noun")
        if axis is not None and self._is("op"):
            self.axis = axis
            return link
        self.at = start
        return self._behind(token, link)

    def _late_option(self, token: Token, link: str) -> str:
        """`softmax of x 3x4, temperature 0.7`: a number of the last operator."""
        node = self.value
        if node is not None and node.kind == "op" and self.last is not None and self.last.is_("op"):
            options = self._number_option(self.last, node.options) or self._affine_behind(node)
            if options is not None:
                self.value = replace(node, options=options)
                return ""
        name = token.text
        self.take()
        value = self._number()
        if value is not None:
            raise RequestError(f"the number {value:g} isn't understood here: {WAY_OUT}")
        raise self.refuse(name)

    def _affine_behind(self, node: Node) -> Options | None:
        if node.key not in ("rmsnorm", "layernorm"):
            return None
        found = self._affine_part(node.key, node.options)
        return found[1] if found is not None else None

    def _quality(self, token: Token, link: str) -> str:
        """`causal` before attention, or behind it."""
        at = self.at + 1
        while at < len(self.tokens) and (
            self.tokens[at].is_("quality")
            or self.tokens[at].is_("article")
            or self.tokens[at].is_("filler")
            or self.tokens[at].is_("axis")
        ):
            at += 1
        after = self.tokens[at] if at < len(self.tokens) else None
        self.take()
        if (after is not None and after.is_("op")) or token.is_("quality", "batched"):
            self.qualities.append(token)
            return link
        node = self.value
        if node is not None and node.kind == "op" and self.last is not None and self.last.is_("op"):
            self.value = replace(node, options=self._with_quality(token, self.last, node.options))
            return ""
        raise self.refuse(f"{token.text} {self._text()}".strip())

    def _preposition(self, token: Token, link: str, subjects: list[Node]) -> tuple[str, list[Node]]:
        """A preposition before a declaration, an axis, an option or a further operator."""
        word = token.text.lower()
        after = self.peek(1)
        skipped = 1
        while after is not None and (
            (after.is_("article") and not self._named(after))
            or after.is_("filler")
            or after.is_("noun")
            or after.is_("both")
        ):
            skipped += 1
            after = self.peek(skipped)
        if after is None:
            if word in ("of", "on", "for", "in", "with", "at", "as") and skipped > 1:
                self.at += skipped
                return link, subjects
            raise self.refuse(f"{self._text(-1)} {word}".strip())
        if after.kind == "number":
            raise RequestError(f"the number {after.text} isn't understood here: {WAY_OUT}")
        if after.kind == "tensor" and (
            self.value is None or word in ("with", "for", "on", "of", "over", "and", "to", "by", "using", "in", "at")
        ):
            listed = self.at > 0 and self.tokens[self.at - 1].kind == "tensor" and not self.open
            if not listed and ((self.value is not None and word in ("by", "to")) or (word == "by" and not subjects)):
                raise self.refuse(f"{word} {after.text}")
            self.take()
            return link, subjects
        if self._named(after) and self.value is None and word in ("for", "on", "of", "with", "from", "by", "to"):
            self.take()
            return link, subjects
        if after.is_("axis") or after.is_("total", "axis") or after.is_("each"):
            return self._behind(token, link), subjects
        if word in ("with", "using") and (after.is_("param") or after.is_("affine") or after.is_("quality")):
            self.at += skipped
            return link, subjects
        if word in ("with", "using", "by", "via") and after.is_("op") and self.value is not None:
            assert after.entry is not None
            if after.entry.arity in ("bias", "residual", "unary", "scale", "clip") and word in ("with", "using"):
                self.take()
                return "with", subjects
        if after.kind == "symbol" and after.text in _SEPARATORS and skipped > 1:
            self.at += skipped
            return link, subjects
        if (
            word in ("for", "of", "in", "to", "with", "by")
            and (after.is_("op") or after.is_("verb") or after.is_("quality"))
            and self.value is None
            and not subjects
        ):
            self.take()  # `kernel for softmax`
            return link, subjects
        if self.value is None and word in ("for", "in") and after.kind == "expression":
            self.take()
            return link, subjects
        if self.value is None and after.kind == "expression":
            self.take()
            return link, subjects
        raise self.refuse(f"{word} {after.text}")

    def _expression(self, link: str) -> None:
        self.pending = ""
        token = self.take()
        node = Node("expression", token.text)
        name = token.names[0] if token.names else ""
        if self.value is not None:
            only_expression = self.value.kind == "expression" and not self.last
            named = any(self.value is node for node in self.assigned.values())
            if only_expression and not named:
                raise RequestError(
                    f"{self.value.key!r} and {token.text!r} are two expressions: write them as one, or give the first a name that the second "
                    "uses, as in h = x @ w; y = relu(h)."
                )
            if not only_expression:
                words = self.last.text if self.last is not None else "what stands before"
                raise RequestError(
                    f"{words} stands beside {token.text!r}, but not in it: make it part of the expression, or say "
                    f"'{token.text}, then {words}' if it follows."
                )
        if self.results:
            raise self.refuse(token.text)
        if name:
            self.assigned[name] = node
        self.value = node
        self.open = ""
