"""Formulas: what the words of a request add up to, before tensors are found for them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from tools.generate.lexicon import Arity

NodeKind = Literal["op", "name", "loose", "it", "begin", "fit", "number", "expression"]
ALL = "all"


@dataclass(frozen=True, slots=True)
class Options:
    """What a phrase says about its operator beside the operands.

    Attributes:
        axis: `row`, `column`, `all`, a number as text, or empty where the words name none.
        gain, shift: tensors of a norm, as nodes; `fit` nodes where the words give no name.
    """

    axis: str = ""
    keepdims: bool = False
    eps: float | None = None
    alpha: float | None = None
    temperature: float | None = None
    scale: float | None = None
    heads: int = 0
    count: int = 0
    causal: bool = False
    elementwise: bool = False
    low: float | None = None
    high: float | None = None
    gain: Node | None = None
    shift: Node | None = None


@dataclass(frozen=True, slots=True)
class Node:
    """A formula.

    Attributes:
        kind: an operator's application, a tensor by name or by position, the running result, the tensor that the sentence
            begins with, a tensor that must fit, a number or a Python expression.
        key: operator, name, role or text.
    """

    kind: NodeKind
    key: str = ""
    arity: Arity | Literal[""] = ""
    args: tuple[Node, ...] = ()
    number: float = 0.0
    options: Options = field(default_factory=Options)

    def has(self, kind: str) -> bool:
        """Whether a node of this kind stands anywhere inside."""
        return self.kind == kind or any(a.has(kind) for a in self.args)


IT, BEGIN = Node("it"), Node("begin")
IMPLIED = Node("begin", "implied")
"""What an operand's operator works on when the words don't say: the other operand, or what the sentence begins with."""


def fit(role: str) -> Node:
    """A tensor that no name tells: the one that fits."""
    return Node("fit", role)


def substituted(node: Node, old: Node, new: Node) -> Node:
    """A formula with one part replaced by another."""
    if node == old:
        return new
    return replace(node, args=tuple(substituted(a, old, new) for a in node.args)) if node.args else node
