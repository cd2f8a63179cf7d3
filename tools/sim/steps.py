"""What recorded instructions mean for values: an operation on operands of some form, whichever bytes those are.

Instructions that differ only in which bytes they touch share one `Step`, so that equal work is told by identity.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from tools.sim.dtypes import DType
from tools.sim.instruction import Opcode
from tools.sim.isa.enums import reduce_cmd
from tools.sim.isa.ops import Activation, AluOp
from tools.sim.tensor import Tensor

_PLAIN = frozenset({type(None), bool, int, str})
"""Kinds of parameters that are told by their value."""
_LASTING = frozenset({AluOp, Activation, reduce_cmd})
"""Kinds whose objects last as long as the program: told by identity."""


class Form:
    """Shape, strides (elements) and type of an operand."""

    __slots__ = ("dtype", "ndim", "shape", "size", "strides")

    def __init__(self, shape: tuple[int, ...], strides: tuple[int, ...], dtype: DType) -> None:
        self.shape = shape
        self.strides = strides
        self.dtype = dtype
        self.ndim = len(shape)
        self.size = prod(shape)


@dataclass(slots=True, eq=False)
class Step:
    """One operation.

    Attributes:
        number: its place in the table.
        op: the instruction's opcode.
        outs, ins: forms of its operands.
        params: keyword arguments of the opcode's meaning that aren't tensors.
        tensors: the others: name and which operand (outputs first) it is.
    """

    number: int
    op: Opcode
    outs: tuple[Form, ...]
    ins: tuple[Form, ...]
    params: dict[str, Any]
    tensors: tuple[tuple[str, int], ...]


class StepTable:
    """The different steps of a launch."""

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self._known: dict[Any, Step] = {}
        self._forms: dict[Any, Form] = {}

    def find(
        self, op: Opcode, outs: tuple[Tensor, ...], ins: tuple[Tensor, ...], params: dict[str, Any] | None
    ) -> Step | None:
        """The step of an instruction; None when a parameter holds data that a record can't keep."""
        key: list[Any] = [op.code, len(outs)]
        for tensor in outs:
            key += (tensor.shape, tensor.strides, tensor.dtype.code)
        for tensor in ins:
            key += (tensor.shape, tensor.strides, tensor.dtype.code)
        if params:
            key.append(tuple(params))
            for value in params.values():
                kind = type(value)
                if kind in _PLAIN:
                    key += (kind, value)
                elif kind in _LASTING:
                    key.append(id(value))
                elif isinstance(value, Tensor):
                    key += (Tensor, _position((*outs, *ins), value))
                else:
                    known = _key(value)
                    if known is None:
                        return None
                    key.append(known)
        whole = tuple(key)
        found = self._known.get(whole)
        return found if found is not None else self._add(whole, op, outs, ins, params or {})

    def _add(
        self, key: Any, op: Opcode, outs: tuple[Tensor, ...], ins: tuple[Tensor, ...], params: dict[str, Any]
    ) -> Step | None:
        operands = (*outs, *ins)
        tensors = tuple((name, _position(operands, v)) for name, v in params.items() if isinstance(v, Tensor))
        if any(position < 0 for _, position in tensors):
            return None
        made = Step(
            len(self.steps),
            op,
            tuple(self._form(t) for t in outs),
            tuple(self._form(t) for t in ins),
            {name: _kept(v) for name, v in params.items() if not isinstance(v, Tensor)},
            tensors,
        )
        self.steps.append(made)
        self._known[key] = made
        return made

    def _form(self, tensor: Tensor) -> Form:
        key = (tensor.shape, tensor.strides, tensor.dtype.code)
        found = self._forms.get(key)
        if found is None:
            found = self._forms[key] = Form(tensor.shape, tensor.strides, tensor.dtype)
        return found


def _position(operands: tuple[Tensor, ...], value: Tensor) -> int:
    """Which operand a parameter is; -1 for none of them."""
    for position, tensor in enumerate(operands):
        if tensor is value:
            return position
    return -1


def _key(value: Any) -> Any:
    """What tells a parameter from others; None for one that holds arrays or tensors.

    Objects of other kinds (operators, functions, enum members) are told by identity; their step keeps them alive.
    """
    kind = type(value)
    if kind is float:
        return (kind, value or str(value))  # 0.0 == -0.0
    if isinstance(value, np.generic):
        return (kind, value.tobytes())
    if isinstance(value, tuple | list):
        parts = tuple(_key(part) for part in value)
        return None if None in parts else (kind, parts)
    if isinstance(value, np.ndarray | Tensor | dict | set):
        return None
    if isinstance(value, bool | int | str):
        return (kind, value)
    return (kind, id(value))


def _kept(value: Any) -> Any:
    """A parameter as it is now, whatever the kernel does to its lists afterwards."""
    return [_kept(part) for part in value] if isinstance(value, list) else value
