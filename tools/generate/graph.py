"""The operator graph: what a reference computes, independent of how a kernel will do it.

Shapes follow NumPy. Values are real numbers; types matter only at inputs, outputs and matmul operands. A graph is made
by `builder.Builder`, which simplifies while it builds, and crosses process borders as JSON.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

UNARY = (
    "exp", "log", "sqrt", "rsqrt", "reciprocal", "tanh", "sigmoid", "silu", "gelu", "gelu_apprx_tanh", "erf", "relu", "abs",
    "square", "sign", "sin", "cos", "arctan", "softplus", "mish", "round", "floor", "ceil", "trunc", "logical_not",
)  # fmt: skip
COMPARISONS = ("equal", "not_equal", "greater", "greater_equal", "less", "less_equal")
LOGICAL = ("logical_and", "logical_or", "logical_xor")
BINARY = ("add", "subtract", "multiply", "maximum", "minimum", *COMPARISONS, *LOGICAL)
ELEMENTWISE = (*UNARY, *BINARY, "where")
REDUCTIONS = ("add", "maximum", "minimum", "multiply")


@dataclass(frozen=True, slots=True)
class Node:
    """One operator application.

    Attributes:
        id: position in the graph; operands have smaller ids.
        op: `input`, `constant`, `iota` (each element's place along one axis), an element-wise operator, `reduce` (over the last
            axis, which stays with size 1), `scan` (running totals along the last axis), `matmul`, `transpose`, `reshape`,
            `broadcast`, `slice` or `concat`.
        attrs: `constant`: value; `input`: index; `iota`, `concat`: axis; `reduce`, `scan`: kind; `transpose`: order; `slice`:
            starts, stops, steps.
        dtype: storage type (inputs), else the widest type among the inputs that reach this node.
        name: a readable name, from the reference's own variables where there is one.
    """

    id: int
    op: str
    inputs: tuple[int, ...]
    shape: tuple[int, ...]
    dtype: str
    attrs: Mapping[str, Any] = field(default_factory=dict)
    name: str = ""

    @property
    def width(self) -> int:
        """Size of the last axis (1 for scalars)."""
        return self.shape[-1] if self.shape else 1

    @property
    def lead(self) -> tuple[int, ...]:
        """Sizes of all axes but the last."""
        return self.shape[:-1]

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True)
class Graph:
    """Nodes in topological order, and which of them are results.

    Attributes:
        nodes: node `i` has id `i`.
        outputs: ids of the results, in the order that the reference returns them.
        returns_tuple: whether the reference returned a tuple.
    """

    nodes: tuple[Node, ...]
    outputs: tuple[int, ...]
    returns_tuple: bool = False

    def __getitem__(self, id: int) -> Node:
        return self.nodes[id]

    def __iter__(self) -> Iterator[Node]:
        return iter(self.nodes)

    @property
    def inputs(self) -> tuple[Node, ...]:
        """The input nodes in argument order (also those that no result needs)."""
        found = [n for n in self.nodes if n.op == "input"]
        return tuple(sorted(found, key=lambda n: int(n.attrs["index"])))

    def users(self) -> dict[int, list[int]]:
        """For each node the ids of the nodes that read it."""
        result: dict[int, list[int]] = {n.id: [] for n in self.nodes}
        for node in self.nodes:
            for i in node.inputs:
                result[i].append(node.id)
        return result

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; `Graph.from_json` reads them back."""
        return {
            "nodes": [
                {
                    "op": n.op, "inputs": list(n.inputs), "shape": list(n.shape), "dtype": n.dtype,
                    "attrs": dict(n.attrs), "name": n.name,
                }
                for n in self.nodes
            ],
            "outputs": list(self.outputs),
            "returns_tuple": self.returns_tuple,
        }  # fmt: skip

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Graph:
        """The graph that `to_json` described.

        Raises:
            ValueError: an operand refers to a later node, or an operator is unknown.
        """
        nodes = []
        known = {
            *ELEMENTWISE,
            "input",
            "constant",
            "iota",
            "reduce",
            "scan",
            "matmul",
            "transpose",
            "reshape",
            "broadcast",
            "slice",
            "concat",
        }
        for i, n in enumerate(data["nodes"]):
            inputs = tuple(int(j) for j in n["inputs"])
            if n["op"] not in known or any(not 0 <= j < i for j in inputs):
                raise ValueError(f"node {i} of the operator graph is malformed")
            nodes.append(
                Node(i, n["op"], inputs, tuple(int(s) for s in n["shape"]), n["dtype"], dict(n["attrs"]), n["name"])
            )
        return cls(tuple(nodes), tuple(int(i) for i in data["outputs"]), bool(data["returns_tuple"]))


_NUMPY: dict[str, Any] = {
    "exp": np.exp, "log": np.log, "sqrt": np.sqrt, "rsqrt": lambda x: 1 / np.sqrt(x), "reciprocal": lambda x: 1 / x,
    "tanh": np.tanh, "sigmoid": lambda x: 1 / (1 + np.exp(-x)), "silu": lambda x: x / (1 + np.exp(-x)),
    "gelu": lambda x: 0.5 * x * (1 + _erf(x / math.sqrt(2))),
    "gelu_apprx_tanh": lambda x: 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    "erf": lambda x: _erf(x), "relu": lambda x: np.maximum(x, 0), "abs": np.abs, "square": np.square, "sign": np.sign,
    "sin": np.sin, "cos": np.cos, "arctan": np.arctan, "softplus": lambda x: np.logaddexp(x, 0),
    "mish": lambda x: x * np.tanh(np.logaddexp(x, 0)), "round": np.round, "floor": np.floor, "ceil": np.ceil,
    "trunc": np.trunc, "logical_not": np.logical_not, "add": np.add, "subtract": np.subtract, "multiply": np.multiply,
    "maximum": np.maximum, "minimum": np.minimum, "equal": np.equal, "not_equal": np.not_equal, "greater": np.greater,
    "greater_equal": np.greater_equal, "less": np.less, "less_equal": np.less_equal, "logical_and": np.logical_and,
    "logical_or": np.logical_or, "logical_xor": np.logical_xor, "where": np.where,
}  # fmt: skip


def _erf(x: NDArray[Any]) -> NDArray[Any]:
    return np.vectorize(math.erf, otypes=[np.float64])(x)


def evaluate(graph: Graph, arrays: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
    """The graph's results in float64: an oracle for tests and for checking rewrites.

    Args:
        graph: any graph.
        arrays: one array per graph input, in order.
    """
    values: list[NDArray[Any]] = []
    for node in graph:
        args = [values[i] for i in node.inputs]
        if node.op == "input":
            value = np.asarray(arrays[int(node.attrs["index"])]).astype(np.float64)
        elif node.op == "constant":
            value = np.full(node.shape, float(node.attrs["value"]))
        elif node.op == "reduce":
            value = getattr(np, str(node.attrs["kind"])).reduce(args[0], axis=-1, keepdims=True)
        elif node.op == "iota":
            sizes = [n if i == int(node.attrs["axis"]) else 1 for i, n in enumerate(node.shape)]
            value = np.arange(max(sizes), dtype=np.float64).reshape(sizes)
        elif node.op == "scan":
            value = getattr(np, str(node.attrs["kind"])).accumulate(args[0], axis=-1)
        elif node.op == "matmul":
            value = args[0] @ args[1]
        elif node.op == "transpose":
            value = args[0].transpose(node.attrs["order"])
        elif node.op == "reshape":
            value = args[0].reshape(node.shape)
        elif node.op == "broadcast":
            value = np.broadcast_to(args[0], node.shape)
        elif node.op == "slice":
            steps = zip(node.attrs["starts"], node.attrs["stops"], node.attrs["steps"])
            value = args[0][tuple(slice(a, b, c) for a, b, c in steps)]
        elif node.op == "concat":
            value = np.concatenate(args, axis=int(node.attrs["axis"]))
        else:
            value = np.asarray(_NUMPY[node.op](*args))
        values.append(value)
    return [values[i] for i in graph.outputs]
