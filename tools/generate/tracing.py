"""Runs a NumPy reference on symbols instead of arrays and records what it does as an operator graph.

The reference is hostile code: `trace_reference` is meant to run in the sandbox's worker process. It touches nothing of the
host but its own namespace; the result is plain JSON.
"""

from __future__ import annotations

import builtins
import itertools
import math
import sys
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin

from tools.generate.builder import Builder
from tools.generate.errors import BeyondOffline
from tools.generate.graph import COMPARISONS, LOGICAL, REDUCTIONS
from tools.generate.structure import structured

_DIRECT = {
    "exp", "log", "sqrt", "tanh", "square", "sign", "sin", "cos", "arctan", "floor", "ceil", "trunc", "reciprocal", "erf",
    "add", "subtract", "multiply", "maximum", "minimum", "logical_not", *COMPARISONS, *LOGICAL,
}  # fmt: skip
_RENAMED = {
    "absolute": "abs", "fabs": "abs", "rint": "round", "fmax": "maximum", "fmin": "minimum", "float_power": "power",
    "true_divide": "divide", "bitwise_and": "logical_and", "bitwise_or": "logical_or", "bitwise_xor": "logical_xor",
    "invert": "logical_not", "atan": "arctan", "pow": "power", "expit": "sigmoid",
}  # fmt: skip
_BOOL_ONLY = ("bitwise_and", "bitwise_or", "bitwise_xor", "invert")


_FIRST_ARGUMENTS = ("a", "x", "arr", "m", "ary", "arrays", "array", "x1", "condition", "tup")


class Symbol(NDArrayOperatorsMixin):
    """An array of which only shape and type are known; every operation on it adds to the graph."""

    __slots__ = ("_boolean", "builder", "dtype", "id")
    __array_priority__ = 1000.0

    def __init__(self, builder: Builder, id: int, dtype: Any = np.float32, boolean: bool = False) -> None:
        self.builder = builder
        self.id = id
        self.dtype = np.dtype(np.bool_) if boolean else np.dtype(dtype)
        self._boolean = boolean

    @property
    def shape(self) -> tuple[int, ...]:
        return self.builder.nodes[self.id].shape

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def T(self) -> Symbol:
        return self.transpose()

    @property
    def mT(self) -> Symbol:
        return self.swapaxes(-1, -2)

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError("len() of unsized object")
        return self.shape[0]

    def __iter__(self) -> Any:
        return (self[i] for i in range(len(self)))

    def __bool__(self) -> bool:
        raise BeyondOffline("the reference decides by the values of its inputs (an `if` or `while` on array data)")

    def __float__(self) -> float:
        raise BeyondOffline("the reference takes a Python number out of an array")

    __int__ = __index__ = __complex__ = item = tolist = __float__

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        raise BeyondOffline(
            "the reference turns an array into something that can't be traced (np.array, a library call)"
        )

    def __setitem__(self, key: Any, value: Any) -> None:
        raise BeyondOffline("the reference assigns into part of an array")

    def __repr__(self) -> str:
        return f"Symbol{self.shape}"

    # -- protocols ---------------------------------------------------------------------------------------------------

    def __array_ufunc__(self, ufunc: Any, method: str, *args: Any, **kwargs: Any) -> Any:
        out = kwargs.pop("out", None)
        kwargs.pop("dtype", None)
        kwargs.pop("casting", None)
        if kwargs.pop("where", True) is not True or (out and method != "__call__"):
            raise BeyondOffline(f"np.{ufunc.__name__} with where= or out=")
        if method == "reduce":
            kinds = {"add": "add", "maximum": "maximum", "minimum": "minimum", "multiply": "multiply"}
            if ufunc.__name__ not in kinds:
                raise BeyondOffline(f"np.{ufunc.__name__}.reduce")
            axis = kwargs.get("axis", args[1] if len(args) > 1 else 0)
            return _reduce(self.builder, kinds[ufunc.__name__], args[0], axis, bool(kwargs.get("keepdims", False)))
        if method == "accumulate" and ufunc.__name__ in REDUCTIONS:
            axis = kwargs.get("axis", args[1] if len(args) > 1 else 0)
            return Symbol(self.builder, self.builder.scan(ufunc.__name__, args[0].id, int(axis)), args[0].dtype)
        if method != "__call__":
            raise BeyondOffline(f"np.{ufunc.__name__}.{method}")
        result = _apply(self.builder, ufunc.__name__, args)
        if out:
            target = out[0]
            if not isinstance(target, Symbol) or target.shape != result.shape:
                raise BeyondOffline(f"np.{ufunc.__name__} into an existing array")
            target.id, target.dtype, target._boolean = result.id, result.dtype, result._boolean
            return target
        return result

    def __array_function__(self, function: Any, types_: Any, args: Any, kwargs: Any) -> Any:
        handler = _FUNCTIONS.get(function.__name__)
        if handler is None:
            raise BeyondOffline(f"np.{function.__name__} has no builder here")
        if not args:  # np.sum(a=x)
            first = next(name for name in kwargs if name in _FIRST_ARGUMENTS)
            args = (kwargs.pop(first),)
        return handler(self.builder, *args, **kwargs)

    # -- methods -----------------------------------------------------------------------------------------------------

    def astype(self, dtype: Any, **_: Any) -> Symbol:
        if np.dtype(dtype).kind in "iu":
            raise BeyondOffline(f"a cast to {np.dtype(dtype)} in the middle of the computation")
        return Symbol(self.builder, self.id, dtype, self._boolean and np.dtype(dtype).kind == "b")

    def copy(self, order: str = "C") -> Symbol:
        return Symbol(self.builder, self.id, self.dtype, self._boolean)

    def transpose(self, *axes: Any) -> Symbol:
        order = axes[0] if len(axes) == 1 and not isinstance(axes[0], int) else axes
        return _wrap(self, self.builder.transpose(self.id, list(order) if order else list(range(self.ndim))[::-1]))

    def swapaxes(self, a: int, b: int) -> Symbol:
        order = list(range(self.ndim))
        order[a], order[b] = order[b], order[a]
        return _wrap(self, self.builder.transpose(self.id, order))

    def reshape(self, *shape: Any, order: str = "C") -> Symbol:
        sizes = list(shape[0] if len(shape) == 1 and not isinstance(shape[0], int | np.integer) else shape)
        if order != "C":
            raise BeyondOffline("a reshape in Fortran order")
        if -1 in sizes:
            known = math.prod(n for n in sizes if n != -1)
            sizes[sizes.index(-1)] = self.size // max(known, 1)
        if math.prod(sizes) != self.size:
            raise ValueError(f"cannot reshape array of shape {self.shape} into shape {tuple(sizes)}")
        return _wrap(self, self.builder.reshape(self.id, sizes))

    def ravel(self, order: str = "C") -> Symbol:
        return self.reshape(-1, order=order)

    flatten = ravel

    def squeeze(self, axis: Any = None) -> Symbol:
        axes = range(self.ndim) if axis is None else [a % self.ndim for a in np.atleast_1d(axis)]
        return self.reshape([n for i, n in enumerate(self.shape) if not (i in axes and n == 1)])

    def sum(self, axis: Any = None, dtype: Any = None, keepdims: bool = False) -> Symbol:
        return _reduce(self.builder, "add", self, axis, keepdims)

    def max(self, axis: Any = None, keepdims: bool = False) -> Symbol:
        return _reduce(self.builder, "maximum", self, axis, keepdims)

    def min(self, axis: Any = None, keepdims: bool = False) -> Symbol:
        return _reduce(self.builder, "minimum", self, axis, keepdims)

    def prod(self, axis: Any = None, dtype: Any = None, keepdims: bool = False) -> Symbol:
        return _reduce(self.builder, "multiply", self, axis, keepdims)

    def mean(self, axis: Any = None, dtype: Any = None, keepdims: bool = False) -> Symbol:
        return _mean(self.builder, self, axis, keepdims=keepdims)

    def var(self, axis: Any = None, dtype: Any = None, ddof: int = 0, keepdims: bool = False) -> Symbol:
        return _var(self.builder, self, axis, ddof=ddof, keepdims=keepdims)

    def std(self, axis: Any = None, dtype: Any = None, ddof: int = 0, keepdims: bool = False) -> Symbol:
        return _std(self.builder, self, axis, ddof=ddof, keepdims=keepdims)

    def cumsum(self, axis: Any = None, dtype: Any = None) -> Symbol:
        return _scan(self.builder, "add", self, axis)

    def argmax(self, axis: Any = None, *, keepdims: bool = False) -> Symbol:
        return _place(self.builder, "maximum", self, axis, keepdims)

    def argmin(self, axis: Any = None, *, keepdims: bool = False) -> Symbol:
        return _place(self.builder, "minimum", self, axis, keepdims)

    def dot(self, other: Any) -> Symbol:
        return _dot(self.builder, self, other)

    def clip(self, min: Any = None, max: Any = None) -> Symbol:
        return _clip(self.builder, self, min, max)

    def __getitem__(self, key: Any) -> Symbol:
        keys = list(key) if isinstance(key, tuple) else [key]
        given = sum(k is not None and k is not Ellipsis for k in keys)
        at = next((i for i, k in enumerate(keys) if k is Ellipsis), None)
        if at is not None:
            keys[at : at + 1] = [slice(None)] * (self.ndim - given)
        else:
            keys += [slice(None)] * (self.ndim - given)
        starts, stops, steps, final = [], [], [], []
        axis = 0
        for k in keys:
            if k is None:
                final.append(1)
                continue
            n = self.shape[axis]
            axis += 1
            if isinstance(k, slice):
                a, b, c = k.indices(n)
                if c < 1:
                    raise BeyondOffline("a slice with a negative step")
                starts.append(a)
                stops.append(b)
                steps.append(c)
                final.append(len(range(a, b, c)))
            elif isinstance(k, int | np.integer):
                i = int(k) + n if k < 0 else int(k)
                if not 0 <= i < n:
                    raise IndexError(f"index {k} is out of bounds for axis {axis - 1} with size {n}")
                starts.append(i)
                stops.append(i + 1)
                steps.append(1)
            else:
                raise BeyondOffline("indexing by an array or mask")
        cut = self.builder.slice(self.id, starts, stops, steps)
        return _wrap(self, self.builder.reshape(cut, final))


_Part = tuple[tuple[tuple[int, int, int], ...], int]
"""What a part of an array covers, as (start, stop, step) an axis, and its node."""


class Assembly(Symbol):
    """An array that the reference allocates empty and fills part by part, such as one head after another."""

    __slots__ = ("_final", "_parts", "_shape")

    def __init__(self, builder: Builder, shape: Sequence[int], dtype: Any = np.float32) -> None:
        self.builder = builder
        self.dtype = np.dtype(dtype)
        self._boolean = False
        self._shape = tuple(int(n) for n in shape)
        self._parts: list[_Part] = []
        self._final: int | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        return self._shape

    @property
    def id(self) -> int:  # type: ignore[override]
        """The node of the whole array, once every element has been assigned."""
        if self._final is None:
            self._final = self._assemble(self._parts, 0)
        return self._final

    def __setitem__(self, key: Any, value: Any) -> None:
        if self._final is not None:
            raise BeyondOffline("the reference assigns into an array after using it")
        keys = list(key) if isinstance(key, tuple) else [key]
        if any(not isinstance(k, int | np.integer | slice) and k is not Ellipsis for k in keys):
            raise BeyondOffline("the reference assigns through an index array or mask")
        at = next((i for i, k in enumerate(keys) if k is Ellipsis), None)
        if at is not None:
            keys[at : at + 1] = [slice(None)] * (len(self._shape) - len(keys) + 1)
        keys += [slice(None)] * (len(self._shape) - len(keys))
        ranges, visible = [], []
        for k, n in zip(keys, self._shape):
            if isinstance(k, slice):
                a, b, c = k.indices(n)
                if c < 1:
                    raise BeyondOffline("the reference assigns backwards")
                visible.append(len(range(a, b, c)))
            else:
                a = int(k) % n
                b, c = a + 1, 1
            ranges.append((a, b, c))
        part = self.builder.broadcast(_id(self.builder, value), visible)
        self._parts.append((tuple(ranges), self.builder.reshape(part, [len(range(*r)) for r in ranges])))

    def _assemble(self, parts: list[_Part], axis: int) -> int:
        """Join parts that tile the array, one axis after another."""
        if axis == len(self._shape):
            if len(parts) != 1:
                raise BeyondOffline("the reference assigns to the same elements twice")
            return parts[0][1]
        spans = sorted({ranges[axis] for ranges, _ in parts})
        step, size = max((c for _, _, c in spans), default=1), self._shape[axis]
        edges = [0, *(b for _, b, _ in spans)]
        in_turn = step > 1 and size % step == 0 and [(a, c) for a, _, c in spans] == [(i, step) for i in range(step)]
        in_turn = in_turn and all(len(range(*span)) == size // step for span in spans)
        if not in_turn and (step > 1 or not spans or [a for a, _, _ in spans] != edges[:-1] or edges[-1] != size):
            raise BeyondOffline("the reference fills an array in parts that don't tile it")
        joined = [self._assemble([p for p in parts if p[0][axis] == span], axis + 1) for span in spans]
        if not in_turn:
            return self.builder.concat(joined, axis)
        b = self.builder
        apart = [list(b.nodes[j].shape) for j in joined]
        grown = [b.reshape(j, [*s[: axis + 1], 1, *s[axis + 1 :]]) for j, s in zip(joined, apart)]
        return b.reshape(b.concat(grown, axis + 1), [*apart[0][:axis], size, *apart[0][axis + 1 :]])


def _wrap(like: Symbol, id: int) -> Symbol:
    return Symbol(like.builder, id, like.dtype, like._boolean)


def _id(builder: Builder, value: Any) -> int:
    """The node for an operand: a symbol, a number or an array of one repeated number."""
    if isinstance(value, Symbol):
        return value.id
    array = np.asarray(value)
    if array.dtype.kind not in "fiub" and str(array.dtype) not in ("bfloat16", "float16"):
        raise BeyondOffline(f"an operand of type {array.dtype}")
    if array.size and bool(np.all(array == array.flat[0])):
        return builder.constant(float(array.flat[0]), array.shape)
    found = structured(builder, array)
    if found is None:
        raise BeyondOffline(
            "a constant array without a pattern that engines can count out (a table, an irregular mask)"
        )
    return found


def _dtype(*values: Any) -> Any:
    known = [v.dtype for v in values if isinstance(v, Symbol) and v.dtype.kind != "b"]
    return max(known, key=lambda d: d.itemsize, default=np.dtype(np.float32))


def _apply(builder: Builder, name: str, args: Sequence[Any]) -> Symbol:
    op = _RENAMED.get(name, name)
    boolean = op in COMPARISONS or op in LOGICAL or op == "logical_not"
    if name in _BOOL_ONLY and not all(not isinstance(a, Symbol) or a._boolean for a in args):
        raise BeyondOffline(f"np.{name} on numbers")
    dtype = _dtype(*args)
    if name == "matmul":
        return Symbol(builder, builder.matmul(_id(builder, args[0]), _id(builder, args[1])), dtype)
    ids = [_id(builder, a) for a in args]
    e = builder.elementwise
    if op in _DIRECT or op in ("abs", "round", "sigmoid"):
        found = e(op, *ids)
    elif op == "divide":
        found = builder.divide(*ids)
    elif op == "power":
        found = builder.power(*ids)
    elif op == "negative":
        found = builder.scaled(ids[0], -1.0)
    elif op == "positive":
        found = ids[0]
    elif op == "log1p":
        found = e("log", e("add", ids[0], builder.constant(1.0)))
    elif op == "expm1":
        found = e("add", e("exp", ids[0]), builder.constant(-1.0))
    elif op in ("exp2", "log2", "log10"):
        base = 10.0 if op == "log10" else 2.0
        if op == "exp2":
            found = e("exp", builder.scaled(ids[0], math.log(base)))
        else:
            found = builder.scaled(e("log", ids[0]), 1 / math.log(base))
    elif op == "logaddexp":
        gap = e("abs", e("subtract", ids[0], ids[1]))
        tail = e("log", e("add", e("exp", builder.scaled(gap, -1.0)), builder.constant(1.0)))
        found = (
            e("softplus", ids[1 - ids.index(z)])
            if (z := _zero(builder, ids)) is not None
            else e("add", e("maximum", ids[0], ids[1]), tail)
        )
    elif op == "tan":
        found = builder.divide(e("sin", ids[0]), e("cos", ids[0]))
    elif op in ("sinh", "cosh"):
        up, down = e("exp", ids[0]), e("exp", builder.scaled(ids[0], -1.0))
        found = builder.scaled(e("add" if op == "cosh" else "subtract", up, down), 0.5)
    elif op == "hypot":
        found = e("sqrt", e("add", e("square", ids[0]), e("square", ids[1])))
    else:
        raise BeyondOffline(f"np.{name} has no builder here")
    return Symbol(builder, found, dtype, boolean)


def _zero(builder: Builder, ids: Sequence[int]) -> int | None:
    return next((i for i in ids if builder.value(i) == 0.0), None)


def _axes(rank: int, axis: Any) -> list[int]:
    if axis is None:
        return list(range(rank))
    axes = [int(a) for a in (axis if isinstance(axis, tuple | list) else (axis,))]
    if any(not -rank <= a < rank for a in axes):
        raise ValueError(f"axis {axis} is out of bounds for an array of dimension {rank}")
    return [a % rank for a in axes]


def _reduce(b: Builder, kind: str, x: Any, axis: Any = None, keepdims: Any = False) -> Symbol:
    keep = bool(keepdims) and keepdims is not np._NoValue
    return Symbol(b, b.reduce(kind, x.id, _axes(x.ndim, axis), keep), _dtype(x))


def _scan(b: Builder, kind: str, x: Any, axis: Any = None) -> Symbol:
    if axis is None:
        x, axis = x.reshape(-1), 0
    _axes(x.ndim, axis)
    return Symbol(b, b.scan(kind, x.id, int(axis)), _dtype(x))


def _place(b: Builder, kind: str, x: Any, axis: Any = None, keepdims: Any = False) -> Symbol:
    """argmax or argmin: the smallest place that holds the extreme value."""
    keep = bool(keepdims) and keepdims is not np._NoValue
    if axis is None:
        if keep:
            raise BeyondOffline("argmax over all elements with keepdims")
        x, axis = x.reshape(-1), 0
    (at,) = _axes(x.ndim, axis)
    count = x.shape[at]
    moved = b.transpose(x.id, [*(i for i in range(x.ndim) if i != at), at])
    held = b.elementwise("equal", moved, b.reduce(kind, moved, [-1], True))
    places = b.iota([1] * (x.ndim - 1) + [count], x.ndim - 1)
    found = b.reduce("minimum", b.elementwise("where", held, places, b.constant(float(count))), [-1], False)
    shape = [1 if i == at else n for i, n in enumerate(x.shape) if keep or i != at]
    return Symbol(b, b.reshape(found, shape), np.float32)


def _band(b: Builder, x: Any, k: int, lower: bool) -> Symbol:
    """np.tril and np.triu: zeros beyond a diagonal of the last two axes."""
    rows, cols = x.shape[-2:]
    place = b.elementwise("add", b.iota((rows, 1), 0), b.constant(float(k)))
    kept = b.elementwise("less_equal" if lower else "greater_equal", b.iota((1, cols), 1), place)
    return Symbol(b, b.elementwise("where", kept, x.id, b.constant(0.0)), _dtype(x))


def _mean(
    b: Builder, x: Any, axis: Any = None, dtype: Any = None, out: Any = None, keepdims: Any = False, **_: Any
) -> Symbol:
    count = math.prod(x.shape[a] for a in _axes(x.ndim, axis))
    return Symbol(b, b.scaled(_reduce(b, "add", x, axis, keepdims).id, 1 / count), _dtype(x))


def _var(
    b: Builder,
    x: Any,
    axis: Any = None,
    dtype: Any = None,
    out: Any = None,
    ddof: int = 0,
    keepdims: Any = False,
    **_: Any,
) -> Symbol:
    count = math.prod(x.shape[a] for a in _axes(x.ndim, axis))
    centred = x - _mean(b, x, axis, keepdims=True)
    total = _reduce(b, "add", centred * centred, axis, keepdims)
    return Symbol(b, b.scaled(total.id, 1 / max(count - ddof, 1)), _dtype(x))


def _std(b: Builder, x: Any, axis: Any = None, *args: Any, **kwargs: Any) -> Symbol:
    return Symbol(b, b.elementwise("sqrt", _var(b, x, axis, *args, **kwargs).id), _dtype(x))


def _reducer(kind: str) -> Callable[..., Symbol]:
    def reduce(
        b: Builder, x: Any, axis: Any = None, *, dtype: Any = None, out: Any = None, keepdims: Any = False, **_: Any
    ) -> Symbol:
        if out is not None:
            raise BeyondOffline("a reduction into an existing array")
        return _reduce(b, kind, x, axis, keepdims)

    return reduce


def _dot(b: Builder, x: Any, y: Any, out: Any = None) -> Symbol:
    left, right = _symbol(b, x), _symbol(b, y)
    if not left.shape or not right.shape:
        return _apply(b, "multiply", (x, y))
    if right.ndim > 2:
        raise BeyondOffline("np.dot with more than two dimensions on the right; use matmul")
    return Symbol(b, b.matmul(left.id, right.id), _dtype(x, y))


def _symbol(b: Builder, x: Any) -> Symbol:
    return x if isinstance(x, Symbol) else Symbol(b, _id(b, x))


def _clip(b: Builder, x: Any, a_min: Any = None, a_max: Any = None, out: Any = None, **kw: Any) -> Symbol:
    low = kw.get("min", a_min)
    high = kw.get("max", a_max)
    result = _symbol(b, x)
    if low is not None and low is not np._NoValue:
        result = _apply(b, "maximum", (result, low))
    if high is not None and high is not np._NoValue:
        result = _apply(b, "minimum", (result, high))
    return result


def _where(b: Builder, condition: Any, x: Any = None, y: Any = None) -> Symbol:
    if x is None or y is None:
        raise BeyondOffline("np.where with one argument")
    ids = [_id(b, v) for v in (condition, x, y)]
    return Symbol(b, b.elementwise("where", *ids), _dtype(x, y))


def _einsum(b: Builder, spec: Any, *operands: Any, **_: Any) -> Symbol:
    if not isinstance(spec, str):
        raise BeyondOffline("this form of np.einsum")
    spec = _spelled_out(spec.replace(" ", ""), operands)
    left, _, result = spec.partition("->")
    terms = left.split(",")
    if "->" not in spec:
        result = "".join(sorted(c for c in set(left) - {","} if left.count(c) == 1))
    if any(len(set(t)) != len(t) for t in terms):
        raise BeyondOffline("np.einsum with a repeated index in one operand (a diagonal)")
    symbols = [_symbol(b, o) for o in operands]
    if len(symbols) != len(terms) or any(s.ndim != len(t) for s, t in zip(symbols, terms)):
        raise ValueError(f"np.einsum: {spec} does not fit the operands")
    value, have = symbols[0], terms[0]
    for i, (other, term) in enumerate(zip(symbols[1:], terms[1:])):
        rest = result + "".join(terms[i + 2 :])
        value, have = _contract(b, value, have, other, term, rest)
    drop = tuple(i for i, c in enumerate(have) if c not in result)
    if drop:
        value, have = value.sum(axis=drop), "".join(c for c in have if c in result)
    return value.transpose([have.index(c) for c in result]) if have else value


def _spelled_out(spec: str, operands: Sequence[Any]) -> str:
    """An einsum without `...`: leading axes get letters of their own."""
    if "..." not in spec:
        return spec
    left, arrow, result = spec.partition("->")
    terms = left.split(",")
    if not arrow or len(terms) != len(operands):
        raise BeyondOffline("this form of np.einsum")
    free = [c for c in "ZYXWVUTSRQ" if c not in spec]
    counts = [np.ndim(o) - len(t) + 3 if "..." in t else 0 for o, t in zip(operands, terms)]
    if max(counts) > len(free) or min(counts) < 0 or len({c for c in counts if c}) > 1:
        raise BeyondOffline("np.einsum with leading axes of different number")
    letters = "".join(free[: max(counts)])
    return f"{','.join(t.replace('...', letters) for t in terms)}->{result.replace('...', letters)}"


def _contract(b: Builder, x: Symbol, xs: str, y: Symbol, ys: str, needed: str) -> tuple[Symbol, str]:
    """One pairwise einsum step as a batched matmul; indices outside `needed` disappear."""
    for axis in range(len(xs) - 1, -1, -1):
        if xs[axis] not in ys and xs[axis] not in needed:
            x, xs = x.sum(axis=axis), xs[:axis] + xs[axis + 1 :]
    for axis in range(len(ys) - 1, -1, -1):
        if ys[axis] not in xs and ys[axis] not in needed:
            y, ys = y.sum(axis=axis), ys[:axis] + ys[axis + 1 :]
    batch = [c for c in xs if c in ys and c in needed]
    inner = [c for c in xs if c in ys and c not in needed]
    rows = [c for c in xs if c not in ys]
    cols = [c for c in ys if c not in xs]
    sizes = {**dict(zip(xs, x.shape)), **dict(zip(ys, y.shape))}

    def count(group: list[str]) -> int:
        return math.prod(sizes[c] for c in group)

    a = x.transpose([xs.index(c) for c in batch + rows + inner]).reshape(
        [*(sizes[c] for c in batch), count(rows), count(inner)]
    )
    c = y.transpose([ys.index(c) for c in batch + inner + cols]).reshape(
        [*(sizes[c] for c in batch), count(inner), count(cols)]
    )
    product = Symbol(b, b.matmul(a.id, c.id), _dtype(x, y))
    letters = batch + rows + cols
    return product.reshape([sizes[c] for c in letters]), "".join(letters)


def _full_like(value: float) -> Callable[..., Symbol]:
    return lambda b, x, *args, **kw: Symbol(b, b.constant(value if not args else float(args[0]), x.shape), x.dtype)


def _stack(b: Builder, arrays: Any, axis: int = 0, **_: Any) -> Symbol:
    parts = [_symbol(b, a) for a in arrays]
    rank = parts[0].ndim + 1
    axis %= rank
    grown = [p.reshape([*p.shape[:axis], 1, *p.shape[axis:]]) for p in parts]
    return Symbol(b, b.concat([p.id for p in grown], axis), _dtype(*parts))


def _split(b: Builder, x: Any, sections: Any, axis: int = 0) -> list[Symbol]:
    n = x.shape[axis]
    if isinstance(sections, int | np.integer):
        if n % int(sections):
            raise ValueError("array split does not result in an equal division")
        edges = list(range(0, n + 1, n // int(sections)))
    else:
        edges = [0, *(int(s) for s in sections), n]
    key: list[Any] = [slice(None)] * x.ndim
    parts = []
    for low, high in itertools.pairwise(edges):
        key[axis] = slice(low, high)
        parts.append(x[tuple(key)])
    return parts


def _repeat(b: Builder, x: Any, repeats: Any, axis: Any = None) -> Symbol:
    """Each element several times in a row."""
    if not isinstance(repeats, int | np.integer):
        raise BeyondOffline("np.repeat by different counts")
    if axis is None:
        x, axis = x.reshape(-1), 0
    axis, n = axis % x.ndim, int(repeats)
    shape = list(x.shape)
    wide = b.broadcast(
        b.reshape(x.id, [*shape[: axis + 1], 1, *shape[axis + 1 :]]), [*shape[: axis + 1], n, *shape[axis + 1 :]]
    )
    return Symbol(b, b.reshape(wide, [*shape[:axis], shape[axis] * n, *shape[axis + 1 :]]), _dtype(x))


def _tile(b: Builder, x: Any, reps: Any) -> Symbol:
    """The whole array several times along each axis."""
    counts = [int(r) for r in (reps if isinstance(reps, tuple | list) else (reps,))]
    counts = [1] * (x.ndim - len(counts)) + counts
    shape = [1] * (len(counts) - x.ndim) + list(x.shape)
    apart = [k for n in shape for k in (1, n)]
    wide = [k for c, n in zip(counts, shape) for k in (c, n)]
    repeated = b.broadcast(b.reshape(x.id, apart), wide)
    return Symbol(b, b.reshape(repeated, [c * n for c, n in zip(counts, shape)]), _dtype(x))


def _expand_dims(b: Builder, x: Any, axis: Any) -> Symbol:
    axes = [axis] if isinstance(axis, int) else list(axis)
    rank = x.ndim + len(axes)
    axes = [a % rank for a in axes]
    sizes = iter(x.shape)
    return x.reshape([1 if i in axes else next(sizes) for i in range(rank)])


def _moveaxis(b: Builder, x: Any, source: int, destination: int) -> Symbol:
    order = [i for i in range(x.ndim) if i != source % x.ndim]
    order.insert(destination % x.ndim, source % x.ndim)
    return x.transpose(order)


_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "sum": _reducer("add"), "max": _reducer("maximum"), "amax": _reducer("maximum"), "min": _reducer("minimum"),
    "amin": _reducer("minimum"), "prod": _reducer("multiply"), "mean": _mean, "average": _mean, "var": _var, "std": _std,
    "dot": _dot, "clip": _clip, "where": _where, "einsum": _einsum,
    "matmul": lambda b, x, y: _apply(b, "matmul", (x, y)),
    "transpose": lambda b, x, axes=None: x.transpose(*([axes] if axes is not None else [])),
    "swapaxes": lambda b, x, i, j: x.swapaxes(i, j), "moveaxis": _moveaxis, "expand_dims": _expand_dims,
    "reshape": lambda b, x, shape=None, order="C", newshape=None, **_: x.reshape(shape if shape is not None else newshape),
    "ravel": lambda b, x, order="C": x.ravel(), "squeeze": lambda b, x, axis=None: x.squeeze(axis),
    "broadcast_to": lambda b, x, shape, **_: Symbol(b, b.broadcast(x.id, shape), x.dtype),
    "concatenate": lambda b, arrays, axis=0, **_: Symbol(
        b, b.concat([_id(b, a) for a in arrays], axis), _dtype(*arrays)
    ),
    "repeat": _repeat, "tile": _tile, "stack": _stack, "split": _split, "array_split": _split,
    "empty_like": lambda b, x, *args, shape=None, **kw: Assembly(b, shape if shape is not None else x.shape, x.dtype),
    "zeros_like": _full_like(0.0), "ones_like": _full_like(1.0), "full_like": _full_like(0.0),
    "shape": lambda b, x: x.shape, "ndim": lambda b, x: x.ndim, "size": lambda b, x: x.size,
    "copy": lambda b, x, **_: x.copy(), "inner": lambda b, x, y: _dot(b, x, y.T),
    "outer": lambda b, x, y: x.reshape(-1, 1) * y.reshape(1, -1),
    "linalg_norm": lambda b, x, axis=None, keepdims=False: np.sqrt((x * x).sum(axis=axis, keepdims=keepdims)),
    "norm": lambda b, x, ord=None, axis=None, keepdims=False: _norm(x, ord, axis, keepdims),
    "result_type": lambda b, *a: np.dtype(np.float32), "nan_to_num": lambda b, x, **_: x,
    "round": lambda b, x, decimals=0, out=None: _round(b, x, decimals), "around": lambda b, x, decimals=0: _round(b, x, decimals),
    "tril": lambda b, x, k=0: _band(b, x, k, True), "triu": lambda b, x, k=0: _band(b, x, k, False),
    "cumsum": lambda b, x, axis=None, **_: _scan(b, "add", x, axis), "cumprod": lambda b, x, axis=None, **_: _scan(b, "multiply", x, axis),
    "argmax": lambda b, x, axis=None, out=None, keepdims=False: _place(b, "maximum", x, axis, keepdims),
    "argmin": lambda b, x, axis=None, out=None, keepdims=False: _place(b, "minimum", x, axis, keepdims), "real": lambda b, x: x,
}  # fmt: skip


def _round(b: Builder, x: Any, decimals: int) -> Symbol:
    if decimals:
        raise BeyondOffline("np.round with decimals")
    return _apply(b, "rint", (x,))


def _norm(x: Any, ord: Any, axis: Any, keepdims: bool) -> Any:
    if ord not in (None, 2):
        raise BeyondOffline(f"np.linalg.norm with ord={ord}")
    return np.sqrt((x * x).sum(axis=axis, keepdims=keepdims))


class _Numpy(types.ModuleType):
    """NumPy as the traced source sees it: `vectorize` and `empty` work with symbols too."""

    builder: Builder | None = None

    def __getattr__(self, name: str) -> Any:
        return _Vectorize if name == "vectorize" else getattr(np, name)

    def empty(self, shape: Any, dtype: Any = np.float32, **_: Any) -> Any:
        """An array to be filled part by part."""
        if self.builder is None:
            return np.empty(shape, dtype)
        return Assembly(self.builder, [int(shape)] if isinstance(shape, int | np.integer) else shape, dtype)


class _Vectorize:
    """`np.vectorize` that applies its function to a whole symbol."""

    def __init__(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        self.function = getattr(_SymbolicMath, getattr(function, "__name__", ""), function)
        self.plain = np.vectorize(function, *args, **kwargs)

    def __call__(self, *args: Any) -> Any:
        if any(isinstance(a, Symbol) for a in args):
            return self.function(*args)
        return self.plain(*args)


def _symbolic(name: str, plain: Callable[..., Any]) -> Callable[..., Any]:
    def call(*args: Any) -> Any:
        found = next((a for a in args if isinstance(a, Symbol)), None)
        return plain(*args) if found is None else _apply(found.builder, name, args)

    call.__name__ = name
    return call


class _SymbolicMath:
    """`math` functions that also take symbols."""


_MATH_NAMES = {
    "exp": "exp", "log": "log", "sqrt": "sqrt", "tanh": "tanh", "erf": "erf", "sin": "sin", "cos": "cos", "tan": "tan",
    "fabs": "absolute", "pow": "power", "atan": "arctan", "floor": "floor", "ceil": "ceil", "log1p": "log1p",
    "expm1": "expm1", "sinh": "sinh", "cosh": "cosh",
}  # fmt: skip
for _name, _ufunc in _MATH_NAMES.items():
    setattr(_SymbolicMath, _name, staticmethod(_symbolic(_ufunc, getattr(math, _name))))


class _Math(types.ModuleType):
    """`math` as the traced source sees it."""

    def __getattr__(self, name: str) -> Any:
        return getattr(_SymbolicMath, name) if name in _MATH_NAMES else getattr(math, name)


def _importer(builder: Builder) -> Callable[..., Any]:
    numpy, maths = _Numpy("numpy"), _Math("math")
    numpy.builder = builder

    def import_(name: str, globals: Any = None, locals: Any = None, fromlist: Any = (), level: int = 0) -> Any:
        known = {"numpy": numpy, "math": maths}.get(name)
        return known if known is not None else builtins.__import__(name, globals, locals, fromlist, level)

    return import_


def trace_reference(source: str, function: str, specs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Trace a NumPy reference into an operator graph.

    Args:
        source: Python source text that defines `function`.
        function: name of the reference; it takes the inputs by position.
        specs: one mapping an input with `name`, `shape` and `dtype`.

    Returns:
        The graph as JSON (`Graph.from_json` reads it).

    Raises:
        BeyondOffline: the reference does something that can't be traced or built.
        ValueError: the reference doesn't run on these shapes; the message carries its own error.
    """
    builder = Builder()
    namespace: dict[str, Any] = {
        "__name__": "reference", "__builtins__": {**vars(builtins), "__import__": _importer(builder)},
    }  # fmt: skip
    names: dict[int, str] = {}
    try:
        exec(compile(source, "<reference>", "exec"), namespace)
        target = namespace.get(function)
        if not callable(target):
            raise ValueError(f"the source defines no function {function!r}")
        symbols = [
            Symbol(builder, builder.input(i, str(s["name"]), [int(n) for n in s["shape"]], str(s["dtype"])))
            for i, s in enumerate(specs)
        ]
        for symbol, spec in zip(symbols, specs):
            if str(spec["dtype"]) in ("int32", "int64", "uint32", "uint64"):
                raise BeyondOffline(f"{spec['name']} holds {spec['dtype']}: exact integer arithmetic")
            symbol._boolean = str(spec["dtype"]).startswith("bool")
        sys.setprofile(_name_recorder(names))
        try:
            result = target(*symbols)
        finally:
            sys.setprofile(None)
    except (BeyondOffline, MemoryError, KeyboardInterrupt):
        raise
    except RecursionError as error:
        raise BeyondOffline("the reference recurses too deeply to trace") from error
    except Exception as error:
        raise ValueError(f"the reference failed on these shapes: {type(error).__name__}: {error}") from error
    returns_tuple = isinstance(result, tuple | list)
    results = list(result) if returns_tuple else [result]
    outputs = []
    for item in results:
        if not isinstance(item, Symbol):
            raise BeyondOffline("the reference returns something that doesn't depend on its inputs")
        outputs.append(item.id)
    if not outputs:
        raise BeyondOffline("the reference returns nothing")
    return builder.finish(outputs, returns_tuple, names).to_json()


def _name_recorder(names: dict[int, str]) -> Callable[[Any, str, Any], None]:
    """A profile hook that keeps the reference's own variable names for readable kernels."""

    def record(frame: Any, event: str, argument: Any) -> None:
        if event == "return" and frame.f_code.co_filename == "<reference>":
            for name, value in frame.f_locals.items():
                if isinstance(value, Symbol) and not isinstance(value, Assembly) and name.isidentifier():
                    names.setdefault(value.id, name)

    return record
