"""Arithmetic: the ALU operators and the Scalar Engine's activation functions, as float32 NumPy functions.

Sources: NKI API reference, "Supported Math Operators" and "Supported Activation Functions". Hardware evaluates activations
by piecewise polynomials with no published error bound; we compute them in float32.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tools.sim import context

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class AluOp:
    """A two-operand (or one-operand) operator of the Vector, Scalar and GpSimd ALUs.

    Attributes:
        function: NumPy function on float32 (bitwise: integer) arrays.
        bitwise: works on raw integer bits; never converts.
        compares: yields 1.0 or 0.0.
        unary: ignores its second operand.
        reduces: legal as a reduction operator.
    """

    name: str
    function: Callable[..., Array]
    bitwise: bool = False
    compares: bool = False
    unary: bool = False
    reduces: bool = False
    ufunc: np.ufunc | None = None


@dataclass(frozen=True, slots=True)
class Activation:
    """A function of the Scalar Engine.

    Attributes:
        function: float32 array to float32 array; may overwrite its argument.
        table: activation-table set that must be loaded (0: none). Set membership isn't published; grouping assumed from
            the sets named in the runtime's Activation.json (exp/log, gelu, rsqrt, reciprocal).
        low, high: valid input range.
    """

    name: str
    function: Callable[[Array], Array]
    table: int = 0
    low: float = -np.inf
    high: float = np.inf


def _logical(function: Callable[..., Array]) -> Callable[..., Array]:
    return lambda a, b: function(a != 0, b != 0)


def _signed_winner(pick_first: Callable[[Array, Array], Array]) -> Callable[..., Array]:
    def pick(a: Array, b: Array) -> Array:
        return np.where(pick_first(np.abs(a), np.abs(b)), a, b)

    return pick


_ALU = (
    AluOp("add", np.add, reduces=True, ufunc=np.add),
    AluOp("subtract", np.subtract, reduces=True, ufunc=np.subtract),
    AluOp("multiply", np.multiply, reduces=True, ufunc=np.multiply),
    AluOp("divide", np.divide, ufunc=np.divide),
    AluOp("maximum", np.maximum, reduces=True, ufunc=np.maximum),
    AluOp("minimum", np.minimum, reduces=True, ufunc=np.minimum),
    AluOp("power", np.power, ufunc=np.power),
    AluOp("mod", np.mod, ufunc=np.mod),
    AluOp("fmod", np.fmod, ufunc=np.fmod),
    AluOp("abs_max", _signed_winner(np.greater_equal)),
    AluOp("abs_min", _signed_winner(np.less_equal)),
    AluOp("equal", np.equal, compares=True),
    AluOp("not_equal", np.not_equal, compares=True),
    AluOp("greater", np.greater, compares=True),
    AluOp("greater_equal", np.greater_equal, compares=True),
    AluOp("less", np.less, compares=True),
    AluOp("less_equal", np.less_equal, compares=True),
    AluOp("logical_and", _logical(np.logical_and), compares=True, reduces=True),
    AluOp("logical_or", _logical(np.logical_or), compares=True, reduces=True),
    AluOp("logical_xor", _logical(np.logical_xor), compares=True, reduces=True),
    AluOp("logical_not", lambda a, b=None: a == 0, compares=True, unary=True),
    AluOp("bitwise_and", np.bitwise_and, bitwise=True, reduces=True, ufunc=np.bitwise_and),
    AluOp("bitwise_or", np.bitwise_or, bitwise=True, reduces=True, ufunc=np.bitwise_or),
    AluOp("bitwise_xor", np.bitwise_xor, bitwise=True, reduces=True, ufunc=np.bitwise_xor),
    AluOp("invert", lambda a, b=None: np.invert(a), bitwise=True, unary=True),
    AluOp("left_shift", np.left_shift, bitwise=True),
    AluOp("right_shift", lambda a, b: _logical_shift(a, b), bitwise=True),
    AluOp("bypass", lambda a, b=None: a, unary=True),
    AluOp("copy", lambda a, b=None: a, unary=True),
    AluOp("abs", lambda a, b=None: np.abs(a), unary=True),
    AluOp("square", lambda a, b=None: np.square(a), unary=True),
    AluOp("relu", lambda a, b=None: np.maximum(a, 0), unary=True),
    AluOp("rsqrt", lambda a, b=None: 1 / np.sqrt(a), unary=True),
    AluOp("reciprocal", lambda a, b=None: 1 / a, unary=True),
    AluOp("negative", lambda a, b=None: -a, unary=True),
)
ALU: dict[str, AluOp] = {op.name: op for op in _ALU}
_ALU_ALIASES = {
    "max": "maximum",
    "min": "minimum",
    "sum": "add",
    "amax": "maximum",
    "amin": "minimum",
    "mult": "multiply",
    "true_divide": "divide",
    "not": "logical_not",
    "pow": "power",
    "remainder": "mod",
    "absolute": "abs",
    "bitwise_invert": "invert",
    "bitwise_not": "invert",
    "all": "logical_and",
    "any": "logical_or",
    "prod": "multiply",
    "float_power": "power",
    "subtract": "subtract",
    "var": "var",
    "and_": "bitwise_and",
    "or_": "bitwise_or",
    "bitwise_left_shift": "left_shift",
    "bitwise_right_shift": "right_shift",
}


def _logical_shift(a: Array, b: Any) -> Array:
    unsigned = np.dtype(f"u{a.dtype.itemsize}")
    return np.right_shift(a.view(unsigned), np.asarray(b).astype(unsigned)).view(a.dtype)


def erf(x: Array) -> Array:
    """The error function in float32 (Abramowitz and Stegun 7.1.26 in float64; its Taylor series below 0.5)."""
    wide = np.asarray(x, np.float64)
    size = np.abs(wide)
    t = 1.0 / (1.0 + 0.3275911 * size)
    tail = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))))
    square = wide * wide
    small = 1.0 - square / 3 * (
        1
        - square
        * 3
        / 10
        * (1 - square * 5 / 21 * (1 - square * 7 / 36 * (1 - square * 9 / 55 * (1 - square * 11 / 78))))
    )
    near = wide * small * (2 / np.sqrt(np.pi))
    far = np.sign(wide) * (1.0 - tail * np.exp(-square))
    return np.where(size < 0.5, near, far).astype(np.float32)


def sigmoid(x: Array) -> Array:
    """1 / (1 + exp(-x)); an overflowing exp rightly gives 0."""
    with np.errstate(over="ignore"):
        t = np.exp(np.negative(x))
    t += 1
    return np.divide(1, t, out=t)


def _silu(x: Array) -> Array:
    with np.errstate(over="ignore"):
        t = np.exp(np.negative(x))
    t += 1
    return np.divide(x, t, out=t)


def _gelu(x: Array) -> Array:
    return 0.5 * x * (1 + erf(x * np.float32(0.70710678)))


def _gelu_tanh(x: Array) -> Array:
    return 0.5 * x * (1 + np.tanh(np.float32(0.7978845608) * (x + np.float32(0.044715) * x * x * x)))


def _gelu_dx(x: Array) -> Array:
    return 0.5 * (1 + erf(x * np.float32(0.70710678))) + x * np.float32(0.3989422804) * np.exp(-0.5 * x * x)


def _gelu_tanh_dx(x: Array) -> Array:
    k, c = np.float32(0.7978845608), np.float32(0.044715)
    t = np.tanh(k * (x + c * x * x * x))
    return 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * k * (1 + 3 * c * x * x)


def _gelu_sigmoid(x: Array) -> Array:
    return x * sigmoid(np.float32(1.702) * x)


def _gelu_sigmoid_dx(x: Array) -> Array:
    s = sigmoid(np.float32(1.702) * x)
    return s * (1 + np.float32(1.702) * x * (1 - s))


def _silu_dx(x: Array) -> Array:
    s = sigmoid(x)
    return s * (1 + x * (1 - s))


def _softplus(x: Array) -> Array:
    return np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))


def _erf_dx(x: Array) -> Array:
    return np.float32(1.1283791671) * np.exp(-x * x)


_ACTIVATIONS = (
    Activation("copy", lambda x: x),
    Activation("identity", lambda x: x),
    Activation("square", np.square),
    Activation("relu", lambda x: np.maximum(x, 0)),
    Activation("abs", np.abs),
    Activation("sign", np.sign),
    Activation("negative", np.negative),
    Activation("exp", np.exp, 1),
    Activation("log", np.log, 1, 2.0**-64, 2.0**64),
    Activation("gelu", _gelu, 2),
    Activation("gelu_dx", _gelu_dx, 2),
    Activation("gelu_apprx_tanh", _gelu_tanh, 2),
    Activation("gelu_apprx_tanh_dx", _gelu_tanh_dx, 2),
    Activation("gelu_apprx_sigmoid", _gelu_sigmoid, 2),
    Activation("gelu_apprx_sigmoid_dx", _gelu_sigmoid_dx, 2),
    Activation("sqrt", np.sqrt, 3, 2.0**-116, 2.0**118),
    Activation("rsqrt", lambda x: 1 / np.sqrt(x), 3, 2.0**-87, 2.0**97),
    Activation("reciprocal", lambda x: 1 / x, 4, -(2.0**42), 2.0**42),
    Activation("sigmoid", sigmoid, 5),
    Activation("silu", _silu, 5),
    Activation("silu_dx", _silu_dx, 5),
    Activation("tanh", np.tanh, 5),
    Activation("softplus", _softplus, 6),
    Activation("mish", lambda x: x * np.tanh(_softplus(x)), 6),
    Activation("erf", erf, 7),
    Activation("erf_dx", _erf_dx, 7),
    Activation("sin", np.sin, 8, -np.pi, np.pi),
    Activation("cos", np.cos, 8, -np.pi, np.pi),
    Activation("tan", np.tan, 8, -np.pi / 2, np.pi / 2),
    Activation("arctan", np.arctan, 8, -np.pi / 2, np.pi / 2),
    Activation("ceil", np.ceil),
    Activation("floor", np.floor),
    Activation("trunc", np.trunc),
    Activation("prelu", lambda x: np.maximum(x, 0)),
    Activation("logical_not", lambda x: (x == 0).astype(np.float32)),
)
ACTIVATIONS: dict[str, Activation] = {f.name: f for f in _ACTIVATIONS}
_ACTIVATION_ALIASES = {
    "absolute": "abs",
    "gelu_apprx_tanh": "gelu_apprx_tanh",
    "identity": "copy",
    "bypass": "copy",
    "logistic": "sigmoid",
    "gelu_new": "gelu_apprx_tanh",
    "swish": "silu",
    "negate": "negative",
}


class OpHandle:
    """An operator as kernels name it (`nl.add`): an `op=` argument, and in some dialects also a function."""

    __slots__ = ("__name__", "call", "name")

    def __init__(self, name: str, call: Callable[..., Any] | None = None) -> None:
        self.name = name
        self.__name__ = name
        self.call = call

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self.call is None:
            context.fail(
                "KW-OP-CALL",
                f"nl.{self.name} is an operator handle and can't be called",
                fix="pass it as op= to an instruction",
            )
        return self.call(*args, **kwargs)

    def __repr__(self) -> str:
        return f"nl.{self.name}"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, OpHandle) and other.name == self.name

    def __hash__(self) -> int:
        return hash(self.name)


def _op_name(op: Any) -> str:
    if isinstance(op, str):
        return op
    name = getattr(op, "__name__", None)
    return name if isinstance(name, str) else str(op)


def alu(op: Any, argument: str = "op") -> AluOp:
    """The ALU operator that a kernel names by `nl.*`, `np.*` or string."""
    name = _op_name(op)
    found = ALU.get(name) or ALU.get(_ALU_ALIASES.get(name, ""))
    if found is None:
        context.fail(
            "KW-OP-UNKNOWN",
            f"{argument}={op!r} is no ALU operator",
            operand=argument,
            found=name,
            fix="use one of nl." + ", nl.".join(ALU),
        )
    return found


def activation(op: Any, argument: str = "op") -> Activation:
    """The activation function that a kernel names by `nl.*`, `np.*` or string."""
    name = _op_name(op)
    found = ACTIVATIONS.get(name) or ACTIVATIONS.get(_ACTIVATION_ALIASES.get(name, ""))
    if found is None:
        context.fail(
            "KW-ACTIVATION-UNKNOWN",
            f"{argument}={op!r} is no activation function of the Scalar Engine",
            operand=argument,
            found=name,
            fix="use one of nl." + ", nl.".join(ACTIVATIONS),
        )
    return found


def reduction(op: Any, argument: str = "op") -> AluOp:
    """The ALU operator `op`, which must be legal in a reduction."""
    found = alu(op, argument)
    if not found.reduces:
        legal = ", ".join(f"nl.{o.name}" for o in _ALU if o.reduces)
        context.fail(
            "KW-OP-REDUCE", f"{argument}=nl.{found.name} can't reduce", operand=argument, fix=f"use one of {legal}"
        )
    return found


def reduce_free(op: AluOp, values: Array, axes: tuple[int, ...], keepdims: bool = False) -> Array:
    """Reduce float32 (or integer, for bitwise operators) values over `axes`."""
    if op.ufunc is not None:
        if op.name == "add":
            # A float64 shadow (tools.insight.lockstep) adds in float64; everything else in float32, as the engines do.
            wide = op.bitwise or values.dtype == np.float64
            return np.asarray(values.sum(axis=axes, keepdims=keepdims, dtype=None if wide else np.float32))
        if op.name in ("maximum", "minimum", "multiply", "bitwise_and", "bitwise_or", "bitwise_xor"):
            return np.asarray(op.ufunc.reduce(values, axis=axes, keepdims=keepdims))
    shape = values.shape
    kept = [a for a in range(values.ndim) if a not in axes]
    flat = values.transpose(*kept, *axes).reshape(*[shape[a] for a in kept], -1)
    total = flat[..., 0]
    for i in range(1, flat.shape[-1]):
        total = op.function(total, flat[..., i])
    total = np.asarray(total, values.dtype)
    return total.reshape([1 if a in axes else n for a, n in enumerate(shape)]) if keepdims else total
