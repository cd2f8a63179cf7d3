"""Python expressions inside requests, in NumPy's or PyTorch's spelling: where they stand, and what they compute."""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable, Mapping, Sequence

from tools.generate.lexicon import PHRASES
from tools.generate.operators import (
    ALPHA,
    BINARY,
    FUNCTIONS,
    INDICES,
    POSITIVE_INPUT,
    REDUCTIONS,
    SCANS,
    Composition,
    Value,
    Writer,
    along_name,
    number,
)
from tools.task_errors import RequestError

_MODULES = (
    "np", "numpy", "torch", "F", "nn.functional", "torch.nn.functional", "jnp", "jax.numpy", "jax.nn", "math", "nl", "torch.special",
    "jax.lax", "lax", "tf.nn", "tf", "tf.math", "np.linalg", "torch.linalg", "jnp.linalg", "scipy.special", "functional", "nn",
)  # fmt: skip
_TORCH = ("torch", "F", "nn.functional", "torch.nn.functional", "torch.special", "functional", "nn")
_SAME = {
    "absolute": "abs", "fabs": "abs", "swish": "silu", "negative": "negate", "neg": "negate", "power": "pow", "logsoftmax": "log_softmax",
    "layer_norm": "layernorm", "rms_norm": "rmsnorm", "layerNorm": "layernorm", "mm": "matmul", "bmm": "matmul", "dot": "matmul", "clamp": "clip",
    "amax": "max", "amin": "min", "average": "mean", "logistic": "sigmoid", "expit": "sigmoid", "rms": "rms", "true_divide": "divide",
    "mul": "multiply", "sub": "subtract", "div": "divide", "atan": "arctan", "leakyrelu": "leaky_relu", "logsigmoid": "log_sigmoid",
    "hard_tanh": "hardtanh", "hard_swish": "hardswish", "hard_sigmoid": "hardsigmoid", "t": "transpose", "scaled_dot_product_attention": "attention",
    "normalize": "l2norm", "l2_normalize": "l2norm", "special_softmax": "softmax", "elementwise_max": "maximum", "fmax": "maximum",
    "fmin": "minimum", "quickgelu": "quick_gelu", "rint": "round", "lse": "logsumexp", "reduce_sum": "sum", "reduce_mean": "mean",
    "reduce_max": "max", "softmin": "softmin", "standard_deviation": "std", "square_root": "sqrt", "inner": "inner", "l2norm": "l2norm",
}  # fmt: skip
_ALONG = ("softmax", "softmin", "log_softmax", "l2norm", "rmsnorm", "layernorm", "cumsum", "cumprod")
_REDUCE = tuple(k for k in REDUCTIONS if k not in ("sum_of_squares", "mean_square", "abs_sum", "range", "norm"))
_BINARY = (*BINARY, "maximum", "minimum")
_OTHERS = ("matmul", "transpose", "clip", "linear", "attention", "swapaxes", "pow", "where", "einsum", "concatenate", "stack", "reshape", "outer",
           "permute", "unsqueeze", "squeeze", "view", "expand_dims", "concat", "cat", "mse_loss", "norm", "logaddexp", "greater", "less",
           "float", "astype", "to", "broadcast_to", "silu_and_mul", "relu_squared", "tril", "triu", "arange", "flatten", "ravel", "item")  # fmt: skip
_KNOWN = {*FUNCTIONS, *_ALONG, *_REDUCE, *INDICES, *_BINARY, *_OTHERS, *_SAME, "sign", "round"} - {"item"}
_ALLOWED = (
    ast.Call, ast.Name, ast.Attribute, ast.BinOp, ast.UnaryOp, ast.Constant, ast.Subscript, ast.Slice, ast.Tuple, ast.List, ast.keyword,
    ast.Compare, ast.operator, ast.unaryop, ast.Gt, ast.GtE, ast.Lt, ast.LtE, ast.Eq, ast.NotEq, ast.Load, ast.Starred,
)  # fmt: skip
_PIECE = re.compile(r"[^\W\d]\w*|\d+\.?\d*(?:e[-+]?\d+)?|\.\d+|['\"][^'\"]*['\"]|\S")
_STARTS = re.compile(r"[^\W\d]|\d|[(\-.]")
LONGEST = 600


def find_expressions(text: str, names: set[str]) -> list[tuple[int, int]]:
    """Spans of a text that are Python expressions over tensors, the longest first found.

    Args:
        text: a request.
        names: of tensors that it declares.
    """
    spans: list[tuple[int, int]] = []
    pieces = list(_PIECE.finditer(text))
    at = 0
    while at < len(pieces):
        start = pieces[at]
        best = 0
        if _STARTS.match(start[0]) and not (at and _glued(text, pieces[at - 1], start)):
            for end in range(min(len(pieces), at + 160), at + 1, -1):
                low, high = start.start(), pieces[end - 1].end()
                if high - low > LONGEST or not _ends(pieces[end - 1][0]):
                    continue
                if end < len(pieces) and _cuts(text, pieces[end - 1], pieces[end]):
                    continue
                if parse_expression(text[low:high], names) is not None:
                    best = end
                    break
        if best:
            spans.append((start.start(), pieces[best - 1].end()))
            at = best
        else:
            at += 1
    return spans


def _glued(text: str, before: re.Match[str], here: re.Match[str]) -> bool:
    """Whether a piece belongs to the one before it: a call's name, an attribute, an operator."""
    return before.end() == here.start() and (before[0][-1].isalnum() or before[0] in (".", "_"))


def _ends(piece: str) -> bool:
    return piece[-1].isalnum() or piece[-1] in "_)]'\""


def _cuts(text: str, last: re.Match[str], after: re.Match[str]) -> bool:
    """Whether ending here would cut a longer word, number, call or operation in two."""
    near = last.end() == after.start()
    return (
        ((near and after[0][0] in "([.%") and after[0] != ".")
        or (near and after[0].isalnum())
        or after[0] in ("**", "@", "*", "/")
    )


def parse_expression(text: str, names: set[str] = frozenset()) -> ast.expr | None:  # type: ignore[assignment]
    """The text as an expression of known functions, tensors, numbers and arithmetic, or None."""
    text = text.strip()
    if not text or len(text) > LONGEST or not re.search(r"[@*/+\-.(\[^<>=]", text):
        return None
    try:
        tree = ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    useful = called = False
    functions: set[int] = set()
    for node in ast.walk(tree):
        if not isinstance(node, _ALLOWED):
            return None
        if isinstance(node, ast.Call):
            name = _function(node.func)
            if name is None or (_key(name[1]) not in _KNOWN and not (name[0] or isinstance(node.func, ast.Attribute))):
                return None
            if (
                isinstance(node.func, ast.Name)
                and node.func.id in names
                and len(node.func.id) <= 2
                and node.func.id not in ("t",)
            ):
                return None
            functions |= (
                {id(n) for n in ast.walk(node.func) if isinstance(n, ast.Name)}
                if name[0] or isinstance(node.func, ast.Name)
                else set()
            )
            useful = called = True
        elif isinstance(node, ast.BinOp | ast.UnaryOp | ast.Subscript | ast.Attribute | ast.Compare):
            useful = True
        if isinstance(node, ast.Subscript) and not any(isinstance(n, ast.Slice) for n in ast.walk(node.slice)):
            return None  # `x [6, 5]` is a shape
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Sub | ast.Div) and _hyphenated(node, text, names):
            return None
    variables = [
        n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and id(n) not in functions and n.id not in _CONSTANTS
    ]
    if any(v not in names and (v.lower(),) in PHRASES and len(v) > 1 for v in variables):
        return None  # `matmul + bias + gelu` is a list of steps
    if any(v not in names and not _may_be_tensor(v) for v in variables):
        return None
    if not variables and not (called or any(isinstance(n, ast.Pow) for n in ast.walk(tree))):
        return None
    if (
        not variables
        and isinstance(tree, ast.Call)
        and _function(tree.func) not in (("", "sqrt"), ("math", "sqrt"), ("np", "sqrt"))
    ):
        return None
    if isinstance(tree, ast.Compare | ast.Tuple | ast.List | ast.Constant | ast.Starred | ast.Name):
        return None
    if isinstance(tree, ast.UnaryOp) and isinstance(tree.operand, ast.Constant):
        return None
    return tree if useful else None


_CONSTANTS = {
    "np",
    "numpy",
    "torch",
    "F",
    "jnp",
    "jax",
    "math",
    "nn",
    "tf",
    "lax",
    "nl",
    "pi",
    "True",
    "False",
    "None",
    "scipy",
    "functional",
}


def _may_be_tensor(word: str) -> bool:
    from tools.generate.tokens import may_name

    return may_name(word) or len(word) <= 3 or "_" in word


def _hyphenated(node: ast.BinOp, text: str, names: set[str]) -> bool:
    """Whether a minus or a slash is one inside words: `layer-norm`, `and/or`."""
    ends = (node.left, node.right)
    if not all(isinstance(e, ast.Name) for e in ends):
        return False
    words = [e.id for e in ends if isinstance(e, ast.Name)]
    return any(len(w) > 2 and w not in names for w in words) and not re.search(
        rf"{re.escape(words[0])}\s+[-/]\s+{re.escape(words[1])}", text
    )


def _function(node: ast.expr) -> tuple[str, str] | None:
    """(module, name) of what is called; the module of a method is empty."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    if isinstance(node, ast.Name):
        parts.append(node.id)
        dotted = ".".join(reversed(parts))
        module, _, name = dotted.rpartition(".")
        if not module or module in _MODULES:
            return module, name
        return "", parts[0]
    return ("", parts[0]) if parts else None


def _key(name: str) -> str:
    low = name.lower()
    return _SAME.get(low, low)


class Expression:
    """Lowers one expression into a composition.

    Args:
        text: the expression, as `parse_expression` accepts it.
        made: where its lines go.
        resolve: gives the value of a tensor's name.
        names: of tensors that the request declares.
    """

    def __init__(self, text: str, made: Composition, resolve: Callable[[str], Value], names: set[str]) -> None:
        tree = parse_expression(text, names)
        assert tree is not None, text
        self.text, self.tree, self.made, self.resolve, self.names = text, tree, made, resolve, names
        self.write = Writer(made)

    def value(self) -> Value:
        """The value of the whole expression."""
        return self._lower(self.tree)

    def variables(self) -> list[str]:
        """Names of tensors in the order in which they stand."""
        functions: set[int] = set()
        for node in ast.walk(self.tree):
            if (
                isinstance(node, ast.Call)
                and (found := _function(node.func)) is not None
                and (found[0] or isinstance(node.func, ast.Name))
            ):
                functions |= {id(n) for n in ast.walk(node.func) if isinstance(n, ast.Name)}
        found_names = [
            n
            for n in ast.walk(self.tree)
            if isinstance(n, ast.Name) and id(n) not in functions and n.id not in _CONSTANTS
        ]
        found_names.sort(key=lambda n: (n.lineno, n.col_offset))
        return list(dict.fromkeys(n.id for n in found_names))

    # -- nodes -------------------------------------------------------------------------------------------------------

    def _lower(self, node: ast.expr) -> Value:
        if isinstance(node, ast.Name):
            if node.id == "pi":
                return Value("np.pi", ())
            if node.id in ("True", "False", "None"):
                return Value(node.id, ())
            return self.resolve(node.id)
        if isinstance(node, ast.Constant):
            if isinstance(node.value, bool) or node.value is None or not isinstance(node.value, int | float):
                self._refuse(node)
            return Value(repr(node.value), ())
        if isinstance(node, ast.Attribute):
            return self._attribute(node)
        if isinstance(node, ast.UnaryOp):
            return self._sign(node)
        if isinstance(node, ast.BinOp):
            return self._operator(node)
        if isinstance(node, ast.Compare):
            return self._compare(node)
        if isinstance(node, ast.Subscript):
            return self._subscript(node)
        if isinstance(node, ast.Call):
            return self._call(node)
        self._refuse(node)
        raise AssertionError

    def _refuse(self, node: ast.AST, why: str = "") -> None:
        text = ast.unparse(node)
        raise RequestError(
            f"{text!r} isn't understood{': ' + why if why else ''} in {self.text!r}: use known functions with + - * / ** and @, or give a "
            "NumPy reference with --reference file.py:function."
        )

    def _attribute(self, node: ast.Attribute) -> Value:
        if (
            isinstance(node.value, ast.Name)
            and node.value.id in ("np", "math", "torch", "numpy", "jnp")
            and node.attr == "pi"
        ):
            return Value("np.pi", ())
        if node.attr in ("T", "mT"):
            x = self._lower(node.value)
            self._op("transpose")
            if node.attr == "T" and x.shape is not None and len(x.shape) > 2:
                self._refuse(
                    node,
                    f"on {len(x.shape)} dimensions .T reverses all of them; write .mT or swapaxes(-1, -2) for the last two",
                )
            if x.shape is not None and len(x.shape) < 2:
                return x
            self.made.ops.remove("transpose")
            return self.write.transpose(x)
        if node.attr == "values" and isinstance(node.value, ast.Call):
            return self._lower(node.value)
        self._refuse(node)
        raise AssertionError

    def _sign(self, node: ast.UnaryOp) -> Value:
        x = self._lower(node.operand)
        if isinstance(node.op, ast.UAdd):
            return x
        if not isinstance(node.op, ast.USub):
            self._refuse(node)
        return Value(f"(-{x.text})", x.shape)

    def _operator(self, node: ast.BinOp) -> Value:
        symbols = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/", ast.Pow: "**"}
        if isinstance(node.op, ast.BitXor):
            self._refuse(node, "write ** for a power")
        left, right = self._lower(node.left), self._lower(node.right)
        if isinstance(node.op, ast.MatMult):
            self._op("matmul")
            return self.write.matmul(left, right)
        symbol = symbols.get(type(node.op))
        if symbol is None:
            self._refuse(node, "use + - * / ** and @")
        shape = None
        if left.shape is not None and right.shape is not None:
            shape = self._broadcast(left, right, node)
        return Value(f"({left.text} {symbol} {right.text})", shape)

    def _broadcast(self, left: Value, right: Value, node: ast.AST) -> tuple[int, ...]:
        assert left.shape is not None
        assert right.shape is not None
        rank = max(len(left.shape), len(right.shape))
        a, b = ((1,) * (rank - len(s)) + s for s in (left.shape, right.shape))
        if any(m != n and 1 not in (m, n) for m, n in zip(a, b)):
            raise RequestError(
                f"the shapes contradict each other in {self.text!r}: {list(left.shape)} and {list(right.shape)} don't broadcast in "
                f"{ast.unparse(node)!r}; change a shape."
            )
        return tuple(max(m, n) for m, n in zip(a, b))

    def _compare(self, node: ast.Compare) -> Value:
        signs = {ast.Gt: ">", ast.GtE: ">=", ast.Lt: "<", ast.LtE: "<=", ast.Eq: "==", ast.NotEq: "!="}
        sign = signs.get(type(node.ops[0])) if len(node.ops) == 1 else None
        if sign is None:
            self._refuse(node, "one comparison at a time")
        left, right = self._lower(node.left), self._lower(node.comparators[0])
        shape = self._broadcast(left, right, node) if left.shape is not None and right.shape is not None else None
        return Value(f"({left.text} {sign} {right.text})", shape)

    def _subscript(self, node: ast.Subscript) -> Value:
        for part in ast.walk(node.slice):
            if not isinstance(part, ast.Slice | ast.Constant | ast.Tuple | ast.UnaryOp | ast.USub | ast.Load):
                self._refuse(node, "index by numbers and slices")
        x = self._lower(node.value)
        if x.shape is None:
            return Value(self.made.line("part", f"{x.text}[{_index(node.slice)}]"), None)
        import numpy as np

        try:
            shape = np.empty(x.shape, np.bool_)[
                eval(compile(ast.Expression(_key_only(node.slice)), "<index>", "eval"), {"slice": slice})
            ].shape
        except (IndexError, MemoryError) as error:
            raise RequestError(f"{ast.unparse(node)!r} doesn't fit {list(x.shape)}: {error}.") from error
        return Value(self.made.line("part", f"{x.text}[{_index(node.slice)}]"), shape)

    # -- calls -------------------------------------------------------------------------------------------------------

    def _op(self, key: str) -> None:
        self.made.ops.append(key)

    def _call(self, node: ast.Call) -> Value:
        found = _function(node.func)
        if found is None:
            self._refuse(node)
        assert found is not None
        module, name = found
        key = _key(name)
        args = list(node.args)
        method = not module and isinstance(node.func, ast.Attribute)
        if method:
            assert isinstance(node.func, ast.Attribute)
            args.insert(0, node.func.value)
        if key not in _KNOWN or any(isinstance(a, ast.Starred) for a in args):
            known = PHRASES.get(tuple(name.lower().split("_")))
            self._refuse(
                node,
                f"the function {name!r} isn't known"
                if known is None or known.kind != "op"
                else f"say {name!r} in words",
            )
        given = _Arguments(self, node, key, args, {k.arg or "": k.value for k in node.keywords}, module, method)
        value = _dispatch(given)
        given.all_used()
        return value


class _Arguments:
    """Arguments of one call, taken one by one so that none is ignored."""

    def __init__(
        self,
        expression: Expression,
        node: ast.Call,
        key: str,
        args: Sequence[ast.expr],
        keywords: Mapping[str, ast.expr],
        module: str,
        method: bool,
    ) -> None:
        self.expression, self.node, self.key, self.module, self.method = expression, node, key, module, method
        found = _function(node.func)
        self.name = found[1].lower() if found is not None else key
        self.args, self.keywords = list(args), dict(keywords)
        self.torch = module in _TORCH
        self.write = expression.write

    def all_used(self) -> None:
        """Refuse what nothing has taken."""
        for name in self.keywords:
            self.expression._refuse(self.node, f"the argument {name} isn't offered")
        if self.args:
            self.expression._refuse(self.node, f"{ast.unparse(self.args[0])!r} is an argument too many")

    def tensor(self, *names: str) -> Value:
        """The next tensor."""
        node = self._take(names)
        if node is None:
            self.expression._refuse(self.node, "an argument is missing")
        assert node is not None
        return self.expression._lower(node)

    def maybe(self, *names: str) -> Value | None:
        """The next tensor, if there is one."""
        node = self._take(names)
        if node is None or (isinstance(node, ast.Constant) and node.value is None):
            return None
        return self.expression._lower(node)

    def _take(self, names: Sequence[str]) -> ast.expr | None:
        for name in names:
            if name in self.keywords:
                return self.keywords.pop(name)
        return self.args.pop(0) if self.args else None

    def constant(self, *names: str, positional: bool = True) -> object:
        """The next argument as a plain value, or None."""
        node: ast.expr | None = None
        for name in names:
            if name in self.keywords:
                node = self.keywords.pop(name)
        if node is None and positional and self.args:
            node = self.args.pop(0)
        if node is None:
            return None
        try:
            return ast.literal_eval(node)
        except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
            inner = _folded(node)
            if inner is None:
                self.expression._refuse(self.node, f"{ast.unparse(node)!r} must be a number")
            return inner

    def number(self, *names: str, positional: bool = True) -> float | None:
        """The next argument as a number, or None."""
        value = self.constant(*names, positional=positional)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float):
            self.expression._refuse(self.node, f"{value!r} must be a number")
        return float(value)  # type: ignore[arg-type]

    def flag(self, *names: str) -> bool:
        """A keyword that is True or False."""
        value = self.constant(*names, positional=False)
        if value not in (None, True, False):
            self.expression._refuse(self.node, f"{value!r} must be True or False")
        return bool(value)

    def axis(self, default: object = "missing", positional: bool = True) -> object:
        """`axis` or `dim`: an int, a tuple or None for everything."""
        said = "axis" in self.keywords or "dim" in self.keywords or (positional and bool(self.args))
        if not said:
            return default
        value = self.constant("axis", "dim", positional=positional)
        if isinstance(value, list):
            value = tuple(value)
        ok = (
            value is None
            or (isinstance(value, int) and not isinstance(value, bool))
            or (isinstance(value, tuple) and all(type(v) is int for v in value))
        )
        if not ok:
            self.expression._refuse(self.node, f"{value!r} is no axis")
        return value


_ARITHMETIC: dict[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv, ast.Pow: operator.pow,
}  # fmt: skip


def _folded(node: ast.expr) -> float | None:
    """A constant formula's value, such as `1 / 8` or `-3e4`."""
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        return float(node.value)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        inner = _folded(node.operand)
        return None if inner is None else -inner
    if isinstance(node, ast.BinOp):
        a, b = _folded(node.left), _folded(node.right)
        if a is None or b is None:
            return None
        kind = _ARITHMETIC.get(type(node.op))
        try:
            return float(kind(a, b)) if kind is not None else None
        except (ArithmeticError, TypeError, ValueError):
            return None
    return None


def _index(node: ast.expr) -> str:
    """The text of an index; a tuple goes without parentheses."""
    return ", ".join(ast.unparse(e) for e in node.elts) if isinstance(node, ast.Tuple) else ast.unparse(node)


def _key_only(node: ast.expr) -> ast.expr:
    """An index made of numbers and slices, as an expression that can be evaluated on its own."""
    if isinstance(node, ast.Tuple):
        return ast.fix_missing_locations(
            ast.copy_location(ast.Tuple([_key_only(e) for e in node.elts], ast.Load()), node)
        )
    if isinstance(node, ast.Slice):
        parts = [p if p is not None else ast.Constant(None) for p in (node.lower, node.upper, node.step)]
        call = ast.Call(ast.Name("slice", ast.Load()), parts, [])
        return ast.fix_missing_locations(ast.copy_location(call, node))
    return node


def _dispatch(given: _Arguments) -> Value:
    key, write, made = given.key, given.write, given.expression.made
    given.expression._op(key)
    if key in ("float", "astype", "to"):
        made.ops.pop()
        return _cast(given)
    if key == "gelu":
        return _gelu(given)
    if key in ("max", "min"):
        return _extreme(given)
    if key in FUNCTIONS:
        x = given.tensor("x", "input", "a")
        if given.flag("inplace"):
            given.expression._refuse(given.node, "nothing is done in place")
        alpha = given.number("negative_slope", "alpha") if key in ALPHA else None
        if key in POSITIVE_INPUT:
            made.positive.add(x.text)
        return write.unary(key, x, alpha)
    if key in _ALONG:
        return _along(given)
    if key in _REDUCE:
        return _reduction(given)
    if key in INDICES:
        x = given.tensor("x", "input", "a")
        axis = given.axis(None)
        return write.index(key, x, axis, given.flag("keepdims", "keepdim"))  # type: ignore[arg-type]
    if key in (*BINARY, "maximum", "minimum", "pow"):
        x, y = given.tensor("x", "input", "x1"), given.tensor("y", "other", "x2")
        return write.binary("power" if key == "pow" else key, x, y)
    if key == "matmul":
        a, b = given.tensor("a", "input", "x"), given.tensor("b", "other", "y", "mat2")
        if given.name == "dot" and b.shape is not None and len(b.shape) > 2:
            given.expression._refuse(given.node, "dot of more than two dimensions isn't matmul; write @ or einsum")
        return write.matmul(a, b)
    if key == "linear":
        return _linear(given)
    if key == "transpose":
        return _transpose(given)
    if key == "swapaxes":
        return _swap(given, given.tensor("a"))
    if key == "clip":
        x = given.tensor("a", "x", "input")
        low, high = given.number("min", "a_min"), given.number("max", "a_max")
        if low is None and high is None:
            given.expression._refuse(given.node, "it has no limits")
        return write.clip(x, low, high)
    if key == "attention":
        q, k, v = given.tensor("query", "q"), given.tensor("key", "k"), given.tensor("value", "v")
        mask = given.maybe("attn_mask", "mask")
        causal, scale = given.flag("is_causal", "causal"), given.number("scale", positional=False)
        given.flag("enable_gqa")  # heads are shared wherever their numbers differ
        return write.attention(q, k, v, causal=causal, scale=scale, mask=mask)
    if key == "mse_loss":
        return write.error("mse", given.tensor("input"), given.tensor("target"), None)
    if key in (
        "where",
        "einsum",
        "concatenate",
        "concat",
        "cat",
        "stack",
        "reshape",
        "outer",
        "unsqueeze",
        "expand_dims",
        "logaddexp",
        "norm",
        "squeeze",
        "view",
        "tril",
        "triu",
    ):
        return _numpy(given)
    given.expression._refuse(given.node, f"{key} isn't offered here")
    raise AssertionError


def _cast(given: _Arguments) -> Value:
    """A cast to float32, which a reference works in anyway; narrower ones would round."""
    x = given.tensor()
    kind = given._take(("dtype",))
    name = ast.unparse(kind).split(".")[-1].strip("'\"") if kind is not None else "float32"
    if name not in ("float32", "float"):
        given.expression._refuse(
            given.node, "references compute in float32; say 'output bfloat16' for a narrower result"
        )
    return x


def _gelu(given: _Arguments) -> Value:
    x = given.tensor("x", "input")
    said = given.constant("approximate", positional=bool(given.args))
    exact = said in ("none", False) or (said is None and given.torch)
    if said not in (None, "none", "tanh", True, False):
        given.expression._refuse(given.node, f"approximate={said!r} isn't known")
    if exact:
        given.expression.made.ops[-1] = "exact_gelu"
    return given.write.unary("exact_gelu" if exact else "gelu", x)


def _extreme(given: _Arguments) -> Value:
    """max(x, 0) is element by element, max(x, axis=-1) a reduction, as in Python and NumPy."""
    key, made = given.key, given.expression.made
    x = given.tensor("x", "input", "a")
    bare = not given.module and not given.method
    second = given.args[0] if given.args else None
    if bare and second is not None:
        other = given.tensor()
        made.ops[-1] = "maximum" if key == "max" else "minimum"
        if not x.shape and x.shape is not None:
            x, other = other, x
        return given.write.binary(made.ops[-1], x, other)
    if given.torch and second is not None and not isinstance(_literal(second), int):
        other = given.tensor()
        made.ops[-1] = "maximum" if key == "max" else "minimum"
        return given.write.binary(made.ops[-1], x, other)
    return _reduce(given, x)


def _literal(node: ast.expr) -> object:
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError):
        return node


def _reduction(given: _Arguments) -> Value:
    return _reduce(given, given.tensor("x", "input", "a"))


def _reduce(given: _Arguments, x: Value) -> Value:
    key, made = given.key, given.expression.made
    dim = "dim" in given.keywords or "keepdim" in given.keywords
    axis = given.axis(None)
    if axis is None and x.shape is not None and len(x.shape) > 1:
        made.notes.append(f"{ast.unparse(given.node)} names no axis and takes all elements, as in NumPy.")
    keepdims = given.flag("keepdims", "keepdim")
    ddof = 0
    if key in ("var", "std"):
        said = given.number("ddof", "correction", positional=False)
        unbiased = given.constant("unbiased", positional=False)
        default = 1 if given.torch or dim else 0
        ddof = int(said) if said is not None else int(bool(unbiased)) if unbiased is not None else default
        if ddof and not (said or unbiased):
            made.notes.append(f"{ast.unparse(given.node)} divides by n - 1, as PyTorch does.")
    made.ops[-1] = f"{along_name(axis, x.shape)}_{key}"  # type: ignore[arg-type]
    return given.write.reduce(key, x, axis, keepdims, ddof)  # type: ignore[arg-type]


def _along(given: _Arguments) -> Value:
    key, write = given.key, given.write
    x = given.tensor("x", "input", "a")
    if key in ("layernorm", "rmsnorm"):
        return _norm(given, x)
    eps = given.number("eps", "epsilon", positional=False) if key == "l2norm" else None
    if key == "l2norm" and given.torch:
        given.expression._refuse(
            given.node, "F.normalize limits the norm from below; write x / sqrt(sum(x * x, axis=-1, keepdims=True))"
        )
    axis = given.axis("unsaid")
    if axis == "unsaid":
        rank = len(x.shape) if x.shape is not None else 0
        if rank > 1 and (key in SCANS or (given.torch and rank != 2)):
            given.expression._refuse(given.node, f"name the axis: libraries differ on what {key} does without one")
        axis = -1
    if axis is None or isinstance(axis, tuple):
        given.expression._refuse(given.node, f"{key} needs one axis")
    return write.along(key, x, axis, eps)  # type: ignore[arg-type]


def _norm(given: _Arguments, x: Value) -> Value:
    """layer_norm(x, (n,), weight, bias, eps), or layernorm(x, weight, bias)."""
    shape = given.constant("normalized_shape") if given.torch else None
    if given.torch and shape is not None and x.shape is not None:
        sizes = tuple(shape) if isinstance(shape, tuple | list) else (shape,)
        if sizes != x.shape[-1:]:
            given.expression._refuse(given.node, f"rows of {x.shape[-1]} are normalised over their last axis only")
    axis = given.axis(-1, positional=False)
    weight = given.maybe("weight", "gamma", "gain", "scale")
    bias = given.maybe("bias", "beta") if given.key == "layernorm" else None
    eps = given.number("eps", "epsilon")
    if eps is None and given.torch and given.key == "rmsnorm":
        eps = 1.1920929e-07
    value = given.write.along(given.key, x, axis if isinstance(axis, int) else -1, eps)
    if weight is not None:
        value = given.write.binary("multiply", value, weight)
    return given.write.binary("add", value, bias) if bias is not None else value


def _linear(given: _Arguments) -> Value:
    """PyTorch's linear: x @ w.T + b, with w stored as [out, in]."""
    x, w, b = given.tensor("input"), given.tensor("weight"), given.maybe("bias")
    given.expression.made.ops[-1] = "matmul"
    if not given.torch:
        given.expression._refuse(given.node, "write x @ w + b, or F.linear(x, w, b) for a w stored as [out, in]")
    product = given.write.matmul(x, given.write.transpose(w))
    return given.write.binary("add", product, b) if b is not None else product


def _transpose(given: _Arguments) -> Value:
    x = given.tensor("a", "x", "input")
    if not given.args and not given.keywords:
        if x.shape is not None and len(x.shape) > 2:
            given.expression._refuse(given.node, "name the axes: swapaxes(x, -1, -2) exchanges the last two")
        return given.write.transpose(x)
    if given.torch or (given.method and len(given.args) == 2):
        return _swap(given, x)
    axes = given.constant("axes", "perm")
    if (
        not isinstance(axes, tuple | list)
        or x.shape is None
        or sorted(a % len(x.shape) for a in axes) != list(range(len(x.shape)))
    ):
        given.expression._refuse(given.node, "name each axis once")
    assert isinstance(axes, tuple | list)
    shape = tuple(x.shape[a] for a in axes) if x.shape is not None else None
    return Value(given.expression.made.line("turned", f"np.transpose({x.text}, {tuple(axes)})"), shape)


def _swap(given: _Arguments, x: Value) -> Value:
    i, j = given.constant("dim0", "axis1"), given.constant("dim1", "axis2")
    if not isinstance(i, int) or not isinstance(j, int):
        given.expression._refuse(given.node, "name two axes")
    assert isinstance(i, int)
    assert isinstance(j, int)
    shape = None
    if x.shape is not None:
        sizes = list(x.shape)
        if not all(-len(sizes) <= a < len(sizes) for a in (i, j)):
            given.expression._refuse(given.node, f"{list(sizes)} has no such axis")
        sizes[i], sizes[j] = sizes[j], sizes[i]
        shape = tuple(sizes)
    return Value(given.expression.made.line("turned", f"np.swapaxes({x.text}, {i}, {j})"), shape)


_AS_IN_NUMPY = {
    "view": "reshape",
    "concat": "concatenate",
    "cat": "concatenate",
    "unsqueeze": "expand_dims",
    "norm": "linalg.norm",
}


def _numpy(given: _Arguments) -> Value:
    """A call that NumPy knows under the same name; its shape shows when the reference is traced."""
    name = _AS_IN_NUMPY.get(given.key, given.key)
    parts = []
    for arg in given.args:
        if isinstance(arg, ast.List | ast.Tuple) and any(isinstance(n, ast.Name) for n in ast.walk(arg)):
            parts.append(f"[{', '.join(given.expression._lower(e).text for e in arg.elts)}]")
        elif isinstance(arg, ast.Constant) and isinstance(arg.value, str):
            parts.append(repr(arg.value))
        elif _folded(arg) is not None or _is_shape(arg):
            parts.append(ast.unparse(arg))
        else:
            parts.append(given.expression._lower(arg).text)
    for key, node in given.keywords.items():
        spelled = {"dim": "axis", "keepdim": "keepdims"}.get(key, key)
        if spelled not in ("axis", "keepdims") or (
            _folded(node) is None and not _is_shape(node) and not isinstance(node, ast.Constant)
        ):
            given.expression._refuse(given.node, f"the argument {key} isn't offered")
        parts.append(f"{spelled}={ast.unparse(node)}")
    if given.key == "norm" and not any(p.startswith("axis=") for p in parts):
        given.expression._refuse(given.node, "name the axis of the norm")
    if given.key in ("reshape", "view") and len(parts) > 2:
        parts[1:] = [f"({', '.join(parts[1:])})"]
    given.args, given.keywords = [], {}
    return Value(given.expression.made.line(given.key, f"np.{name}({', '.join(parts)})"), None)


def _is_shape(node: ast.expr) -> bool:
    return isinstance(node, ast.Tuple | ast.List) and all(_folded(e) is not None for e in node.elts)


__all__ = ["Expression", "find_expressions", "number", "parse_expression"]
