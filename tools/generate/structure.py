"""Constant arrays with a pattern: places, progressions and bands along a diagonal, which engines count out instead of loading."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tools.generate.builder import Builder


def structured(builder: Builder, array: NDArray[Any]) -> int | None:
    """The node that computes a constant array, or None where no pattern is known.

    Known are arithmetic progressions along one axis (np.arange, np.linspace) and arrays of two values that meet at a diagonal
    of two axes (np.tril, np.triu, np.eye and comparisons of ranges), such as causal masks.

    Args:
        builder: where the node is made.
        array: numbers or truth values.
    """
    axes = [i for i, n in enumerate(array.shape) if n > 1]
    if len(axes) == 1:
        found = _progression(builder, array, axes[0])
        return found if found is not None else _two_values(builder, array, None, axes[0])
    if len(axes) == 2:
        found = _plane(builder, array, axes[0], axes[1])
        return found if found is not None else _two_values(builder, array, axes[0], axes[1])
    return None


def _progression(b: Builder, array: NDArray[Any], axis: int) -> int | None:
    values = array.reshape(-1).astype(np.float64)
    if not np.isfinite(values).all():
        return None
    step = values[1] - values[0]
    exact = values[0] + step * np.arange(values.size)
    scale = max(float(np.abs(values).max()), 1e-30)
    if array.dtype.kind == "b" or float(np.abs(exact - values).max()) > 1e-6 * scale:
        return None
    places = b.scaled(b.iota(array.shape, axis), float(step))
    return b.elementwise("add", places, b.constant(float(values[0])))


def _plane(b: Builder, array: NDArray[Any], rows: int, cols: int) -> int | None:
    """row * a + column * b + c, such as the distances of a position bias."""
    plain = array.reshape(array.shape[rows], array.shape[cols]).astype(np.float64)
    if array.dtype.kind == "b" or not np.isfinite(plain).all():
        return None
    down, across = plain[1, 0] - plain[0, 0], plain[0, 1] - plain[0, 0]
    exact = plain[0, 0] + down * np.arange(plain.shape[0])[:, None] + across * np.arange(plain.shape[1])
    if float(np.abs(exact - plain).max()) > 1e-6 * max(float(np.abs(plain).max()), 1e-30):
        return None
    shapes = [[n if i == axis else 1 for i, n in enumerate(array.shape)] for axis in (rows, cols)]
    vertical = b.elementwise("add", b.scaled(b.iota(shapes[0], rows), float(down)), b.constant(float(plain[0, 0])))
    return b.elementwise("add", b.scaled(b.iota(shapes[1], cols), float(across)), vertical)


def _two_values(b: Builder, array: NDArray[Any], rows: int | None, cols: int) -> int | None:
    """where(column - row <= c, one, other), in any of its forms; without rows, where(column <= c, one, other)."""
    plain = array.reshape(array.shape[rows] if rows is not None else 1, array.shape[cols])
    first = plain[0, 0]
    others = plain[plain != first]
    if not others.size or bool(np.any(others != others.flat[0])):
        return None
    height, width = plain.shape
    gap = np.arange(width)[None, :] - np.arange(height)[:, None]
    for chosen, rest in ((others.flat[0], first), (first, others.flat[0])):
        held = plain == chosen
        low, high = int(gap[held].min()), int(gap[held].max())
        for op, bound, form in (
            ("less_equal", (high, high), gap <= high), ("greater_equal", (low, low), gap >= low), ("equal", (low, low), gap == low),
            ("between", (low, high), (gap >= low) & (gap <= high)),
        ):  # fmt: skip
            if np.array_equal(held, form):
                return _band(b, array, rows, cols, op, bound, float(chosen), float(rest))
    return None


def _band(
    b: Builder,
    array: NDArray[Any],
    rows: int | None,
    cols: int,
    op: str,
    bound: tuple[int, int],
    chosen: float,
    rest: float,
) -> int:
    def places(axis: int) -> int:
        return b.iota([n if i == axis else 1 for i, n in enumerate(array.shape)], axis)

    def compared(op: str, bound: int) -> int:
        limit = b.constant(float(bound))
        moved = b.elementwise("add", places(rows), limit) if rows is not None else limit
        return b.elementwise(op, places(cols), moved)

    here = compared("greater_equal", bound[0]) if op == "between" else compared(op, bound[0])
    if op == "between":
        here = b.elementwise("logical_and", here, compared("less_equal", bound[1]))
    if array.dtype.kind == "b" and chosen:
        return here
    return b.elementwise("where", here, b.constant(chosen), b.constant(rest))
