"""Elementwise and reducing functions of `nki.language` in Beta 1, with broadcasting and type promotion.

Each records what the hardware executes: two tiles are a tensor_tensor, a tile with a number or a [P, 1] column is a
tensor_scalar, a function is a Scalar Engine activation, and broadcasting along partitions goes through the PE.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import numpy as np

from tools.sim import context, dtypes
from tools.sim.core import Core
from tools.sim.dtypes import DType
from tools.sim.frontend.beta1.mask import Mask, aligned, resolve
from tools.sim.frontend.beta1.movement import copy, fitted, in_sbuf, new_tile, source, tile_of, unknown
from tools.sim.frontend.beta1.promotion import dtype_of, result_type
from tools.sim.frontend.beta1.tile import Chooser, Tile, begin, defer, is_empty
from tools.sim.isa import gpsimd, ops, scalar, vector
from tools.sim.isa import tensor as pe
from tools.sim.tensor import Tensor

__all__ = ["binary", "broadcast", "copy", "reduce", "unary", "update"]
_EXACT = (dtypes.int32, dtypes.uint32)
_BOOLEAN = frozenset(
    "equal not_equal greater greater_equal less less_equal logical_and logical_or logical_xor logical_not all".split()
)


# -- broadcasting ------------------------------------------------------------------------------------------------------


def broadcast(value: Any, shape: tuple[int, ...]) -> Tensor:
    """`value` seen with `shape`: stride 0 along free dimensions; along partitions by a matmul with ones."""
    tile = tile_of(value, "src", "nl.broadcast_to")
    if tile.shape == shape:
        return tile
    own = tile.shape
    if len(own) < len(shape):
        grown = len(shape) - len(own)
        lead = own[0] == shape[0] and any(a not in (1, b) for a, b in zip(own[::-1], shape[::-1]))
        own = own[:1] + (1,) * grown + own[1:] if lead else (1,) * grown + own
    if len(own) != len(shape) or any(a not in (1, b) for a, b in zip(own, shape)):
        context.fail(
            "KW-BROADCAST",
            f"{tile!r} can't be broadcast to {list(shape)}",
            found=list(tile.shape),
            limit=list(shape),
            fix="only dimensions of size 1 can be repeated",
        )
    if not tile.buffer.on_chip:
        return Tensor.broadcast_to(tile, shape)
    if own[0] != shape[0]:
        core = begin()
        return spread(core, tile.reshape(own) if own != tile.shape else tile, shape)
    if own != tile.shape:
        tile = tile.reshape(own)
    return Tensor.broadcast_to(tile, shape)


def spread(core: Core, row: Tile, shape: tuple[int, ...]) -> Tensor:
    """A [1, F] tile repeated over partitions, as a new SBUF tile: ones[1, P]^T @ row on the PE, copied out of PSUM."""
    partitions = shape[0]
    limit = core.machine.partitions
    if partitions > limit:
        context.fail(
            "KW-PARTITION-LIMIT",
            f"broadcast to {partitions} partitions; there are {limit}",
            found=partitions,
            limit=limit,
            fix="keep the result to 128 partitions and loop over the rest",
        )
    free = row.shape[1:]
    count = prod(free)

    def emit(dst: Any) -> None:
        flat = in_sbuf(core, row)
        if not flat.dtype.is_float or not flat.is_contiguous():
            packed = new_tile(core, (1, count), flat.dtype if flat.dtype.is_float else dtypes.float32)
            vector.tensor_copy(packed, flat)
            flat = packed
        flat = flat.reshape((1, count))
        one = _ones(core, flat.dtype, partitions)
        step = core.machine.psum_bank_bytes // 4
        if free == shape[1:]:
            into = dst if len(dst.shape) == 2 else dst.reshape((partitions, count))
            held = None
        else:
            held = into = new_tile(core, (partitions, count), dst.dtype)
        for start in range(0, count, step):
            stop = min(count, start + step)
            bank = new_tile(core, (partitions, stop - start), dtypes.float32, "psum")
            pe.nc_matmul(bank, one, flat[:, start:stop], accumulate=False)
            vector.tensor_copy(into[:, start:stop], bank)
        if held is not None:
            vector.tensor_copy(dst, Tensor.broadcast_to(held.reshape((partitions, *free)), shape))

    return defer(core, shape, row.dtype, emit, spaces=("sbuf",))


def _ones(core: Core, dtype: DType, partitions: int) -> Tensor:
    key = ("ones", dtype, partitions)
    found = core.constants.get(key)
    if found is None:
        found = core.constants[key] = new_tile(core, (1, partitions), dtype)
        vector.memset(found, 1.0)
    return found


# -- two operands ------------------------------------------------------------------------------------------------------


def binary(name: str, x: Any, y: Any, dtype: Any = None, mask: Any = None, engine: Any = None, api: str = "") -> Any:
    """`x name y` elementwise, with NumPy broadcasting; at least one operand is a tile."""
    core = begin()
    x_tile, y_tile = isinstance(x, Tensor), isinstance(y, Tensor)
    if not x_tile and not y_tile:
        return _constant(name, x, y, api)
    kind = dtypes.bool_ if dtype is None and name in _BOOLEAN else result_type(dtype, x, y)
    if name == "divide" and dtype is None and not kind.is_float:
        kind = dtypes.float32
    explicit = dtype is not None
    if x_tile and y_tile:
        a, b = tile_of(x, "x", api or f"nl.{name}"), tile_of(y, "y", api or f"nl.{name}")
        if a.shape == b.shape:
            shape = a.shape
        else:
            shape, a, b = _common(a, b, name)
        chooser = resolve(mask, shape)
        if a.shape == b.shape:
            return _two_tiles(core, name, a, b, shape, kind, explicit, chooser, engine)
        if b.shape == shape:
            return _with_lanes(core, name, b, a, True, shape, kind, explicit, chooser, engine)
        return _with_lanes(core, name, a, b, False, shape, kind, explicit, chooser, engine)
    if x_tile:
        tile, other, reverse = tile_of(x, "x", api or f"nl.{name}"), y, False
    else:
        tile, other, reverse = tile_of(y, "y", api or f"nl.{name}"), x, True
    if not isinstance(other, bool | int | float | np.generic):
        context.fail(
            "KW-OPERAND-TYPE",
            f"{api or 'nl.' + name}: {type(other).__name__} {other!r} is neither a tile nor a number"[:300],
            found=type(other).__name__,
            fix="pass a tile or a number",
        )
    chooser = resolve(mask, tile.shape)
    return _with_lanes(core, name, tile, other, reverse, tile.shape, kind, explicit, chooser, engine)


def _constant(name: str, x: Any, y: Any, api: str) -> Any:
    if not all(isinstance(v, bool | int | float | np.generic) for v in (x, y)):
        context.fail(
            "KW-OPERAND-TYPE",
            f"{api or 'nl.' + name}: {type(x).__name__} and {type(y).__name__} are no tiles",
            fix="pass at least one tile",
        )
    with np.errstate(all="ignore"):
        return ops.alu(name).function(np.asarray(x), np.asarray(y))[()]


def _common(a: Tile, b: Tile, name: str) -> tuple[tuple[int, ...], Tile, Tile]:
    """The broadcast shape of two tiles, and both prepared for it; a [P, 1] column stays a column."""
    if a.ndim != b.ndim and a.shape[0] == b.shape[0]:
        a, b = _partitions_first(a, b)
    try:
        shape = tuple(int(n) for n in np.broadcast_shapes(a.shape, b.shape))
    except ValueError:
        if a.shape[0] == b.shape[0] and prod(a.shape) == prod(b.shape):
            return a.shape, a, b.reshape(a.shape)
        if a.shape[0] == b.shape[0] and prod(b.shape) == b.shape[0]:
            return a.shape, a, b.reshape((b.shape[0],) + (1,) * (a.ndim - 1))
        if a.shape[0] == b.shape[0] and prod(a.shape) == a.shape[0]:
            return b.shape, a.reshape((a.shape[0],) + (1,) * (b.ndim - 1)), b
        context.fail(
            "KW-SHAPE-MISMATCH",
            f"nl.{name}: shapes {list(a.shape)} and {list(b.shape)} don't broadcast (err_num_partition_mismatch)",
            found=list(b.shape),
            limit=list(a.shape),
            fix="make the shapes equal, or 1 where they differ",
        )
    exact = a.dtype in _EXACT and b.dtype in _EXACT
    if a.shape == shape and prod(b.shape) == b.shape[0] == shape[0] and not exact:
        return shape, a, b
    if b.shape == shape and prod(a.shape) == a.shape[0] == shape[0] and not exact:
        return shape, a, b
    wide_a = a if a.shape == shape else _realised(broadcast(a, shape))
    wide_b = b if b.shape == shape else _realised(broadcast(b, shape))
    return shape, wide_a, wide_b


def _partitions_first(a: Tile, b: Tile) -> tuple[Tile, Tile]:
    """Two tiles on the same partitions, brought to one rank so that their partition dimensions meet.

    NumPy's alignment from the right stands where it makes one of the shapes.
    """
    low, high = sorted((a, b), key=lambda tile: tile.ndim)
    grown = (low.shape[0], *(1,) * (high.ndim - low.ndim), *low.shape[1:])
    if _joined(a.shape, b.shape) in (a.shape, b.shape) or _joined(grown, high.shape) is None:
        return a, b
    taller = low.reshape(grown)
    assert isinstance(taller, Tile)
    return (taller, high) if low is a else (high, taller)


def _joined(a: tuple[int, ...], b: tuple[int, ...]) -> tuple[int, ...] | None:
    """The shape that two shapes broadcast to by NumPy's rules, if any."""
    try:
        return tuple(int(n) for n in np.broadcast_shapes(a, b))
    except ValueError:
        return None


def _realised(tile: Tensor) -> Tile:
    """`tile` after the instruction that makes it."""
    assert isinstance(tile, Tile)
    assert tile.buffer is not None
    return tile


def _two_tiles(
    core: Core,
    name: str,
    a: Tile,
    b: Tile,
    shape: tuple[int, ...],
    kind: DType,
    explicit: bool,
    chooser: Chooser,
    engine: Any,
) -> Any:
    a, b = source(a, chooser), source(b, chooser)

    def emit(dst: Any) -> None:
        second = b
        if a.buffer.space == "psum" and b.buffer.space == "psum":
            second = in_sbuf(core, b)
        vector.tensor_tensor(dst, a, second, name, engine)

    return defer(core, shape, kind, emit, explicit=explicit, chooser=chooser)


def _with_lanes(
    core: Core,
    name: str,
    tile: Tile,
    other: Any,
    reverse: bool,
    shape: tuple[int, ...],
    kind: DType,
    explicit: bool,
    chooser: Chooser,
    engine: Any,
) -> Any:
    """A tile with a number, or with one number a partition."""
    data = source(tile, chooser)
    if isinstance(other, Tile) and chooser is not None and not isinstance(chooser, np.ndarray) and chooser:
        other = other.narrow(chooser)

    def emit(dst: Any) -> None:
        vector.tensor_scalar(dst, data, name, other, reverse, engine=engine)

    return defer(core, shape, kind, emit, explicit=explicit, chooser=chooser)


def update(name: str, target: Tile, other: Any) -> None:
    """`target = target name other`, in place."""
    if isinstance(other, Tensor):
        value = fitted(tile_of(other, "operand", f"nl.{name}"), target.shape)
        if prod(value.shape) == value.shape[0] == target.shape[0] and target.size != value.size:
            vector.tensor_scalar(target, target, name, value)
            return
        value = _realised(value)
        if value.strides[-1] == 0 and prod(other.shape) == other.shape[0] == target.shape[0]:
            vector.tensor_scalar(target, target, name, other)
            return
        core = context.current()
        if target.buffer.space == "psum":
            value = in_sbuf(core, value)
            target.buffer.from_data = True
        vector.tensor_tensor(target, target, value, name)
        return
    if not isinstance(other, bool | int | float | np.generic):
        context.fail(
            "KW-OPERAND-TYPE",
            f"{target!r} is updated with {type(other).__name__}, which is neither a tile nor a number",
            found=type(other).__name__,
            fix="write the other side as a tile or a number",
        )
    vector.tensor_scalar(target, target, name, other)


# -- one operand -------------------------------------------------------------------------------------------------------


def unary(name: str, x: Any, dtype: Any = None, mask: Any = None) -> Any:
    """A function of one tile, by the Scalar Engine (or where the Vector Engine has it as an ALU operator, there)."""
    core = begin()
    if not isinstance(x, Tensor) and isinstance(x, bool | int | float | np.generic):
        return ops.activation(name).function(np.asarray(x, np.float32))[()]
    tile = tile_of(x, "x", f"nl.{name}")
    chooser = resolve(mask, tile.shape)
    data = source(tile, chooser)
    kind = dtype_of(dtype) if dtype is not None else dtypes.bool_ if name in _BOOLEAN else tile.dtype
    emit: Callable[[Any], None]
    if name == "reciprocal":
        emit = lambda dst: vector.reciprocal(dst, data)  # noqa: E731
    elif name in ("negative", "abs"):
        operator, operand = ("multiply", -1.0) if name == "negative" else ("abs", None)
        emit = lambda dst: vector.tensor_scalar(dst, data, operator, operand)  # noqa: E731
    elif name == "invert":
        emit = lambda dst: vector.tensor_scalar(dst, data, "invert", 0)  # noqa: E731
    elif name == "logical_not":
        emit = lambda dst: vector.tensor_scalar(dst, data, "equal", 0.0)  # noqa: E731
    else:
        emit = lambda dst: scalar.activation(dst, name, data)  # noqa: E731
    return defer(core, tile.shape, kind, emit, explicit=dtype is not None, chooser=chooser)


def floor_divide(x: Any, y: Any, *, dtype: Any = None, mask: Any = None) -> Any:
    """floor(x / y): a division and a rounding down."""
    quotient = binary("divide", x, y, dtypes.float32, mask)
    return unary("floor", quotient, result_type(dtype, x, y), mask)


# -- reductions --------------------------------------------------------------------------------------------------------

_REDUCERS = {
    "sum": "add",
    "mean": "add",
    "max": "maximum",
    "min": "minimum",
    "prod": "multiply",
    "all": "logical_and",
    "amax": "maximum",
    "amin": "minimum",
}


class Reduction:
    """Where a reduction reads and what it leaves.

    Attributes:
        data: the operand with its reduced dimensions last.
        axes: reduced dimensions of `data`.
        shape: of the result.
        chooser: part of the result that a mask leaves.
    """

    __slots__ = ("axes", "chooser", "count", "data", "shape")

    def __init__(self, x: Any, axis: Any, mask: Any, keepdims: bool, api: str) -> None:
        tile = tile_of(x, "data", api)
        given = axis if isinstance(axis, list | tuple | range) else (axis,)
        axes = tuple(sorted({int(a) + tile.ndim if int(a) < 0 else int(a) for a in given}))
        if not axes or axes[0] < 1 or axes[-1] >= tile.ndim:
            context.fail(
                "KW-REDUCE-AXIS",
                f"{api}: axis {axis} of a {tile.ndim}-D tile; only free dimensions can be reduced",
                operand="axis",
                found=str(axis),
                limit=f"1..{tile.ndim - 1}",
                fix="reduce across partitions by a matmul with ones, nc_transpose, or tensor_partition_reduce",
            )
        kept = tuple(a for a in range(tile.ndim) if a not in axes)
        chooser = resolve(mask, tile.shape)
        if isinstance(chooser, np.ndarray):
            context.unsupported(f"{api} with a mask that is no rectangle")
        data = source(tile, chooser)
        if kept != tuple(range(len(kept))) and not is_empty(chooser):
            order = kept + axes
            data = Tile(
                data.buffer,
                tuple(data.shape[a] for a in order),
                data.dtype,
                data.offset,
                tuple(data.strides[a] for a in order),
            )
        self.data = data
        self.axes = tuple(range(len(kept), tile.ndim))
        self.count = prod(data.shape[len(kept) :])
        if keepdims:
            self.shape = tuple(1 if a in axes else n for a, n in enumerate(tile.shape))
        else:
            self.shape = tuple(tile.shape[a] for a in kept)
            if len(self.shape) == 1:
                self.shape = (*self.shape, 1)
        self.chooser: Chooser = None
        if chooser is not None:
            if is_empty(chooser):
                self.chooser = ()
            elif keepdims:
                self.chooser = tuple((0, 1) if a in axes else chooser[a] for a in range(tile.ndim))
            else:
                box = tuple(chooser[a] for a in kept)
                self.chooser = box if len(box) > 1 else (*box, (0, 1))


def reduce(
    name: str, x: Any, axis: Any, *, dtype: Any = None, mask: Any = None, keepdims: bool = False, negate: bool = False
) -> Any:
    """`nl.sum` and kin: a Vector Engine reduction along free dimensions (a mean scales the sum afterwards)."""
    core = begin()
    work = Reduction(x, axis, mask, keepdims, f"nl.{name}")
    operator = _REDUCERS.get(name, name)
    kind = dtype_of(dtype) if dtype is not None else dtypes.bool_ if name == "all" else work.data.dtype

    def emit(dst: Any) -> None:
        vector.tensor_reduce(dst, operator, work.data, work.axes, negate)
        if name == "mean":
            vector.tensor_scalar(dst, dst, "multiply", 1.0 / work.count)

    return defer(core, work.shape, kind, emit, explicit=dtype is not None, chooser=work.chooser)


def var(x: Any, axis: Any, *, dtype: Any = None, mask: Any = None, keepdims: bool = False, **kwargs: Any) -> Any:
    """Variance along free dimensions: bn_stats on pieces, merged by bn_aggr."""
    unknown("nl.var", kwargs)
    core = begin()
    work = Reduction(x, axis, mask, keepdims, "nl.var")
    kind = work.data.dtype if dtype is None else dtype_of(dtype)
    kept = work.data.shape[1 : len(work.data.shape) - len(work.axes)]
    if prod(kept) != 1:
        context.unsupported("nl.var that keeps free dimensions")

    def emit(dst: Any) -> None:
        data = work.data
        flat = data.reshape((data.shape[0], work.count))
        limit = core.machine.bn_stats_fmax
        pieces = -(-work.count // limit)
        stats = new_tile(core, (data.shape[0], 6 * pieces), dtypes.float32)
        for i in range(pieces):
            stop = min(work.count, (i + 1) * limit)
            vector.bn_stats(stats[:, 6 * i : 6 * i + 6], flat[:, i * limit : stop])
        both = new_tile(core, (data.shape[0], 2), dtypes.float32)
        vector.bn_aggr(both, stats)
        vector.tensor_copy(dst, both[:, 1:2])

    return defer(core, work.shape, kind, emit, explicit=dtype is not None, chooser=work.chooser)


# -- composites --------------------------------------------------------------------------------------------------------


def softmax(x: Any, axis: Any, *, dtype: Any = None, compute_dtype: Any = None, mask: Any = None, **kwargs: Any) -> Any:
    """exp(x - max) / sum along free dimensions: a reduction, an activation that also sums, a reciprocal, a scaling."""
    unknown("nl.softmax", kwargs)
    core = begin()
    tile = tile_of(x, "x", "nl.softmax")
    work = Reduction(tile, axis, mask, False, "nl.softmax")
    if prod(work.shape[1:]) != 1:
        context.unsupported("nl.softmax that keeps free dimensions")
    chooser = resolve(mask, tile.shape)
    kind = dtype_of(dtype if dtype is not None else compute_dtype) if dtype or compute_dtype else tile.dtype

    def emit(dst: Any) -> None:
        data = source(tile, chooser)
        p = data.shape[0]
        peak = new_tile(core, (p, 1), dtypes.float32)
        vector.tensor_reduce(peak, "maximum", data, tuple(range(1, data.ndim)), negate=True)
        powers = new_tile(core, data.shape, dtypes.float32)
        total = new_tile(core, (p, 1), dtypes.float32)
        scalar.activation_reduce(powers, "exp", data, "add", total, bias=peak)
        vector.reciprocal(total, total)
        vector.tensor_scalar(dst, powers, "multiply", total)

    return defer(core, tile.shape, kind, emit, explicit=dtype is not None, chooser=chooser)


def rms_norm(
    x: Any,
    w: Any,
    axis: Any,
    n: Any,
    epsilon: float = 1e-6,
    *,
    dtype: Any = None,
    compute_dtype: Any = None,
    mask: Any = None,
    **kwargs: Any,
) -> Any:
    """x / sqrt(sum(x^2) / n + epsilon) * w along free dimensions."""
    unknown("nl.rms_norm", kwargs)
    core = begin()
    tile = tile_of(x, "x", "nl.rms_norm")
    weight = tile_of(w, "w", "nl.rms_norm")
    work = Reduction(tile, axis, mask, False, "nl.rms_norm")
    if prod(work.shape[1:]) != 1:
        context.unsupported("nl.rms_norm that keeps free dimensions")
    chooser = resolve(mask, tile.shape)
    kind = dtype_of(dtype if dtype is not None else compute_dtype) if dtype or compute_dtype else tile.dtype
    if weight.shape != tile.shape:
        weight = _realised(broadcast(weight, tile.shape))
    gain = source(weight, chooser)

    def emit(dst: Any) -> None:
        data = source(tile, chooser)
        squares = new_tile(core, data.shape, dtypes.float32)
        total = new_tile(core, (data.shape[0], 1), dtypes.float32)
        scalar.activation_reduce(squares, "square", data, "add", total)
        vector.tensor_scalar(total, total, "multiply", 1.0 / float(n), op1="add", operand1=float(epsilon))
        scalar.activation(total, "rsqrt", total)
        vector.scalar_tensor_tensor(dst, data, "multiply", total, "multiply", gain)

    return defer(core, tile.shape, kind, emit, explicit=dtype is not None, chooser=chooser)


def _flags(core: Core, mask: Mask, others: list[tuple[int, ...]]) -> Tile:
    """A tile that holds 1 where an affine mask is true and 0 elsewhere, of the shape that it broadcasts to."""
    if mask.values is not None:
        context.fail(
            "KW-MASK-EXPRESSION",
            "nl.where: a condition of indices must be affine comparisons joined with & (err_unsupported_expression_in_mask)",
            operand="condition",
            fix="join comparisons with &, or compute the condition as a tile",
        )
    shape = tuple(int(n) for n in np.broadcast_shapes(mask.shape, *others))
    flags = new_tile(core, shape, dtypes.float32)
    vector.memset(flags, 1.0)
    for index, comparison in mask.terms:
        steps = aligned(index.steps, index.shape, shape)
        kept = new_tile(core, shape, dtypes.float32)
        pattern = [[s, n] for s, n in zip(steps[1:], shape[1:])]
        gpsimd.affine_select(kept, pattern, steps[0], flags, 0.0, comparison, index.offset)
        flags = kept
    return flags


def where(condition: Any, x: Any, y: Any, *, dtype: Any = None, mask: Any = None, **kwargs: Any) -> Any:
    """x where the condition is not 0, else y: y is written first, then x is copied over it under a predicate.

    Args:
        condition: a tile, or a comparison of index expressions (GpSimd then makes the tile).
    """
    unknown("nl.where", kwargs)
    core = begin()
    if isinstance(condition, Mask):
        condition = _flags(core, condition, [v.shape for v in (x, y) if isinstance(v, Tensor)])
    chosen = tile_of(condition, "condition", "nl.where")
    shape = tuple(
        int(n) for n in np.broadcast_shapes(chosen.shape, *(v.shape for v in (x, y) if isinstance(v, Tensor)))
    )
    values = [v for v in (x, y) if isinstance(v, Tensor)] or [x, y]
    kind = result_type(dtype, *(values if len(values) == 1 else (x, y)))
    parts = [
        _realised(broadcast(v, shape)) if isinstance(v, Tensor) and v.shape != shape else v for v in (chosen, x, y)
    ]
    chooser = resolve(mask, shape)
    predicate, on_true, on_false = (source(v, chooser) if isinstance(v, Tile) else v for v in parts)

    def emit(dst: Any) -> None:
        flags = predicate
        if flags.dtype.is_float or 0 in flags.strides:
            held = new_tile(core, flags.shape, dtypes.uint8)
            vector.tensor_scalar(held, flags, "not_equal", 0.0)
            flags = held
        value = on_true
        if isinstance(value, Tensor) and (value.dtype is not dst.dtype or value.buffer is dst.buffer):
            cast = new_tile(core, value.shape, dst.dtype)
            vector.tensor_copy(cast, value)
            value = cast
        if flags.buffer is dst.buffer:
            held = new_tile(core, flags.shape, flags.dtype)
            vector.tensor_copy(held, flags)
            flags = held
        if isinstance(on_false, Tensor):
            vector.tensor_copy(dst, on_false)
        else:
            vector.memset(dst, on_false)
        vector.tensor_copy_predicated(dst, value, flags)

    return defer(core, shape, kind, emit, explicit=dtype is not None, chooser=chooser)


def broadcast_to(src: Any, *args: Any, shape: Any = None, **kwargs: Any) -> Any:
    """`src` broadcast to `shape` by NumPy's rules."""
    unknown("nl.broadcast_to", kwargs)
    begin()
    sizes = shape if shape is not None else args[0] if args else None
    if sizes is None:
        context.fail(
            "KW-ARGUMENT",
            "nl.broadcast_to needs shape=",
            operand="shape",
            fix="pass shape=, the sizes that the result shall have",
        )
    return broadcast(src, tuple(context.index_value(n) for n in sizes))


def expand_dims(data: Any, axis: Any) -> Any:
    """A view with dimensions of size 1 inserted."""
    begin()
    return tile_of(data, "data", "nl.expand_dims").expand_dims(axis)


def static_cast(input_data: Any, dtype: Any) -> Any:
    """A scalar or array as another type, at trace time; a tile is copied."""
    if isinstance(input_data, Tensor):
        return copy(input_data, dtype=dtype)
    kind = dtype_of(dtype)
    array = np.asarray(input_data).astype(kind.storage)
    return array[()] if array.ndim == 0 else array
