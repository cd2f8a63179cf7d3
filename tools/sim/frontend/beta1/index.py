"""Index algebra of Beta 1: `nl.arange`, `nl.mgrid`, and arithmetic on them with real loop integers.

An `Index` is affine in its own axes (offset + sum of step times position), so that indexing with it makes a strided view.
What leaves the affine world (`//`, `%`, products) keeps its values as an integer array. Comparisons give a `Mask`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tools.sim import context
from tools.sim.frontend.beta1.mask import Mask, not_affine

Values = NDArray[np.int64]
_FULL = slice(None)
_VIEWS = 8
"""Views of an index that it remembers: kernels write `nl.arange(n)[None, :]` again in every iteration."""
_MADE = 512
"""Sums and products that an index remembers, so that equal subscripts are one object."""


class LoopIndex(int):
    """The variable of an NKI loop: an integer that knows whether its loop is at its first iteration."""

    first: bool


class Index:
    """Integers over a few axes: `offset + sum(steps[a] * position[a])`, or explicit `values` where that is impossible.

    Attributes:
        offset: value at position 0.
        shape: size of each axis; an axis of step 0 repeats.
        steps: increment per axis.
        values: None when affine, else an array of `shape`.
    """

    __slots__ = ("_bounds", "_made", "_views", "offset", "shape", "steps", "values")
    __array_ufunc__ = None

    def __init__(
        self, offset: int, shape: tuple[int, ...], steps: tuple[int, ...], values: Values | None = None
    ) -> None:
        self.offset = offset
        self.shape = shape
        self.steps = steps
        self.values = values
        self._bounds: tuple[int, int] | None = None
        self._made: dict[Any, Index] | None = None
        self._views: list[tuple[Any, Index]] | None = None

    # -- description -------------------------------------------------------------------------------------------------

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def bounds(self) -> tuple[int, int]:
        """Smallest and largest value."""
        found = self._bounds
        if found is None:
            if self.values is not None:
                found = (int(self.values.min()), int(self.values.max()))
            else:
                low = high = self.offset
                for n, step in zip(self.shape, self.steps):
                    if step > 0:
                        high += step * (n - 1)
                    elif step:
                        low += step * (n - 1)
                found = (low, high)
            self._bounds = found
        return found

    def array(self) -> Values:
        """All values, as an int64 array of `shape`."""
        if self.values is not None:
            return self.values
        total = np.full(self.shape, self.offset, np.int64)
        for axis, (n, step) in enumerate(zip(self.shape, self.steps)):
            if step:
                line = np.arange(n, dtype=np.int64) * step
                total += line.reshape([n if a == axis else 1 for a in range(len(self.shape))])
        return total

    def restrict(self, box: tuple[tuple[int, int], ...]) -> Index:
        """The part at positions [start, stop) of each axis; axes of size 1 stay."""
        offset = self.offset
        shape = []
        for n, step, (start, stop) in zip(self.shape, self.steps, box):
            if n == 1:
                shape.append(1)
            else:
                offset += step * start
                shape.append(stop - start)
        if self.values is None:
            return Index(offset, tuple(shape), self.steps)
        cut = tuple(_FULL if n == 1 else slice(*span) for n, span in zip(self.shape, box))
        return Index(0, tuple(shape), self.steps, self.values[cut])

    def __repr__(self) -> str:
        if self.values is not None:
            return f"index{list(self.shape)}"
        terms = [f"{step}*i{axis}" for axis, step in enumerate(self.steps) if step]
        return " + ".join([str(self.offset), *terms])

    def __bool__(self) -> bool:
        context.fail(
            "KW-INDEX-TRUTH",
            "a condition depends on nl.arange, whose elements have no single truth value "
            "(err_control_flow_condition_depending_on_arange)",
            fix="use it as mask= of an instruction",
        )

    def __setitem__(self, key: Any, value: Any) -> None:
        context.fail(
            "KW-INDEX-ASSIGN",
            "an index expression can't be written to (err_cannot_assign_to_index)",
            fix="make a tile of it with nisa.iota first",
        )

    def __iter__(self) -> Any:
        context.fail("KW-INDEX-TYPE", "an index expression can't be iterated over", fix="loop over nl.affine_range")

    # -- axes --------------------------------------------------------------------------------------------------------

    def __getitem__(self, key: Any) -> Index:
        views = self._views
        if views is not None:
            for known, made in views:
                if known == key:
                    return made
        made = self._reindex(key if isinstance(key, tuple) else (key,))
        if self.values is None and type(key) is tuple and all(k is None or type(k) is slice for k in key):
            if views is None:
                views = self._views = []
            if len(views) < _VIEWS:
                views.append((key, made))
        return made

    def _reindex(self, key: tuple[Any, ...]) -> Index:
        if any(k is Ellipsis for k in key):
            at = key.index(Ellipsis)
            missing = self.ndim - sum(k is not None and k is not Ellipsis for k in key)
            key = key[:at] + (_FULL,) * missing + key[at + 1 :]
        shape: list[int] = []
        steps: list[int] = []
        offset = self.offset
        axis = 0
        for k in key:
            if k is None:
                shape.append(1)
                steps.append(0)
                continue
            if axis >= self.ndim:
                context.fail(
                    "KW-INDEX-RANK",
                    f"{len(key)} subscripts for an index of {self.ndim} dimensions",
                    fix="give at most one subscript an axis",
                )
            n, step = self.shape[axis], self.steps[axis]
            axis += 1
            if isinstance(k, slice):
                start, stop, stride = k.indices(n)
                shape.append(max(0, -((start - stop) // stride)))
                steps.append(step * stride)
                offset += start * step
            else:
                position = context.index_value(k)
                offset += (position + n if position < 0 else position) * step
        shape.extend(self.shape[axis:])
        steps.extend(self.steps[axis:])
        if self.values is not None:
            values = self.values[key]
            return Index(0, values.shape, (0,) * values.ndim, values)
        return Index(offset, tuple(shape), tuple(steps))

    # -- arithmetic --------------------------------------------------------------------------------------------------

    def _shift(self, amount: int) -> Index:
        if self.values is not None:
            return Index(0, self.shape, self.steps, self.values + amount)
        known = self._made
        if known is not None:
            found = known.get(amount)
            if found is not None:
                return found
        made = Index(self.offset + amount, self.shape, self.steps)
        if self._bounds is not None:
            made._bounds = (self._bounds[0] + amount, self._bounds[1] + amount)
        self._remember(amount, made)
        return made

    def _remember(self, what: Any, made: Index) -> None:
        """Keep what an operation on this (affine) index gave: by amount for sums, (factor,) for products."""
        known = self._made
        if known is None:
            known = self._made = {}
        elif len(known) >= _MADE:
            known.clear()
        known[what] = made

    def _scale(self, factor: int) -> Index:
        if self.values is not None:
            return Index(0, self.shape, self.steps, self.values * factor)
        known = self._made
        if known is not None:
            found = known.get((factor,))
            if found is not None:
                return found
        made = Index(self.offset * factor, self.shape, tuple([s * factor for s in self.steps]))
        self._remember((factor,), made)
        return made

    def _combine(self, other: Index, sign: int) -> Index:
        if self.values is not None or other.values is not None:
            values = self.array() + sign * other.array()
            return Index(0, values.shape, (0,) * values.ndim, values)
        known = self._made
        if known is not None:
            found = known.get((other, sign))
            if found is not None:
                return found
        shape = _broadcast(self.shape, other.shape)
        lead = len(shape) - len(self.shape)
        other_lead = len(shape) - len(other.shape)
        steps = [0] * len(shape)
        for axis, step in enumerate(self.steps):
            if self.shape[axis] != 1:
                steps[lead + axis] = step
        for axis, step in enumerate(other.steps):
            if other.shape[axis] != 1:
                steps[other_lead + axis] += sign * step
        made = Index(self.offset + sign * other.offset, shape, tuple(steps))
        self._remember((other, sign), made)
        return made

    def __add__(self, other: Any) -> Any:
        if type(other) is int:
            return self._shift(other)
        if isinstance(other, Index):
            return self._combine(other, 1)
        amount = _integer(other)
        return NotImplemented if amount is None else self._shift(amount)

    __radd__ = __add__

    def __sub__(self, other: Any) -> Any:
        if isinstance(other, Index):
            return self._combine(other, -1)
        amount = _integer(other)
        return NotImplemented if amount is None else self._shift(-amount)

    def __rsub__(self, other: Any) -> Any:
        amount = _integer(other)
        return NotImplemented if amount is None else self._scale(-1)._shift(amount)

    def __neg__(self) -> Index:
        return self._scale(-1)

    def __mul__(self, other: Any) -> Any:
        if type(other) is int:
            return self._scale(other)
        if isinstance(other, Index):
            not_affine()
            values = self.array() * other.array()
            return Index(0, values.shape, (0,) * values.ndim, values)
        factor = _integer(other)
        return NotImplemented if factor is None else self._scale(factor)

    __rmul__ = __mul__

    def __floordiv__(self, other: Any) -> Any:
        divisor = _integer(other)
        if divisor is None:
            return NotImplemented
        not_affine()
        if self.values is None and self.offset % divisor == 0 and not any(s % divisor for s in self.steps):
            return Index(self.offset // divisor, self.shape, tuple(s // divisor for s in self.steps))
        return Index(0, self.shape, (0,) * self.ndim, self.array() // divisor)

    def __mod__(self, other: Any) -> Any:
        divisor = _integer(other)
        if divisor is None:
            return NotImplemented
        not_affine()
        low, high = self.bounds
        if self.values is None and low // divisor == high // divisor:
            return self._shift(-(low // divisor) * divisor)
        return Index(0, self.shape, (0,) * self.ndim, self.array() % divisor)

    def __truediv__(self, other: Any) -> Any:
        context.fail("KW-INDEX-TYPE", "an index divided with / isn't an integer", fix="divide with //")

    # -- comparisons -------------------------------------------------------------------------------------------------

    def __ge__(self, other: Any) -> Any:
        return _compare(self, other, "greater_equal")

    def __gt__(self, other: Any) -> Any:
        return _compare(self, other, "greater")

    def __le__(self, other: Any) -> Any:
        return _compare(self, other, "less_equal")

    def __lt__(self, other: Any) -> Any:
        return _compare(self, other, "less")

    def __eq__(self, other: object) -> Any:
        return _compare(self, other, "equal")

    def __ne__(self, other: object) -> Any:
        return _compare(self, other, "not_equal")

    __hash__ = object.__hash__


def _integer(value: Any) -> int | None:
    """`value` as an integer, or None when it isn't one."""
    if isinstance(value, int | np.integer):
        return int(value)
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, np.ndarray) and value.ndim == 0 and value.dtype.kind in "iu":
        return int(value)
    return None


def _broadcast(a: tuple[int, ...], b: tuple[int, ...]) -> tuple[int, ...]:
    if a == b:
        return a
    if len(a) < len(b):
        a = (1,) * (len(b) - len(a)) + a
    elif len(b) < len(a):
        b = (1,) * (len(a) - len(b)) + b
    shape = []
    for n, m in zip(a, b):
        if n != m and n != 1 and m != 1:
            context.fail(
                "KW-INDEX-SHAPE",
                f"index expressions of shapes {a} and {b} don't fit together",
                fix="give both the same sizes, or 1, in each axis",
            )
        shape.append(m if n == 1 else n)
    return tuple(shape)


def _compare(left: Index, right: Any, operator: str) -> Mask:
    if isinstance(right, Index):
        difference = left._combine(right, -1)
    else:
        amount = _integer(right)
        if amount is None:
            if isinstance(right, float):
                return Mask((), left.shape, Mask.FLOAT[operator](left.array(), right))
            context.fail(
                "KW-MASK-EXPRESSION",
                f"an index is compared with {type(right).__name__}; masks compare affine expressions of indices and "
                "integers (err_unsupported_expression_in_mask)",
                fix="compare tiles with nl.less and the like, and select with nl.where",
            )
        difference = left._shift(-amount)
    if difference.values is not None:
        context.strict_fail(
            "KW-MASK-EXPRESSION",
            "err_unsupported_expression_in_mask: the mask compares a product, quotient or remainder of indices",
            operand="mask",
            limit="sums of indices times integers",
            fix="mask by affine expressions; take a remainder apart into a loop and an inner index",
        )
        return Mask((), difference.shape, Mask.FLOAT[operator](difference.values, 0))
    return Mask(((difference, operator),), difference.shape)


_ARANGES: dict[Any, Index] = {}
_GRIDS: dict[Any, Any] = {}


def arange(*bounds: Any) -> Index:
    """`arange(stop)`, `arange(start, stop)` or `arange(start, stop, step)`: one axis of consecutive integers."""
    found = _ARANGES.get(bounds)
    if found is not None:
        return found
    values = range(*(context.index_value(b) for b in bounds))
    if not values:
        context.fail("KW-SHAPE", f"nl.arange{bounds} is empty", fix="skip the iteration when nothing is left to do")
    made = Index(values.start, (len(values),), (values.step,))
    if len(_ARANGES) > 4096:
        _ARANGES.clear()
    _ARANGES[bounds] = made
    return made


class Grid(tuple[Index, ...]):
    """What `nl.mgrid[...]` gives: one dense index an axis, also by name."""

    __slots__ = ()
    NAMES = ("p", "x", "y", "z", "w")

    def __getattr__(self, name: str) -> Index:
        if name in self.NAMES and self.NAMES.index(name) < len(self):
            return self[self.NAMES.index(name)]
        raise AttributeError(
            f"a grid of {len(self)} axes has no axis {name!r}; it has {', '.join(self.NAMES[: len(self)])}"
        )


class GridMaker:
    """`nl.mgrid`: `nl.mgrid[0:128, 0:512]` gives dense indices over the box."""

    def __getitem__(self, key: Any) -> Grid:
        slices = key if isinstance(key, tuple) else (key,)
        spans = []
        for k in slices:
            if not isinstance(k, slice):
                context.fail("KW-INDEX-TYPE", f"nl.mgrid takes slices, not {k!r}", fix="write nl.mgrid[0:128, 0:512]")
            spans.append(
                (
                    0 if k.start is None else context.index_value(k.start),
                    context.index_value(k.stop),
                    1 if k.step is None else context.index_value(k.step),
                )
            )
        name = tuple(spans)
        found = _GRIDS.get(name)
        if found is None:
            sizes = tuple(len(range(*span)) for span in spans)
            if 0 in sizes:
                context.fail("KW-SHAPE", f"nl.mgrid{list(slices)} is empty", fix="skip the iteration")
            found = Grid(
                Index(start, sizes, tuple(step if a == axis else 0 for a in range(len(sizes))))
                for axis, (start, _, step) in enumerate(spans)
            )
            if len(_GRIDS) > 1024:
                _GRIDS.clear()
            _GRIDS[name] = found
        made: Grid = found
        return made


mgrid = GridMaker()
