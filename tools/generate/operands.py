"""Reads an operator with its operands: `matmul of x and w`, `subtract b from a`, `divide by the sum of each row`."""

from __future__ import annotations

import ast
from dataclasses import replace
from typing import Literal

from tools.generate.details import Details
from tools.generate.formula import ALL, BEGIN, IMPLIED, Node, Options, fit, substituted
from tools.generate.lexicon import Arity
from tools.generate.tokens import Token
from tools.task_errors import RequestError

_PAIRED = {"sum": "add", "mean": "average", "max": "maximum", "min": "minimum"}
"""Reductions that become element-wise operators when they are said of several tensors."""


def _along(node: Node, axis: str) -> Node:
    """The sum of `divide each row by its sum`: along that row."""
    if node.arity in ("reduce", "index") and not node.options.axis and node.args and node.args[0] == IMPLIED:
        return replace(node, options=replace(node.options, axis=axis))
    return node


class Operands(Details):
    """The reader of operators' phrases."""

    def _phrase(self, token: Token, subjects: list[Node], link: str = "", nested: bool = False) -> Node:
        """An operator whose word has been taken, with all that belongs to it."""
        entry = token.entry
        assert entry is not None
        key, arity = entry.key, entry.arity
        options = self._taken_options(token)
        first = self.at
        options = self._options(token, options)
        if arity == "top":
            options = self._count(token, options)
        if arity in ("bias", "residual"):
            other = self._name_behind() or fit(key)
            left = self.value or BEGIN
            if self.value is None and self._is("prep") and self._text() == "to":
                self.take()
                left = self._operand()
            args: tuple[Node, ...] = (left, other)
            return Node("op", key, arity, args, options=self._options(token, options))
        operands = list(subjects)
        if not operands:
            operands, options = self._operands(token, options, nested)
            self.side = self._side(token, first)
        options = self._options(token, options)
        if arity == "top" and not options.count:
            options = self._count(token, options)
        end = self.at
        node = self._applied(token, key, arity, operands, options, nested)
        if operands and not subjects and not nested:
            self.open = self._between(first - 1, end)
            self.open_plain = all(o.kind in ("name", "loose", "number", "it") for o in operands)
        elif not nested:
            self.open = ""
        return node

    def _side(self, token: Token, first: int) -> str:
        """Which operand a single one is, by the word before it."""
        assert token.entry is not None
        before = self.tokens[first].text.lower() if first < len(self.tokens) and self.tokens[first].is_("prep") else ""
        if token.entry.arity in ("binary", "scale"):
            return "left" if before in ("of", "between", "over", "for", "on") else "right"
        return "right" if before in ("by", "with", "using", "against") else "left"

    def _applied(
        self,
        token: Token,
        key: str,
        arity: Arity | Literal[""],
        operands: list[Node],
        options: Options,
        nested: bool,
    ) -> Node:
        """The node of an operator, with what the words leave out filled in."""
        running = self.value if self.value is not None else IMPLIED if nested else BEGIN
        if arity == "reduce" and len(operands) > 1:
            paired = _PAIRED.get(key)
            if paired is None or options.axis not in ("", ALL) or (options.axis == ALL):
                raise self.refuse(token.text, "it takes one tensor; say what happens to the others")
            if self.value is not None and not nested and not any(self._goes_on(o) for o in operands):
                raise self.refuse(token.text, "it doesn't use the result so far")
            return Node("op", paired, "mean2" if paired == "average" else "binary", tuple(operands))
        takes = {
            "matmul": 2,
            "binary": 2,
            "error": 2,
            "loss": 2,
            "attention": 3,
            "gated": 4,
            "rope": 3,
            "lora": 4,
            "scale": 2,
        }.get(arity, 1)
        if arity == "binary" and key in ("add", "multiply", "product") and len(operands) > 2:
            takes = len(operands)
        if len(operands) > takes:
            raise self.refuse(token.text, f"it takes {takes} tensor{'s' if takes > 1 else ''}, not {len(operands)}")
        if len(operands) == 2 and arity in ("binary", "scale", "matmul"):
            one, two = operands
            for whole in operands:
                if whole.key in ("rows", "columns"):
                    one, two = (_along(n, whole.key[:-1]) for n in (one, two))
            operands = [substituted(one, IMPLIED, two), substituted(two, IMPLIED, one)]
        explicit = bool(operands) and not any(self._goes_on(o) for o in operands)
        if arity in ("matmul", "binary", "error", "loss") and len(operands) == 1:
            if self.side == "left" and (self.value is None or nested):
                return Node("op", key, arity, (operands[0], fit(key)), options=options)
            if operands[0].kind == "it" or operands[0] == self.value:
                raise self.refuse(f"{token.text} {self._text(-1)}", "it takes up an earlier result")
            return Node("op", key, arity, (running, operands[0]), options=options)
        if self.value is not None and explicit and not nested and arity not in ("attention", "gated", "rope", "lora"):
            chained = (
                self.value.has("begin")
                and not self.value.has("name")
                and len(operands) == 1
                and operands[0].kind in ("name", "loose", "expression")
            )
            if chained and arity in ("unary", "along", "reduce", "index", "transpose", "clip"):
                value = substituted(self.value, BEGIN, operands[0])  # `layernorm then gelu of x`
                return Node("op", key, arity, (value,), options=options)
            what = f"{token.text} of {operands[0].key}" if operands[0].key else token.text
            raise self.refuse(what, "it doesn't use the result so far; combine results in an expression")
        if arity in ("matmul", "binary", "error", "loss") and not operands:
            return Node("op", key, arity, (running, fit(key)), options=options)
        if arity in ("attention", "gated", "rope", "lora"):
            return Node("op", key, arity, tuple(operands), options=options)
        return Node("op", key, arity, tuple(operands) or (running,), options=options)

    def _goes_on(self, node: Node) -> bool:
        """Whether an operand uses the running result."""
        return node.kind == "it" or node == self.value or any(self._goes_on(a) for a in node.args)

    def _operand_behind(self, ahead: int) -> bool:
        """Whether an operator's operand is said behind it."""
        token = self.peek(ahead)
        return (
            token is not None
            and token.is_("prep")
            and token.text.lower() in ("of", "on", "to")
            and not self._is("axis", ahead=ahead + 1)
        )

    def _operands(self, token: Token, options: Options, nested: bool = False) -> tuple[list[Node], Options]:
        entry = token.entry
        assert entry is not None
        _key, arity = entry.key, entry.arity
        if arity == "clip":
            return self._clip_operands(token, options)
        if arity in ("scale", "binary"):
            return self._verb_operands(token, options)
        found: list[Node] = []
        at = self.at
        if self._is("prep"):
            word = self._text()
            if word in ("by", "with", "using", "against"):
                ahead = 2 if self._is("article", ahead=1) else 1
                after = self.peek(ahead)
                if after is not None and after.is_("op") and not self._operand_behind(ahead + 1):
                    return [], options  # `matmul with bias`
            if word in ("with", "by", "using", "against") and arity not in (
                "matmul",
                "error",
                "loss",
                "attention",
                "gated",
                "rope",
                "lora",
            ):
                return [], options
            if word in ("as", "per", "via", "among", "from") or (nested and word == "to"):
                return [], options
            self.take()
            inner = self._options(token, options)
            options = inner
            if self._is("prep") and self._text() in ("of", "on", "for", "over"):
                self.take()
            if not self._operand_here():
                self.at = at
                return [], options
            self._check_sum(token, word)
            found.append(self._operand(keepdims=arity == "matmul"))
        elif self._is("after"):
            self.take()
            if not self._operand_here():
                self.at = at
                return [], options
            found.append(self._operand())
        elif (here := self.peek()) is not None and (
            here.kind == "tensor" or self._named(here) or here.kind == "expression" or here.is_("it")
        ):
            found.append(self._operand())
        else:
            saved = self.at
            self._skip("article", "filler", "noun", "count", "both")
            here = self.peek()
            if (
                self.at > saved
                and here is not None
                and (here.kind in ("tensor", "expression") or self._named(here))
                and not self._is("op")
            ):
                found.append(self._operand())
            else:
                self.at = saved
                return [], options
        return self._more_operands(token, found, options), options

    def _check_sum(self, token: Token, word: str) -> None:
        """`relu of x - 1` can end before the sign."""
        here = self.peek()
        if word != "of" or here is None or here.kind != "expression" or here.text[0] == "(":
            return
        tree = ast.parse(here.text, mode="eval").body
        if isinstance(tree, ast.BinOp) and isinstance(tree.op, ast.Add | ast.Sub):
            raise self.refuse(
                f"{token.text} of {here.text}", f"it can end before the sign; write {token.text} of ({here.text})"
            )

    def _operand_here(self) -> bool:
        at = self.at
        self._skip("article", "filler", "noun", "count", "both", "verb")
        token = self.peek()
        found = token is not None and (
            token.kind in ("tensor", "expression") or self._named(token) or token.is_("it") or token.is_("op") or token.is_("axis")
            or token.is_("total") or token.is_("quality") or token.is_("transposed") or token.text == "-"
            or token.is_("infix", "subtract")
        )  # fmt: skip
        self.at = at
        return found

    def _more_operands(self, token: Token, found: list[Node], options: Options) -> list[Node]:
        """Further tensors by `and`, `by`, `with`, a comma."""
        entry = token.entry
        assert entry is not None
        limit = {"matmul": 2, "error": 2, "loss": 2, "attention": 3, "gated": 4, "rope": 3, "lora": 4}.get(
            entry.arity, 1
        )
        listed = entry.arity == "reduce" and entry.key in _PAIRED and not options.axis
        if found and found[-1].kind in ("name", "loose") and self._pair(found):
            found = self._pair(found)
        while len(found) < limit or listed:
            beside = self.peek()
            if not (limit > 2 and beside is not None and beside.kind == "tensor" and beside.names):
                joint = self._joint(limit > 2 or listed, entry.arity)
                if joint is None:
                    break
            here = self.peek()
            if limit > 2 and here is not None and here.kind == "tensor" and len(here.names) > 1:
                found += self._tensor_nodes()
                continue
            if listed and found[-1].kind == "op":
                raise self.refuse(
                    f"{token.text} ... and {self._text()}", "it isn't clear what the last word belongs to"
                )
            found.append(self._operand())
        return found

    def _pair(self, found: list[Node]) -> list[Node]:
        """Names that one declaration token held: `q and k 8x128x64`."""
        before = self.peek(-1)
        if (
            before is None
            or before.kind != "tensor"
            or len(before.names) + int(before.value if not before.names else 0) < 2
        ):
            return []
        if before.names:
            return [*(Node("name", n) for n in before.names[:-1]), found[-1]]
        count = int(before.value)
        return [Node("loose", str(self.loose - count + 1 + k)) for k in range(count)]

    def _joint(self, many: bool, arity: str) -> str | None:
        """What joins two operands, if a tensor follows it."""
        at = self.at
        word = self._text()
        joins = (
            self._is("and")
            or (self._is("prep") and word in ("by", "with", "to", "against", "from"))
            or word in (",", "&", "@", "*")
        )
        joins = joins or (self._is("infix") and word in ("times", "multiplied by") and arity == "matmul")
        if not joins:
            return None
        self.take()
        if word == "," and self._is("and"):
            self.take()
        self._skip("article", "filler", "noun", "both", "verb") if not self._named(self.peek()) else None
        token = self.peek()
        comma_needs_name = (
            word == ","
            and token is not None
            and token.kind == "tensor"
            and not many
            and arity not in ("matmul", "error", "loss")
        )
        number = token is not None and token.kind == "number" and arity == "reduce" and many and word != ","
        operand = token is not None and (
            number or token.kind in ("tensor", "expression") or self._named(token) or (token.is_("op") and arity == "matmul" and self._operand_behind(1) and word != ",")
            or (token.is_("transposed") and arity == "matmul")
        )  # fmt: skip
        other_class = (
            word == ","
            and token is not None
            and at > 0
            and (token.kind == "tensor") != (self.tokens[at - 1].kind == "tensor")
        )
        if not operand or comma_needs_name or other_class:
            self.at = at
            return None
        return word

    def _operand(self, keepdims: bool = False) -> Node:
        """A tensor, a number, the running result, or an operator's phrase."""
        self._skip("article", "filler", "noun", "both", "verb")
        token = self.peek()
        if token is None:
            raise self.refuse(self._text(-1), "its operand is missing")
        if token.text == "-" or token.is_("infix", "subtract"):
            self.take()
            if self._is("count"):
                raise self.refuse(f"{token.text} {self._text()}")
            number = self.peek()
            if number is not None and number.kind == "number":
                return replace(self._operand(), number=-number.value)
            return Node("op", "negate", "unary", (self._operand(),))
        if token.kind == "number":
            value = self._number()
            assert value is not None
            if self._is("infix") and self._text() == "times":
                raise self.refuse(f"{token.text} times {self._text(1)}")
            return Node("number", number=value)
        if token.kind == "expression":
            self.take()
            return Node("expression", token.text)
        if token.kind == "tensor" or self._named(token):
            nodes = self._tensor_nodes()
            return nodes[-1]
        if token.is_("it"):
            self.take()
            if token.is_("it", "its") and any(self._is(kind) for kind in ("op", "axis", "total", "quality")):
                return self._inner(keepdims)
            return self._postfixes(self.value if self.value is not None else BEGIN)
        if token.is_("transposed"):
            self.take()
            return Node("op", "transpose", "transpose", (self._operand(),))
        if token.is_("axis", "row") or token.is_("axis", "column"):
            whole = self._whole_rows(token)
            if whole is not None:
                return whole
        if token.is_("axis") or token.is_("total") or token.is_("quality") or token.is_("op"):
            return self._inner(keepdims)
        if token.is_("count") and token.entry is not None and token.entry.key != "2":
            raise self.refuse(f"{token.text} {self._text(1)}", "their shapes aren't all given")
        if token.entry is not None and token.entry.kind in ("ambiguous", "foreign"):
            raise self.unclear(token)
        raise self.refuse(token.text)

    def _whole_rows(self, token: Token) -> Node | None:
        """`each row of x` as what an operator works on; None where the axis belongs to an operator: `each row's sum`."""
        assert token.entry is not None
        at = self.at
        self.take()
        if self._is("prep") and self._text() == "of":
            self.take()
            self._skip("article", "noun")
            here = self.peek()
            if here is not None and (here.kind in ("tensor", "expression") or self._named(here) or here.is_("it")):
                return Node("op", f"{token.entry.key}s", "along", (self._operand(),))
        elif self._is("prep") and self._text() in ("by", "with"):
            return Node("op", f"{token.entry.key}s", "along", (self.value if self.value is not None else BEGIN,))
        self.at = at
        return None

    def _inner(self, keepdims: bool) -> Node:
        """An operator's phrase as an operand."""
        start = self.at
        while (token := self.peek()) is not None and not token.is_("op"):
            if token.entry is None:
                raise self.refuse(token.text)
            if token.is_("axis"):
                self.axis = token.entry.key
            elif token.is_("total"):
                self.axis = ALL
            elif token.is_("quality"):
                self.qualities.append(token)
            elif not token.is_("article"):
                raise self.refuse(token.text)
            self.take()
        if token is None:
            raise self.refuse(self._between(start, self.at))
        self.take()
        assert token.entry is not None
        if token.entry.arity in ("bias", "residual"):
            if token.text.lower().startswith("add"):
                raise self.refuse(f"{self._text(-2)} {token.text}")
            return self._name_behind() or fit(token.entry.key)
        if token.entry.arity == "scale" and not self._is("prep"):
            return self._name_behind() or fit("scale")
        node = self._phrase(token, [], nested=True)
        if keepdims and node.arity in ("reduce", "index"):
            node = replace(node, options=replace(node.options, keepdims=True))
        return node

    def _verb_operands(self, token: Token, options: Options) -> tuple[list[Node], Options]:
        """`add b to a`, `subtract b from a`, `multiply a by b`, `divide by 8`, `difference of a and b`."""
        entry = token.entry
        assert entry is not None
        key = entry.key
        noun = token.text.lower() not in ("add", "subtract", "multiply", "divide", "adding", "subtracting", "multiplying", "dividing", "adds",
                                          "subtracts", "multiplies", "divides", "scale", "mul", "rescale", "scaling")  # fmt: skip
        if self._is("prep") and self._text() in ("by", "with", "to", "for", "of", "between", "over", "on"):
            word = self._take_prep()
            if word in ("by", "with", "to") and (
                not noun or entry.arity == "scale" or key in ("multiply", "divide", "add", "subtract")
            ):
                return [self._operand(keepdims=True)], options
            if word in ("of", "between", "over", "for", "on"):
                if not self._operand_here():
                    raise self.refuse(f"{token.text} {word} {self._text()}")
                first = self._operand(keepdims=True)
                return self._second(token, first, noun=True), options
        if not self._side_here():
            return [], options
        first = self._operand(keepdims=True)
        return self._second(token, first, noun), options

    def _take_prep(self) -> str:
        return self.take().text.lower()

    def _side_here(self) -> bool:
        at = self.at
        self._skip("article", "filler", "noun", "both", "verb", "count")
        token = self.peek()
        found = token is not None and (
            token.kind in ("tensor", "expression", "number") or self._named(token) or token.is_("it") or token.text == "-"
            or token.is_("infix", "subtract")
            or token.is_("transposed")
            or (token.is_("op") or token.is_("axis") or token.is_("total"))
        )  # fmt: skip
        self.at = at
        return found

    def _second(self, token: Token, first: Node, noun: bool) -> list[Node]:
        """The other side of a verb."""
        entry = token.entry
        assert entry is not None
        key = entry.key
        pair = self._pair([first]) if first.kind in ("name", "loose") else []
        if pair:
            if key in ("subtract", "divide") and not noun:
                raise self.refuse(
                    f"{token.text} {self._text(-1)}",
                    f"the order isn't clear; say '{key} b {'from' if key == 'subtract' else 'by'} a'",
                )
            return pair
        word = self._text()
        joined = (
            self._is("and") or word in (",", "&") or (self._is("prep") and word in ("by", "with", "to", "from", "over"))
        )
        if not joined:
            return [first]
        at = self.at
        self.take()
        if word in (",", "&") or self._is("and"):
            self._skip("and")
        if not self._side_here() or (word == "," and self._declared_ahead()) or (
            (self.tokens[at].is_("and") or word == ",") and not self._tensor_ahead()
        ):  # fmt: skip
            self.at = at
            return [first]
        if word == "from":
            if key != "subtract" or noun:
                self.at = at
                raise self.refuse(f"{token.text} ... from")
            return [self._operand(keepdims=True), first]
        if word == "to":
            if key not in ("add", "divide"):
                raise self.refuse(f"{token.text} ... to {self._text()}")
            second = self._operand(keepdims=True)
            return [second, first] if key == "add" else [first, second]
        if self.tokens[at].is_("and") or word in (",", "&"):
            if key in ("subtract", "divide") and not noun:
                raise self.refuse(
                    f"{token.text} ... and {self._text()}",
                    f"the order isn't clear; say '{key} b {'from' if key == 'subtract' else 'by'} a'",
                )
            found = [first, self._operand(keepdims=True)]
            while key in ("add", "multiply", "product") and self._joint(True, "binary") is not None:
                found.append(self._operand(keepdims=True))
            return found
        if word in ("by", "with", "over") and key in ("multiply", "divide", "scale", "add", "product"):
            return [first, self._operand(keepdims=True)]
        self.at = at
        return [first]

    def _declared_ahead(self) -> bool:
        """Whether what follows a comma is a declaration and no operand."""
        at = self.at
        self._skip("article", "filler", "noun", "both")
        token = self.peek()
        self.at = at
        return token is not None and token.kind == "tensor"

    def _tensor_ahead(self) -> bool:
        at = self.at
        self._skip("article", "filler", "noun", "both")
        token = self.peek()
        self.at = at
        return token is not None and (
            token.kind in ("tensor", "expression")
            or self._named(token)
            or token.is_("op", "residual")
            or token.is_("op", "bias")
        )

    def _clip_operands(self, token: Token, options: Options) -> tuple[list[Node], Options]:
        """`clip x to [0, 1]`, `clamp between -1 and 1`, `clip to 0..6`, `clamp at most 3`."""
        found: list[Node] = []
        self._skip("article")
        here = self.peek()
        if self._is("prep") and self._text() in ("of", "on"):
            self.take()
            here = self.peek()
        if here is not None and ((here.kind == "tensor") or self._named(here) or here.is_("it")):
            found.append(self._operand())
        while (
            self._is("prep")
            or self._is("article")
            or self._is("filler")
            or self._text() in ("[", "(", "=", "range", "limits", "interval", "min", "low")
        ):
            self.take()
        token_ = self.peek()
        if token_ is not None and token_.kind == "shape" and len(token_.shape) == 2:
            self.take()
            return found, replace(options, low=float(token_.shape[0]), high=float(token_.shape[1]))
        low = self._number()
        if low is None:
            raise RequestError(f"{token.text} has no limits: say them, for example 'clip to [-1, 1]'.")
        while (
            self._text() in (",", ".", "..", "-", "and", "to", "max", "high", "=")
            or self._is("and")
            or self._is("prep")
        ):
            if self._text() == "-" and (after := self.peek(1)) is not None and after.kind == "number":
                break
            self.take()
        high = self._number()
        if high is None:
            raise RequestError(f"{token.text} has only one limit, {low:g}: say both, for example 'clip to [-1, 1]'.")
        if self._text() in ("]", ")"):
            self.take()
        return found, replace(options, low=low, high=high)
