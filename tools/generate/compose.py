"""Puts operators and tensors together into the source of a NumPy reference, float32 inside."""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from tools.generate.request import Mention, NamedTensor, Request
from tools.task_errors import RequestError

EPSILON = {"rmsnorm": "1e-6", "layernorm": "1e-5", "l2norm": "1e-12"}
FUNCTIONS = {
    "gelu": "0.5 * {x} * (1.0 + np.tanh(np.sqrt(2.0 / np.pi) * ({x} + 0.044715 * {x} ** 3)))",
    "silu": "{x} / (1.0 + np.exp(-{x}))",
    "relu": "np.maximum({x}, 0.0)",
    "leaky_relu": "np.where({x} > 0.0, {x}, 0.01 * {x})",
    "sigmoid": "1.0 / (1.0 + np.exp(-{x}))",
    "softplus": "np.logaddexp({x}, 0.0)",
    "mish": "{x} * np.tanh(np.logaddexp({x}, 0.0))",
    "tanh": "np.tanh({x})",
    "rsqrt": "1.0 / np.sqrt({x})",
    "sqrt": "np.sqrt({x})",
    "square": "{x} * {x}",
    "exp": "np.exp({x})",
    "log": "np.log({x})",
    "abs": "np.abs({x})",
    "erf": "np.vectorize(math.erf)({x})",
    "sin": "np.sin({x})",
    "cos": "np.cos({x})",
    "reciprocal": "1.0 / {x}",
    "negate": "-{x}",
    "copy": "{x} + 0.0",
    "neg": "-{x}",
}
"""Element-wise functions as NumPy text; gelu is the tanh form."""
POSITIVE_INPUT = ("log", "sqrt", "rsqrt", "reciprocal")
REDUCTIONS = {
    "row_sum": "np.sum({x}, axis=-1)", "row_mean": "np.mean({x}, axis=-1)", "row_max": "np.max({x}, axis=-1)",
    "row_sum_of_squares": "np.sum({x} * {x}, axis=-1)", "row_min": "np.min({x}, axis=-1)", "row_var": "np.var({x}, axis=-1)", "column_sum": "np.sum({x}, axis=0)",
    "column_mean": "np.mean({x}, axis=0)", "row_norm": "np.sqrt(np.sum({x} * {x}, axis=-1))",
}  # fmt: skip
BINARY = {"add": "+", "subtract": "-", "multiply": "*", "divide": "/"}
_CALLABLE = {
    *FUNCTIONS,
    "softmax",
    "rmsnorm",
    "layernorm",
    "transpose",
    "maximum",
    "minimum",
    "matmul",
    "sum",
    "mean",
    "max",
    "min",
}


@dataclass(slots=True)
class Composition:
    """A reference under construction.

    Attributes:
        parameters: arguments in order, name -> shape.
        lines: body of the function.
        value: name of the running value.
        shape: its shape.
        ops: keys of the operators used, for the task's name.
    """

    parameters: dict[str, tuple[int, ...]] = field(default_factory=dict)
    dtypes: dict[str, str] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)
    value: str = ""
    shape: tuple[int, ...] = ()
    ops: list[str] = field(default_factory=list)
    positive: bool = False
    notes: list[str] = field(default_factory=list)

    def source(self, title: str) -> str:
        """The reference's text."""
        names = list(self.parameters)
        body = [f"    {n} = {n}.astype(np.float32)" for n in names] + [f"    {line}" for line in self.lines]
        body.append(f"    return {self.value}")
        text = "\n".join(body)
        imports = "import math\n\nimport numpy as np" if "math." in text else "import numpy as np"
        return f'{imports}\n\n\ndef reference({", ".join(names)}):\n    """{title}"""\n{text}\n'


def parse_expression(text: str) -> ast.expr | None:
    """The text as an expression of known functions, names, numbers and arithmetic, or None."""
    text = text.strip().rstrip(".")
    if not text or len(text) > 400:
        return None
    try:
        tree = ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    useful = False
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            if not isinstance(node.func, ast.Name) or node.func.id.lower() not in _CALLABLE or node.keywords:
                return None
            useful = True
        elif isinstance(node, ast.BinOp):
            useful = True
            if isinstance(node.op, ast.Sub) and isinstance(node.left, ast.Name) and len(node.left.id) > 3:
                return None  # a hyphenated word
        elif isinstance(node, ast.Attribute):
            if node.attr != "T":
                return None
        elif isinstance(node, ast.Constant):
            if not isinstance(node.value, int | float):
                return None
        elif not isinstance(
            node, ast.Name | ast.UnaryOp | ast.operator | ast.unaryop | ast.Load | ast.Add | ast.MatMult
        ):
            return None
    called = {id(n.func) for n in ast.walk(tree) if isinstance(n, ast.Call)}
    names = [n.id.lower() for n in ast.walk(tree) if isinstance(n, ast.Name) and id(n) not in called]
    if _CALLABLE.intersection(names):
        return None  # `matmul + bias + gelu` is a list of steps
    return tree if useful and names else None


def compose(request: Request) -> Composition:
    """Make the reference that a request asks for.

    Raises:
        RequestError: shapes are missing or don't fit together.
    """
    if request.expression:
        return _behind(request, _Expression(request).compose())
    return _Pipeline(request).compose()


def _behind(request: Request, made: Composition) -> Composition:
    """Apply the operators of `x + y, then softmax` to the expression's result."""
    behind = request.behind_expression()
    for mention in request.mentions:
        described = mention.word.key in made.ops or mention.word.arity in ("bias", "binary", "scale", "residual")
        if mention not in behind and not described:
            name = mention.word.key.replace("_", " ")
            raise RequestError(
                f"{name} stands beside {request.expression!r}, but not in it: make it part of the expression, or say "
                f"'{request.expression}, then {name}' if it follows."
            )
    return _Pipeline(request).go_on(made, behind) if behind else made


def extend(made: Composition, said: Request) -> Composition:
    """Apply the operators that a follow-up names to what has been made."""
    return _Pipeline(said).go_on(made, said.mentions)


class _Pipeline:
    """Operators applied one after another to a running value."""

    def __init__(self, request: Request) -> None:
        self.request = request
        self.free = [t for t in request.tensors]
        self.made = Composition()
        self.used: set[str] = set()

    def compose(self) -> Composition:
        request = self.request
        first = request.mentions[0].word
        if first.arity == "attention":
            self._attention()
        else:
            self._begin(first.key)
            if len(request.mentions) > 1 and all(m.word.arity == "reduce" for m in request.mentions):
                self._reductions()
            else:
                for mention in list(request.mentions):
                    if mention in request.mentions:
                        self._apply(mention)
        self._all_used()
        self._names_transposed()
        return self.made

    def go_on(self, made: Composition, mentions: Sequence[Mention]) -> Composition:
        """Apply operators to what an expression has made."""
        if not made.shape:
            raise RequestError(
                "the shape of the result isn't known, so nothing can follow it: write all of it as one expression, or give "
                "a NumPy reference with --reference file.py:function."
            )
        self.made = made
        self.free = [t for t in self.free if t.name and t.name not in made.parameters]
        if not made.value.isidentifier():
            self._line("start", made.value)
        for mention in mentions:
            self._apply(mention)
        self._all_used()
        return made

    def _all_used(self) -> None:
        if self.free:
            left = self.free[0]
            label = f"{left.name} " if left.name else ""
            raise RequestError(
                f"the tensor {label}{_show(left.shape)} isn't used by {' then '.join(self.made.ops)}, which has come to "
                f"{_show(self.made.shape)}: drop it, change its shape, or name the operator that takes it."
            )

    def _names_transposed(self) -> None:
        unknown = (
            self.request.transposed - {n.lower() for n in self.made.parameters} - {"weights", "right", "input", "x"}
        )
        if unknown:
            raise RequestError(
                f"{sorted(unknown)[0]!r} is to be transposed but no tensor has that name: name one of the inputs."
            )

    # -- tensors -----------------------------------------------------------------------------------------------------

    def _take(self, tensor: NamedTensor, fallback: str) -> str:
        """Make a mentioned tensor a parameter."""
        if tensor in self.free:
            self.free.remove(tensor)
        return self._parameter(tensor.name or fallback, tensor.shape, tensor.dtype)

    def _parameter(self, name: str, shape: tuple[int, ...], dtype: str = "") -> str:
        base = "".join(c if c.isalnum() else "_" for c in name) or "x"
        if base in ("np", "math", "reference") or not base.isidentifier():
            base = f"{base}_in"
        name, number = base, 2
        while name in self.made.parameters:
            name, number = f"{base}{number}", number + 1
        self.made.parameters[name] = shape
        self.made.dtypes[name] = dtype
        return name

    def _begin(self, key: str) -> None:
        """Choose the tensor that everything starts from."""
        request, made = self.request, self.made
        if not self.free:
            if request.rows and request.columns:
                self.free = [NamedTensor("x", (request.rows, request.columns))]
            elif request.columns and key not in ("matmul", "swiglu"):
                self.free = [NamedTensor("x", (request.columns,))]
            else:
                raise RequestError(
                    f"no shape is given for {key}: say the sizes of its inputs, for example x 4096x1024"
                    + (" by w 1024x2048." if key in ("matmul", "swiglu") else ".")
                )
        first = next((t for t in self.free if len(t.shape) > 1), self.free[0])
        if (
            key == "matmul"
            and len(self.free) == 1
            and len(first.shape) == 4
            and not first.name
            and first.shape[1] == first.shape[2]
        ):
            self.free = [NamedTensor("x", first.shape[:2], first.dtype), NamedTensor("w", first.shape[2:], first.dtype)]
            first = self.free[0]
        if request.rows and first.name.lower() in ("w", "weight", "weights") and len(first.shape) == 2:
            self.free.insert(0, NamedTensor("x", (request.rows, first.shape[0]), first.dtype))
            first = self.free[0]
        if request.rows and len(first.shape) >= 2 and first.shape[0] != request.rows:
            raise RequestError(
                f"{request.rows} rows contradict the shape {_show(first.shape)} of {first.name or 'the input'}: give one number of rows."
            )
        if request.rows and len(first.shape) == 1 and first.name in ("w", "weight", "weights"):
            raise RequestError("no shape is given for the input: say it, for example x 4096x1024.")
        if len(first.shape) == 3 and not first.name and key == "matmul" and len(self.free) == 1:
            m, k, n = first.shape  # "512x1024x2048 matmul" is M x K x N
            self.free = [NamedTensor("x", (m, k), first.dtype), NamedTensor("w", (k, n), first.dtype)]
            first = self.free[0]
        made.value = self._take(first, "x")
        made.shape = first.shape
        turned = made.value.lower() in request.transposed or ("input" in request.transposed)
        if turned and len(made.shape) >= 2:
            self._line("x", f"np.swapaxes({made.value}, -1, -2)")
            made.shape = (*made.shape[:-2], made.shape[-1], made.shape[-2])

    def _line(self, stem: str, text: str) -> str:
        made = self.made
        name, number = stem, 2
        while name in made.parameters or any(line.startswith(f"{name} =") for line in made.lines):
            name, number = f"{stem}{number}", number + 1
        made.lines.append(f"{name} = {text}")
        made.value = name
        return name

    # -- operators ---------------------------------------------------------------------------------------------------

    def _apply(self, mention: Mention) -> None:
        key, arity = mention.word.key, mention.word.arity
        made = self.made
        made.ops.append(key)
        if key in POSITIVE_INPUT and len(made.ops) == 1:
            made.positive = True
        if arity == "norm":
            self._norm(key)
        elif arity == "unary":
            self._unary(key)
        elif arity == "matmul":
            self._matmul()
        elif arity == "bias":
            self._vector("bias", "b", "+")
        elif arity == "residual":
            self._residual()
        elif arity == "reduce":
            self._reduce(key)
        elif arity == "layout":
            self._transpose()
        elif arity == "gated":
            self._swiglu()
        elif arity == "scale":
            self._scale(mention)
        elif arity == "binary":
            self._binary(key, mention)
        else:
            raise RequestError(f"{key} can't follow another operator: ask for it alone, or give a NumPy reference.")

    def _unary(self, key: str) -> None:
        x = self.made.value
        if key == "softmax":
            exps = self._line("exps", f"np.exp({x} - np.max({x}, axis=-1, keepdims=True))")
            self._line("probabilities", f"{exps} / np.sum({exps}, axis=-1, keepdims=True)")
        elif key == "log_softmax":
            shifted = self._line("shifted", f"{x} - np.max({x}, axis=-1, keepdims=True)")
            self._line("log_probabilities", f"{shifted} - np.log(np.sum(np.exp({shifted}), axis=-1, keepdims=True))")
        elif key == "l2norm":
            self._line("unit", f"{x} / np.sqrt(np.sum({x} * {x}, axis=-1, keepdims=True) + {EPSILON[key]})")
        else:
            self._line(
                {"gelu": "activated", "silu": "activated", "relu": "activated"}.get(key, key),
                FUNCTIONS[key].format(x=x),
            )

    def _norm(self, key: str) -> None:
        x, width = self.made.value, self.made.shape[-1]
        if key == "rmsnorm":
            mean = self._line("mean_square", f"np.mean({x} * {x}, axis=-1, keepdims=True)")
            self._line("normed", f"{x} / np.sqrt({mean} + {EPSILON[key]})")
        else:
            mean = self._line("mean", f"np.mean({x}, axis=-1, keepdims=True)")
            var = self._line("variance", f"np.mean(({x} - {mean}) ** 2, axis=-1, keepdims=True)")
            self._line("normed", f"({x} - {mean}) / np.sqrt({var} + {EPSILON[key]})")
        vectors = [t for t in self.free if _is_vector(t.shape, width)]
        later_bias = any(m.word.arity == "bias" for m in self.request.mentions)
        named = [t for t in vectors if t.name.lower() in ("g", "gain", "gamma", "weight", "scale", "s", "w")]
        text = self.request.text.lower()
        wants_gain = any(w in text for w in ("gain", "gamma", "affine", "learnable", "with weight"))
        gain = (
            named[0]
            if named
            else (
                vectors[0]
                if vectors
                and (len(vectors) > 1 or not later_bias)
                and vectors[0].name.lower() not in ("b", "bias", "beta")
                else None
            )
        )
        if gain is not None:
            self._line("gained", f"{self.made.value} * {self._take(gain, 'g')}")
        elif wants_gain:
            self._line("gained", f"{self.made.value} * {self._parameter('g', (width,))}")
        if key == "layernorm":
            shift = next(
                (
                    t
                    for t in self.free
                    if _is_vector(t.shape, width) and t.name.lower() in ("b", "beta", "bias", "shift")
                ),
                None,
            )
            if shift is not None and (gain is not None or not later_bias):
                self._line("shifted", f"{self.made.value} + {self._take(shift, 'b')}")
                self._drop_bias_mention()
            elif wants_gain and ("affine" in text or "beta" in text) and not later_bias:
                self._line("shifted", f"{self.made.value} + {self._parameter('b', (width,))}")

    def _drop_bias_mention(self) -> None:
        """`layernorm with gain and bias` names the norm's own bias, not a further addition."""
        self.request.mentions = [m for m in self.request.mentions if m.word.arity != "bias"]

    def _matmul(self) -> None:
        made, request = self.made, self.request
        shape = made.shape
        candidates = [t for t in self.free if len(t.shape) >= 2]
        if not candidates:
            vector = next((t for t in self.free if len(t.shape) == 1), None)
            if vector is not None and vector.shape[0] == shape[-1] and vector.name.lower() not in ("b", "bias", "g"):
                self._line("product", f"{made.value} @ {self._take(vector, 'v')}")
                made.shape = shape[:-1] or (1,)
                return
            raise RequestError(
                f"matmul needs a second matrix besides {_show(shape)}: give its shape, for example w {shape[-1]}x512."
            )
        right = candidates[0]
        name = (right.name or "w").lower()
        turned = bool({name, "weights", "right"} & request.transposed)
        k, n = right.shape[-2:] if not turned else (right.shape[-1], right.shape[-2])
        if k != shape[-1]:
            hint = (
                f"say 'w transposed' if {right.name or 'the second'} is stored as [N, K]"
                if right.shape[-1] == shape[-1]
                else "the inner sizes must be equal"
            )
            raise RequestError(
                f"the shapes contradict each other: matmul of {_show(shape)} by {_show(right.shape)}{' transposed' if turned else ''} has inner sizes {shape[-1]} and {k}; {hint}."
            )
        lead = right.shape[:-2]
        if (
            lead
            and lead != shape[:-2]
            and any(a not in (1, b) and b != 1 for a, b in zip(lead[::-1], shape[:-2][::-1]))
        ):
            raise RequestError(
                f"the shapes contradict each other: the batch sizes of {_show(shape)} and {_show(right.shape)} differ; make them equal."
            )
        w = self._take(right, "w")
        made.shape = (*(shape[:-1] if len(shape[:-2]) >= len(lead) else (*lead, shape[-2])), n)
        self._line("product", f"{made.value} @ {f'np.swapaxes({w}, -1, -2)' if turned else w}")

    def _vector(self, what: str, name: str, symbol: str) -> None:
        """Combine with a vector along the row, mentioned or implied."""
        made, width = self.made, self.made.shape[-1]
        named = [t for t in self.free if t.name.lower() in (name, what, "beta", "scale", "s")]
        vectors = [t for t in self.free if _is_vector(t.shape, width)]
        if named and not _is_vector(named[0].shape, width) and len(named[0].shape) == 1:
            raise RequestError(
                f"the shapes contradict each other: the {what} {_show(named[0].shape)} doesn't fit rows of {width}; give it {width} elements."
            )
        chosen = next((t for t in vectors if t in named), vectors[0] if vectors else None)
        other = self._take(chosen, name) if chosen is not None else self._parameter(name, (width,))
        self._line("biased" if what == "bias" else "scaled", f"{made.value} {symbol} {other}")

    def _residual(self) -> None:
        made = self.made
        same = next((t for t in self.free if t.shape == made.shape), None)
        start = next(iter(made.parameters))
        if same is not None:
            other = self._take(same, "residual")
        elif made.parameters[start] == made.shape and made.value != start and made.lines:
            other = start
        else:
            other = self._parameter("residual", made.shape)
        self._line("summed", f"{made.value} + {other}")

    def _reduce(self, key: str) -> None:
        made = self.made
        if key.startswith("column_") and len(made.shape) < 2:
            raise RequestError(
                f"a column sum needs a matrix, not {_show(made.shape)}: give two sizes, such as 4096x1024."
            )
        self._line(key, REDUCTIONS[key].format(x=made.value))
        made.shape = (made.shape[1:] if key.startswith("column_") else made.shape[:-1]) or (1,)

    def _reductions(self) -> None:
        """Several reductions of the same input: a tuple of results."""
        made = self.made
        start, shape, values = made.value, made.shape, []
        for mention in self.request.mentions:
            made.value, made.shape = start, shape
            made.ops.append(mention.word.key)
            self._reduce(mention.word.key)
            values.append(made.value)
        made.value = ", ".join(values)

    def _transpose(self) -> None:
        made = self.made
        if len(made.shape) < 2:
            raise RequestError(
                f"transpose needs at least two dimensions, not {_show(made.shape)}: give a shape such as 512x1024."
            )
        self._line("turned", f"np.swapaxes({made.value}, -1, -2)")
        made.shape = (*made.shape[:-2], made.shape[-1], made.shape[-2])

    def _scale(self, mention: Mention) -> None:
        if mention.number is not None:
            self._line("scaled", f"{self.made.value} * {mention.number!r}")
            return
        matrices = [t for t in self.free if len(t.shape) >= 2 and t.shape != self.made.shape]
        if matrices and matrices[0].shape[-2] == self.made.shape[-1]:
            self.made.ops[-1] = "matmul"
            self._matmul()
            return
        self._vector("scale", "scale", "*")

    def _binary(self, key: str, mention: Mention) -> None:
        made = self.made
        symbol = BINARY.get(key)
        if mention.number is not None and symbol:
            self._line(f"{key}ed" if key == "add" else key, f"{made.value} {symbol} {mention.number!r}")
            return
        fits = [t for t in self.free if _broadcasts(t.shape, made.shape)]
        fits.sort(key=lambda t: t.shape != made.shape)
        if not fits:
            if self.free:
                raise RequestError(
                    f"the shapes contradict each other: {key} of {_show(made.shape)} and {_show(self.free[0].shape)}; make them equal or broadcastable"
                    + ("; say 'matmul' for a matrix product." if key == "multiply" else ".")
                )
            other = self._parameter("y", made.shape)
        else:
            other = self._take(fits[0], "y")
        if symbol:
            self._line({"add": "summed", "multiply": "multiplied"}.get(key, key), f"{made.value} {symbol} {other}")
        else:
            self._line(key, f"np.{key}({made.value}, {other})")

    def _swiglu(self) -> None:
        made, width = self.made, self.made.shape[-1]
        mats = [t for t in self.free if len(t.shape) == 2]
        if len(mats) < 2 and mats and mats[0].shape[0] == width:
            mats = [mats[0], NamedTensor("up", mats[0].shape, mats[0].dtype), *mats[1:]]
        if not mats:
            raise RequestError(
                f"swiglu needs its gate and up matrices: give their shapes, for example gate {width}x3072 and up {width}x3072."
            )
        gate, up = mats[0], mats[1]
        if gate.shape != up.shape or gate.shape[0] != width:
            raise RequestError(
                f"the shapes contradict each other: swiglu of {_show(made.shape)} by {_show(gate.shape)} and {_show(up.shape)}; both must be {width} by the hidden size."
            )
        x = made.value
        g = self._line("gated", f"{x} @ {self._take(gate, 'gate')}")
        self._line("hidden", f"{g} / (1.0 + np.exp(-{g})) * ({x} @ {self._take(up, 'up')})")
        made.shape = (*made.shape[:-1], gate.shape[1])
        if len(mats) > 2 and mats[2] in self.free and mats[2].shape[0] == made.shape[-1]:
            self._line("product", f"{made.value} @ {self._take(mats[2], 'down')}")
            made.shape = (*made.shape[:-1], mats[2].shape[1])

    def _attention(self) -> None:
        made = self.made
        tensors = list(self.free)
        if not tensors:
            raise RequestError(
                "no shape is given for attention: say the sizes of q, k and v, for example q, k and v 8x1024x64."
            )
        while len(tensors) < 3:
            tensors.append(NamedTensor("", tensors[-1].shape, tensors[-1].dtype))
        q, k, v = tensors[:3]
        if q.shape[-1] != k.shape[-1] or k.shape[-2] != v.shape[-2] or min(len(t.shape) for t in (q, k, v)) < 2:
            raise RequestError(
                f"the shapes contradict each other: attention over q {_show(q.shape)}, k {_show(k.shape)}, v {_show(v.shape)}; q and k need equal last sizes, k and v equal lengths."
            )
        if any(word in self.request.text.lower() for word in ("causal", "masked")):
            raise RequestError(
                "masked attention has no words here: give a NumPy reference with --reference file.py:function."
            )
        names = [self._take(t, n) for t, n in zip((q, k, v), ("q", "k", "v"))]
        scores = self._line("scores", f"{names[0]} @ np.swapaxes({names[1]}, -1, -2) / np.sqrt({float(q.shape[-1])})")
        exps = self._line("exps", f"np.exp({scores} - np.max({scores}, axis=-1, keepdims=True))")
        self._line("attended", f"{exps} / np.sum({exps}, axis=-1, keepdims=True) @ {names[2]}")
        made.shape = (*q.shape[:-1], v.shape[-1])
        made.ops.append("attention")
        for mention in self.request.mentions[1:]:
            if mention.word.key not in ("softmax", "scale"):
                self._apply(mention)


class _Expression:
    """A Python expression over the request's tensors."""

    def __init__(self, request: Request) -> None:
        self.request = request
        tree = parse_expression(request.expression)
        assert tree is not None
        self.tree = tree
        self.made = Composition()

    def compose(self) -> Composition:
        made, request = self.made, self.request
        names: list[str] = []
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Call):
                assert isinstance(node.func, ast.Name)
                made.ops.append(node.func.id.lower())
        called = {id(n.func) for n in ast.walk(self.tree) if isinstance(n, ast.Call)}
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Name) and id(node) not in called and node.id not in names and node.id != "pi":
                names.append(node.id)
        in_text = re.findall(r"[A-Za-z_]\w*", request.expression)
        names.sort(key=in_text.index)
        known = {t.name: t for t in request.tensors if t.name}
        loose = [t for t in request.tensors if not t.name]
        for name in names:
            tensor = known.get(name) or next((known[k] for k in known if k.lower() == name.lower()), None)
            if tensor is None and loose:
                tensor = loose.pop(0) if len(loose) > 1 or len(names) - len(known) == 1 else loose[0]
            if tensor is None:
                raise RequestError(
                    f"no shape is given for {name} in {request.expression!r}: say it, for example {name} 4096x1024."
                )
            made.parameters[name] = tensor.shape
            made.dtypes[name] = tensor.dtype
        unused = [t for t in request.tensors if t.name and t.name.lower() not in {n.lower() for n in names}]
        if unused and not request.behind_expression():
            raise RequestError(
                f"the tensor {unused[0].name} {_show(unused[0].shape)} doesn't appear in {request.expression!r}: drop it or use it."
            )
        if any(isinstance(n, ast.MatMult) for n in ast.walk(self.tree)):
            made.ops.append("matmul")
        self.count = 0
        made.value = self._lower(self.tree)
        made.ops = list(dict.fromkeys(made.ops)) or ["elementwise"]
        made.shape = self._check()
        return made

    def _check(self) -> tuple[int, ...]:
        """Run the shapes through NumPy on symbols and report what doesn't fit."""
        from tools.generate.errors import BeyondOffline
        from tools.generate.tracing import trace_reference

        specs = [{"name": n, "shape": s, "dtype": "float32"} for n, s in self.made.parameters.items()]
        try:
            graph = trace_reference(self.made.source("check"), "reference", specs)
        except BeyondOffline:
            return ()
        except ValueError as error:
            reason = str(error).split(": ", 2)[-1].rstrip(".")
            raise RequestError(
                f"the shapes contradict each other in {self.request.expression!r}: {reason}; change a shape."
            ) from error
        shape: tuple[int, ...] = tuple(graph["nodes"][graph["outputs"][0]]["shape"])
        return shape

    def _temporary(self, text: str) -> str:
        self.count += 1
        name = f"t{self.count}"
        while name in self.made.parameters:
            name += "_"
        self.made.lines.append(f"{name} = {text}")
        return name

    def _lower(self, node: ast.expr) -> str:
        if isinstance(node, ast.Name):
            return "np.pi" if node.id == "pi" else node.id
        if isinstance(node, ast.Constant):
            return repr(node.value)
        if isinstance(node, ast.Attribute):
            return f"np.swapaxes({self._lower(node.value)}, -1, -2)"
        if isinstance(node, ast.UnaryOp):
            return f"(-{self._lower(node.operand)})" if isinstance(node.op, ast.USub) else self._lower(node.operand)
        if isinstance(node, ast.BinOp):
            symbols = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/", ast.Pow: "**", ast.MatMult: "@"}
            symbol = symbols.get(type(node.op))
            if symbol is None:
                raise RequestError(f"the operator in {ast.unparse(node)!r} isn't offered: use + - * / ** and @.")
            return f"({self._lower(node.left)} {symbol} {self._lower(node.right)})"
        assert isinstance(node, ast.Call)
        assert isinstance(node.func, ast.Name)
        return self._call(node.func.id.lower(), [self._lower(a) for a in node.args])

    def _call(self, name: str, args: Sequence[str]) -> str:
        wanted = 2 if name in ("maximum", "minimum", "matmul") else 1
        if len(args) != wanted:
            raise RequestError(
                f"{name} takes {wanted} argument{'s' if wanted > 1 else ''}, not {len(args)}: write {name}({', '.join('xy'[:wanted])})."
            )
        if name == "matmul":
            return f"({args[0]} @ {args[1]})"
        if name in ("maximum", "minimum"):
            return f"np.{name}({args[0]}, {args[1]})"
        if name in ("sum", "mean", "max", "min"):
            return f"np.{name}({args[0]}, axis=-1)"
        if name == "transpose":
            return f"np.swapaxes({args[0]}, -1, -2)"
        x = args[0] if args[0].isidentifier() else self._temporary(args[0])
        if name in ("softmax", "rmsnorm", "layernorm"):
            helper = _Pipeline(Request(""))
            helper.made.parameters = dict(self.made.parameters)
            helper.made.lines = list(self.made.lines)
            helper.made.value, helper.made.shape = x, (1,)
            helper._unary(name) if name == "softmax" else helper._norm(name)
            self.made.lines = helper.made.lines
            return helper.made.value
        return self._temporary(FUNCTIONS[name].format(x=x))


def _is_vector(shape: tuple[int, ...], width: int) -> bool:
    return shape == (width,) or shape == (1, width)


def _broadcasts(shape: tuple[int, ...], target: tuple[int, ...]) -> bool:
    return len(shape) <= len(target) and all(a in (1, b) for a, b in zip(shape[::-1], target[::-1]))


def _show(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) if len(shape) > 1 else f"[{shape[0]}]" if shape else "a scalar"
