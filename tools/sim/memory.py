"""Byte arenas with a written-map: HBM, SBUF and PSUM as the kernel sees them.

An on-chip buffer is bytes [partitions, row_bytes]; an HBM buffer is flat. A buffer knows which of its bytes were ever
written, so that reading the rest can be named instead of silently computing with garbage.
"""

from __future__ import annotations

import sys
from math import gcd
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tools.sim.dtypes import DType

if TYPE_CHECKING:
    from tools.sim.tensor import Tensor

ON_CHIP = ("sbuf", "psum")
_HBM = ("hbm", "private_hbm")
_POOLED = range(1 << 15, 1 << 26)
"""Sizes in bytes that are worth keeping: smaller ones come from the heap, larger ones are few."""
_MOST_POOLED = 1 << 28
POISON_BYTE = 0xFF
"""Fills bytes that were never written when something reads them: NaN in every float format that has one."""


class _Pool:
    """Memory of tiles that are gone, by size: a page that was used before costs no fault and may still be in the cache."""

    def __init__(self) -> None:
        self.free: dict[int, list[NDArray[np.uint8]]] = {}
        self.held = 0

    def take(self, nbytes: int) -> NDArray[np.uint8]:
        """Undefined bytes [nbytes]."""
        try:
            found = self.free[nbytes].pop()
        except (KeyError, IndexError):
            return np.empty(nbytes, np.uint8)
        self.held -= nbytes
        return found

    def give(self, memory: NDArray[np.uint8]) -> None:
        """Keep memory that nothing refers to any more."""
        nbytes = memory.size
        if nbytes in _POOLED and self.held + nbytes <= _MOST_POOLED:
            self.held += nbytes
            self.free.setdefault(nbytes, []).append(memory)


_pool = _Pool()


class Coverage:
    """Which bytes of a buffer were written, kept as coarsely as the views allow; needs no data.

    Attributes:
        granule: bytes that one entry of the map stands for.
        map: 1 where written.
        missing: entries that are 0.
    """

    __slots__ = ("granule", "map", "missing")

    def __init__(self, nbytes: int) -> None:
        self.granule = nbytes
        self.map = np.zeros(1, np.uint8)
        self.missing = 1

    def add(self, view: Tensor) -> bool:
        """Note that a view was written; False when its form isn't understood."""
        part = self._part(view)
        if part is None:
            return False
        if 0 not in part.strides:
            self.missing -= part.size - int(np.count_nonzero(part))
        part[...] = 1
        if 0 in part.strides:
            self.missing = int(self.map.size - np.count_nonzero(self.map))
        return True

    def covers(self, view: Tensor) -> bool:
        """Whether all of a view was written."""
        part = self._part(view)
        return part is not None and bool(part.all())

    def _part(self, view: Tensor) -> NDArray[np.uint8] | None:
        item = view.dtype.itemsize
        run = 1
        outer: list[tuple[int, int]] = []
        for stride, n in sorted((s, n) for n, s in zip(view.shape, view.strides) if n > 1):
            if stride < 0:
                return None
            if stride == run and not outer:
                run *= n
            else:
                outer.append((n, stride * item))
        run, start = run * item, view.offset * item
        granule = gcd(self.granule, start, run, *(stride for _, stride in outer))
        if granule != self.granule:
            self.map = np.repeat(self.map, self.granule // granule)
            self.missing *= self.granule // granule
            self.granule = granule
        return np.ndarray(
            (*[n for n, _ in outer], run // granule),
            np.uint8,
            self.map,
            start // granule,
            (*[stride // granule for _, stride in outer], 1),
        )


class Buffer:
    """One allocation.

    Attributes:
        id: index into the trace's buffer table.
        space: `sbuf`, `psum`, `hbm`, `shared_hbm` or `private_hbm`.
        partitions: rows on chip, 1 in HBM.
        row_bytes: bytes per partition (HBM: all of them).
        data: uint8 bytes, or None in shapes-only runs.
        pending: whether some byte may never have been written.
        cells: rectangles written so far, by their corner, while all of them fit one grid (the usual case: tiles); a
            byte map takes over when they don't.
        cache: decoded float32 copies of views, dropped at each write.
        coverage: what was written, in a run without data whose writes fit no grid.
        from_data: PSUM only: other engines' data may be accumulated onto without a warning (Beta 1 zeros).
        groups: PSUM only: regions that hold a running accumulation, by (offset, shape, strides, itemsize) of the view.
    """

    __slots__ = (
        "__weakref__", "address", "area", "cache", "cells", "core", "coverage", "data", "dtype", "from_data", "grid", "groups", "host", "id", "line", "name",
        "on_chip", "partitions", "pending", "role", "row_bytes", "shape", "space", "storage", "unwritten", "written",
    )  # fmt: skip

    def __init__(
        self,
        id: int,
        space: str,
        name: str,
        shape: tuple[int, ...],
        dtype: DType,
        partitions: int,
        row_bytes: int,
        *,
        line: int = -1,
        core: int = 0,
        role: str = "local",
        address: tuple[int, int] | None = None,
        storage: np.dtype[Any] | None = None,
    ) -> None:
        self.id = id
        self.space = space
        self.on_chip = space in ON_CHIP
        self.name = name
        self.shape = shape
        self.dtype = dtype
        self.partitions = partitions
        self.row_bytes = row_bytes
        self.line = line
        self.core = core
        self.role = role
        self.address = address
        self.storage = storage if storage is not None else dtype.storage
        self.data: NDArray[np.uint8] | None = None
        self.pending = True
        self.unwritten = partitions * row_bytes
        self.written: NDArray[np.uint8] | None = None
        self.cells: dict[tuple[int, int], tuple[int, int]] = {}
        self.grid = (0, 0)
        self.area = 0
        self.cache: dict[Any, NDArray[Any]] | None = None
        self.coverage: Coverage | None = None
        self.groups: dict[Any, Any] | None = None
        self.from_data = False
        self.host: NDArray[Any] | None = None

    def __eq__(self, other: object) -> bool:
        """Kernels ask `tensor.buffer == nl.sbuf`: a buffer equals the name of the memory that it lies in, and another
        buffer in that memory. An argument of the kernel answers to every name of HBM: it is `nl.hbm` to one core and
        shared by two (NKI language guide)."""
        if isinstance(other, str):
            if other == self.space or (other in _HBM and self.space in _HBM):
                return True
            return self.role == "input" and other in (*_HBM, "shared_hbm")
        if isinstance(other, Buffer):
            return self is other or self == other.space or other == self.space
        return NotImplemented

    __hash__ = object.__hash__

    def __str__(self) -> str:
        return self.space

    @property
    def scale(self) -> int:
        """Storage bytes per logical byte: 1, or more in exact mode, where low-precision types are kept as float32."""
        return self.storage.itemsize // self.dtype.itemsize if self.dtype.itemsize else 1

    def allocate(self) -> None:
        """Take memory; contents are undefined until written."""
        nbytes = self.partitions * self.row_bytes
        if self.storage.itemsize != self.dtype.itemsize:
            nbytes = nbytes // self.dtype.itemsize * self.storage.itemsize
        self.data = _pool.take(max(nbytes, 1))

    def materialise(self) -> None:
        """Take memory if there is none, and keep account of what was written by bytes: from here on there are data."""
        if self.data is None:
            self.allocate()
        coverage = self.coverage
        if coverage is not None:
            self.written = np.repeat(coverage.map, coverage.granule)
            self.unwritten = coverage.missing * coverage.granule
            self.coverage = None

    def __del__(self) -> None:
        data = self.data
        if data is not None and self.host is None and sys.getrefcount(data) == 3:  # this name, the slot, the argument
            _pool.give(data)

    def adopt(self, array: NDArray[Any]) -> None:
        """Use the bytes of a contiguous host array, which then sees every write."""
        self.data = array.reshape(-1).view(np.uint8) if array.size else np.empty(1, np.uint8)
        self.host = array
        self.pending = False

    def mark(self, view: Tensor) -> None:
        """Note that all elements of `view` now hold values."""
        nbytes = view.size * view.dtype.itemsize
        total = self.partitions * self.row_bytes
        if self.coverage is not None:
            self._cover(view)
            return
        if self.written is None:
            if nbytes >= total == self.unwritten and 0 not in view.strides:
                self.pending = False
                return
            if self._mark_cell(view, nbytes):
                if self.area >= total:
                    self.pending = False
                    self.cells = {}
                return
            if self.data is None:
                self._cover(view)
                return
            self._make_map()
        assert self.written is not None
        view.map_view(self.written)[...] = 1
        self.unwritten -= nbytes
        if self.unwritten <= 0:
            if self.written.all():
                self.pending = False
                self.written = None
            else:
                self.unwritten = int(self.written.size - np.count_nonzero(self.written)) // self.scale

    def _mark_cell(self, view: Tensor, nbytes: int) -> bool:
        """Note a written rectangle if it is a cell of the grid that the first one spans."""
        row0, row1, byte0, byte1, _ = view.region()
        if (row1 - row0) * (byte1 - byte0) != nbytes or view.rows is not None:
            return False
        return self._mark_rectangle(row0, row1, byte0, byte1)

    def covers(self, view: Tensor) -> bool:
        """Whether all of a view is known to be written, in a run without data."""
        if not self.pending:
            return True
        if self.coverage is not None:
            return self.coverage.covers(view)
        return bool(self.cells) and self._cells_cover(view)

    def _cover(self, view: Tensor) -> None:
        """Note a view that is no cell, in a run without data."""
        from tools.sim.tensor import Tensor

        if self.coverage is None:
            self.coverage = Coverage(self.partitions * self.row_bytes)
            item, row = self.dtype.itemsize, self.natural_row
            for (row0, byte0), (row1, byte1) in self.cells.items():
                shape, strides = (row1 - row0, (byte1 - byte0) // item), (row // item, 1)
                self.coverage.add(Tensor(self, shape, self.dtype, (row0 * row + byte0) // item, strides))
            self.cells = {}
        if self.coverage.add(view) and not self.coverage.missing:
            self.pending = False
            self.coverage = None

    def _mark_rectangle(self, row0: int, row1: int, byte0: int, byte1: int) -> bool:
        height, width = row1 - row0, byte1 - byte0
        nbytes = height * width
        if not self.cells:
            self.grid = (height, width)
        rows, columns = self.grid
        if row0 % rows or byte0 % columns or height > rows or width > columns:
            return False
        before = self.cells.get((row0, byte0))
        if before is None:
            self.cells[row0, byte0] = (row1, byte1)
            self.area += nbytes
            return True
        return before == (row1, byte1)

    def _cells_cover(self, view: Tensor) -> bool:
        """Whether the written cells cover the whole rectangle that bounds `view`."""
        row0, row1, byte0, byte1, _ = view.region()
        rows, columns = self.grid
        cells = self.cells
        for row in range(row0 // rows * rows, row1, rows):
            for byte in range(byte0 // columns * columns, byte1, columns):
                cell = cells.get((row, byte))
                if cell is None or cell[0] < min(row1, row + rows) or cell[1] < min(byte1, byte + columns):
                    return False
        return True

    def _make_map(self) -> None:
        """Trade the cells for a byte map."""
        assert self.data is not None
        self.written = np.zeros(self.data.size, np.uint8)
        row_bytes = self.natural_row * self.scale
        rows = self.written[: self.written.size // row_bytes * row_bytes].reshape(-1, row_bytes)
        for (row0, byte0), (row1, byte1) in self.cells.items():
            rows[row0:row1, byte0 * self.scale : byte1 * self.scale] = 1
        self.unwritten -= self.area
        self.cells = {}

    @property
    def natural_row(self) -> int:
        """Bytes of the rows that regions count in: a partition on chip, the last dimension in HBM."""
        if self.on_chip or len(self.shape) < 2:
            return self.row_bytes
        return self.shape[-1] * self.dtype.itemsize

    def unwritten_in(self, view: Tensor) -> tuple[int, ...] | None:
        """Index (inside `view`) of the first element that was never written, or None; poisons what it finds."""
        assert self.data is not None
        if self.cells:
            if self._cells_cover(view):
                return None
            self._make_map()
        if self.written is None:
            view.map_view(self.data)[...] = POISON_BYTE
            return (0,) * view.ndim
        seen = view.map_view(self.written)
        if seen.all():
            return None
        missing = ~seen.all(axis=-1)
        view.map_view(self.data)[missing] = POISON_BYTE
        return tuple(int(i) for i in np.argwhere(missing)[0])
