"""Views: which elements of a buffer an operand means. Indexing makes views, never copies."""

from __future__ import annotations

import itertools
import linecache
from collections.abc import Iterator, Sequence
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tools.sim import context
from tools.sim.dtypes import DType, as_dtype
from tools.sim.memory import Buffer

Region = tuple[int, int, int, int, int]
"""(row0, row1, byte0, byte1, row_bytes): the rectangle of bytes that a view touches."""


class DynSlice:
    """`nl.ds(start, size)`: elements [start, start + size) of one dimension."""

    __slots__ = ("size", "start")

    def __init__(self, start: Any, size: int) -> None:
        self.start = start
        self.size = size

    def __repr__(self) -> str:
        return f"ds({self.start}, {self.size})"


class Indirect:
    """A per-row index attached to a view: row p of dimension `dim` comes from `index[p]`."""

    __slots__ = ("dim", "index", "row_stride")

    def __init__(self, index: Tensor, dim: int, row_stride: int) -> None:
        self.index = index
        self.dim = dim
        self.row_stride = row_stride


class Outside(Indirect):
    """Marks a view that reaches outside its tensor: it may be made but not used, except by a DMA that skips.

    Attributes:
        dynamic: a run-time offset put it there; only then a DMA may skip what doesn't exist.
    """

    __slots__ = ("dynamic",)

    def __init__(self, dynamic: bool) -> None:
        self.dim = 0
        self.row_stride = 0
        self.dynamic = dynamic

    def refuse(self, view: Tensor, what: str, operand: str) -> None:
        """Stop the kernel because it uses such a view."""
        total = view.buffer.partitions * view.buffer.row_bytes // view.dtype.itemsize
        low = view.offset + sum((n - 1) * s for n, s in zip(view.shape, view.strides) if s < 0)
        high = view.offset + sum((n - 1) * s for n, s in zip(view.shape, view.strides) if s > 0)
        bad = high if high >= total else low
        context.fail(
            "KW-INDEX-BOUNDS" if self.dynamic else "KW-OUT-OF-BOUNDS",
            f"{what} reaches element {bad} of {view.buffer.name or 'the tensor'} "
            f"({'x'.join(map(str, view.buffer.shape))}), which has {total}",
            operand=operand,
            found=bad,
            limit=total - 1,
            fix="keep the offset in range, or move the data with dma_copy(oob_mode=nisa.oob_mode.skip)"
            if self.dynamic
            else "shrink the counts or the offset of the pattern",
        )


class Tensor:
    """A strided view of a `Buffer`.

    Attributes:
        shape: sizes; on chip dimension 0 is the partition dimension.
        strides, offset: in elements of `dtype`, against the buffer's storage (on chip the partition stride is the
            buffer's row).
        dtype: type of the elements seen through this view.
        rows: row indices for gathers and scatters, else None.
    """

    __slots__ = ("_region", "_view", "buffer", "dtype", "offset", "rows", "shape", "strides")

    def __init__(
        self,
        buffer: Buffer,
        shape: tuple[int, ...],
        dtype: DType,
        offset: int,
        strides: tuple[int, ...],
        rows: Indirect | None = None,
    ) -> None:
        self.buffer = buffer
        self.shape = shape
        self.dtype = dtype
        self.offset = offset
        self.strides = strides
        self.rows = rows
        self._view: NDArray[Any] | None = None
        self._region: Region | None = None

    # -- description -------------------------------------------------------------------------------------------------

    @property
    def ndim(self) -> int:
        """Number of dimensions."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of elements."""
        return prod(self.shape)

    @property
    def name(self) -> str:
        """Name of the allocation."""
        return self.buffer.name

    @property
    def space(self) -> str:
        """Memory that holds it: `sbuf`, `psum`, or a kind of HBM."""
        return self.buffer.space

    @property
    def partitions(self) -> int:
        """Size of the partition dimension (on chip)."""
        return self.shape[0] if self.shape else 1

    @property
    def free_size(self) -> int:
        """Elements per partition."""
        return prod(self.shape[1:])

    @property
    def row_elements(self) -> int:
        """Elements of `dtype` in one row of the storage: the partition stride."""
        return self.buffer.row_bytes // self.dtype.itemsize

    @property
    def start_partition(self) -> int:
        """First partition that the view touches (on chip)."""
        return self.offset // self.row_elements if self.row_elements else 0

    def __len__(self) -> int:
        return self.shape[0]

    def __repr__(self) -> str:
        return f"{self.buffer.name or 'tensor'}[{'x'.join(map(str, self.shape))} {self.dtype} {self.buffer.space}]"

    def __bool__(self) -> bool:
        core = context.find()
        fix = (
            "use a predicate instruction (nl.where, affine_select, tensor_copy_predicated); test `is None` for absence"
        )
        message = f"the truth value of tensor {self!r} isn't known while the kernel is built"
        if core is None or core.launch.dialect != "nki" or core.options.strict:
            context.fail("KW-TENSOR-TRUTH", message, fix=fix)
        where = core.where()
        if where is not None and linecache.getline(where.file, where.line).lstrip().startswith("while"):
            # it would count as present for ever
            context.fail("KW-TENSOR-TRUTH", message, fix="loop over range, or over a register with nl.while_loop")
        context.warn("KW-TENSOR-TRUTH", f"{message}; it counts as present", fix=fix)
        return True

    def __iter__(self) -> Iterator[Tensor]:
        return (self[i] for i in range(self.shape[0]))

    # -- values ------------------------------------------------------------------------------------------------------

    def view(self, dtype: Any = None) -> Any:
        """The elements as a NumPy view of the storage (no check, no copy); with a type, `reinterpret_cast`."""
        if dtype is not None:
            return self.reinterpret_cast(dtype)
        view = self._view
        if view is None:
            buffer = self.buffer
            if isinstance(self.rows, Outside):
                self.rows.refuse(self, "this view", self.name)
            if buffer.data is None:
                core = context.find()
                if core is not None:
                    core.settle()
            assert buffer.data is not None
            if buffer.storage.itemsize == buffer.dtype.itemsize:
                storage, item = self.dtype.storage, self.dtype.itemsize
            elif self.dtype is buffer.dtype:
                storage, item = buffer.storage, buffer.storage.itemsize
            else:
                context.unsupported('a reinterpreting view under precision="exact"')
            view = np.ndarray(
                self.shape, storage, buffer.data, self.offset * item, tuple([s * item for s in self.strides])
            )
            self._view = view
        return view

    def map_view(self, bytes_: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The view's bytes in an array laid out like the storage, shape [*shape, itemsize]."""
        buffer = self.buffer
        item = self.dtype.itemsize * buffer.scale
        return np.ndarray(
            (*self.shape, item), np.uint8, bytes_, self.offset * item, (*[s * item for s in self.strides], 1)
        )

    def read(self) -> NDArray[Any]:
        """The elements, after making sure that each was written."""
        if self.buffer.pending:
            self._require_written()
        view = self._view
        return view if view is not None else self.view()

    def read_float(self) -> NDArray[Any]:
        """The elements as float32 (a view when they are stored so)."""
        values = self.read()
        return values if values.dtype == np.float32 else values.astype(np.float32)

    def read_cached(self) -> NDArray[Any]:
        """Like `read_float`, [rows, rest], keeping the decoded copy until the buffer is written again."""
        values = self.read()
        if values.ndim != 2:
            values = values.reshape(values.shape[0], -1)
        if values.dtype == np.float32:
            return values
        cache = self.buffer.cache
        if cache is None:
            cache = self.buffer.cache = {}
        key = (self.offset, self.shape, self.strides, self.dtype)
        found = cache.get(key)
        if found is None:
            found = cache[key] = values.astype(np.float32)
        return found

    def write(self, values: Any) -> None:
        """Store values: float to integer rounds to nearest even and saturates, narrowing rounds to nearest even."""
        target = self._view
        if target is None:
            target = self.view()
        kind = target.dtype.kind
        if kind in "iu":
            values = to_integer(values, target.dtype)
        with np.errstate(over="ignore", invalid="ignore"):
            np.copyto(target, values, casting="unsafe")
        self.wrote()

    def wrote(self) -> None:
        """Note that the elements were just written through `view()`."""
        buffer = self.buffer
        if buffer.pending:
            buffer.mark(self)
        if buffer.cache is not None:
            buffer.cache = None

    def _require_written(self) -> None:
        where = self.buffer.unwritten_in(self)
        if where is not None:
            context.uninitialised(self, where)

    # -- the bytes it touches ----------------------------------------------------------------------------------------

    def region(self) -> Region:
        """Bounding rectangle of bytes, in rows of the storage (see `Region`)."""
        region = self._region
        if region is None:
            region = self._region = self._compute_region()
        return region

    def _compute_region(self) -> Region:
        buffer = self.buffer
        item = self.dtype.itemsize
        if buffer.on_chip:
            row = buffer.row_bytes // item
        else:
            row = (buffer.shape[-1] if len(buffer.shape) > 1 else prod(buffer.shape)) * buffer.dtype.itemsize // item
            if self.rows is not None:
                total = prod(buffer.shape) * buffer.dtype.itemsize
                return (0, max(1, total // (row * item)), 0, row * item, row * item)
        row = max(row, 1)
        low_row = self.offset // row
        column = self.offset - low_row * row
        rows = 0
        low = high = column
        for n, s in zip(self.shape, self.strides):
            if n <= 1:
                continue
            if s % row == 0 and s:
                span = (n - 1) * (s // row)
                if span < 0:
                    low_row += span
                    span = -span
                rows += span
            elif s >= 0:
                high += (n - 1) * s
            else:
                low += (n - 1) * s
        if low < 0 or high >= row:  # not a rectangle of rows: fall back to whole rows
            first, last = low_row * row + low, (low_row + rows) * row + high
            low_row, rows = first // row, last // row - first // row
            low, high = 0, row - 1
        return (low_row, low_row + rows + 1, low * item, (high + 1) * item, row * item)

    def contiguous_run(self) -> int:
        """Bytes of the longest run that lies contiguously in memory, innermost dimension outwards."""
        run = 1
        row = self.row_elements if self.buffer.on_chip else 0
        for n, s in sorted(zip(self.shape, self.strides), key=lambda pair: abs(pair[1])):
            if n == 1 or s == 0:  # a repeated dimension doesn't break a run
                continue
            if s != run or (row and s >= row):
                break
            run *= n
        return run * self.dtype.itemsize

    # -- indexing ----------------------------------------------------------------------------------------------------

    def __getitem__(self, key: Any) -> Tensor:
        if type(key) is not tuple:
            key = (key,)
        shape, strides = self.shape, self.strides
        if len(key) != len(shape):
            key = _expand(key, self)
        offset = self.offset
        on_chip = self.buffer.on_chip
        new_shape: list[int] = []
        new_strides: list[int] = []
        dropped_last = False
        for axis, (k, n, s) in enumerate(zip(key, shape, strides)):
            kind = type(k)
            if kind is slice:
                start, stop, step = k.start, k.stop, k.step
                if start is None and stop is None and step is None:
                    new_shape.append(n)
                    new_strides.append(s)
                    continue
                start, count, step = _resolve_slice(start, stop, step, n, axis, self)
                offset += start * s
                new_shape.append(count)
                new_strides.append(s * step)
            elif kind is int or isinstance(k, int | np.integer):
                index = int(k)
                if index < 0:
                    index += n
                if not 0 <= index < n:
                    _out_of_bounds(self, axis, k, n)
                offset += index * s
                if on_chip and axis == 0:
                    new_shape.append(1)
                    new_strides.append(s)
                else:
                    dropped_last = axis == len(shape) - 1
            elif kind is DynSlice:
                start = context.index_value(k.start)
                size = context.index_value(k.size)
                if start < 0 or size < 0 or start + size > n:
                    _out_of_bounds(self, axis, k, n)
                offset += start * s
                new_shape.append(size)
                new_strides.append(s)
            elif k is Ellipsis:
                return self[_expand(key, self)]
            elif kind is range:  # `nl.affine_range(n)` as an index: the whole run of it
                return self[tuple(_as_slice(i) if type(i) is range else i for i in key)]
            elif hasattr(k, "__index_value__"):
                index = context.index_value(k)
                if not 0 <= index < n:
                    _out_of_bounds(self, axis, index, n)
                offset += index * s
                if on_chip and axis == 0:
                    new_shape.append(1)
                    new_strides.append(s)
            else:
                context.fail(
                    "KW-INDEX-TYPE",
                    f"{self!r} can't be indexed with {type(k).__name__} {k!r}",
                    fix="use integers, slices, `...` or nl.ds(start, size)",
                )
        if on_chip and len(new_shape) == 1:
            new_shape.append(1)
            new_strides.append(strides[-1] if dropped_last else 1)
        elif not new_shape:
            new_shape, new_strides = [1], [1]
        if self.rows is not None and new_shape[0] != shape[0]:
            context.fail(
                "KW-INDIRECT-SLICE",
                f"dimension 0 of {self!r} is gathered by an index tile and can't be sliced",
                fix="slice the index tile instead",
            )
        return self._derive(tuple(new_shape), tuple(new_strides), offset)

    def _derive(self, shape: tuple[int, ...], strides: tuple[int, ...], offset: int) -> Tensor:
        return type(self)(self.buffer, shape, self.dtype, offset, strides, self.rows)

    def __setitem__(self, key: Any, value: Any) -> None:
        from tools.sim.isa.assignment import assign  # instructions are made of tensors

        assign(self[key], value)

    # -- views -------------------------------------------------------------------------------------------------------

    def ap(
        self,
        pattern: Sequence[Sequence[int]],
        offset: Any = None,
        scalar_offset: Any = None,
        vector_offset: Tensor | None = None,
        indirect_dim: int = 0,
        dtype: Any = None,
    ) -> Tensor:
        """A view by explicit access pattern.

        Args:
            pattern: [[stride, count], ...] in elements of the new dtype; on chip the first pair walks partitions and its
                stride must be the storage's row.
            offset: elements to add to this view's own offset.
            scalar_offset: a register or a [1, 1] tensor; adds value * (elements behind `indirect_dim` of this shape).
            vector_offset: [P, 1] integer tensor of rows; only for HBM with indirect_dim 0.
            indirect_dim: dimension of this tensor that the dynamic offset counts in.
            dtype: reinterpret the bytes as this type.
        """
        new = self.dtype if dtype is None else as_dtype(dtype)
        steps = [(int(s), int(n)) for s, n in pattern]
        base = self.offset
        if new.itemsize != self.dtype.itemsize:
            base = base * self.dtype.itemsize // new.itemsize
        start = base + (0 if offset is None else context.index_value(offset))
        if self.buffer.on_chip:
            row = self.buffer.row_bytes // new.itemsize
            if steps[0][1] > 1 and steps[0][0] != row:
                context.fail(
                    "KW-AP-PARTITION-STEP",
                    f".ap on {self!r} steps {steps[0][0]} elements between partitions",
                    found=steps[0][0],
                    limit=row,
                    fix=f"make the first pair [{row}, {steps[0][1]}]: the partition step is the whole free size",
                )
        if scalar_offset is not None:
            start += context.index_value(scalar_offset) * prod(self.shape[indirect_dim + 1 :])
        indirect = None
        if vector_offset is not None:
            if indirect_dim != 0 or self.buffer.on_chip:
                context.fail(
                    "KW-AP-VECTOR-OFFSET",
                    "a vector_offset needs an HBM tensor and indirect_dim=0",
                    fix="gather rows of an HBM tensor, or use nc_n_gather/local_gather on chip",
                )
            if self.rows is not None:
                context.fail(
                    "KW-INDIRECT-TWICE",
                    f"{self!r} is already gathered by an index tile",
                    operand="vector_offset",
                    fix="gather once, with the combined index",
                )
            indirect = Indirect(vector_offset, 0, prod(self.shape[1:]))
        view = type(self)(
            self.buffer, tuple(n for _, n in steps), new, start, tuple(s for s, _ in steps), indirect or self.rows
        )
        if view.rows is None and not view.is_inside():
            view.rows = Outside(scalar_offset is not None)
        return view

    def is_inside(self) -> bool:
        """Whether every element lies in the storage."""
        low = self.offset + sum((n - 1) * s for n, s in zip(self.shape, self.strides) if s < 0)
        high = self.offset + sum((n - 1) * s for n, s in zip(self.shape, self.strides) if s > 0)
        return low >= 0 and high < self.buffer.partitions * self.buffer.row_bytes // self.dtype.itemsize

    def reshape(self, *shape: Any) -> Tensor:
        """The same elements under another shape; on chip the partition dimension must stay."""
        sizes = tuple(int(n) for n in (shape[0] if len(shape) == 1 and not isinstance(shape[0], int) else shape))
        if -1 in sizes:
            known = prod(n for n in sizes if n != -1)
            sizes = tuple(self.size // max(known, 1) if n == -1 else n for n in sizes)
        if prod(sizes) != self.size:
            context.fail(
                "KW-RESHAPE",
                f"{self!r} has {self.size} elements and can't be reshaped to {sizes}",
                found=prod(sizes),
                limit=self.size,
                fix="give a shape with the same number of elements",
            )
        if self.buffer.on_chip and sizes[0] != self.shape[0]:
            context.fail(
                "KW-RESHAPE-PARTITION",
                f"reshape of {self!r} to {sizes} changes the partition dimension",
                found=sizes[0],
                limit=self.shape[0],
                fix="keep dimension 0; move data across partitions with nc_transpose or a DMA",
            )
        strides = _reshape_strides(self.shape, self.strides, sizes)
        if strides is None:
            context.fail(
                "KW-RESHAPE-STRIDED",
                f"{self!r} isn't contiguous, so it can't be seen as {sizes} without a copy",
                fix="copy it first, or reshape before slicing",
            )
        return self._derive(sizes, strides, self.offset)

    def broadcast_to(self, *shape: Any) -> Tensor:
        """Size-1 dimensions repeated to `shape` (stride 0)."""
        sizes = tuple(int(n) for n in (shape[0] if len(shape) == 1 and not isinstance(shape[0], int) else shape))
        own, own_strides = self.shape, self.strides
        if len(sizes) > len(own):
            grown = len(sizes) - len(own)
            own, own_strides = (1,) * grown + own, (0,) * grown + own_strides
        if len(own) != len(sizes) or any(a not in (1, b) for a, b in zip(own, sizes)):
            context.fail(
                "KW-BROADCAST",
                f"{self!r} can't be broadcast to {sizes}",
                fix="only dimensions of size 1 can be repeated",
            )
        strides = tuple(0 if a == 1 and b != 1 else s for a, b, s in zip(own, sizes, own_strides))
        return self._derive(sizes, strides, self.offset)

    def permute(self, *dims: Any) -> Tensor:
        """Dimensions in another order; on chip dimension 0 must stay first."""
        order = tuple(int(d) for d in (dims[0] if len(dims) == 1 and not isinstance(dims[0], int) else dims))
        if sorted(order) != list(range(self.ndim)):
            context.fail(
                "KW-PERMUTE",
                f"{order} is no permutation of the {self.ndim} dimensions of {self!r}",
                fix="name each dimension once",
            )
        if self.buffer.on_chip and order[0] != 0:
            context.fail(
                "KW-PERMUTE-PARTITION",
                f"permute{order} moves the partition dimension of {self!r}",
                fix="use nc_transpose or dma_transpose to move data across partitions",
            )
        return self._derive(tuple(self.shape[d] for d in order), tuple(self.strides[d] for d in order), self.offset)

    # dimension by dimension (0.5 and later)

    def _axis(self, dim: int, what: str, *, partition: bool = False, end: bool = False) -> int:
        """`dim` as a non-negative index; the partition (or gathered) dimension only where `partition` allows it."""
        limit = self.ndim + 1 if end else self.ndim
        axis = int(dim) + limit if int(dim) < 0 else int(dim)
        if not 0 <= axis < limit:
            context.fail(
                "KW-VIEW-DIM",
                f"{what}: {self!r} has no dimension {dim}",
                operand="dim",
                found=int(dim),
                limit=f"0..{limit - 1}",
                fix="count dimensions from 0",
            )
        if axis == 0 and not partition and (self.buffer.on_chip or self.rows is not None):
            context.fail(
                "KW-VIEW-PARTITION",
                f"{what}: dimension 0 of {self!r} is the "
                + ("partition dimension" if self.buffer.on_chip else "gathered dimension")
                + " and must stay as it is",
                operand="dim",
                found=0,
                limit=">= 1",
                fix="work on the free dimensions; move data across partitions with nc_transpose or a DMA",
            )
        return axis

    def slice(self, dim: int, start: Any, end: Any, step: int = 1) -> Tensor:
        """Elements start:end:step of one dimension."""
        axis = self._axis(dim, "slice", partition=True)
        key: list[Any] = [slice(None)] * self.ndim
        key[axis] = slice(context.index_value(start), context.index_value(end), step)
        return self[tuple(key)]

    def select(self, dim: int, index: Any) -> Tensor:
        """One element of a dimension, which is dropped; the index may be a register or a 1-element tensor."""
        dynamic = not isinstance(index, int | np.integer)
        axis = self._axis(dim, "select", partition=not dynamic)
        key: list[Any] = [slice(None)] * self.ndim
        key[axis] = context.index_value(index)
        return self[tuple(key)]

    def vector_select(self, dim: int, vector_offset: Tensor) -> Tensor:
        """Row p of the result is row `vector_offset[p]` of this HBM tensor; dimension 0 only."""
        if dim != 0 or self.buffer.on_chip or self.rows is not None:
            context.fail(
                "KW-AP-VECTOR-OFFSET",
                "vector_select needs an HBM tensor without dynamic rows, and dim=0",
                operand="dim",
                found=dim,
                limit=0,
                fix="gather rows of an HBM tensor, or use nc_n_gather/local_gather on chip",
            )
        indirect = Indirect(vector_offset, 0, self.strides[0])
        shape = (vector_offset.shape[0], *self.shape[1:])
        return type(self)(self.buffer, shape, self.dtype, self.offset, self.strides, indirect)

    def broadcast(self, dim: int, size: int) -> Tensor:
        """A dimension of size 1 repeated `size` times (stride 0)."""
        axis = self._axis(dim, "broadcast")
        if self.shape[axis] != 1:
            context.fail(
                "KW-BROADCAST",
                f"broadcast: dimension {dim} of {self!r} has size {self.shape[axis]}, not 1",
                operand="dim",
                found=self.shape[axis],
                limit=1,
                fix="only dimensions of size 1 can be repeated; expand_dim first",
            )
        return self._with(axis, axis + 1, ((context.index_value(size), 0),))

    def expand_dim(self, dim: int) -> Tensor:
        """A new dimension of size 1 at position `dim`."""
        axis = self._axis(dim, "expand_dim", end=True)
        stride = self.strides[axis] * self.shape[axis] if axis < self.ndim else 1
        return self._with(axis, axis, ((1, stride),))

    def squeeze_dim(self, dim: int) -> Tensor:
        """The view without dimension `dim`, whose size is 1."""
        axis = self._axis(dim, "squeeze_dim")
        if self.shape[axis] != 1 or self.ndim == (2 if self.buffer.on_chip else 1):
            context.fail(
                "KW-SQUEEZE",
                f"squeeze_dim: dimension {dim} of {self!r} can't be dropped",
                operand="dim",
                found=self.shape[axis],
                limit=1,
                fix="only dimensions of size 1 can be dropped, and on-chip tensors stay 2-D",
            )
        return self._with(axis, axis + 1, ())

    def reshape_dim(self, dim: int, shape: Sequence[int]) -> Tensor:
        """One dimension split into several; one size may be -1."""
        sizes = [int(n) for n in shape]
        axis = self._axis(dim, "reshape_dim", partition=len(sizes) == 1)
        n = self.shape[axis]
        if sizes.count(-1) == 1:
            known = prod(s for s in sizes if s != -1)
            sizes = [n // max(known, 1) if s == -1 else s for s in sizes]
        if prod(sizes) != n or min(sizes, default=1) < 1:
            context.fail(
                "KW-RESHAPE",
                f"reshape_dim: dimension {dim} of {self!r} has {n} elements and can't be split into {tuple(shape)}",
                operand="shape",
                found=prod(sizes),
                limit=n,
                fix="give sizes whose product is the dimension's size",
            )
        dims: list[tuple[int, int]] = []
        step = self.strides[axis]
        for size in reversed(sizes):
            dims.insert(0, (size, step))
            step *= size
        return self._with(axis, axis + 1, dims)

    def flatten_dims(self, start_dim: int, end_dim: int) -> Tensor:
        """Dimensions start_dim..end_dim (inclusive), which must lie without gaps, merged into one."""
        first = self._axis(start_dim, "flatten_dims", partition=start_dim == end_dim)
        last = self._axis(end_dim, "flatten_dims", partition=True)
        dims = [(n, s) for n, s in zip(self.shape[first : last + 1], self.strides[first : last + 1]) if n != 1]
        if last < first or any(outer != inner * n for (_, outer), (n, inner) in itertools.pairwise(dims)):
            context.fail(
                "KW-RESHAPE-STRIDED",
                f"flatten_dims: dimensions {start_dim} to {end_dim} of {self!r} don't lie without gaps",
                operand="start_dim",
                found=list(self.strides[first : last + 1]),
                fix="copy the view first, or merge before slicing and permuting",
            )
        step = dims[-1][1] if dims else 1
        return self._with(first, last + 1, ((prod(n for n, _ in dims), step),))

    def _with(self, first: int, last: int, dims: Sequence[tuple[int, int]]) -> Tensor:
        """The view with dimensions [first, last) replaced by (size, stride) pairs."""
        shape = (*self.shape[:first], *(n for n, _ in dims), *self.shape[last:])
        strides = (*self.strides[:first], *(s for _, s in dims), *self.strides[last:])
        return self._derive(shape, strides, self.offset)

    def rearrange(
        self, src_pattern: Sequence[Any], dst_pattern: Sequence[Any], fixed_sizes: dict[str, int] | None = None
    ) -> Tensor:
        """Split, reorder and merge dimensions by name: ('b', ('h', 'w')) to ('b', 'w', 'h') with {'h': 4}."""
        fixed = dict(fixed_sizes or {})
        groups = [(g,) if isinstance(g, str) else tuple(g) for g in src_pattern]
        targets = [(g,) if isinstance(g, str) else tuple(g) for g in dst_pattern]
        names = [n for g in groups for n in g]
        if (
            len(groups) != self.ndim
            or sorted(names) != sorted(n for g in targets for n in g)
            or len(set(names)) != len(names)
        ):
            context.fail(
                "KW-REARRANGE",
                f"rearrange: {src_pattern} doesn't describe {self!r}, or {dst_pattern} uses other names",
                operand="src_pattern",
                found=str(src_pattern),
                limit=self.ndim,
                fix="name every dimension once on both sides",
            )
        view = self
        axis = 0
        for group in groups:
            if len(group) > 1:
                view = view.reshape_dim(axis, [fixed.get(n, -1) for n in group])
            elif fixed.get(group[0], view.shape[axis]) != view.shape[axis]:
                context.fail(
                    "KW-REARRANGE",
                    f"rearrange: {group[0]!r} is {view.shape[axis]}, not {fixed[group[0]]}",
                    operand="fixed_sizes",
                    found=fixed[group[0]],
                    limit=view.shape[axis],
                    fix="give the size that the dimension has",
                )
            axis += len(group)
        view = view.permute([names.index(n) for g in targets for n in g])
        for axis, group in enumerate(targets):
            if len(group) > 1:
                view = view.flatten_dims(axis, axis + len(group) - 1)
        return view

    def indirect(self, index: Tensor, num_elem: int | None = None) -> Tensor:
        """Columns of a tile [P, F], picked by offsets in SBUF when an instruction runs (NeuronCore-v4).

        Args:
            index: SBUF integers [P, K]; offset i is `index[i % G, i // G]` with G = 16 (Tensor Engine: 32) partitions.
            num_elem: number of columns; as many as `index` has elements unless given.
        """
        from tools.sim import indirection

        return indirection.make(self, index, num_elem)

    def is_indirect(self) -> bool:
        """Whether the view's rows or columns come from an index tensor."""
        return self.rows is not None

    def reinterpret_cast(self, dtype: Any) -> Tensor:
        """The same bytes as another type; the last dimension is scaled by the ratio of sizes."""
        new = as_dtype(dtype)
        old_size, new_size = self.dtype.itemsize, new.itemsize
        if old_size == new_size:
            return type(self)(self.buffer, self.shape, new, self.offset, self.strides, self.rows)
        last = self.shape[-1] * old_size
        if self.strides[-1] != 1 and self.shape[-1] != 1:
            context.fail(
                "KW-VIEW",
                f"view({new}) needs a contiguous last dimension; {self!r} is strided",
                fix="copy the view to a tile without gaps first",
            )
        if (
            last % new_size
            or any(s * old_size % new_size for s in self.strides[:-1])
            or self.offset * old_size % new_size
        ):
            context.fail(
                "KW-VIEW",
                f"{self.shape[-1]} elements of {self.dtype} are no whole number of {new} elements",
                fix=f"make the last dimension's bytes a multiple of {new_size}",
            )
        return type(self)(
            self.buffer,
            (*self.shape[:-1], last // new_size),
            new,
            self.offset * old_size // new_size,
            (*(s * old_size // new_size for s in self.strides[:-1]), 1),
            self.rows,
        )

    def is_contiguous(self) -> bool:
        """Whether the free dimensions (all dimensions in HBM) are laid out without gaps."""
        expected = 1
        dims = list(zip(self.shape, self.strides))
        for n, s in reversed(dims[1:] if self.buffer.on_chip else dims):
            if n != 1 and s != expected:
                return False
            expected *= n
        return True

    def get_pattern(self) -> list[list[int]]:
        """[[stride, count], ...] of this view, in elements."""
        return [[s, n] for s, n in zip(self.strides, self.shape)]


def to_integer(values: Any, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Values as integers of `dtype`: rounded to nearest even and saturated; NaN becomes 0."""
    array = np.asarray(values)
    if array.dtype == dtype:
        return array
    info = np.iinfo(dtype)
    if array.dtype.kind in "iub":
        if array.dtype.itemsize <= dtype.itemsize and array.dtype.kind == dtype.kind:
            return array
        return np.clip(array.astype(np.int64), info.min, info.max)
    wide = np.rint(array.astype(np.float64))
    return np.clip(np.nan_to_num(wide, nan=0.0, posinf=info.max, neginf=info.min), info.min, info.max)


def _expand(key: tuple[Any, ...], tensor: Tensor) -> tuple[Any, ...]:
    """The key with `...` written out and missing trailing dimensions added."""
    ndim = tensor.ndim
    dots = [i for i, k in enumerate(key) if k is Ellipsis]
    if any(k is None for k in key):
        context.fail("KW-INDEX-TYPE", f"{tensor!r} can't be indexed with None", fix="reshape instead of adding an axis")
    if len(dots) > 1 or len(key) - len(dots) > ndim:
        context.fail(
            "KW-INDEX-RANK",
            f"{len(key) - len(dots)} indices for the {ndim} dimensions of {tensor!r}",
            found=len(key) - len(dots),
            limit=ndim,
            fix="give at most one index a dimension and one `...`",
        )
    fill = (slice(None),) * (ndim - (len(key) - len(dots)))
    if dots:
        return key[: dots[0]] + fill + key[dots[0] + 1 :]
    return key + fill


def _as_slice(run: range) -> slice:
    return slice(run.start, run.stop, run.step)


def _resolve_slice(start: Any, stop: Any, step: Any, n: int, axis: int, tensor: Tensor) -> tuple[int, int, int]:
    first = 0 if start is None else context.index_value(start)
    last = n if stop is None else context.index_value(stop)
    stride = 1 if step is None else context.index_value(step)
    if first < 0:
        first += n
    if last < 0:
        last += n
    if stride < 1:
        context.fail(
            "KW-SLICE-STEP",
            f"slice step {stride} on dimension {axis} of {tensor!r} must be 1 or more",
            fix="write a positive step; reverse the order where the data is made",
        )
    if first < 0 or last > n or last <= first:
        if 0 <= last <= first:
            context.fail(
                "KW-EMPTY-SLICE",
                f"slice {first}:{last} of dimension {axis} of {tensor!r} holds no element",
                fix="make sure that start < stop; skip the iteration when nothing is left",
            )
        _out_of_bounds(tensor, axis, f"{first}:{last}", n)
    return first, (last - first + stride - 1) // stride, stride


def _out_of_bounds(tensor: Tensor, axis: int, found: Any, limit: int) -> None:
    context.fail(
        "KW-OUT-OF-BOUNDS",
        f"index {found} is outside dimension {axis} (size {limit}) of {tensor!r}",
        operand=tensor.name,
        found=str(found),
        limit=limit,
        fix="clamp the range with min(), or handle the last partial tile",
    )


def _reshape_strides(
    shape: tuple[int, ...], strides: tuple[int, ...], target: tuple[int, ...]
) -> tuple[int, ...] | None:
    """Strides that view (shape, strides) as `target` without a copy, or None (NumPy's no-copy reshape)."""
    old = [(n, s) for n, s in zip(shape, strides) if n != 1]
    if not old:
        return (1,) * len(target)
    result = [0] * len(target)
    i = j = 0
    new = list(target)
    while i < len(old) and j < len(new):
        if new[j] == 1:
            j += 1
            continue
        block, k = old[i][0], j
        count = new[j]
        last = i
        while block != count:
            if count < block:
                k += 1
                count *= new[k]
            else:
                last += 1
                if old[last - 1][1] != old[last][0] * old[last][1]:
                    return None
                block *= old[last][0]
        run = old[last][1]
        for axis in range(k, j - 1, -1):
            result[axis] = run
            run *= new[axis]
        i, j = last + 1, k + 1
    for axis in range(len(new) - 1, -1, -1):
        if new[axis] == 1:
            result[axis] = 1 if axis == len(new) - 1 else result[axis + 1] * new[axis + 1]
    return tuple(result)
