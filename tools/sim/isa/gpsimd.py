"""GpSimd Engine (POOL): index patterns, affine predication and work across partitions. It can't access PSUM."""

from __future__ import annotations

from typing import Any

import numpy as np

from tools.sim import context
from tools.sim.core import common_flags
from tools.sim.instruction import Engine, opcode
from tools.sim.isa import ops
from tools.sim.isa.operands import on_chip, pick_engine, same_free, same_partitions, shaped
from tools.sim.tensor import Tensor


def affine_values(partitions: int, pattern: tuple[tuple[int, int], ...], offset: int, channel_multiplier: int) -> Any:
    """offset + p * channel_multiplier + sum(step_i * idx_i) as int64 [P, count_0, count_1, ...]."""
    shape = (partitions, *(n for _, n in pattern))
    values = np.full(shape, offset, np.int64)
    lanes = np.arange(partitions, dtype=np.int64) * channel_multiplier
    values += lanes.reshape(-1, *([1] * len(pattern)))
    for axis, (step, count) in enumerate(pattern, start=1):
        steps = np.arange(count, dtype=np.int64) * step
        values += steps.reshape([count if a == axis else 1 for a in range(len(shape))])
    return values


def _pattern(pattern: Any, api: str) -> tuple[tuple[int, int], ...]:
    steps = tuple((int(s), int(n)) for s, n in pattern)
    if len(steps) > 4:
        context.fail(
            "KW-PATTERN-RANK",
            f"{api}: pattern has {len(steps)} dimensions, at most 4 are allowed",
            operand="pattern",
            limit=4,
            fix="merge dimensions of the pattern that step evenly, or loop over the outermost",
        )
    return steps


@opcode("iota", Engine.GPSIMD, cost="gpsimd", source="ISA iota")
def IOTA(outs: tuple[Tensor, ...], ins: tuple[Tensor, ...], pattern: Any, offset: int, channel_multiplier: int) -> None:
    """dst[p, ...] = offset + p * channel_multiplier + sum of step times index."""
    dst = outs[0]
    dst.write(shaped(affine_values(dst.shape[0], pattern, offset, channel_multiplier), dst.shape))


def iota(dst: Tensor, pattern: Any, offset: Any = 0, channel_multiplier: int = 0, name: str | None = None) -> None:
    """Write an affine index pattern, computed in int32 and cast to dst's type.

    Args:
        dst: SBUF tile [P, F...].
        pattern: [[step, count], ...], at most 4 pairs, counts multiplying to the free size.
        offset: value at partition 0, index 0 (an int or a register).
        channel_multiplier: added per partition.
    """
    api = "iota"
    dst = on_chip(dst, "dst", api=api, sbuf_only=True)
    steps = _pattern(pattern, api)
    n = int(np.prod([c for _, c in steps], dtype=np.int64))
    if n != dst.size // dst.shape[0]:
        context.fail(
            "KW-SHAPE-MISMATCH",
            f"{api}: pattern has {n} elements a partition, dst {list(dst.shape)} has {dst.size // dst.shape[0]}",
            operand="pattern",
            found=n,
            limit=dst.size // dst.shape[0],
            fix="make the product of the counts equal to dst's free size",
        )
    context.current().issue(
        IOTA,
        Engine.GPSIMD,
        (dst,),
        (),
        free=n,
        partitions=dst.shape[0],
        flags=common_flags(dst),
        params={"pattern": steps, "offset": context.index_value(offset), "channel_multiplier": int(channel_multiplier)},
    )


@opcode("affine_select", Engine.GPSIMD, cost="gpsimd", source="ISA affine_select")
def AFFINE_SELECT(
    outs: tuple[Tensor, ...],
    ins: tuple[Tensor, ...],
    pattern: Any,
    offset: int,
    channel_multiplier: int,
    cmp: Any,
    other: float,
) -> None:
    """dst = on_true where cmp(affine value, 0), else a constant."""
    dst, data = outs[0], ins[0]
    affine = affine_values(dst.shape[0], pattern, offset, channel_multiplier)
    chosen = shaped(cmp.function(affine, 0), dst.shape)
    with np.errstate(all="ignore"):
        dst.write(np.where(chosen, shaped(data.read_float(), dst.shape), np.float32(other)))


def affine_select(
    dst: Tensor,
    pattern: Any,
    channel_multiplier: int,
    on_true_tile: Tensor,
    on_false_value: float,
    cmp_op: Any = "equal",
    offset: Any = 0,
    name: str | None = None,
) -> None:
    """dst = on_true_tile where cmp_op(offset + p*channel_multiplier + sum(step*idx), 0), else on_false_value.

    Args:
        dst, on_true_tile: SBUF tiles [P, F...].
        pattern: [[step, count], ...] covering the free size.
        cmp_op: equal, not_equal, greater, greater_equal, less, less_equal.
    """
    api = "affine_select"
    dst = on_chip(dst, "dst", api=api, sbuf_only=True)
    data = on_chip(on_true_tile, "on_true_tile", api=api, sbuf_only=True)
    p = same_partitions(("dst", dst), ("on_true_tile", data), api=api)
    n = same_free(("dst", dst), ("on_true_tile", data), api=api)
    steps = _pattern(pattern, api)
    if int(np.prod([c for _, c in steps], dtype=np.int64)) != n:
        context.fail(
            "KW-SHAPE-MISMATCH",
            f"{api}: pattern {steps} doesn't cover the {n} elements a partition of dst",
            operand="pattern",
            limit=n,
            fix="make the product of the counts equal to dst's free size",
        )
    compare = ops.alu(cmp_op, "cmp_op")
    if not compare.compares or compare.unary:
        context.fail(
            "KW-OP-UNKNOWN",
            f"{api}: cmp_op=nl.{compare.name} is no comparison",
            operand="cmp_op",
            fix="use nl.greater_equal or the like",
        )
    context.current().issue(
        AFFINE_SELECT,
        Engine.GPSIMD,
        (dst,),
        (data,),
        free=n,
        partitions=p,
        flags=common_flags(dst, data),
        params={
            "pattern": steps,
            "offset": context.index_value(offset),
            "channel_multiplier": int(channel_multiplier),
            "cmp": compare,
            "other": float(on_false_value),
        },
    )


@opcode("tensor_partition_reduce", Engine.GPSIMD, cost="gpsimd", source="ISA tensor_partition_reduce")
def TENSOR_PARTITION_REDUCE(outs: tuple[Tensor, ...], ins: tuple[Tensor, ...], op: Any, average: bool) -> None:
    """dst[1, F] = reduction of data[P, F] over partitions."""
    dst, data = outs[0], ins[0]
    values = data.read() if op.bitwise else data.read_float()
    total = ops.reduce_free(op, values, (0,), keepdims=True)
    dst.write(shaped(total / np.float32(data.shape[0]) if average else total, dst.shape))


def tensor_partition_reduce(dst: Tensor, op: Any, data: Tensor, name: str | None = None) -> None:
    """Reduce an SBUF tile over its partitions: add, average, max, bitwise_or or bitwise_and; dst is [1, F]."""
    api = "tensor_partition_reduce"
    dst = on_chip(dst, "dst", api=api, sbuf_only=True)
    data = on_chip(data, "data", api=api, sbuf_only=True)
    average = getattr(op, "__name__", op) == "average"
    operator = ops.reduction("add" if average else op)
    n = same_free(("dst", dst), ("data", data), api=api)
    context.current().issue(
        TENSOR_PARTITION_REDUCE,
        pick_engine(None, (Engine.GPSIMD,), api=api),
        (dst,),
        (data,),
        free=n,
        partitions=data.shape[0],
        flags=common_flags(dst, data),
        params={"op": operator, "average": average},
    )
