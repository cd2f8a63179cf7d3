"""Data-dependent moves inside SBUF and PSUM: shuffles within a quadrant, gathers, positions of nonzeros and of segments."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tools.sim import context, dtypes
from tools.sim.core import common_flags
from tools.sim.instruction import Effect, Engine, opcode
from tools.sim.isa.operands import (
    on_chip,
    require_dtype,
    require_free,
    require_generation,
    same_free,
    same_partitions,
    shaped,
    start_partition,
)
from tools.sim.isa.vector import psum_flags
from tools.sim.tensor import Tensor

Outs = tuple[Tensor, ...]
QUADRANT = 32
UNTOUCHED = 255
"""Shuffle-mask entry that leaves the destination partition as it is (ISA nc_stream_shuffle)."""
LANES_PER_CORE = 16
"""Partitions that one of the eight GpSimd cores is wired to (architecture guide, GpSimd Engine)."""


def _same_dtype(dst: Tensor, src: Tensor, names: tuple[str, str], api: str) -> None:
    if dst.dtype is not src.dtype:
        context.fail(
            "KW-DTYPE",
            f"{api}: {names[0]} is {dst.dtype} and {names[1]} is {src.dtype}; they must be equal",
            operand=names[0],
            found=str(dst.dtype),
            limit=str(src.dtype),
            fix=f"allocate {names[0]} as {src.dtype}",
        )


@opcode("nc_stream_shuffle", Engine.VECTOR, cost="vector", source="ISA nc_stream_shuffle", effect=Effect.BEYOND)
def NC_STREAM_SHUFFLE(outs: Outs, ins: Outs, rows: list[tuple[int, int]]) -> None:
    """Partition i of each quadrant of dst = partition mask[i] of the same quadrant of src."""
    dst, src = outs[0], ins[0]
    sources = [s for _, s in rows]
    if src.buffer.pending:
        for s in sorted(set(sources)):
            src[s : s + 1].read()
    moved = src.view().reshape(src.shape[0], -1)[sources]
    target = dst.view()
    target[[d for d, _ in rows]] = moved.reshape(len(rows), *target.shape[1:])
    if len(rows) == target.shape[0] or not dst.buffer.pending:
        dst.wrote()
    else:
        for d, _ in rows:
            dst[d : d + 1].wrote()


def nc_stream_shuffle(dst: Tensor, src: Tensor, shuffle_mask: Sequence[Any], name: str | None = None) -> None:
    """dst[32q + i] = src[32q + shuffle_mask[i]] for every quadrant q; an entry of 255 leaves its partition untouched.

    Args:
        dst, src: tiles of one type with equal elements per partition.
        shuffle_mask: 32 integers, 0 to 31 or 255.
    """
    api = "nc_stream_shuffle"
    dst = on_chip(dst, "dst", api=api)
    src = on_chip(src, "src", api=api)
    _same_dtype(dst, src, ("dst", "src"), api)
    n = same_free(("dst", dst), ("src", src), api=api)
    mask = [context.index_value(m) for m in shuffle_mask]
    if len(mask) != QUADRANT or any(not 0 <= m < QUADRANT and m != UNTOUCHED for m in mask):
        context.fail(
            "KW-SHUFFLE-MASK",
            f"{api}: shuffle_mask must hold 32 integers from 0 to 31, or 255",
            operand="shuffle_mask",
            found=str(mask)[:120],
            limit="32 entries",
            fix="pad the mask with 255",
        )
    active = -(-max(dst.shape[0], src.shape[0]) // QUADRANT) * QUADRANT
    start_partition(dst, "dst", active, api=api)
    start_partition(src, "src", active, api=api)
    rows = []
    for d in range(dst.shape[0]):
        m = mask[d % QUADRANT]
        if m == UNTOUCHED:
            continue
        s = d - d % QUADRANT + m
        if s >= src.shape[0]:
            context.fail(
                "KW-SHUFFLE-MASK",
                f"{api}: partition {d} of dst takes partition {s} of src, which has {src.shape[0]}",
                operand="shuffle_mask",
                found=s,
                limit=src.shape[0] - 1,
                fix="slice dst to the partitions that src has, or set that entry to 255",
            )
        rows.append((d, s))
    context.current().issue(
        NC_STREAM_SHUFFLE,
        Engine.VECTOR,
        (dst,),
        (src,),
        free=n,
        partitions=active,
        flags=common_flags(dst, src) | psum_flags(dst, src),
        update=len(rows) < dst.shape[0] and not dst.buffer.pending,
        params={"rows": rows},
    )


@opcode("local_gather", Engine.GPSIMD, cost="gpsimd", source="ISA local_gather", effect=Effect.BEYOND)
def LOCAL_GATHER(outs: Outs, ins: Outs, run: int, count: int) -> None:
    """Each group of 16 partitions gathers runs of elements at the positions that the group's index tile lists."""
    dst, (src, index) = outs[0], ins
    data = src.read().reshape(src.shape[0], -1)
    positions = index.read().reshape(index.shape[0], -1).astype(np.int64)
    result = np.empty((data.shape[0], count, run), data.dtype)
    for first in range(0, data.shape[0], LANES_PER_CORE):
        group = slice(first, first + LANES_PER_CORE)
        starts = positions[group].flatten(order="F")[:count]
        reach = starts[:, None] + np.arange(run)
        if reach.max() >= data.shape[1]:
            context.fail(
                "KW-INDEX-BOUNDS",
                f"local_gather: index {int(starts.max())} reaches outside src_buffer's {data.shape[1]} elements",
                operand="index",
                found=int(starts.max()),
                limit=data.shape[1] - run,
                fix="keep index + num_elem_per_idx within the partition",
            )
        result[group] = data[group][:, reach]
    dst.write(shaped(result, dst.shape))


def local_gather(
    dst: Tensor,
    src_buffer: Tensor,
    index: Tensor,
    num_elem_per_idx: int = 1,
    num_valid_indices: int | None = None,
    name: str | None = None,
) -> None:
    """Gather along the free dimensions with one list of positions for each group of 16 partitions.

    Args:
        dst: SBUF tile of src_buffer's type; num_valid_indices * num_elem_per_idx elements a partition.
        src_buffer: SBUF tile, partitions a multiple of 16.
        index: uint16 SBUF tile with as many partitions; a group's list runs down its partitions first. Entries count
            elements.
        num_elem_per_idx: 1, 2, 4, 8, 16 or 32 neighbouring elements for each entry.
        num_valid_indices: entries used per group; all by default; at most 4096.
    """
    api = "local_gather"
    dst = on_chip(dst, "dst", api=api, sbuf_only=True)
    src = on_chip(src_buffer, "src_buffer", api=api, sbuf_only=True)
    idx = on_chip(index, "index", api=api, sbuf_only=True)
    p = same_partitions(("dst", dst), ("src_buffer", src), ("index", idx), api=api)
    _same_dtype(dst, src, ("dst", "src_buffer"), api)
    require_dtype(idx, "index", (dtypes.uint16,), api=api)
    if p % LANES_PER_CORE:
        context.fail(
            "KW-PARTITION-MULTIPLE",
            f"{api}: src_buffer has {p} partitions",
            operand="src_buffer",
            found=p,
            limit="a multiple of 16",
            fix="pad the tile to a multiple of 16 partitions",
        )
    if num_elem_per_idx not in (1, 2, 4, 8, 16, 32):
        context.fail(
            "KW-GATHER-RUN",
            f"{api}: num_elem_per_idx={num_elem_per_idx}",
            operand="num_elem_per_idx",
            found=num_elem_per_idx,
            limit="1, 2, 4, 8, 16, 32",
            fix="use one of these run lengths",
        )
    available = idx.size // p * LANES_PER_CORE
    count = available if num_valid_indices is None else int(num_valid_indices)
    if not 1 <= count <= min(available, 4096):
        context.fail(
            "KW-GATHER-COUNT",
            f"{api}: {count} indices a core; its 16 partitions hold {available}, and 4096 is the limit",
            operand="num_valid_indices",
            found=count,
            limit=min(available, 4096),
            fix="split the gather, or make the index tile wider",
        )
    require_free(dst, "dst", count * num_elem_per_idx, api=api)
    context.current().issue(
        LOCAL_GATHER,
        Engine.GPSIMD,
        (dst,),
        (src, idx),
        free=count * num_elem_per_idx,
        partitions=p,
        aux=int(num_elem_per_idx),
        flags=common_flags(dst),
        params={"run": int(num_elem_per_idx), "count": count},
    )


@opcode("nc_n_gather", Engine.GPSIMD, cost="gpsimd", source="ISA nc_n_gather", effect=Effect.BEYOND)
def NC_N_GATHER(outs: Outs, ins: Outs) -> None:
    """dst[p, i] = data[p, indices[p, i]] over the flattened free dimensions."""
    dst, (data, indices) = outs[0], ins
    values = data.read().reshape(data.shape[0], -1)
    positions = indices.read().reshape(data.shape[0], -1).astype(np.int64)
    bad = (positions < 0) | (positions >= values.shape[1])
    if bad.any():
        lane, slot = np.argwhere(bad)[0]
        context.fail(
            "KW-INDEX-BOUNDS",
            f"nc_n_gather: index {int(positions[lane, slot])} of partition {int(lane)} is outside the "
            f"{values.shape[1]} elements of a partition of data",
            operand="indices",
            found=int(positions[lane, slot]),
            limit=values.shape[1] - 1,
            fix="clamp the indices",
        )
    dst.write(shaped(np.take_along_axis(values, positions, axis=1), dst.shape))


def nc_n_gather(dst: Tensor, data: Tensor, indices: Tensor, name: str | None = None) -> None:
    """Gather within each partition over the flattened free dimensions.

    Args:
        dst: SBUF tile of data's type with as many elements a partition as indices.
        data: SBUF tile [P, F...].
        indices: uint32 SBUF tile [P, N...], entries below data's elements a partition.
    """
    api = "nc_n_gather"
    dst = on_chip(dst, "dst", api=api, sbuf_only=True)
    data = on_chip(data, "data", api=api, sbuf_only=True)
    idx = on_chip(indices, "indices", api=api, sbuf_only=True)
    p = same_partitions(("dst", dst), ("data", data), ("indices", idx), api=api)
    n = same_free(("dst", dst), ("indices", idx), api=api)
    _same_dtype(dst, data, ("dst", "data"), api)
    require_dtype(idx, "indices", (dtypes.uint32, dtypes.int32), api=api)
    context.current().issue(
        NC_N_GATHER, Engine.GPSIMD, (dst,), (data, idx), free=n, partitions=p, flags=common_flags(dst)
    )


@opcode("sequence_bounds", Engine.GPSIMD, cost="gpsimd", source="ISA sequence_bounds")
def SEQUENCE_BOUNDS(outs: Outs, ins: Outs) -> None:
    """Start and end of the run of equal segment ids that each element belongs to."""
    dst, segments = outs[0], ins[0]
    ids = segments.read_float().reshape(segments.shape[0], -1)
    n = ids.shape[1]
    index = np.arange(n)
    change = np.ones(ids.shape, bool)
    change[:, 1:] = ids[:, 1:] != ids[:, :-1]
    start = np.maximum.accumulate(np.where(change, index, 0), axis=1)
    last = np.ones(ids.shape, bool)
    last[:, :-1] = change[:, 1:]
    end = np.minimum.accumulate(np.where(last, index + 1, n)[:, ::-1], axis=1)[:, ::-1]
    padding = ids == 0
    bounds = np.stack([np.where(padding, n, start), np.where(padding, -1, end)], axis=1)
    dst.write(shaped(bounds.astype(np.float32), dst.shape))


def sequence_bounds(dst: Tensor, segment_ids: Tensor, name: str | None = None) -> None:
    """[start, end) of each element's segment; elements with id 0 (padding) get (n, -1).

    Args:
        dst: float32 or int32 SBUF tile [1, 2, n].
        segment_ids: float32 or int32 SBUF tile [1, n].
    """
    api = "sequence_bounds"
    dst = on_chip(dst, "dst", api=api, sbuf_only=True)
    ids = on_chip(segment_ids, "segment_ids", api=api, sbuf_only=True)
    for tile, label in ((dst, "dst"), (ids, "segment_ids")):
        require_dtype(tile, label, (dtypes.float32, dtypes.int32), api=api)
        if tile.shape[0] != 1:
            context.fail(
                "KW-PARTITION-LIMIT",
                f"{api}: {label} has {tile.shape[0]} partitions; it must have 1",
                operand=label,
                found=tile.shape[0],
                limit=1,
                fix="call it once a row",
            )
    n = ids.size
    require_free(dst, "dst", 2 * n, api=api)
    context.current().issue(
        SEQUENCE_BOUNDS, Engine.GPSIMD, (dst,), (ids,), free=n, partitions=1, flags=common_flags(ids)
    )


@opcode("nonzero_with_count", Engine.GPSIMD, cost="gpsimd", source="ISA nonzero_with_count", effect=Effect.BEYOND)
def NONZERO_WITH_COUNT(outs: Outs, ins: Outs, offset: int, padding: int) -> None:
    """In partitions 0, 16, 32...: positions of nonzero elements, then padding, then their count."""
    dst, src = outs[0], ins[0]
    target = dst.view().reshape(dst.shape[0], -1)
    n = src.size // src.shape[0]
    for lane in range(0, src.shape[0], LANES_PER_CORE):
        values = src[lane : lane + 1].read().reshape(-1)
        where = np.flatnonzero(values)
        row = np.full(n + 1, padding, np.int64)
        row[: where.size] = where + offset
        row[n] = where.size
        target[lane] = row
        dst[lane : lane + 1].wrote()


def nonzero_with_count(
    dst: Tensor, src: Tensor, index_offset: Any = 0, padding_val: int = -1, name: str | None = None
) -> None:
    """Positions of nonzero elements of partitions 0, 16, ..., 112, padded, with their count last; trn2 and later.

    Args:
        dst: int32 SBUF tile with one more element a partition than src; other partitions stay untouched.
        src: float32 or int32 SBUF tile.
        index_offset: added to every position (an integer or a register).
        padding_val: fills unused slots.
    """
    api = "nonzero_with_count"
    require_generation(3, api=api)
    dst = on_chip(dst, "dst", api=api, sbuf_only=True)
    src = on_chip(src, "src", api=api, sbuf_only=True)
    p = same_partitions(("dst", dst), ("src", src), api=api)
    require_dtype(dst, "dst", (dtypes.int32,), api=api)
    require_dtype(src, "src", (dtypes.float32, dtypes.int32), api=api)
    n = src.size // p
    require_free(dst, "dst", n + 1, api=api)
    if dst.ndim > 2 and not dst.is_contiguous():
        dst = dst.reshape((p, n + 1))
    context.current().issue(
        NONZERO_WITH_COUNT,
        Engine.GPSIMD,
        (dst,),
        (src,),
        free=n,
        partitions=p,
        flags=common_flags(src),
        update=not dst.buffer.pending,
        params={"offset": context.index_value(index_offset), "padding": int(padding_val)},
    )
