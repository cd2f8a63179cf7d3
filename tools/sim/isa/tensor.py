"""Tensor Engine (PE): 128x128 systolic matmul accumulating in PSUM, and transposes.

nc_matmul(dst[M, N], stationary[K, M], moving[K, N]) computes stationary^T @ moving. Low-precision products are exact in
float32; accumulation is float32 (NKI ISA reference). Order of accumulation isn't specified.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tools.sim import context, dtypes
from tools.sim.core import common_flags
from tools.sim.indirection import IndirectTensor
from tools.sim.instruction import Engine, Flag, opcode
from tools.sim.isa.enums import matmul_perf_mode
from tools.sim.isa.operands import copy_transposed, forms, on_chip, pick_engine, shaped
from tools.sim.tensor import Tensor

_FP8 = (dtypes.float8_e4m3, dtypes.float8_e4m3fn, dtypes.float8_e5m2)
_MATMUL_TYPES = (dtypes.float32, dtypes.tfloat32, dtypes.bfloat16, dtypes.float16, *_FP8)


def round_tf32(values: Any) -> Any:
    """float32 values rounded to the 10 mantissa bits of tfloat32, to nearest even."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    odd = (bits >> np.uint32(13)) & np.uint32(1)
    rounded = (bits + np.uint32(0x0FFF) + odd) & np.uint32(0xFFFFE000)
    special = (bits & np.uint32(0x7F800000)) == np.uint32(0x7F800000)
    return np.where(special, bits, rounded).view(np.float32)


def _operand(tile: Tensor) -> Any:
    values = tile.read_cached()
    return round_tf32(values) if tile.dtype is dtypes.tfloat32 else values


@opcode(
    "nc_matmul", Engine.TENSOR, kind="matmul", cost="matmul", source="ISA nc_matmul; architecture guide, Tensor Engine"
)
def NC_MATMUL(
    outs: tuple[Tensor, ...], ins: tuple[Tensor, ...], mode: str, double_row: bool, transpose: bool = False
) -> None:
    """dst = (or +=) stationary^T @ moving, accumulated in float32."""
    dst, (stationary, moving) = outs[0], ins
    if transpose and mode == "set" and _passed_through(dst, stationary, moving):
        return
    if double_row:
        k = stationary.shape[0]
        a = stationary.read_float().reshape(k, 2, -1).transpose(1, 0, 2).reshape(2 * k, -1)
        b = moving.read_float().reshape(k, 2, -1).transpose(1, 0, 2).reshape(2 * k, -1)
    else:
        a, b = _operand(stationary), _operand(moving)
    with np.errstate(all="ignore"):
        store_product(dst, a, b, mode)


def _passed_through(dst: Tensor, stationary: Tensor, moving: Tensor) -> bool:
    """Transpose mode: move bits instead of multiplying, if each moving column picks one stationary row."""
    data = stationary.read().reshape(stationary.shape[0], -1)
    choice = _operand(moving)
    rows = choice.argmax(axis=0)
    if not (np.count_nonzero(choice, axis=0) == 1).all() or not (choice[rows, np.arange(choice.shape[1])] == 1).all():
        context.warn(
            "KW-TRANSPOSE-IDENTITY",
            "nc_matmul: is_transpose=True, but moving isn't an identity (or a permutation), so this is a plain matmul",
            operand="moving",
            fix="pass the data as stationary and an identity as moving, or use nc_transpose",
        )
        return False
    dst.write(shaped(data[rows].T, dst.shape))
    return True


def store_product(dst: Tensor, a: Any, b: Any, mode: str) -> None:
    """Write or add a^T @ b to a PSUM view; `mode` is `set`, `add` or `merge` (add only where a group is running)."""
    target = dst.view()
    plain = target.ndim == 2 and target.dtype == np.float32
    if mode == "set":
        if plain and target.flags.c_contiguous:
            np.matmul(a.T, b, out=target)
            dst.wrote()
        else:
            dst.write(shaped(a.T @ b, dst.shape))
        return
    m, n = a.shape[1], b.shape[1]
    product = np.matmul(a.T, b, out=context.current().scratch(m * n).reshape(m, n))
    if mode == "merge":
        running = group_map(dst)
        old = np.where(running, target.astype(np.float32), np.float32(0))
        dst.write(old + shaped(product, dst.shape))
        assert dst.buffer.groups is not None
        dst.buffer.groups[dst.offset, dst.shape, dst.strides, dst.dtype.itemsize] = dst.region()
    elif plain:
        target += product
        dst.wrote()
    else:
        dst.write(target.astype(np.float32) + shaped(product, dst.shape))


def group_map(dst: Tensor) -> Any:
    """Which elements of a PSUM view already belong to a running accumulation group."""
    buffer = dst.buffer
    assert buffer.groups is not None
    size = (buffer.data.size if buffer.data is not None else 0) // buffer.scale
    marks = np.zeros(size, np.uint8)
    for offset, shape, strides, item in buffer.groups:
        np.ndarray(shape, f"V{item}", marks, offset * item, tuple(s * item for s in strides))[...] = np.array(
            b"\1" * item, f"V{item}"
        )
    item = dst.dtype.itemsize
    return np.ndarray(dst.shape, np.uint8, marks, dst.offset * item, tuple(s * item for s in dst.strides)) != 0


def accumulation_mode(dst: Tensor, accumulate: bool | None) -> str:
    """Resolve `accumulate` against the groups that run in this PSUM buffer, and note this write.

    None: the first matmul write to a location since its allocation overwrites, later ones add (ISA nc_matmul). The mode
    `merge` adds where a group already runs and overwrites elsewhere; `store_product` then notes the view.
    """
    buffer = dst.buffer
    key = (dst.offset, dst.shape, dst.strides, dst.dtype.itemsize)
    groups = buffer.groups
    if groups is None:
        groups = buffer.groups = {}
    if accumulate is False:
        groups[key] = dst.region()
        return "set"
    if key in groups:
        return "add"
    region = dst.region()
    row0, row1, byte0, byte1, _ = region
    overlaps = any(a0 < row1 and row0 < a1 and b0 < byte1 and byte0 < b1 for a0, a1, b0, b1, _ in groups.values())
    if accumulate:
        if not overlaps:
            _foreign_accumulation(dst)
        groups[key] = region
        return "add"
    if overlaps and context.current().settle():
        return "merge"
    groups[key] = region
    return "merge" if overlaps else "set"


def _foreign_accumulation(dst: Tensor) -> None:
    """Warn about accumulate=True onto what no matmul wrote: undefined when nothing did, and before trn3 in any case."""
    core = context.current()
    if dst.buffer.from_data:
        return
    buffer = dst.buffer
    fresh = buffer.pending and buffer.written is None and buffer.coverage is None and not buffer.cells
    if fresh or core.machine.generation < 4:
        what = "nothing has" if fresh else "no matmul has"
        context.warn(
            "KW-PSUM-ACCUMULATE",
            f"accumulate=True adds to {dst!r}, which {what} written"
            + ("" if fresh else f"; onto data of other engines that is undefined on {core.machine.name}"),
            operand="dst",
            fix="start the group with accumulate=False (or None on a fresh tile)",
        )
    if fresh and core.settle():
        dst.read()


def _flat2(tile: Tensor) -> tuple[int, int]:
    return tile.shape[0], tile.size // tile.shape[0]


def nc_matmul(
    dst: Tensor,
    stationary: Tensor,
    moving: Tensor,
    is_stationary_onezero: bool = False,
    is_moving_onezero: bool = False,
    is_transpose: bool = False,
    accumulate: bool | None = None,
    tile_position: Any = (),
    tile_size: Any = (),
    perf_mode: Any = matmul_perf_mode.none,
    name: str | None = None,
) -> None:
    """dst[M, N] (PSUM) = or += stationary[K, M]^T @ moving[K, N].

    Args:
        dst: PSUM tile [M, N]; float32, or on trn3 bfloat16; in transpose mode the type of the moving data.
        stationary: SBUF tile [K, M], K and M at most 128.
        moving: SBUF tile [K, N], N at most 512 (trn3: 4096 for float32 results).
        is_stationary_onezero, is_moving_onezero: the operand holds only 0 and 1 (speed hint for float32).
        is_transpose: dst = stationary^T bit for bit, moving being an identity; from trn2 on (before, a plain matmul).
        accumulate: False overwrites, True adds, None overwrites on the first write since allocation and then adds.
        tile_position, tile_size: PE tiling; limits only, no effect on values.
        perf_mode: double_row takes fp8 operands [K, 2, M] and [K, 2, N], contracting over 2K.
    """
    core = context.current()
    machine = core.machine
    key = _matmul_key(dst, stationary, moving, is_transpose) if perf_mode is _NO_MODE and not tile_size else None
    found = core.legal.get(key) if key is not None else None
    if found is None:
        dst, stationary, moving, *found = _check_matmul(
            dst, stationary, moving, is_transpose, tile_position, tile_size, perf_mode
        )
        if key is not None:
            core.legal[key] = found
    k, m, n, flags, double_row = found
    if is_stationary_onezero or is_moving_onezero:
        flags |= Flag.ONEZERO
    if is_transpose:
        flags |= Flag.TRANSPOSE
    if isinstance(dst, IndirectTensor):
        if accumulate is not False:
            context.unsupported("nc_matmul into an indirect dst without accumulate=False")
        mode = "set"
    else:
        mode = accumulation_mode(dst, accumulate if not is_transpose else (accumulate or False))
    if mode != "set":
        flags |= Flag.ACCUMULATE
    core.issue(
        NC_MATMUL,
        Engine.TENSOR,
        (dst,),
        (stationary, moving),
        free=n,
        partitions=k,
        aux=m,
        flags=flags,
        update=mode != "set",
        params={"mode": mode, "double_row": double_row, "transpose": is_transpose and machine.generation >= 3},
    )


_NO_MODE = matmul_perf_mode.none


_INDIRECT_TYPES = (
    dtypes.float16, dtypes.bfloat16, dtypes.float8_e4m3, dtypes.float8_e5m2, dtypes.float8_e4m3fn,
)  # fmt: skip
"""Types of indirect matmul operands (ISA nc_matmul, "Tensor indirection")."""


def _indirect_matmul(stationary: Tensor, moving: Tensor, is_transpose: bool, tile_position: Any) -> None:
    """What nc_matmul asks of indirect operands."""
    for tile, label in ((stationary, "stationary"), (moving, "moving")):
        if not isinstance(tile, IndirectTensor):
            continue
        if tile.dtype not in _INDIRECT_TYPES:
            names = ", ".join(map(str, _INDIRECT_TYPES))
            context.fail(
                "KW-MATMUL-DTYPE",
                f"nc_matmul: the indirect {label} is {tile.dtype}; it must be one of {names}",
                operand=label,
                found=str(tile.dtype),
                limit=names,
                fix="cast it to a 16-bit or 8-bit float type",
            )
        if (is_transpose and label == "moving") or (tile_position and tuple(tile_position) != (0, 0)):
            context.fail(
                "KW-INDIRECT-OPERAND",
                f"nc_matmul: {label} can't be indirect with is_transpose or a tile_position",
                operand=label,
                limit="is_transpose=False, tile_position=(0, 0)",
                fix="gather it first with tensor_copy(tile, view.indirect(index))",
            )


def _matmul_key(dst: Any, stationary: Any, moving: Any, is_transpose: Any) -> Any:
    """What the checks of a matmul depend on; None when its operands aren't plain views."""
    if not (isinstance(dst, Tensor) and isinstance(stationary, Tensor) and isinstance(moving, Tensor)):
        return None
    home, left, right = dst.buffer, stationary.buffer, moving.buffer
    if dst.rows is not None or stationary.rows is not None or moving.rows is not None:
        return None
    return (
        dst.shape, dst.dtype.code, home.space, stationary.shape, stationary.dtype.code, left.space,
        moving.shape, moving.dtype.code, right.space, is_transpose,
    )  # fmt: skip


def _check_matmul(
    dst: Tensor, stationary: Tensor, moving: Tensor, is_transpose: bool, tile_position: Any, tile_size: Any,
    perf_mode: Any,
) -> tuple[Tensor, Tensor, Tensor, int, int, int, int, bool]:  # fmt: skip
    """The operands, K, M, N, the flags that follow from their types, and whether double_row is on."""
    api = "nc_matmul"
    machine = context.current().machine
    dst = on_chip(dst, "dst", api=api)
    stationary = on_chip(stationary, "stationary", api=api, sbuf_only=True)
    moving = on_chip(moving, "moving", api=api, sbuf_only=True)
    if context.current().indirection:
        _indirect_matmul(stationary, moving, is_transpose, tile_position)
    if dst.buffer.space != "psum":
        context.fail(
            "KW-MATMUL-DST",
            f"{api}: dst lies in {dst.space.upper()}; the Tensor Engine writes only PSUM",
            operand="dst",
            found=dst.space,
            limit="psum",
            fix="allocate dst with buffer=nl.psum, then tensor_copy it to SBUF",
        )
    k, m = _flat2(stationary)
    k2, n = _flat2(moving)
    double_row = getattr(perf_mode, "name", perf_mode) in ("double_row", "double_row_gen3")
    if double_row:
        _check_double_row(stationary, moving, machine.generation)
        m, n = m // 2, n // 2
    if k != k2:
        context.fail(
            "KW-MATMUL-K",
            f"{api}: stationary has {k} partitions, moving has {k2}; both carry the contraction dimension",
            operand="moving",
            found=k2,
            limit=k,
            fix="lay both operands out as [K, ...] with the contraction on partitions (nc_transpose or dma_transpose)",
        )
    if m > machine.gemm_stationary_fmax:
        context.fail(
            "KW-MATMUL-STATIONARY",
            f"{api}: stationary free size {m} exceeds {machine.gemm_stationary_fmax}",
            operand="stationary",
            found=m,
            limit=machine.gemm_stationary_fmax,
            fix="tile M into pieces of 128",
        )
    limit = machine.gemm_moving_fmax
    if machine.generation >= 4:
        limit = 8192 if dst.dtype.itemsize == 2 else 4096
    if n > limit:
        context.fail(
            "KW-MATMUL-MOVING",
            f"{api}: moving free size {n} exceeds {limit}",
            operand="moving",
            found=n,
            limit=limit,
            fix=f"tile N into pieces of {limit}",
        )
    if _flat2(dst) != (m, n):
        context.fail(
            "KW-MATMUL-SHAPE",
            f"{api}: dst is {list(dst.shape)}, stationary^T @ moving is [{m}, {n}]",
            operand="dst",
            found=list(dst.shape),
            limit=[m, n],
            fix=f"slice dst to [{m}, {n}]",
        )
    flags = _matmul_types(dst, stationary, moving, is_transpose, machine.generation)
    _check_tiling(tile_position, tile_size, machine.generation)
    if double_row:
        flags |= Flag.DOUBLE_ROW
    return dst, stationary, moving, k, m, n, flags, double_row


def _check_double_row(stationary: Tensor, moving: Tensor, generation: int) -> None:
    for tile, label in ((stationary, "stationary"), (moving, "moving")):
        if generation < 3 or tile.dtype not in _FP8 or tile.ndim < 3 or tile.shape[1] != 2:
            context.fail(
                "KW-DOUBLE-ROW",
                f"nc_matmul: double_row needs fp8 operands [K, 2, F] on trn2 or later; {label} is {tile!r}",
                operand=label,
                fix="cast to fp8 and give the free dimensions as [2, F], or drop perf_mode",
            )


def _check_tiling(position: Any, size: Any, generation: int) -> None:
    if not size:
        return
    rows, columns = (int(n) for n in size)
    legal = (32, 64, 128) if generation >= 3 else (64, 128)
    row, column = (int(n) for n in position) if position else (0, 0)
    if (
        rows not in legal
        or columns not in legal
        or row % rows
        or column % columns
        or row + rows > 128
        or column + columns > 128
    ):
        context.fail(
            "KW-PE-TILE",
            f"nc_matmul: tile_position {position} with tile_size {size} isn't a tile of the PE array",
            operand="tile_position",
            found=str(position),
            limit=f"sizes {legal}, positions at multiples of the size",
            fix="use sizes 32 (trn2 and later), 64 or 128 at multiples of themselves",
        )


def _matmul_types(dst: Tensor, stationary: Tensor, moving: Tensor, is_transpose: bool, generation: int) -> int:
    a, b = stationary.dtype, moving.dtype
    if is_transpose and generation >= 3:
        if dst.dtype is not a and dst.dtype is not dtypes.float32 and not (a.itemsize == 1 and dst.dtype.itemsize == 2):
            _transpose_dtype(dst, stationary)
        return Flag.FP32 if a.itemsize == 4 else 0
    for tile, label in ((stationary, "stationary"), (moving, "moving")):
        if tile.dtype not in _MATMUL_TYPES:
            context.fail(
                "KW-MATMUL-DTYPE",
                f"nc_matmul: {label} is {tile.dtype}; the PE takes {', '.join(map(str, _MATMUL_TYPES))}",
                operand=label,
                found=str(tile.dtype),
                fix="cast it to a float type",
            )
    wide_a, wide_b = a.itemsize == 4, b.itemsize == 4
    if wide_a != wide_b:
        context.fail(
            "KW-MATMUL-DTYPE",
            f"nc_matmul: stationary is {a} and moving is {b}; float32 can only be paired with float32 or tfloat32",
            operand="moving",
            found=str(b),
            limit=str(a),
            fix="cast one operand so that both are float32, or neither is",
        )
    for tile, label in ((stationary, "stationary"), (moving, "moving")):
        if tile.dtype is dtypes.float8_e4m3fn and generation < 4:
            context.fail(
                "KW-MATMUL-DTYPE",
                f"nc_matmul: {label} is float8_e4m3fn, which the Tensor Engine takes from trn3 on",
                operand=label,
                found="float8_e4m3fn",
                limit="float8_e4m3 or float8_e5m2",
                fix="cast it to nl.float8_e4m3 (largest value 240), or target trn3",
            )
    if {a, b} == {dtypes.float8_e4m3, dtypes.float8_e4m3fn}:
        context.fail(
            "KW-MATMUL-DTYPE",
            "nc_matmul: float8_e4m3 and float8_e4m3fn can't be mixed",
            operand="moving",
            fix="cast one operand so that both have the same float8 format",
        )
    if dst.dtype is not dtypes.float32 and not (generation >= 4 and dst.dtype is dtypes.bfloat16):
        context.fail(
            "KW-MATMUL-DST-DTYPE",
            f"nc_matmul: dst is {dst.dtype}; it must be float32 before trn3",
            operand="dst",
            found=str(dst.dtype),
            limit="float32",
            fix="allocate the PSUM tile as nl.float32 and cast when copying it out",
        )
    flags = 0
    if wide_a and dtypes.float32 in (a, b):
        flags |= Flag.FP32
    if a.itemsize == 1 and b.itemsize == 1:
        flags |= Flag.FP8
    return flags


def _transpose_dtype(dst: Tensor, data: Tensor) -> None:
    context.fail(
        "KW-TRANSPOSE-DTYPE",
        f"transpose: dst is {dst.dtype} but data is {data.dtype}; they must be equal",
        operand="dst",
        found=str(dst.dtype),
        limit=str(data.dtype),
        fix=f"allocate dst as {data.dtype}",
    )


@opcode("nc_transpose", Engine.TENSOR, Engine.VECTOR, kind="matmul", cost="transpose", source="ISA nc_transpose")
def NC_TRANSPOSE(outs: tuple[Tensor, ...], ins: tuple[Tensor, ...]) -> None:
    """dst[F, P] = data[P, F] transposed, bit for bit."""
    dst, data = outs[0], ins[0]
    values, target = data.read(), dst.view()
    if values.ndim == 2 and target.ndim == 2 and values.dtype == target.dtype:
        copy_transposed(target, values)
        dst.wrote()
    else:
        dst.write(shaped(values.reshape(data.shape[0], -1).T, dst.shape))


def nc_transpose(dst: Tensor, data: Tensor, engine: Any = None, name: str | None = None) -> None:
    """dst[F, P] = data[P, F] with partition and free dimensions swapped.

    Args:
        dst: tile [F, P]; PSUM for the Tensor Engine; dtype equal to data's.
        data: tile [P, F]; at most 128x128 on the Tensor Engine (from SBUF), 32x32 on the Vector Engine.
        engine: by default the Tensor Engine when dst is in PSUM, else the Vector Engine.
    """
    core = context.current()
    key = forms(dst, data)
    known = core.legal.get((NC_TRANSPOSE.code, id(engine), key)) if key is not None else None
    if known is None:
        known = _check_transpose(dst, data, engine)
        if key is not None:
            core.legal[NC_TRANSPOSE.code, id(engine), key] = known
    unit, p, f, flags = known
    if dst.buffer.groups is None and dst.buffer.space == "psum":
        dst.buffer.groups = {}
    core.issue(
        NC_TRANSPOSE, unit, (dst,), (data,), free=p if unit is Engine.TENSOR else f, partitions=p, aux=f, flags=flags
    )


def _check_transpose(dst: Any, data: Any, engine: Any) -> tuple[Engine, int, int, int]:
    """Engine, partitions and elements of the data, and flags."""
    api = "nc_transpose"
    generation = context.current().machine.generation
    dst = on_chip(dst, "dst", api=api)
    data = on_chip(data, "data", api=api)
    p, f = _flat2(data)
    default = (Engine.TENSOR, Engine.VECTOR) if dst.buffer.space == "psum" else (Engine.VECTOR, Engine.TENSOR)
    if default[0] is Engine.TENSOR and data.buffer.space == "psum":
        default = (Engine.VECTOR, Engine.TENSOR)
    unit = pick_engine(engine, default, api=api)
    limit = 128 if unit is Engine.TENSOR else 32
    if p > limit or f > limit:
        context.fail(
            "KW-TRANSPOSE-SIZE",
            f"{api}: data {list(data.shape)} is larger than {limit}x{limit}, the {unit.name.title()} Engine's limit",
            operand="data",
            found=[p, f],
            limit=[limit, limit],
            fix="transpose in pieces" + (", or put dst in PSUM to use the Tensor Engine" if limit == 32 else ""),
        )
    if _flat2(dst) != (f, p):
        context.fail(
            "KW-SHAPE-MISMATCH",
            f"{api}: dst is {list(dst.shape)}, the transpose of data is [{f}, {p}]",
            operand="dst",
            found=list(dst.shape),
            limit=[f, p],
            fix=f"give dst the shape [{f}, {p}]",
        )
    if unit is Engine.TENSOR:
        if data.buffer.space != "sbuf" or dst.buffer.space != "psum":
            context.fail(
                "KW-PLACEMENT",
                f"{api}: the Tensor Engine reads SBUF and writes PSUM; data is in {data.space}, dst in {dst.space}",
                operand="dst",
                fix="put data in SBUF and dst in PSUM, or use the Vector Engine",
            )
        # before NeuronCore-v3 a transpose is a matmul with the identity, whose result may be float32
        widened = generation < 3 and dst.dtype is dtypes.float32 and data.dtype.is_float
        if dst.dtype.itemsize != data.dtype.itemsize and not widened:
            _transpose_dtype(dst, data)
    return unit, p, f, common_flags(dst, data) | Flag.TRANSPOSE | (Flag.FP32 if data.dtype.itemsize == 4 else 0)
