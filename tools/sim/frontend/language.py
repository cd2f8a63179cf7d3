"""`nki.language` of the current dialect: allocation, loops, SPMD queries and math that returns new tiles."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from tools.sim import context, dtypes
from tools.sim.dtypes import as_dtype
from tools.sim.isa import control, dma, enums, gather, randomness, scalar, vector
from tools.sim.isa import tensor as pe
from tools.sim.tensor import DynSlice, Tensor

# -- memories ----------------------------------------------------------------------------------------------------------


class Memory(str):
    """A place for tensors: compares equal to its name and to its aliases."""

    __slots__ = ()


sbuf = Memory("sbuf")
psum = Memory("psum")
shared_hbm = Memory("shared_hbm")
private_hbm = Memory("private_hbm")
hbm = private_hbm


def _space(buffer: Any) -> str:
    if buffer is None:
        return "sbuf"
    name = str(buffer)  # a Memory, its name, or the `buffer` of a tensor
    if name in ("sbuf", "psum", "shared_hbm", "private_hbm"):
        return name
    if name == "hbm":
        return "private_hbm"
    context.fail(
        "KW-BUFFER",
        f"buffer={buffer!r} is no memory",
        operand="buffer",
        fix="use nl.sbuf, nl.psum, nl.shared_hbm or nl.private_hbm",
    )


# -- allocation --------------------------------------------------------------------------------------------------------


def ndarray(shape: Any, dtype: Any, buffer: Any = sbuf, name: str = "", address: Any = None, **kwargs: Any) -> Tensor:
    """A new, uninitialised tensor; dimension 0 is the partition dimension in SBUF and PSUM.

    Args:
        shape: sizes.
        dtype: element type.
        buffer: memory; kernel outputs must be in `nl.shared_hbm`.
        address: (start partition, byte offset) when the kernel places the tile itself.
    """
    for extra in kwargs:
        context.fail(
            "KW-ARGUMENT",
            f"nl.ndarray has no argument {extra!r}",
            operand=extra,
            fix="remove it; see the migration guide",
        )
    core = context.current()
    space = _space(buffer)
    place = None
    if address is not None:
        partition, offset = (int(n) for n in address)
        if space == "psum" and offset % core.machine.psum_bank_bytes:
            context.fail(
                "KW-PSUM-ADDRESS",
                f"PSUM address {offset} doesn't lie on a bank boundary",
                operand="address",
                found=offset,
                limit=core.machine.psum_bank_bytes,
                fix=f"use a multiple of {core.machine.psum_bank_bytes}",
            )
        place = (partition, offset)
    if type(shape) is tuple and set(map(type, shape)) == _INTEGERS:
        sizes = shape
    else:
        sizes = tuple(context.index_value(n) for n in shape) if not isinstance(shape, int) else (shape,)
    if space == "shared_hbm":
        return _shared(sizes, dtype, name)
    return core.allocate(sizes, _dtype(dtype), space, name=name or "", address=place)


_INTEGERS = {int}


def _shared(shape: tuple[int, ...], dtype: Any, name: str) -> Tensor:
    """The n-th shared_hbm allocation of each core is the same tensor."""
    core = context.current()
    nth = core.shared_count
    core.shared_count += 1
    shared = core.launch.shared
    if nth < len(shared):
        found = shared[nth]
        if found.shape != shape or found.dtype != _dtype(dtype):
            context.fail(
                "KW-SHARED-MISMATCH",
                f"core {core.index} allocates shared_hbm {list(shape)}, the other core {found!r}",
                fix="make both cores allocate the same shared tensors in the same order",
            )
        return found
    made = core.allocate(shape, _dtype(dtype), "shared_hbm", name=name or "", role="shared")
    shared.append(made)
    return made


def _dtype(value: Any) -> dtypes.DType:
    try:
        return as_dtype(value)
    except TypeError as error:
        context.fail("KW-DTYPE", str(error), operand="dtype", fix="use a type of nl, such as nl.float32 or nl.bfloat16")


def full(shape: Any, fill_value: Any, dtype: Any, buffer: Any = sbuf, name: str = "") -> Tensor:
    """A new on-chip tile filled with one value."""
    tile = ndarray(shape, dtype, buffer, name)
    vector.memset(tile, fill_value)
    return tile


def zeros(shape: Any, dtype: Any, buffer: Any = sbuf, name: str = "") -> Tensor:
    """A new on-chip tile of zeros."""
    return full(shape, 0, dtype, buffer, name)


def ones(shape: Any, dtype: Any, buffer: Any = sbuf, name: str = "") -> Tensor:
    """A new on-chip tile of ones."""
    return full(shape, 1, dtype, buffer, name)


def zeros_like(x: Tensor, dtype: Any = None, buffer: Any = None, name: str = "") -> Tensor:
    """A tile of zeros with x's shape."""
    return zeros(x.shape, dtype or x.dtype, buffer or x.space, name)


def empty_like(x: Tensor, dtype: Any = None, buffer: Any = None, name: str = "") -> Tensor:
    """An uninitialised tensor with x's shape."""
    return ndarray(x.shape, dtype or x.dtype, buffer or x.space, name)


def shared_constant(constant: Any, dtype: Any = None) -> Tensor:
    """An HBM tensor with fixed contents, from an array or the path of a .npy file."""
    core = context.current()
    array = np.load(Path(constant)) if isinstance(constant, str | Path) else np.asarray(constant)
    if dtype is not None:
        array = array.astype(_dtype(dtype).storage)
    key = (array.shape, array.dtype.str, array.tobytes())
    found = core.constants.get(key)
    if found is None:
        found = core.constants[key] = core.wrap(np.array(array, copy=True), "constant", role="constant")
    return found


def shared_identity_matrix(n: int, dtype: Any = dtypes.uint8, dst: Tensor | None = None) -> Tensor:
    """An n-by-n identity in SBUF (loaded from a constant in HBM)."""
    kind = _dtype(dtype)
    tile = dst if dst is not None else ndarray((n, n), kind)
    dma.dma_copy(tile, shared_constant(np.eye(n, dtype=np.float32).astype(kind.storage)))
    return tile


def ds(start: Any, size: Any) -> DynSlice:
    """The slice [start, start + size)."""
    return DynSlice(start, size)


# -- sizes of the machine ----------------------------------------------------------------------------------------------


class _TileSize:
    """`nl.tile_size`: limits of the target (of trn2 outside a kernel)."""

    @staticmethod
    def _machine() -> Any:
        from tools.sim.machine import machine

        core = context.find()
        return core.machine if core is not None else machine("trn2")

    @property
    def pmax(self) -> int:
        return int(self._machine().partitions)

    @property
    def psum_fmax(self) -> int:
        return int(self._machine().psum_bank_bytes) // 4

    @property
    def psum_bank_fmax(self) -> int:
        return self.psum_fmax

    @property
    def psum_bank_fmax_bytes(self) -> int:
        return int(self._machine().psum_bank_bytes)

    @property
    def psum_num_banks(self) -> int:
        return int(self._machine().psum_banks)

    @property
    def psum_min_align(self) -> int:
        return 4

    @property
    def sbuf_min_align(self) -> int:
        return 1

    @property
    def gemm_stationary_fmax(self) -> int:
        return int(self._machine().gemm_stationary_fmax)

    @property
    def gemm_moving_fmax(self) -> int:
        return min(int(self._machine().gemm_moving_fmax), self.psum_fmax)  # the documented constant on every target

    @property
    def bn_stats_fmax(self) -> int:
        return int(self._machine().bn_stats_fmax)

    @property
    def total_available_sbuf_size(self) -> int:
        return int(self._machine().sbuf_partition_bytes)

    @property
    def sbuf_fmax_bytes(self) -> int:
        return self.total_available_sbuf_size

    @property
    def sbuf_fmax(self) -> int:
        return self.total_available_sbuf_size // 4

    @property
    def sbuf_size_bytes(self) -> int:
        return int(self._machine().sbuf_partition_bytes) * self.pmax


tile_size = _TileSize()

# -- loops and SPMD ----------------------------------------------------------------------------------------------------


def affine_range(start: Any, stop: Any = None, step: int = 1, **kwargs: Any) -> range:
    """A plain `range` (deprecated alias in this dialect)."""
    for extra in kwargs:
        context.fail(
            "KW-ARGUMENT", f"affine_range has no argument {extra!r} in this dialect", operand=extra, fix="remove it"
        )
    bounds = (start,) if stop is None else (start, stop, step)
    return range(*(context.index_value(b) for b in bounds))


sequential_range = static_range = range_ = affine_range


def dynamic_range(start: Any, stop: Any = None, step: int = 1) -> Any:
    """A loop whose bounds may be registers; the loop variable is a frozen register."""
    if not isinstance(step, int) or step < 1:
        context.fail(
            "KW-DYNAMIC-STEP",
            f"dynamic_range: step {step!r} must be a positive integer",
            operand="step",
            found=str(step),
            limit="1 or more, known at compile time",
            fix="write a number; scale the loop's register inside the body instead",
        )
    _not_in_no_reorder("dynamic_range")
    first, last = (0, start) if stop is None else (start, stop)
    for value in range(context.index_value(first), context.index_value(last), step):
        yield control.Register(value, frozen=True)


def fori_loop(lower: Any, upper: Any, body: Callable[[Any], Any], step: int = 1) -> None:
    """Call body(i) for i in [lower, upper) with i a frozen register; body returns None."""
    for i in dynamic_range(lower, upper, step):
        if body(i) is not None:
            context.fail(
                "KW-LOOP-BODY",
                "fori_loop: the body must return None",
                operand="body",
                fix="drop the body's return; results go into tensors or registers",
            )


def while_loop(init: Any, body: Callable[[Any], Any]) -> None:
    """Call body(condition) until the condition register it returns is 0."""
    _not_in_no_reorder("while_loop")
    condition = init
    while context.index_value(condition):
        condition = body(condition)


def program_id(axis: int = 0) -> int:
    """Coordinate of this program instance in the launch grid."""
    core = context.current()
    if axis >= max(len(core.launch.grid), 1):
        context.fail(
            "KW-PROGRAM-AXIS",
            f"program_id({axis}): the grid has {len(core.launch.grid)} dimensions",
            operand="axis",
            fix="launch the kernel with a grid of that many dimensions",
        )
    return core.program[axis] if core.program else 0


def num_programs(axes: Any = 0) -> int:
    """Size of the launch grid along `axes` (an axis, several, or None for all)."""
    grid = context.current().launch.grid or (1,)
    if axes is None:
        return int(np.prod(grid))
    if isinstance(axes, int):
        return grid[axes] if axes < len(grid) else 1
    return int(np.prod([grid[a] for a in axes]))


def program_ndim() -> int:
    """Rank of the launch grid; 0 when the kernel was launched without one."""
    return len(context.current().launch.grid)


@contextmanager
def no_reorder() -> Iterator[None]:
    """Context manager: instructions inside keep their order (they always do here). It can't hold a dynamic loop."""
    core = context.find()
    if core is None:
        yield
        return
    before, core.ordered = core.ordered, True
    try:
        yield
    finally:
        core.ordered = before


def _not_in_no_reorder(api: str) -> None:
    """Refuse a dynamic loop inside `no_reorder` (dynamic loops guide)."""
    if context.current().ordered:
        context.fail(
            "KW-ORDERED-LOOP",
            f"{api} inside no_reorder: the order of a dynamic loop's instructions can't be fixed from outside",
            fix="put no_reorder inside the loop's body",
        )


def device_print(print_prefix: str, tensor: Any = None) -> None:
    """Print a tensor's values at run time."""
    core = context.current()
    values = tensor.read() if isinstance(tensor, Tensor) and core.settle() else tensor
    core.launch.printed.append(f"{print_prefix} {values}")
    print(print_prefix, values)


# -- math that returns new tiles ---------------------------------------------------------------------------------------


def _new(shape: tuple[int, ...], dtype: Any) -> Tensor:
    return ndarray(shape, dtype)


def _tile(value: Any, name: str, api: str) -> Tensor:
    if not isinstance(value, Tensor):
        context.fail(
            "KW-OPERAND-TYPE",
            f"{api}: {name} is {type(value).__name__}, not a tensor",
            operand=name,
            fix="pass a tensor made by nl.ndarray or a kernel argument",
        )
    return value


def _binary(name: str) -> Callable[..., Tensor]:
    def call(x: Any, y: Any, dtype: Any = None) -> Tensor:
        api = f"nl.{name}"
        if isinstance(x, Tensor) and isinstance(y, Tensor):
            dst = _new(x.shape, dtype or x.dtype)
            vector.tensor_tensor(dst, x, y, name)
        elif isinstance(x, Tensor):
            dst = _new(x.shape, dtype or x.dtype)
            vector.tensor_scalar(dst, x, name, y)
        else:
            tile = _tile(y, "y", api)
            dst = _new(tile.shape, dtype or tile.dtype)
            vector.tensor_scalar(dst, tile, name, x, reverse0=True)
        return dst

    call.__name__ = name
    return call


def _unary(name: str) -> Callable[..., Tensor]:
    def call(x: Any, dtype: Any = None) -> Tensor:
        tile = _tile(x, "x", f"nl.{name}")
        if name == "rsqrt" and tile.space == "psum":
            context.strict_fail(
                "KW-GPSIMD-PSUM",
                "nl.rsqrt: x lies in PSUM; it runs on the GpSimd Engine since 0.5",
                dialect="nki",
                operand="x",
                found="psum",
                limit="sbuf",
                fix="tensor_copy it to SBUF first, or use nisa.activation(dst, nl.rsqrt, x)",
            )
        dst = _new(tile.shape, dtype or tile.dtype)
        scalar.activation(dst, name, tile)
        return dst

    call.__name__ = name
    return call


def _invert(x: Any, dtype: Any = None) -> Tensor:
    tile = _tile(x, "x", "nl.invert")
    dst = _new(tile.shape, dtype or tile.dtype)
    vector.tensor_scalar(dst, tile, "invert", 0)
    return dst


def _copy(x: Any, dtype: Any = None) -> Tensor:
    tile = _tile(x, "x", "nl.copy")
    dst = _new(tile.shape, dtype or tile.dtype)
    vector.tensor_copy(dst, tile)
    return dst


def _reduce(name: str, scale: bool = False) -> Callable[..., Tensor]:
    def call(x: Any, axis: Any, dtype: Any = None, keepdims: bool = False) -> Tensor:
        tile = _tile(x, "x", f"nl.{name}")
        axes = vector.free_axes(axis, tile.ndim, api=f"nl.{name}")
        kept = tile.shape[: axes[0]]
        shape = (*kept, *([1] * len(axes))) if keepdims or len(kept) < 2 else kept
        if len(kept) < 2 and not keepdims:
            shape = (kept[0], 1)
        dst = _new(shape, dtype or tile.dtype)
        vector.tensor_reduce(
            dst,
            {
                "sum": "add",
                "mean": "add",
                "max": "maximum",
                "min": "minimum",
                "prod": "multiply",
                "all": "logical_and",
            }.get(name, name),
            tile,
            axes,
        )
        if scale:
            count = int(np.prod([tile.shape[a] for a in axes]))
            vector.tensor_scalar(dst, dst, "multiply", 1.0 / count)
        return dst

    call.__name__ = name
    return call


_REDUCTIONS = {n: _reduce(n) for n in ("sum", "max", "min", "prod", "all")} | {"mean": _reduce("mean", scale=True)}

_BINARY_NAMES = (
    "add",
    "subtract",
    "multiply",
    "divide",
    "maximum",
    "minimum",
    "power",
    "mod",
    "fmod",
    "equal",
    "not_equal",
    "greater",
    "greater_equal",
    "less",
    "less_equal",
    "logical_and",
    "logical_or",
    "logical_xor",
    "bitwise_and",
    "bitwise_or",
    "bitwise_xor",
    "left_shift",
    "right_shift",
    "abs_max",
    "abs_min",
)
_UNARY_NAMES = (
    "exp",
    "log",
    "sqrt",
    "rsqrt",
    "reciprocal",
    "square",
    "abs",
    "sign",
    "relu",
    "sigmoid",
    "tanh",
    "silu",
    "silu_dx",
    "gelu",
    "gelu_dx",
    "gelu_apprx_tanh",
    "gelu_apprx_tanh_dx",
    "gelu_apprx_sigmoid",
    "gelu_apprx_sigmoid_dx",
    "softplus",
    "mish",
    "erf",
    "erf_dx",
    "sin",
    "cos",
    "tan",
    "arctan",
    "ceil",
    "floor",
    "trunc",
    "negative",
    "logical_not",
)

OPERATORS: dict[str, Any] = {
    **{n: _binary(n) for n in _BINARY_NAMES},
    **{n: _unary(n) for n in _UNARY_NAMES},
    **_REDUCTIONS,
    "invert": _invert,
    "copy": _copy,
    "bypass": None,
    "prelu": None,
    "average": None,
    "identity": None,
}
"""Names that are both operator handles and functions; None: a handle only."""


def load(src: Any, dtype: Any = None) -> Tensor:
    """A new SBUF tile with the contents of an HBM view."""
    source = _tile(src, "src", "nl.load")
    shape = source.shape if source.ndim > 1 else (1, *source.shape)
    dst = ndarray(shape, dtype or source.dtype)
    dma.dma_copy(dst, source)
    return dst


def store(dst: Any, value: Any) -> None:
    """Copy an SBUF tile to an HBM view."""
    dma.dma_copy(_tile(dst, "dst", "nl.store"), _tile(value, "value", "nl.store"))


def load_transpose2d(src: Any, dtype: Any = None) -> Tensor:
    """A new SBUF tile with a 2-D HBM view, transposed."""
    source = _tile(src, "src", "nl.load_transpose2d")
    dst = ndarray(source.shape[::-1], dtype or source.dtype)
    dma.dma_transpose(dst, source)
    return dst


def matmul(x: Any, y: Any, transpose_x: bool = False) -> Tensor:
    """x @ y as a new PSUM tile; the hardware needs x already transposed, so transpose_x must be True."""
    a, b = _tile(x, "x", "nl.matmul"), _tile(y, "y", "nl.matmul")
    if not transpose_x:
        context.fail(
            "KW-MATMUL-TRANSPOSE",
            "nl.matmul needs transpose_x=True: the contraction must lie on x's partitions",
            operand="x",
            fix="pass x as [K, M] with transpose_x=True",
        )
    dst = ndarray((a.free_size, b.free_size), dtypes.float32, psum)
    pe.nc_matmul(dst, a, b)
    return dst


def transpose(x: Any, dtype: Any = None) -> Tensor:
    """A 2-D tile with partition and free dimensions swapped (in PSUM)."""
    tile = _tile(x, "x", "nl.transpose")
    dst = ndarray((tile.free_size, tile.shape[0]), dtype or tile.dtype, psum)
    pe.nc_transpose(dst, tile)
    return dst


def broadcast_to(x: Any, shape: Any, dtype: Any = None) -> Tensor:
    """x with its size-1 free dimensions repeated."""
    tile = _tile(x, "x", "nl.broadcast_to")
    view = tile.broadcast_to(shape)
    return _copy(view, dtype) if dtype is not None else view


def expand_dims(x: Any, axis: int) -> Tensor:
    """x with a dimension of size 1 inserted."""
    tile = _tile(x, "x", "nl.expand_dims")
    where = axis + tile.ndim + 1 if axis < 0 else axis
    return tile.reshape((*tile.shape[:where], 1, *tile.shape[where:]))


def where(condition: Any, x: Any, y: Any, dtype: Any = None) -> Tensor:
    """x where the 0/1 condition tile is not 0, else y."""
    cond = _tile(condition, "condition", "nl.where")
    kind = dtype or (x.dtype if isinstance(x, Tensor) else y.dtype if isinstance(y, Tensor) else cond.dtype)
    dst = _new(cond.shape, kind)
    if isinstance(y, Tensor):
        vector.tensor_copy(dst, y)
    else:
        vector.memset(dst, y)
    mask = _new(cond.shape, dtypes.uint8)
    vector.tensor_scalar(mask, cond, "not_equal", 0.0)
    vector.tensor_copy_predicated(dst, x, mask)
    return dst


def is_hbm(buffer: Any) -> bool:
    """Whether `buffer` names HBM of any kind."""
    return not is_on_chip(buffer)


def is_on_chip(buffer: Any) -> bool:
    """Whether `buffer` names SBUF or PSUM."""
    return _space(buffer) in ("sbuf", "psum")


def is_psum(buffer: Any) -> bool:
    """Whether `buffer` names PSUM."""
    return _space(buffer) == "psum"


def is_sbuf(buffer: Any) -> bool:
    """Whether `buffer` names SBUF."""
    return _space(buffer) == "sbuf"


def _wide(x: Tensor) -> Tensor:
    """A float32 scratch tile with x's shape."""
    return _new(x.shape, dtypes.float32)


def _reduced(x: Tensor, axes: tuple[int, ...]) -> Tensor:
    """A float32 scratch tile for a reduction of x over `axes` (its last dimensions), which stay as size 1."""
    return _new((*x.shape[: axes[0]], *([1] * len(axes))), dtypes.float32)


def _per_lane(axes: tuple[int, ...]) -> bool:
    """Whether a reduction over `axes` leaves one number a partition, which instructions take as a scalar operand."""
    return axes[0] == 1


def _times(dst: Tensor, x: Tensor, factor: Tensor, axes: tuple[int, ...]) -> None:
    """dst = x * factor, where factor was reduced over `axes`."""
    if _per_lane(axes):
        vector.tensor_scalar(dst, x, "multiply", factor)
    else:
        vector.tensor_tensor(dst, x, factor.broadcast_to(x.shape), "multiply")


def softmax(x: Any, axis: Any = -1, dtype: Any = None) -> Tensor:
    """exp(x - max) / sum over the last free dimensions that `axis` names, computed in float32."""
    tile = _tile(x, "x", "nl.softmax")
    axes = vector.free_axes(axis, tile.ndim, api="nl.softmax")
    top, total, powers = _reduced(tile, axes), _reduced(tile, axes), _wide(tile)
    vector.tensor_reduce(top, "maximum", tile, axes, negate=True)
    if _per_lane(axes):
        scalar.activation(powers, "exp", tile, bias=top, reduce_op="add", reduce_res=total, reduce_cmd=_RESET)
    else:
        vector.tensor_tensor(powers, tile, top.broadcast_to(tile.shape), "add")
        scalar.activation(powers, "exp", powers)
        vector.tensor_reduce(total, "add", powers, axes)
    vector.reciprocal(total, total)
    dst = _new(tile.shape, dtype or tile.dtype)
    _times(dst, powers, total, axes)
    return dst


def rms_norm(
    x: Any, w: Any, axis: Any, n: Any, epsilon: float = 1e-6, dtype: Any = None, compute_dtype: Any = None
) -> Tensor:
    """x / sqrt(sum(x * x) / n + epsilon) * w over the last free dimensions that `axis` names.

    Args:
        x: tile [P, F...].
        w: weights, a tile with x's shape.
        axis: the free dimensions.
        n: number of values in the mean.
        epsilon: added to the mean square.
        dtype: of the result; x's by default.
        compute_dtype: of the intermediate products; float32 by default.
    """
    api = "nl.rms_norm"
    tile, weights = _tile(x, "x", api), _tile(w, "w", api)
    axes = vector.free_axes(axis, tile.ndim, api=api)
    total = _reduced(tile, axes)
    squares = _new(tile.shape, compute_dtype or dtypes.float32)
    if _per_lane(axes):
        scalar.activation(squares, "square", tile, reduce_op="add", reduce_res=total, reduce_cmd=_RESET)
    else:
        scalar.activation(squares, "square", tile)
        vector.tensor_reduce(total, "add", squares, axes)
    vector.tensor_scalar(total, total, "multiply", 1.0 / float(n), op1="add", operand1=float(epsilon))
    scalar.activation(total, "rsqrt", total)
    dst = _new(tile.shape, dtype or tile.dtype)
    if _per_lane(axes):
        vector.scalar_tensor_tensor(dst, tile, "multiply", total, "multiply", weights)
    else:
        scaled = _wide(tile)
        _times(scaled, tile, total, axes)
        vector.tensor_tensor(dst, scaled, weights, "multiply")
    return dst


def var(x: Any, axis: Any, dtype: Any = None, keepdims: bool = False) -> Tensor:
    """Variance over the last free dimensions; the result keeps them as size 1 whatever `keepdims` says (documented)."""
    tile = _tile(x, "x", "nl.var")
    axes = vector.free_axes(axis, tile.ndim, api="nl.var")
    count = int(np.prod([tile.shape[a] for a in axes]))
    mean, spread = _reduced(tile, axes), _wide(tile)
    vector.tensor_reduce(mean, "add", tile, axes)
    vector.tensor_scalar(mean, mean, "multiply", 1.0 / count)
    if _per_lane(axes):
        vector.tensor_scalar(spread, tile, "subtract", mean)
    else:
        vector.tensor_tensor(spread, tile, mean.broadcast_to(tile.shape), "subtract")
    vector.tensor_tensor(spread, spread, spread, "multiply")
    dst = _new(mean.shape, dtype or tile.dtype)
    vector.tensor_reduce(dst, "add", spread, axes)
    vector.tensor_scalar(dst, dst, "multiply", 1.0 / count)
    return dst


def dropout(x: Any, rate: Any, dtype: Any = None) -> Tensor:
    """x with elements replaced by 0 with probability `rate` (a number or a [P, 1] tile)."""
    tile = _tile(x, "x", "nl.dropout")
    dst = _new(tile.shape, tile.dtype)
    randomness.dropout(dst, tile, rate)
    return dst if dtype is None else _copy(dst, dtype)


def rand(shape: Any, dtype: Any, buffer: Any = sbuf, name: str = "") -> Tensor:
    """A new tile of uniform random numbers in [0, 1)."""
    tile = ndarray(shape, dtype, buffer, name)
    randomness.draw_uniform(tile, 0.0, 1.0, "nl.rand")
    return tile


def random_seed(seed: Any) -> None:
    """Seed `rand` and `dropout` from a 32-bit [1, 1] tile."""
    randomness.set_rng_seed(_tile(seed, "seed", "nl.random_seed"))


def gather_flattened(data: Any, indices: Any, axis: int = 0, dtype: Any = None) -> Tensor:
    """data[p, indices[p, i]] over the flattened free dimensions, with the shape of indices."""
    source, index = _tile(data, "data", "nl.gather_flattened"), _tile(indices, "indices", "nl.gather_flattened")
    if axis != 0:
        context.unsupported(f"nl.gather_flattened(axis={axis})")
    dst = _new(index.shape, source.dtype)
    gather.nc_n_gather(dst, source, index)
    return dst if dtype is None else _copy(dst, dtype)


class _FloatInfo:
    """Limits of a float type, as `numpy.finfo` gives them."""

    def __init__(self, dtype: Any) -> None:
        kind = _dtype(dtype)
        if not kind.is_float:
            context.fail(
                "KW-DTYPE",
                f"nl.finfo: {kind} is no float type",
                operand="dtype",
                found=str(kind),
                fix="pass a float type",
            )
        info = ml_dtypes.finfo(kind.storage)  # type: ignore[no-untyped-call]
        self.dtype = kind
        self.bits = int(info.bits)
        self.min = float(info.min)
        self.max = float(info.max)
        self.eps = float(info.eps)
        self.tiny = float(info.tiny)
        self.smallest_normal = float(info.smallest_normal)


def finfo(dtype: Any) -> _FloatInfo:
    """Limits of a float type: min, max, eps, tiny, bits."""
    return _FloatInfo(dtype)


fp32 = _FloatInfo(dtypes.float32)
"""`nl.fp32.min`: the smallest float32."""
_RESET = enums.reduce_cmd.reset_reduce


# -- classes, annotations, tools ---------------------------------------------------------------------------------------


class NKIObject:
    """Base of classes used inside kernels.

    A class without an `__init__` of its own takes its annotated names, positionally or by keyword; defaults come from the
    class body, and a name without either stays unset until the kernel sets it. `__post_init__` runs afterwards. Objects of
    one class are equal when their attributes are.
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        plain = any(not n.startswith("__") and not _is_member(v) for n, v in cls.__dict__.items())
        if plain and "__init__" not in cls.__dict__:
            cls.__init__ = NKIObject.__init__  # type: ignore[method-assign] # so that @dataclass leaves it alone

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        cls = type(self)
        names = _annotated(cls)
        given = dict(zip(names, args))
        wrong = [k for k in kwargs if k not in names or k in given]
        if len(args) > len(names) or wrong:
            context.fail(
                "KW-ARGUMENT",
                f"{cls.__name__}() can't be called with {len(args)} values" + (f" and {wrong[0]!r}" if wrong else ""),
                found=wrong[0] if wrong else len(args),
                limit=", ".join(names),
                fix=f"its arguments are {', '.join(names)}",
            )
        given.update(kwargs)
        for name in names:
            value = given[name] if name in given else _default(cls, name)
            if value is not dataclasses.MISSING:
                object.__setattr__(self, name, value)
        after = getattr(self, "__post_init__", None)
        if after is not None:
            after()

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and vars(self) == vars(other)

    __hash__ = None  # type: ignore[assignment]


def _annotated(cls: type) -> list[str]:
    """Names that the synthesised initialiser takes: annotated ones, then plain values of the class body; bases first."""
    names: dict[str, None] = {}
    for base in reversed(cls.__mro__):
        if base in (object, NKIObject):
            continue
        annotations = base.__dict__.get("__annotations__", {})
        names.update({n: None for n, kind in annotations.items() if "ClassVar" not in str(kind)})
        for name, value in base.__dict__.items():
            if not name.startswith("__") and name not in annotations and not _is_member(value):
                names[name] = None
    return list(names)


def _is_member(value: Any) -> bool:
    """Whether a name of a class body is behaviour rather than a value."""
    return callable(value) or isinstance(value, property | staticmethod | classmethod)


def _default(cls: type, name: str) -> Any:
    default = getattr(cls, "__dataclass_fields__", {}).get(name, getattr(cls, name, dataclasses.MISSING))
    if isinstance(default, dataclasses.Field):
        default = default.default_factory() if callable(default.default_factory) else default.default
    return default


class TensorSpec:
    """`nt.tensor[[shape], dtype]`: stands for an array whose values don't matter, as an argument of a benchmark.

    Attributes:
        shape, dtype: of the array.
    """

    def __init__(self, shape: tuple[int, ...], dtype: dtypes.DType) -> None:
        self.shape = shape
        self.dtype = dtype

    def placeholder(self) -> NDArray[Any]:
        """An array of that shape and type without memory of its own."""
        return np.broadcast_to(np.zeros((), self.dtype.storage), self.shape)

    def __or__(self, other: Any) -> Any:
        return self

    __ror__ = __or__


class Annotation:
    """`nt.tensor[...]` and friends in annotations: accepted, and without effect on execution."""

    def __getitem__(self, item: Any) -> Any:
        if isinstance(item, tuple) and len(item) == 2 and isinstance(item[0], tuple | list):
            return TensorSpec(tuple(int(n) for n in item[0]), as_dtype(item[1]))
        return self

    def __call__(self, *args: Any, **kwargs: Any) -> Annotation:
        return self

    def __or__(self, other: Any) -> Any:
        return self

    __ror__ = __or__


def _hint(function: Any = None, **_: Any) -> Any:
    """A compiler hint as a decorator: the function unchanged."""
    return function if callable(function) else (lambda f: f)


COMPILER_HINTS: dict[str, Any] = {"skip_middle_end_transformations": _hint, "enable_stack_allocator": _hint}


def simulate(kernel: Any) -> Any:
    """`nki.simulate(kernel)(*args)`: run a kernel on NumPy arrays; arrays that it writes are updated in place."""
    from tools.sim.frontend.jit import JitKernel

    return kernel if isinstance(kernel, JitKernel) else JitKernel(kernel, "nki", {})


def removed(name: str) -> Callable[..., NoReturn]:
    """A stand-in for a Beta-1 tool that the current namespace no longer has."""

    def call(*args: Any, **kwargs: Any) -> NoReturn:
        context.fail(
            "KW-REMOVED",
            f"nki.{name} was removed in NKI 0.2",
            found=name,
            fix="run the kernel with nki.simulate(kernel)(...) or `kernelwright simulate`; that also times it",
        )

    call.__name__ = name
    return call


PUBLIC = (
    "sbuf",
    "psum",
    "shared_hbm",
    "private_hbm",
    "hbm",
    "ndarray",
    "full",
    "zeros",
    "ones",
    "zeros_like",
    "empty_like",
    "shared_constant",
    "shared_identity_matrix",
    "ds",
    "tile_size",
    "affine_range",
    "sequential_range",
    "static_range",
    "dynamic_range",
    "fori_loop",
    "while_loop",
    "program_id",
    "num_programs",
    "program_ndim",
    "no_reorder",
    "device_print",
    "load",
    "store",
    "load_transpose2d",
    "matmul",
    "transpose",
    "broadcast_to",
    "expand_dims",
    "where",
    "softmax",
    "rms_norm",
    "var",
    "dropout",
    "rand",
    "random_seed",
    "gather_flattened",
    "finfo",
    "fp32",
    "is_hbm",
    "is_on_chip",
    "is_psum",
    "is_sbuf",
    "NKIObject",
)
"""Names of this module that `nki.language` offers under the same name."""

__all__ = [*PUBLIC, "OPERATORS"]
