"""Reads what belongs to an operator beside its operands: axes, epsilons, slopes, masks, gains and shifts."""

from __future__ import annotations

from dataclasses import replace

from tools.generate.cursor import Cursor
from tools.generate.formula import ALL, Node, Options, fit
from tools.generate.request import WAY_OUT
from tools.generate.tokens import Token
from tools.task_errors import RequestError

_GAINS = ("g", "gain", "gamma", "weight", "scale", "s", "w", "gains")
_SHIFTS = ("b", "beta", "bias", "shift")


class Details(Cursor):
    """The reader of options."""

    def _taken_options(self, token: Token) -> Options:
        """What stood before the operator: `row`, `causal`, `exact`."""
        entry = token.entry
        assert entry is not None
        options = Options(axis=self.axis)
        if self.axis and entry.arity not in ("reduce", "along", "index", "error", "top"):
            raise self.refuse(f"{self.axis} {token.text}")
        self.axis = ""
        for quality in self.qualities:
            options = self._with_quality(quality, token, options)
        self.qualities = []
        return options

    def _with_quality(self, quality: Token, token: Token, options: Options) -> Options:
        assert quality.entry is not None
        assert token.entry is not None
        key, arity = quality.entry.key, token.entry.arity
        if key == "causal" and (arity == "attention" or token.entry.key == "softmax"):
            return replace(options, causal=True)
        if key == "unmasked" and arity == "attention":
            return options
        if key == "stable" and (
            token.entry.key in ("softmax", "log_softmax", "logsumexp", "cross_entropy") or arity == "attention"
        ):
            return options
        if key == "batched":
            return options
        if key == "elementwise" and arity in ("binary", "unary", "scale", "clip"):
            return replace(options, elementwise=True)
        if key == "elementwise" and token.entry.key in ("max", "min", "sum"):
            return options
        raise self.refuse(f"{quality.text} {token.text}")

    def _options(self, token: Token, options: Options) -> Options:
        """Axes, epsilons and the like that follow an operator."""
        while True:
            at = self.at
            if self._text() in (",",) and self._option_ahead(1):
                self.take()
            self._skip("article") if self._is("article") and self._option_ahead(1) else None
            found = (
                self._axis_option(token, options) or self._number_option(token, options) or self._affine(token, options)
            )
            if found is None:
                found = self._quality_option(token, options)
            if found is None:
                self.at = at
                return options
            options = found

    def _option_ahead(self, ahead: int) -> bool:
        """Whether an option of the operator follows."""
        at = ahead
        while self._is("article", ahead=at) or (
            self._is("prep", ahead=at) and self._text(at) in ("with", "using", "over", "of", "in", "at")
        ):
            at += 1
        token = self.peek(at)
        if token is None:
            return False
        if token.is_("param"):
            return True
        if token.is_("each") and (self.peek(at + 1) is not None):
            return True
        return token.is_("quality", "causal") and not self._is("op", ahead=at + 1)

    def _axis_option(self, token: Token, options: Options) -> Options | None:
        entry = token.entry
        assert entry is not None
        at = self.at
        if self._is("prep") and self._text() in (
            "over",
            "of",
            "for",
            "on",
            "in",
            "per",
            "by",
            "from",
            "at",
            "to",
            "with",
            "using",
            "across",
        ):
            self.at += 1
        axis = self._axis()
        if axis is None or entry.arity not in ("reduce", "along", "index", "error", "top", "attention", "loss"):
            self.at = at
            return None
        if entry.arity in ("attention", "top", "loss") and axis not in ("-1", "row"):
            raise self.refuse(self._between(at, self.at), f"{token.text} works along the last axis")
        if options.axis and options.axis != axis and not {options.axis, axis} <= {"row", "-1"}:
            raise self.refuse(self._between(at, self.at), "two axes are named")
        return replace(options, axis=axis)

    def _axis(self) -> str | None:
        """An axis by name or number, or None."""
        at = self.at
        self._skip("article")
        self._skip("both") if not self._is("axis") else None
        token = self.peek()
        if token is None:
            self.at = at
            return None
        if token.is_("axis"):
            self.take()
            assert token.entry is not None
            self._skip_after_axis()
            return token.entry.key
        if token.is_("total", "axis"):
            self.take()
            return ALL
        if token.is_("each"):
            self.take()
            self._skip("article", "each")
            if self._is("axis"):
                inner = self.take()
                assert inner.entry is not None
                return inner.entry.key
            while self._text() in ("=", ":", "number", "is"):
                self.take()
            sign = 1
            if self._text() == "-":
                self.take()
                sign = -1
            number = self.peek()
            if number is not None and number.kind == "number" and number.value == int(number.value):
                self.take()
                return str(sign * int(number.value))
            if number is not None and number.kind == "shape" and number.text[0] in "([":
                self.take()
                return ",".join(map(str, number.shape))
        self.at = at
        return None

    def _skip_after_axis(self) -> None:
        """`each row separately`: nothing more."""
        while self._text() in ("separately", "independently"):
            self.take()

    def _number_option(self, token: Token, options: Options) -> Options | None:
        entry = token.entry
        assert entry is not None
        at = self.at
        if self._is("prep") and self._text() in ("with", "using", "for", "at", "of", "by"):
            self.take()
        self._skip("article")
        param = self.peek()
        if param is None:
            self.at = at
            return None
        if param.kind == "number" and self._is("param", "heads", ahead=1) and entry.arity == "attention":
            self.at += 2
            return replace(options, heads=int(param.value))
        if not (param.is_("param") or (param.is_("op", "scale") and entry.arity == "attention")):
            self.at = at
            return None
        assert param.entry is not None
        name = param.entry.key
        self.take()
        value = self._number()
        if value is None:
            self.at = at
            return None
        fits = {
            "eps": entry.key in ("rmsnorm", "layernorm", "l2norm"), "alpha": entry.key in ("leaky_relu", "elu"),
            "temperature": entry.key in ("softmax", "log_softmax"), "scale": entry.arity == "attention",
        }  # fmt: skip
        if not fits.get(name, False):
            raise RequestError(
                f"the number {value:g} isn't understood here: {token.text} takes no {param.text}; {WAY_OUT}"
            )
        if name in ("temperature",) and value <= 0:
            raise RequestError(f"a temperature of {value:g} isn't possible: give a positive number.")
        return replace(options, **{name: value})  # type: ignore[arg-type]

    def _affine(self, token: Token, options: Options) -> Options | None:
        """`with gain g and bias b` of a norm."""
        entry = token.entry
        assert entry is not None
        if entry.key not in ("rmsnorm", "layernorm"):
            return None
        at = self.at
        joined = (self._is("prep") and self._text() in ("with", "using", "by", "and using")) or self._is("and")
        if joined:
            self.take()
        self._skip("article")
        self._skip("filler") if self._is("filler") and self._is("affine", ahead=1) else None
        found = self._affine_part(entry.key, options)
        if found is None or not (joined or found[0] == "named"):
            self.at = at
            return None
        return found[1]

    def _affine_part(self, key: str, options: Options) -> tuple[str, Options] | None:
        token = self.peek()
        if token is None:
            return None
        names = token.names if token.kind == "tensor" else ()
        lower = names[0].lower() if names else token.text.lower()
        if token.kind == "tensor" and len(names) == 1 and len(token.shape) <= 2:
            if lower in _GAINS and options.gain is None:
                self.take()
                return "named", replace(options, gain=Node("name", names[0]))
            if lower in _SHIFTS and options.shift is None and key == "layernorm":
                self.take()
                return "named", replace(options, shift=Node("name", names[0]))
            return None
        if token.is_("affine", "both"):
            self.take()
            if key == "rmsnorm":
                return "", replace(options, gain=fit("gain"))
            return "", replace(options, gain=fit("gain"), shift=fit("shift"))
        if token.is_("affine", "gain") or (token.is_("op", "scale") and options.gain is None and self._behind_with()):
            self.take()
            return "", replace(options, gain=self._name_behind() or fit("gain"))
        if (
            (token.is_("affine", "shift") or token.is_("op", "bias"))
            and key == "layernorm"
            and (options.gain is not None or token.is_("affine"))
        ):
            self.take()
            return "", replace(options, shift=self._name_behind() or fit("shift"))
        if self._named(token) and lower in _GAINS and options.gain is None:
            self.take()
            return "", replace(options, gain=Node("name", token.text))
        if self._named(token) and lower in _SHIFTS and options.gain is not None and key == "layernorm":
            self.take()
            return "", replace(options, shift=Node("name", token.text))
        return None

    def _behind_with(self) -> bool:
        before = self.peek(-1)
        return before is not None and before.text.lower() in ("with", "and", "a", "using")

    def _quality_option(self, token: Token, options: Options) -> Options | None:
        at = self.at
        if self._is("prep") and self._text() in ("with", "using"):
            self.take()
        self._skip("article")
        quality = self.peek()
        if quality is None or not quality.is_("quality") or quality.is_("quality", "batched"):
            self.at = at
            return None
        entry = token.entry
        assert entry is not None
        if quality.is_("quality", "causal") and not (entry.arity == "attention" or entry.key == "softmax"):
            raise self.refuse(f"{token.text} {quality.text}")
        if not (quality.is_("quality", "causal") or quality.is_("quality", "unmasked")):
            self.at = at
            return None
        self.take()
        return self._with_quality(quality, token, options)

    def _count(self, token: Token, options: Options) -> Options:
        """The k of top-k."""
        if self.counted:
            count, self.counted = self.counted, 0
            return replace(options, count=count)
        at = self.at
        if self._is("prep") and self._text() in ("with", "for", "of"):
            self.take()
        if self._text() == "-":
            self.take()
        if self._text() == "k" and self._text(1) in ("=", ":", "of", "is"):
            self.at += 1
        value = self._number()
        if value is None:
            self.at = at
            return options
        if value != int(value) or value < 1:
            raise RequestError(f"top-{value:g} isn't possible: ask for a whole number of values.")
        self._skip("filler", "noun")
        return replace(options, count=int(value))
