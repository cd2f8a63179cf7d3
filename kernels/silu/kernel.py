"""SiLU, x * sigmoid(x): one activation over whole rows, so that each DMA moves long contiguous runs."""

import nki
import nki.isa as nisa
import nki.language as nl


@nki.jit
def kernel(x):
    """Apply SiLU elementwise.

    Dimensions:
        M: rows, any number. N: columns; a row of [128, N] must fit in SBUF.

    Args:
        x: [M, N] in HBM.

    Returns:
        [M, N] in HBM, x's type.
    """
    rows, columns = x.shape
    pmax = nl.tile_size.pmax
    out = nl.ndarray((rows, columns), dtype=x.dtype, buffer=nl.shared_hbm)
    for start in range(0, rows, pmax):
        height = min(pmax, rows - start)
        tile = nl.ndarray((height, columns), dtype=x.dtype, buffer=nl.sbuf)
        nisa.dma_copy(dst=tile, src=x[start : start + height, :])
        nisa.activation(dst=tile, op=nl.silu, data=tile)
        nisa.dma_copy(dst=out[start : start + height, :], src=tile)
    return out
