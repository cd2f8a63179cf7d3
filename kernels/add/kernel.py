"""Elementwise sum: the smallest complete kernel. Load two tiles, add them on the Vector Engine, store."""

import nki
import nki.isa as nisa
import nki.language as nl


@nki.jit
def kernel(a, b):
    """Add two matrices.

    Dimensions:
        M: rows, any number. N: columns; two rows of [128, N] must fit in SBUF.

    Args:
        a, b: [M, N] in HBM, same type.

    Returns:
        [M, N] in HBM, a's type.

    Notes:
        - A tile covers 128 rows, one a partition, and whole rows: each DMA descriptor then moves N contiguous elements.
        - The sum overwrites `a`'s tile, so an iteration holds two tiles, not three.
    """
    rows, columns = a.shape
    pmax = nl.tile_size.pmax
    out = nl.ndarray((rows, columns), dtype=a.dtype, buffer=nl.shared_hbm)
    for start in range(0, rows, pmax):
        height = min(pmax, rows - start)
        left = nl.ndarray((height, columns), dtype=a.dtype, buffer=nl.sbuf)
        right = nl.ndarray((height, columns), dtype=b.dtype, buffer=nl.sbuf)
        nisa.dma_copy(dst=left, src=a[start : start + height, :])
        nisa.dma_copy(dst=right, src=b[start : start + height, :])
        nisa.tensor_tensor(dst=left, data1=left, data2=right, op=nl.add)
        nisa.dma_copy(dst=out[start : start + height, :], src=left)
    return out
