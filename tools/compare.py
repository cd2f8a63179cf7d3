"""Compares a kernel's output with the reference's, and says in words what is wrong with it. Shows no reference value."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tools.figures import percent
from tools.task import Tolerance

Array = NDArray[np.float64]
PIECE = 1 << 18
"""Elements compared at a time."""
_TINY = float(np.finfo(np.float32).tiny)
TILE = 128
"""Rows of a tile: the partitions of a NeuronCore (NKI guide, tiling overview)."""
NEARLY_ALL = 0.9
"""Share of rows and of columns from which wrong elements have no place with a name."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """One output against its reference.

    Attributes:
        max_abs_error: largest |got - want|; infinite when the output holds NaN.
        max_rel_error: largest |got - want| / (|want| + root mean square of want).
        rel_l2: norm of the error over the norm of the reference.
        detail: what pattern the error has and where it begins; empty when it passed.
    """

    passed: bool
    max_abs_error: float
    max_rel_error: float
    rel_l2: float
    detail: str = ""


def compare(
    got: NDArray[np.generic],
    want: NDArray[np.generic],
    tolerance: Tolerance,
    inputs: Sequence[NDArray[np.generic]] = (),
) -> Comparison:
    """Judge `got` against `want` (same shape) element by element and as a whole.

    Args:
        inputs: the kernel's inputs, to recognise an output that is a copy of one.
    """
    if got.shape != want.shape:
        raise ValueError(f"shapes {got.shape} and {want.shape} differ: check them before comparing values")
    scale = root_mean_square(want)
    worst = relative = square = norm = 0.0
    wrong = broken = False
    for found, wanted in _pieces(got, want):
        magnitude = np.abs(wanted)
        with np.errstate(all="ignore"):
            error = np.abs(found - wanted)
            wrong |= not bool((error <= tolerance.atol * scale + tolerance.rtol * magnitude).all())
            if not np.isfinite(error).all():
                broken = True
                continue
            worst = max(worst, float(error.max()))
            relative = max(relative, float((error / (magnitude + scale + _TINY)).max()))
            square += float(np.square(error, dtype=np.float64).sum())
            norm += float(np.square(wanted, dtype=np.float64).sum())
    if broken:
        worst = relative = rel_l2 = float("inf")
    else:
        rel_l2 = math.sqrt(square / norm) if norm else (0.0 if square == 0 else float("inf"))
    passed = not wrong and rel_l2 <= tolerance.rel_l2
    return Comparison(passed, worst, relative, rel_l2, "" if passed else _detail(got, want, tolerance, scale, inputs))


def passes(
    got: NDArray[np.generic], want: NDArray[np.generic], tolerance: Tolerance, scale: float | None = None
) -> bool:
    """Whether `compare` would pass; ends at the first wrong element. `scale`: root mean square of `want`, if known."""
    scale = root_mean_square(want) if scale is None else scale
    for found, wanted in _pieces(got, want):
        with np.errstate(all="ignore"):
            if not (np.abs(found - wanted) <= tolerance.atol * scale + tolerance.rtol * np.abs(wanted)).all():
                return False
    return compare(got, want, tolerance).passed


def root_mean_square(values: NDArray[np.generic]) -> float:
    """Root mean square over all elements."""
    total = sum(float(np.square(piece, dtype=np.float64).sum()) for piece, _ in _pieces(values, values))
    return math.sqrt(total / max(values.size, 1))


def _pieces(got: NDArray[np.generic], want: NDArray[np.generic]) -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
    """Both arrays in floating point, a stretch that fits the caches at a time."""
    one, two = got.reshape(-1), want.reshape(-1)
    wide = (
        np.float64 if "64" in want.dtype.name or ("32" in want.dtype.name and want.dtype.kind in "iu") else np.float32
    )
    for start in range(0, two.size, PIECE):
        part = slice(start, start + PIECE)
        yield one[part].astype(wide), two[part].astype(wide)


def _detail(
    got: NDArray[np.generic],
    want: NDArray[np.generic],
    tolerance: Tolerance,
    scale: float,
    inputs: Sequence[NDArray[np.generic]],
) -> str:
    wanted, found = np.asarray(want, np.float64), np.asarray(got, np.float64)
    with np.errstate(all="ignore"):
        bad = ~(np.abs(found - wanted) <= tolerance.atol * scale + tolerance.rtol * np.abs(wanted))
        return describe(found, wanted, bad, tolerance, inputs)


def describe(
    got: Array, want: Array, bad: NDArray[np.bool_], tolerance: Tolerance, inputs: Sequence[NDArray[np.generic]] = ()
) -> str:
    """What is wrong, in words: the pattern of the whole first, then where it begins."""
    pattern = (
        _whole(got, want, tolerance, inputs) or _region(bad) or _by_line(got, want, tolerance) or _noise(got, want, bad)
    )
    if not bad.any():
        return (
            f"every element is near, but the error of the whole is too large; {pattern}"
            if pattern
            else ("every element is near, but together the errors are too large for rel_l2")
        )
    first = [int(i) for i in np.argwhere(bad)[0]]
    share = float(bad.mean())
    count = int(bad.sum())
    where = f"first wrong element {first}, {count} of {bad.size} elements wrong ({percent(share)})"
    return f"{pattern}; {where}" if pattern else where


def _whole(got: Array, want: Array, tolerance: Tolerance, inputs: Sequence[NDArray[np.generic]]) -> str:
    """A pattern that explains the whole output."""
    hollow = ~np.isfinite(got)
    if hollow.any():
        kind = "NaN" if np.isnan(got).any() else "infinity"
        if hollow.all():
            return f"the output is {kind} everywhere: it depends on memory that was never written, or overflows"
        return f"the output holds {kind} in {int(hollow.sum())} places{_place(hollow)}: overflow, or unwritten memory"
    if not got.any():
        return "the output is all zero: the result isn't stored, or nothing was accumulated"
    if np.ptp(got) == 0:
        return "the output is one constant"
    for i, value in enumerate(inputs):
        if value.size == got.size and np.array_equal(np.asarray(value, np.float64).reshape(got.shape), got):
            return f"the output is a copy of input {i}"
    near = _nearness(want, tolerance)
    if near(got):  # a few elements only: where they lie says more
        return ""
    if near(-got):
        return "the sign is reversed"
    if got.ndim >= 2:
        swapped = np.swapaxes(got, -1, -2)
        if swapped.shape == want.shape and near(swapped):
            return "the last two axes are swapped (transposed)"
        if got.shape[-1] != got.shape[-2] and near(
            np.ascontiguousarray(got).reshape(*got.shape[:-2], got.shape[-1], got.shape[-2]).swapaxes(-1, -2)
        ):
            return "the elements lie in transposed order"
    weight = float((got * got).sum())
    factor = float((got * want).sum()) / weight if weight else 0.0
    if factor and abs(factor - 1) > 1e-3 and near(got * factor):
        return f"the output is too {'small' if factor > 1 else 'large'} by a factor of {max(factor, 1 / factor):.4g}"
    shift = float(np.median(want - got))
    if shift and near(got + shift):
        return f"all elements are off by the same amount ({-shift:+.4g})"
    return _moved(got, near)


def _moved(got: Array, near: Callable[[Array], bool]) -> str:
    """All values are there, but elsewhere."""
    for axis, name in dict.fromkeys(((0, "row"), (got.ndim - 1, "column"))) if got.ndim else ():
        size = got.shape[axis]
        for step in (1, -1, *range(TILE, size, TILE), size // 2):
            if 0 < abs(step) < size and size > 2 and near(np.roll(got, step, axis)):
                return f"the output is shifted by one {name}" if abs(step) == 1 else _exchanged(step, size, name)
    if got.ndim == 2 and not got.shape[0] % TILE and not got.shape[1] % TILE:
        blocks = got.reshape(got.shape[0] // TILE, TILE, got.shape[1] // TILE, TILE)
        if near(blocks.transpose(0, 3, 2, 1).reshape(got.shape)):
            return f"each tile of {TILE} x {TILE} is transposed in itself, at the right place"
    return ""


def _exchanged(step: int, size: int, name: str) -> str:
    if 2 * step == size:
        return f"the halves of {step} {name}s are exchanged"
    return f"the output is shifted by {size - step if 2 * step > size else -step} of {size} {name}s, round the end"


def _nearness(want: Array, tolerance: Tolerance) -> Callable[[Array], bool]:
    """Whether an array is near `want` in nearly all elements."""
    loose = 4 * (tolerance.atol * float(np.sqrt(np.mean(np.square(want)))) + tolerance.rtol * np.abs(want))
    return lambda candidate: bool((np.abs(candidate - want) <= loose).mean() > 0.99)


def _by_line(got: Array, want: Array, tolerance: Tolerance) -> str:
    """Each row (or column) has a factor or an offset of its own, or the error is a product of both."""
    if got.ndim < 2:
        return ""
    near = _nearness(want, tolerance)
    for axis, name, other in ((-1, "row", "column"), (0, "column", "row")):
        if got.shape[axis] < 4:
            continue
        weight = (got * got).sum(axis=axis, keepdims=True)
        factor = (got * want).sum(axis=axis, keepdims=True) / np.where(weight > 0, weight, 1.0)
        if near(got * factor):
            low, high = np.percentile(1 / np.where(factor == 0, np.inf, factor), (5, 95))
            return f"each {name} is off by a factor of its own ({low:.3g} to {high:.3g}): something that is one number a {name}"
        shift = np.median(want - got, axis=axis, keepdims=True)
        if near(got + shift):
            low, high = np.percentile(-shift, (5, 95))
            return f"each {name} is off by an amount of its own ({low:+.3g} to {high:+.3g}), the same in each {other}"
    error = (want - got).reshape(-1, got.shape[-1])
    across = error[int(np.abs(error).sum(axis=1).argmax())]
    for _ in range(3):
        along = error @ across / max(float(across @ across), _TINY)
        across = along @ error / max(float(along @ along), _TINY)
    if min(error.shape) >= 4 and near(got + np.outer(along, across).reshape(got.shape)):
        return "the error is one number a row times one number a column: a term such as a mean is missing, doubled or reversed"
    return ""


def _region(bad: NDArray[np.bool_]) -> str:
    """Where the wrong elements lie, when they fill a part with a name."""
    if not bad.any() or bad.all():
        return ""
    if bad.ndim == 1:
        return _span(bad, "elements")
    flat = bad.reshape(-1, bad.shape[-1])
    rows, columns = np.asarray(flat.any(axis=1)), np.asarray(flat.any(axis=0))
    scattered = min(rows.mean(), columns.mean()) > 0.5 and (rows.mean() >= NEARLY_ALL or columns.mean() >= NEARLY_ALL)
    if scattered and not (rows.all() and _solid(columns)) and not (columns.all() and _solid(rows)):
        return ""
    row_text = "" if rows.all() else _span(rows, "rows")
    column_text = "" if columns.all() else _span(columns, "columns")
    return " and ".join(text for text in (row_text, column_text) if text)


def _solid(wrong: NDArray[np.bool_]) -> bool:
    """Whether the wrong ones are neighbours, or one in so many."""
    at = np.flatnonzero(wrong)
    return len(np.unique(np.diff(at))) <= 1


def _span(wrong: NDArray[np.bool_], noun: str) -> str:
    """Name the set of indices along one axis."""
    at = np.flatnonzero(wrong)
    first, last, size = int(at[0]), int(at[-1]), len(wrong)
    single = noun.removesuffix("s")
    if first == last:
        return f"only {single} {first} of {size} is wrong"
    if len(at) == last - first + 1:
        if last == size - 1 and first > 0:
            tail = size % TILE
            extra = ", the last partial tile" if tail and size - first == tail else ""
            return f"{noun} from {first} to the end ({size}) are wrong{extra}"
        if len(at) % TILE == 0 and first % TILE == 0:
            return f"{noun} {first}..{last} are wrong: {len(at) // TILE} whole tile(s) of {TILE}"
        if first == 0:
            return f"the first {last + 1} {noun} of {size} are wrong"
        return f"{noun} {first}..{last} of {size} are wrong"
    steps = np.diff(at)
    if len(at) > 2 and (steps == steps[0]).all():
        return f"every {int(steps[0])}th of the {noun} is wrong, from {first} on"
    return f"{len(at)} of {size} {noun} are wrong"


def _noise(got: Array, want: Array, bad: NDArray[np.bool_]) -> str:
    """What errors without a place look like: rounding, which is small, and as often up as down in every row and column."""
    scale = float(np.sqrt(np.mean(np.square(want)))) or 1.0
    error = (got - want) / scale
    typical = float(np.median(np.abs(error[bad]))) if bad.any() else float(np.median(np.abs(error)))
    if typical >= 0.05:
        return "every element is wrong" if bad.all() else "values are wrong throughout"
    size = float(np.sqrt(np.mean(np.square(error)))) or 1.0
    if abs(float(error.mean())) > 0.3 * size:
        side = "large" if error.mean() > 0 else "small"
        return f"errors are small (typically {typical:.1e} of the output's size) but nearly all to one side, too {side}: no rounding"
    for axis, name in ((-1, "row"), (0, "column")) if got.ndim >= 2 else ():
        count = got.shape[axis]
        if count >= 16 and float(np.abs(error.mean(axis=axis)).mean()) > 4 * size / math.sqrt(count):
            return f"errors are small (typically {typical:.1e} of the output's size) but alike within each {name}: no rounding"
    return f"errors are small and everywhere (typically {typical:.1e} of the output's size): too little precision, or a small term is missing"


def _place(mask: NDArray[np.bool_]) -> str:
    text = _region(mask).replace("are wrong", "").replace("is wrong", "").strip()
    return f" ({text})" if text else ""
