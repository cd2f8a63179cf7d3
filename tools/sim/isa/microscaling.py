"""OCP microscaling (MX) formats: quantisation on the Vector Engine, matmul with built-in dequantisation on the PE.

A group is 8 partitions x 4 packed elements and shares one scale 2**(e - 127). Four elements lie in one packed element,
the first in its lowest bits. The scales of quadrant q lie in the first four partitions of that quadrant, one partition a
group (ISA quantize_mx, nc_matmul_mx; MX deep dive).
"""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from tools.sim import context, dtypes
from tools.sim.core import common_flags
from tools.sim.instruction import Effect, Engine, Flag, opcode
from tools.sim.isa.operands import on_chip, require_dtype, require_free, require_generation, shaped
from tools.sim.isa.tensor import accumulation_mode, store_product
from tools.sim.tensor import Tensor

Outs = tuple[Tensor, ...]
BIAS = 127
GROUP = 8
"""Partitions that share a scale."""
_ELEMENTS: dict[dtypes.DType, tuple[Any, int, float]] = {
    dtypes.float8_e4m3fn_x4: (ml_dtypes.float8_e4m3fn, 8, 448.0),
    dtypes.float8_e5m2_x4: (ml_dtypes.float8_e5m2, 15, 57344.0),
}
"""Element type, largest exponent and largest value of the packed types that quantize_mx can write."""
_SCALES = (dtypes.uint8, dtypes.float8_e8m0fnu)


def unpack(values: NDArray[Any], dtype: dtypes.DType) -> NDArray[np.float32]:
    """The four elements of each packed one as float32, shape [..., 4]."""
    values = np.ascontiguousarray(values)
    if dtype is dtypes.float4_e2m1fn_x4:
        nibbles = (values[..., None] >> np.arange(0, 16, 4, dtype=np.uint16)) & np.uint16(0xF)
        return nibbles.astype(np.uint8).view(ml_dtypes.float4_e2m1fn).astype(np.float32)
    element = _ELEMENTS[dtype][0]
    return values.view(np.uint8).reshape(*values.shape, 4).view(element).astype(np.float32)


def scale_rows(partitions: int) -> NDArray[np.int64]:
    """Row of the scale tile that belongs to each group of 8 partitions."""
    group = np.arange(partitions // GROUP)
    return group // 4 * 32 + group % 4


def scale_factors(tile: Tensor, partitions: int, columns: int) -> NDArray[np.float32]:
    """2**(scale - 127) for every partition and column, float32 [partitions, columns]."""
    rows = scale_rows(partitions)
    if tile.buffer.pending:
        for first in range(0, len(rows), 4):
            row = int(rows[first])
            tile[row : row + min(4, len(rows) - first)].read()
    raw = np.ascontiguousarray(tile.view().reshape(tile.shape[0], -1)[rows][:, :columns]).view(np.uint8)
    factors = np.ldexp(np.float32(1), raw.astype(np.int32) - BIAS).astype(np.float32)
    factors[raw == 255] = np.nan  # e8m0's NaN
    return np.repeat(factors, GROUP, axis=0)


@opcode("quantize_mx", Engine.VECTOR, cost="vector", source="ISA quantize_mx", effect=Effect.BEYOND)
def QUANTIZE_MX(outs: Outs, ins: Outs) -> None:
    """MXFP8 data and one power-of-two scale for each group of 8 partitions x 4 elements."""
    dst, scale = outs
    p = dst.shape[0]
    x = ins[0].read_float().reshape(p, -1)
    element, top, largest = _ELEMENTS[dst.dtype]
    peak = np.abs(x).reshape(p // GROUP, GROUP, -1, 4).max(axis=(1, 3))
    with np.errstate(all="ignore"):
        _, exponent = np.frexp(peak)
        shift = np.clip(np.where(peak > 0, exponent - 1 - (top - 1), -BIAS), -BIAS, BIAS)
        wide = np.repeat(np.repeat(shift, GROUP, axis=0), 4, axis=1)
        narrow = np.clip(np.ldexp(x, -wide), -largest, largest).astype(element)
    packed = np.ascontiguousarray(narrow).view(np.uint8).reshape(p, -1, 4).view(np.uint32)
    dst.write(shaped(packed, dst.shape))
    rows = scale_rows(p)
    raw = np.where(np.isfinite(peak), shift + BIAS, 255).astype(np.uint8)
    target = scale.view()
    target.reshape(scale.shape[0], -1)[rows] = raw.view(target.dtype)
    for first in range(0, len(rows), 4):
        row = int(rows[first])
        scale[row : row + min(4, len(rows) - first)].wrote()


def quantize_mx(dst: Tensor, src: Tensor, dst_scale: Tensor, name: str | None = None) -> None:
    """Quantise to MXFP8; trn3 and later.

    Args:
        dst: SBUF tile [P, F / 4], float8_e4m3fn_x4 or float8_e5m2_x4.
        src: float16 or bfloat16 SBUF tile [P, F], P a multiple of 32, F of 4.
        dst_scale: uint8 or float8_e8m0fnu SBUF tile with F / 4 columns; scales land in the first four partitions of each
            quadrant. exponent = floor(log2(largest)) - (Emax - 1).
    """
    api = "quantize_mx"
    require_generation(4, api=api)
    dst = on_chip(dst, "dst", api=api, sbuf_only=True)
    src = on_chip(src, "src", api=api, sbuf_only=True)
    scale = on_chip(dst_scale, "dst_scale", api=api, sbuf_only=True)
    require_dtype(src, "src", (dtypes.float16, dtypes.bfloat16), api=api)
    require_dtype(dst, "dst", tuple(_ELEMENTS), api=api)
    require_dtype(scale, "dst_scale", _SCALES, api=api)
    p = src.shape[0]
    n = src.size // p
    if dst.shape[0] != p or p % 32 or n % 4:
        context.fail(
            "KW-MX-SHAPE",
            f"{api}: src {list(src.shape)} to dst {list(dst.shape)}; partitions must be equal and a multiple of 32, the "
            "elements a partition a multiple of 4",
            operand="src",
            found=list(src.shape),
            limit="[32k, 4n]",
            fix="pad src",
        )
    require_free(dst, "dst", n // 4, api=api)
    _check_scale(scale, "dst_scale", p, n // 4, api)
    context.current().issue(
        QUANTIZE_MX,
        Engine.VECTOR,
        (dst, scale),
        (src,),
        free=n // 4,
        partitions=p,
        flags=common_flags(src) | Flag.MX,
    )


def _check_scale(scale: Tensor, name: str, partitions: int, columns: int, api: str) -> None:
    last = int(scale_rows(partitions)[-1])
    if scale.shape[0] <= last or scale.size // scale.shape[0] < columns:
        context.fail(
            "KW-MX-SCALE",
            f"{api}: {name} {list(scale.shape)} is too small: the scales of {partitions} partitions reach row {last} and "
            f"have {columns} columns",
            operand=name,
            found=list(scale.shape),
            limit=[last + 1, columns],
            fix=f"allocate {name} as [{partitions if partitions > 32 else 4}, {columns}]",
        )


@opcode("nc_matmul_mx", Engine.TENSOR, kind="matmul", cost="matmul", source="ISA nc_matmul_mx; MX deep dive")
def NC_MATMUL_MX(outs: Outs, ins: Outs, mode: str) -> None:
    """dst = (or +=) dequantised stationary^T @ dequantised moving, contracted over partitions and packed elements."""
    product = [_dequantised(data, scale) for data, scale in ((ins[0], ins[2]), (ins[1], ins[3]))]
    store_product(outs[0], product[0], product[1], mode)


def _dequantised(data: Tensor, scale: Tensor) -> NDArray[np.float32]:
    p = data.shape[0]
    n = data.size // p
    lanes = unpack(data.read().reshape(p, -1), data.dtype)
    with np.errstate(all="ignore"):
        lanes = lanes * scale_factors(scale, p, n)[:, :, None]
    return lanes.transpose(0, 2, 1).reshape(4 * p, n)


def nc_matmul_mx(
    dst: Tensor,
    stationary: Tensor,
    moving: Tensor,
    stationary_scale: Tensor,
    moving_scale: Tensor,
    tile_position: Any = None,
    tile_size: Any = None,
    accumulate: bool | None = None,
    name: str | None = None,
) -> None:
    """dst[M, N] = or += stationary^T @ moving with MX operands; trn3 and later.

    Args:
        dst: float32 or bfloat16 PSUM tile [M, N].
        stationary, moving: x4-packed SBUF tiles [P, M] and [P, N]; P a multiple of 32, M even and at most 128; they
            contract over 4P.
        stationary_scale, moving_scale: uint8 or float8_e8m0fnu SBUF tiles, laid out as quantize_mx writes them.
        tile_position, tile_size: row tiling of the PE array; limits only.
        accumulate: as in nc_matmul.
    """
    api = "nc_matmul_mx"
    require_generation(4, api=api)
    core = context.current()
    dst = on_chip(dst, "dst", api=api)
    if dst.buffer.space != "psum":
        context.fail(
            "KW-MATMUL-DST",
            f"{api}: dst lies in {dst.space.upper()}",
            operand="dst",
            found=dst.space,
            limit="psum",
            fix="allocate dst with buffer=nl.psum",
        )
    require_dtype(dst, "dst", (dtypes.float32, dtypes.bfloat16), api=api)
    packed = (*_ELEMENTS, dtypes.float4_e2m1fn_x4)
    tiles = []
    for value, scale, label in ((stationary, stationary_scale, "stationary"), (moving, moving_scale, "moving")):
        tile = on_chip(value, label, api=api, sbuf_only=True)
        require_dtype(tile, label, packed, api=api)
        scales = on_chip(scale, f"{label}_scale", api=api, sbuf_only=True)
        require_dtype(scales, f"{label}_scale", _SCALES, api=api)
        if tile.shape[0] % 32:
            context.fail(
                "KW-MX-SHAPE",
                f"{api}: {label} has {tile.shape[0]} partitions; it must be a multiple of 32",
                operand=label,
                found=tile.shape[0],
                limit="32, 64, 96, 128",
                fix="pad the contraction with zeros",
            )
        _check_scale(scales, f"{label}_scale", tile.shape[0], tile.size // tile.shape[0], api)
        tiles.append((tile, scales))
    (a, a_scale), (b, b_scale) = tiles
    k, m, n = a.shape[0], a.size // a.shape[0], b.size // b.shape[0]
    limit = 8192 if dst.dtype.itemsize == 2 else 4096
    if b.shape[0] != k or m % 2 or m > 128 or n > limit:
        context.fail(
            "KW-MX-SHAPE",
            f"{api}: stationary {list(a.shape)}, moving {list(b.shape)}; partitions must be equal, the stationary free size "
            f"even and at most 128, the moving one at most {limit}",
            operand="stationary",
            found=[list(a.shape), list(b.shape)],
            limit=[128, limit],
            fix="tile M and N; pad M to an even size",
        )
    if (dst.shape[0], dst.size // dst.shape[0]) != (m, n):
        context.fail(
            "KW-MATMUL-SHAPE",
            f"{api}: dst is {list(dst.shape)}, stationary^T @ moving is [{m}, {n}]",
            operand="dst",
            found=list(dst.shape),
            limit=[m, n],
            fix=f"slice dst to [{m}, {n}]",
        )
    if tile_size and (int(tile_size[1]) != 128 or int(tile_size[0]) not in (32, 64, 128) or k > int(tile_size[0])):
        context.fail(
            "KW-PE-TILE",
            f"{api}: tile_size {tuple(tile_size)} must be (32, 64 or 128, 128) and hold the {k} partitions",
            operand="tile_size",
            found=str(tuple(tile_size)),
            limit="(32|64|128, 128)",
            fix="use one of these sizes, large enough for the operand's partitions",
        )
    if tile_position and (not tile_size or int(tile_position[1]) != 0 or int(tile_position[0]) % int(tile_size[0])):
        context.fail(
            "KW-PE-TILE",
            f"{api}: tile_position {tuple(tile_position)} must be (multiple of the row size, 0)",
            operand="tile_position",
            found=str(tuple(tile_position)),
            fix="start at a multiple of the row size, in column 0",
        )
    mode = accumulation_mode(dst, accumulate)
    core.issue(
        NC_MATMUL_MX,
        Engine.TENSOR,
        (dst,),
        (a, b, a_scale, b_scale),
        free=n,
        partitions=k,
        aux=m,
        flags=Flag.MX | (Flag.ACCUMULATE if mode != "set" else 0),
        update=mode != "set",
        params={"mode": mode},
    )
