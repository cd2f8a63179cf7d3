"""Vector Engine: selection by range or predicate, running sums, and exponentials, with their accumulator registers."""

from __future__ import annotations

from typing import Any

import numpy as np

from tools.sim import context, dtypes
from tools.sim.core import common_flags
from tools.sim.instruction import Effect, Engine, Flag, opcode
from tools.sim.isa import ops
from tools.sim.isa.enums import reduce_cmd as commands
from tools.sim.isa.operands import (
    forbid_two_psum,
    is_tensor,
    lane_scalar,
    lane_values,
    on_chip,
    require_dtype,
    require_free,
    require_generation,
    same_free,
    same_partitions,
    shaped,
)
from tools.sim.isa.registers import accumulate, begin, command
from tools.sim.isa.vector import FP32_MIN, initial_value, lane_result, psum_flags
from tools.sim.tensor import Tensor

Outs = tuple[Tensor, ...]
_ALL = (commands.idle, commands.reset_reduce, commands.reduce, commands.load_reduce)
_RANGE_COMPARISONS = ("equal", "less", "less_equal", "greater", "greater_equal")


def _maximum(op: Any, *, api: str) -> ops.AluOp:
    folder = ops.alu(op, "reduce_op")
    if folder.name != "maximum":
        context.fail(
            "KW-OP-REDUCE",
            f"{api}: reduce_op=nl.{folder.name}; only nl.maximum is supported",
            operand="reduce_op",
            found=folder.name,
            limit="maximum",
            fix="reduce with tensor_reduce afterwards",
        )
    return folder


@opcode("range_select", Engine.VECTOR, cost="vector", source="ISA range_select", effect=Effect.REGISTERS)
def RANGE_SELECT(
    outs: Outs, ins: Outs, compare0: Any, compare1: Any, start: int, fill: float, reduce_op: Any, order: Any
) -> None:
    """dst = on_true where its index lies between two bounds, else the fill value; maximum into the registers."""
    dst, (data, low, high) = outs[0], ins
    x = data.read_float().reshape(data.shape[0], -1)
    index = np.arange(start, start + x.shape[1], dtype=np.float32)
    inside = compare0.function(index, lane_values(low, 2)) & compare1.function(index, lane_values(high, 2))
    y = np.where(inside, x, np.float32(fill))
    total = accumulate(Engine.VECTOR, order, reduce_op, y).copy()
    dst.write(shaped(y, dst.shape))
    if len(outs) > 1:
        outs[1].write(total.reshape(outs[1].shape))


def range_select(
    dst: Tensor,
    on_true_tile: Tensor,
    comp_op0: Any,
    comp_op1: Any,
    bound0: Tensor,
    bound1: Tensor,
    reduce_cmd: Any = commands.reset_reduce,
    reduce_res: Tensor | None = None,
    reduce_op: Any = "maximum",
    range_start: Any = 0,
    on_false_value: Any = FP32_MIN,
    name: str | None = None,
) -> None:
    """Keep element i where comp_op0(range_start + i, bound0) and comp_op1(range_start + i, bound1); trn2 and later.

    Args:
        dst, on_true_tile: float tiles [P, F...] of equal size.
        comp_op0, comp_op1: equal, less, less_equal, greater or greater_equal.
        bound0, bound1: float32 tiles [P, 1].
        reduce_cmd: what happens to the registers.
        reduce_res: [P, 1] tile that receives the maximum.
        reduce_op: `nl.maximum`.
        range_start: integer added to the index; indices must stay below 2**24.
        on_false_value: must be the smallest float32 (`nl.fp32.min`).
    """
    api = "range_select"
    require_generation(3, api=api)
    dst = on_chip(dst, "dst", api=api)
    data = on_chip(on_true_tile, "on_true_tile", api=api)
    low, high = on_chip(bound0, "bound0", api=api), on_chip(bound1, "bound1", api=api)
    p = same_partitions(("dst", dst), ("on_true_tile", data), ("bound0", low), ("bound1", high), api=api)
    n = same_free(("dst", dst), ("on_true_tile", data), api=api)
    if not data.dtype.is_float:
        context.fail(
            "KW-DTYPE",
            f"{api}: on_true_tile is {data.dtype}; it must be a float type",
            operand="on_true_tile",
            found=str(data.dtype),
            fix="tensor_copy it to a float tile",
        )
    for tile, label in ((low, "bound0"), (high, "bound1")):
        require_free(tile, label, 1, api=api)
        require_dtype(tile, label, (dtypes.float32,), api=api)
    compare = []
    for label, op in (("comp_op0", comp_op0), ("comp_op1", comp_op1)):
        operator = ops.alu(op, label)
        if operator.name not in _RANGE_COMPARISONS:
            context.fail(
                "KW-OP-UNKNOWN",
                f"{api}: {label}=nl.{operator.name}",
                operand=label,
                found=operator.name,
                limit=", ".join(_RANGE_COMPARISONS),
                fix="use one of nl." + ", nl.".join(_RANGE_COMPARISONS),
            )
        compare.append(operator)
    start = context.index_value(range_start)
    if start < 0 or start + n > 1 << 24:
        context.fail(
            "KW-RANGE-START",
            f"{api}: indices {start} to {start + n} must lie within 2**24, where float32 counts exactly",
            operand="range_start",
            found=start,
            limit=1 << 24,
            fix="work on pieces of at most 2**24 elements, each from a start of its own",
        )
    if np.float32(on_false_value) != np.float32(FP32_MIN):
        context.fail(
            "KW-RANGE-FILL",
            f"{api}: on_false_value={on_false_value!r} must be the smallest float32",
            operand="on_false_value",
            found=on_false_value,
            limit=FP32_MIN,
            fix="pass nl.fp32.min (or leave it out)",
        )
    result = lane_result(reduce_res, p, api=api)
    context.current().issue(
        RANGE_SELECT,
        Engine.VECTOR,
        (dst, *result),
        (data, low, high),
        free=n,
        partitions=p,
        flags=common_flags(dst, data) | psum_flags(dst, data) | (Flag.REDUCE if result else 0),
        params={
            "compare0": compare[0],
            "compare1": compare[1],
            "start": start,
            "fill": float(np.float32(on_false_value)),
            "reduce_op": _maximum(reduce_op, api=api),
            "order": command(reduce_cmd, _ALL, api=api),
        },
    )


@opcode("select_reduce", Engine.VECTOR, cost="vector2", source="ISA select_reduce", effect=Effect.REGISTERS)
def SELECT_REDUCE(outs: Outs, ins: Outs, other: Any, reverse: bool, reduce_op: Any, order: Any) -> None:
    """dst = on_true where the predicate is not 0, else on_false; optionally the maximum into the registers."""
    dst, (predicate, data) = outs[0], ins[:2]
    x = data.read_float()
    chosen = shaped(predicate.read(), x.shape) != 0
    y = np.where(~chosen if reverse else chosen, x, lane_values(other, x.ndim))
    total = accumulate(Engine.VECTOR, order, reduce_op, y).copy()
    dst.write(shaped(y, dst.shape))
    if len(outs) > 1:
        outs[1].write(total.reshape(outs[1].shape))


def select_reduce(
    dst: Tensor,
    predicate: Tensor,
    on_true: Tensor,
    on_false: Any,
    reduce_res: Tensor | None = None,
    reduce_cmd: Any = commands.idle,
    reduce_op: Any = "maximum",
    reverse_pred: bool = False,
    name: str | None = None,
) -> None:
    """dst = on_true where predicate is not 0, else on_false, with an optional maximum over the free dimensions.

    Args:
        dst, on_true: tiles [P, F...] of equal size; on_true isn't tfloat32 or a 32-bit integer.
        predicate: int8, uint8, int16 or uint16 tile of the same size; not in PSUM together with on_true.
        on_false: a number or a [P, 1] tile.
        reduce_res: float [P, 1] tile that receives the maximum.
        reduce_cmd: idle, reset_reduce or reduce.
        reduce_op: `nl.maximum`.
        reverse_pred: take on_true where the predicate is 0.
    """
    api = "select_reduce"
    dst = on_chip(dst, "dst", api=api)
    pred = on_chip(predicate, "predicate", api=api)
    data = on_chip(on_true, "on_true", api=api)
    p = same_partitions(("dst", dst), ("predicate", pred), ("on_true", data), api=api)
    n = same_free(("dst", dst), ("predicate", pred), ("on_true", data), api=api)
    forbid_two_psum(data, pred, ("on_true", "predicate"), api=api)
    require_dtype(pred, "predicate", (dtypes.uint8, dtypes.int8, dtypes.uint16, dtypes.int16, dtypes.bool_), api=api)
    if data.dtype in (dtypes.tfloat32, dtypes.int32, dtypes.uint32):
        context.fail(
            "KW-DTYPE",
            f"{api}: on_true is {data.dtype}, which this instruction doesn't take",
            operand="on_true",
            found=str(data.dtype),
            fix="cast it to float32 or to a 16-bit type",
        )
    other = lane_scalar(on_false, "on_false", p, api=api)
    order = command(reduce_cmd, (commands.idle, commands.reset_reduce, commands.reduce), api=api)
    result = lane_result(reduce_res, p, api=api)
    if result and order is commands.idle:
        context.warn(
            "KW-REDUCE-IDLE",
            f"{api}: reduce_res receives the registers, but reduce_cmd=idle leaves them undefined",
            operand="reduce_cmd",
            fix="pass reduce_cmd=nisa.reduce_cmd.reset_reduce",
        )
    context.current().issue(
        SELECT_REDUCE,
        Engine.VECTOR,
        (dst, *result),
        (pred, data, *is_tensor(other)),
        free=n,
        partitions=p,
        flags=common_flags(dst, data) | psum_flags(dst, data, pred) | Flag.TWO_TENSORS | (Flag.REDUCE if result else 0),
        params={
            "other": other,
            "reverse": bool(reverse_pred),
            "reduce_op": _maximum(reduce_op, api=api),
            "order": order,
        },
    )


@opcode(
    "tensor_scalar_cumulative",
    Engine.VECTOR,
    cost="vector2",
    source="ISA tensor_scalar_cumulative",
    effect=Effect.REGISTERS,
)
def TENSOR_SCALAR_CUMULATIVE(outs: Outs, ins: Outs, op0: Any, value: Any, op1: Any, order: Any, initial: Any) -> None:
    """dst[i] = op1(op0(src[i], imm0), dst[i - 1]) along the free dimensions, starting from the registers."""
    dst, src = outs[0], ins[0]
    x = src.read_float().reshape(src.shape[0], -1)
    start = initial.read_float() if isinstance(initial, Tensor) else initial
    registers = begin(Engine.VECTOR, order, op1, src.shape[0], start)
    with np.errstate(all="ignore"):
        y = np.array(op0.function(x, lane_values(value, 2)), np.float32)
        if op1.name == "subtract":
            state = registers.copy()
            for i in range(y.shape[1]):
                state = y[:, i] = y[:, i] - state
        else:
            y[:, 0] = op1.function(y[:, 0], registers)
            op1.ufunc.accumulate(y, axis=1, out=y)
    registers[:] = y[:, -1]
    dst.write(shaped(y, dst.shape))


def tensor_scalar_cumulative(
    dst: Tensor,
    src: Tensor,
    op0: Any,
    op1: Any,
    imm0: Any,
    imm1: Any = None,
    reduce_cmd: Any = commands.reset_reduce,
    name: str | None = None,
) -> None:
    """Running reduction: dst[i] = op1(op0(src[i], imm0), dst[i-1]) along the free dimensions, in float32.

    Args:
        dst, src: tiles [P, F...] of equal size; no 32-bit integers.
        op0: an arithmetic operator.
        op1: add, subtract, multiply, maximum or minimum.
        imm0: a number or a float32 [P, 1] tile.
        imm1: start value for `load_reduce`.
        reduce_cmd: reset_reduce, load_reduce (start from imm1) or reduce (go on from the registers).
    """
    api = "tensor_scalar_cumulative"
    dst = on_chip(dst, "dst", api=api)
    src = on_chip(src, "src", api=api)
    p = same_partitions(("dst", dst), ("src", src), api=api)
    n = same_free(("dst", dst), ("src", src), api=api)
    for tile, label in ((dst, "dst"), (src, "src")):
        if tile.dtype.is_integer and tile.dtype.itemsize == 4:
            context.fail(
                "KW-DTYPE",
                f"{api}: {label} is {tile.dtype}; 32-bit integers aren't supported",
                operand=label,
                found=str(tile.dtype),
                fix="use float32",
            )
    first, second = ops.alu(op0, "op0"), ops.alu(op1, "op1")
    if first.bitwise or first.unary:
        context.fail(
            "KW-OP-MIX",
            f"{api}: op0=nl.{first.name} must be an arithmetic operator",
            operand="op0",
            fix="use an arithmetic operator; bitwise ones need tensor_scalar",
        )
    if second.name not in ("add", "subtract", "multiply", "maximum", "minimum"):
        context.fail(
            "KW-OP-REDUCE",
            f"{api}: op1=nl.{second.name} can't accumulate",
            operand="op1",
            found=second.name,
            limit="add, subtract, multiply, maximum, minimum",
            fix="use one of these operators",
        )
    order = command(reduce_cmd, (commands.reset_reduce, commands.reduce, commands.load_reduce), api=api)
    value = lane_scalar(imm0, "imm0", p, api=api)
    start = initial_value(order, imm1 if order is commands.load_reduce else None, p, api=api, operand="imm1")
    context.current().issue(
        TENSOR_SCALAR_CUMULATIVE,
        Engine.VECTOR,
        (dst,),
        (src, *is_tensor(value, start)),
        free=n,
        partitions=p,
        flags=common_flags(dst, src) | psum_flags(dst, src),
        params={"op0": first, "value": value, "op1": second, "order": order, "initial": start},
    )


@opcode("exponential", Engine.VECTOR, cost="vector", source="ISA exponential", effect=Effect.REGISTERS)
def EXPONENTIAL(outs: Outs, ins: Outs, shift: Any, order: Any, initial: Any) -> None:
    """dst = exp(src - max_value), and optionally its sum into the registers."""
    dst, src = outs[0], ins[0]
    x = src.read_float()
    with np.errstate(all="ignore"):
        y = np.exp(x - lane_values(shift, x.ndim))
    start = initial.read_float() if isinstance(initial, Tensor) else initial
    total = accumulate(Engine.VECTOR, order, ops.ALU["add"], y, start).copy()
    dst.write(shaped(y, dst.shape))
    if len(outs) > 1:
        outs[1].write(total.reshape(outs[1].shape))


def exponential(
    dst: Tensor,
    src: Tensor,
    max_value: Any = 0.0,
    reduce_res: Tensor | None = None,
    reduce_cmd: Any = commands.idle,
    reduce_init: Any = 0.0,
    name: str | None = None,
) -> None:
    """dst = exp(src - max_value) on the Vector Engine; trn3 and later.

    Args:
        dst, src: tiles [P, F...] of equal size, at most 4-D.
        max_value: a number or a float32 [P, 1] tile.
        reduce_res: [P, 1] tile that receives the sum.
        reduce_cmd: idle, reset_reduce, reduce or load_reduce.
        reduce_init: start value for `load_reduce`.
    """
    api = "exponential"
    require_generation(4, api=api)
    dst = on_chip(dst, "dst", api=api)
    src = on_chip(src, "src", api=api)
    p = same_partitions(("dst", dst), ("src", src), api=api)
    n = same_free(("dst", dst), ("src", src), api=api)
    for tile, label in ((dst, "dst"), (src, "src")):
        if tile.ndim > 4:
            context.fail(
                "KW-RANK",
                f"{api}: {label} has {tile.ndim} dimensions",
                operand=label,
                found=tile.ndim,
                limit=4,
                fix="merge dimensions that step evenly, or loop over the outermost",
            )
    shift = lane_scalar(max_value, "max_value", p, api=api)
    order = command(reduce_cmd, _ALL, api=api)
    start = initial_value(order, reduce_init, p, api=api)
    result = lane_result(reduce_res, p, api=api)
    context.current().issue(
        EXPONENTIAL,
        Engine.VECTOR,
        (dst, *result),
        (src, *is_tensor(shift, start)),
        free=-(-n // 4),
        partitions=p,
        flags=common_flags(dst, src) | psum_flags(dst, src) | (Flag.REDUCE if result else 0),
        params={"shift": shift, "order": order, "initial": start},
    )
