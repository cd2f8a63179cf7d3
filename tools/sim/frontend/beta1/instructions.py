"""`nki.isa` in Beta 1: each call allocates (or is given) its destination and issues one instruction of the common set."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from tools.sim import context, dtypes
from tools.sim.core import Core, common_flags
from tools.sim.dtypes import DType
from tools.sim.frontend.beta1.elementwise import Reduction
from tools.sim.frontend.beta1.index import Index
from tools.sim.frontend.beta1.mask import Mask, _aligned, resolve
from tools.sim.frontend.beta1.movement import (
    dma_copy,
    dma_transpose,
    fitted,
    in_sbuf,
    new_tile,
    source,
    tile_of,
    unknown,
)
from tools.sim.frontend.beta1.promotion import dtype_of, result_type
from tools.sim.frontend.beta1.tile import (
    PSUM_ONLY,
    SBUF_ONLY,
    Chooser,
    LooseTile,
    Tile,
    apart,
    begin,
    defer,
    is_empty,
)
from tools.sim.instruction import Engine, Flag
from tools.sim.isa import control, gather, gpsimd, randomness, scalar, search, select, vector
from tools.sim.isa import tensor as pe
from tools.sim.isa.enums import engine as engines
from tools.sim.isa.enums import reduce_cmd as commands
from tools.sim.isa.vector import FP32_MIN
from tools.sim.tensor import Tensor

_FALSE_MIN = FP32_MIN


def _type(dtype: Any, default: DType) -> DType:
    return default if dtype is None else dtype_of(dtype)


def _lane(value: Any, chooser: Chooser, name: str, api: str) -> Any:
    """A scalar operand, or a [P, 1] tile narrowed as the data is."""
    if isinstance(value, Tensor):
        tile = tile_of(value, name, api)
        if isinstance(chooser, np.ndarray) or chooser is None or not chooser:
            return tile
        return tile.narrow(chooser)
    return value


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
    unknown("nisa.activation", kwargs)
    core = begin()
    tile = tile_of(data, "data", "nisa.activation")
    chooser = resolve(mask, tile.shape)
    read = source(tile, chooser)
    shift, factor = _lane(bias, chooser, "bias", "nisa.activation"), _lane(scale, chooser, "scale", "nisa.activation")
    total = _lane(reduce_res, chooser, "reduce_res", "nisa.activation")
    order = reduce_cmd
    if total is not None and order is commands.idle:
        order = commands.idle

    def emit(dst: Any) -> None:
        scalar.activation(dst, op, read, shift, factor, reduce_op, total, order)

    return defer(core, tile.shape, _type(dtype, tile.dtype), emit, explicit=dtype is not None, chooser=chooser)


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
    unknown("nisa.tensor_copy", kwargs)
    core = begin()
    tile = tile_of(src, "src", "nisa.tensor_copy")
    chooser = resolve(mask, tile.shape)
    read = source(tile, chooser)
    return defer(
        core,
        tile.shape,
        _type(dtype, tile.dtype),
        lambda dst: vector.tensor_copy(dst, read, engine),
        explicit=dtype is not None,
        chooser=chooser,
    )


tensor_copy_dynamic_src = tensor_copy


def tensor_copy_dynamic_dst(
    *, dst: Any, src: Any, mask: Any = None, dtype: Any = None, engine: Any = None, **kwargs: Any
) -> None:
    """Copy a tile to a place whose offset is known only while the kernel runs."""
    unknown("nisa.tensor_copy_dynamic_dst", kwargs)
    begin()
    target, tile = tile_of(dst, "dst", "tensor_copy_dynamic_dst"), tile_of(src, "src", "tensor_copy_dynamic_dst")
    if dtype is not None and dtype_of(dtype) is not target.dtype:
        context.fail("KW-DTYPE", f"tensor_copy_dynamic_dst: dst is {target.dtype}, dtype says {dtype}", operand="dtype")
    chooser = resolve(mask, target.shape)
    if not is_empty(chooser):
        vector.tensor_copy(apart(target, chooser), source(tile, chooser), engine)


def memset(shape: Any, value: Any, dtype: Any, *, mask: Any = None, engine: Any = None, **kwargs: Any) -> Any:
    """A tile filled with one value; the first dimension is the partition dimension."""
    unknown("nisa.memset", kwargs)
    core = begin()
    sizes = tuple(context.index_value(n) for n in shape)
    chooser = resolve(mask, sizes)
    kind = dtype_of(dtype)
    if isinstance(value, np.ndarray) and value.size == 1:
        value = value.reshape(-1)[0]
    return defer(core, sizes, kind, lambda dst: vector.memset(dst, value, engine), explicit=True, chooser=chooser)


def tensor_tensor(
    data1: Any, data2: Any, op: Any, *, dtype: Any = None, mask: Any = None, engine: Any = None, **kwargs: Any
) -> Any:
    """data1 op data2, elementwise over tiles of equal shape."""
    unknown("nisa.tensor_tensor", kwargs)
    core = begin()
    a, b = tile_of(data1, "data1", "nisa.tensor_tensor"), tile_of(data2, "data2", "nisa.tensor_tensor")
    shape = a.shape
    if b.shape != shape:
        a, b, shape = _same_shape(a, b)
    chooser = resolve(mask, shape)
    left, right = source(a, chooser), source(b, chooser)
    return defer(
        core,
        shape,
        result_type(dtype, a, b),
        lambda dst: vector.tensor_tensor(dst, left, right, op, engine),
        explicit=dtype is not None,
        chooser=chooser,
    )


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
    unknown("nisa.tensor_scalar", kwargs)
    core = begin()
    api = "nisa.tensor_scalar"
    tile = tile_of(data, "data", api)
    chooser = resolve(mask, tile.shape)
    read = source(tile, chooser)
    a, b = _lane(operand0, chooser, "operand0", api), _lane(operand1, chooser, "operand1", api)
    given = [v for v in (operand0, operand1) if v is not None]
    return defer(
        core,
        tile.shape,
        result_type(dtype, tile, *given),
        lambda dst: vector.tensor_scalar(dst, read, op0, a, reverse0, op1, b, reverse1, engine),
        explicit=dtype is not None,
        chooser=chooser,
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
    unknown("nisa.scalar_tensor_tensor", kwargs)
    core = begin()
    api = "nisa.scalar_tensor_tensor"
    tile, other = tile_of(data, "data", api), tile_of(operand1, "operand1", api)
    if prod(other.shape) == other.shape[0] and prod(tile.shape) != tile.shape[0]:
        return tensor_scalar(
            data, op0, operand0, reverse0, op1, operand1, reverse1, dtype=dtype, mask=mask, engine=engine
        )
    chooser = resolve(mask, tile.shape)
    read, second = source(tile, chooser), source(other, chooser)
    a = _lane(operand0, chooser, "operand0", api)
    return defer(
        core,
        tile.shape,
        result_type(dtype, tile, operand0, other),
        lambda dst: vector.scalar_tensor_tensor(dst, read, op0, a, op1, second, reverse0, reverse1, engine),
        explicit=dtype is not None,
        chooser=chooser,
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
    unknown("nisa.tensor_reduce", kwargs)
    core = begin()
    work = Reduction(data, axis, mask, keepdims, "nisa.tensor_reduce")
    return defer(
        core,
        work.shape,
        _type(dtype, work.data.dtype),
        lambda dst: vector.tensor_reduce(dst, op, work.data, work.axes, negate, engine=engine),
        explicit=dtype is not None,
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
    unknown("nisa.tensor_scalar_reduce", kwargs)
    core = begin()
    api = "nisa.tensor_scalar_reduce"
    tile = tile_of(data, "data", api)
    chooser = resolve(mask, tile.shape)
    read = source(tile, chooser)
    a, total = _lane(operand0, chooser, "operand0", api), _lane(reduce_res, chooser, "reduce_res", api)
    return defer(
        core,
        tile.shape,
        result_type(dtype, tile, operand0),
        lambda dst: vector.tensor_scalar_reduce(dst, read, op0, a, reduce_op, total, reverse0),
        explicit=dtype is not None,
        chooser=chooser,
    )


def reciprocal(data: Any, *, dtype: Any = None, mask: Any = None, **kwargs: Any) -> Any:
    """1 / data on the Vector Engine."""
    unknown("nisa.reciprocal", kwargs)
    core = begin()
    tile = tile_of(data, "data", "nisa.reciprocal")
    chooser = resolve(mask, tile.shape)
    read = source(tile, chooser)
    return defer(
        core,
        tile.shape,
        _type(dtype, tile.dtype),
        lambda dst: vector.reciprocal(dst, read),
        explicit=dtype is not None,
        chooser=chooser,
    )


def _rows_of(tile: Tile, chooser: Chooser, api: str) -> Tile:
    """The partitions of an operand that the mask of another one leaves, whole."""
    if chooser is None or is_empty(chooser):
        return tile
    if isinstance(chooser, np.ndarray):
        context.unsupported(f"{api} with a mask that is no rectangle")
    return tile.narrow((chooser[0], *((0, n) for n in tile.shape[1:])))


def _per_row(
    api: str, data: Any, mask: Any, dtype: Any, columns: int, default: DType | None = None
) -> tuple[Core, Tile, tuple[int, ...], DType, Chooser]:
    """What instructions share that leave a few numbers per partition."""
    core = begin()
    tile = tile_of(data, "data", api)
    chooser = resolve(mask, tile.shape)
    if isinstance(chooser, np.ndarray):
        context.unsupported(f"{api} with a mask that is no rectangle")
    rows: Chooser = None
    if chooser is not None:
        rows = (chooser[0], (0, columns)) if chooser else ()
    kind = _type(dtype, default if default is not None else tile.dtype)
    return core, source(tile, chooser), (tile.shape[0], columns), kind, rows


def bn_stats(data: Any, *, mask: Any = None, dtype: Any = None, **kwargs: Any) -> Any:
    """Six statistics a partition: count, mean, variance*count of even, then of odd elements."""
    unknown("nisa.bn_stats", kwargs)
    core, read, shape, kind, rows = _per_row("nisa.bn_stats", data, mask, dtype, 6)
    return defer(core, shape, kind, lambda dst: vector.bn_stats(dst, read), explicit=dtype is not None, chooser=rows)


def bn_aggr(data: Any, *, mask: Any = None, dtype: Any = None, **kwargs: Any) -> Any:
    """Mean and variance a partition, merged from bn_stats triples."""
    unknown("nisa.bn_aggr", kwargs)
    core, read, shape, kind, rows = _per_row("nisa.bn_aggr", data, mask, dtype, 2)
    return defer(core, shape, kind, lambda dst: vector.bn_aggr(dst, read), explicit=dtype is not None, chooser=rows)


def max8(*, src: Any, mask: Any = None, dtype: Any = None, **kwargs: Any) -> Any:
    """The 8 largest values a partition, descending."""
    unknown("nisa.max8", kwargs)
    core, read, shape, kind, rows = _per_row("nisa.max8", src, mask, dtype, 8)
    return defer(core, shape, kind, lambda dst: search.max8(dst, read), explicit=dtype is not None, chooser=rows)


def nc_find_index8(*, data: Any, vals: Any, mask: Any = None, dtype: Any = None, **kwargs: Any) -> Any:
    """Positions of 8 given values a partition."""
    unknown("nisa.nc_find_index8", kwargs)
    core, read, shape, kind, rows = _per_row("nisa.nc_find_index8", data, mask, dtype, 8, dtypes.uint32)
    wanted = source(tile_of(vals, "vals", "nisa.nc_find_index8"), rows)
    return defer(
        core,
        shape,
        kind,
        lambda dst: search.nc_find_index8(dst, read, wanted),
        explicit=dtype is not None,
        chooser=rows,
    )


def nc_match_replace8(
    *, data: Any, vals: Any, imm: Any, dst_idx: Any = None, mask: Any = None, dtype: Any = None, **kwargs: Any
) -> Any:
    """data with the first occurrence of each of 8 values a partition replaced."""
    unknown("nisa.nc_match_replace8", kwargs)
    core = begin()
    api = "nisa.nc_match_replace8"
    tile = tile_of(data, "data", api)
    chooser = resolve(mask, tile.shape)
    read = source(tile, chooser)
    wanted = _rows_of(tile_of(vals, "vals", api), chooser, api)
    places = _rows_of(tile_of(dst_idx, "dst_idx", api), chooser, api) if dst_idx is not None else None
    return defer(
        core,
        tile.shape,
        _type(dtype, tile.dtype),
        lambda dst: search.nc_match_replace8(dst, read, wanted, imm, places),
        explicit=dtype is not None,
        chooser=chooser,
    )


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
    unknown("nisa.tensor_tensor_scan", kwargs)
    core = begin()
    api = "nisa.tensor_tensor_scan"
    a, b = tile_of(data0, "data0", api), tile_of(data1, "data1", api)
    chooser = resolve(mask, a.shape)
    first, second = source(a, chooser), source(b, chooser)
    start = _lane(initial, chooser, "initial", api)
    return defer(
        core,
        a.shape,
        result_type(dtype, a, b),
        lambda dst: vector.tensor_tensor_scan(dst, first, second, start, op0, op1, reverse0, reverse1),
        explicit=dtype is not None,
        chooser=chooser,
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
    unknown("nisa.tensor_copy_predicated", kwargs)
    begin()
    api = "nisa.tensor_copy_predicated"
    target, pred = tile_of(dst, "dst", api), tile_of(predicate, "predicate", api)
    if dtype is not None and dtype_of(dtype) is not target.dtype:
        context.fail("KW-DTYPE", f"{api}: dst is {target.dtype}, dtype says {dtype}", operand="dtype")
    chooser = resolve(mask, target.shape)
    if not is_empty(chooser):
        value = source(tile_of(src, "src", api), chooser) if isinstance(src, Tensor) else src
        vector.tensor_copy_predicated(apart(target, chooser), value, source(pred, chooser), reverse_pred)
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
    on_false_value: Any = _FALSE_MIN,
    mask: Any = None,
    dtype: Any = None,
    **kwargs: Any,
) -> Any:
    """Keep elements whose index lies within per-partition bounds; the rest becomes the smallest float32."""
    unknown("nisa.range_select", kwargs)
    core = begin()
    api = "nisa.range_select"
    tile = tile_of(on_true_tile, "on_true_tile", api)
    chooser = resolve(mask, tile.shape)
    read = source(tile, chooser)
    low, high = _lane(bound0, chooser, "bound0", api), _lane(bound1, chooser, "bound1", api)
    total = _lane(reduce_res, chooser, "reduce_res", api)
    return defer(
        core,
        tile.shape,
        _type(dtype, tile.dtype),
        lambda dst: select.range_select(
            dst, read, comp_op0, comp_op1, low, high, reduce_cmd, total, reduce_op, range_start, on_false_value
        ),
        explicit=dtype is not None,
        chooser=chooser,
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
    unknown("nisa.select_reduce", kwargs)
    begin()
    api = "nisa.select_reduce"
    target = tile_of(dst, "dst", api)
    if dtype is not None and dtype_of(dtype) is not target.dtype:
        context.fail("KW-DTYPE", f"{api}: dst is {target.dtype}, dtype says {dtype}", operand="dtype")
    chooser = resolve(mask, target.shape)
    if is_empty(chooser):
        return
    pred, data = (source(tile_of(v, n, api), chooser) for v, n in ((predicate, "predicate"), (on_true, "on_true")))
    select.select_reduce(
        apart(target, chooser),
        pred,
        data,
        _lane(on_false, chooser, "on_false", api),
        _lane(reduce_res, chooser, "reduce_res", api),
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
    unknown("nisa.tensor_scalar_cumulative", kwargs)
    begin()
    api = "nisa.tensor_scalar_cumulative"
    target, data = tile_of(dst, "dst", api), tile_of(src, "src", api)
    chooser = resolve(mask, target.shape)
    if not is_empty(chooser):
        select.tensor_scalar_cumulative(
            apart(target, chooser),
            source(data, chooser),
            op0,
            op1,
            _lane(imm0, chooser, "imm0", api),
            _lane(imm1, chooser, "imm1", api),
            reduce_cmd,
        )


def dropout(data: Any, prob: Any, *, mask: Any = None, dtype: Any = None, **kwargs: Any) -> Any:
    """data with elements replaced by 0 with probability `prob` (a number or a [P, 1] tile)."""
    unknown("nisa.dropout", kwargs)
    core = begin()
    tile = tile_of(data, "data", "nisa.dropout")
    chooser = resolve(mask, tile.shape)
    read, chance = source(tile, chooser), _lane(prob, chooser, "prob", "nisa.dropout")
    return defer(
        core,
        tile.shape,
        _type(dtype, tile.dtype),
        lambda dst: randomness.dropout(dst, read, chance),
        explicit=dtype is not None,
        chooser=chooser,
    )


def nc_stream_shuffle(
    src: Any, dst: Any, shuffle_mask: Any, *, dtype: Any = None, mask: Any = None, **kwargs: Any
) -> None:
    """dst[32q + i] = src[32q + shuffle_mask[i]] for each quadrant q of partitions."""
    unknown("nisa.nc_stream_shuffle", kwargs)
    begin()
    api = "nisa.nc_stream_shuffle"
    target, data = tile_of(dst, "dst", api), tile_of(src, "src", api)
    if dtype is not None and dtype_of(dtype) is not target.dtype:
        context.fail("KW-DTYPE", f"{api}: dst is {target.dtype}, dtype says {dtype}", operand="dtype")
    chooser = resolve(mask, target.shape)
    if not is_empty(chooser):
        gather.nc_stream_shuffle(apart(target, chooser), source(data, chooser), shuffle_mask)


# -- GpSimd Engine -----------------------------------------------------------------------------------------------------


def iota(expr: Any, dtype: Any, *, mask: Any = None, **kwargs: Any) -> Any:
    """A tile with the values of an index expression."""
    unknown("nisa.iota", kwargs)
    core = begin()
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
    chooser = resolve(mask, expr.shape)
    if isinstance(chooser, np.ndarray):
        context.unsupported("nisa.iota with a mask that is no rectangle")
    index = expr if not chooser else expr.restrict(chooser)
    pattern = [[s if n > 1 else 0, n] for s, n in zip(index.steps[1:], index.shape[1:])]
    lanes = index.steps[0] if index.shape[0] > 1 else 0
    return defer(
        core,
        expr.shape,
        dtype_of(dtype),
        lambda dst: gpsimd.iota(dst, pattern, index.offset, lanes),
        spaces=SBUF_ONLY,
        explicit=True,
        chooser=chooser,
    )


def affine_select(
    pred: Any, on_true_tile: Any, on_false_value: Any, *, mask: Any = None, dtype: Any = None, **kwargs: Any
) -> Any:
    """on_true_tile where the affine predicate holds, else on_false_value."""
    unknown("nisa.affine_select", kwargs)
    core = begin()
    api = "nisa.affine_select"
    tile = tile_of(on_true_tile, "on_true_tile", api)
    chooser = resolve(mask, tile.shape)
    if isinstance(chooser, np.ndarray):
        context.unsupported("nisa.affine_select with a mask that is no rectangle")
    kind = _type(dtype, tile.dtype)
    if isinstance(pred, bool | int | np.bool_):
        read = source(tile, chooser)
        if pred:
            emit = lambda dst: vector.tensor_copy(dst, read)  # noqa: E731
        else:
            emit = lambda dst: vector.memset(dst, on_false_value)  # noqa: E731
        return defer(core, tile.shape, kind, emit, explicit=dtype is not None, chooser=chooser)
    if not isinstance(pred, Mask) or len(pred.terms) != 1 or pred.values is not None:
        context.fail(
            "KW-PREDICATE",
            f"{api}: pred must be one comparison of affine index expressions",
            operand="pred",
            fix="use one comparison without & and |, or nl.where",
        )
    index, comparison = pred.terms[0]
    steps = _aligned(index.steps, index.shape, tile.shape)
    offset = index.offset
    sizes = tile.shape
    if chooser:
        offset += sum(s * start for s, (start, _), n in zip(steps, chooser, sizes) if n != 1)
        sizes = tuple(n if n == 1 else b - a for n, (a, b) in zip(sizes, chooser))
    pattern = [[s, n] for s, n in zip(steps[1:], sizes[1:])]
    read = source(tile, chooser)

    def select_affine(dst: Any) -> None:
        data = in_sbuf(core, read)
        gpsimd.affine_select(dst, pattern, steps[0], data, float(on_false_value), comparison, offset)

    return defer(core, tile.shape, kind, select_affine, spaces=SBUF_ONLY, explicit=dtype is not None, chooser=chooser)


def tensor_partition_reduce(op: Any, data: Any, *, mask: Any = None, dtype: Any = None, **kwargs: Any) -> Any:
    """A [1, F...] tile: reduction over partitions."""
    unknown("nisa.tensor_partition_reduce", kwargs)
    core = begin()
    tile = tile_of(data, "data", "nisa.tensor_partition_reduce")
    chooser = resolve(mask, tile.shape)
    if isinstance(chooser, np.ndarray):
        context.unsupported("nisa.tensor_partition_reduce with a mask that is no rectangle")
    read = source(tile, chooser)
    return defer(
        core,
        (1, *tile.shape[1:]),
        _type(dtype, tile.dtype),
        lambda dst: gpsimd.tensor_partition_reduce(dst, op, read),
        spaces=SBUF_ONLY,
        explicit=dtype is not None,
        chooser=None if chooser is None else () if is_empty(chooser) else ((0, 1), *chooser[1:]),
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
    unknown("nisa.local_gather", kwargs)
    core = begin()
    api = "nisa.local_gather"
    data, places = tile_of(src_buffer, "src_buffer", api), tile_of(index, "index", api)
    if mask is not None and resolve(mask, data.shape) is not None:
        context.unsupported(f"{api} with a mask")
    per_core = prod(places.shape[1:]) * 16 if num_valid_indices is None else context.index_value(num_valid_indices)
    shape: tuple[int, ...] = (data.shape[0], per_core)
    if num_elem_per_idx != 1:
        shape = (*shape, int(num_elem_per_idx))
    return defer(
        core,
        shape,
        data.dtype,
        lambda dst: gather.local_gather(dst, data, places, num_elem_per_idx, num_valid_indices),
        spaces=SBUF_ONLY,
    )


def sequence_bounds(*, segment_ids: Any, dtype: Any = None, **kwargs: Any) -> Any:
    """[start, end) of each element's segment, as a [1, 2, n] tile."""
    unknown("nisa.sequence_bounds", kwargs)
    core = begin()
    ids = tile_of(segment_ids, "segment_ids", "nisa.sequence_bounds")
    return defer(
        core,
        (ids.shape[0], 2, *ids.shape[1:]),
        _type(dtype, ids.dtype),
        lambda dst: gather.sequence_bounds(dst, ids),
        spaces=SBUF_ONLY,
        explicit=dtype is not None,
    )


def gather_flattened(data: Any, indices: Any, *, mask: Any = None, dtype: Any = None, **kwargs: Any) -> Any:
    """Elements of each partition's flattened free dimensions, by an index tile."""
    unknown("nl.gather_flattened", kwargs)
    core = begin()
    api = "nl.gather_flattened"
    tile, places = tile_of(data, "data", api), tile_of(indices, "indices", api)
    chooser = resolve(mask, places.shape)
    if isinstance(chooser, np.ndarray):
        context.unsupported(f"{api} with a mask that is no rectangle")
    read = _rows_of(tile, chooser, api)
    picked = source(places, chooser)

    def emit(dst: Any) -> None:
        wanted = picked
        if wanted.dtype is not dtypes.uint32:
            wanted = new_tile(core, picked.shape, dtypes.uint32)
            vector.tensor_copy(wanted, picked)
        gather.nc_n_gather(dst, read, wanted)

    return defer(
        core,
        places.shape,
        _type(dtype, tile.dtype),
        emit,
        spaces=SBUF_ONLY,
        explicit=dtype is not None,
        chooser=chooser,
    )


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
    unknown("nisa.nc_matmul", kwargs)
    core = begin()
    api = "nisa.nc_matmul"
    a, b = tile_of(stationary, "stationary", api), tile_of(moving, "moving", api)
    a, b = _operand(core, a, b), _operand(core, b, a)
    chooser = resolve(mask, b.shape)
    if isinstance(chooser, np.ndarray):
        context.unsupported(f"{api} with a mask that is no rectangle")
    rows = prod(a.shape[1:])
    shape = (rows, *(b.shape[1:] or (1,)))
    if perf_mode is not None and str(getattr(perf_mode, "name", perf_mode)).startswith("double_row"):
        # both operands are [K, 2, F]: the 2 belongs to the contraction
        rows, shape = rows // 2, (rows // 2, prod(b.shape[2:]))
    out: Chooser = None
    if chooser is not None:
        if is_empty(chooser):
            out = ()
        else:
            a, b = a.narrow((chooser[0], *((0, n) for n in a.shape[1:]))), b.narrow(chooser)
            out = ((0, rows), *chooser[1:])
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

    return defer(core, shape, kind, emit, space="psum", spaces=PSUM_ONLY, chooser=out, accumulate=accumulate)


def matmul(x: Any, y: Any, *, transpose_x: bool = False, mask: Any = None, **kwargs: Any) -> Any:
    """x @ y (x^T @ y with transpose_x) as a PSUM tile; x is transposed on the PE first when it must be."""
    unknown("nl.matmul", kwargs)
    core = begin()
    a, b = tile_of(x, "x", "nl.matmul"), tile_of(y, "y", "nl.matmul")
    a, b = in_sbuf(core, a), in_sbuf(core, b)
    if not transpose_x:
        turned = turn(core, a)
        held = new_tile(core, turned.shape, a.dtype)
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
    unknown("nisa.nc_transpose", kwargs)
    core = begin()
    tile = tile_of(data, "data", "nisa.nc_transpose")
    chooser = resolve(mask, tile.shape)
    if isinstance(chooser, np.ndarray):
        context.unsupported("nisa.nc_transpose with a mask that is no rectangle")
    if chooser and tile.ndim != 2:
        context.unsupported("nisa.nc_transpose of several free dimensions with a mask")
    read = source(tile, chooser)
    p, f = tile.shape[0], prod(tile.shape[1:])
    chosen = engine.value if isinstance(engine, engines) else engine
    on_vector = chosen is Engine.VECTOR or (
        chosen in (None, Engine.UNKNOWN)
        and (max(p, f) <= 32 or (not is_empty(chooser) and read.buffer.space == "psum"))
    )
    turned = None if chooser is None else chooser[::-1]
    if dtype is not None and dtype_of(dtype) is not tile.dtype:
        kind = dtype_of(dtype)

        def cast(dst: Any) -> None:
            between = new_tile(core, (f, p), tile.dtype, "sbuf" if on_vector else "psum")
            into = apart(between, turned)
            _transpose(core, into, read, engine)
            vector.tensor_copy(dst, into)

        return defer(core, (f, p), kind, cast, explicit=True, chooser=turned)
    if on_vector:
        return defer(core, (f, p), tile.dtype, lambda dst: _transpose_on_vector(dst, read), chooser=turned)
    return defer(
        core,
        (f, p),
        _psum_type(core, tile.dtype),
        lambda dst: _transpose(core, dst, in_sbuf(core, read), engines.tensor),
        space="psum",
        spaces=PSUM_ONLY,
        chooser=turned,
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
