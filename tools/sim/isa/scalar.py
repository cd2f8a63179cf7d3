"""Scalar Engine (ACT): func(data * scale + bias) over a tile, with an optional sum into accumulator registers."""

from __future__ import annotations

from typing import Any

import numpy as np

from tools.sim import context
from tools.sim.core import common_flags
from tools.sim.instruction import Engine, Flag, opcode
from tools.sim.isa import ops
from tools.sim.isa.enums import reduce_cmd as reduce_command
from tools.sim.isa.operands import is_tensor, lane_scalar, lane_values, on_chip, same_free, same_partitions, shaped
from tools.sim.isa.vector import accumulate, psum_flags
from tools.sim.tensor import Tensor


@opcode("activation", Engine.SCALAR, cost="scalar", source="ISA activation")
def ACTIVATION(
    outs: tuple[Tensor, ...],
    ins: tuple[Tensor, ...],
    op: ops.Activation,
    bias: Any,
    scale: Any,
    reduce_op: Any,
    command: Any,
) -> None:
    """dst = op(data * scale + bias), and optionally the sum of dst over the free dimensions into reduce_res."""
    dst, data = outs[0], ins[0]
    x = data.read_float()
    fresh = False
    with np.errstate(all="ignore"):
        if isinstance(scale, Tensor) or scale != 1.0:
            x = x * lane_values(scale, x.ndim)
            fresh = True
        if bias is not None:
            b = lane_values(bias, x.ndim)
            x = np.add(x, b, out=x) if fresh else x + b
        y = np.asarray(op.function(x), np.float32)
    total = None
    if len(outs) > 1 or command is not reduce_command.idle:
        total = accumulate(Engine.SCALAR, command, reduce_op, y).copy()
    dst.write(shaped(y, dst.shape))
    if len(outs) > 1 and total is not None:
        outs[1].write(total.reshape(outs[1].shape))


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
    if isinstance(factor, Tensor) and factor.dtype.itemsize != 4:
        context.fail(
            "KW-ACTIVATION-SCALE",
            f"{api}: scale is a {factor.dtype} tile; it must be a number or a float32 [P, 1] tile",
            operand="scale",
            found=str(factor.dtype),
            limit="float32",
            fix="cast the scale to float32",
        )
    if reduce_res is not None and reduce_op is None:
        context.fail(
            "KW-REDUCE-OP",
            f"{api}: reduce_res is given without reduce_op",
            operand="reduce_op",
            fix="pass reduce_op=nl.add",
        )
    reducer = None
    outs: tuple[Tensor, ...] = (dst,)
    flags = common_flags(dst, data) | psum_flags(dst, data) | function.table << Flag.TABLE_SHIFT
    if reduce_op is not None:
        reducer = ops.reduction(reduce_op, "reduce_op")
        if reducer.name != "add":
            context.fail(
                "KW-REDUCE-OP",
                f"{api}: reduce_op=nl.{reducer.name}; the Scalar Engine folds only with add",
                operand="reduce_op",
                found=reducer.name,
                limit="add",
                fix="use tensor_reduce on the Vector Engine for other reductions",
            )
    if reduce_res is not None:
        result = on_chip(reduce_res, "reduce_res", api=api)
        if result.size != p:
            context.fail(
                "KW-SHAPE-MISMATCH", f"{api}: reduce_res {list(result.shape)} must be [{p}, 1]", operand="reduce_res"
            )
        outs = (dst, result)
        flags |= Flag.REDUCE
    context.current().issue(
        ACTIVATION,
        Engine.SCALAR,
        outs,
        (data, *is_tensor(shift, factor)),
        free=n,
        partitions=p,
        flags=flags,
        params={"op": function, "bias": shift, "scale": factor, "reduce_op": reducer, "command": reduce_cmd},
    )


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
