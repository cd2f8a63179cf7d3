"""Scalar Engine (ACT): func(data * scale + bias) over a tile, with an optional sum into accumulator registers."""

from __future__ import annotations

from typing import Any

import numpy as np

from tools.sim import context
from tools.sim.core import common_flags
from tools.sim.instruction import Effect, Engine, Flag, opcode
from tools.sim.isa import ops
from tools.sim.isa.enums import reduce_cmd as reduce_command
from tools.sim.isa.operands import (
    is_tensor,
    lane_scalar,
    lane_values,
    on_chip,
    require_generation,
    result_room,
    same_free,
    same_partitions,
    shaped,
)
from tools.sim.isa.registers import accumulate, command
from tools.sim.isa.vector import lane_result, psum_flags
from tools.sim.tensor import Tensor


@opcode("activation", Engine.SCALAR, cost="scalar", source="ISA activation", effect=Effect.LANES)
def ACTIVATION(
    outs: tuple[Tensor, ...],
    ins: tuple[Tensor, ...],
    op: ops.Activation,
    bias: Any,
    scale: Any,
    reduce_op: Any,
    order: Any,
) -> None:
    """dst = op(data * scale + bias), and optionally the sum of dst over the free dimensions into reduce_res."""
    dst, data = outs[0], ins[0]
    x = data.read_float()
    room = result_room(dst, x, scale, bias)
    fresh = False
    with np.errstate(all="ignore"):
        if isinstance(scale, Tensor) or scale != 1.0:
            x = np.multiply(x, lane_values(scale, x.ndim), out=room)
            fresh = True
        if bias is not None:
            x = np.add(x, lane_values(bias, x.ndim), out=x if fresh else room)
        if op.low != -np.inf or op.high != np.inf:
            _check_range(op, x)
        if room is not None and isinstance(op.function, np.ufunc):
            y = op.function(x, out=room)
        else:
            y = np.asarray(op.function(x), np.float32)
    total = None
    if reduce_op is not None:
        total = accumulate(Engine.SCALAR, order, reduce_op, y).copy()
    if y is room:
        dst.wrote()
    else:
        dst.write(shaped(y, dst.shape))
    if len(outs) > 1 and total is not None:
        outs[1].write(total.reshape(outs[1].shape))


def _check_range(op: ops.Activation, x: np.ndarray[Any, Any]) -> None:
    """Warn about arguments outside the range where the function's table is valid (activation function table)."""
    low, high = x.min(), x.max()
    if low >= op.low and high <= op.high:
        return
    outside = (x < op.low) | (x > op.high)
    if outside.any():
        where = tuple(int(i) for i in np.argwhere(outside)[0])
        context.warn(
            "KW-ACTIVATION-RANGE",
            f"nl.{op.name} gets {float(x[where]):.6g} at element {list(where)}; the hardware's table covers "
            f"[{op.low:.6g}, {op.high:.6g}]",
            operand="data",
            found=float(x[where]),
            limit=[op.low, op.high],
            fix="reduce or clamp the argument first",
        )


def activation(
    dst: Tensor,
    op: Any,
    data: Tensor,
    bias: Any = None,
    scale: Any = 1.0,
    reduce_op: Any = None,
    reduce_res: Tensor | None = None,
    reduce_cmd: Any = reduce_command.idle,
    name: str | None = None,
) -> None:
    """dst = op(data * scale + bias) in float32 on the Scalar Engine.

    Args:
        dst, data: tiles [P, F...] of equal size, in SBUF or PSUM.
        bias: None, a number, or a [P, 1] tile.
        scale: a number, or a float32 [P, 1] tile.
        reduce_op: `nl.add`; what the accumulator registers fold.
        reduce_res: [P, 1] tile that receives the registers.
        reduce_cmd: idle, reset, reduce or reset_reduce.
    """
    api = "activation"
    dst = on_chip(dst, "dst", api=api)
    data = on_chip(data, "data", api=api)
    function = ops.activation(op)
    p = same_partitions(("dst", dst), ("data", data), api=api)
    n = same_free(("dst", dst), ("data", data), api=api)
    factor = lane_scalar(scale, "scale", p, api=api)
    shift = None if bias is None else lane_scalar(bias, "bias", p, api=api)
    core = context.current()
    if shift is not None and not isinstance(shift, Tensor) and shift != 0 and core.machine.generation < 3:
        context.fail(
            "KW-ACTIVATION-BIAS",
            f"{api}: bias is a number; {core.machine.name} takes only a [P, 1] tile",
            operand="bias",
            found=shift,
            limit="[P, 1] tile",
            fix="memset a [P, 1] tile to the value and pass that",
        )
    if isinstance(factor, Tensor) and factor.dtype.itemsize != 4:
        context.fail(
            "KW-ACTIVATION-SCALE",
            f"{api}: scale is a {factor.dtype} tile; it must be a number or a float32 [P, 1] tile",
            operand="scale",
            found=str(factor.dtype),
            limit="float32",
            fix="cast the scale to float32",
        )
    order = command(reduce_cmd, _COMMANDS, api=api)
    reducer = _reducer(reduce_op, reduce_res, order, ("add",), api=api)
    outs = (dst, *lane_result(reduce_res, p, api=api))
    flags = common_flags(dst, data) | psum_flags(dst, data) | function.table << Flag.TABLE_SHIFT
    if reduce_res is not None:
        flags |= Flag.REDUCE
    core.issue(
        ACTIVATION,
        Engine.SCALAR,
        outs,
        (data, *is_tensor(shift, factor)),
        free=n,
        partitions=p,
        flags=flags,
        params={"op": function, "bias": shift, "scale": factor, "reduce_op": reducer, "order": order},
    )


_COMMANDS = (reduce_command.idle, reduce_command.reset, reduce_command.reduce, reduce_command.reset_reduce)


def _reducer(reduce_op: Any, reduce_res: Any, order: Any, legal: tuple[str, ...], *, api: str) -> ops.AluOp | None:
    """The operator that folds into the registers, or None when nothing touches them."""
    if reduce_op is None:
        if reduce_res is not None or order is not reduce_command.idle:
            context.fail(
                "KW-REDUCE-OP",
                f"{api}: {'reduce_res' if reduce_res is not None else 'reduce_cmd'} is given without reduce_op",
                operand="reduce_op",
                fix="pass reduce_op=nl.add",
            )
        return None
    reducer = ops.alu(reduce_op, "reduce_op")
    if reducer.name not in legal:
        context.fail(
            "KW-REDUCE-OP",
            f"{api}: reduce_op=nl.{reducer.name}; the registers fold only with {', '.join(legal)}",
            operand="reduce_op",
            found=reducer.name,
            limit=", ".join(legal),
            fix="use tensor_reduce on the Vector Engine for other reductions",
        )
    if order is reduce_command.idle and reduce_res is not None:
        context.warn(
            "KW-REDUCE-IDLE",
            f"{api}: reduce_res receives the registers, but reduce_cmd=idle folds nothing of this instruction into them",
            operand="reduce_cmd",
            fix="pass reduce_cmd=nisa.reduce_cmd.reset_reduce",
        )
    return reducer


def activation_reduce(
    dst: Tensor,
    op: Any,
    data: Tensor,
    reduce_op: Any,
    reduce_res: Tensor,
    bias: Any = None,
    scale: Any = 1.0,
    name: str | None = None,
) -> None:
    """`activation` whose sum over the free dimensions lands in reduce_res [P, 1]."""
    activation(dst, op, data, bias, scale, reduce_op, reduce_res, reduce_command.reset_reduce, name)


_PROLOGUES = (
    ("multiply", "add"),
    ("multiply", "subtract"),
    ("multiply", "bypass"),
    ("add", "bypass"),
    ("subtract", "bypass"),
    ("bypass", "bypass"),
)


@opcode("activate2", Engine.SCALAR, cost="scalar", source="ISA activate2", effect=Effect.REGISTERS)
def ACTIVATE2(
    outs: tuple[Tensor, ...],
    ins: tuple[Tensor, ...],
    op: ops.Activation,
    stages: tuple[tuple[ops.AluOp, Any, bool], ...],
    slope: Any,
    reduce_op: Any,
    order: Any,
) -> None:
    """dst = op((data op0 imm0) op1 imm1), and optionally a reduction of dst over the free dimensions."""
    dst, data = outs[0], ins[0]
    x = data.read_float()
    with np.errstate(all="ignore"):
        for operator, value, reverse in stages:
            other = lane_values(value, x.ndim)
            x = operator.function(other, x) if reverse else operator.function(x, other)
        if op.name == "prelu":
            y = np.where(x >= 0, x, x * lane_values(slope, x.ndim))
        else:
            y = np.asarray(op.function(x), np.float32)
    total = accumulate(Engine.SCALAR, order, reduce_op, y).copy() if reduce_op is not None else None
    dst.write(shaped(y, dst.shape))
    if len(outs) > 1 and total is not None:
        outs[1].write(total.reshape(outs[1].shape))


def activate2(
    dst: Tensor,
    op: Any,
    data: Tensor,
    imm0: Any,
    imm1: Any,
    op0: Any,
    op1: Any,
    relu_param: Any = 0.0,
    reverse0: bool = False,
    reverse1: bool = False,
    reduce_op: Any = None,
    reduce_res: Tensor | None = None,
    reduce_cmd: Any = reduce_command.idle,
    name: str | None = None,
) -> None:
    """dst = op((data op0 imm0) op1 imm1) in float32 on the Scalar Engine; trn3 and later.

    Args:
        dst, data: tiles [P, F...] of equal size, in SBUF or PSUM.
        imm0, imm1: numbers or [P, 1] tiles of one type.
        op0, op1: multiply+add, multiply+subtract, multiply, add, subtract (each with bypass), or bypass twice.
        relu_param: slope of `nl.prelu` below 0.
        reverse0, reverse1: swap the two sides of the operator.
        reduce_op: add, maximum, minimum, abs_max or abs_min.
        reduce_res: [P, 1] tile that receives the registers.
        reduce_cmd: idle, reset, reduce or reset_reduce.
    """
    api = "activate2"
    require_generation(4, api=api)
    dst = on_chip(dst, "dst", api=api)
    data = on_chip(data, "data", api=api)
    function = ops.activation(op)
    p = same_partitions(("dst", dst), ("data", data), api=api)
    n = same_free(("dst", dst), ("data", data), api=api)
    pair = tuple(ops.alu(o if o is not None else "bypass", f"op{i}").name for i, o in enumerate((op0, op1)))
    if pair not in _PROLOGUES:
        context.fail(
            "KW-ACTIVATE2-OPS",
            f"{api}: op0=nl.{pair[0]} with op1=nl.{pair[1]} isn't a prologue of the Scalar Engine",
            operand="op0",
            found=f"{pair[0]}, {pair[1]}",
            limit="; ".join(f"{a}, {b}" for a, b in _PROLOGUES),
            fix="use nisa.tensor_scalar on the Vector Engine first",
        )
    stages: list[tuple[ops.AluOp, Any, bool]] = []
    for i, (operator, value, reverse) in enumerate(((pair[0], imm0, reverse0), (pair[1], imm1, reverse1))):
        if operator != "bypass":
            stages.append((ops.alu(operator), lane_scalar(value, f"imm{i}", p, api=api), bool(reverse)))
        elif reverse:
            context.fail(
                "KW-ACTIVATE2-OPS",
                f"{api}: reverse{i} needs op{i}",
                operand=f"reverse{i}",
                fix="pass the operator as well, or drop the reversal",
            )
    slope = lane_scalar(relu_param, "relu_param", p, api=api)
    order = command(reduce_cmd, _COMMANDS, api=api)
    legal = ("add", "maximum", "minimum", "abs_max", "abs_min")
    reducer = _reducer(reduce_op, reduce_res, order, legal, api=api)
    flags = common_flags(dst, data) | psum_flags(dst, data) | function.table << Flag.TABLE_SHIFT
    if reduce_res is not None:
        flags |= Flag.REDUCE
    context.current().issue(
        ACTIVATE2,
        Engine.SCALAR,
        (dst, *lane_result(reduce_res, p, api=api)),
        (data, *is_tensor(*(s[1] for s in stages), slope)),
        free=n,
        partitions=p,
        flags=flags,
        params={"op": function, "stages": tuple(stages), "slope": slope, "reduce_op": reducer, "order": order},
    )
