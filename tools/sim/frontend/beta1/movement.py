"""Moving data in Beta 1: loads, stores, DMA copies, and the copies that assignments mean."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from tools.sim import context
from tools.sim.core import Core
from tools.sim.frontend.beta1.blocks import BlockTensor
from tools.sim.frontend.beta1.mask import resolve
from tools.sim.frontend.beta1.promotion import dtype_of
from tools.sim.frontend.beta1.tile import SBUF_ONLY, Chooser, PickedTile, Rankless, Tile, apart, begin, defer, is_empty
from tools.sim.isa import dma, vector
from tools.sim.isa.enums import dge_mode as dge_modes
from tools.sim.isa.enums import oob_mode as oob_modes
from tools.sim.tensor import Tensor

_NUMBERS = (bool, int, float, np.generic)


def tile_of(value: Any, name: str, api: str) -> Tile:
    """`value`, which must be a tile."""
    if isinstance(value, Tile):
        return value
    if isinstance(value, Rankless):
        value.refuse()
    if isinstance(value, BlockTensor):
        context.fail(
            "KW-BLOCK-INDEX",
            f"{api}: {name} is {value!r}, which still has block dimensions in front "
            "(err_failed_to_infer_tile_from_local_tensor)",
            operand=name,
            fix="index the block dimensions away",
        )
    context.fail(
        "KW-OPERAND-TYPE",
        f"{api}: {name} is {type(value).__name__} {value!r}, not a tile"[:300],
        operand=name,
        found=type(value).__name__,
        fix=f"pass a tile as {name}",
    )


def new_tile(core: Core, shape: tuple[int, ...], dtype: Any, space: str = "sbuf") -> Tile:
    """A fresh tile for an intermediate result."""
    made = core.allocate(shape, dtype, space)
    assert isinstance(made, Tile)
    return made


def in_sbuf(core: Core, tile: Tile) -> Tile:
    """`tile`, copied to SBUF first when it lies in PSUM."""
    if tile.buffer.space != "psum":
        return tile
    copied = new_tile(core, tile.shape, tile.dtype)
    vector.tensor_copy(copied, tile)
    return copied


def source(tile: Tile, chooser: Chooser) -> Tile:
    """What an instruction reads of an operand under a resolved mask."""
    if chooser is None or is_empty(chooser):
        return tile
    if isinstance(chooser, np.ndarray):
        return tile.pick(chooser) if tile.shape == chooser.shape else tile
    return tile.narrow(chooser)


def fitted(value: Tile, shape: tuple[int, ...]) -> Tile:
    """`value` with its size-1 dimensions repeated where `shape` needs it; unchanged when the sizes agree already.

    Missing dimensions are added behind the partition dimension, which stays first: [128, 1] fills [128, 64, 1].
    """
    if value.shape == shape or (prod(value.shape) == prod(shape) and value.shape[0] == shape[0]):
        return value
    from tools.sim.frontend.beta1 import elementwise

    missing = len(shape) - len(value.shape)
    if missing > 0 and value.shape[0] == shape[0]:
        inner = value.shape[1:]
        for sizes in ((value.shape[0], *(1,) * missing, *inner), (*value.shape, *(1,) * missing)):
            if all(a in (1, b) for a, b in zip(sizes, shape)):
                found = elementwise.broadcast(value.reshape(sizes), shape)
                assert isinstance(found, Tile)
                return found
    if missing > 0 and value.shape[0] != 1:
        return value  # NumPy would move its partitions into a free dimension
    if missing >= 0 and all(a in (1, b) for a, b in zip(value.shape[::-1], shape[::-1])):
        found = elementwise.broadcast(value, shape)
        assert isinstance(found, Tile)
        return found
    return value


def move(target: Tile, value: Any) -> None:
    """Copy `value` (a tile or a number) into `target`, as an assignment does."""
    if isinstance(value, _NUMBERS):
        if not target.buffer.on_chip:
            core = context.current()
            held = new_tile(core, _on_chip_shape(target.shape), target.dtype)
            vector.memset(held, value)
            dma.dma_copy(target, held)
            return
        vector.memset(target, value)
        if target.buffer.space == "psum":
            target.buffer.from_data = True
        return
    held = tile_of(value, "value", "assignment")
    if not target.buffer.on_chip:
        _store(context.current(), target, held)
        return
    held = fitted(held, target.shape)
    if held.size != target.size or held.shape[0] != target.shape[0]:
        context.fail(
            "KW-SHAPE-MISMATCH",
            f"{held!r} can't be assigned to a part of shape {list(target.shape)} "
            "(err_store_dst_shape_smaller_than_other_shape)",
            found=list(held.shape),
            limit=list(target.shape),
            fix="mark the partition dimension, nl.ndarray((blocks, nl.par_dim(128), ...)); without a mark it's the first"
            if target.shape == (1, *held.shape)
            else "slice both sides to the same shape",
        )
    vector.tensor_copy(target, held)
    if target.buffer.space == "psum":
        target.buffer.from_data = True


def _on_chip_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    return shape if len(shape) > 1 else (*shape, 1)


def copy(src: Any, *, mask: Any = None, dtype: Any = None, engine: Any = None) -> Any:
    """A copy of a tile in SBUF, optionally as another type."""
    core = begin()
    data = tile_of(src, "src", "nl.copy")
    chooser = resolve(mask, data.shape)
    read = source(data, chooser)
    kind = data.dtype if dtype is None else dtype_of(dtype)
    return defer(
        core,
        data.shape,
        kind,
        lambda dst: vector.tensor_copy(dst, read, engine),
        explicit=dtype is not None,
        chooser=chooser,
    )


def load(src: Any, *, mask: Any = None, dtype: Any = None, **kwargs: Any) -> Any:
    """A new SBUF tile with the contents of an HBM view, moved by one DMA.

    Args:
        src: HBM tensor or view; its first dimension becomes the partition dimension.
        mask: which elements to load.
        dtype: type of the tile; the DMA casts.
    """
    unknown("nl.load", kwargs)
    core = begin()
    data = tile_of(src, "src", "nl.load")
    shape = _on_chip_shape(data.shape)
    chooser = resolve(mask, data.shape)
    read = source(data, chooser)
    if not is_empty(chooser) and read.buffer.on_chip:
        context.fail(
            "KW-PLACEMENT",
            f"nl.load: src {read!r} is on chip already (err_unsupported_memory)",
            operand="src",
            found=read.space,
            limit="hbm",
            fix="use nl.copy",
        )
    kind = data.dtype if dtype is None else dtype_of(dtype)
    return defer(
        core,
        shape,
        kind,
        (lambda dst: dma.dma_copy(dst, read)) if chooser is None else (lambda dst: _load_masked(dst, read)),
        spaces=SBUF_ONLY,
        explicit=dtype is not None,
        chooser=chooser,
    )


def _load_masked(dst: Tile, read: Tile) -> None:
    """Load a part of a tile, and name a tile that is this load's own, for findings about the rest."""
    if dst.buffer.role == "result" and not dst.buffer.name:
        dst.buffer.name = "masked load"
    dma.dma_copy(dst, read)


def load_transpose2d(src: Any, *, mask: Any = None, dtype: Any = None, **kwargs: Any) -> Any:
    """A new SBUF tile with a 2-D HBM view, transposed on the way."""
    unknown("nl.load_transpose2d", kwargs)
    core = begin()
    data = tile_of(src, "src", "nl.load_transpose2d")
    if data.ndim != 2:
        context.fail(
            "KW-RANK",
            f"nl.load_transpose2d: src {data!r} must be 2-D",
            operand="src",
            found=data.ndim,
            limit=2,
            fix="index or reshape src to two dimensions",
        )
    chooser = resolve(mask, data.shape)
    if isinstance(chooser, np.ndarray):
        context.unsupported("nl.load_transpose2d with a mask that is no rectangle")
    read = source(data, chooser)
    kind = data.dtype if dtype is None else dtype_of(dtype)
    return defer(
        core,
        (data.shape[1], data.shape[0]),
        kind,
        lambda dst: _load_transposed(core, dst, read),
        spaces=SBUF_ONLY,
        explicit=dtype is not None,
        chooser=chooser[::-1] if chooser is not None else None,
    )


def _load_transposed(core: Core, dst: Tile, read: Tile) -> None:
    """Load `read` and turn it over on the Tensor Engine, block by block, as the compiler does (device matmul counts).

    What the Tensor Engine has no transpose for goes through the DMA engines.
    """
    from tools.sim.frontend.beta1.instructions import turn

    if read.buffer.on_chip or read.dtype.is_integer or read.dtype.itemsize not in (2, 4):
        dma.dma_transpose(dst, read)
        return
    limit = core.machine.partitions
    height, width = read.shape
    for row in range(0, height, limit):
        down = min(row + limit, height)
        held = new_tile(core, (down - row, width), read.dtype)
        dma.dma_copy(held, read[row:down, :])
        for column in range(0, width, limit):
            right = min(column + limit, width)
            vector.tensor_copy(dst[column:right, row:down], turn(core, held[:, column:right]))


def store(dst: Any, value: Any, *, mask: Any = None, **kwargs: Any) -> None:
    """Copy an SBUF tile to an HBM view; a PSUM tile is copied to SBUF first.

    Args:
        dst: HBM view.
        value: tile of the same shape, or a number.
        mask: which elements to store.
    """
    unknown("nl.store", kwargs)
    core = begin()
    target = tile_of(dst, "dst", "nl.store")
    chooser = resolve(mask, target.shape)
    if is_empty(chooser):
        return
    into = apart(target, chooser)
    if into.buffer.on_chip:
        context.fail(
            "KW-PLACEMENT",
            f"nl.store: dst {into!r} is on chip (err_unsupported_memory)",
            operand="dst",
            found=into.space,
            limit="hbm",
            fix="assign with dst[...] = value",
        )
    if isinstance(value, _NUMBERS):
        move(into, value)
        return
    held = tile_of(value, "value", "nl.store")
    if chooser is not None and (held.shape == target.shape or prod(held.shape) != prod(into.shape)):
        if isinstance(chooser, np.ndarray):
            held = held.pick(chooser.reshape(held.shape)) if prod(held.shape) == chooser.size else held
        else:
            held = held.narrow(chooser)
    _store(core, into, held)


def _store(core: Core, into: Tile, held: Tile) -> None:
    if held.buffer.space == "psum":
        copied = new_tile(core, held.shape, into.dtype)
        vector.tensor_copy(copied, held)
        held = copied
    if held.size != into.size:
        held = fitted(held, into.shape)
    dma.dma_copy(into, held)


def dma_copy(
    *,
    dst: Any,
    src: Any,
    mask: Any = None,
    dst_rmw_op: Any = None,
    oob_mode: Any = oob_modes.error,
    dge_mode: Any = dge_modes.unknown,
    **kwargs: Any,
) -> None:
    """Copy between HBM and SBUF (or within them) by DMA.

    Args:
        dst, src: views with equal element counts; rows may be picked by an index tile.
        mask: which elements to copy.
        dst_rmw_op: `np.add` adds to dst instead of overwriting.
        oob_mode: `error` stops at an index out of range, `skip` leaves those elements alone.
        dge_mode: who makes the descriptors.
    """
    unknown("nisa.dma_copy", kwargs)
    begin()
    target, data = tile_of(dst, "dst", "nisa.dma_copy"), tile_of(src, "src", "nisa.dma_copy")
    chooser = resolve(mask, target.shape)
    if is_empty(chooser):
        return
    into, read = apart(target, chooser), source(data, chooser)
    skip = getattr(oob_mode, "name", oob_mode) == "skip"
    for tile in (into, read):
        if type(tile) is PickedTile:
            tile.skip = skip
    if type(read) is PickedTile and skip and not read.known and context.current().data:
        _, keep = read.locate(True)
        if keep is not None:
            into = into.pick(keep.reshape(into.shape))
    dma.dma_copy(into, read, oob_mode=oob_mode, dge_mode=dge_mode, dst_rmw_op=dst_rmw_op)


def dma_transpose(
    src: Any, *, axes: Any = None, mask: Any = None, dtype: Any = None, dge_mode: Any = dge_modes.unknown, **kwargs: Any
) -> Any:
    """A new SBUF tile with src's axes permuted: (1, 0), (2, 1, 0) or (3, 1, 2, 0)."""
    unknown("nisa.dma_transpose", kwargs)
    core = begin()
    data = tile_of(src, "src", "nisa.dma_transpose")
    order = (
        tuple(int(a) for a in axes) if axes is not None else {2: (1, 0), 3: (2, 1, 0), 4: (3, 1, 2, 0)}.get(data.ndim)
    )
    if order is None or len(order) != data.ndim:
        context.fail(
            "KW-DMA-TRANSPOSE-AXES",
            f"nisa.dma_transpose: a {data.ndim}-D source can't be transposed by axes={axes}",
            operand="axes",
            found=str(axes),
            limit="(1, 0), (2, 1, 0), (3, 1, 2, 0)",
            fix="use one of these permutations, or transpose in two steps",
        )
    chooser = resolve(mask, data.shape)
    if isinstance(chooser, np.ndarray):
        context.unsupported("nisa.dma_transpose with a mask that is no rectangle")
    read = source(data, chooser)
    permuted = tuple(data.shape[a] for a in order)
    box = None if chooser is None else () if is_empty(chooser) else tuple(chooser[a] for a in order)
    return defer(
        core,
        permuted,
        data.dtype if dtype is None else dtype_of(dtype),
        lambda dst: dma.dma_transpose(dst, read, order, dge_mode=dge_mode),
        spaces=SBUF_ONLY,
        explicit=dtype is not None,
        chooser=box,
    )


def atomic_rmw(dst: Any, value: Any, op: Any, *, mask: Any = None, **kwargs: Any) -> None:
    """dst = dst op value, elementwise in HBM; rows of dst may be picked by an index tile."""
    unknown("nl.atomic_rmw", kwargs)
    core = begin()
    if isinstance(value, _NUMBERS):
        target = tile_of(dst, "dst", "nl.atomic_rmw")
        held = new_tile(core, target.shape, target.dtype)
        vector.memset(held, value)
        value = held
    dma_copy(dst=dst, src=value, mask=mask, dst_rmw_op=op)


def device_print(prefix: str, x: Any = None, *, mask: Any = None, **kwargs: Any) -> None:
    """Print a tile's values."""
    unknown("nl.device_print", kwargs)
    core = begin()
    values = x
    if isinstance(x, Tensor):
        tile = tile_of(x, "x", "nl.device_print")
        chooser = resolve(mask, tile.shape)
        if is_empty(chooser):
            return
        values = source(tile, chooser).read() if core.data else tile
    core.launch.printed.append(f"{prefix} {values}")
    print(prefix, values)


def unknown(api: str, kwargs: dict[str, Any]) -> None:
    """Refuse keyword arguments that an API doesn't have; `name` is a label without effect."""
    for extra in kwargs:
        if extra != "name":
            context.fail(
                "KW-ARGUMENT",
                f"{api} has no argument {extra!r}",
                operand=extra,
                fix="remove it; see the Beta-1 API reference",
            )
