"""`nki.isa` in Beta 1: each call allocates (or is given) its destination and issues one instruction of the common set."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import numpy as np

from tools.sim import context, dtypes
from tools.sim.core import Core, common_flags
from tools.sim.dtypes import DType
from tools.sim.frontend.beta1.call import Call
from tools.sim.frontend.beta1.elementwise import Reduction
from tools.sim.frontend.beta1.index import Index
from tools.sim.frontend.beta1.mask import Mask, aligned
from tools.sim.frontend.beta1.movement import dma_copy, dma_transpose, fitted, in_sbuf, new_tile, source, unknown
from tools.sim.frontend.beta1.promotion import dtype_of, result_type
from tools.sim.frontend.beta1.tile import PSUM_ONLY, SBUF_ONLY, LooseTile, Tile, apart
from tools.sim.instruction import Engine, Flag
from tools.sim.isa import control, gather, gpsimd, randomness, scalar, search, select, vector
from tools.sim.isa import tensor as pe
from tools.sim.isa.enums import engine as engines
from tools.sim.isa.enums import reduce_cmd as commands
from tools.sim.isa.operands import require_dtype
from tools.sim.isa.vector import FP32_MIN
from tools.sim.tensor import Tensor

_BIAS_TYPES = (dtypes.float32, dtypes.float16, dtypes.bfloat16)
"""Types of a bias tile (Beta-1 error reference, err_activation_bias_invalid_type)."""


# -- Scalar Engine -----------------------------------------------------------------------------------------------------


def activation(
    op: Any,
    data: Any,
    *,
    bias: Any = None,
    scale: Any = 1.0,
    reduce_op: Any = None,
    reduce_res: Any = None,
    reduce_cmd: Any = commands.idle,
    mask: Any = None,
    dtype: Any = None,
    **kwargs: Any,
) -> Any:
    """op(data * scale + bias) on the Scalar Engine, optionally summed over the free dimensions."""
    call = Call("nisa.activation", kwargs, mask, dtype)
    tile, read = call.data(data)
    shift, factor = call.lane(bias, "bias"), call.lane(scale, "scale")
    if isinstance(shift, Tile):
        require_dtype(shift, "bias", _BIAS_TYPES, api=call.api)
    elif shift is None and call.core.placed:
        context.strict_fail(
            "KW-STRICT-ALLOCATED",
            "err_bias_tensor_must_be_specified_in_allocation: activation without a bias needs a hidden tile of zeros",
            operand="bias",
            limit="a [P, 1] tile",
            fix="allocate a [P, 1] tile of zeros and pass it as bias",
        )
    total = call.lane(reduce_res, "reduce_res")
    return call.result(
        tile.shape,
        tile.dtype,
        lambda dst: scalar.activation(dst, op, read, shift, factor, reduce_op, total, reduce_cmd),
    )


def activation_reduce(
    op: Any,
    data: Any,
    *,
    reduce_op: Any,
    reduce_res: Any,
    bias: Any = None,
    scale: Any = 1.0,
    mask: Any = None,
    dtype: Any = None,
    **kwargs: Any,
) -> Any:
    """`activation` whose sum over the free dimensions lands in reduce_res."""
    unknown("nisa.activation_reduce", kwargs)
    return activation(
        op,
        data,
        bias=bias,
        scale=scale,
        reduce_op=reduce_op,
        reduce_res=reduce_res,
        reduce_cmd=commands.reset_reduce,
        mask=mask,
        dtype=dtype,
    )


# -- Vector Engine -----------------------------------------------------------------------------------------------------


def tensor_copy(src: Any, *, mask: Any = None, dtype: Any = None, engine: Any = None, **kwargs: Any) -> Any:
    """A copy of a tile, by default in SBUF."""
    call = Call("nisa.tensor_copy", kwargs, mask, dtype)
    tile, read = call.data(src, "src")
    return call.result(tile.shape, tile.dtype, lambda dst: vector.tensor_copy(dst, read, engine))


tensor_copy_dynamic_src = tensor_copy


def tensor_copy_dynamic_dst(
    *, dst: Any, src: Any, mask: Any = None, dtype: Any = None, engine: Any = None, **kwargs: Any
) -> None:
    """Copy a tile to a place whose offset is known only while the kernel runs."""
    call = Call("nisa.tensor_copy_dynamic_dst", kwargs, mask, dtype)
    _, into = call.into(dst)
    tile = call.tile(src, "src")
    if not call.empty:
        vector.tensor_copy(into, source(tile, call.chooser), engine)


def memset(shape: Any, value: Any, dtype: Any, *, mask: Any = None, engine: Any = None, **kwargs: Any) -> Any:
    """A tile filled with one value; the first dimension is the partition dimension."""
    kind = dtype_of(dtype)
    call = Call("nisa.memset", kwargs, mask, kind)
    sizes = tuple(context.index_value(n) for n in shape)
    call.over(sizes)
    if isinstance(value, np.ndarray) and value.size == 1:
        value = value.reshape(-1)[0]
    return call.result(sizes, kind, lambda dst: vector.memset(dst, value, engine))


def tensor_tensor(
    data1: Any, data2: Any, op: Any, *, dtype: Any = None, mask: Any = None, engine: Any = None, **kwargs: Any
) -> Any:
    """data1 op data2, elementwise over tiles of equal shape."""
    call = Call("nisa.tensor_tensor", kwargs, mask, dtype)
    a, b = call.tile(data1, "data1"), call.tile(data2, "data2")
    shape = a.shape
    if b.shape != shape:
        a, b, shape = _same_shape(a, b)
    call.over(shape)
    left, right = source(a, call.chooser), source(b, call.chooser)
    return call.result(shape, result_type(dtype, a, b), lambda dst: vector.tensor_tensor(dst, left, right, op, engine))


def _same_shape(a: Tile, b: Tile) -> tuple[Tile, Tile, tuple[int, ...]]:
    if a.shape[0] == b.shape[0] and prod(a.shape) == prod(b.shape):
        return a, b, a.shape
    # one element a partition goes with a tile of any rank (course kernels that ran on devices add a bias so)
    if prod(b.shape) == b.shape[0] and len(a.shape) > len(b.shape):
        b = b.reshape((b.shape[0], *(1,) * (len(a.shape) - 1)))
    elif prod(a.shape) == a.shape[0] and len(b.shape) > len(a.shape):
        a = a.reshape((a.shape[0], *(1,) * (len(b.shape) - 1)))
    if prod(b.shape) <= prod(a.shape):
        return a, _held(fitted(b, a.shape)), a.shape
    return _held(fitted(a, b.shape)), b, b.shape


def _held(tile: Tile) -> Tile:
    """`tile` after the instruction that makes it."""
    assert tile.buffer is not None
    return tile


def tensor_scalar(
    data: Any,
    op0: Any,
    operand0: Any = None,
    reverse0: bool = False,
    op1: Any = None,
    operand1: Any = None,
    reverse1: bool = False,
    *,
    dtype: Any = None,
    mask: Any = None,
    engine: Any = None,
    **kwargs: Any,
) -> Any:
    """(data op0 operand0) op1 operand1, with operands that are numbers or [P, 1] tiles."""
    call = Call("nisa.tensor_scalar", kwargs, mask, dtype)
    tile, read = call.data(data)
    a, b = call.lane(operand0, "operand0"), call.lane(operand1, "operand1")
    given = [v for v in (operand0, operand1) if v is not None]
    return call.result(
        tile.shape,
        result_type(dtype, tile, *given),
        lambda dst: vector.tensor_scalar(dst, read, op0, a, reverse0, op1, b, reverse1, engine),
    )


def scalar_tensor_tensor(
    *,
    data: Any,
    op0: Any,
    operand0: Any,
    op1: Any,
    operand1: Any,
    reverse0: bool = False,
    reverse1: bool = False,
    dtype: Any = None,
    mask: Any = None,
    engine: Any = None,
    **kwargs: Any,
) -> Any:
    """(data op0 operand0) op1 operand1, where operand0 is a number or a [P, 1] tile and operand1 a tile."""
    call = Call("nisa.scalar_tensor_tensor", kwargs, mask, dtype)
    tile, other = call.tile(data, "data"), call.tile(operand1, "operand1")
    if prod(other.shape) == other.shape[0] and prod(tile.shape) != tile.shape[0]:
        return tensor_scalar(
            data, op0, operand0, reverse0, op1, operand1, reverse1, dtype=dtype, mask=mask, engine=engine
        )
    call.over(tile.shape)
    read, second = source(tile, call.chooser), source(other, call.chooser)
    a = call.lane(operand0, "operand0")
    return call.result(
        tile.shape,
        result_type(dtype, tile, operand0, other),
        lambda dst: vector.scalar_tensor_tensor(dst, read, op0, a, op1, second, reverse0, reverse1, engine),
    )


def tensor_reduce(
    op: Any,
    data: Any,
    axis: Any,
    *,
    mask: Any = None,
    dtype: Any = None,
    negate: bool = False,
    keepdims: bool = False,
    engine: Any = None,
    **kwargs: Any,
) -> Any:
    """Reduction along free dimensions."""
    call = Call("nisa.tensor_reduce", kwargs, mask, dtype)
    work = Reduction(data, axis, mask, keepdims, call.api)
    return call.result(
        work.shape,
        work.data.dtype,
        lambda dst: vector.tensor_reduce(dst, op, work.data, work.axes, negate, engine=engine),
        chooser=work.chooser,
    )


def tensor_scalar_reduce(
    *,
    data: Any,
    op0: Any,
    operand0: Any,
    reduce_op: Any,
    reduce_res: Any,
    reverse0: bool = False,
    dtype: Any = None,
    mask: Any = None,
    **kwargs: Any,
) -> Any:
    """data op0 operand0, whose reduction over the free dimensions lands in reduce_res."""
    call = Call("nisa.tensor_scalar_reduce", kwargs, mask, dtype)
    tile, read = call.data(data)
    a, total = call.lane(operand0, "operand0"), call.lane(reduce_res, "reduce_res")
    return call.result(
        tile.shape,
        result_type(dtype, tile, operand0),
        lambda dst: vector.tensor_scalar_reduce(dst, read, op0, a, reduce_op, total, reverse0),
    )


def reciprocal(data: Any, *, dtype: Any = None, mask: Any = None, **kwargs: Any) -> Any:
    """1 / data on the Vector Engine."""
    call = Call("nisa.reciprocal", kwargs, mask, dtype)
    tile, read = call.data(data)
    return call.result(tile.shape, tile.dtype, lambda dst: vector.reciprocal(dst, read))


def _per_row(
    call: Call, data: Any, columns: int, emit: Callable[[Any, Tile], None], default: DType | None = None
) -> Any:
    """The result of an instruction that leaves a few numbers per partition."""
    tile, read = call.data(data, rectangle=True)
    if call.box:
        call.chooser = (call.box[0], (0, columns))
    return call.result((tile.shape[0], columns), default or tile.dtype, lambda dst: emit(dst, read))


def bn_stats(data: Any, *, mask: Any = None, dtype: Any = None, **kwargs: Any) -> Any:
    """Six statistics a partition: count, mean, variance*count of even, then of odd elements."""
    return _per_row(Call("nisa.bn_stats", kwargs, mask, dtype), data, 6, vector.bn_stats)


def bn_aggr(data: Any, *, mask: Any = None, dtype: Any = None, **kwargs: Any) -> Any:
    """Mean and variance a partition, merged from bn_stats triples."""
    return _per_row(Call("nisa.bn_aggr", kwargs, mask, dtype), data, 2, vector.bn_aggr)


def max8(*, src: Any, mask: Any = None, dtype: Any = None, **kwargs: Any) -> Any:
    """The 8 largest values a partition, descending."""
    return _per_row(Call("nisa.max8", kwargs, mask, dtype), src, 8, search.max8)


def nc_find_index8(*, data: Any, vals: Any, mask: Any = None, dtype: Any = None, **kwargs: Any) -> Any:
    """Positions of 8 given values a partition."""
    call = Call("nisa.nc_find_index8", kwargs, mask, dtype)
    wanted = call.tile(vals, "vals")
    return _per_row(
        call,
        data,
        8,
        lambda dst, read: search.nc_find_index8(dst, read, source(wanted, call.chooser)),
        dtypes.uint32,
    )


def nc_match_replace8(
    *, data: Any, vals: Any, imm: Any, dst_idx: Any = None, mask: Any = None, dtype: Any = None, **kwargs: Any
) -> Any:
    """data with the first occurrence of each of 8 values a partition replaced."""
    call = Call("nisa.nc_match_replace8", kwargs, mask, dtype)
    tile, read = call.data(data)
    wanted = call.rows(call.tile(vals, "vals"))
    places = call.rows(call.tile(dst_idx, "dst_idx")) if dst_idx is not None else None
    return call.result(tile.shape, tile.dtype, lambda dst: search.nc_match_replace8(dst, read, wanted, imm, places))


def tensor_tensor_scan(
    data0: Any,
    data1: Any,
    initial: Any,
    op0: Any,
    op1: Any,
    reverse0: bool = False,
    reverse1: bool = False,
    *,
    dtype: Any = None,
    mask: Any = None,
    **kwargs: Any,
) -> Any:
    """r[i] = (data0[i] op0 r[i-1]) op1 data1[i] along the free dimension."""
    call = Call("nisa.tensor_tensor_scan", kwargs, mask, dtype)
    a, first = call.data(data0, "data0")
    b = call.tile(data1, "data1")
    second = source(b, call.chooser)
    start = call.lane(initial, "initial")
    return call.result(
        a.shape,
        result_type(dtype, a, b),
        lambda dst: vector.tensor_tensor_scan(dst, first, second, start, op0, op1, reverse0, reverse1),
    )


def tensor_copy_predicated(
    *,
    src: Any,
    dst: Any,
    predicate: Any,
    reverse_pred: bool = False,
    mask: Any = None,
    dtype: Any = None,
    **kwargs: Any,
) -> Any:
    """Copy src (a tile or a number) into dst where predicate is not 0; returns dst."""
    call = Call("nisa.tensor_copy_predicated", kwargs, mask, dtype)
    target, into = call.into(dst)
    pred = call.read(predicate, "predicate")
    if not call.empty:
        value = call.read(src, "src") if isinstance(src, Tensor) else src
        vector.tensor_copy_predicated(into, value, pred, reverse_pred)
    return target


def range_select(
    *,
    on_true_tile: Any,
    comp_op0: Any,
    comp_op1: Any,
    bound0: Any,
    bound1: Any,
    reduce_cmd: Any = commands.idle,
    reduce_res: Any = None,
    reduce_op: Any = np.amax,
    range_start: Any = 0,
    on_false_value: Any = FP32_MIN,
    mask: Any = None,
    dtype: Any = None,
    **kwargs: Any,
) -> Any:
    """Keep elements whose index lies within per-partition bounds; the rest becomes the smallest float32."""
    call = Call("nisa.range_select", kwargs, mask, dtype)
    tile, read = call.data(on_true_tile, "on_true_tile")
    low, high = call.lane(bound0, "bound0"), call.lane(bound1, "bound1")
    total = call.lane(reduce_res, "reduce_res")
    return call.result(
        tile.shape,
        tile.dtype,
        lambda dst: select.range_select(
            dst, read, comp_op0, comp_op1, low, high, reduce_cmd, total, reduce_op, range_start, on_false_value
        ),
    )


def select_reduce(
    *,
    dst: Any,
    predicate: Any,
    on_true: Any,
    on_false: Any,
    reduce_res: Any = None,
    reduce_cmd: Any = commands.idle,
    reduce_op: Any = np.amax,
    reverse_pred: bool = False,
    mask: Any = None,
    dtype: Any = None,
    **kwargs: Any,
) -> None:
    """dst = on_true where predicate is not 0, else on_false; optionally the maximum over the free dimensions."""
    call = Call("nisa.select_reduce", kwargs, mask, dtype)
    _, into = call.into(dst)
    if call.empty:
        return
    select.select_reduce(
        into,
        call.read(predicate, "predicate"),
        call.read(on_true, "on_true"),
        call.lane(on_false, "on_false"),
        call.lane(reduce_res, "reduce_res"),
        reduce_cmd,
        reduce_op,
        reverse_pred,
    )


def tensor_scalar_cumulative(
    *,
    src: Any,
    dst: Any,
    op0: Any,
    op1: Any,
    imm0: Any,
    imm1: Any = None,
    reduce_cmd: Any = commands.reset_reduce,
    mask: Any = None,
    **kwargs: Any,
) -> None:
    """dst[i] = op1(op0(src[i], imm0), dst[i-1]) along the free dimensions."""
    call = Call("nisa.tensor_scalar_cumulative", kwargs, mask)
    _, into = call.into(dst)
    data = call.read(src, "src")
    if not call.empty:
        first, second = call.lane(imm0, "imm0"), call.lane(imm1, "imm1")
        select.tensor_scalar_cumulative(into, data, op0, op1, first, second, reduce_cmd)


def dropout(data: Any, prob: Any, *, mask: Any = None, dtype: Any = None, **kwargs: Any) -> Any:
    """data with elements replaced by 0 with probability `prob` (a number or a [P, 1] tile)."""
    call = Call("nisa.dropout", kwargs, mask, dtype)
    tile, read = call.data(data)
    chance = call.lane(prob, "prob")
    return call.result(tile.shape, tile.dtype, lambda dst: randomness.dropout(dst, read, chance))


def nc_stream_shuffle(
    src: Any, dst: Any, shuffle_mask: Any, *, dtype: Any = None, mask: Any = None, **kwargs: Any
) -> None:
    """dst[32q + i] = src[32q + shuffle_mask[i]] for each quadrant q of partitions."""
    call = Call("nisa.nc_stream_shuffle", kwargs, mask, dtype)
    _, into = call.into(dst)
    data = call.read(src, "src")
    if not call.empty:
        gather.nc_stream_shuffle(into, data, shuffle_mask)


# -- GpSimd Engine -----------------------------------------------------------------------------------------------------


def iota(expr: Any, dtype: Any, *, mask: Any = None, **kwargs: Any) -> Any:
    """A tile with the values of an index expression."""
    kind = dtype_of(dtype)
    call = Call("nisa.iota", kwargs, mask, kind)
    if not isinstance(expr, Index):
        context.fail(
            "KW-OPERAND-TYPE",
            f"nisa.iota: expr is {type(expr).__name__}, not an index expression",
            operand="expr",
            fix="pass an expression of nl.arange or nl.mgrid",
        )
    if expr.values is not None:
        context.fail(
            "KW-IOTA-EXPRESSION",
            "nisa.iota: the expression isn't affine in its indices",
            operand="expr",
            fix="make an affine iota and compute on the tile",
        )
    if expr.ndim < 2:
        context.fail(
            "KW-INDEX-1D",
            "nisa.iota: a one-dimensional nl.arange has no partition dimension (err_1d_arange_not_supported)",
            operand="expr",
            fix="give it a second axis: nl.arange(n)[None, :]",
        )
    call.over(expr.shape, rectangle=True)
    index = expr.restrict(call.box) if call.box else expr
    pattern = [[s if n > 1 else 0, n] for s, n in zip(index.steps[1:], index.shape[1:])]
    lanes = index.steps[0] if index.shape[0] > 1 else 0
    return call.result(expr.shape, kind, lambda dst: gpsimd.iota(dst, pattern, index.offset, lanes), spaces=SBUF_ONLY)


def affine_select(
    pred: Any, on_true_tile: Any, on_false_value: Any, *, mask: Any = None, dtype: Any = None, **kwargs: Any
) -> Any:
    """on_true_tile where the affine predicate holds, else on_false_value."""
    call = Call("nisa.affine_select", kwargs, mask, dtype)
    tile, read = call.data(on_true_tile, "on_true_tile", rectangle=True)
    if isinstance(pred, bool | int | np.bool_):
        if pred:
            emit = lambda dst: vector.tensor_copy(dst, read)  # noqa: E731
        else:
            emit = lambda dst: vector.memset(dst, on_false_value)  # noqa: E731
        return call.result(tile.shape, tile.dtype, emit)
    if not isinstance(pred, Mask) or len(pred.terms) != 1 or pred.values is not None:
        context.fail(
            "KW-PREDICATE",
            f"{call.api}: pred must be one comparison of affine index expressions",
            operand="pred",
            fix="use one comparison without & and |, or nl.where",
        )
    index, comparison = pred.terms[0]
    steps = aligned(index.steps, index.shape, tile.shape)
    offset = index.offset
    sizes = tile.shape
    if call.box:
        offset += sum(s * start for s, (start, _), n in zip(steps, call.box, sizes) if n != 1)
        sizes = tuple(n if n == 1 else b - a for n, (a, b) in zip(sizes, call.box))
    pattern = [[s, n] for s, n in zip(steps[1:], sizes[1:])]

    def select_affine(dst: Any) -> None:
        held = in_sbuf(call.core, read)
        gpsimd.affine_select(dst, pattern, steps[0], held, float(on_false_value), comparison, offset)

    return call.result(tile.shape, tile.dtype, select_affine, spaces=SBUF_ONLY)


def tensor_partition_reduce(op: Any, data: Any, *, mask: Any = None, dtype: Any = None, **kwargs: Any) -> Any:
    """A [1, F...] tile: reduction over partitions."""
    call = Call("nisa.tensor_partition_reduce", kwargs, mask, dtype)
    tile, read = call.data(data, rectangle=True)
    if call.box:
        call.chooser = ((0, 1), *call.box[1:])
    return call.result(
        (1, *tile.shape[1:]),
        tile.dtype,
        lambda dst: gpsimd.tensor_partition_reduce(dst, op, read),
        spaces=SBUF_ONLY,
    )


def local_gather(
    src_buffer: Any,
    index: Any,
    num_elem_per_idx: int = 1,
    num_valid_indices: Any = None,
    *,
    mask: Any = None,
    **kwargs: Any,
) -> Any:
    """Gather within groups of 16 partitions by a common list of indices."""
    call = Call("nisa.local_gather", kwargs, mask)
    data, places = call.tile(src_buffer, "src_buffer"), call.tile(index, "index")
    call.over(data.shape)
    if call.chooser is not None:
        context.unsupported(f"{call.api} with a mask")
    per_core = prod(places.shape[1:]) * 16 if num_valid_indices is None else context.index_value(num_valid_indices)
    free = places.shape[1:]
    # one row of 16 results for each column of the index tile, as the SDK's own test annotates it
    shape: tuple[int, ...] = (data.shape[0], *((*free, 16) if per_core == prod(free) * 16 else (per_core,)))
    if num_elem_per_idx != 1:
        shape = (*shape, int(num_elem_per_idx))
    return call.result(
        shape,
        data.dtype,
        lambda dst: gather.local_gather(dst, data, places, num_elem_per_idx, num_valid_indices),
        spaces=SBUF_ONLY,
    )


def sequence_bounds(*, segment_ids: Any, dtype: Any = None, **kwargs: Any) -> Any:
    """[start, end) of each element's segment, as a [1, 2, n] tile."""
    call = Call("nisa.sequence_bounds", kwargs, dtype=dtype)
    ids = call.tile(segment_ids, "segment_ids")
    shape = (ids.shape[0], 2, *ids.shape[1:])
    return call.result(shape, ids.dtype, lambda dst: gather.sequence_bounds(dst, ids), spaces=SBUF_ONLY)


def gather_flattened(data: Any, indices: Any, *, mask: Any = None, dtype: Any = None, **kwargs: Any) -> Any:
    """Elements of each partition's flattened free dimensions, by an index tile."""
    call = Call("nl.gather_flattened", kwargs, mask, dtype)
    tile = call.tile(data, "data")
    places, picked = call.data(indices, "indices", rectangle=True)
    read = call.rows(tile)

    def emit(dst: Any) -> None:
        wanted = picked
        if wanted.dtype is not dtypes.uint32:
            wanted = new_tile(call.core, picked.shape, dtypes.uint32)
            vector.tensor_copy(wanted, picked)
        gather.nc_n_gather(dst, read, wanted)

    return call.result(places.shape, tile.dtype, emit, spaces=SBUF_ONLY)


# -- Tensor Engine -----------------------------------------------------------------------------------------------------


def _operand(core: Core, tile: Tile, other: Tile) -> Tile:
    """A matmul operand: a result that no tensor was declared for is placed by the compiler, which moves it to SBUF."""
    if type(tile) is LooseTile:
        return tile
    if tile.buffer.space == "psum" and tile.buffer.role == "result":
        tile = in_sbuf(core, tile)
    if tile.dtype in (dtypes.uint8, dtypes.int8, dtypes.bool_):
        # identity matrices are uint8 by default; the PE multiplies floats only
        cast = new_tile(core, tile.shape, dtypes.float32 if other.dtype.itemsize == 4 else other.dtype)
        vector.tensor_copy(cast, tile)
        return cast
    return tile


def nc_matmul(
    stationary: Any,
    moving: Any,
    *,
    is_stationary_onezero: bool = False,
    is_moving_onezero: bool = False,
    is_transpose: bool = False,
    tile_position: Any = (),
    tile_size: Any = (),
    perf_mode: Any = None,
    mask: Any = None,
    **kwargs: Any,
) -> Any:
    """stationary^T @ moving as a PSUM tile; `psum[...] += nc_matmul(...)` accumulates on the way."""
    call = Call("nisa.nc_matmul", kwargs, mask)
    core = call.core
    a, b = call.tile(stationary, "stationary"), call.tile(moving, "moving")
    a, b = _operand(core, a, b), _operand(core, b, a)
    call.over(b.shape, rectangle=True)
    rows = prod(a.shape[1:])
    shape = (rows, *(b.shape[1:] or (1,)))
    if perf_mode is not None and str(getattr(perf_mode, "name", perf_mode)).startswith("double_row"):
        # both operands are [K, 2, F]: the 2 belongs to the contraction
        rows, shape = rows // 2, (rows // 2, prod(b.shape[2:]))
    if call.box:
        a, b = call.rows(a), b.narrow(call.box)
        call.chooser = ((0, rows), *call.box[1:])
    options: dict[str, Any] = {
        "is_stationary_onezero": is_stationary_onezero,
        "is_moving_onezero": is_moving_onezero,
        "tile_position": tile_position,
        "tile_size": tile_size,
    }
    if perf_mode is not None:
        options["perf_mode"] = perf_mode
    kind = b.dtype if is_transpose and b.dtype.itemsize == 2 and core.machine.generation > 2 else dtypes.float32

    def emit(dst: Any) -> None:
        if is_transpose and dst.dtype.itemsize == b.dtype.itemsize == a.dtype.itemsize:
            pe.nc_matmul(dst, a, b, is_transpose=True, **options)
        else:
            pe.nc_matmul(dst, a, b, accumulate=False, **options)

    def accumulate(dst: Any) -> None:
        buffer = dst.buffer
        started = (
            buffer.groups is not None and (dst.offset, dst.shape, dst.strides, dst.dtype.itemsize) in buffer.groups
        )
        pe.nc_matmul(dst, a, b, accumulate=True if buffer.from_data and not started else None, **options)

    return call.result(shape, kind, emit, space="psum", spaces=PSUM_ONLY, accumulate=accumulate)


def matmul(x: Any, y: Any, *, transpose_x: bool = False, mask: Any = None, **kwargs: Any) -> Any:
    """x @ y (x^T @ y with transpose_x) as a PSUM tile; x is transposed on the PE first when it must be."""
    call = Call("nl.matmul", kwargs)
    a, b = in_sbuf(call.core, call.tile(x, "x")), in_sbuf(call.core, call.tile(y, "y"))
    if not transpose_x:
        if call.core.placed:
            context.strict_fail(
                "KW-STRICT-ALLOCATED",
                "err_transpose_on_tensor_engine_not_allowed_in_allocated_kernel: nl.matmul has to transpose x in tiles of its own",
                operand="x",
                limit="transpose_x=True",
                fix="transpose x with nisa.nc_transpose into tiles that you allocate, and pass transpose_x=True",
            )
        turned = turn(call.core, a)
        held = new_tile(call.core, turned.shape, a.dtype)
        vector.tensor_copy(held, turned)
        a = held
    return nc_matmul(a, b, mask=mask)


def _psum_type(core: Core, dtype: DType) -> DType:
    """Type in which the PE leaves a transpose in PSUM: float32 on trn1, the data's own later on."""
    return dtypes.float32 if core.machine.generation <= 2 else dtype


def _transpose(core: Core, dst: Any, data: Tile, engine: Any) -> None:
    """nc_transpose; on the PE also into a PSUM tile of another width, as trn1 does."""
    if dst.dtype.itemsize == data.dtype.itemsize or dst.buffer.space != "psum":
        pe.nc_transpose(dst, data, engine)
        return
    p, f = data.shape[0], prod(data.shape[1:])
    if dst.buffer.groups is None:
        dst.buffer.groups = {}
    core.issue(
        pe.NC_TRANSPOSE,
        Engine.TENSOR,
        (dst,),
        (data,),
        free=p,
        partitions=p,
        aux=f,
        flags=common_flags(dst, data) | Flag.TRANSPOSE | (Flag.FP32 if data.dtype.itemsize == 4 else 0),
    )


def turn(core: Core, data: Tile) -> Tile:
    """`data` transposed by the Tensor Engine, as a new PSUM tile."""
    turned = new_tile(core, (prod(data.shape[1:]), data.shape[0]), _psum_type(core, data.dtype), "psum")
    _transpose(core, turned, data, engines.tensor)
    return turned


def _transpose_on_vector(dst: Any, data: Tile) -> None:
    """nc_transpose on the Vector Engine; what is larger than its 32x32 the compiler does block by block."""
    size = 32
    p, f = data.shape[0], prod(data.shape[1:])
    if max(p, f) <= size or data.ndim != 2 or context.current().options.strict:
        pe.nc_transpose(dst, data, engines.vector)
        return
    for row in range(0, p, size):
        for column in range(0, f, size):
            down, right = min(row + size, p), min(column + size, f)
            pe.nc_transpose(dst[column:right, row:down], data[row:down, column:right], engines.vector)


def nc_transpose(data: Any, *, mask: Any = None, dtype: Any = None, engine: Any = None, **kwargs: Any) -> Any:
    """A tile with partition and free dimensions swapped: in PSUM from the Tensor Engine, else from the Vector Engine.

    Args:
        data: [P, F...], at most 128x128 (Tensor Engine) or 32x32 (Vector Engine).
        dtype: another type for the result: one more copy.
        engine: by default Vector for small or PSUM tiles, Tensor otherwise.
    """
    call = Call("nisa.nc_transpose", kwargs, mask, dtype)
    core = call.core
    tile, read = call.data(data, rectangle=True)
    if call.box and tile.ndim != 2:
        context.unsupported(f"{call.api} of several free dimensions with a mask")
    p, f = tile.shape[0], prod(tile.shape[1:])
    chosen = engine.value if isinstance(engine, engines) else engine
    on_vector = chosen is Engine.VECTOR or (
        chosen in (None, Engine.UNKNOWN) and (max(p, f) <= 32 or (not call.empty and read.buffer.space == "psum"))
    )
    if call.box:
        call.chooser = call.box[::-1]
    if dtype is not None and dtype_of(dtype) is not tile.dtype:

        def cast(dst: Any) -> None:
            between = new_tile(core, (f, p), tile.dtype, "sbuf" if on_vector else "psum")
            into = apart(between, call.chooser)
            _transpose(core, into, read, engine)
            vector.tensor_copy(dst, into)

        return call.result((f, p), tile.dtype, cast)
    call.dtype = None
    if on_vector:
        return call.result((f, p), tile.dtype, lambda dst: _transpose_on_vector(dst, read))
    return call.result(
        (f, p),
        _psum_type(core, tile.dtype),
        lambda dst: _transpose(core, dst, in_sbuf(core, read), engines.tensor),
        space="psum",
        spaces=PSUM_ONLY,
    )


def transpose(x: Any, *, dtype: Any = None, mask: Any = None, **kwargs: Any) -> Any:
    """A 2-D tile with partition and free dimensions swapped."""
    unknown("nl.transpose", kwargs)
    return nc_transpose(x, mask=mask, dtype=dtype)


def builtin_custom_op(*args: Any, **kwargs: Any) -> Any:
    """Custom GpSimd programs aren't modelled."""
    context.unsupported("nisa.builtin_custom_op: a custom GpSimd program")


INSTRUCTIONS: dict[str, Any] = {
    function.__name__: function
    for function in (
        activation,
        activation_reduce,
        affine_select,
        bn_aggr,
        bn_stats,
        builtin_custom_op,
        dma_copy,
        dma_transpose,
        dropout,
        iota,
        local_gather,
        max8,
        memset,
        nc_find_index8,
        nc_match_replace8,
        nc_matmul,
        nc_stream_shuffle,
        nc_transpose,
        range_select,
        reciprocal,
        scalar_tensor_tensor,
        select_reduce,
        sequence_bounds,
        tensor_copy,
        tensor_copy_dynamic_dst,
        tensor_copy_predicated,
        tensor_partition_reduce,
        tensor_reduce,
        tensor_scalar,
        tensor_scalar_cumulative,
        tensor_scalar_reduce,
        tensor_tensor,
        tensor_tensor_scan,
    )
} | {"tensor_copy_dynamic_src": tensor_copy_dynamic_src, "get_nc_version": control.get_nc_version}
"""Every instruction of `nki.isa`, by name."""
