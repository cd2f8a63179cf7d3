"""Tensors with block dimensions: many on-chip tiles under one name, each allocated when it is first used."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tools.sim import context
from tools.sim.core import Core
from tools.sim.dtypes import DType
from tools.sim.frontend.beta1.index import Index, LoopIndex
from tools.sim.frontend.beta1.promotion import dtype_of
from tools.sim.frontend.beta1.tile import Tile, assign
from tools.sim.loops import Frozen

Placer = Callable[[tuple[int, ...]], tuple[int, int] | None]
"""Gives the (partition, byte) address of a block, or None when the allocator decides."""


_KNOWN_VIEWS = 2048
"""Subscripts that a block tensor remembers."""
_PLAIN_KINDS: dict[tuple[type, ...], bool] = {}
"""Whether subscripts of these types mean the same view whenever they are equal (and can be looked up)."""


def _plain(kinds: tuple[type, ...]) -> bool:
    found = _PLAIN_KINDS.get(kinds)
    if found is None:
        if len(_PLAIN_KINDS) > 4096:
            _PLAIN_KINDS.clear()
        found = _PLAIN_KINDS[kinds] = Index in kinds and all(k in (int, LoopIndex, Index) for k in kinds)
    return found


class TileStore:
    """The tiles of one block tensor, by running number; `views` are parts of them that were asked for, by subscript."""

    __slots__ = ("blocks", "core", "dtype", "fill", "later", "name", "placer", "space", "tile_shape", "tiles", "views")

    def __init__(
        self,
        core: Core,
        blocks: tuple[int, ...],
        tile_shape: tuple[int, ...],
        dtype: DType,
        space: str,
        name: str,
        placer: Placer | None,
        fill: Callable[[Tile], None] | None,
    ) -> None:
        self.core = core
        self.blocks = blocks
        self.tile_shape = tile_shape
        self.dtype = dtype
        self.space = space
        self.name = name
        self.placer = placer
        self.fill = fill
        self.tiles: dict[int, Tile] = {}
        self.later: dict[int, tuple[int, Frozen]] = {}
        """Tiles whose instructions were derived from other iterations: buffer and state, until something asks for them."""
        self.views: dict[Any, Tile] = {}

    def tile(self, at: int) -> Tile:
        """Tile number `at`, allocated now if need be."""
        found = self.tiles.get(at)
        if found is None:
            late = self.later.pop(at, None) if self.later else None
            if late is not None:
                number, state = late
                found = self.tiles[at] = state.thaw(number, self.address(at))
                return found
            made = self.core.allocate(self.tile_shape, self.dtype, self.space, name=self.name, address=self.address(at))
            assert isinstance(made, Tile)
            found = self.tiles[at] = made
            if self.core.recorder is not None:
                self.core.recorder.note_block(made.buffer.id, self, at)
            if self.fill is not None:
                self.fill(found)
        return found

    def address(self, at: int) -> tuple[int, int] | None:
        """Where the kernel places tile number `at`, or None."""
        if self.placer is None:
            return None
        return self.placer(tuple(int(i) for i in np.unravel_index(at, self.blocks)))

    def known(self, at: int) -> int | None:
        """Buffer of tile number `at`, or None when it isn't allocated."""
        found = self.tiles.get(at)
        if found is not None:
            return found.buffer.id
        late = self.later.get(at)
        return None if late is None else late[0]


class CastStore(TileStore):
    """The tiles of another store, seen as another type."""

    __slots__ = ("origin",)

    def __init__(self, origin: TileStore, dtype: DType) -> None:
        *dims, last = origin.tile_shape
        shape = (*dims, last * origin.dtype.itemsize // dtype.itemsize)
        super().__init__(origin.core, origin.blocks, shape, dtype, origin.space, origin.name, None, None)
        self.origin = origin

    def tile(self, at: int) -> Tile:
        found = self.tiles.get(at)
        if found is None:
            found = self.tiles[at] = self.origin.tile(at).view(self.dtype)
        return found


class BlockTensor:
    """Tiles [*blocks, P, F...]; integer subscripts for all block dimensions give a tile.

    The compiler allocates each block by itself, so each is a buffer of its own, made at its first use.

    Attributes:
        shape: all dimensions, blocks first.
        blocks: sizes of the block dimensions.
        numbers: which tiles of the store this is, shaped like `blocks`; None for all of them.
    """

    __slots__ = ("blocks", "numbers", "shape", "store")
    __array_ufunc__ = None

    def __init__(self, store: TileStore, numbers: NDArray[np.int64] | None = None) -> None:
        self.store = store
        self.numbers = numbers
        self.blocks: tuple[int, ...] = store.blocks if numbers is None else numbers.shape
        self.shape = (*self.blocks, *store.tile_shape)

    @property
    def dtype(self) -> DType:
        """Element type."""
        return self.store.dtype

    @property
    def space(self) -> str:
        """`sbuf` or `psum`."""
        return self.store.space

    @property
    def ndim(self) -> int:
        """Number of dimensions, blocks included."""
        return len(self.shape)

    @property
    def itemsize(self) -> int:
        """Bytes of one element."""
        return self.dtype.itemsize

    @property
    def name(self) -> str:
        """Name given at allocation."""
        return self.store.name

    def __repr__(self) -> str:
        return f"{self.name or 'tensor'}[{'x'.join(map(str, self.shape))} {self.dtype} {self.space}]"

    def __len__(self) -> int:
        return self.shape[0]

    def __iter__(self) -> Iterator[Any]:
        return (self[i] for i in range(self.shape[0]))

    def view(self, dtype: Any) -> BlockTensor:
        """The same bytes seen as another type."""
        return BlockTensor(CastStore(self.store, dtype_of(dtype)), self.numbers)

    def tiles(self) -> list[Tile]:
        """Every tile, in order."""
        numbers = range(prod(self.blocks)) if self.numbers is None else self.numbers.reshape(-1)
        return [self.store.tile(int(at)) for at in numbers]

    def __getitem__(self, key: Any) -> Any:
        if type(key) is not tuple:
            key = tuple(key) if isinstance(key, tuple) else (key,)
        store = self.store
        views = None
        if self.numbers is None and _plain(tuple(map(type, key))):
            views = store.views
            found = views.get(key)
            if found is not None:
                return found
        blocks = self.blocks
        count = len(blocks)
        if len(key) < count:
            return self._part(key)
        at = 0
        for k, n in zip(key, blocks):
            if type(k) is not LoopIndex and not isinstance(k, int):
                if (
                    isinstance(k, Index)
                    and k.values is None
                    and all(s == 0 or m == 1 for s, m in zip(k.steps, k.shape))
                ):
                    k = k.offset  # one block, written as an index of one element: nl.mgrid[0:1, 0:64]
                elif isinstance(k, np.integer) or hasattr(k, "__index_value__"):
                    k = context.index_value(k)
                else:
                    return self._part(key)
            i = k + n if k < 0 else k
            if not 0 <= i < n:
                context.fail(
                    "KW-OUT-OF-BOUNDS",
                    f"index {int(k)} is outside a block dimension (size {n}) of {self!r} (err_tensor_access_out_of_bound)",
                    operand=self.name,
                    found=int(k),
                    limit=n - 1,
                    fix="check the loop bounds",
                )
            at = at * n + i
        if self.numbers is not None:
            at = int(self.numbers.reshape(-1)[at])
        tile = store.tiles.get(at)
        if tile is None:
            tile = store.tile(at)
        rest = key[count:]
        if not rest:
            return tile
        part = tile[rest]
        if views is not None and type(part) is Tile:
            if len(views) >= _KNOWN_VIEWS:
                views.clear()
            views[key] = part
        return part

    def _part(self, key: tuple[Any, ...]) -> BlockTensor:
        """Fewer subscripts than block dimensions, or slices of them: a smaller tensor of the same tiles."""
        dots = [i for i, k in enumerate(key) if k is Ellipsis]
        if dots:
            key = key[: dots[0]] + (slice(None),) * (self.ndim - len(key) + 1) + key[dots[0] + 1 :]
        lead, rest = key[: len(self.blocks)], key[len(self.blocks) :]
        if not all(isinstance(k, int | np.integer | slice) for k in lead):
            context.fail(
                "KW-BLOCK-INDEX",
                f"several blocks of {self!r} are indexed at a time (err_failed_to_infer_tile_from_local_tensor)",
                operand=self.name,
                fix="index block dimensions with integers, in a loop",
            )
        if rest and not all(
            isinstance(k, slice) and k in (slice(None), slice(0, n)) for k, n in zip(rest, self.store.tile_shape)
        ):
            context.fail(
                "KW-BLOCK-INDEX",
                f"a subscript of {self!r} leaves block dimensions in front of the partition dimension "
                "(err_leading_dimension_of_tensor_must_be_partition)",
                operand=self.name,
                fix="index block dimensions with integers, in a loop",
            )
        numbers = self.numbers
        if numbers is None:
            numbers = np.arange(prod(self.blocks), dtype=np.int64).reshape(self.blocks)
        return BlockTensor(self.store, np.asarray(numbers[lead]))

    def __setitem__(self, key: Any, value: Any) -> None:
        target = self[key]
        if isinstance(target, Tile):
            assign(target, value)
        elif isinstance(value, BlockTensor):
            if value.blocks != target.blocks:
                context.fail(
                    "KW-SHAPE-MISMATCH",
                    f"{value!r} can't be assigned to {target!r}",
                    found=list(value.shape),
                    limit=list(target.shape),
                    fix="slice both sides to the same shape",
                )
            for mine, theirs in zip(target.tiles(), value.tiles()):
                if mine is not theirs:
                    assign(mine, theirs)
        else:
            for tile in target.tiles():
                assign(tile, value)
