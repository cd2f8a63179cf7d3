"""Matrix transpose on the Tensor Engine: 128 x 128 blocks through PSUM, whole rows in and out of HBM."""

import nki
import nki.isa as nisa
import nki.language as nl


@nki.jit
def kernel(x):
    """Transpose a matrix.

    Dimensions:
        M, N: any; a row block [128, N] and a column block [128, M] must fit in SBUF.

    Args:
        x: [M, N] in HBM.

    Returns:
        [N, M] in HBM, x's type.

    Notes:
        - Data crosses partitions only by DMA or through the PE array. A DMA that transposes 2-byte elements moves them one
          by one; the array moves a block of 128 x 128 in about 128 cycles, bit by bit exact.
        - Results land in PSUM, which a DMA can't read: a copy brings them to SBUF.
        - All of x is held in SBUF, so that each output row block is stored in long rows.
    """
    rows, columns = x.shape
    pmax = nl.tile_size.pmax
    out = nl.ndarray((columns, rows), dtype=x.dtype, buffer=nl.shared_hbm)
    held = []
    for top in range(0, rows, pmax):
        height = min(pmax, rows - top)
        tile = nl.ndarray((height, columns), dtype=x.dtype, buffer=nl.sbuf)
        nisa.dma_copy(dst=tile, src=x[top : top + height, :])
        held.append(tile)
    for left in range(0, columns, pmax):
        width = min(pmax, columns - left)
        turned = nl.ndarray((width, rows), dtype=x.dtype, buffer=nl.sbuf)
        for i, tile in enumerate(held):
            height = tile.shape[0]
            block = nl.ndarray((width, height), dtype=x.dtype, buffer=nl.psum)
            nisa.nc_transpose(dst=block, data=tile[:, left : left + width])
            nisa.tensor_copy(dst=turned[:, i * pmax : i * pmax + height], src=block)
        nisa.dma_copy(dst=out[left : left + width, :], src=turned)
    return out
