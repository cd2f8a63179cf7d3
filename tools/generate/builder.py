"""Builds operator graphs and simplifies them on the way: constants fold, idioms (sigmoid, gelu, rsqrt, ...) become one node.

Every `Builder` method returns a node id. Rules are local and exact in real arithmetic; none depends on sizes or names.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from tools.generate.errors import BeyondOffline
from tools.generate.graph import COMPARISONS, LOGICAL, Graph, Node

MAX_NODES = 4000
"""Operations after which a reference counts as a loop that a kernel shouldn't unroll."""
_RANK = {"float32": 3, "float64": 3, "bfloat16": 2, "float16": 2}
_SCALAR: dict[str, Callable[..., Any]] = {
    "add": lambda a, b: a + b, "subtract": lambda a, b: a - b, "multiply": lambda a, b: a * b, "maximum": max,
    "minimum": min, "equal": lambda a, b: a == b, "not_equal": lambda a, b: a != b, "greater": lambda a, b: a > b,
    "greater_equal": lambda a, b: a >= b, "less": lambda a, b: a < b, "less_equal": lambda a, b: a <= b,
    "logical_and": lambda a, b: bool(a) and bool(b), "logical_or": lambda a, b: bool(a) or bool(b),
    "logical_xor": lambda a, b: bool(a) != bool(b), "where": lambda c, a, b: a if c else b,
    "exp": math.exp, "log": math.log, "sqrt": math.sqrt, "rsqrt": lambda a: 1 / math.sqrt(a),
    "reciprocal": lambda a: 1 / a, "tanh": math.tanh, "abs": abs, "square": lambda a: a * a, "sin": math.sin,
    "cos": math.cos, "erf": math.erf, "arctan": math.atan, "floor": math.floor, "ceil": math.ceil, "trunc": math.trunc,
    "round": round, "sign": lambda a: (a > 0) - (a < 0), "logical_not": lambda a: not a, "relu": lambda a: max(a, 0),
    "sigmoid": lambda a: 1 / (1 + math.exp(-a)), "silu": lambda a: a / (1 + math.exp(-a)),
    "softplus": lambda a: math.log1p(math.exp(a)), "mish": lambda a: a * math.tanh(math.log1p(math.exp(a))),
}  # fmt: skip
_FLIPPED = {
    "equal": "equal", "not_equal": "not_equal", "greater": "less", "greater_equal": "less_equal", "less": "greater",
    "less_equal": "greater_equal",
}  # fmt: skip


def close(a: float, b: float, tolerance: float = 1e-4) -> bool:
    """Whether two constants of a reference mean the same number, such as a rounded sqrt(2 / pi)."""
    return math.isclose(a, b, rel_tol=tolerance)


class Builder:
    """A graph under construction."""

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self._known: dict[Any, int] = {}

    # -- leaves ------------------------------------------------------------------------------------------------------

    def input(self, index: int, name: str, shape: Sequence[int], dtype: str) -> int:
        """An argument of the reference."""
        return self._make("input", (), tuple(shape), {"index": index}, dtype, name)

    def constant(self, value: float, shape: Sequence[int] = ()) -> int:
        """A number, or an array full of it."""
        return self._make("constant", (), tuple(shape), {"value": float(value)})

    def iota(self, shape: Sequence[int], axis: int) -> int:
        """0, 1, 2, ... along `axis`; the other sizes are 1."""
        if shape[axis] == 1:
            return self.constant(0.0, shape)
        return self._make("iota", (), tuple(shape), {"axis": axis})

    def value(self, id: int) -> float | None:
        """The number that node `id` holds in every element, or None."""
        node = self.nodes[id]
        return float(node.attrs["value"]) if node.op == "constant" else None

    # -- element-wise ------------------------------------------------------------------------------------------------

    def elementwise(self, op: str, *args: int) -> int:
        """Apply `op` with NumPy broadcasting, simplifying first."""
        shape = self._broadcast(*args)
        values = [self.value(a) for a in args]
        if all(v is not None for v in values) and op in _SCALAR:
            try:
                return self.constant(float(_SCALAR[op](*values)), shape)
            except (ValueError, OverflowError, ZeroDivisionError) as error:
                raise BeyondOffline(
                    f"the constant expression {op}({', '.join(map(str, values))}) has no value"
                ) from error
        outside = self._behind_reshape(op, args)
        if outside is not None:
            return outside
        found = self._simplified(op, args)
        if found is not None:
            return self.broadcast(found, shape)
        return self._make(op, args, shape)

    def _simplified(self, op: str, args: tuple[int, ...]) -> int | None:
        """What a rule makes of `op(*args)`, or None when none applies."""
        if op in _RULES:
            return _RULES[op](self, *args)
        if op in COMPARISONS and self.value(args[0]) is not None:
            return self.elementwise(_FLIPPED[op], args[1], args[0])
        if op in LOGICAL and self.value(args[0]) is not None:
            return self.elementwise(op, args[1], args[0])
        return None

    def _behind_reshape(self, op: str, args: tuple[int, ...]) -> int | None:
        """op(reshape(x)) as reshape(op(x)), when every operand is a number, an input, or reshaped the same way."""
        nodes = [self.nodes[a] for a in args]
        moved = [
            n for n in nodes if n.op == "reshape" and self.nodes[n.inputs[0]].op not in ("input", "transpose", "slice")
        ]
        if not moved:
            return None
        shape, source = moved[0].shape, self.nodes[moved[0].inputs[0]].shape
        if (*shape, 1) != source:
            return None
        for n in nodes:
            plain = n.op == "constant" and n.size == 1
            if not plain and n.shape != shape:
                return None
        again = [a if n.op == "constant" else self.reshape(a, source) for a, n in zip(args, nodes)]
        return self.reshape(self.elementwise(op, *again), shape)

    def _broadcast(self, *args: int) -> tuple[int, ...]:
        return tuple(np.broadcast_shapes(*(self.nodes[a].shape for a in args)))

    def divide(self, a: int, b: int) -> int:
        """a / b: multiplies by a reciprocal, which engines have."""
        value = self.value(b)
        if value is not None:
            if value == 0:
                raise BeyondOffline("the reference divides by the constant 0")
            return self.elementwise("multiply", a, self.constant(1 / value, self.nodes[b].shape))
        return self.elementwise("multiply", a, self.elementwise("reciprocal", b))

    def power(self, a: int, b: int) -> int:
        """a ** b; a variable exponent is computed as exp(b * log(a)), for positive a."""
        base, exponent = self.value(a), self.value(b)
        if exponent is None:
            if base is None:
                return self.elementwise("exp", self.elementwise("multiply", b, self.elementwise("log", a)))
            if base <= 0:
                raise BeyondOffline(f"{base:g} to a variable power")
            return self.elementwise("exp", self.elementwise("multiply", b, self.constant(math.log(base))))
        direct = {0.5: "sqrt", -0.5: "rsqrt", -1.0: "reciprocal", 2.0: "square"}
        if exponent in direct:
            return self.broadcast(self.elementwise(direct[exponent], a), self._broadcast(a, b))
        if exponent == int(exponent) and abs(exponent) <= 16:
            return self.broadcast(self._integer_power(a, int(exponent)), self._broadcast(a, b))
        log = self.elementwise("log", a)
        return self.elementwise("exp", self.elementwise("multiply", log, b))

    def _integer_power(self, a: int, exponent: int) -> int:
        if exponent < 0:
            return self.elementwise("reciprocal", self._integer_power(a, -exponent))
        if exponent == 0:
            return self.constant(1.0, self.nodes[a].shape)
        if exponent == 1:
            return a
        half = self.elementwise("square", self._integer_power(a, exponent // 2)) if exponent > 1 else a
        return self.elementwise("multiply", half, a) if exponent % 2 else half

    def scaled(self, a: int, factor: float) -> int:
        """a times a constant."""
        return self.elementwise("multiply", a, self.constant(factor))

    def _join_constants(self, op: str, a: int, b: int) -> int | None:
        """Constants move right and join: (x op c1) op c2 becomes x op (c1 op c2)."""
        if self.value(a) is not None:
            return self.elementwise(op, b, a)
        right = self.value(b)
        node = self.nodes[a]
        if right is not None and node.op == op and (left := self.value(node.inputs[1])) is not None:
            return self.elementwise(op, node.inputs[0], self.constant(_SCALAR[op](left, right)))
        return None

    def _rule_add(self, a: int, b: int) -> int | None:
        if self.value(b) == 0:
            return a
        if self.value(a) == 0:
            return b
        if a == b:
            return self.scaled(a, 2.0)
        for x, y in ((a, b), (b, a)):
            node = self.nodes[y]
            if node.op == "multiply" and self.value(node.inputs[1]) == -1.0 and self.value(x) is None:
                return self.elementwise("subtract", x, node.inputs[0])
        return self._join_constants("add", a, b)

    def _rule_subtract(self, a: int, b: int) -> int | None:
        left, right = self.value(a), self.value(b)
        if right is not None:
            return self.elementwise("add", a, self.constant(-right, self.nodes[b].shape))
        if left is not None:
            return self.elementwise("add", self.scaled(b, -1.0), a)
        node = self.nodes[b]
        if node.op == "multiply" and self.value(node.inputs[1]) == -1.0:
            return self.elementwise("add", a, node.inputs[0])
        return None

    def _rule_multiply(self, a: int, b: int) -> int | None:
        if self.value(b) == 1:
            return a
        if self.value(a) == 1:
            return b
        if a == b:
            return self.elementwise("square", a)
        joined = self._join_constants("multiply", a, b)
        if joined is not None:
            return joined
        gated = self._gate(a, b)
        if gated is not None:
            return gated
        for x, y in ((a, b), (b, a)):  # a constant factor moves out, where it meets other constants
            node = self.nodes[x]
            if node.op == "multiply" and self.value(node.inputs[1]) is not None and self.value(y) is None:
                return self.elementwise("multiply", self.elementwise("multiply", node.inputs[0], y), node.inputs[1])
        return None

    def factors(self, id: int, depth: int = 6) -> tuple[float, list[int]]:
        """A product as its constant and its other factors (squares count twice)."""
        node = self.nodes[id]
        if node.op == "constant":
            return float(node.attrs["value"]), []
        if depth and node.op == "multiply":
            ca, fa = self.factors(node.inputs[0], depth - 1)
            cb, fb = self.factors(node.inputs[1], depth - 1)
            return ca * cb, fa + fb
        if depth and node.op == "square":
            c, f = self.factors(node.inputs[0], depth - 1)
            return c * c, f + f
        return 1.0, [id]

    def _gate(self, a: int, b: int) -> int | None:
        """x times a gate of x: silu, gelu, its tanh form, mish."""
        ca, fa = self.factors(a)
        cb, fb = self.factors(b)
        constant, found = ca * cb, fa + fb
        if len(found) > 8:
            return None
        for gate in found:
            node = self.nodes[gate]
            rest = list(found)
            rest.remove(gate)
            if node.op == "sigmoid" and node.inputs[0] in rest:
                rest.remove(node.inputs[0])
                return self._product(constant, [self.elementwise("silu", node.inputs[0]), *rest])
            if node.op == "tanh" and self.nodes[node.inputs[0]].op == "softplus":
                x = self.nodes[node.inputs[0]].inputs[0]
                if x in rest:
                    rest.remove(x)
                    return self._product(constant, [self.elementwise("mish", x), *rest])
            if node.op == "add" and self.value(node.inputs[1]) == 1.0:
                for x in dict.fromkeys(rest):
                    kind = self._gelu_gate(node.inputs[0], x)
                    if kind is not None:
                        rest.remove(x)
                        return self._product(2 * constant, [self.elementwise(kind, x), *rest])
        return None

    def _product(self, constant: float, found: list[int]) -> int:
        result = found[0]
        for other in found[1:]:
            result = self.elementwise("multiply", result, other)
        return self.scaled(result, constant)

    def _gelu_gate(self, id: int, x: int) -> str | None:
        """Which gelu x * (1 + node id) / 2 is."""
        node = self.nodes[id]
        if node.op == "erf":
            constant, found = self.factors(node.inputs[0])
            return "gelu" if found == [x] and close(constant, math.sqrt(0.5)) else None
        if node.op != "tanh":
            return None
        constant, found = self.factors(node.inputs[0])
        if len(found) == 1 and self.nodes[found[0]].op == "add" and close(constant, math.sqrt(2 / math.pi)):
            left, right = self.nodes[found[0]].inputs
            for u, v in ((left, right), (right, left)):
                c, cubic = self.factors(v)
                if u == x and cubic == [x, x, x] and close(c, 0.044715):
                    return "gelu_apprx_tanh"
        if len(found) == 2 and x in found and close(constant, math.sqrt(2 / math.pi)):
            other = self.nodes[found[1] if found[0] == x else found[0]]
            if other.op == "add" and self.value(other.inputs[1]) == 1.0:
                c, squared = self.factors(other.inputs[0])
                if squared == [x, x] and close(c, 0.044715):
                    return "gelu_apprx_tanh"
        return None

    def _rule_maximum(self, a: int, b: int) -> int | None:
        if self.value(a) is not None:
            return self.elementwise("maximum", b, a)
        if self.value(b) == 0:
            return self.elementwise("relu", a)
        return a if a == b else None

    def _rule_minimum(self, a: int, b: int) -> int | None:
        if self.value(a) is not None:
            return self.elementwise("minimum", b, a)
        return a if a == b else None

    def _rule_reciprocal(self, a: int) -> int | None:
        node = self.nodes[a]
        if node.op == "sqrt":
            return self.elementwise("rsqrt", node.inputs[0])
        if node.op == "rsqrt":
            return self.elementwise("sqrt", node.inputs[0])
        if node.op == "reciprocal":
            return node.inputs[0]
        if node.op == "multiply" and (c := self.value(node.inputs[1])) is not None and c != 0:
            return self.scaled(self.elementwise("reciprocal", node.inputs[0]), 1 / c)
        if node.op == "add" and self.value(node.inputs[1]) == 1.0 and self.nodes[node.inputs[0]].op == "exp":
            exponent = self.nodes[node.inputs[0]].inputs[0]
            return self.elementwise("sigmoid", self.scaled(exponent, -1.0))
        return None

    def _rule_log(self, a: int) -> int | None:
        node = self.nodes[a]
        if node.op == "add" and self.value(node.inputs[1]) == 1.0 and self.nodes[node.inputs[0]].op == "exp":
            return self.elementwise("softplus", self.nodes[node.inputs[0]].inputs[0])
        return None

    def _rule_square(self, a: int) -> int | None:
        node = self.nodes[a]
        if node.op == "abs":
            return self.elementwise("square", node.inputs[0])
        if node.op == "multiply" and (c := self.value(node.inputs[1])) is not None:
            return self.scaled(self.elementwise("square", node.inputs[0]), c * c)
        return None

    def _rule_where(self, condition: int, a: int, b: int) -> int | None:
        c = self.value(condition)
        if c is not None:
            return a if c else b
        if a == b:
            return a
        node = self.nodes[condition]
        if node.op in ("greater", "greater_equal") and self.value(node.inputs[1]) == 0:
            x = node.inputs[0]
            if a == x and self.value(b) == 0:
                return self.elementwise("relu", x)
            _, found = self.factors(b)
            slope, _ = self.factors(b)
            if a == x and found == [x] and 0 <= slope <= 1:  # leaky relu
                return self.elementwise("maximum", x, self.scaled(x, slope))
        return None

    # -- the rest ----------------------------------------------------------------------------------------------------

    def reduce(self, kind: str, a: int, axes: Sequence[int], keepdims: bool) -> int:
        """Reduce over any axes; the graph only reduces last axes, so others are moved there first."""
        node = self.nodes[a]
        rank = len(node.shape)
        axes = sorted({x % rank for x in axes}) if rank else []
        kept_shape = tuple(1 if i in axes else n for i, n in enumerate(node.shape))
        final = kept_shape if keepdims else tuple(n for i, n in enumerate(node.shape) if i not in axes)
        value = self.value(a)
        if value is not None:
            count = math.prod(node.shape[i] for i in axes)
            total = {"add": value * count, "multiply": value**count}.get(kind, value)
            return self.constant(total, final)
        if all(node.shape[i] == 1 for i in axes):
            return self.reshape(a, final)
        kept = [i for i in range(rank) if i not in axes]
        if kind == "add" and axes == list(range(len(axes))) and kept:
            rows, width = math.prod(node.shape[i] for i in axes), math.prod(node.shape[i] for i in kept)
            flat = self.reshape(a, (rows, width))
            if width > 1:  # sums down the partitions are a matmul by ones
                return self.reshape(self.matmul(self.constant(1.0, (1, rows)), flat), final)
        if not kept and rank > 1:
            row = self.reduce(kind, a, [rank - 1], True)
            return self.reshape(self._reduce_last(kind, self.reshape(row, (1, math.prod(node.lead)))), final)
        if kept + axes != list(range(rank)):
            a = self.transpose(a, [*kept, *axes])
        lead = tuple(node.shape[i] for i in kept)
        flat = self.reshape(a, (*lead, math.prod(node.shape[i] for i in axes)))
        return self.reshape(self._reduce_last(kind, flat), final)

    def _reduce_last(self, kind: str, a: int) -> int:
        node = self.nodes[a]
        if kind == "add" and node.op == "multiply":
            factor = self.value(node.inputs[1])
            if factor is not None:
                return self.scaled(self._reduce_last(kind, node.inputs[0]), factor)
        return self._make("reduce", (a,), (*node.lead, 1), {"kind": kind})

    def scan(self, kind: str, a: int, axis: int) -> int:
        """Running totals along any axis; the graph only scans last axes, so another is moved there and back."""
        node = self.nodes[a]
        rank = len(node.shape)
        axis %= rank
        if node.shape[axis] == 1:
            return a
        if axis == rank - 1:
            return self._make("scan", (a,), node.shape, {"kind": kind})
        order = [*(i for i in range(rank) if i != axis), axis]
        moved = self._make("scan", (self.transpose(a, order),), tuple(node.shape[i] for i in order), {"kind": kind})
        return self.transpose(moved, [order.index(i) for i in range(rank)])

    def matmul(self, a: int, b: int) -> int:
        """NumPy's `a @ b`, including vectors and broadcast batches."""
        left, right = self.nodes[a], self.nodes[b]
        if not left.shape or not right.shape:
            raise BeyondOffline("a matmul with a scalar operand")
        if len(left.shape) == 1 and len(right.shape) == 1:
            return self.reshape(self.matmul(self.reshape(a, (1, *left.shape)), self.reshape(b, (*right.shape, 1))), ())
        if len(left.shape) == 1:
            return self._squeeze(self.matmul(self.reshape(a, (1, *left.shape)), b), -2)
        if len(right.shape) == 1:
            return self._squeeze(self.matmul(a, self.reshape(b, (*right.shape, 1))), -1)
        if left.shape[-1] != right.shape[-2]:
            raise ValueError(f"matmul of {left.shape} by {right.shape}: {left.shape[-1]} != {right.shape[-2]}")
        lead = np.broadcast_shapes(left.shape[:-2], right.shape[:-2])
        for x, other in ((a, b), (b, a)):  # constant factors commute with a matmul
            node = self.nodes[x]
            if node.op == "multiply" and (c := self.value(node.inputs[1])) is not None:
                inner = self.matmul(node.inputs[0], other) if x == a else self.matmul(other, node.inputs[0])
                return self.scaled(inner, c)
        return self._make("matmul", (a, b), (*lead, left.shape[-2], right.shape[-1]))

    def _squeeze(self, a: int, axis: int) -> int:
        shape = list(self.nodes[a].shape)
        shape.pop(axis)
        return self.reshape(a, shape)

    def transpose(self, a: int, order: Sequence[int]) -> int:
        """Axes in another order."""
        node = self.nodes[a]
        order = [i % len(node.shape) for i in order]
        if list(order) == sorted(order):
            return a
        shape = tuple(node.shape[i] for i in order)
        if node.op == "constant":
            return self.constant(float(node.attrs["value"]), shape)
        if node.op == "transpose":
            return self.transpose(node.inputs[0], [node.attrs["order"][i] for i in order])
        moved = [i for i in order if node.shape[i] != 1]
        if moved == sorted(moved):  # only axes of size 1 move
            return self.reshape(a, shape)
        return self._make("transpose", (a,), shape, {"order": list(order)})

    def reshape(self, a: int, shape: Sequence[int]) -> int:
        """Same elements, other sizes."""
        node = self.nodes[a]
        shape = tuple(int(n) for n in shape)
        if shape == node.shape:
            return a
        if node.op == "constant":
            return self.constant(float(node.attrs["value"]), shape)
        if node.op == "reshape":
            return self.reshape(node.inputs[0], shape)
        if node.op == "iota" and sum(n != 1 for n in shape) == 1:
            return self.iota(shape, next(i for i, n in enumerate(shape) if n != 1))
        return self._make("reshape", (a,), shape)

    def broadcast(self, a: int, shape: Sequence[int]) -> int:
        """Sizes of 1 repeated to `shape`."""
        node = self.nodes[a]
        shape = tuple(shape)
        if shape == node.shape:
            return a
        if node.op == "constant":
            return self.constant(float(node.attrs["value"]), shape)
        if node.op == "broadcast":
            return self.broadcast(node.inputs[0], shape)
        return self._make("broadcast", (a,), shape)

    def slice(self, a: int, starts: Sequence[int], stops: Sequence[int], steps: Sequence[int]) -> int:
        """A basic slice with positive steps; one (start, stop, step) an axis."""
        node = self.nodes[a]
        shape = tuple(len(range(i, j, k)) for i, j, k in zip(starts, stops, steps))
        if shape == node.shape:
            return a
        if 0 in shape:
            raise BeyondOffline("an empty slice")
        if node.op == "constant":
            return self.constant(float(node.attrs["value"]), shape)
        attrs = {"starts": list(starts), "stops": list(stops), "steps": list(steps)}
        return self._make("slice", (a,), shape, attrs)

    def concat(self, parts: Sequence[int], axis: int) -> int:
        """Arrays joined along `axis`."""
        first = self.nodes[parts[0]].shape
        axis %= len(first)
        total = sum(self.nodes[p].shape[axis] for p in parts)
        if len(parts) == 1:
            return parts[0]
        return self._make("concat", tuple(parts), (*first[:axis], total, *first[axis + 1 :]), {"axis": axis})

    def _make(
        self,
        op: str,
        inputs: tuple[int, ...],
        shape: tuple[int, ...],
        attrs: Mapping[str, Any] | None = None,
        dtype: str = "",
        name: str = "",
    ) -> int:
        attrs = dict(attrs or {})
        key = (op, inputs, shape, repr(sorted(attrs.items())), name)
        found = self._known.get(key)
        if found is not None:
            return found
        if len(self.nodes) >= MAX_NODES:
            raise BeyondOffline(f"a reference of more than {MAX_NODES} operations (a loop over rows or steps, perhaps)")
        if not dtype:
            dtype = max((self.nodes[i].dtype for i in inputs), key=lambda d: _RANK.get(d, 1 if d else 0), default="")
        node = Node(len(self.nodes), op, inputs, shape, dtype, attrs, name)
        self.nodes.append(node)
        self._known[key] = node.id
        return node.id

    def finish(self, outputs: Sequence[int], returns_tuple: bool, names: Mapping[int, str] | None = None) -> Graph:
        """The graph of everything that `outputs` need (all inputs stay), renumbered."""
        names = names or {}
        needed: set[int] = set()
        stack = list(outputs)
        while stack:
            id = stack.pop()
            if id not in needed:
                needed.add(id)
                stack.extend(self.nodes[id].inputs)
        kept = [n for n in self.nodes if n.id in needed or n.op == "input"]
        new = {n.id: i for i, n in enumerate(kept)}
        nodes = tuple(
            Node(
                new[n.id],
                n.op,
                tuple(new[i] for i in n.inputs),
                n.shape,
                n.dtype,
                n.attrs,
                n.name or names.get(n.id, ""),
            )
            for n in kept
        )
        return Graph(nodes, tuple(new[i] for i in outputs), returns_tuple)


_RULES: dict[str, Callable[..., int | None]] = {
    "add": Builder._rule_add, "subtract": Builder._rule_subtract, "multiply": Builder._rule_multiply,
    "maximum": Builder._rule_maximum, "minimum": Builder._rule_minimum, "reciprocal": Builder._rule_reciprocal,
    "log": Builder._rule_log, "square": Builder._rule_square, "where": Builder._rule_where,
}  # fmt: skip
