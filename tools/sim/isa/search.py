"""Searches along the free dimensions: the eight largest values, where they are, replacing them, and top-K."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tools.sim import context, dtypes
from tools.sim.core import common_flags
from tools.sim.instruction import Engine, opcode
from tools.sim.isa.operands import (
    on_chip,
    require_dtype,
    require_free,
    require_size,
    same_free,
    same_partitions,
    shaped,
)
from tools.sim.isa.vector import psum_flags
from tools.sim.tensor import Tensor

Outs = tuple[Tensor, ...]
_LOW, _HIGH = 8, 16384  # ISA max8: elements read per partition


@opcode("max8", Engine.VECTOR, cost="vector", source="ISA max8")
def MAX8(outs: Outs, ins: Outs) -> None:
    """The 8 largest values of each partition, in descending order."""
    dst, src = outs[0], ins[0]
    x = src.read_float().reshape(src.shape[0], -1)
    top = np.partition(x, x.shape[1] - 8, axis=1)[:, -8:]
    dst.write(shaped(-np.sort(-top, axis=1), dst.shape))


def max8(dst: Tensor, src: Tensor, name: str | None = None) -> None:
    """dst[P, 8] = the 8 largest values of each partition of src, descending; src has 8 to 16384 elements a partition."""
    api = "max8"
    dst = on_chip(dst, "dst", api=api)
    src = on_chip(src, "src", api=api)
    p = same_partitions(("dst", dst), ("src", src), api=api)
    require_free(dst, "dst", 8, api=api)
    n = require_size(src, "src", _LOW, _HIGH, api=api)
    _rank(src, "src", api)
    context.current().issue(
        MAX8, Engine.VECTOR, (dst,), (src,), free=n, partitions=p, flags=common_flags(src) | psum_flags(dst, src)
    )


def _rank(tile: Tensor, name: str, api: str) -> None:
    if sum(n != 1 for n in tile.shape[1:]) > 3:
        context.fail(
            "KW-RANK",
            f"{api}: {name} {list(tile.shape)} has too many dimensions; at most 3 are read",
            operand=name,
            found=tile.ndim,
            limit=3,
            fix="reshape the free dimensions",
        )


def find_first(data: NDArray[Any], values: NDArray[Any], order: range) -> NDArray[np.int64]:
    """Position of the first element equal to each of the 8 values, taken in `order`; -1 where there is none.

    An element that one value has matched isn't matched again by an equal value.
    """
    found = np.full(values.shape, -1, np.int64)
    taken = np.zeros(data.shape, bool)
    lanes = np.arange(data.shape[0])
    for i in order:
        match = (data == values[:, i : i + 1]) & ~taken
        where = match.argmax(axis=1)
        hit = match[lanes, where]
        found[hit, i] = where[hit]
        taken[lanes[hit], where[hit]] = True
    return found


def _indices(found: NDArray[np.int64], dst: Tensor) -> NDArray[Any]:
    """Positions as dst's unsigned type; all ones where nothing was found."""
    storage = np.dtype(f"u{dst.dtype.itemsize}")
    return found.astype(storage).view(dst.view().dtype)


@opcode("nc_find_index8", Engine.VECTOR, cost="vector", source="ISA nc_find_index8")
def NC_FIND_INDEX8(outs: Outs, ins: Outs) -> None:
    """Position of the first occurrence of each of 8 values per partition; all ones when absent."""
    dst, (data, vals) = outs[0], ins
    x = data.read_float().reshape(data.shape[0], -1)
    found = find_first(x, vals.read_float().reshape(data.shape[0], 8), range(8))
    dst.write(shaped(_indices(found, dst), dst.shape))


def nc_find_index8(dst: Tensor, data: Tensor, vals: Tensor, name: str | None = None) -> None:
    """dst[P, 8] = where each of the 8 vals first occurs in its partition of data.

    Args:
        dst: uint16 or uint32 [P, 8]; a value that isn't found gives all ones, equal values give successive positions.
        data: [P, F...] with 8 to 16384 elements a partition.
        vals: [P, 8].
    """
    api = "nc_find_index8"
    dst = on_chip(dst, "dst", api=api)
    data = on_chip(data, "data", api=api)
    vals = on_chip(vals, "vals", api=api)
    p = same_partitions(("dst", dst), ("data", data), ("vals", vals), api=api)
    require_free(dst, "dst", 8, api=api)
    require_free(vals, "vals", 8, api=api)
    require_dtype(dst, "dst", (dtypes.uint32, dtypes.uint16), api=api)
    n = require_size(data, "data", _LOW, _HIGH, api=api)
    _rank(data, "data", api)
    context.current().issue(
        NC_FIND_INDEX8,
        Engine.VECTOR,
        (dst,),
        (data, vals),
        free=n,
        partitions=p,
        flags=common_flags(data) | psum_flags(dst, data),
    )


@opcode("nc_match_replace8", Engine.VECTOR, cost="vector", source="ISA nc_match_replace8")
def NC_MATCH_REPLACE8(outs: Outs, ins: Outs, value: float) -> None:
    """dst = data with the first occurrence of each of 8 values replaced; optionally their positions."""
    dst, (data, vals) = outs[0], ins
    x = data.read_float().reshape(data.shape[0], -1).copy()
    found = find_first(x, vals.read_float().reshape(data.shape[0], 8), range(7, -1, -1))
    lanes, slots = np.nonzero(found >= 0)
    x[lanes, found[lanes, slots]] = np.float32(value)
    dst.write(shaped(x, dst.shape))
    if len(outs) > 1:
        outs[1].write(shaped(_indices(found, outs[1]), outs[1].shape))


def nc_match_replace8(
    dst: Tensor, data: Tensor, vals: Tensor, imm: Any, dst_idx: Tensor | None = None, name: str | None = None
) -> None:
    """dst = data with the first occurrence of each of vals replaced by imm.

    Args:
        dst, data: [P, F...] with 8 to 16384 elements a partition; dst may be data.
        vals: [P, 8]; equal values replace successive occurrences, the last column taking the first one.
        imm: the replacement.
        dst_idx: uint16 or uint32 [P, 8] that receives the positions.
    """
    api = "nc_match_replace8"
    dst = on_chip(dst, "dst", api=api)
    data = on_chip(data, "data", api=api)
    vals = on_chip(vals, "vals", api=api)
    p = same_partitions(("dst", dst), ("data", data), ("vals", vals), api=api)
    same_free(("dst", dst), ("data", data), api=api)
    require_free(vals, "vals", 8, api=api)
    n = require_size(data, "data", _LOW, _HIGH, api=api)
    _rank(data, "data", api)
    outs: Outs = (dst,)
    if dst_idx is not None:
        index = on_chip(dst_idx, "dst_idx", api=api)
        same_partitions(("data", data), ("dst_idx", index), api=api)
        require_free(index, "dst_idx", 8, api=api)
        require_dtype(index, "dst_idx", (dtypes.uint32, dtypes.uint16), api=api)
        outs = (dst, index)
    context.current().issue(
        NC_MATCH_REPLACE8,
        Engine.VECTOR,
        outs,
        (data, vals),
        free=n,
        partitions=p,
        flags=common_flags(dst, data) | psum_flags(dst, data),
        params={"value": float(imm)},
    )


@opcode("topk", Engine.GPSIMD, cost="gpsimd", source="ISA topk")
def TOPK(outs: Outs, ins: Outs, n: int) -> None:
    """The K largest of the n values that each group of 16 partitions holds, ascending, with their positions."""
    values, index, src = outs[0], outs[1], ins[0]
    k = values.size // values.shape[0]
    x = src.read_float().reshape(src.shape[0], -1)
    groups = x.reshape(-1, 16, x.shape[1]).transpose(0, 2, 1).reshape(-1, 16 * x.shape[1])[:, :n]
    order = np.argsort(groups, axis=1, kind="stable")[:, -k:]
    best = np.take_along_axis(groups, order, axis=1)
    values.write(shaped(np.repeat(best, 16, axis=0), values.shape))
    index.write(shaped(np.repeat(order, 16, axis=0).astype(np.uint32), index.shape))


def topk(val_dst: Tensor, idx_dst: Tensor, src: Tensor, n: int, name: str | None = None) -> None:
    """The K largest values and their positions among the n bfloat16 values of each 16-partition snake.

    Value i of a snake lies in partition i % 16, column i // 16. Every partition of the group receives the result.

    Args:
        val_dst: bfloat16 SBUF tile [P, K], ascending.
        idx_dst: uint32 SBUF tile [P, K].
        src: bfloat16 SBUF tile [P, at least ceil(n / 16)], P a multiple of 16.
        n: values in a snake, 8 to 65535.
    """
    api = "topk"
    values = on_chip(val_dst, "val_dst", api=api, sbuf_only=True)
    index = on_chip(idx_dst, "idx_dst", api=api, sbuf_only=True)
    src = on_chip(src, "src", api=api, sbuf_only=True)
    p = same_partitions(("src", src), ("val_dst", values), ("idx_dst", index), api=api)
    k = same_free(("val_dst", values), ("idx_dst", index), api=api)
    require_dtype(src, "src", (dtypes.bfloat16,), api=api)
    require_dtype(values, "val_dst", (dtypes.bfloat16,), api=api)
    require_dtype(index, "idx_dst", (dtypes.uint32,), api=api)
    if p % 16:
        context.fail(
            "KW-PARTITION-MULTIPLE",
            f"{api}: src has {p} partitions",
            operand="src",
            found=p,
            limit="a multiple of 16",
            fix="pad the tile to a multiple of 16 partitions",
        )
    if not 8 <= n < 65536 or not 1 <= k <= min(n, 32767) or src.size // p < -(-n // 16):
        context.fail(
            "KW-SIZE-RANGE",
            f"{api}: n={n} with K={k} and {src.size // p} columns; 8 <= n < 65536, 1 <= K <= n and "
            "columns >= ceil(n / 16) must hold",
            operand="n",
            found=n,
            limit="8..65535",
            fix="pad the tile, or ask for fewer elements",
        )
    context.current().issue(
        TOPK,
        Engine.GPSIMD,
        (values, index),
        (src,),
        free=4 * n + k,
        partitions=p,
        flags=common_flags(src),
        params={"n": int(n)},
    )
