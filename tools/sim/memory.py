"""Byte arenas with a written-map: HBM, SBUF and PSUM as the kernel sees them.

An on-chip buffer is bytes [partitions, row_bytes]; an HBM buffer is flat. A buffer knows which of its bytes were ever
written, so that reading the rest can be named instead of silently computing with garbage.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tools.sim.dtypes import DType

if TYPE_CHECKING:
    from tools.sim.tensor import Tensor

ON_CHIP = ("sbuf", "psum")
POISON_BYTE = 0xFF
"""Fills bytes that were never written when something reads them: NaN in every float format that has one."""


class Buffer:
    """One allocation.

    Attributes:
        id: index into the trace's buffer table.
        space: `sbuf`, `psum`, `hbm`, `shared_hbm` or `private_hbm`.
        partitions: rows on chip, 1 in HBM.
        row_bytes: bytes per partition (HBM: all of them).
        data: uint8 bytes, or None in shapes-only runs.
        pending: whether some byte may never have been written.
        cache: decoded float32 copies of views, dropped at each write.
        groups: PSUM only: views that hold a running accumulation, by (offset, shape, strides).
    """

    __slots__ = (
        "address", "cache", "core", "data", "dtype", "from_data", "groups", "host", "id", "line", "name", "on_chip",
        "partitions", "pending", "role", "row_bytes", "shape", "space", "storage", "unwritten", "written",
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
        self.cache: dict[Any, NDArray[Any]] | None = None
        self.groups: dict[Any, bool] | None = None
        self.from_data = False
        self.host: NDArray[Any] | None = None

    @property
    def scale(self) -> int:
        """Storage bytes per logical byte: 1, or more in exact mode, where low-precision types are kept as float32."""
        return self.storage.itemsize // self.dtype.itemsize if self.dtype.itemsize else 1

    def allocate(self) -> None:
        """Take memory; contents are undefined until written."""
        nbytes = self.partitions * self.row_bytes
        if self.storage.itemsize != self.dtype.itemsize:
            nbytes = nbytes // self.dtype.itemsize * self.storage.itemsize
        self.data = np.empty(max(nbytes, 1), np.uint8)

    def adopt(self, array: NDArray[Any]) -> None:
        """Use the bytes of a contiguous host array, which then sees every write."""
        self.data = array.reshape(-1).view(np.uint8) if array.size else np.empty(1, np.uint8)
        self.host = array
        self.pending = False

    def mark(self, view: Tensor) -> None:
        """Note that all elements of `view` now hold values."""
        nbytes = view.size * view.dtype.itemsize
        if nbytes >= self.unwritten and self.written is None and nbytes == self.partitions * self.row_bytes:
            self.pending = False
            return
        if self.written is None:
            if self.data is None:
                return
            self.written = np.zeros(self.data.size, np.uint8)
        view.map_view(self.written)[...] = 1
        self.unwritten -= nbytes
        if self.unwritten <= 0:
            if self.written.all():
                self.pending = False
                self.written = None
            else:
                self.unwritten = int(self.written.size - np.count_nonzero(self.written))

    def unwritten_in(self, view: Tensor) -> tuple[int, ...] | None:
        """Index (inside `view`) of the first element that was never written, or None; poisons what it finds."""
        assert self.data is not None
        if self.written is None:
            view.map_view(self.data)[...] = POISON_BYTE
            return (0,) * view.ndim
        seen = view.map_view(self.written)
        if seen.all():
            return None
        missing = ~seen.all(axis=-1)
        view.map_view(self.data)[missing] = POISON_BYTE
        return tuple(int(i) for i in np.argwhere(missing)[0])
