"""gelu(x * scale + bias) with one scale and bias a column: vectors along the free dimension must be repeated in every lane."""

import nki
import nki.isa as nisa
import nki.language as nl


@nki.jit
def kernel(x, scale, bias):
    """Scale, shift and activate.

    Dimensions:
        M: rows, any number. N: columns; three tiles of [128, N] must fit in SBUF.

    Args:
        x: [M, N] in HBM.
        scale, bias: [1, N] in HBM.

    Returns:
        [M, N] in HBM, x's type.

    Notes:
        - `scale` and `bias` differ along the free dimension, so they can't be the [P, 1] operands of one activation. They
          are loaded once, repeated to 128 partitions by a DMA that reads the same row again (stride 0).
        - The Vector Engine scales and shifts, the Scalar Engine activates: the two overlap across iterations.
    """
    rows, columns = x.shape
    pmax = nl.tile_size.pmax
    out = nl.ndarray((rows, columns), dtype=x.dtype, buffer=nl.shared_hbm)
    scales = nl.ndarray((pmax, columns), dtype=scale.dtype, buffer=nl.sbuf)
    shifts = nl.ndarray((pmax, columns), dtype=bias.dtype, buffer=nl.sbuf)
    nisa.dma_copy(dst=scales, src=scale.broadcast_to((pmax, columns)))
    nisa.dma_copy(dst=shifts, src=bias.broadcast_to((pmax, columns)))
    for start in range(0, rows, pmax):
        height = min(pmax, rows - start)
        tile = nl.ndarray((height, columns), dtype=x.dtype, buffer=nl.sbuf)
        wide = nl.ndarray((height, columns), dtype=nl.float32, buffer=nl.sbuf)
        nisa.dma_copy(dst=tile, src=x[start : start + height, :])
        nisa.tensor_tensor(dst=wide, data1=tile, data2=scales[0:height, :], op=nl.multiply)
        nisa.tensor_tensor(dst=wide, data1=wide, data2=shifts[0:height, :], op=nl.add)
        nisa.activation(dst=tile, op=nl.gelu, data=wide)
        nisa.dma_copy(dst=out[start : start + height, :], src=tile)
    return out
