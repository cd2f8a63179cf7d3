"""Allocation in Beta 1: `nl.ndarray` and kin, partition and block dimensions, and direct allocation (`ncc.sbuf.alloc`)."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from math import prod
from typing import Any

import numpy as np

from tools.sim import context, dtypes
from tools.sim.core import Core
from tools.sim.dtypes import DType
from tools.sim.frontend import language
from tools.sim.frontend.beta1.blocks import BlockTensor, Placer, TileStore
from tools.sim.frontend.beta1.promotion import dtype_of
from tools.sim.frontend.beta1.tile import Rankless, Tile, begin
from tools.sim.isa import randomness, vector
from tools.sim.tensor import Tensor

Address = tuple[int, int]
_HBM = {"hbm": "hbm", "shared_hbm": "shared_hbm", "private_hbm": "private_hbm"}


class PartitionDim(int):
    """`nl.par_dim(n)`: marks the partition dimension of a shape; dimensions before it are blocks."""


def par_dim(size: Any) -> PartitionDim:
    """Mark a dimension of a shape as the partition dimension."""
    return PartitionDim(context.index_value(size))


class Placement:
    """A buffer that says where each block lies: `ncc.sbuf.alloc(...)`, `ncc.psum.mod_alloc(...)`.

    Attributes:
        space: `sbuf` or `psum`.
        place: (block index, partitions, bytes a partition) to (start partition, byte in the partition).
    """

    def __init__(self, space: str, place: Callable[[tuple[int, ...], int, int], Address] | None) -> None:
        self.space = space
        self.place = place

    def __str__(self) -> str:
        return self.space


def _modulo(index: tuple[int, ...], sizes: tuple[int, ...], what: str) -> int:
    """Running number of a block among `sizes` tiles used in rotation."""
    if not sizes:
        return 0
    if len(sizes) != len(index):
        context.fail(
            "KW-ALLOCATION",
            f"{what}={sizes} has {len(sizes)} numbers for {len(index)} block dimensions",
            operand=what,
            found=len(sizes),
            limit=len(index),
            fix="give one number a block dimension, or none",
        )
    number = 0
    for i, n in zip(index, sizes):
        number = number * int(n) + i % int(n)
    return number


def _ask(func: Callable[..., Any], index: tuple[int, ...], partitions: int, nbytes: int) -> Any:
    """Call a kernel's placement function, by its documented parameter names where it has them."""
    try:
        names = inspect.signature(func).parameters
    except (TypeError, ValueError):
        names = {}  # type: ignore[assignment]
    if {"idx", "pdim_size", "fdim_size"} <= set(names):
        return func(idx=index, pdim_size=partitions, fdim_size=nbytes)
    return func(index, partitions, nbytes)


class _SbufAllocator(language.Memory):
    """`ncc.sbuf`: usable as a buffer itself (automatic allocation), and maker of explicit placements."""

    __slots__ = ()

    @staticmethod
    def auto_alloc() -> language.Memory:
        """Let the compiler decide."""
        return language.sbuf

    @staticmethod
    def alloc(func: Callable[[tuple[int, ...], int, int], Any]) -> Placement:
        """Place each block where func(block index, partitions, bytes a partition) -> (start partition, byte) says."""

        def place(index: tuple[int, ...], partitions: int, nbytes: int) -> Address:
            start, byte = _ask(func, index, partitions, nbytes)
            return int(start), int(byte)

        return Placement("sbuf", place)

    @staticmethod
    def mod_alloc(
        *,
        base_addr: int,
        base_partition: int = 0,
        num_par_tiles: tuple[int, ...] = (),
        num_free_tiles: tuple[int, ...] = (),
    ) -> Placement:
        """Place blocks in rotation over `num_par_tiles` by `num_free_tiles` tiles from the base address on."""

        def place(index: tuple[int, ...], partitions: int, nbytes: int) -> Address:
            return (
                int(base_partition) + _modulo(index, num_par_tiles, "num_par_tiles") * partitions,
                int(base_addr) + _modulo(index, num_free_tiles, "num_free_tiles") * nbytes,
            )

        return Placement("sbuf", place)


class _PsumAllocator(language.Memory):
    """`ncc.psum`: usable as a buffer itself (automatic allocation), and maker of explicit placements by bank."""

    __slots__ = ()

    @staticmethod
    def auto_alloc() -> language.Memory:
        """Let the compiler decide."""
        return language.psum

    @staticmethod
    def alloc(func: Callable[[tuple[int, ...], int, int], Any]) -> Placement:
        """Place each block where func(block index, partitions, bytes) -> (bank, start partition, byte in bank) says."""

        def place(index: tuple[int, ...], partitions: int, nbytes: int) -> Address:
            bank, start, byte = _ask(func, index, partitions, nbytes)
            return int(start), int(bank) * _bank_bytes() + int(byte)

        return Placement("psum", place)

    @staticmethod
    def mod_alloc(
        *,
        base_bank: int,
        base_addr: int = 0,
        base_partition: int = 0,
        num_bank_tiles: tuple[int, ...] = (),
        num_par_tiles: tuple[int, ...] = (),
        num_free_tiles: tuple[int, ...] = (),
    ) -> Placement:
        """Place blocks in rotation over banks, and over partitions and bytes inside a bank."""

        def place(index: tuple[int, ...], partitions: int, nbytes: int) -> Address:
            bank = int(base_bank) + _modulo(index, num_bank_tiles, "num_bank_tiles")
            byte = int(base_addr) + _modulo(index, num_free_tiles, "num_free_tiles") * nbytes
            start = int(base_partition) + _modulo(index, num_par_tiles, "num_par_tiles") * partitions
            return start, bank * _bank_bytes() + byte

        return Placement("psum", place)


def _bank_bytes() -> int:
    return int(context.current().machine.psum_bank_bytes)


sbuf_allocator = _SbufAllocator("sbuf")
psum_allocator = _PsumAllocator("psum")


def _shape(shape: Any) -> tuple[tuple[int, ...], int]:
    """(sizes, partition axis) of a shape argument."""
    dims = shape if isinstance(shape, tuple | list) else (shape,)
    axis = 0
    for i, n in enumerate(dims):
        if isinstance(n, PartitionDim):
            axis = i
    return tuple(context.index_value(n) for n in dims), axis


def _hints(api: str, kwargs: dict[str, Any]) -> None:
    for extra in kwargs:
        if extra != "lazy_initialization":
            context.fail("KW-ARGUMENT", f"{api} has no argument {extra!r}", operand=extra, fix="remove it")


def _allocate(
    shape: Any, dtype: Any, buffer: Any, name: str, fill: Callable[[Tile], None] | None = None
) -> Tile | BlockTensor | Rankless:
    core = begin()
    sizes, axis = _shape(shape)
    kind = dtype_of(dtype)
    space = "sbuf" if buffer is None else str(buffer)
    if space in _HBM:
        return _hbm(core, sizes, kind, space, name)
    if space not in ("sbuf", "psum"):
        context.fail(
            "KW-BUFFER",
            f"buffer={buffer!r} is no memory",
            operand="buffer",
            fix="use nl.sbuf, nl.psum, nl.hbm, nl.shared_hbm or nl.private_hbm",
        )
    if len(sizes) - axis < 2:
        rankless = Rankless(sizes, name)
        if fill is not None or not sizes:
            rankless.refuse()
        return rankless
    placer: Placer | None = None
    if isinstance(buffer, Placement) and buffer.place is not None:
        nbytes = prod(sizes[axis + 1 :]) * kind.itemsize
        place = buffer.place
        partitions = sizes[axis]
        placer = lambda index: place(index, partitions, nbytes)  # noqa: E731
        core.placed = True
    if fill is not None and fill is not _blank and core.placed:
        context.strict_fail(
            "KW-STRICT-ALLOCATED",
            f"err_tensor_creation_on_scratchpad_with_init_value_not_supported: {name or 'this tensor'} is created with a "
            "value in a kernel that places its tensors itself",
            operand=name,
            limit="nl.ndarray",
            fix="create it with nl.ndarray and assign the value: t[...] = 0",
        )
    if axis:
        if any(n < 1 for n in sizes):
            context.fail(
                "KW-SHAPE",
                f"shape {sizes} must have only sizes of 1 or more",
                found=str(sizes),
                fix="make every dimension 1 or more; skip the iteration when nothing is left to do",
            )
        return BlockTensor(TileStore(core, sizes[:axis], sizes[axis:], kind, space, name or "", placer, fill))
    tile = core.allocate(sizes, kind, space, name=name or "", address=placer(()) if placer is not None else None)
    assert isinstance(tile, Tile)
    if fill is not None:
        fill(tile)
    return tile


def _hbm(core: Core, sizes: tuple[int, ...], kind: DType, space: str, name: str) -> Tile:
    """A tensor in HBM. All instances of a grid see the same one as their n-th allocation, unless it is private."""
    launch = core.launch
    nth = core.shared_count
    if space != "private_hbm" and prod(launch.grid or (1,)) > 1:
        core.shared_count += 1
        if nth < len(launch.shared):
            found = launch.shared[nth]
            if found.shape == sizes and found.dtype is kind:
                assert isinstance(found, Tile)
                return found
    made = core.allocate(sizes, kind, space, name=name or "", role="shared" if space == "shared_hbm" else "local")
    assert isinstance(made, Tile)
    if nth == len(launch.shared) and core.shared_count > nth:
        launch.shared.append(made)
    return made


def ndarray(shape: Any, dtype: Any, buffer: Any = None, name: str = "", **kwargs: Any) -> Any:
    """A new, uninitialised tensor.

    Args:
        shape: sizes; on chip the dimension marked by `par_dim` (else the first) is the partition dimension, those before
            it are blocks.
        dtype: element type.
        buffer: `nl.sbuf` (default), `nl.psum`, a kind of HBM, or an explicit placement of `nki.compiler`.
    """
    _hints("nl.ndarray", kwargs)
    return _allocate(shape, dtype, buffer, name)


def _no_initialised_hbm(api: str, buffer: Any) -> None:
    if buffer is not None and str(buffer) in _HBM:
        context.fail(
            "KW-HBM-INIT",
            f"{api} can't make an HBM tensor with an initial value (err_hbm_tensor_with_init_value_not_supported)",
            operand="buffer",
            fix="make it with nl.ndarray and nl.store a tile of that value into it",
        )


def full(shape: Any, fill_value: Any, dtype: Any, buffer: Any = None, name: str = "", **kwargs: Any) -> Any:
    """A new on-chip tensor filled with one value."""
    _hints("nl.full", kwargs)
    _no_initialised_hbm("nl.full", buffer)

    def fill(tile: Tile) -> None:
        vector.memset(tile, fill_value)
        if tile.buffer.space == "psum":
            tile.buffer.from_data = True

    return _allocate(shape, dtype, buffer, name, fill)


def zeros(shape: Any, dtype: Any, buffer: Any = None, name: str = "", **kwargs: Any) -> Any:
    """A new on-chip tensor of zeros. In PSUM no instruction is needed: the first matmul of a group overwrites."""
    _hints("nl.zeros", kwargs)
    _no_initialised_hbm("nl.zeros", buffer)
    if buffer is not None and str(buffer) == "psum":
        return _allocate(shape, dtype, buffer, name, _blank)
    return full(shape, 0, dtype, buffer, name)


def _blank(tile: Tile) -> None:
    buffer = tile.buffer
    if buffer.data is not None:
        buffer.data[:] = 0
    buffer.pending = False


def ones(shape: Any, dtype: Any, buffer: Any = None, name: str = "", **kwargs: Any) -> Any:
    """A new on-chip tensor of ones."""
    _hints("nl.ones", kwargs)
    return full(shape, 1, dtype, buffer, name)


def _like(a: Any, buffer: Any) -> Any:
    return buffer if buffer is not None else a.space


def zeros_like(a: Any, dtype: Any = None, buffer: Any = None, name: str = "", **kwargs: Any) -> Any:
    """A tensor of zeros with a's shape."""
    return zeros(a.shape, a.dtype if dtype is None else dtype, _like(a, buffer), name, **kwargs)


def empty_like(a: Any, dtype: Any = None, buffer: Any = None, name: str = "", **kwargs: Any) -> Any:
    """An uninitialised tensor with a's shape."""
    return ndarray(a.shape, a.dtype if dtype is None else dtype, _like(a, buffer), name, **kwargs)


def rand(shape: Any, dtype: Any = np.float32, **kwargs: Any) -> Any:
    """A new SBUF tile of uniform random numbers in [0, 1)."""
    _hints("nl.rand", kwargs)
    return _allocate(shape, dtype, None, "", lambda tile: randomness.draw_uniform(tile, 0.0, 1.0, "nl.rand"))


def shared_constant(constant: Any, dtype: Any = None, **kwargs: Any) -> Tensor:
    """An HBM tensor with fixed contents."""
    _hints("nl.shared_constant", kwargs)
    begin()
    return language.shared_constant(np.asarray(constant), dtype)


def shared_identity_matrix(n: int, dtype: Any = dtypes.uint8, **kwargs: Any) -> Tensor:
    """An n-by-n identity matrix as a constant in HBM."""
    _hints("nl.shared_identity_matrix", kwargs)
    begin()
    size = context.index_value(n)
    return language.shared_constant(np.eye(size, dtype=np.float32).astype(dtype_of(dtype).storage))
