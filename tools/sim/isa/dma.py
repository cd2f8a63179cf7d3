"""DMA: moves between HBM and SBUF (and within them), with gather, scatter, casts and transposes on the way."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tools.sim import context
from tools.sim.instruction import Effect, Engine, Flag, opcode
from tools.sim.isa.enums import dge_mode as dge
from tools.sim.isa.enums import engine as engine_enum
from tools.sim.isa.enums import oob_mode as oob
from tools.sim.isa.operands import forms, inside, tensor, transposed
from tools.sim.tensor import Outside, Tensor, to_integer

_TRIGGERS = (Engine.SYNC, Engine.SCALAR, Engine.GPSIMD, Engine.VECTOR, Engine.TENSOR, Engine.UNKNOWN)


def _rows(view: Tensor, skip: bool, what: str) -> tuple[NDArray[Any], NDArray[Any]]:
    """Element offsets of the rows that an indirect view means, and which of them are in bounds."""
    indirect = view.rows
    assert indirect is not None
    index = indirect.index.read()
    index = index.reshape(index.shape[0], -1).T.reshape(-1).astype(np.int64)
    count = view.shape[0]
    if index.size != count:
        if index.size < count:
            context.fail(
                "KW-INDEX-COUNT",
                f"{what}: {index.size} indices for {count} rows of {view!r}",
                operand=what,
                found=index.size,
                limit=count,
                fix="give one index a row",
            )
        index = index[:count]
    total = prod(view.buffer.shape) * view.buffer.dtype.itemsize // view.dtype.itemsize
    starts = view.offset + index * indirect.row_stride
    reach = sum((n - 1) * s for n, s in zip(view.shape[1:], view.strides[1:]))
    valid = (index >= 0) & (starts + reach < total)
    if not valid.all() and not skip:
        bad = int(np.argmin(valid))
        context.fail(
            "KW-INDEX-BOUNDS",
            f"{what}: index {int(index[bad])} at row {bad} reaches outside {view.buffer.name or 'the tensor'} "
            f"({'x'.join(map(str, view.buffer.shape))})",
            operand=what,
            found=int(index[bad]),
            limit=total // max(indirect.row_stride, 1) - 1,
            fix="keep indices in range, or pass oob_mode=nisa.oob_mode.skip",
        )
    return starts, valid


def _row(view: Tensor, start: int) -> Tensor:
    return Tensor(view.buffer, view.shape[1:] or (1,), view.dtype, int(start), view.strides[1:] or (1,))


def _row_view(view: Tensor, start: int) -> NDArray[Any]:
    return np.asarray(_row(view, start).view())


def _wrote_rows(dst: Tensor, rows: NDArray[Any]) -> None:
    """Note that some rows of a tile were written through its view."""
    if dst.buffer.pending:
        for i in np.flatnonzero(rows).tolist():
            dst[i : i + 1].wrote()
    else:
        dst.wrote()


def _cast(values: NDArray[Any], dst: Tensor, src: Tensor) -> NDArray[Any]:
    if dst.dtype is src.dtype or (
        dst.dtype.itemsize == src.dtype.itemsize and "packed" in (dst.dtype.kind, src.dtype.kind)
    ):
        return values
    wide = values.astype(np.float32)
    target = dst.view().dtype
    return to_integer(wide, target) if target.kind in "iu" else wide


def gather(src: Tensor, dst_shape: tuple[int, ...], skip: bool) -> tuple[NDArray[Any], NDArray[Any] | None]:
    """Rows of an indirect view as one array [rows, ...], and the mask of rows that were in bounds."""
    starts, valid = _rows(src, skip, "src")
    rows = np.zeros(src.shape, src.view().dtype) if not valid.all() else None
    if rows is None:
        rows = np.empty(src.shape, _row_view(src, int(starts[0])).dtype)
    for i in np.flatnonzero(valid):
        rows[i] = _row_view(src, int(starts[i]))
    return rows.reshape(dst_shape), None if valid.all() else valid


def _elements(view: Tensor) -> NDArray[np.int64]:
    """Storage element of every element of the view, flat, whether it exists or not."""
    flat = np.full(view.shape, view.offset, np.int64)
    for axis, (n, s) in enumerate(zip(view.shape, view.strides)):
        flat += (np.arange(n, dtype=np.int64) * s).reshape([n if a == axis else 1 for a in range(view.ndim)])
    return flat.reshape(-1)


def _copy_inside(dst: Tensor, src: Tensor) -> None:
    """Copy the elements that exist on both sides; the rest of dst keeps its values."""
    keep = np.ones(dst.size, bool)
    flats = []
    for view in (dst, src):
        flat = _elements(view)
        total = view.buffer.partitions * view.buffer.row_bytes // view.dtype.itemsize
        keep &= (flat >= 0) & (flat < total)
        whole = Tensor(view.buffer, (total,), view.dtype, 0, (1,))
        flats.append((whole, flat))
    if not keep.any():
        return
    (target, to), (source, of) = flats
    values = _cast(source.view()[of[keep]], dst, src)
    cells = target.view()
    cells[to[keep]] = to_integer(values, cells.dtype) if cells.dtype.kind in "iu" else values
    if dst.buffer.pending:
        for element in to[keep].tolist():
            Tensor(dst.buffer, (1,), dst.dtype, int(element), (1,)).wrote()
    else:
        target.wrote()


@opcode("dma_copy", kind="dma", cost="dma", source="ISA dma_copy; DMA bandwidth guide", effect=Effect.LANES)
def DMA_COPY(outs: tuple[Tensor, ...], ins: tuple[Tensor, ...], skip: bool, accumulate: Any) -> None:
    """dst = src in row-major order, cast through float32 when the types differ; gathers and scatters rows."""
    dst, src = outs[0], ins[0]
    if isinstance(src.rows, Outside) or isinstance(dst.rows, Outside):
        _copy_inside(dst, src)
        return
    if src.rows is None and dst.rows is None:
        values = src.read()
        if accumulate is not None:
            with np.errstate(all="ignore"):
                dst.write(accumulate(dst.view().astype(np.float32), values.astype(np.float32).reshape(dst.shape)))
            return
        target = dst.view()
        if dst.dtype is src.dtype and values.shape == target.shape and values.dtype == target.dtype:
            np.copyto(target, values)
            dst.wrote()
        else:
            dst.write(_cast(values, dst, src).reshape(dst.shape))
        return
    mask = None
    if src.rows is not None:
        values, mask = gather(src, src.shape, skip)
    else:
        values = src.read()
    if dst.rows is None:
        values = _cast(values, dst, src)
        if mask is not None:
            flat = values.reshape(dst.shape[0], -1)[mask]
            target = dst.view()
            target[mask] = flat.reshape((int(mask.sum()), *target.shape[1:])).astype(target.dtype)
            _wrote_rows(dst, mask)
        else:
            dst.write(values.reshape(dst.shape))
        return
    starts, valid = _rows(dst, skip, "dst")
    rows = _cast(values.reshape(dst.shape), dst, src)
    for i in np.flatnonzero(valid if mask is None else valid & mask):
        row = _row(dst, int(starts[i]))
        target = row.view()
        if accumulate is not None:
            with np.errstate(all="ignore"):
                target[...] = accumulate(target.astype(np.float32), rows[i].astype(np.float32)).reshape(target.shape)
        else:
            target[...] = rows[i].reshape(target.shape)
        row.wrote()


def _trigger(value: Any, api: str) -> Engine:
    if value is None:
        return Engine.UNKNOWN
    chosen = value.value if isinstance(value, engine_enum) else value
    if chosen not in _TRIGGERS:
        context.fail(
            "KW-ENGINE",
            f"{api}: engine={value!r} can't trigger a DMA",
            operand="engine",
            fix="use nisa.sync_engine, nisa.scalar_engine, nisa.gpsimd_engine or leave it out",
        )
    return Engine(chosen)


def _mode_flags(mode: Any) -> int:
    if mode is dge.swdge:
        return Flag.SWDGE
    return Flag.HWDGE if mode is dge.hwdge else 0


def dma_flags(dst: Tensor, src: Tensor, mode: Any) -> tuple[int, int, int, int]:
    """(flags, partitions, free, smallest contiguous run) of a transfer, for the cost law."""
    flags = _mode_flags(mode)
    if dst.dtype is not src.dtype:
        flags |= Flag.DMA_CAST
    if src.rows is not None or dst.rows is not None:
        flags |= Flag.INDIRECT | Flag.SWDGE
    chip = dst if dst.buffer.on_chip else src
    rows = chip.shape[0]
    run = min(src.contiguous_run(), dst.contiguous_run())
    return flags, rows, chip.size // rows, run


def dma_copy(
    dst: Tensor,
    src: Tensor,
    priority: Any = None,
    oob_mode: Any = oob.error,
    dge_mode: Any = dge.unknown,
    engine: Any = None,
    dst_rmw_op: Any = None,
    unique_indices: bool = True,
    name: str | None = None,
) -> None:
    """Copy src to dst element by element in row-major order.

    Args:
        dst, src: tensors in HBM or SBUF with equal element counts; `.ap(vector_offset=...)` makes it a gather/scatter.
        priority: queue priority hint (trn3); recorded nowhere because it changes no value.
        oob_mode: `error` stops at an index out of range, `skip` leaves that row of dst untouched.
        dge_mode: who makes descriptors; hwdge can't cast.
        engine: engine whose queue triggers the transfer.
        dst_rmw_op: accumulate into dst (0.2 spelling; moved to dma_compute in 0.3).
        unique_indices: must be True: rows of one scatter may not repeat (0.2 spelling).
    """
    core = context.current()
    key = forms(dst, src) if unique_indices else None
    known = core.legal.get((DMA_COPY.code, id(engine), id(dge_mode), key)) if key is not None else None
    if known is None:
        known = _check_dma_copy(dst, src, dge_mode, engine, unique_indices)
        if key is not None:
            core.legal[DMA_COPY.code, id(engine), id(dge_mode), key] = known
    flags, rows, free, run, trigger, nbytes = known
    accumulate = None
    if dst_rmw_op is not None:
        from tools.sim.isa.ops import alu

        accumulate = alu(dst_rmw_op, "dst_rmw_op").function
        flags |= Flag.DMA_RMW
    skip = getattr(oob_mode, "name", oob_mode) == "skip"
    index: tuple[Tensor, ...] = ()
    if src.rows is not None or dst.rows is not None:
        for tile, label in ((src, "src"), (dst, "dst")):
            if not skip or not (isinstance(tile.rows, Outside) and tile.rows.dynamic):
                inside(tile, label, api="dma_copy")
        index = tuple(t.rows.index for t in (src, dst) if t.rows is not None and not isinstance(t.rows, Outside))
    core.issue(
        DMA_COPY,
        trigger,
        (dst,),
        (src, *index),
        free=free,
        partitions=rows,
        aux=run,
        nbytes=nbytes,
        flags=flags,
        update=accumulate is not None,
        params={"skip": skip, "accumulate": accumulate},
    )


def _check_dma_copy(
    dst: Any, src: Any, dge_mode: Any, engine: Any, unique_indices: bool
) -> tuple[int, int, int, int, Engine, int]:
    """Flags, partitions, elements and shortest run (see `dma_flags`), the triggering engine, and bytes moved."""
    api = "dma_copy"
    dst = tensor(dst, "dst", api=api)
    src = tensor(src, "src", api=api)
    for tile, label in ((src, "src"), (dst, "dst")):
        if tile.buffer.space == "psum":
            context.fail(
                "KW-DMA-PSUM",
                f"{api}: {label} lies in PSUM, which DMA can't access",
                operand=label,
                found="psum",
                limit="sbuf or hbm",
                fix="nisa.tensor_copy to an SBUF tile first",
            )
    if dst.size != src.size:
        context.fail(
            "KW-DMA-SHAPE",
            f"{api}: dst {list(dst.shape)} has {dst.size} elements, src {list(src.shape)} has {src.size}",
            operand="dst",
            found=dst.size,
            limit=src.size,
            fix="slice both to the same number of elements (mind the last partial tile)",
        )
    if dge_mode is dge.hwdge and dst.dtype.itemsize != src.dtype.itemsize:
        context.fail(
            "KW-DMA-HWDGE-CAST",
            f"{api}: hwdge moves raw bytes and can't cast {src.dtype} to {dst.dtype}",
            operand="dge_mode",
            fix="use dge_mode none or swdge, or equal types",
        )
    if not unique_indices:
        context.fail(
            "KW-DMA-COMPUTE",
            f"{api}: unique_indices must be True",
            operand="unique_indices",
            limit=True,
            fix="leave it at True; the DMA engines can't order equal indices",
        )
    nbytes = dst.size * max(dst.dtype.itemsize, src.dtype.itemsize)
    return *dma_flags(dst, src, dge_mode), _trigger(engine, api), nbytes


_PERMUTATIONS = ((1, 0), (2, 1, 0), (3, 1, 2, 0))


@opcode("dma_transpose", kind="dma", cost="dma_transpose", source="ISA dma_transpose; DMA bandwidth guide")
def DMA_TRANSPOSE(outs: tuple[Tensor, ...], ins: tuple[Tensor, ...], axes: tuple[int, ...], skip: bool) -> None:
    """dst = src with its axes permuted."""
    dst, src = outs[0], ins[0]
    if src.rows is None:
        values = src.read()
        moved = transposed(values) if axes == (1, 0) else values.transpose(axes)
        dst.write(_cast(moved, dst, src).reshape(dst.shape))
        return
    values, mask = gather(src, src.shape, skip)
    moved = _cast(values.transpose(axes), dst, src)
    if mask is None:
        dst.write(moved.reshape(dst.shape))
        return
    keep = np.broadcast_to(mask.reshape((-1,) + (1,) * (src.ndim - 1)), src.shape).transpose(axes).reshape(dst.shape)
    np.copyto(dst.view(), moved.reshape(dst.shape), where=keep, casting="unsafe")
    dst.wrote()


def dma_transpose(
    dst: Tensor,
    src: Tensor,
    axes: Any = None,
    priority: Any = None,
    dge_mode: Any = dge.unknown,
    oob_mode: Any = oob.error,
    engine: Any = None,
    name: str | None = None,
) -> None:
    """dst = src transposed on the way.

    Args:
        dst: SBUF tile whose shape is src's, permuted.
        src: HBM or SBUF tensor of 2 to 4 dimensions.
        axes: (1, 0), (2, 1, 0) or (3, 1, 2, 0); by default the first and last dimensions swap.
    """
    api = "dma_transpose"
    dst = tensor(dst, "dst", api=api)
    src = tensor(src, "src", api=api)
    inside(src, "src", api=api)
    inside(dst, "dst", api=api)
    order = (
        tuple(int(a) for a in axes) if axes is not None else _PERMUTATIONS[src.ndim - 2] if 2 <= src.ndim <= 4 else ()
    )
    if order not in _PERMUTATIONS or len(order) != src.ndim:
        context.fail(
            "KW-DMA-TRANSPOSE-AXES",
            f"{api}: axes {order} of a {src.ndim}-D source aren't supported",
            operand="axes",
            found=str(order),
            limit="(1, 0), (2, 1, 0), (3, 1, 2, 0)",
            fix="reshape the source so that one of these permutations applies",
        )
    for tile, label in ((src, "src"), (dst, "dst")):
        if tile.buffer.space == "psum":
            context.fail(
                "KW-DMA-PSUM",
                f"{api}: {label} lies in PSUM, which DMA can't access",
                operand=label,
                fix="tensor_copy it to an SBUF tile first",
            )
    expected = tuple(src.shape[a] for a in order)
    if dst.shape != expected and [n for n in dst.shape if n != 1] != [n for n in expected if n != 1]:
        context.fail(
            "KW-DMA-SHAPE",
            f"{api}: dst is {list(dst.shape)}, the permuted source is {list(expected)}",
            operand="dst",
            found=list(dst.shape),
            limit=list(expected),
            fix=f"give dst the shape {list(expected)}",
        )
    if dst.shape != expected:
        context.strict_fail(
            "KW-DMA-SHAPE",
            f"{api}: dst is {list(dst.shape)}; its rank and shape must be those of the permuted source since 0.4",
            dialect="nki",
            operand="dst",
            found=list(dst.shape),
            limit=list(expected),
            fix=f"give dst the shape {list(expected)}",
        )
    flags, rows, free, run = dma_flags(dst, src, dge_mode)
    index = (src.rows.index,) if src.rows is not None else ()
    context.current().issue(
        DMA_TRANSPOSE,
        _trigger(engine, api),
        (dst,),
        (src, *index),
        free=free,
        partitions=rows,
        aux=run,
        nbytes=dst.size * dst.dtype.itemsize,
        flags=flags,
        params={"axes": order, "skip": getattr(oob_mode, "name", oob_mode) == "skip"},
    )


@opcode("dma_compute", kind="dma", cost="dma", source="ISA dma_compute")
def DMA_COMPUTE(outs: tuple[Tensor, ...], ins: tuple[Tensor, ...], skip: bool, sources: int) -> None:
    """dst = sum of the sources, in float32."""
    dst = outs[0]
    total: Any = None
    mask = None
    for src in ins[:sources]:
        if src.rows is not None:
            values, mask = gather(src, src.shape, skip)
            values = values.astype(np.float32).reshape(dst.shape)
        else:
            values = src.read_float().reshape(dst.shape)
        total = values if total is None else total + values
    if dst.rows is None:
        if mask is not None:
            target = dst.view()
            target[mask] = total[mask].astype(target.dtype)
            _wrote_rows(dst, mask)
        else:
            dst.write(total)
        return
    starts, valid = _rows(dst, skip, "dst")
    for i in np.flatnonzero(valid if mask is None else valid & mask):
        row = _row(dst, int(starts[i]))
        target = row.view()
        values = total[i].reshape(target.shape)
        target[...] = to_integer(values, target.dtype) if target.dtype.kind in "iu" else values
        row.wrote()


def dma_compute(
    dst: Tensor,
    srcs: Any,
    reduce_op: Any,
    scales: Any = None,
    unique_indices: bool = True,
    oob_mode: Any = oob.error,
    name: str | None = None,
) -> None:
    """dst = srcs[0] + srcs[1] + ... on the DMA engines, in float32.

    Args:
        srcs: up to 16 tensors with dst's element count; at most one with a vector_offset.
        reduce_op: `nl.add`.
        scales: None or all 1.0.
        unique_indices: must be True: rows of one scatter may not repeat.
    """
    api = "dma_compute"
    dst = tensor(dst, "dst", api=api)
    sources = tuple(tensor(s, f"srcs[{i}]", api=api) for i, s in enumerate(srcs))
    from tools.sim.isa.ops import alu

    for i, tile in enumerate((dst, *sources)):
        inside(tile, f"srcs[{i - 1}]" if i else "dst", api=api)
    if alu(reduce_op, "reduce_op").name != "add":
        context.fail(
            "KW-DMA-COMPUTE",
            f"{api}: reduce_op={reduce_op!r}; only nl.add is supported",
            operand="reduce_op",
            limit="add",
            fix="add here, and compute the rest with an engine's instruction",
        )
    if scales is not None and any(s != 1.0 for s in scales):
        context.fail(
            "KW-DMA-COMPUTE",
            f"{api}: scales must all be 1.0",
            operand="scales",
            found=str(scales),
            limit="1.0",
            fix="scale the sources with an engine's instruction first",
        )
    if not unique_indices:
        context.fail(
            "KW-DMA-COMPUTE",
            f"{api}: unique_indices must be True",
            operand="unique_indices",
            fix="leave it at True; the DMA engines can't order equal indices",
        )
    if not 1 <= len(sources) <= 16:
        context.fail(
            "KW-DMA-COMPUTE",
            f"{api}: {len(sources)} sources; 1 to 16 are allowed",
            operand="srcs",
            limit=16,
            fix="add in several instructions",
        )
    for i, source in enumerate(sources):
        if source.size != dst.size:
            context.fail(
                "KW-DMA-SHAPE",
                f"{api}: srcs[{i}] has {source.size} elements, dst has {dst.size}",
                operand=f"srcs[{i}]",
                found=source.size,
                limit=dst.size,
                fix="slice the sources and dst to the same number of elements",
            )
    flags, rows, free, run = dma_flags(dst, sources[0], dge.none)
    index = tuple(t.rows.index for t in (*sources, dst) if t.rows is not None)
    context.current().issue(
        DMA_COMPUTE,
        Engine.UNKNOWN,
        (dst,),
        (*sources, *index),
        free=free,
        partitions=rows,
        aux=run,
        nbytes=dst.size * dst.dtype.itemsize * len(sources),
        flags=flags | Flag.DMA_RMW,
        params={"skip": getattr(oob_mode, "name", oob_mode) == "skip", "sources": len(sources)},
    )
