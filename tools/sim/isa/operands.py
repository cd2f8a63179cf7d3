"""Checks that many instructions share: what an operand is, where it lies, how shapes must agree."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tools.sim import context
from tools.sim.dtypes import DType
from tools.sim.indirection import IndirectTensor, operand_rules
from tools.sim.instruction import Engine
from tools.sim.isa.enums import engine as engine_enum
from tools.sim.tensor import Outside, Tensor


def forms(*values: Any) -> tuple[Any, ...] | None:
    """What an instruction's checks and cost flags depend on, for operands that are plain views; None for others."""
    key: list[Any] = []
    for value in values:
        if not isinstance(value, Tensor) or value.rows is not None:
            return None
        key += (value.shape, value.strides, value.dtype.code, value.buffer.space)
    return tuple(key)


def tensor(value: Any, name: str, *, api: str) -> Tensor:
    """`value`, which must be a tensor with at least one element."""
    if isinstance(value, Tensor) and 0 in value.shape:
        context.fail(
            "KW-EMPTY-SLICE",
            f"{api}: {name} {list(value.shape)} of {value.name or 'the tensor'} holds no element",
            operand=name,
            found=list(value.shape),
            fix="skip the instruction when nothing is left to do",
        )
    if not isinstance(value, Tensor):
        context.fail(
            "KW-OPERAND-TYPE",
            f"{api}: {name} is {type(value).__name__} {value!r}, not a tensor"[:300],
            operand=name,
            found=type(value).__name__,
            fix=f"the destination comes first: {api}(dst, ...)"
            if callable(value)  # an operator where a tile belongs: the arguments are one place off
            else f"pass a tensor or a slice of one as {name}",
        )
    if type(value) is IndirectTensor:
        operand_rules(value, name, api)
    return value


def inside(tile: Tensor, name: str, *, api: str) -> None:
    """Refuse a view that reaches outside its tensor."""
    if isinstance(tile.rows, Outside):
        tile.rows.refuse(tile, f"{api}: {name}", name)


def on_chip(value: Any, name: str, *, api: str, sbuf_only: bool = False) -> Tensor:
    """`value`, which must be a tile in SBUF or PSUM with at most 128 partitions."""
    tile = value if isinstance(value, Tensor) and 0 not in value.shape else tensor(value, name, api=api)
    if type(tile) is IndirectTensor:
        operand_rules(tile, name, api)
    elif tile.rows is not None:
        inside(tile, name, api=api)
    space = tile.buffer.space
    if not tile.buffer.on_chip:
        context.fail(
            "KW-PLACEMENT",
            f"{api}: {name} lies in {space.upper()}; engines read and write only SBUF and PSUM",
            operand=name,
            found=space,
            limit="sbuf" if sbuf_only else "sbuf or psum",
            fix="nisa.dma_copy it into an SBUF tile first"
            if name != "dst"
            else "write an SBUF tile, then dma_copy it out",
        )
    if sbuf_only and space != "sbuf":
        context.fail(
            "KW-PLACEMENT",
            f"{api}: {name} lies in PSUM but must be in SBUF",
            operand=name,
            found=space,
            limit="sbuf",
            fix="tensor_copy it to an SBUF tile first",
        )
    limit = context.current().machine.partitions
    if tile.shape[0] > limit:
        context.fail(
            "KW-PARTITION-LIMIT",
            f"{api}: {name} partition dimension {tile.shape[0]} exceeds maximum {limit}",
            operand=name,
            found=tile.shape[0],
            limit=limit,
            fix=f"tile dimension 0 into pieces of {limit}",
        )
    return tile


def pick_engine(value: Any, allowed: tuple[Engine, ...], *, api: str) -> Engine:
    """The engine asked for; the first allowed one when none was."""
    if value is None:
        return allowed[0]
    chosen = value.value if isinstance(value, engine_enum) else value
    if not isinstance(chosen, Engine):
        context.fail(
            "KW-ENGINE",
            f"{api}: engine={value!r} is no engine",
            operand="engine",
            fix="use nisa.vector_engine and the like",
        )
    if chosen is Engine.UNKNOWN:
        return allowed[0]
    if chosen not in allowed:
        names = ", ".join(f"nisa.{e.name.lower()}_engine" for e in allowed)
        context.fail(
            "KW-ENGINE",
            f"{api} can't run on the {chosen.name.title()} Engine",
            operand="engine",
            found=chosen.name.lower(),
            limit=names,
            fix=f"use {names}",
        )
    return chosen


def names_engine(value: Any) -> bool:
    """Whether an `engine` argument asks for a particular engine."""
    chosen = value.value if isinstance(value, engine_enum) else value
    return chosen is not None and chosen is not Engine.UNKNOWN


def forbid_psum_on_gpsimd(engine: Engine, tiles: tuple[Tensor, ...], *, api: str) -> None:
    """GpSimd has no path to PSUM (architecture guide, memory reachability)."""
    if engine is Engine.GPSIMD:
        for tile in tiles:
            if tile.buffer.space == "psum":
                context.fail(
                    "KW-GPSIMD-PSUM",
                    f"{api}: the GpSimd Engine can't access PSUM ({tile!r})",
                    operand=tile.name,
                    fix="use the Vector or Scalar Engine, or copy the tile to SBUF first",
                )


def forbid_two_psum(a: Tensor, b: Tensor, names: tuple[str, str], *, api: str) -> None:
    """Vector instructions may read only one of two tensor inputs from PSUM (ISA: tensor_tensor and kin)."""
    if a.buffer.space == "psum" and b.buffer.space == "psum":
        context.fail(
            "KW-TWO-PSUM",
            f"{api}: {names[0]} and {names[1]} are both in PSUM; at most one input may be",
            operand=names[1],
            fix=f"tensor_copy {names[1]} to SBUF first",
        )


def same_partitions(*named: tuple[str, Tensor], api: str) -> int:
    """The common partition count of all operands."""
    first_name, first = named[0]
    p = first.shape[0]
    for name, tile in named[1:]:
        if tile.shape[0] != p:
            context.fail(
                "KW-PARTITION-MISMATCH",
                f"{api}: {name} has {tile.shape[0]} partitions, {first_name} has {p}",
                operand=name,
                found=tile.shape[0],
                limit=p,
                fix="slice both to the same partitions; move data across partitions by DMA, transpose or matmul",
            )
    return p


def same_free(*named: tuple[str, Tensor], api: str) -> int:
    """The common number of elements per partition of all operands."""
    first_name, first = named[0]
    n = first.size // first.shape[0]
    for name, tile in named[1:]:
        m = tile.size // tile.shape[0]
        if m != n:
            hint = (
                "broadcast it: use tensor_scalar for a [P, 1] operand, or .broadcast_to"
                if m == 1
                else "make the shapes equal"
            )
            context.fail(
                "KW-SHAPE-MISMATCH",
                f"{api}: {name} {list(tile.shape)} has {m} elements a partition, {first_name} {list(first.shape)} has {n}",
                operand=name,
                found=m,
                limit=n,
                fix=hint,
            )
    return n


def lane_scalar(value: Any, name: str, partitions: int, *, api: str) -> Tensor | float:
    """An operand that is one number for all lanes, or a [P, 1] tile with one number a lane."""
    if isinstance(value, Tensor):
        tile = on_chip(value, name, api=api)
        if tile.size != tile.shape[0]:
            context.fail(
                "KW-LANE-SCALAR",
                f"{api}: {name} {list(tile.shape)} must have one element a partition",
                operand=name,
                found=list(tile.shape),
                limit=f"[{partitions}, 1]",
                fix="pass a [P, 1] tile; use tensor_tensor for full tiles",
            )
        if tile.shape[0] != partitions:
            same_partitions(("data", _Like(partitions)), (name, tile), api=api)  # type: ignore[arg-type]
        return tile
    if isinstance(value, bool | int | float | np.integer | np.floating):
        return value  # type: ignore[return-value]
    if isinstance(value, np.ndarray) and value.size == 1:
        return float(value.reshape(-1)[0])
    resolve = getattr(value, "__index_value__", None)
    if resolve is not None:
        return float(resolve())
    context.fail(
        "KW-OPERAND-TYPE",
        f"{api}: {name} is {type(value).__name__}, not a number or a [P, 1] tile",
        operand=name,
        fix="pass a Python number or a [P, 1] tile",
    )


class _Like:
    """Stands for a tile of which only the partition count matters."""

    def __init__(self, partitions: int) -> None:
        self.shape = (partitions, 1)


def lane_values(value: Tensor | float, ndim: int) -> Any:
    """The number, or the lanes' numbers as float32 [P, 1, ...] ready to broadcast over `ndim` dimensions."""
    if isinstance(value, Tensor):
        return value.read_float().reshape(value.shape[0], *([1] * (ndim - 1)))
    return np.float32(value)


def lane_bits(value: Tensor | float, ndim: int, dtype: np.dtype[Any]) -> Any:
    """Like `lane_values` for bitwise operators: raw integers of `dtype`."""
    if isinstance(value, Tensor):
        return value.read().reshape(value.shape[0], *([1] * (ndim - 1)))
    return np.array(int(value)).astype(dtype)


def shaped(values: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    """`values` under `shape` (same number of elements)."""
    return values if values.shape == shape else values.reshape(shape)


_CACHE_PITCH = 1024
"""Bytes. Rows a multiple of it apart share so few sets of a first-level cache that a column of them doesn't stay there."""

_SQUARE = 128
"""Rows and columns of the blocks that are transposed one by one then."""


def copy_transposed(target: NDArray[Any], source: NDArray[Any]) -> None:
    """target [F, P] = source [P, F] transposed, quickly wherever the rows of the source lie."""
    if len(source) == 1 or (source.strides[0] % _CACHE_PITCH and len(source) <= _SQUARE):
        target[...] = source.T
        return
    room = np.empty((_SQUARE, _SQUARE + 1), source.dtype)  # rows of odd length: their columns stay in the cache
    for row in range(0, source.shape[0], _SQUARE):
        for column in range(0, source.shape[1], _SQUARE):
            block = source[row : row + _SQUARE, column : column + _SQUARE]
            moved = room[: block.shape[0], : block.shape[1]]
            moved[...] = block
            target[column : column + _SQUARE, row : row + _SQUARE] = moved.T


def transposed(values: NDArray[Any]) -> NDArray[Any]:
    """`values` [P, F] transposed: a contiguous copy [F, P]."""
    turned = np.empty(values.shape[::-1], values.dtype)
    copy_transposed(turned, values)
    return turned


def _overlaps_itself(tile: Tensor) -> bool:
    """Whether several elements of a view may share memory, as in a scratch tile that is repeated by stride 0."""
    reach = 1
    for stride, n in sorted((abs(s), n) for s, n in zip(tile.strides, tile.shape) if n > 1):
        if stride < reach:
            return True
        reach += stride * (n - 1)
    return False


def result_room(dst: Tensor, x: NDArray[Any], *lanes: Any) -> NDArray[Any] | None:
    """The memory of a float32 `dst` when a result shaped like `x` may be computed right there, else None.

    Args:
        lanes: operands that are still read after the first write to it: none of them may lie in the same buffer.
    """
    target = dst.view()
    if target.dtype != np.float32 or target.shape != x.shape or _overlaps_itself(dst):
        return None
    if any(isinstance(lane, Tensor) and lane.buffer is dst.buffer for lane in lanes):
        return None
    room: NDArray[Any] = target
    return room


def is_tensor(*values: Any) -> tuple[Tensor, ...]:
    """Those of `values` that are tensors."""
    return tuple(v for v in values if isinstance(v, Tensor))


def require_dtype(tile: Tensor, name: str, allowed: tuple[DType, ...], *, api: str) -> None:
    """Refuse a tile of another type."""
    if tile.dtype not in allowed:
        names = ", ".join(map(str, allowed))
        context.fail(
            "KW-DTYPE",
            f"{api}: {name} is {tile.dtype}; it must be one of {names}",
            operand=name,
            found=str(tile.dtype),
            limit=names,
            fix="allocate or cast it to a supported type",
        )


_NAMES = {2: "trn1", 3: "trn2", 4: "trn3"}


def require_generation(minimum: int, *, api: str, operand: str = "") -> None:
    """Refuse an instruction (or the use of an argument) that older NeuronCores don't have."""
    machine = context.current().machine
    if machine.generation < minimum:
        context.fail(
            "KW-GENERATION",
            f"{api} needs NeuronCore-v{minimum} ({_NAMES[minimum]}) or later; the target is {machine.name}",
            operand=operand,
            found=machine.name,
            limit=_NAMES[minimum],
            fix=f"target {_NAMES[minimum]}, or write it with instructions that {machine.name} has",
        )


def require_size(tile: Tensor, name: str, low: int, high: int, *, api: str) -> int:
    """Elements per partition of `tile`, which must lie in [low, high]."""
    n = tile.size // tile.shape[0]
    if not low <= n <= high:
        context.fail(
            "KW-SIZE-RANGE",
            f"{api}: {name} has {n} elements a partition; {low} to {high} are allowed",
            operand=name,
            found=n,
            limit=f"{low}..{high}",
            fix="work on pieces of legal size" if n > high else "pad the tile",
        )
    return n


def require_free(tile: Tensor, name: str, count: int, *, api: str) -> None:
    """Refuse a tile that doesn't have exactly `count` elements per partition."""
    n = tile.size // tile.shape[0]
    if n != count:
        context.fail(
            "KW-SHAPE-MISMATCH",
            f"{api}: {name} {list(tile.shape)} must have {count} elements a partition, it has {n}",
            operand=name,
            found=n,
            limit=count,
            fix=f"slice {name} to [{tile.shape[0]}, {count}]",
        )


def start_partition(tile: Tensor, name: str, active: int, *, api: str) -> None:
    """Warn when an access of `active` partitions starts where the hardware can't (architecture guide; ISA)."""
    start = tile.start_partition + (tile.buffer.address[0] if tile.buffer.address else 0)
    step = 128 if active > 64 else 64 if active > 32 else 32
    if start % step:
        context.warn(
            "KW-START-PARTITION",
            f"{api}: {name} covers {active} partitions from partition {start} on",
            operand=name,
            found=start,
            limit=f"multiples of {step}" if step < 128 else "0",
            fix="place the data at a legal start partition (0, 32, 64 or 96 for up to 32 partitions)",
        )
