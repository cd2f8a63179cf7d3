"""Masks of Beta 1: comparisons of affine indices joined by `&`, resolved to a smaller rectangle where possible.

The hardware never sees a mask: the compiler issues the instruction on a smaller tile. So a mask is resolved first, to
nothing, everything, or a box; only a mask that is no box falls back to elementwise predication.
"""

from __future__ import annotations

import dis
import sys
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from tools.sim import context

if TYPE_CHECKING:
    from tools.sim.frontend.beta1.index import Index

Box = tuple[tuple[int, int], ...]
"""[start, stop) per axis."""
Chosen = NDArray[np.bool_]


class Mask:
    """A predicate over positions.

    Attributes:
        terms: (affine index, comparison with 0) pairs, all of which must hold.
        shape: axes that the indices span.
        values: further condition as an array of `shape`, or None.
    """

    __slots__ = ("shape", "terms", "values")
    __array_ufunc__ = None
    FLOAT: ClassVar[dict[str, Callable[..., Any]]] = {
        "greater_equal": np.greater_equal,
        "greater": np.greater,
        "less_equal": np.less_equal,
        "less": np.less,
        "equal": np.equal,
        "not_equal": np.not_equal,
    }

    def __init__(
        self, terms: tuple[tuple[Index, str], ...], shape: tuple[int, ...], values: Chosen | None = None
    ) -> None:
        self.terms = terms
        self.shape = shape
        self.values = values

    def array(self) -> Chosen:
        """The predicate at every position of `shape`."""
        chosen = np.ones(self.shape, np.bool_) if self.values is None else np.broadcast_to(self.values, self.shape)
        for index, operator in self.terms:
            chosen = chosen & self.FLOAT[operator](index.array(), 0)
        return np.asarray(chosen)

    def __and__(self, other: Any) -> Any:
        if isinstance(other, Mask):
            shape = np.broadcast_shapes(self.shape, other.shape)
            values = self.values
            if other.values is not None:
                values = other.values if values is None else values & other.values
            return Mask(self.terms + other.terms, shape, values)
        if isinstance(other, bool | int | np.bool_):
            not_affine()
            return self if other else False
        return NotImplemented

    __rand__ = __and__

    def __or__(self, other: Any) -> Any:
        if isinstance(other, Mask):
            values = self.array() | other.array()
            return Mask((), values.shape, values)
        if isinstance(other, bool | int | np.bool_):
            not_affine()
            return True if other else self
        return NotImplemented

    __ror__ = __or__

    def __invert__(self) -> Mask:
        return Mask((), self.shape, ~self.array())

    def __bool__(self) -> bool:
        frame = sys._getframe(1)
        core = context.find()
        if core is not None and not core.options.strict and _gives_and(frame):
            context.warn(
                "KW-MASK-AND",
                "masks are joined with `and`, which keeps only the last of them",
                operand="mask",
                fix="join masks with &",
            )
            return True
        context.fail(
            "KW-INDEX-TRUTH",
            "a condition depends on nl.arange, whose elements have no single truth value "
            "(err_control_flow_condition_depending_on_arange)",
            fix="join masks with & instead of `and`; use them as mask= of an instruction",
        )


def _gives_and(frame: FrameType) -> bool:
    """Whether a frame asks for a truth value for `a and b` as a value, not as a condition: Beta 1 took its last operand.

    Python 3.11 has an instruction for that; later ones copy the operand, test the copy and jump.
    """
    code, at = frame.f_code.co_code, frame.f_lasti
    if dis.opname[code[at]] == "JUMP_IF_FALSE_OR_POP":
        return True
    jump = next(name for name in (dis.opname[op] for op in code[at::2]) if name not in ("TO_BOOL", "CACHE"))
    return jump == "POP_JUMP_IF_FALSE" and dis.opname[code[at - 2]] == "COPY"


def not_affine() -> None:
    """Tell the recorder of loops that a condition was decided that needn't hold on an interval of iterations."""
    core = context.find()
    if core is not None and core.recorder is not None:
        core.recorder.taint()


EMPTY: Box = ()
"""Nothing is chosen."""


def resolve(mask: Any, shape: tuple[int, ...]) -> Box | Chosen | None:
    """What `mask` chooses of a tile of `shape`: None for all of it, EMPTY, a box, or an array of truth values."""
    if mask is None or mask is True:
        return None
    if not isinstance(mask, Mask):
        if isinstance(mask, bool | int | np.bool_ | np.integer):
            not_affine()
            return None if mask else EMPTY
        context.fail(
            "KW-MASK-EXPRESSION",
            f"mask is {type(mask).__name__}; it must compare affine expressions of indices "
            "(err_unsupported_expression_in_mask)",
            operand="mask",
            fix="build it from nl.arange or nl.mgrid indices, joined with &",
        )
    lows = [0] * len(shape)
    highs = list(shape)
    slanted: list[tuple[tuple[int, ...], int]] = []
    general = mask.values is not None
    if general:
        not_affine()
    for index, operator in mask.terms:
        steps = aligned(index.steps, index.shape, shape)
        offset = index.offset
        if operator in ("less", "less_equal"):
            steps, offset = tuple([-s for s in steps]), -offset
        if operator in ("greater", "less"):
            offset -= 1
        axes = [axis for axis, step in enumerate(steps) if step]
        if operator in ("equal", "not_equal"):
            not_affine()
            verdict = _equality(axes, steps, offset, operator, lows, highs)
            if verdict is None:
                general = True
            elif not verdict:
                return EMPTY
        elif not axes:
            if offset < 0:
                return EMPTY
        elif len(axes) == 1:
            axis, step = axes[0], steps[axes[0]]
            if step not in (1, -1):
                not_affine()  # a bound that is rounded
            if step > 0:
                lows[axis] = max(lows[axis], -(offset // step))
            else:
                highs[axis] = min(highs[axis], offset // -step + 1)
        else:
            slanted.append((steps, offset))
    if any(low >= high for low, high in zip(lows, highs)):
        return EMPTY
    for steps, offset in slanted:
        least = offset + sum(s * (lows[a] if s > 0 else highs[a] - 1) for a, s in enumerate(steps))
        most = offset + sum(s * (highs[a] - 1 if s > 0 else lows[a]) for a, s in enumerate(steps))
        if most < 0:
            return EMPTY
        general |= least < 0
    if general:
        chosen = _array_of(mask, shape)
        if not chosen.any():
            return EMPTY
        return None if chosen.all() else _as_box(chosen)
    if all(low == 0 and high == n for low, high, n in zip(lows, highs, shape)):
        return None
    return tuple(zip(lows, highs))


def _as_box(chosen: Chosen) -> Box | Chosen:
    """The box that the chosen elements fill, if they fill one: `(i < n) | (j < 0)`."""
    box = []
    for axis in range(chosen.ndim):
        found = np.flatnonzero(chosen.any(axis=tuple(a for a in range(chosen.ndim) if a != axis)))
        box.append((int(found[0]), int(found[-1]) + 1))
    return tuple(box) if chosen[tuple(slice(*span) for span in box)].all() else chosen


def _equality(
    axes: list[int], steps: tuple[int, ...], offset: int, operator: str, lows: list[int], highs: list[int]
) -> bool | None:
    """Apply `index == 0` or `!= 0`: True if it holds within the (shrunk) box, False if nowhere, None if undecided."""
    equal = operator == "equal"
    if not axes:
        return (offset == 0) == equal
    if len(axes) > 1:
        return None
    axis, step = axes[0], steps[axes[0]]
    at, rest = divmod(-offset, step)
    if rest or not lows[axis] <= at < highs[axis]:
        return not equal
    if equal:
        lows[axis], highs[axis] = at, at + 1
        return True
    if at == lows[axis]:
        lows[axis] += 1
        return True
    if at == highs[axis] - 1:
        highs[axis] -= 1
        return True
    return None


def aligned(steps: tuple[int, ...], own: tuple[int, ...], shape: tuple[int, ...]) -> tuple[int, ...]:
    """Steps of an index seen over a tile of `shape`: axis 0 is the partition of both."""
    steps = tuple([0 if n == 1 else s for n, s in zip(own, steps)])
    grown = len(shape) - len(steps)
    if grown == 0:
        return steps
    if grown > 0:
        return steps + (0,) * grown
    kept = [s for s, n in zip(steps, own) if n != 1]
    if len(kept) <= len(shape) and all(n == 1 for n in own[len(shape) :]):
        return steps[: len(shape)]
    if len(kept) == len(shape):
        return tuple(kept)
    context.fail(
        "KW-MASK-SHAPE",
        f"a mask over {list(own)} doesn't fit a tile of shape {list(shape)}",
        operand="mask",
        found=list(own),
        limit=list(shape),
        fix="build the mask from indices with the tile's own axes",
    )


def _array_of(mask: Mask, shape: tuple[int, ...]) -> Chosen:
    chosen = mask.array()
    if chosen.ndim < len(shape):
        chosen = chosen.reshape(chosen.shape + (1,) * (len(shape) - chosen.ndim))
    while chosen.ndim > len(shape) and 1 in chosen.shape:
        chosen = chosen.squeeze(len(chosen.shape) - 1 - chosen.shape[::-1].index(1))
    if chosen.ndim == len(shape):
        # a mask may be padded beyond the tile that it is applied to
        chosen = chosen[tuple(slice(0, n) for n in shape)]
    try:
        return np.array(np.broadcast_to(chosen, shape))
    except ValueError:
        context.fail(
            "KW-MASK-SHAPE",
            f"a mask over {list(mask.shape)} doesn't fit a tile of shape {list(shape)}",
            operand="mask",
            found=list(mask.shape),
            limit=list(shape),
            fix="build the mask from indices with the tile's own axes",
        )
