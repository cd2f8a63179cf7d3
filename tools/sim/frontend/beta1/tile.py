"""Tensors of Beta 1: views with index algebra, operators and assignment.

A `Tile` is a `Tensor` whose subscripts may be index expressions. An operation's result is a `ResultTile`: its instruction
is issued when its destination is known, straight into `x[...]` when it is assigned there, else into a new tile.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from tools.sim import context
from tools.sim.core import Core, Place
from tools.sim.dtypes import DType
from tools.sim.frontend.beta1.index import Index, LoopIndex
from tools.sim.frontend.beta1.mask import EMPTY, Box, Chosen, Mask, resolve
from tools.sim.tensor import DynSlice, Indirect, Region, Tensor

ON_CHIP = ("sbuf", "psum")
PSUM_ONLY = ("psum",)
SBUF_ONLY = ("sbuf",)
_INTEGERS = (int, LoopIndex)
Chooser = Box | Chosen | None
"""A resolved mask: everything (None), nothing (EMPTY), a box, or single elements."""


class Tile(Tensor):
    """A view of a buffer, on chip or in HBM."""

    __slots__ = ()
    __array_ufunc__ = None
    __hash__ = object.__hash__

    # -- description -------------------------------------------------------------------------------------------------

    @property
    def itemsize(self) -> int:
        """Bytes of one element."""
        return self.dtype.itemsize

    def view(self, dtype: Any = None) -> Any:
        """The same bytes seen as another type; without a type, the elements as a NumPy array (for the simulator)."""
        if dtype is None:
            return Tensor.view(self)
        return self._plain().reinterpret_cast(dtype)

    def _plain(self) -> Tile:
        return Tile(self.buffer, self.shape, self.dtype, self.offset, self.strides, self.rows)

    def _derive(self, shape: tuple[int, ...], strides: tuple[int, ...], offset: int) -> Tile:
        return Tile(self.buffer, shape, self.dtype, offset, strides, self.rows)

    def reshape(self, *args: Any, shape: Any = None) -> Any:
        """The same elements under another shape."""
        return self._plain_reshape(tuple(shape) if shape is not None else args)

    def _plain_reshape(self, args: tuple[Any, ...]) -> Tensor:
        return Tensor.reshape(self, *args) if args and isinstance(args[0], tuple | list) else Tensor.reshape(self, args)

    def expand_dims(self, axis: Any) -> Tensor:
        """A view with dimensions of size 1 inserted at `axis` (one or several positions of the result)."""
        axes = axis if isinstance(axis, tuple | list) else (axis,)
        ndim = self.ndim + len(axes)
        places = {int(a) + ndim if int(a) < 0 else int(a) for a in axes}
        shape, strides, source = [], [], 0
        for position in range(ndim):
            if position in places:
                shape.append(1)
                strides.append(0)
            else:
                shape.append(self.shape[source])
                strides.append(self.strides[source])
                source += 1
        return self._derive(tuple(shape), tuple(strides), self.offset)

    def assert_shape(self, shape: Any) -> Tile:
        """This tensor, whose shape must be `shape`."""
        if tuple(shape) != tuple(self.shape):
            context.fail(
                "KW-SHAPE-MISMATCH",
                f"{self!r} was asserted to have shape {list(shape)} (err_annotation_shape_mismatch)",
                found=list(self.shape),
                limit=list(shape),
                fix="make the tile and its annotation agree",
            )
        return self

    def broadcast_to(self, *shape: Any) -> Tensor:
        """Size-1 dimensions repeated: a view along free dimensions, a real broadcast along partitions."""
        from tools.sim.frontend.beta1 import elementwise

        sizes = tuple(int(n) for n in (shape[0] if len(shape) == 1 and not isinstance(shape[0], int) else shape))
        return elementwise.broadcast(self, sizes)

    def as_tile(self) -> Tile:
        """This view, which is a tile already."""
        return self

    def astype(self, dtype: Any) -> Tensor:
        """A copy as another type."""
        from tools.sim.frontend.beta1 import elementwise

        copied: Tensor = elementwise.copy(self, dtype=dtype)
        return copied

    def __bool__(self) -> bool:
        if not self.buffer.on_chip:
            return True  # a kernel argument: `if x` asks whether it was given
        context.fail(
            "KW-TENSOR-TRUTH",
            f"the truth value of {self!r} isn't known while the kernel is traced "
            "(err_ambiguous_tensor_truth_value, err_dynamic_control_flow_not_supported)",
            fix="use nl.where or a predicate; join conditions with &, |, ~; test `is None` for absence",
        )

    # -- indexing ----------------------------------------------------------------------------------------------------

    def __getitem__(self, key: Any) -> Tile:
        if type(key) is not tuple:
            key = tuple(key) if isinstance(key, tuple) else (key,)
        if len(key) == 2 and len(self.shape) == 2:
            first, second = key
            if type(first) is Index and type(second) is Index:
                return self._rectangle(first, second)
        advanced = plain = True
        for k in key:
            kind = type(k)
            if kind is Index:
                plain = False
            elif kind is not int and kind is not LoopIndex:
                advanced = False
                if kind is bool or (
                    kind is not slice and kind is not DynSlice and k is not Ellipsis and not isinstance(k, int)
                ):
                    return self._special(key)
        if plain:
            for k, n in zip(key, self.shape):
                kind = type(k)
                if (kind is slice and type(k.stop) in _INTEGERS and k.stop > n) or (
                    kind is DynSlice and type(k.start) in _INTEGERS and k.start + k.size > n
                ):
                    return self._loose_slices(key)
            found: Tile = Tensor.__getitem__(self, key)  # type: ignore[assignment]
            if found.shape == (1, 1) and self.buffer.on_chip and all(type(k) in _INTEGERS for k in key):
                return Element(found.buffer, found.shape, found.dtype, found.offset, found.strides, found.rows)
            return found
        if not advanced:
            key = self._expand_basic(key)
        return self._affine(key) if len(key) == len(self.shape) else self._affine(self._expand_basic(key))

    def _loose_slices(self, key: tuple[Any, ...]) -> Tile:
        """Slices that reach beyond the end, as index expressions: a mask may cut the excess off."""
        key = (*key, *[slice(None)] * (self.ndim - len(key))) if Ellipsis not in key else self._fill(key)
        spans: list[Any] = []
        for k, n in zip(key, self.shape):
            if isinstance(k, slice):
                start = 0 if k.start is None else context.index_value(k.start)
                stop = n if k.stop is None else context.index_value(k.stop)
                spans.append(range(start + n if start < 0 else start, stop + n if stop < 0 else stop, k.step or 1))
            elif isinstance(k, DynSlice):
                start = context.index_value(k.start)
                spans.append(range(start, start + context.index_value(k.size)))
            else:
                spans.append(context.index_value(k))
        if self.buffer.on_chip and isinstance(spans[0], int):
            spans[0] = range(spans[0], spans[0] + 1)
        rank = max(2, sum(isinstance(s, range) for s in spans))
        keys: list[Any] = []
        axis = 0
        shape = [1] * rank
        for s in spans:
            if isinstance(s, int):
                keys.append(s)
                continue
            if not s:
                context.fail(
                    "KW-EMPTY-SLICE",
                    f"a slice of {self!r} holds no element",
                    operand=self.name,
                    fix="skip the iteration when nothing is left to do",
                )
            shape[axis] = len(s)
            own = [1] * rank
            steps = [0] * rank
            own[axis], steps[axis] = len(s), s.step
            keys.append(Index(s.start, tuple(own), tuple(steps)))
            axis += 1
        return LooseTile(self, tuple(keys), tuple(shape))

    def _fill(self, key: tuple[Any, ...]) -> tuple[Any, ...]:
        at = next(i for i, k in enumerate(key) if k is Ellipsis)
        return key[:at] + (slice(None),) * (self.ndim - len(key) + 1) + key[at + 1 :]

    def _expand_basic(self, key: tuple[Any, ...]) -> tuple[Any, ...]:
        """A key of integers and indices only; `...` and missing dimensions become size-1 integers or are refused."""
        ndim = self.ndim
        dots = [i for i, k in enumerate(key) if k is Ellipsis]
        if len(dots) > 1 or len(key) - len(dots) > ndim:
            context.fail(
                "KW-INDEX-RANK",
                f"{len(key) - len(dots)} indices for the {ndim} dimensions of {self!r}",
                found=len(key) - len(dots),
                limit=ndim,
                fix="give one index a dimension",
            )
        fill = (slice(None),) * (ndim - (len(key) - len(dots)))
        key = key[: dots[0]] + fill + key[dots[0] + 1 :] if dots else key + fill
        converted = []
        for axis, k in enumerate(key):
            if isinstance(k, slice | DynSlice):
                n = self.shape[axis]
                if n == 1 and isinstance(k, slice) and k == slice(None):
                    converted.append(0)
                    continue
                if any(isinstance(i, Index) and i.ndim == 1 for i in key):
                    self._one_dimensional()
                context.fail(
                    "KW-INDEX-MIX",
                    f"a slice and an index expression subscript {self!r} together "
                    "(err_unsupported_mixing_basic_advanced_tensor_indexing)",
                    operand=self.name,
                    fix="write each dimension as an index: nl.arange(n)[None, :] in place of 0:n",
                )
            else:
                converted.append(int(k) if isinstance(k, int | np.integer) else k)
        return tuple(converted)

    def _rectangle(self, first: Index, second: Index) -> Tile:
        """`tile[i_p, i_f]`, the usual subscript: a column of partitions and a row of elements."""
        a, b = first.shape, second.shape
        if (
            len(a) != 2
            or len(b) != 2
            or a[1] != 1
            or b[0] != 1
            or first.values is not None
            or second.values is not None
        ):
            return self._affine((first, second))
        n, m = self.shape
        low, high = first._bounds or first.bounds
        if low < 0 or high >= n:
            return self._affine((first, second))
        low, high = second._bounds or second.bounds
        if low < 0 or high >= m:
            return self._affine((first, second))
        s, t = self.strides
        buffer = self.buffer
        offset = self.offset + first.offset * s + second.offset * t
        step = second.steps[1] * t
        made = Tile(buffer, (a[0], b[1]), self.dtype, offset, (first.steps[0] * s, step))
        if buffer.on_chip and first.steps[0] == 1 and step >= 0:
            # what Tensor._compute_region would find, without its loop
            item = self.dtype.itemsize
            row = buffer.row_bytes // item
            if s == row:
                start, column = divmod(offset, row)
                end = column + (b[1] - 1) * step + 1
                if end <= row:
                    made._region = (start, start + a[0], column * item, end * item, row * item)
        return made

    def _one_dimensional(self) -> NoReturn:
        context.fail(
            "KW-INDEX-1D",
            f"{self!r} is indexed with a one-dimensional nl.arange (err_1d_arange_not_supported)",
            operand=self.name,
            found=1,
            limit=2,
            fix="give it a second axis, nl.arange(n)[:, None], or use a slice",
        )

    def _affine(self, key: tuple[Any, ...]) -> Tile:
        offset = self.offset
        shape: tuple[int, ...] | None = None
        strides: list[int] = []
        inside = True
        for k, n, s in zip(key, self.shape, self.strides):
            if type(k) is Index:
                if k.values is not None:
                    return self._picked(key)
                low, high = k._bounds or k.bounds
                if low < 0 or high >= n:
                    inside = False
                offset += k.offset * s
                own = k.shape
                if shape is None:
                    shape = own
                    strides = [0 if m == 1 else step * s for m, step in zip(own, k.steps)]
                elif shape == own:
                    for axis, step in enumerate(k.steps):
                        if step:
                            strides[axis] += step * s
                else:
                    shape, strides = _merge(shape, strides, own, k.steps, s)
            else:
                at = k + n if k < 0 else k
                if not 0 <= at < n:
                    inside = False
                offset += at * s
        assert shape is not None
        if len(shape) == 1:
            self._one_dimensional()
        if not inside:
            return LooseTile(self, key, shape)
        if self.buffer.on_chip:
            first = key[0]
            if type(first) is Index and any(first.steps[1:]):
                self._diagonal(first)
        return Tile(self.buffer, shape, self.dtype, offset, tuple(strides))

    def _diagonal(self, first: Index) -> None:
        if any(step for step, n in zip(first.steps[1:], first.shape[1:]) if n > 1):
            context.fail(
                "KW-INDEX-PARTITION",
                f"the partition index {first!r} of {self!r} changes along a free dimension",
                operand=self.name,
                fix="index partitions only with the first axis: nl.arange(n)[:, None]",
            )

    def _special(self, key: tuple[Any, ...]) -> Tile:
        """Subscripts other than integers, slices and affine indices."""
        if any(isinstance(k, Mask | bool | np.bool_) for k in key):
            return self._operand_mask(key)
        if any(isinstance(k, Tensor | DynamicIndex) for k in key):
            return self._dynamic(key)
        if any(k is None for k in key):
            return self._with_new_axes(key)
        converted: list[Any] = []
        for k in key:
            if hasattr(k, "__index_value__") or isinstance(k, np.integer):
                converted.append(context.index_value(k))
            elif isinstance(k, float) and k.is_integer():
                converted.append(int(k))
            elif isinstance(k, Index | int | slice | DynSlice) or k is Ellipsis:
                converted.append(k)
            else:
                context.fail(
                    "KW-INDEX-TYPE",
                    f"{self!r} can't be indexed with {type(k).__name__} {k!r}",
                    fix="use integers, slices, nl.ds, or index expressions of nl.arange",
                )
        return self[tuple(converted)]

    def _with_new_axes(self, key: tuple[Any, ...]) -> Tile:
        kept = tuple(k for k in key if k is not None)
        result = self[kept] if kept else self._plain()
        position = 0
        for k in key:
            if k is None:
                result = result.expand_dims(position)  # type: ignore[assignment]
                position += 1
            elif k is Ellipsis:
                position += self.ndim - sum(x is not None and x is not Ellipsis for x in kept)
            elif not isinstance(k, int | np.integer):
                position += 1
        return result

    def _operand_mask(self, key: tuple[Any, ...]) -> Tile:
        """`lhs[i_f <= 64]`: the part of an operand that the mask chooses (matmul operands)."""
        mask: Any = None
        for k in key:
            mask = k if mask is None else mask & k
        box = resolve(mask, self.shape)
        if box is None:
            return self._plain()
        if isinstance(box, np.ndarray) or box == EMPTY:
            context.fail(
                "KW-MASK-EXPRESSION",
                "an operand mask must leave a rectangle of its operand",
                operand=self.name,
                fix="use a mask of comparisons of one index each, joined with &",
            )
        return self.narrow(box)

    def _dynamic(self, key: tuple[Any, ...]) -> Tile:
        """Subscripts that hold tiles: rows picked by values known only while the kernel runs."""
        if not self.buffer.on_chip and all(
            isinstance(k, Element | int | slice | DynSlice) or k is Ellipsis for k in key
        ):
            # an element has no axes to give to the result: its dimension goes, as with an integer
            return self[tuple(context.index_value(k) if isinstance(k, Element) else k for k in key)]
        key = self._expand_dynamic(key)
        self._dynamic_rules(key)
        if not self.buffer.on_chip:
            found = self._row_gather(key)
            if found is not None:
                return found
        return PickedTile.by_index(self, key)

    def _dynamic_rules(self, key: tuple[Any, ...]) -> None:
        """What the compiler refuses of indices that tiles hold: they pick rows of HBM tensors only."""
        picking = [axis for axis, k in enumerate(key) if isinstance(k, Tensor) and k.size > 1]
        if not picking or not (self.buffer.on_chip or picking[-1] == self.ndim - 1):
            return
        if self.buffer.on_chip:
            error = "err_copy_dynamic_indirect_indices_not_natively_supported"
            fix = "gather rows from HBM with nl.load, or use nisa.tensor_copy_dynamic_src or nisa.local_gather"
        else:
            error, fix = "err_indirect_indices_free_dim", "pick along the partition or a block dimension"
        context.strict_fail(
            "KW-STRICT-INDIRECT",
            f"{error}: dimension {picking[-1]} of {self!r} is indexed by a tile",
            operand=self.name,
            found=picking[-1],
            limit="partition or block dimension of an HBM tensor, in nl.load, nl.store and nisa.dma_copy",
            fix=fix,
        )

    def _expand_dynamic(self, key: tuple[Any, ...]) -> tuple[Any, ...]:
        """The key with every dimension given, slices written as indices over axes of their own."""
        ndim = self.ndim
        dots = [i for i, k in enumerate(key) if k is Ellipsis]
        fill = (slice(None),) * (ndim - (len(key) - len(dots)))
        key = key[: dots[0]] + fill + key[dots[0] + 1 :] if dots else key + fill
        if len(key) != ndim:
            context.fail(
                "KW-INDEX-RANK",
                f"{len(key)} indices for the {ndim} dimensions of {self!r}",
                found=len(key),
                limit=ndim,
                fix="give one index a dimension",
            )
        free = [axis for axis, k in enumerate(key) if isinstance(k, slice | DynSlice)]
        if not free:
            return key
        converted = list(key)
        for place, axis in enumerate(free):
            k, n = key[axis], self.shape[axis]
            if isinstance(k, DynSlice):
                span = range(context.index_value(k.start), context.index_value(k.start) + context.index_value(k.size))
            else:
                span = range(*k.indices(n))
            shape = [1] * (1 + len(free))
            steps = [0] * (1 + len(free))
            shape[1 + place], steps[1 + place] = len(span), span.step
            converted[axis] = Index(span.start, tuple(shape), tuple(steps))
        for axis, k in enumerate(converted):
            if isinstance(k, Tensor) and k.ndim < 1 + len(free):
                converted[axis] = k.reshape((k.shape[0],) + (1,) * len(free)) if k.size == k.shape[0] else k
        return tuple(converted)

    def _row_gather(self, key: tuple[Any, ...]) -> Tile | None:
        """An HBM view whose rows come from one [P, 1] index tile, as a DMA takes it; None when it is anything else."""
        dim = -1
        for axis, k in enumerate(key):
            if isinstance(k, Tensor):
                if dim >= 0 or k.size != k.shape[0]:
                    return None
                dim = axis
            elif isinstance(k, DynamicIndex) or (isinstance(k, Index) and k.values is not None):
                return None
        if dim < 0:
            return None
        rows = key[dim]
        others = tuple(0 if axis == dim else k for axis, k in enumerate(key))
        if any(isinstance(k, Index) and k.shape[0] != 1 and k.steps[0] for k in others):
            return None
        if any(isinstance(k, Index) for k in others):
            body = self._affine(others)
            if type(body) is LooseTile:
                return None
        else:
            body = Tensor.__getitem__(self, others)  # type: ignore[assignment]
        tail, tail_strides = body.shape, body.strides
        if any(isinstance(k, Index) for k in others):
            tail, tail_strides = tail[1:], tail_strides[1:]
        else:
            tail, tail_strides = (1,) * (rows.ndim - 1), (1,) * (rows.ndim - 1)
        indirect = Indirect(rows, dim, self.strides[dim])
        return Tile(
            self.buffer,
            (rows.shape[0], *(tail or (1,))),
            self.dtype,
            body.offset,
            (self.strides[dim], *(tail_strides or (1,))),
            indirect,
        )

    def _picked(self, key: tuple[Any, ...]) -> Tile:
        return PickedTile.by_index(self, key)

    # -- masks -------------------------------------------------------------------------------------------------------

    def narrow(self, box: Box) -> Tile:
        """The part at [start, stop) of each dimension; dimensions of size 1 stay whole."""
        offset = self.offset
        shape = list(self.shape)
        for axis, (start, stop) in enumerate(box[: len(shape)]):
            if shape[axis] != 1:
                offset += start * self.strides[axis]
                shape[axis] = stop - start
        made = Tile(self.buffer, tuple(shape), self.dtype, offset, self.strides)
        indirect = self.rows
        if indirect is not None:
            index = indirect.index
            rows = index.narrow(box[:1]) if isinstance(index, Tile) else index
            made.offset = self.offset + sum(
                start * s for (start, _), s, n in zip(box[1:], self.strides[1:], self.shape[1:]) if n != 1
            )
            made.rows = Indirect(rows, indirect.dim, indirect.row_stride)
        return made

    def pick(self, chosen: Chosen) -> Tile:
        """The whole view of which only the chosen elements are read or written."""
        return PickedTile.by_mask(self, chosen)

    # -- assignment --------------------------------------------------------------------------------------------------

    def __setitem__(self, key: Any, value: Any) -> None:
        assign(self[key], value)

    def __iadd__(self, other: Any) -> Any:
        return _update(self, other, "add")

    def __isub__(self, other: Any) -> Any:
        return _update(self, other, "subtract")

    def __imul__(self, other: Any) -> Any:
        return _update(self, other, "multiply")

    def __itruediv__(self, other: Any) -> Any:
        return _update(self, other, "divide")

    def __iand__(self, other: Any) -> Any:
        return _update(self, other, "bitwise_and")

    def __ior__(self, other: Any) -> Any:
        return _update(self, other, "bitwise_or")

    def __ixor__(self, other: Any) -> Any:
        return _update(self, other, "bitwise_xor")

    # -- operators ---------------------------------------------------------------------------------------------------

    def __add__(self, other: Any) -> Any:
        if isinstance(other, Index):
            return DynamicIndex(other, ((self, 1),))
        return _operate("add", self, other)

    def __radd__(self, other: Any) -> Any:
        if isinstance(other, Index):
            return DynamicIndex(other, ((self, 1),))
        return _operate("add", other, self)

    def __sub__(self, other: Any) -> Any:
        return _operate("subtract", self, other)

    def __rsub__(self, other: Any) -> Any:
        return _operate("subtract", other, self)

    def __mul__(self, other: Any) -> Any:
        return _operate("multiply", self, other)

    def __rmul__(self, other: Any) -> Any:
        return _operate("multiply", other, self)

    def __truediv__(self, other: Any) -> Any:
        return _operate("divide", self, other)

    def __rtruediv__(self, other: Any) -> Any:
        return _operate("divide", other, self)

    def __floordiv__(self, other: Any) -> Any:
        return _call("floor_divide", self, other)

    def __mod__(self, other: Any) -> Any:
        return _operate("mod", self, other)

    def __pow__(self, other: Any) -> Any:
        return _operate("power", self, other)

    def __neg__(self) -> Any:
        return _call("negative", self)

    def __abs__(self) -> Any:
        return _call("abs", self)

    def __and__(self, other: Any) -> Any:
        return _operate("bitwise_and", self, other)

    __rand__ = __and__

    def __or__(self, other: Any) -> Any:
        return _operate("bitwise_or", self, other)

    __ror__ = __or__

    def __xor__(self, other: Any) -> Any:
        return _operate("bitwise_xor", self, other)

    __rxor__ = __xor__

    def __invert__(self) -> Any:
        return _call("invert", self)

    def __lshift__(self, other: Any) -> Any:
        return _operate("left_shift", self, other)

    def __rshift__(self, other: Any) -> Any:
        return _operate("right_shift", self, other)

    def __matmul__(self, other: Any) -> Any:
        return _call("matmul", self, other)

    def __lt__(self, other: Any) -> Any:
        return _operate("less", self, other)

    def __le__(self, other: Any) -> Any:
        return _operate("less_equal", self, other)

    def __gt__(self, other: Any) -> Any:
        return _operate("greater", self, other)

    def __ge__(self, other: Any) -> Any:
        return _operate("greater_equal", self, other)

    def __eq__(self, other: object) -> Any:
        if other is None or isinstance(other, str | tuple | list):
            return NotImplemented
        return _operate("equal", self, other)

    def __ne__(self, other: object) -> Any:
        if other is None or isinstance(other, str | tuple | list):
            return NotImplemented
        return _operate("not_equal", self, other)


def _compatible(a: tuple[int, ...], b: tuple[int, ...]) -> bool:
    """Whether two shapes broadcast by NumPy's rules."""
    return all(n == m or n == 1 or m == 1 for n, m in zip(a[::-1], b[::-1]))


def _merge(
    shape: tuple[int, ...], strides: list[int], own: tuple[int, ...], steps: tuple[int, ...], stride: int
) -> tuple[tuple[int, ...], list[int]]:
    """Broadcast the axes of one more index into those met so far."""
    grown = len(own) - len(shape)
    if grown and not _compatible(shape, own):
        # axis 0 is the partition axis of both: let the shorter index lack trailing axes
        if grown > 0:
            shape, strides = shape + (1,) * grown, [*strides, *[0] * grown]
        else:
            own, steps = own + (1,) * -grown, steps + (0,) * -grown
    elif grown > 0:
        shape, strides = (1,) * grown + shape, [0] * grown + strides
    elif grown < 0:
        own, steps = (1,) * -grown + own, (0,) * -grown + steps
    sizes = []
    merged = []
    for n, s, m, step in zip(shape, strides, own, steps):
        if n == m:
            sizes.append(n)
            merged.append(0 if n == 1 else s + step * stride)
        elif m == 1:
            sizes.append(n)
            merged.append(s)
        elif n == 1:
            sizes.append(m)
            merged.append(step * stride)
        else:
            context.fail(
                "KW-INDEX-SHAPE",
                f"index expressions of shapes {shape} and {own} don't fit together in one subscript",
                fix="give each axis one size",
            )
    return tuple(sizes), merged


# -- views that aren't plain --------------------------------------------------------------------------------------------


class LooseTile(Tile):
    """A view whose subscripts reach out of bounds: legal only where a mask cuts those elements off."""

    __slots__ = ("base", "keys")

    def __init__(self, base: Tile, keys: tuple[Any, ...], shape: tuple[int, ...]) -> None:
        self.base = base
        self.keys = keys
        self.shape = shape
        self.dtype = base.dtype
        self.rows = None
        self._view = None
        self._region = None

    def __getattr__(self, name: str) -> Any:
        if name in ("buffer", "offset", "strides"):
            for axis, (k, n) in enumerate(zip(self.keys, self.base.shape)):
                low, high = k.bounds if isinstance(k, Index) else (k, k)
                if low < 0 or high >= n:
                    context.fail(
                        "KW-OUT-OF-BOUNDS",
                        f"index {high if high >= n else low} is outside dimension {axis} (size {n}) of {self.base!r} "
                        "(err_tensor_access_out_of_bound)",
                        operand=self.base.name,
                        found=high if high >= n else low,
                        limit=n - 1,
                        fix="mask the elements beyond the end: mask=(index < size)",
                    )
        raise AttributeError(f"a tile has no attribute {name!r}")

    def __repr__(self) -> str:
        return f"{self.base!r}[...]"

    def narrow(self, box: Box) -> Tile:
        lead = len(self.shape)
        keys = []
        for k in self.keys:
            if isinstance(k, Index):
                own = k if k.ndim == lead else k[(None,) * (lead - k.ndim) + (...,)]
                keys.append(own.restrict(_padded(box, lead, self.shape)))
            else:
                keys.append(k)
        return self.base._affine(tuple(keys))

    def pick(self, chosen: Chosen) -> Tile:
        return PickedTile.by_index(self.base, self.keys, chosen)


def _padded(box: Box, ndim: int, shape: tuple[int, ...]) -> Box:
    return box[:ndim] + tuple((0, n) for n in shape[len(box) : ndim])


class Element(Tile):
    """One element of a tile on chip, chosen by integers alone. As an index it is one number, not a 1x1 array."""

    __slots__ = ()


class Rankless:
    """What `nl.ndarray((128,))` gives on chip: a tile without a free dimension, which no instruction takes.

    Declaring one is harmless (kernels declare `t = nl.ndarray((128,))` and then rebind the name); using it isn't.
    """

    __slots__ = ("name", "shape")

    def __init__(self, shape: tuple[int, ...], name: str) -> None:
        self.shape = shape
        self.name = name

    def refuse(self) -> NoReturn:
        """Stop the kernel, which uses this tile."""
        context.fail(
            "KW-RANK",
            f"{self.name or 'an on-chip tensor'} of shape {list(self.shape)} has no free dimension (Insufficient rank)",
            operand="shape",
            found=list(self.shape),
            limit="[P, F...]",
            fix="give it a free dimension: (nl.par_dim(n), 1)",
        )

    def __getattr__(self, name: str) -> Any:
        self.refuse()

    def __getitem__(self, key: Any) -> Any:
        self.refuse()

    def __setitem__(self, key: Any, value: Any) -> None:
        self.refuse()


class DynamicIndex:
    """An index expression with values of tiles in it: affine part plus factor times tile."""

    __slots__ = ("affine", "terms")
    __array_ufunc__ = None

    def __init__(self, affine: Index, terms: tuple[tuple[Tensor, int], ...]) -> None:
        self.affine = affine
        self.terms = terms

    @property
    def shape(self) -> tuple[int, ...]:
        """Axes of the whole expression."""
        return tuple(int(n) for n in np.broadcast_shapes(self.affine.shape, *(t.shape for t, _ in self.terms)))

    def array(self) -> NDArray[np.int64]:
        """Values, read from the tiles."""
        total: NDArray[np.int64] = self.affine.array()
        for tile, factor in self.terms:
            total = total + tile.read().astype(np.int64) * factor
        return total

    def __add__(self, other: Any) -> DynamicIndex:
        if isinstance(other, Tensor):
            return DynamicIndex(self.affine, (*self.terms, (other, 1)))
        return DynamicIndex(self.affine + other, self.terms)

    __radd__ = __add__

    def __mul__(self, other: int) -> DynamicIndex:
        return DynamicIndex(self.affine * other, tuple((t, f * int(other)) for t, f in self.terms))

    __rmul__ = __mul__


class PickedTile(Tile):
    """Elements picked one by one: by an index that isn't affine, by values of tiles, or by a mask that is no box.

    Attributes:
        locate: gives element offsets in the buffer, shape `shape`, and which of them are chosen (None: all).
    """

    __slots__ = ("known", "locate", "skip")

    def __init__(
        self,
        base: Tile,
        shape: tuple[int, ...],
        locate: Callable[[bool], tuple[NDArray[np.int64], Chosen | None]],
        known: bool,
    ) -> None:
        run = 1
        strides = [0] * len(shape)
        for axis in range(len(shape) - 1, -1, -1):
            strides[axis] = run
            run *= shape[axis]
        if base.buffer.on_chip:
            strides[0] = base.row_elements
        Tile.__init__(self, base.buffer, shape, base.dtype, base.offset, tuple(strides))
        self.locate = locate
        self.known = known
        self.skip = False

    @classmethod
    def by_mask(cls, base: Tile, chosen: Chosen) -> PickedTile:
        """The chosen elements of a strided view."""
        offsets = np.full(base.shape, base.offset, np.int64)
        for axis, (n, s) in enumerate(zip(base.shape, base.strides)):
            line = np.arange(n, dtype=np.int64) * s
            offsets += line.reshape([n if a == axis else 1 for a in range(base.ndim)])
        return cls(base, base.shape, lambda skip: (offsets, chosen), True)

    @classmethod
    def by_index(cls, base: Tile, key: tuple[Any, ...], chosen: Chosen | None = None) -> PickedTile:
        """The elements at integer arrays, one a dimension; tiles among them are read when the view is used."""
        own = base._plain()
        shapes = [k.shape for k in key if not isinstance(k, int)]
        shape = tuple(int(n) for n in np.broadcast_shapes(*shapes))
        if len(shape) == 1:
            shape = (*shape, 1)
            key = tuple(k[:, None] if isinstance(k, Index) else k for k in key)

        def locate(skip: bool) -> tuple[NDArray[np.int64], Chosen | None]:
            offsets = np.full(shape, own.offset, np.int64)
            keep = chosen
            for axis, (k, n, s) in enumerate(zip(key, own.shape, own.strides)):
                values = np.asarray(
                    k if isinstance(k, int) else k.array() if isinstance(k, Index | DynamicIndex) else k.read()
                ).astype(np.int64)
                valid = np.broadcast_to((values >= 0) & (values < n), shape)
                if not valid.all():
                    if skip:
                        keep = valid if keep is None else keep & valid
                    elif keep is None or not valid[keep].all():
                        _outside(own, axis, values, n)
                    values = np.clip(values, 0, n - 1)
                offsets += values * s
            return offsets, keep

        return cls(base, shape, locate, all(isinstance(k, int | Index) for k in key))

    def _compute_region(self) -> Region:
        buffer = self.buffer
        item = self.dtype.itemsize
        row = max(buffer.natural_row // item, 1)
        total = max(buffer.partitions * buffer.row_bytes // item, 1)
        if not self.known:
            return (0, max(1, total // row), 0, row * item, row * item)
        offsets, keep = self.locate(self.skip)
        used = offsets if keep is None else offsets[keep]
        rows, columns = used // row, used % row
        return (
            int(rows.min()),
            int(rows.max()) + 1,
            int(columns.min()) * item,
            (int(columns.max()) + 1) * item,
            row * item,
        )

    def _storage(self) -> NDArray[Any]:
        buffer = self.buffer
        assert buffer.data is not None
        if buffer.scale == 1:
            return np.ndarray(buffer.data.size // self.dtype.itemsize, self.dtype.storage, buffer.data)
        if self.dtype is not buffer.dtype:
            context.unsupported('a reinterpreting view under precision="exact"')
        return np.ndarray(buffer.data.size // buffer.storage.itemsize, buffer.storage, buffer.data)

    def view(self, dtype: Any = None) -> Any:
        if dtype is not None:
            context.unsupported("view(dtype) of a gathered tile")
        offsets, _ = self.locate(self.skip)
        self._view = self._storage()[offsets]
        return self._view

    def read(self) -> NDArray[Any]:
        offsets, keep = self.locate(self.skip)
        buffer = self.buffer
        if buffer.pending:
            if buffer.written is None:
                buffer._make_map()
            assert buffer.written is not None
            item = self.dtype.itemsize * buffer.scale
            seen = buffer.written[offsets * item].astype(bool)
            missing = ~seen if keep is None else ~seen & keep
            if missing.any():
                context.uninitialised(self, tuple(int(i) for i in np.argwhere(missing)[0]))
        return self._storage()[offsets]

    def read_cached(self) -> NDArray[Any]:
        values = self.read()
        return values.reshape(values.shape[0], -1).astype(np.float32)

    def wrote(self) -> None:
        offsets, keep = self.locate(self.skip)
        values = self._view
        assert values is not None
        buffer = self.buffer
        if keep is None:
            self._storage()[offsets] = values
        else:
            offsets = offsets[keep]
            self._storage()[offsets] = values[keep]
        buffer.cache = None
        if buffer.pending:
            if buffer.written is None:
                buffer._make_map()
            assert buffer.written is not None
            item = self.dtype.itemsize * buffer.scale
            for byte in range(item):
                buffer.written[offsets * item + byte] = 1
            if buffer.written.all():
                buffer.pending = False
                buffer.written = None

    def narrow(self, box: Box) -> Tile:
        cut = tuple(slice(None) if n == 1 else slice(*span) for n, span in zip(self.shape, box))
        before = self.locate

        def locate(skip: bool) -> tuple[NDArray[np.int64], Chosen | None]:
            offsets, keep = before(skip)
            return offsets[cut], None if keep is None else keep[cut]

        shape = tuple(n if n == 1 else b - a for n, (a, b) in zip(self.shape, _padded(box, self.ndim, self.shape)))
        return PickedTile(self, shape, locate, self.known)

    def pick(self, chosen: Chosen) -> Tile:
        before = self.locate

        def locate(skip: bool) -> tuple[NDArray[np.int64], Chosen | None]:
            offsets, keep = before(skip)
            return offsets, chosen if keep is None else keep & chosen

        return PickedTile(self, self.shape, locate, self.known)


def _outside(tile: Tile, axis: int, values: NDArray[np.int64], n: int) -> None:
    bad = values[(values < 0) | (values >= n)].reshape(-1)[0]
    context.fail(
        "KW-INDEX-BOUNDS",
        f"index {int(bad)} is outside dimension {axis} (size {n}) of {tile!r} (err_tensor_access_out_of_bound)",
        operand=tile.name,
        found=int(bad),
        limit=n - 1,
        fix="keep indices in range, mask them off, or pass oob_mode=nisa.oob_mode.skip to dma_copy",
    )


# -- results ------------------------------------------------------------------------------------------------------------


class ResultTile(Tile):
    """What an operation returns. Its instruction waits until its destination is known."""

    __slots__ = ("work",)
    work: Work | None

    def __getattr__(self, name: str) -> Any:
        if name in ("buffer", "strides") and self.work is not None:
            self.realise()
            return getattr(self, name)
        raise AttributeError(f"a tile has no attribute {name!r}")

    def realise(self) -> None:
        """Issue the instruction, into a new tile."""
        work = self.work
        assert work is not None
        self.work = None
        core = work.core
        if core.deferred is self:
            core.deferred = None
        before, core.place = core.place, work.place
        try:
            if work.home is not None:
                self._adopt(work.home)
            else:
                self._adopt(core.allocate(self.shape, self.dtype, work.space))
                self.buffer.role = "result"
            if not is_empty(work.chooser):
                self._emit(work, self)
        finally:
            core.place = before

    def issue_into(self, target: Tile) -> None:
        """Issue the instruction straight into `target`, which this result then is."""
        work = self.work
        assert work is not None
        self.work = None
        core = work.core
        core.deferred = None
        if type(target) is LooseTile:
            self._adopt(target.base)
        else:
            self._adopt(target)
        if is_empty(work.chooser):
            return
        before, core.place = core.place, work.place
        try:
            self._emit(work, target)
        finally:
            core.place = before

    def _adopt(self, target: Tensor) -> None:
        self.buffer, self.strides, self.offset = target.buffer, target.strides, target.offset
        self.shape, self.dtype = target.shape, target.dtype

    def _emit(self, work: Work, target: Tile) -> None:
        work.emit(apart(target, work.chooser))
        if work.spaces is not PSUM_ONLY:
            buffer = (target.base if type(target) is LooseTile else target).buffer
            if buffer.space == "psum":
                buffer.from_data = True


class Work:
    """A described but not yet issued instruction.

    Attributes:
        emit: issues it into a destination view.
        space: memory of the tile it makes when no destination is given.
        spaces: memories that it can write.
        explicit: whether the kernel asked for the result's type.
        chooser: the resolved mask.
        accumulate: for matmuls: issues it as an addition to a PSUM view.
        home: tile that it updates when no destination is given, instead of making a new one.
    """

    __slots__ = ("accumulate", "chooser", "core", "emit", "explicit", "home", "place", "space", "spaces")

    def __init__(
        self,
        core: Core,
        emit: Callable[[Tile], None],
        space: str,
        spaces: tuple[str, ...],
        explicit: bool,
        chooser: Chooser,
        place: Place | None,
        accumulate: Callable[[Tile], None] | None,
        home: Tile | None,
    ) -> None:
        self.core = core
        self.emit = emit
        self.space = space
        self.spaces = spaces
        self.explicit = explicit
        self.chooser = chooser
        self.place = place
        self.accumulate = accumulate
        self.home = home


def defer(
    core: Core,
    shape: tuple[int, ...],
    dtype: DType,
    emit: Callable[[Any], None],
    *,
    space: str = "sbuf",
    spaces: tuple[str, ...] = ON_CHIP,
    explicit: bool = False,
    chooser: Chooser = None,
    accumulate: Callable[[Any], None] | None = None,
    home: Tile | None = None,
) -> ResultTile:
    """A result tile of `shape` whose instruction `emit(dst)` is issued when it is used or assigned.

    Only one instruction waits at a time: the next operation issues it first, so program order holds.
    """
    tile = ResultTile.__new__(ResultTile)
    tile.shape = shape
    tile.dtype = dtype
    tile.offset = 0
    tile.rows = None
    tile._view = None
    tile._region = None
    tile.work = Work(core, emit, space, spaces, explicit, chooser, core.here(), accumulate, home)
    core.deferred = tile
    return tile


def begin() -> Core:
    """The running core, after issuing the instruction that waits on it. Every operation starts so."""
    core = context.current()
    if core.deferred is not None:
        core.deferred.realise()
    return core


def is_empty(chooser: Chooser) -> bool:
    """Whether a resolved mask leaves nothing."""
    return type(chooser) is tuple and not chooser


def apart(tile: Tile, chooser: Chooser) -> Tile:
    """The part of an operand that a resolved mask leaves."""
    if chooser is None:
        return tile
    return tile.narrow(chooser) if type(chooser) is tuple else tile.pick(chooser)  # type: ignore[arg-type]


def same_view(a: Tensor, b: Tensor) -> bool:
    """Whether two views mean the same elements."""
    return a.buffer is b.buffer and a.offset == b.offset and a.shape == b.shape and a.strides == b.strides


def assign(target: Tile, value: Any) -> None:
    """`target[...] = value`."""
    core = context.current()
    chooser: Chooser = None
    if type(value) is ResultTile and value.work is not None and core.deferred is value:
        if _direct(target, value):
            value.issue_into(target)
            return
        # the instruction can't write there itself: what its mask left out isn't copied either
        chooser = value.work.chooser
    begin()
    if value is target or (isinstance(value, Tensor) and type(target) in (Tile, Element) and same_view(target, value)):
        return
    from tools.sim.frontend.beta1 import movement

    if is_empty(chooser):
        return
    if chooser is not None and target.shape == value.shape:
        target, value = apart(target, chooser), apart(value, chooser)
    movement.move(target, value)


def _direct(target: Tile, value: ResultTile) -> bool:
    """Whether the instruction of `value` can write `target` itself."""
    work = value.work
    assert work is not None
    if type(target) is LooseTile:
        return (
            type(work.chooser) is tuple
            and not is_empty(work.chooser)
            and target.base.buffer.space in work.spaces
            and target.shape == value.shape
        )
    if target.buffer.space not in work.spaces:
        return False
    if target.shape != value.shape and (
        target.shape[0] != value.shape[0] or prod(target.shape) != prod(value.shape) or work.chooser is not None
    ):
        return False
    return not (work.explicit and target.dtype is not value.dtype and value.dtype.itemsize < target.dtype.itemsize)


def _operate(name: str, x: Any, y: Any) -> Any:
    from tools.sim.frontend.beta1 import elementwise

    if not isinstance(x, Tensor | int | float | np.generic) or not isinstance(y, Tensor | int | float | np.generic):
        return NotImplemented
    return elementwise.binary(name, x, y)


def _call(name: str, *operands: Any) -> Any:
    from tools.sim.frontend.beta1 import language

    return language.call(name, *operands)


def _update(target: Tile, other: Any, name: str) -> Any:
    """`target op= other`, in place; a waiting matmul accumulates into PSUM instead."""
    core = context.current()
    if (
        name == "add"
        and type(other) is ResultTile
        and other.work is not None
        and other.work.accumulate is not None
        and core.deferred is other
        and target.buffer.space == "psum"
        and prod(target.shape) == prod(other.shape)
    ):
        other.work.emit = other.work.accumulate
        other.issue_into(target)
        return target
    from tools.sim.frontend.beta1 import elementwise

    begin()
    elementwise.update(name, target, other)
    return target
