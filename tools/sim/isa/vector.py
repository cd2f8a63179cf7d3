"""Vector Engine (DVE): elementwise work on one or two tiles, reductions along the free dimensions, statistics.

Arithmetic is float32 inside, whatever the operands' types (NKI ISA reference). Cost laws: ISA pages of Beta 1, in cycles.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from tools.sim import context, dtypes
from tools.sim.core import common_flags
from tools.sim.instruction import Effect, Engine, Flag, opcode
from tools.sim.isa import ops
from tools.sim.isa.enums import reduce_cmd
from tools.sim.isa.operands import (
    copy_transposed,
    forbid_psum_on_gpsimd,
    forbid_two_psum,
    forms,
    is_tensor,
    lane_bits,
    lane_scalar,
    lane_values,
    names_engine,
    on_chip,
    pick_engine,
    require_dtype,
    result_room,
    same_free,
    same_partitions,
    shaped,
    transposed,
)
from tools.sim.isa.registers import accumulate, command
from tools.sim.tensor import Tensor

Outs = tuple[Tensor, ...]
FP32_MIN = float(np.finfo(np.float32).min)
_EXACT_INTEGERS = (dtypes.int32, dtypes.uint32)


def psum_flags(dst: Tensor, *sources: Tensor) -> int:
    """Cost flags for operands that lie in PSUM."""
    flags = Flag.PSUM_DST if dst.buffer.space == "psum" else 0
    for source in sources:
        if source.buffer.space == "psum":
            flags |= Flag.PSUM_SRC
    return flags


# -- copies and fills --------------------------------------------------------------------------------------------------


@opcode(
    "tensor_copy",
    Engine.VECTOR,
    Engine.SCALAR,
    Engine.GPSIMD,
    cost="vector",
    source="ISA tensor_copy",
    effect=Effect.LANES,
)
def TENSOR_COPY(outs: Outs, ins: Outs, through_float: bool = False) -> None:
    """dst = src, cast to dst's type; bit-exact when the types are equal."""
    dst, src = outs[0], ins[0]
    values = src.read()
    if (dst.dtype is not src.dtype or through_float) and values.dtype.kind in "iu":
        values = values.astype(np.float32)
    dst.write(shaped(values, dst.shape))


def tensor_copy(dst: Tensor, src: Tensor, engine: Any = None, name: str | None = None) -> None:
    """Copy a tile within SBUF/PSUM, casting to dst's type.

    Args:
        dst, src: tiles [P, F...] with equal P and equal elements per partition.
        engine: Vector (default), Scalar or GpSimd; GpSimd can't access PSUM. Scalar copies go through float32 on trn1.
    """
    core = context.current()
    key = forms(dst, src)
    known = core.legal.get((TENSOR_COPY.code, id(engine), key)) if key is not None else None
    if known is None:
        dst = on_chip(dst, "dst", api="tensor_copy")
        src = on_chip(src, "src", api="tensor_copy")
        p = same_partitions(("dst", dst), ("src", src), api="tensor_copy")
        n = same_free(("dst", dst), ("src", src), api="tensor_copy")
        unit = pick_engine(engine, TENSOR_COPY.engines, api="tensor_copy")
        forbid_psum_on_gpsimd(unit, (dst, src), api="tensor_copy")
        flags = common_flags(dst, src) | psum_flags(dst, src) | Flag.COPY_LIKE
        flags |= Flag.PINNED if names_engine(engine) else 0
        params = {"through_float": True} if unit is Engine.SCALAR and core.machine.generation < 3 else None
        known = unit, n, p, flags, params
        if key is not None:
            core.legal[TENSOR_COPY.code, id(engine), key] = known
    unit, n, p, flags, params = known
    core.issue(TENSOR_COPY, unit, (dst,), (src,), free=n, partitions=p, flags=flags, params=params)


def tensor_copy_dynamic_src(dst: Tensor, src: Tensor, engine: Any = None, name: str | None = None) -> None:
    """`tensor_copy` from a view whose offset is dynamic (0.2; since 0.4 plain tensor_copy takes such views)."""
    tensor_copy(dst, src, engine, name)


def tensor_copy_dynamic_dst(dst: Tensor, src: Tensor, engine: Any = None, name: str | None = None) -> None:
    """`tensor_copy` to a view whose offset is dynamic (0.2; since 0.4 plain tensor_copy takes such views)."""
    tensor_copy(dst, src, engine, name)


@opcode("memset", Engine.VECTOR, Engine.GPSIMD, cost="memset", source="ISA memset", effect=Effect.LANES)
def MEMSET(outs: Outs, ins: Outs, value: Any) -> None:
    """Fill dst with one value."""
    dst = outs[0]
    if dst.dtype.is_float:
        dst.view()[...] = np.float32(value)
        dst.wrote()
    else:
        dst.write(np.asarray(value))


def memset(dst: Tensor, value: Any, engine: Any = None, name: str | None = None) -> None:
    """Fill a tile with a number; its kind must agree with dst's type (integer types take integers, x4 types only 0)."""
    dst = on_chip(dst, "dst", api="memset")
    if isinstance(value, Tensor):
        context.fail("KW-OPERAND-TYPE", "memset: value is a tensor", operand="value", fix="use tensor_copy")
    if dst.dtype.kind == "packed" and value != 0:
        context.fail(
            "KW-MEMSET-VALUE",
            f"memset: {dst.dtype} tiles take only 0",
            operand="value",
            found=value,
            limit=0,
            fix="fill through a view of an ordinary type",
        )
    if dst.dtype.is_integer and isinstance(value, float | np.floating) and not float(value).is_integer():
        context.fail(
            "KW-MEMSET-VALUE",
            f"memset: value {value!r} isn't an integer but dst is {dst.dtype}",
            operand="value",
            found=value,
            fix="pass an integer, or use a float tile",
        )
    if dst.dtype.is_integer and isinstance(value, float | np.floating):
        context.strict_fail(
            "KW-MEMSET-VALUE",
            f"memset: value {value!r} is a float but dst is {dst.dtype}; their kinds must agree since 0.3",
            dialect="nki",
            operand="value",
            found=value,
            limit="an integer",
            fix=f"write {int(value)}",
        )
    unit = pick_engine(engine, MEMSET.engines, api="memset")
    forbid_psum_on_gpsimd(unit, (dst,), api="memset")
    n = dst.size // dst.shape[0]
    flags = common_flags(dst) | psum_flags(dst) | (Flag.ZERO_FILL if value == 0 else 0)
    context.current().issue(
        MEMSET, unit, (dst,), (), free=n, partitions=dst.shape[0], flags=flags, params={"value": value}
    )


# -- two tiles ---------------------------------------------------------------------------------------------------------


def _binary(op: ops.AluOp, a: Tensor, b: Tensor, shape: tuple[int, ...]) -> Any:
    if op.bitwise or (a.dtype in _EXACT_INTEGERS and b.dtype in _EXACT_INTEGERS):
        x, y = a.read(), b.read()
        if not op.bitwise and x.dtype != y.dtype:
            x, y = x.astype(np.int64), y.astype(np.int64)
    else:
        x, y = a.read_float(), b.read_float()
    with np.errstate(all="ignore"):
        return op.function(shaped(x, shape), shaped(y, shape))


@opcode("tensor_tensor", Engine.VECTOR, Engine.GPSIMD, cost="vector2", source="ISA tensor_tensor", effect=Effect.LANES)
def TENSOR_TENSOR(outs: Outs, ins: Outs, op: ops.AluOp, exact: bool) -> None:
    """dst = data1 op data2, elementwise."""
    dst, (a, b) = outs[0], ins
    if op.ufunc is not None and not op.bitwise and not exact:
        target = dst._view if dst._view is not None else dst.view()
        x, y = a.read_float(), b.read_float()
        if target.dtype == np.float32 and x.shape == y.shape == target.shape:
            with np.errstate(all="ignore"):
                op.ufunc(x, y, out=target)
            dst.wrote()
            return
        with np.errstate(all="ignore"):
            dst.write(op.ufunc(shaped(x, dst.shape), shaped(y, dst.shape)))
        return
    if exact or op.bitwise:
        dst.write(_binary(op, a, b, dst.shape))
    else:
        with np.errstate(all="ignore"):
            dst.write(op.function(shaped(a.read_float(), dst.shape), shaped(b.read_float(), dst.shape)))


def tensor_tensor(
    dst: Tensor, data1: Tensor, data2: Tensor, op: Any, engine: Any = None, name: str | None = None
) -> None:
    """dst = data1 op data2, elementwise over tiles of equal shape.

    Args:
        dst, data1, data2: tiles [P, F...]; data1 and data2 not both in PSUM.
        op: an ALU operator (`nl.add`, `nl.maximum`, `nl.is_equal`-like comparisons yield 1.0/0.0).
        engine: Vector (default) or GpSimd (default for `power` and for int32/uint32, where it is exact).
    """
    core = context.current()
    operator = ops.alu(op)
    key = forms(dst, data1, data2)
    known = core.legal.get((TENSOR_TENSOR.code, id(engine), operator.name, key)) if key is not None else None
    if known is None:
        known = _check_tensor_tensor(dst, data1, data2, operator, engine)
        if key is not None:
            core.legal[TENSOR_TENSOR.code, id(engine), operator.name, key] = known
    unit, n, p, flags, exact = known
    core.issue(
        TENSOR_TENSOR,
        unit,
        (dst,),
        (data1, data2),
        free=n,
        partitions=p,
        flags=flags,
        params={"op": operator, "exact": exact},
    )


def _check_tensor_tensor(
    dst: Any, data1: Any, data2: Any, operator: ops.AluOp, engine: Any
) -> tuple[Engine, int, int, int, bool]:
    """Engine, elements and partitions, flags, and whether integers stay exact."""
    api = "tensor_tensor"
    dst = on_chip(dst, "dst", api=api)
    a = on_chip(data1, "data1", api=api)
    b = on_chip(data2, "data2", api=api)
    p = same_partitions(("dst", dst), ("data1", a), ("data2", b), api=api)
    n = same_free(("dst", dst), ("data1", a), ("data2", b), api=api)
    forbid_two_psum(a, b, ("data1", "data2"), api=api)
    if operator.bitwise:
        _require_integers(operator, dst, a, b, api=api)
    psum = psum_flags(dst, a, b)
    integers = a.dtype in _EXACT_INTEGERS and b.dtype in _EXACT_INTEGERS and not operator.bitwise
    default = TENSOR_TENSOR.engines
    if (operator.name == "power" or integers) and not psum:
        default = (Engine.GPSIMD, Engine.VECTOR)
    unit = pick_engine(engine, default, api=api)
    forbid_psum_on_gpsimd(unit, (dst, a, b), api=api)
    flags = common_flags(dst, a, b) | psum | Flag.TWO_TENSORS | (Flag.INTEGER if integers else 0)
    return unit, n, p, flags, integers and unit is Engine.GPSIMD


def _require_integers(op: ops.AluOp, *tiles: Tensor, api: str) -> None:
    for tile in tiles:
        if not tile.dtype.is_integer:
            context.fail(
                "KW-BITWISE-DTYPE",
                f"{api}: nl.{op.name} works on integer bits, but {tile!r} is {tile.dtype}",
                operand=tile.name,
                found=str(tile.dtype),
                fix="use integer tiles, or view(dtype) the bits as integers",
            )


# -- a tile and one number per lane ------------------------------------------------------------------------------------


def _apply(op: ops.AluOp, x: Any, operand: Any, reverse: bool) -> Any:
    if op.unary:
        return op.function(x)
    y = op.function(operand, x) if reverse else op.function(x, operand)
    return y.astype(np.float32) if op.compares else y


@opcode(
    "tensor_scalar",
    Engine.VECTOR,
    Engine.SCALAR,
    Engine.GPSIMD,
    cost="vector",
    source="ISA tensor_scalar",
    effect=Effect.LANES,
)
def TENSOR_SCALAR(
    outs: Outs, ins: Outs, op0: Any, operand0: Any, reverse0: bool, op1: Any, operand1: Any, reverse1: bool
) -> None:
    """dst = (data op0 operand0) op1 operand1; operands are numbers or one number a lane."""
    dst, data = outs[0], ins[0]
    if op0.bitwise:
        x = data.read()
        lanes = partial(lane_bits, ndim=x.ndim, dtype=x.dtype)
    else:
        x = data.read_float()
        lanes = partial(lane_values, ndim=x.ndim)
    with np.errstate(all="ignore"):
        if (
            op0.ufunc is not None
            and not op0.bitwise
            and not op0.unary
            and (op1 is None or (op1.ufunc is not None and not op1.unary and not reverse1))
        ):
            room = result_room(dst, x, operand0, operand1)
            y = op0.ufunc(lanes(operand0), x, out=room) if reverse0 else op0.ufunc(x, lanes(operand0), out=room)
            if op1 is not None:
                y = op1.ufunc(y, lanes(operand1), out=y if y.dtype == np.float32 else None)
            if y is room:
                dst.wrote()
                return
            if op1 is None and op0.compares:
                y = y.astype(np.float32)
        else:
            y = _apply(op0, x, None if op0.unary else lanes(operand0), reverse0)
            if op1 is not None:
                y = _apply(op1, y, None if op1.unary else lanes(operand1), reverse1)
    dst.write(shaped(np.asarray(y), dst.shape))


def tensor_scalar(
    dst: Tensor,
    data: Tensor,
    op0: Any,
    operand0: Any = None,
    reverse0: bool = False,
    op1: Any = None,
    operand1: Any = None,
    reverse1: bool = False,
    engine: Any = None,
    name: str | None = None,
) -> None:
    """dst = (data op0 operand0) op1 operand1, with operands broadcast along the free dimensions.

    Args:
        dst, data: tiles [P, F...] of equal size.
        operand0, operand1: a number, or a [P, 1] tile (float32 for arithmetic operators).
        reverse0, reverse1: swap the two sides of the operator.
        engine: Vector (default), Scalar (only multiply/add pairs) or GpSimd (default for rsqrt).
    """
    api = "tensor_scalar"
    dst = on_chip(dst, "dst", api=api)
    data = on_chip(data, "data", api=api)
    first = ops.alu(op0, "op0")
    second = ops.alu(op1, "op1") if op1 is not None else None
    p = same_partitions(("dst", dst), ("data", data), api=api)
    n = same_free(("dst", dst), ("data", data), api=api)
    if second is not None and first.bitwise != second.bitwise and "bypass" not in (first.name, second.name):
        context.fail(
            "KW-OP-MIX",
            f"tensor_scalar: op0=nl.{first.name} and op1=nl.{second.name} mix bitwise and arithmetic operators",
            operand="op1",
            fix="use two instructions",
        )
    a = _lane_operand(first, operand0, "operand0", p, api)
    b = _lane_operand(second, operand1, "operand1", p, api) if second is not None else 0.0
    if first.bitwise:
        _require_integers(first, dst, data, api=api)
    default = TENSOR_SCALAR.engines
    if "rsqrt" in (first.name, second.name if second else "") and not psum_flags(dst, data):
        default = (Engine.GPSIMD, Engine.VECTOR)
    unit = pick_engine(engine, default, api=api)
    forbid_psum_on_gpsimd(unit, (dst, data, *is_tensor(a, b)), api=api)
    pair = (first.name, second.name if second else None)
    on_scalar = pair in (("multiply", "add"), ("multiply", None), ("add", None))
    if unit is Engine.SCALAR and not on_scalar:
        context.fail(
            "KW-SCALAR-TENSOR-SCALAR",
            f"tensor_scalar on the Scalar Engine can't do {pair[0]}" + (f" then {pair[1]}" if pair[1] else ""),
            operand="engine",
            limit="multiply+add, multiply, add",
            fix="use the Vector Engine or nisa.activation",
        )
    extra = is_tensor(a, b)
    flags = common_flags(dst, data) | psum_flags(dst, data) | (Flag.SCALAR_OPERAND if extra else 0)
    # Adding a negative constant is a subtraction; the compiler knows that, the instruction doesn't.
    if names_engine(engine) or not (on_scalar or (pair == ("subtract", None) and not extra)):
        flags |= Flag.PINNED
    context.current().issue(
        TENSOR_SCALAR,
        unit,
        (dst,),
        (data, *extra),
        free=n,
        partitions=p,
        flags=flags,
        params={
            "op0": first,
            "operand0": a,
            "reverse0": bool(reverse0),
            "op1": second,
            "operand1": b,
            "reverse1": bool(reverse1),
        },
    )


def _lane_operand(op: ops.AluOp, value: Any, name: str, p: int, api: str) -> Tensor | float:
    if op.unary and (value is None or not isinstance(value, Tensor)):
        return 0.0
    if value is None:
        context.fail(
            "KW-OPERAND-MISSING",
            f"{api}: nl.{op.name} needs {name}",
            operand=name,
            fix=f"pass {name}=number or [P, 1] tile",
        )
    if isinstance(value, Tensor) and not op.bitwise and value.dtype is not dtypes.float32:
        context.strict_fail(
            "KW-DTYPE",
            f"{api}: {name} is {value.dtype}; a tile operand of an arithmetic operator must be float32",
            dialect="nki",
            operand=name,
            found=str(value.dtype),
            limit="float32",
            fix="cast it to float32 first",
        )
    return lane_scalar(value, name, p, api=api)


@opcode(
    "scalar_tensor_tensor",
    Engine.VECTOR,
    Engine.GPSIMD,
    cost="vector2",
    source="ISA scalar_tensor_tensor",
    effect=Effect.LANES,
)
def SCALAR_TENSOR_TENSOR(
    outs: Outs, ins: Outs, op0: Any, operand0: Any, reverse0: bool, op1: Any, reverse1: bool
) -> None:
    """dst = (data op0 operand0) op1 operand1; operand0 is a number a lane, operand1 a tile."""
    dst, data, other = outs[0], ins[0], ins[1]
    x = data.read_float()
    z = shaped(other.read_float(), x.shape)
    # the intermediate result may lie where the final one goes, unless the second operand is read from there
    room = result_room(dst, x, operand0, other) if op0.ufunc is not None and op1.ufunc is not None else None
    with np.errstate(all="ignore"):
        if room is not None:
            lanes = lane_values(operand0, x.ndim)
            y = op0.ufunc(lanes, x, out=room) if reverse0 else op0.ufunc(x, lanes, out=room)
            op1.ufunc(*((z, y) if reverse1 else (y, z)), out=room)
            dst.wrote()
            return
        y = _apply(op0, x, None if op0.unary else lane_values(operand0, x.ndim), reverse0)
        if op1.ufunc is not None and (there := result_room(dst, x)) is not None:
            op1.ufunc(*((z, y) if reverse1 else (y, z)), out=there)
            dst.wrote()
            return
        y = op1.function(z, y) if reverse1 else op1.function(y, z)
    dst.write(shaped(np.asarray(y), dst.shape))


def scalar_tensor_tensor(
    dst: Tensor,
    data: Tensor,
    op0: Any,
    operand0: Any,
    op1: Any,
    operand1: Tensor,
    reverse0: bool = False,
    reverse1: bool = False,
    engine: Any = None,
    name: str | None = None,
) -> None:
    """dst = (data op0 operand0) op1 operand1, arithmetic operators only.

    Args:
        data, operand1: tiles [P, F...], not both in PSUM.
        operand0: a number or a [P, 1] tile.
    """
    api = "scalar_tensor_tensor"
    dst = on_chip(dst, "dst", api=api)
    data = on_chip(data, "data", api=api)
    other = on_chip(operand1, "operand1", api=api)
    first, second = ops.alu(op0, "op0"), ops.alu(op1, "op1")
    if first.bitwise or second.bitwise:
        context.fail(
            "KW-OP-MIX", f"{api}: only arithmetic operators are legal", fix="use tensor_tensor for bitwise work"
        )
    p = same_partitions(("dst", dst), ("data", data), ("operand1", other), api=api)
    n = same_free(("dst", dst), ("data", data), ("operand1", other), api=api)
    forbid_two_psum(data, other, ("data", "operand1"), api=api)
    a = _lane_operand(first, operand0, "operand0", p, api)
    unit = pick_engine(engine, SCALAR_TENSOR_TENSOR.engines, api=api)
    forbid_psum_on_gpsimd(unit, (dst, data, other), api=api)
    context.current().issue(
        SCALAR_TENSOR_TENSOR,
        unit,
        (dst,),
        (data, other, *is_tensor(a)),
        free=n,
        partitions=p,
        flags=common_flags(dst, data, other) | psum_flags(dst, data, other) | Flag.TWO_TENSORS,
        params={"op0": first, "operand0": a, "reverse0": bool(reverse0), "op1": second, "reverse1": bool(reverse1)},
    )


# -- reductions --------------------------------------------------------------------------------------------------------


def free_axes(axis: Any, ndim: int, *, api: str) -> tuple[int, ...]:
    """Reduction axes as sorted non-negative integers: trailing, contiguous, never the partition axis."""
    given = tuple(axis) if isinstance(axis, list | tuple | range) else (axis,)
    axes = tuple(sorted({int(a) + ndim if int(a) < 0 else int(a) for a in given}))
    if not axes or axes[0] < 0 or axes[-1] >= ndim:
        context.fail(
            "KW-REDUCE-AXIS",
            f"{api}: axis {axis} is outside the {ndim} dimensions",
            operand="axis",
            found=str(axis),
            fix="name one of the free dimensions, the last ones",
        )
    if axes[0] == 0:
        context.fail(
            "KW-REDUCE-AXIS",
            f"{api}: axis {axis} includes the partition dimension",
            operand="axis",
            found=str(axis),
            limit=f"1..{ndim - 1}",
            fix="reduce across partitions by a matmul with ones, nc_transpose, or tensor_partition_reduce",
        )
    if axes != tuple(range(axes[0], ndim)):
        context.fail(
            "KW-REDUCE-AXIS",
            f"{api}: axes {axes} must be the last, neighbouring dimensions of the {ndim}",
            operand="axis",
            found=str(axis),
            fix="reorder the dimensions of the view (.ap) so that the reduced ones come last",
        )
    return axes


@opcode("tensor_reduce", Engine.VECTOR, Engine.GPSIMD, cost="vector", source="ISA tensor_reduce", effect=Effect.LANES)
def TENSOR_REDUCE(outs: Outs, ins: Outs, op: ops.AluOp, axes: tuple[int, ...], negate: bool) -> None:
    """dst = reduction of data over its trailing free axes."""
    dst, data = outs[0], ins[0]
    values = data.read() if op.bitwise else data.read_float()
    with np.errstate(all="ignore"):
        total = ops.reduce_free(op, values, axes)
    if negate:
        total = -total
    dst.write(shaped(total, dst.shape))


def tensor_reduce(
    dst: Tensor,
    op: Any,
    data: Tensor,
    axis: Any,
    negate: bool = False,
    keepdims: bool = False,
    engine: Any = None,
    name: str | None = None,
) -> None:
    """Reduce a tile along trailing free axes.

    Args:
        dst: [P, kept...]; sizes must multiply to the kept sizes (with or without the reduced 1s).
        op: add, subtract, multiply, maximum, minimum, logical and bitwise and/or/xor.
        data: [P, F...].
        axis: one axis or several, neighbouring and last; never 0.
        negate: multiply the result by -1.
    """
    api = "tensor_reduce"
    dst = on_chip(dst, "dst", api=api)
    data = on_chip(data, "data", api=api)
    operator = ops.reduction(op)
    axes = free_axes(axis, data.ndim, api=api)
    p = same_partitions(("dst", dst), ("data", data), api=api)
    kept = int(np.prod(data.shape[1 : axes[0]], dtype=np.int64))
    if dst.size // dst.shape[0] != kept:
        context.fail(
            "KW-SHAPE-MISMATCH",
            f"{api}: dst {list(dst.shape)} has {dst.size // dst.shape[0]} elements a partition; reducing {list(data.shape)} "
            f"over {axes} leaves {kept}",
            operand="dst",
            found=list(dst.shape),
            limit=kept,
            fix=f"give dst the shape [{p}, {kept}]",
        )
    unit = pick_engine(engine, TENSOR_REDUCE.engines, api=api)
    forbid_psum_on_gpsimd(unit, (dst, data), api=api)
    flags = common_flags(data) | psum_flags(dst, data)
    if dst.dtype.itemsize != 2:
        flags &= ~Flag.HALF_IO
    context.current().issue(
        TENSOR_REDUCE,
        unit,
        (dst,),
        (data,),
        free=data.size // p,
        partitions=p,
        flags=flags,
        params={"op": operator, "axes": axes, "negate": bool(negate)},
    )


@opcode(
    "tensor_scalar_reduce", Engine.VECTOR, cost="vector", source="ISA tensor_scalar_reduce", effect=Effect.REGISTERS
)
def TENSOR_SCALAR_REDUCE(
    outs: Outs,
    ins: Outs,
    op0: Any,
    operand0: Any,
    reverse0: bool,
    reduce_op: Any,
    order: Any,
    initial: Any,
    negate: bool,
) -> None:
    """dst = data op0 operand0, and the reduction of dst over all free dimensions into reduce_res."""
    dst, data = outs[0], ins[0]
    x = data.read_float()
    with np.errstate(all="ignore"):
        y = _apply(op0, x, None if op0.unary else lane_values(operand0, x.ndim), reverse0)
    y = np.asarray(y, np.float32)
    start = initial.read_float() if isinstance(initial, Tensor) else initial
    total = accumulate(Engine.VECTOR, order, reduce_op, y, start).copy()
    dst.write(shaped(y, dst.shape))
    if len(outs) > 1:
        outs[1].write((-total if negate else total).reshape(outs[1].shape))


def tensor_scalar_reduce(
    dst: Tensor,
    data: Tensor,
    op0: Any,
    operand0: Any,
    reduce_op: Any,
    reduce_res: Tensor | None = None,
    reverse0: bool = False,
    reduce_cmd: Any = reduce_cmd.reset_reduce,
    reduce_init: Any = None,
    reduce_res_negate: bool = False,
    name: str | None = None,
) -> None:
    """dst = data op0 operand0, reduced over all free dimensions into reduce_res [P, 1] (add, multiply, max, min)."""
    api = "tensor_scalar_reduce"
    dst = on_chip(dst, "dst", api=api)
    data = on_chip(data, "data", api=api)
    p = same_partitions(("dst", dst), ("data", data), api=api)
    n = same_free(("dst", dst), ("data", data), api=api)
    first = ops.alu(op0, "op0")
    if first.bitwise:
        context.fail(
            "KW-OP-MIX",
            f"{api}: op0=nl.{first.name} must be an arithmetic operator",
            operand="op0",
            fix="use an arithmetic operator; bitwise ones need tensor_scalar",
        )
    a = _lane_operand(first, operand0, "operand0", p, api)
    folder = ops.reduction(reduce_op, "reduce_op")
    if folder.name not in ("add", "multiply", "maximum", "minimum"):
        context.fail(
            "KW-OP-REDUCE",
            f"{api}: reduce_op=nl.{folder.name}; the registers fold with add, multiply, maximum or minimum",
            operand="reduce_op",
            found=folder.name,
            limit="add, multiply, maximum, minimum",
            fix="use tensor_reduce for other reductions",
        )
    order = command(reduce_cmd, _FOLDING, api=api)
    start = initial_value(order, reduce_init, p, api=api)
    outs = (dst, *lane_result(reduce_res, p, api=api))
    context.current().issue(
        TENSOR_SCALAR_REDUCE,
        Engine.VECTOR,
        outs,
        (data, *is_tensor(a, start)),
        free=n,
        partitions=p,
        flags=common_flags(dst, data) | psum_flags(dst, data) | Flag.REDUCE,
        params={
            "op0": first,
            "operand0": a,
            "reverse0": bool(reverse0),
            "reduce_op": folder,
            "order": order,
            "initial": start,
            "negate": bool(reduce_res_negate),
        },
    )


_FOLDING = (reduce_cmd.reset_reduce, reduce_cmd.reduce, reduce_cmd.load_reduce)


def initial_value(order: reduce_cmd, value: Any, lanes: int, *, api: str, operand: str = "reduce_init") -> Any:
    """The registers' start value, which belongs to `load_reduce` and to nothing else."""
    if order is reduce_cmd.load_reduce:
        if value is None:
            context.fail(
                "KW-REDUCE-INIT",
                f"{api}: reduce_cmd=load_reduce needs {operand}",
                operand=operand,
                fix=f"pass {operand}=number or a float32 [P, 1] tile",
            )
        return lane_scalar(value, operand, lanes, api=api)
    if value is not None and (isinstance(value, Tensor) or value != 0):
        context.fail(
            "KW-REDUCE-INIT",
            f"{api}: {operand} is given, but reduce_cmd={order.name} doesn't load it",
            operand=operand,
            fix=f"drop {operand} or pass reduce_cmd=nisa.reduce_cmd.load_reduce",
        )
    return None


def lane_result(value: Any, lanes: int, *, api: str, operand: str = "reduce_res") -> tuple[Tensor, ...]:
    """The [P, 1] tile that receives the registers, as a tuple of none or one."""
    if value is None:
        return ()
    tile = on_chip(value, operand, api=api)
    if tile.size != lanes or tile.shape[0] != lanes:
        context.fail(
            "KW-SHAPE-MISMATCH",
            f"{api}: {operand} {list(tile.shape)} must be [{lanes}, 1]",
            operand=operand,
            found=list(tile.shape),
            limit=[lanes, 1],
            fix=f"give {operand} one element a partition",
        )
    return (tile,)


@opcode(
    "reciprocal",
    Engine.VECTOR,
    Engine.SCALAR,
    Engine.GPSIMD,
    cost="vector_slow",
    source="ISA reciprocal",
    effect=Effect.LANES,
)
def RECIPROCAL(outs: Outs, ins: Outs) -> None:
    """dst = 1 / data, in float32."""
    dst, data = outs[0], ins[0]
    x = data.read_float()
    room = result_room(dst, x)
    with np.errstate(all="ignore"):
        y = np.divide(np.float32(1), x, out=room)
    if y is room:
        dst.wrote()
    else:
        dst.write(shaped(y, dst.shape))


def reciprocal(dst: Tensor, data: Tensor, engine: Any = None, name: str | None = None) -> None:
    """dst = 1 / data, elementwise."""
    dst = on_chip(dst, "dst", api="reciprocal")
    data = on_chip(data, "data", api="reciprocal")
    p = same_partitions(("dst", dst), ("data", data), api="reciprocal")
    n = same_free(("dst", dst), ("data", data), api="reciprocal")
    unit = pick_engine(engine, RECIPROCAL.engines, api="reciprocal")
    forbid_psum_on_gpsimd(unit, (dst, data), api="reciprocal")
    flags = common_flags(dst, data) | psum_flags(dst, data)
    context.current().issue(RECIPROCAL, unit, (dst,), (data,), free=n, partitions=p, flags=flags)


# -- statistics --------------------------------------------------------------------------------------------------------


@opcode("bn_stats", Engine.VECTOR, cost="vector", source="ISA bn_stats", effect=Effect.LANES)
def BN_STATS(outs: Outs, ins: Outs) -> None:
    """Count, mean and variance times count of the even, then of the odd elements of each lane."""
    dst, data = outs[0], ins[0]
    x = data.read_float().reshape(data.shape[0], -1)
    result = np.zeros((x.shape[0], 6), np.float32)
    for start in (0, 1):
        half = x[:, start::2]
        count = half.shape[1]
        if count:
            mean = half.mean(axis=1, dtype=np.float32)
            result[:, 3 * start] = count
            result[:, 3 * start + 1] = mean
            result[:, 3 * start + 2] = np.square(half - mean[:, None]).sum(axis=1, dtype=np.float32)
    dst.write(shaped(result, dst.shape))


def bn_stats(dst: Tensor, data: Tensor, name: str | None = None) -> None:
    """Six statistics per lane: (count, mean, variance*count) of the even elements, then of the odd ones.

    Args:
        dst: [P, 6].
        data: [P, F...] with at most 512 elements a partition.
    """
    api = "bn_stats"
    dst = on_chip(dst, "dst", api=api)
    data = on_chip(data, "data", api=api)
    p = same_partitions(("dst", dst), ("data", data), api=api)
    n = data.size // p
    limit = context.current().machine.bn_stats_fmax
    if n > limit:
        context.fail(
            "KW-BN-STATS-SIZE",
            f"{api}: data has {n} elements a partition, at most {limit} are allowed",
            operand="data",
            found=n,
            limit=limit,
            fix=f"call it on pieces of {limit} and merge them with bn_aggr",
        )
    if dst.size // p != 6:
        context.fail(
            "KW-SHAPE-MISMATCH",
            f"{api}: dst {list(dst.shape)} must be [{p}, 6]",
            operand="dst",
            limit=6,
            fix="allocate dst as [P, 6]: count, mean and variance times count, of even and of odd elements",
        )
    context.current().issue(
        BN_STATS, Engine.VECTOR, (dst,), (data,), free=n, partitions=p, flags=common_flags(data) | psum_flags(dst, data)
    )


@opcode("bn_aggr", Engine.VECTOR, cost="bn_aggr", source="ISA bn_aggr", effect=Effect.LANES)
def BN_AGGR(outs: Outs, ins: Outs) -> None:
    """Mean and variance merged from (count, mean, variance*count) triples."""
    dst, data = outs[0], ins[0]
    triples = data.read_float().reshape(data.shape[0], -1, 3)
    count, mean, spread = triples[..., 0], triples[..., 1], triples[..., 2]
    total = count.sum(axis=1)
    with np.errstate(all="ignore"):
        middle = (count * mean).sum(axis=1) / total
        variance = (spread + count * np.square(mean - middle[:, None])).sum(axis=1) / total
    dst.write(shaped(np.stack([middle, variance], axis=1), dst.shape))


def bn_aggr(dst: Tensor, data: Tensor, name: str | None = None) -> None:
    """Merge bn_stats triples into (mean, variance).

    Args:
        dst: [P, 2].
        data: [P, 3*k] triples (count, mean, variance*count).
    """
    api = "bn_aggr"
    dst = on_chip(dst, "dst", api=api)
    data = on_chip(data, "data", api=api)
    p = same_partitions(("dst", dst), ("data", data), api=api)
    n = data.size // p
    if n % 3 or dst.size // p != 2:
        context.fail(
            "KW-SHAPE-MISMATCH",
            f"{api}: data must hold triples and dst be [{p}, 2]; found {list(data.shape)} and {list(dst.shape)}",
            operand="data",
            found=n,
            fix="pass the outputs of bn_stats",
        )
    context.current().issue(
        BN_AGGR, Engine.VECTOR, (dst,), (data,), free=n, partitions=p, flags=common_flags(data) | psum_flags(dst, data)
    )


# -- predication and scans ---------------------------------------------------------------------------------------------


@opcode(
    "tensor_copy_predicated", Engine.VECTOR, cost="vector2", source="ISA tensor_copy_predicated", effect=Effect.KEEPS
)
def TENSOR_COPY_PREDICATED(outs: Outs, ins: Outs, value: Any, reverse: bool) -> None:
    """dst = src where the predicate is not 0; elsewhere dst keeps its values."""
    dst, predicate = outs[0], ins[0]
    chosen = shaped(predicate.read(), dst.shape) != 0
    if reverse:
        chosen = ~chosen
    if dst.buffer.pending:
        dst.buffer.unwritten_in(dst)  # what is kept of a tile that nothing wrote is NaN, not chance
    target = dst.view()
    source = shaped(ins[1].read(), dst.shape) if value is None else np.float32(value)
    np.copyto(target, source, where=chosen, casting="unsafe")
    dst.wrote()


def tensor_copy_predicated(
    dst: Tensor, src: Any, predicate: Tensor, reverse_pred: bool = False, name: str | None = None
) -> None:
    """Copy src (a tile or a number) into dst where predicate (uint8/16/32 tile) is not 0."""
    api = "tensor_copy_predicated"
    dst = on_chip(dst, "dst", api=api)
    pred = on_chip(predicate, "predicate", api=api)
    require_dtype(
        pred,
        "predicate",
        (dtypes.uint8, dtypes.uint16, dtypes.uint32, dtypes.int8, dtypes.int16, dtypes.int32, dtypes.bool_),
        api=api,
    )
    p = same_partitions(("dst", dst), ("predicate", pred), api=api)
    n = same_free(("dst", dst), ("predicate", pred), api=api)
    value = None
    ins: tuple[Tensor, ...] = (pred,)
    if isinstance(src, Tensor):
        source = on_chip(src, "src", api=api)
        same_free(("dst", dst), ("src", source), api=api)
        forbid_two_psum(source, pred, ("src", "predicate"), api=api)
        ins = (pred, source)
    else:
        value = lane_scalar(src, "src", p, api=api)
    context.current().issue(
        TENSOR_COPY_PREDICATED,
        Engine.VECTOR,
        (dst,),
        ins,
        free=n,
        partitions=p,
        update=not dst.buffer.pending,
        flags=common_flags(dst, *ins) | psum_flags(dst, *ins) | Flag.TWO_TENSORS,
        params={"value": value, "reverse": bool(reverse_pred)},
    )


@opcode("tensor_tensor_scan", Engine.VECTOR, cost="vector2", source="ISA tensor_tensor_scan", effect=Effect.LANES)
def TENSOR_TENSOR_SCAN(outs: Outs, ins: Outs, initial: Any, op0: Any, op1: Any, reverse0: bool, reverse1: bool) -> None:
    """r[i] = op1(op0(data0[i], r[i-1]), data1[i]) along the free dimension, state in float32."""
    dst = outs[0]
    a = ins[0].read_float().reshape(dst.shape[0], -1)
    b = ins[1].read_float().reshape(dst.shape[0], -1)
    start = np.asarray(lane_values(initial, 2), np.float32).reshape(-1)
    state = np.broadcast_to(start, (dst.shape[0],)).astype(np.float32)
    result = np.empty(a.shape, np.float32)
    with np.errstate(all="ignore"):
        # a stretch of positions at a time, turned round so that each position is a row that stays in the cache
        for first in range(0, a.shape[1], _STRETCH):
            part = slice(first, first + _STRETCH)
            x, y = transposed(a[:, part]), transposed(b[:, part])
            state = _scan(x, y, state, op0, op1, reverse0, reverse1)
            copy_transposed(result[:, part], x)
    dst.write(shaped(result, dst.shape))


_STRETCH = 64
"""Positions of a scan that are turned round at a time."""


def _scan(x: Any, y: Any, state: Any, op0: ops.AluOp, op1: ops.AluOp, reverse0: bool, reverse1: bool) -> Any:
    """Recurrence over the rows of x and y [positions, lanes], results in x; returns the last state."""
    if op0.ufunc is not None and op1.ufunc is not None:
        f, g, mixed = op0.ufunc, op1.ufunc, np.empty_like(state)
        for row, other in zip(x, y):
            if reverse0:
                f(state, row, out=mixed)
            else:
                f(row, state, out=mixed)
            state = g(other, mixed, out=row) if reverse1 else g(mixed, other, out=row)
    else:
        for row, other in zip(x, y):
            mixed = op0.function(state, row) if reverse0 else op0.function(row, state)
            row[...] = op1.function(other, mixed) if reverse1 else op1.function(mixed, other)
            state = row
    return state.copy()


def tensor_tensor_scan(
    dst: Tensor,
    data0: Tensor,
    data1: Tensor,
    initial: Any,
    op0: Any,
    op1: Any,
    reverse0: bool = False,
    reverse1: bool = False,
    name: str | None = None,
) -> None:
    """Linear recurrence along the free dimension: r = op1(op0(data0, r_before), data1).

    Args:
        dst, data0, data1: tiles [P, F], not both inputs in PSUM.
        initial: a number or a [P, 1] tile.
    """
    api = "tensor_tensor_scan"
    dst = on_chip(dst, "dst", api=api)
    a = on_chip(data0, "data0", api=api)
    b = on_chip(data1, "data1", api=api)
    p = same_partitions(("dst", dst), ("data0", a), ("data1", b), api=api)
    n = same_free(("dst", dst), ("data0", a), ("data1", b), api=api)
    forbid_two_psum(a, b, ("data0", "data1"), api=api)
    start = lane_scalar(initial, "initial", p, api=api)
    context.current().issue(
        TENSOR_TENSOR_SCAN,
        Engine.VECTOR,
        (dst,),
        (a, b, *is_tensor(start)),
        free=n,
        partitions=p,
        flags=common_flags(dst, a, b) | psum_flags(dst, a, b) | Flag.TWO_TENSORS,
        params={
            "initial": start,
            "op0": ops.alu(op0, "op0"),
            "op1": ops.alu(op1, "op1"),
            "reverse0": bool(reverse0),
            "reverse1": bool(reverse1),
        },
    )
