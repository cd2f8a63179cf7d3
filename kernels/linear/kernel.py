"""x @ w for row-major x: 512 rows are transposed once by the PE array and stay resident while w streams by."""

import nki
import nki.isa as nisa
import nki.language as nl


def load_transposed(x, m0, height):
    """Rows [m0, m0 + height) of x [M, K] as an SBUF tile [128, K / 128, height]: K on partitions.

    Four transposes share a PSUM bank, so that one copy evicts 512 columns.
    """
    pmax = nl.tile_size.pmax
    k_tiles = x.shape[1] // pmax
    turned = nl.ndarray((pmax, k_tiles, height), dtype=x.dtype, buffer=nl.sbuf)
    for r in range(0, height, pmax):
        lines = min(pmax, height - r)
        rows = nl.ndarray((lines, x.shape[1]), dtype=x.dtype, buffer=nl.sbuf)
        nisa.dma_copy(dst=rows, src=x[m0 + r : m0 + r + lines, :])
        for k in range(0, k_tiles, 4):
            group = min(4, k_tiles - k)
            bank = nl.ndarray((pmax, group, lines), dtype=x.dtype, buffer=nl.psum)
            for i in range(group):
                nisa.nc_transpose(dst=bank[:, i, :], data=rows[:, (k + i) * pmax : (k + i + 1) * pmax])
            engine = nisa.vector_engine if (k // 4) % 2 == 0 else nisa.scalar_engine
            nisa.tensor_copy(dst=turned[:, k : k + group, r : r + lines], src=bank, engine=engine)
    return turned


@nki.jit
def kernel(x, w):
    """Multiply x by w.

    Dimensions:
        M: rows, any number. K: contraction, a multiple of 128. N: columns, any number.

    Args:
        x: [M, K] in HBM.
        w: [K, N] in HBM.

    Returns:
        [M, N] in HBM, x's type.
    """
    m_size, k_size = x.shape
    n_size = w.shape[1]
    pmax, fmax = nl.tile_size.pmax, nl.tile_size.gemm_moving_fmax
    k_tiles = k_size // pmax
    block = 4 * pmax
    out = nl.ndarray((m_size, n_size), dtype=x.dtype, buffer=nl.shared_hbm)
    for m0 in range(0, m_size, block):
        height = min(block, m_size - m0)
        left = load_transposed(x, m0, height)
        for n0 in range(0, n_size, fmax):
            width = min(fmax, n_size - n0)
            sums = []
            for r in range(0, height, pmax):
                sums.append(nl.ndarray((min(pmax, height - r), width), dtype=nl.float32, buffer=nl.psum))
            for k in range(k_tiles):
                right = nl.ndarray((pmax, width), dtype=w.dtype, buffer=nl.sbuf)
                nisa.dma_copy(dst=right, src=w[k * pmax : (k + 1) * pmax, n0 : n0 + width])
                for i, acc in enumerate(sums):
                    rows = slice(i * pmax, i * pmax + acc.shape[0])
                    nisa.nc_matmul(dst=acc, stationary=left[:, k, rows], moving=right)
            for i, acc in enumerate(sums):
                tile = nl.ndarray(acc.shape, dtype=x.dtype, buffer=nl.sbuf)
                nisa.tensor_copy(dst=tile, src=acc)
                r0 = m0 + i * pmax
                nisa.dma_copy(dst=out[r0 : r0 + acc.shape[0], n0 : n0 + width], src=tile)
    return out
