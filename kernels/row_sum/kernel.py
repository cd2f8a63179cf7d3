"""Sum of each row: a reduction along the free dimension is one instruction a tile."""

import nki
import nki.isa as nisa
import nki.language as nl


@nki.jit
def kernel(x):
    """Sum over the last axis.

    Dimensions:
        M: rows, any number. N: columns; a row of [128, N] must fit in SBUF.

    Args:
        x: [M, N] in HBM.

    Returns:
        [M, 1] in HBM, x's type.

    Notes:
        - The engine adds in float32 whatever the tile's type is; only the result is rounded.
        - The results of a tile are 128 numbers, one a partition: their store moves rows of one element, which is slow but
          small. Reductions across partitions need the Tensor Engine (a matmul with ones).
    """
    rows, columns = x.shape
    pmax = nl.tile_size.pmax
    out = nl.ndarray((rows, 1), dtype=x.dtype, buffer=nl.shared_hbm)
    for start in range(0, rows, pmax):
        height = min(pmax, rows - start)
        tile = nl.ndarray((height, columns), dtype=x.dtype, buffer=nl.sbuf)
        total = nl.ndarray((height, 1), dtype=x.dtype, buffer=nl.sbuf)
        nisa.dma_copy(dst=tile, src=x[start : start + height, :])
        nisa.tensor_reduce(dst=total, op=nl.add, data=tile, axis=1)
        nisa.dma_copy(dst=out[start : start + height, :], src=total)
    return out
