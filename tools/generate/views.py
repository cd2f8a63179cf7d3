"""How a value lies in HBM: strided views of a tensor, and the loop nest that walks several of them together."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import as_strided


@dataclass(frozen=True, slots=True)
class View:
    """A strided window on an HBM tensor.

    Attributes:
        tensor: key of the tensor (the graph node whose value it holds).
        shape, strides: sizes and steps in elements; a step of 0 repeats.
        offset: first element.
    """

    tensor: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int = 0

    @classmethod
    def whole(cls, tensor: int, shape: Sequence[int]) -> View:
        """All of a contiguous tensor."""
        return cls(tensor, tuple(shape), contiguous(shape))

    def transpose(self, order: Sequence[int]) -> View:
        """Axes in another order."""
        return View(
            self.tensor, tuple(self.shape[i] for i in order), tuple(self.strides[i] for i in order), self.offset
        )

    def slice(self, starts: Sequence[int], stops: Sequence[int], steps: Sequence[int]) -> View:
        """A part, one (start, stop, step) an axis."""
        shape = tuple(len(range(a, b, c)) for a, b, c in zip(starts, stops, steps))
        offset = self.offset + sum(a * s for a, s in zip(starts, self.strides))
        return View(self.tensor, shape, tuple(s * c for s, c in zip(self.strides, steps)), offset)

    def broadcast(self, shape: Sequence[int]) -> View:
        """Axes of size 1 repeated; missing axes are added in front."""
        grown = len(shape) - len(self.shape)
        old, steps = (1,) * grown + self.shape, (0,) * grown + self.strides
        strides = tuple(0 if a == 1 and b != 1 else s for a, b, s in zip(old, shape, steps))
        return View(self.tensor, tuple(shape), strides, self.offset)

    def reshape(self, shape: Sequence[int]) -> View | None:
        """Other sizes over the same elements, or None when that needs a copy."""
        dummy = as_strided(np.empty(1, np.int8), self.shape, self.strides)
        try:
            moved = np.reshape(dummy, tuple(shape), copy=False)
        except ValueError:
            return None
        return View(self.tensor, tuple(shape), tuple(int(s) for s in moved.strides), self.offset)


def contiguous(shape: Sequence[int]) -> tuple[int, ...]:
    """Row-major strides in elements."""
    strides, run = [], 1
    for n in reversed(shape):
        strides.append(run)
        run *= n
    return tuple(reversed(strides))


@dataclass(frozen=True, slots=True)
class Nest:
    """The leading axes of a stage, merged as far as all its operands allow.

    Attributes:
        sizes: loop sizes, outermost first; the last is the one that runs along partitions.
        strides: per operand the step of each loop in elements.
    """

    sizes: tuple[int, ...]
    strides: tuple[tuple[int, ...], ...]

    @property
    def rows(self) -> int:
        """Size of the partition loop."""
        return self.sizes[-1]

    @property
    def batch(self) -> tuple[int, ...]:
        """Sizes of the outer loops."""
        return self.sizes[:-1]


def merge(lead: Sequence[int], operands: Sequence[Sequence[int]], last_is_rows: bool) -> Nest:
    """Merge leading axes that every operand walks as one.

    Args:
        lead: sizes of the leading axes.
        operands: per operand its strides along them (0: repeats).
        last_is_rows: keep the last axis on partitions; otherwise the largest goes there.
    """
    axes = [i for i, n in enumerate(lead) if n != 1]
    sizes: list[int] = []
    steps: list[list[int]] = [[] for _ in operands]
    for i in axes:
        joins = bool(sizes) and all(s[-1] == o[i] * lead[i] for s, o in zip(steps, operands))
        if joins:
            sizes[-1] *= lead[i]
            for s, o in zip(steps, operands):
                s[-1] = o[i]
        else:
            sizes.append(lead[i])
            for s, o in zip(steps, operands):
                s.append(o[i])
    if last_is_rows and lead and lead[-1] == 1 and sizes:
        sizes.append(1)
        for s in steps:
            s.append(0)
    if not sizes:
        sizes = [1]
        steps = [[0] for _ in operands]
    if not last_is_rows:
        largest = max(range(len(sizes)), key=lambda i: (min(sizes[i], 128), i))
        sizes.append(sizes.pop(largest))
        for s in steps:
            s.append(s.pop(largest))
    return Nest(tuple(sizes), tuple(tuple(s) for s in steps))


def elements(shape: Sequence[int]) -> int:
    """Number of elements of a shape."""
    return math.prod(shape)
