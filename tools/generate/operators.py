"""What each operator means: its NumPy text and the shape of its result. Words and expressions are put together from these."""

from __future__ import annotations

from dataclasses import dataclass, field

from tools.task_errors import RequestError

EPSILON = {"rmsnorm": 1e-6, "layernorm": 1e-5, "l2norm": 1e-12}
FUNCTIONS = {
    "gelu": "0.5 * {x} * (1.0 + np.tanh(np.sqrt(2.0 / np.pi) * ({x} + 0.044715 * {x} ** 3)))",
    "exact_gelu": "0.5 * {x} * (1.0 + np.vectorize(math.erf)({x} / np.sqrt(2.0)))",
    "quick_gelu": "{x} / (1.0 + np.exp(-1.702 * {x}))",
    "silu": "{x} / (1.0 + np.exp(-{x}))",
    "relu": "np.maximum({x}, 0.0)",
    "relu6": "np.minimum(np.maximum({x}, 0.0), 6.0)",
    "leaky_relu": "np.where({x} > 0.0, {x}, {alpha} * {x})",
    "elu": "np.where({x} > 0.0, {x}, {alpha} * (np.exp(np.minimum({x}, 0.0)) - 1.0))",
    "selu": "1.0507009873554805 * np.where({x} > 0.0, {x}, 1.6732632423543772 * (np.exp(np.minimum({x}, 0.0)) - 1.0))",
    "hardtanh": "np.minimum(np.maximum({x}, -1.0), 1.0)",
    "hardsigmoid": "np.minimum(np.maximum({x} / 6.0 + 0.5, 0.0), 1.0)",
    "hardswish": "{x} * np.minimum(np.maximum({x} / 6.0 + 0.5, 0.0), 1.0)",
    "softsign": "{x} / (1.0 + np.abs({x}))",
    "sigmoid": "1.0 / (1.0 + np.exp(-{x}))",
    "log_sigmoid": "-np.logaddexp(-{x}, 0.0)",
    "softplus": "np.logaddexp({x}, 0.0)",
    "mish": "{x} * np.tanh(np.logaddexp({x}, 0.0))",
    "tanh": "np.tanh({x})",
    "rsqrt": "1.0 / np.sqrt({x})",
    "sqrt": "np.sqrt({x})",
    "square": "{x} * {x}",
    "cube": "{x} * {x} * {x}",
    "exp": "np.exp({x})",
    "exp2": "np.exp2({x})",
    "expm1": "np.expm1({x})",
    "log": "np.log({x})",
    "log2": "np.log2({x})",
    "log10": "np.log10({x})",
    "log1p": "np.log1p({x})",
    "abs": "np.abs({x})",
    "sign": "np.sign({x})",
    "round": "np.round({x})",
    "floor": "np.floor({x})",
    "ceil": "np.ceil({x})",
    "erf": "np.vectorize(math.erf)({x})",
    "sin": "np.sin({x})",
    "cos": "np.cos({x})",
    "tan": "np.tan({x})",
    "arctan": "np.arctan({x})",
    "sinh": "np.sinh({x})",
    "cosh": "np.cosh({x})",
    "reciprocal": "1.0 / {x}",
    "negate": "-{x}",
    "copy": "{x} + 0.0",
}
"""Element-wise functions as NumPy text."""
ALPHA = {"leaky_relu": 0.01, "elu": 1.0}
"""The slopes that these take unless the request gives one."""
POSITIVE_INPUT = ("log", "log2", "log10", "log1p", "sqrt", "rsqrt", "reciprocal")
BINARY = {"add": "+", "subtract": "-", "multiply": "*", "divide": "/", "power": "**"}
GATES = {"swiglu": "silu", "geglu": "gelu", "reglu": "relu", "glu": "sigmoid"}
REDUCTIONS = {
    "sum": "np.sum({x}{axis})", "mean": "np.mean({x}{axis})", "max": "np.max({x}{axis})", "min": "np.min({x}{axis})",
    "var": "np.var({x}{axis})", "std": "np.std({x}{axis})", "prod": "np.prod({x}{axis})",
    "sum_of_squares": "np.sum({x} * {x}{axis})", "mean_square": "np.mean({x} * {x}{axis})",
    "rms": "np.sqrt(np.mean({x} * {x}{axis}))", "norm": "np.sqrt(np.sum({x} * {x}{axis}))",
    "abs_sum": "np.sum(np.abs({x}){axis})", "range": "np.max({x}{axis}) - np.min({x}{axis})",
    "logsumexp": "",
}  # fmt: skip
INDICES = ("argmax", "argmin")
SCANS = {"cumsum": "np.cumsum({x}, axis={axis})", "cumprod": "np.cumprod({x}, axis={axis})"}
ALONG = ("softmax", "softmin", "log_softmax", "l2norm", "rmsnorm", "layernorm", *SCANS)
"""Operators that keep the shape and work along an axis."""
SAMPLE = {
    "mse": "np.mean(({x} - {y}) * ({x} - {y}){axis})", "mae": "np.mean(np.abs({x} - {y}){axis})",
    "rmse": "np.sqrt(np.mean(({x} - {y}) * ({x} - {y}){axis}))",
}  # fmt: skip
"""Errors of one tensor against another."""

PAIRS = {
    "row_dot": "np.sum({x} * {y}, axis=-1)",
    "cosine": "np.sum({x} * {y}, axis=-1) / np.sqrt(np.sum({x} * {x}, axis=-1) * np.sum({y} * {y}, axis=-1) + 1e-12)",
}
"""One number for each pair of rows."""

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Value:
    """NumPy text and the shape of what it gives; None where only tracing tells the shape."""

    text: str
    shape: Shape | None

    @property
    def plain(self) -> bool:
        """Whether the text may stand in a formula several times."""
        return self.text.isidentifier() or self.text.replace(".", "", 1).isdigit()


@dataclass(slots=True)
class Composition:
    """A reference under construction.

    Attributes:
        parameters: arguments in order, name -> shape.
        lines: body of the function.
        value: text of the result.
        shape: its shape.
        ops: keys of the operators used, for the task's name.
        positive: arguments that must be positive, as a logarithm's.
        notes: choices that the words left open, for the reader of the report.
    """

    parameters: dict[str, Shape] = field(default_factory=dict)
    dtypes: dict[str, str] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)
    value: str = ""
    shape: Shape = ()
    ops: list[str] = field(default_factory=list)
    positive: set[str] = field(default_factory=set)
    notes: list[str] = field(default_factory=list)

    def source(self, title: str) -> str:
        """The reference's text."""
        names = list(self.parameters)
        body = [f"    {n} = {n}.astype(np.float32)" for n in names] + [f"    {line}" for line in self.lines]
        body.append(f"    return {self.value}")
        text = "\n".join(body)
        imports = "import math\n\nimport numpy as np" if "math." in text else "import numpy as np"
        notes = "".join(f"\n\n    {note[:1].upper()}{note[1:]}" for note in dict.fromkeys(self.notes))
        end = "\n    " if notes else ""
        return f'{imports}\n\n\ndef reference({", ".join(names)}):\n    """{title}{notes}{end}"""\n{text}\n'

    def line(self, stem: str, text: str) -> str:
        """Add an assignment and return the variable's name."""
        taken = {*self.parameters, *(line.split(" =", 1)[0] for line in self.lines), "np", "math", "reference"}
        name, number = stem, 2
        while name in taken:
            name, number = f"{stem}{number}", number + 1
        self.lines.append(f"{name} = {text}")
        return name

    def parameter(self, name: str, shape: Shape, dtype: str = "") -> str:
        """Add an argument and return its name in the reference."""
        base = "".join(c if c.isalnum() else "_" for c in name) or "x"
        if base in ("np", "math", "reference") or not base.isidentifier() or base in _KEYWORDS:
            base = f"{base}_in"
        name, number = base, 2
        while name in self.parameters:
            name, number = f"{base}{number}", number + 1
        self.parameters[name] = shape
        self.dtypes[name] = dtype
        return name


_KEYWORDS = {"lambda", "in", "is", "as", "if", "for", "not", "and", "or", "with", "def", "del", "from"}


def show(shape: Shape | None) -> str:
    """A shape as messages write it."""
    if shape is None:
        return "?"
    return "x".join(map(str, shape)) if len(shape) > 1 else f"[{shape[0]}]" if shape else "a scalar"


def number(value: float) -> str:
    """A number as Python text: integers of moderate size without an exponent."""
    return repr(int(value)) + ".0" if value == int(value) and abs(value) < 1e15 else repr(float(value))


def broadcasts(shape: Shape, target: Shape) -> bool:
    """Whether `shape` repeats to `target`."""
    return len(shape) <= len(target) and all(a in (1, b) for a, b in zip(shape[::-1], target[::-1]))


def is_vector(shape: Shape, width: int) -> bool:
    """Whether a shape is one row of `width` elements."""
    return shape in ((width,), (1, width))


class Writer:
    """Writes operators into a composition, one after another."""

    def __init__(self, made: Composition) -> None:
        self.made = made

    def named(self, value: Value, stem: str = "start") -> Value:
        """The value as something that may stand several times."""
        return value if value.plain else Value(self.made.line(stem, value.text), value.shape)

    # -- one operand -------------------------------------------------------------------------------------------------

    def unary(self, key: str, x: Value, alpha: float | None = None) -> Value:
        """An element-wise function."""
        slope = number(alpha if alpha is not None else ALPHA.get(key, 0.0))
        if alpha is not None and key not in ALPHA:
            raise RequestError(f"{spoken(key)} takes no slope: drop the number {alpha:g}.")
        x = self.named(x)
        stem = "activated" if key in ("gelu", "silu", "relu") else key
        if key == "gelu":
            self.made.notes.append("gelu is the tanh form; say 'exact gelu' for the one with erf.")
        return Value(self.made.line(stem, FUNCTIONS[key].format(x=x.text, alpha=slope)), x.shape)

    def along(self, key: str, x: Value, axis: int = -1, eps: float | None = None) -> Value:
        """An operator along an axis that keeps the shape."""
        x = self.named(x)
        self._check_axis(key, x, axis)
        t, at = x.text, f"axis={axis}, keepdims=True"
        if key in SCANS:
            return Value(self.made.line("running", SCANS[key].format(x=t, axis=axis)), x.shape)
        if key in ("softmax", "softmin"):
            minus = "-" if key == "softmin" else ""
            peak = f"np.min({t}, {at}) - {t}" if minus else f"{t} - np.max({t}, {at})"
            exps = self.made.line("exps", f"np.exp({peak})")
            return Value(self.made.line("probabilities", f"{exps} / np.sum({exps}, {at})"), x.shape)
        if key == "log_softmax":
            shifted = self.made.line("shifted", f"{t} - np.max({t}, {at})")
            text = f"{shifted} - np.log(np.sum(np.exp({shifted}), {at}))"
            return Value(self.made.line("log_probabilities", text), x.shape)
        small = repr(eps if eps is not None else EPSILON[key])
        if eps is None:
            self.made.notes.append(f"{spoken(key)} uses epsilon {small}.")
        if key == "l2norm":
            return Value(self.made.line("unit", f"{t} / np.sqrt(np.sum({t} * {t}, {at}) + {small})"), x.shape)
        if key == "rmsnorm":
            mean = self.made.line("mean_square", f"np.mean({t} * {t}, {at})")
            return Value(self.made.line("normed", f"{t} / np.sqrt({mean} + {small})"), x.shape)
        mean = self.made.line("mean", f"np.mean({t}, {at})")
        var = self.made.line("variance", f"np.mean(({t} - {mean}) ** 2, {at})")
        return Value(self.made.line("normed", f"({t} - {mean}) / np.sqrt({var} + {small})"), x.shape)

    def reduce(
        self, key: str, x: Value, axis: int | tuple[int, ...] | None = -1, keepdims: bool = False, ddof: int = 0
    ) -> Value:
        """A reduction; axis None reduces everything."""
        x = self.named(x)
        self._check_axis(key, x, axis)
        keep = ", keepdims=True" if keepdims else ""
        if key in ("var", "std") and not ddof:
            self.made.notes.append(f"{spoken(key)} divides by the number of elements, as NumPy does.")
        keep += f", ddof={ddof}" if ddof else ""
        at = (f", axis={axis}" if axis is not None else "") + keep
        shape = _reduced(x.shape, axis, keepdims)
        stem = f"{along_name(axis, x.shape)}_{key}"
        if key == "logsumexp":
            over = f", axis={axis}" if axis is not None else ""
            peak = self.made.line("peak", f"np.max({x.text}{over}, keepdims=True)")
            total = f"np.log(np.sum(np.exp({x.text} - {peak}){over}, keepdims=True)) + {peak}"
            text = total if keepdims else f"np.squeeze({total}{over})"
            return Value(self.made.line(stem, text), shape)
        return Value(self.made.line(stem, REDUCTIONS[key].format(x=x.text, axis=at)), shape)

    def index(self, key: str, x: Value, axis: int | None = -1, keepdims: bool = False) -> Value:
        """argmax or argmin along the last axis: the first place of the extreme value, as NumPy counts."""
        x = self.named(x)
        self._check_axis(key, x, axis)
        if axis is None:
            raise RequestError(f"{key} over all elements isn't offered: say '{key} of each row'.")
        keep = ", keepdims=True" if keepdims else ""
        return Value(self.made.line(key, f"np.{key}({x.text}, axis={axis}{keep})"), _reduced(x.shape, axis, keepdims))

    def top(self, x: Value, count: int) -> Value:
        """The `count` largest values of each row, the largest first."""
        x = self.named(x)
        if x.shape is None or not 1 <= count <= x.shape[-1]:
            raise RequestError(f"top-{count} of {show(x.shape)} isn't possible: ask for 1 to the row's length.")
        made, width = self.made, x.shape[-1]
        place = made.line("place", f"np.arange({width}, dtype=np.float32)")
        rest, tops = x.text, []
        for _ in range(count):
            best = made.line("best", f"np.max({rest}, axis=-1, keepdims=True)")
            tops.append(best)
            if len(tops) < count:
                first = made.line(
                    "first", f"np.min(np.where({rest} == {best}, {place}, {width}.0), axis=-1, keepdims=True)"
                )
                rest = made.line("rest", f"np.where({place} == {first}, np.float32(-3e38), {rest})")
        made.notes.append("top-k gives the values, the largest first; equal values count one by one.")
        return Value(made.line("top", f"np.concatenate([{', '.join(tops)}], axis=-1)"), (*x.shape[:-1], count))

    def transpose(self, x: Value) -> Value:
        """The last two axes exchanged."""
        if x.shape is not None and len(x.shape) < 2:
            raise RequestError(
                f"transpose needs at least two dimensions, not {show(x.shape)}: give a shape such as 512x1024."
            )
        shape = (*x.shape[:-2], x.shape[-1], x.shape[-2]) if x.shape is not None else None
        if shape is not None and len(shape) > 2:
            self.made.notes.append("a transposition exchanges the last two axes.")
        return Value(self.made.line("turned", f"np.swapaxes({x.text}, -1, -2)"), shape)

    def clip(self, x: Value, low: float | None, high: float | None) -> Value:
        """Values limited to low..high."""
        x = self.named(x)
        if low is not None and high is not None and low >= high:
            raise RequestError(f"the range {low:g} to {high:g} is empty: give the smaller limit first.")
        text = x.text
        if low is not None:
            text = f"np.maximum({text}, {number(low)})"
        if high is not None:
            text = f"np.minimum({text}, {number(high)})"
        return Value(self.made.line("clipped", text), x.shape)

    # -- two operands ------------------------------------------------------------------------------------------------

    def binary(self, key: str, x: Value, y: Value) -> Value:
        """Element by element, with NumPy's broadcasting."""
        shape: Shape | None = None
        if x.shape is not None and y.shape is not None:
            try:
                shape = _broadcast(x.shape, y.shape)
            except ValueError as error:
                inner = len(x.shape) > 1 and len(y.shape) > 1 and x.shape[-1] == y.shape[-2]
                raise RequestError(
                    f"the shapes contradict each other: {key} of {show(x.shape)} and {show(y.shape)}; make them equal or "
                    f"broadcastable{'; say ' + repr('matmul') + ' for a matrix product' if key == 'multiply' and inner else ''}."
                ) from error
        stem = {"add": "summed", "multiply": "scaled", "subtract": "difference", "divide": "quotient"}.get(key, key)
        text = f"{x.text} {BINARY[key]} {y.text}" if key in BINARY else f"np.{key}({x.text}, {y.text})"
        return Value(self.made.line(stem, text), shape)

    def average(self, values: list[Value]) -> Value:
        """The mean of several tensors, element by element."""
        total = values[0]
        for value in values[1:]:
            total = self.binary("add", total, value)
        return Value(self.made.line("average", f"{total.text} / {number(len(values))}"), total.shape)

    def error(self, key: str, x: Value, y: Value, axis: int | None) -> Value:
        """A mean error between two tensors, over everything or along an axis."""
        if x.shape is not None and y.shape is not None and x.shape != y.shape:
            raise RequestError(
                f"the shapes contradict each other: {spoken(key)} of {show(x.shape)} and {show(y.shape)}; make them equal."
            )
        at = f", axis={axis}" if axis is not None else ""
        if axis is None:
            self.made.notes.append(f"{spoken(key)} is over all elements.")
        x, y = self.named(x), self.named(y)
        return Value(
            self.made.line(key, SAMPLE[key].format(x=x.text, y=y.text, axis=at)), _reduced(x.shape, axis, False)
        )

    def pair(self, key: str, x: Value, y: Value) -> Value:
        """One number for each row of x and the same row of y."""
        if x.shape is None or y.shape is None or x.shape != y.shape:
            raise RequestError(
                f"the shapes contradict each other: {spoken(key)} of {show(x.shape)} and {show(y.shape)}; make them equal."
            )
        self.made.notes.append(f"{spoken(key)} is one number for each row.")
        x, y = self.named(x), self.named(y)
        return Value(self.made.line(key, PAIRS[key].format(x=x.text, y=y.text)), y.shape[:-1] if y.shape else ())

    def outer(self, x: Value, y: Value) -> Value:
        """Every element of one vector times every element of another."""
        if x.shape is None or y.shape is None or len(x.shape) != 1 or len(y.shape) != 1:
            raise RequestError(
                f"an outer product takes two vectors, not {show(x.shape)} and {show(y.shape)}: give two lengths."
            )
        return Value(self.made.line("outer", f"np.outer({x.text}, {y.text})"), (x.shape[0], y.shape[0]))

    def matmul(self, x: Value, y: Value, note: str = "") -> Value:
        """A matrix product, batched as NumPy's `@`."""
        if x.shape is None or y.shape is None:
            return Value(self.made.line("product", f"{x.text} @ {y.text}"), None)
        if not x.shape or not y.shape:
            raise RequestError("a matmul needs two matrices, not a number: multiply by it instead.")
        k = y.shape[-2] if len(y.shape) > 1 else y.shape[0]
        if k != x.shape[-1]:
            hint = (
                f"say 'transposed' if the second is stored as [{y.shape[-2]}, {y.shape[-1]}] = [N, K]"
                if len(y.shape) > 1 and y.shape[-1] == x.shape[-1]
                else "the inner sizes must be equal"
            )
            raise RequestError(
                f"the shapes contradict each other: matmul of {show(x.shape)} by {show(y.shape)}{note} has inner sizes "
                f"{x.shape[-1]} and {k}; {hint}."
            )
        try:
            lead = _broadcast(x.shape[:-2], y.shape[:-2])
        except ValueError as error:
            raise RequestError(
                f"the shapes contradict each other: the batch sizes of {show(x.shape)} and {show(y.shape)} differ; make them "
                "equal."
            ) from error
        rows = x.shape[-2:-1]
        cols = y.shape[-1:] if len(y.shape) > 1 else ()
        return Value(self.made.line("product", f"{x.text} @ {y.text}"), (*lead, *rows, *cols))

    def cross_entropy(self, logits: Value, target: Value) -> Value:
        """The loss of each row against probabilities of the classes."""
        if logits.shape is not None and target.shape is not None and logits.shape != target.shape:
            raise RequestError(
                f"cross entropy needs a probability for each class: {show(logits.shape)} logits go with {show(logits.shape)} "
                f"targets, not {show(target.shape)} (class numbers need a NumPy reference: --reference file.py:function)."
            )
        logs = self.along("log_softmax", logits)
        self.made.notes.append("cross entropy is one loss a row, from logits, against probabilities of the classes.")
        return Value(
            self.made.line("loss", f"-np.sum({target.text} * {logs.text}, axis=-1)"),
            logits.shape[:-1] if logits.shape is not None else None,
        )

    # -- blocks ------------------------------------------------------------------------------------------------------

    def gated(self, key: str, x: Value, gate: Value, up: Value, down: Value | None) -> Value:
        """act(x @ gate) * (x @ up), and @ down when there is one."""
        x = self.named(x)
        left, right = self.matmul(x, gate), self.matmul(x, up)
        act = self.unary(GATES[key], left)
        hidden = self.binary("multiply", act, right)
        return self.matmul(hidden, down) if down is not None else hidden

    def attention(
        self,
        q: Value,
        k: Value,
        v: Value,
        *,
        causal: bool = False,
        scale: float | None = None,
        mask: Value | None = None,
    ) -> Value:
        """softmax(q k^T * scale [masked]) v; fewer heads of k and v are shared by groups of q's heads."""
        assert q.shape is not None
        assert k.shape is not None
        assert v.shape is not None
        shapes = f"q {show(q.shape)}, k {show(k.shape)}, v {show(v.shape)}"
        if min(len(s) for s in (q.shape, k.shape, v.shape)) < 2:
            raise RequestError(f"attention needs matrices: {shapes}; give each a length and a head size.")
        grouped = (
            len(q.shape) == len(k.shape) == len(v.shape) > 2
            and k.shape[:-2] == v.shape[:-2]
            and q.shape[:-3] == k.shape[:-3]
            and q.shape[-3] != k.shape[-3]
            and q.shape[-3] % k.shape[-3] == 0
        )
        fits = q.shape[-1] == k.shape[-1] and k.shape[-2] == v.shape[-2]
        same = q.shape[:-2] == k.shape[:-2] == v.shape[:-2]
        if not fits or not (same or grouped):
            raise RequestError(
                f"the shapes contradict each other: attention over {shapes}; q and k need equal last sizes, k and v equal "
                "lengths, and all the same batch and heads (or q a multiple of the heads of k and v)."
            )
        if causal and q.shape[-2] > k.shape[-2]:
            raise RequestError(
                f"causal attention over {shapes} leaves the first rows of q nothing to look at: give k and v at least "
                f"{q.shape[-2]} positions."
            )
        made, rows, length, head = self.made, q.shape[-2], k.shape[-2], q.shape[-1]
        out = (*q.shape[:-1], v.shape[-1])
        if grouped:
            heads, kv = q.shape[-3], k.shape[-3]
            made.notes.append(f"{heads // kv} neighbouring heads of q share one of the {kv} heads of k and v.")
            lead = q.shape[:-3]
            q = Value(made.line("grouped", f"{q.text}.reshape({(*lead, kv, heads // kv, *q.shape[-2:])})"), None)
            at = ", ".join([":"] * (len(lead) + 1))
            k, v = Value(f"{k.text}[{at}, None]", None), Value(f"{v.text}[{at}, None]", None)
        if scale is None:
            scale_text = f" / np.sqrt({number(head)})"
        else:
            scale_text = f" * {number(scale)}"
        scores = made.line("scores", f"{q.text} @ np.swapaxes({k.text}, -1, -2){scale_text}")
        if mask is not None:
            made.notes.append(f"{mask.text} is added to the scores before the softmax.")
            scores = made.line("masked", f"{scores} + {mask.text}")
        if causal:
            late = f" + {length - rows}" if length != rows else ""
            made.notes.append(
                f"causal: row i of q sees positions 0..i{late} of k"
                + (" (the last rows are aligned)." if late else ".")
            )
            seen = made.line("seen", f"np.arange({length}) <= np.arange({rows})[:, None]{late}")
            scores = made.line("masked", f"np.where({seen}, {scores}, np.float32(-1e30))")
        weights = self.along("softmax", Value(scores, None))
        attended = made.line("attended", f"{weights.text} @ {v.text}")
        if grouped:
            attended = made.line("joined", f"{attended}.reshape({out})")
        return Value(attended, out)

    def rope(self, x: Value, cos: Value, sin: Value) -> Value:
        """Rotary position embedding: the halves of each row rotated by angles given as cos and sin."""
        x = self.named(x)
        assert x.shape is not None
        half = x.shape[-1] // 2
        if x.shape[-1] % 2 or cos.shape != sin.shape or cos.shape is None or cos.shape[-1] != half:
            raise RequestError(
                f"rope of {show(x.shape)} needs cos and sin of {half} columns each, not {show(cos.shape)} and "
                f"{show(sin.shape)}: one angle a pair."
            )
        if not broadcasts(cos.shape, (*x.shape[:-1], half)):
            raise RequestError(
                f"the shapes contradict each other: angles {show(cos.shape)} for rows of {show(x.shape)}."
            )
        made = self.made
        made.notes.append("rope rotates the first half of each row against the second half.")
        first, second = made.line("first", f"{x.text}[..., :{half}]"), made.line("second", f"{x.text}[..., {half}:]")
        left = f"{first} * {cos.text} - {second} * {sin.text}"
        right = f"{second} * {cos.text} + {first} * {sin.text}"
        return Value(made.line("rotated", f"np.concatenate([{left}, {right}], axis=-1)"), x.shape)

    # -- checks ------------------------------------------------------------------------------------------------------

    def _check_axis(self, key: str, x: Value, axis: int | tuple[int, ...] | None) -> None:
        if x.shape is None or axis is None:
            return
        for a in axis if isinstance(axis, tuple) else (axis,):
            if not -len(x.shape) <= a < len(x.shape):
                raise RequestError(
                    f"{spoken(key)} along axis {a} isn't possible: {show(x.shape)} has {len(x.shape)} "
                    f"dimension{'s' if len(x.shape) > 1 else ''}."
                )


def spoken(key: str) -> str:
    """An operator's name in a sentence."""
    return key.replace("_", " ")


def _broadcast(a: Shape, b: Shape) -> Shape:
    size = max(len(a), len(b))
    a, b = (1,) * (size - len(a)) + a, (1,) * (size - len(b)) + b
    if any(m != n and 1 not in (m, n) for m, n in zip(a, b)):
        raise ValueError(f"{a} and {b}")
    return tuple(max(m, n) for m, n in zip(a, b))


def _reduced(shape: Shape | None, axis: int | tuple[int, ...] | None, keepdims: bool) -> Shape | None:
    if shape is None:
        return None
    if axis is None:
        return (1,) * len(shape) if keepdims else ()
    axes = {a % len(shape) for a in (axis if isinstance(axis, tuple) else (axis,))}
    if keepdims:
        return tuple(1 if i in axes else n for i, n in enumerate(shape))
    return tuple(n for i, n in enumerate(shape) if i not in axes)


def along_name(axis: int | tuple[int, ...] | None, shape: Shape | None) -> str:
    """How the result of a reduction is called: by row, by column or of everything."""
    if axis is None:
        return "total"
    if isinstance(axis, tuple):
        return "partial"
    if shape is not None and len(shape) > 1 and axis % len(shape) == len(shape) - 2 and len(shape) == 2:
        return "column"
    if axis < 0 and axis != -1:
        return f"axis_minus{-axis}"
    last = axis == -1 or (shape is not None and axis % len(shape) == len(shape) - 1)
    return "row" if last else f"axis{axis}"
