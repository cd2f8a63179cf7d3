"""A^T @ B: the layout that the PE array wants, so no transpose is needed; K accumulates in PSUM."""

import nki
import nki.isa as nisa
import nki.language as nl


@nki.jit
def kernel(a, b):
    """Multiply a transposed by b.

    Dimensions:
        K: contraction, a multiple of 128. M: rows of the result. N: its columns; M and N may be ragged.

    Args:
        a: [K, M] in HBM.
        b: [K, N] in HBM.

    Returns:
        [M, N] in HBM, a's type.

    Notes:
        512 rows of the result are in work at once: four PSUM banks accumulate while each [128, 512] tile of b, loaded
        once a block, is used four times.
    """
    k_size, m_size = a.shape
    n_size = b.shape[1]
    pmax, fmax = nl.tile_size.pmax, nl.tile_size.gemm_moving_fmax
    k_tiles = k_size // pmax
    block = 4 * pmax
    out = nl.ndarray((m_size, n_size), dtype=a.dtype, buffer=nl.shared_hbm)
    for m0 in range(0, m_size, block):
        height = min(block, m_size - m0)
        left = nl.ndarray((pmax, k_tiles, height), dtype=a.dtype, buffer=nl.sbuf)
        for k in range(k_tiles):
            nisa.dma_copy(dst=left[:, k, :], src=a[k * pmax : (k + 1) * pmax, m0 : m0 + height])
        for n0 in range(0, n_size, fmax):
            width = min(fmax, n_size - n0)
            sums = []
            for r in range(0, height, pmax):
                sums.append(nl.ndarray((min(pmax, height - r), width), dtype=nl.float32, buffer=nl.psum))
            for k in range(k_tiles):
                right = nl.ndarray((pmax, width), dtype=b.dtype, buffer=nl.sbuf)
                nisa.dma_copy(dst=right, src=b[k * pmax : (k + 1) * pmax, n0 : n0 + width])
                for i, acc in enumerate(sums):
                    rows = slice(i * pmax, i * pmax + acc.shape[0])
                    nisa.nc_matmul(dst=acc, stationary=left[:, k, rows], moving=right)
            for i, acc in enumerate(sums):
                tile = nl.ndarray(acc.shape, dtype=a.dtype, buffer=nl.sbuf)
                nisa.tensor_copy(dst=tile, src=acc)
                r0 = m0 + i * pmax
                nisa.dma_copy(dst=out[r0 : r0 + acc.shape[0], n0 : n0 + width], src=tile)
    return out
