"""x @ w + (x @ a) @ b: the low-rank product joins the same PSUM accumulation, so the sum costs nothing extra."""

import nki
import nki.isa as nisa
import nki.language as nl


def load_transposed(x, m0, height):
    """Rows [m0, m0 + height) of x [M, K] as an SBUF tile [128, K / 128, height]: K on partitions."""
    pmax = nl.tile_size.pmax
    k_tiles = x.shape[1] // pmax
    turned = nl.ndarray((pmax, k_tiles, height), dtype=x.dtype, buffer=nl.sbuf)
    for r in range(0, height, pmax):
        rows = nl.ndarray((pmax, x.shape[1]), dtype=x.dtype, buffer=nl.sbuf)
        nisa.dma_copy(dst=rows, src=x[m0 + r : m0 + r + pmax, :])
        for k in range(0, k_tiles, 4):
            group = min(4, k_tiles - k)
            bank = nl.ndarray((pmax, group, pmax), dtype=x.dtype, buffer=nl.psum)
            for i in range(group):
                nisa.nc_transpose(dst=bank[:, i, :], data=rows[:, (k + i) * pmax : (k + i + 1) * pmax])
            nisa.tensor_copy(dst=turned[:, k : k + group, r : r + pmax], src=bank)
    return turned


@nki.jit
def kernel(x, w, a, b):
    """Multiply x by w plus a low-rank update.

    Dimensions:
        M: rows, a multiple of 512. K: contraction, a multiple of 128. N: columns, a multiple of 512. R: rank, at most 128.

    Args:
        x: [M, K] in HBM.
        w: [K, N] in HBM.
        a: [K, R] in HBM.
        b: [R, N] in HBM.

    Returns:
        [M, N] in HBM, x's type.

    Notes:
        (x @ a)^T comes out of the PE array as [R, rows], which is the stationary layout that (x @ a) @ b needs.
    """
    m_size, k_size = x.shape
    n_size, rank = w.shape[1], a.shape[1]
    pmax, fmax = nl.tile_size.pmax, nl.tile_size.gemm_moving_fmax
    k_tiles = k_size // pmax
    block = 4 * pmax
    out = nl.ndarray((m_size, n_size), dtype=x.dtype, buffer=nl.shared_hbm)
    down = nl.ndarray((pmax, k_tiles, rank), dtype=a.dtype, buffer=nl.sbuf)
    for k in range(k_tiles):
        nisa.dma_copy(dst=down[:, k, :], src=a[k * pmax : (k + 1) * pmax, :])
    for m0 in range(0, m_size, block):
        left = load_transposed(x, m0, block)
        narrow = nl.ndarray((rank, block), dtype=nl.float32, buffer=nl.psum)
        for k in range(k_tiles):
            nisa.nc_matmul(dst=narrow, stationary=down[:, k, :], moving=left[:, k, :])
        middle = nl.ndarray((rank, block), dtype=x.dtype, buffer=nl.sbuf)
        nisa.tensor_copy(dst=middle, src=narrow)
        for n0 in range(0, n_size, fmax):
            sums = [nl.ndarray((pmax, fmax), dtype=nl.float32, buffer=nl.psum) for _ in range(4)]
            for k in range(k_tiles):
                right = nl.ndarray((pmax, fmax), dtype=w.dtype, buffer=nl.sbuf)
                nisa.dma_copy(dst=right, src=w[k * pmax : (k + 1) * pmax, n0 : n0 + fmax])
                for i, acc in enumerate(sums):
                    nisa.nc_matmul(dst=acc, stationary=left[:, k, i * pmax : (i + 1) * pmax], moving=right)
            up = nl.ndarray((rank, fmax), dtype=b.dtype, buffer=nl.sbuf)
            nisa.dma_copy(dst=up, src=b[:, n0 : n0 + fmax])
            for i, acc in enumerate(sums):
                nisa.nc_matmul(dst=acc, stationary=middle[:, i * pmax : (i + 1) * pmax], moving=up)
                tile = nl.ndarray((pmax, fmax), dtype=x.dtype, buffer=nl.sbuf)
                nisa.tensor_copy(dst=tile, src=acc)
                r0 = m0 + i * pmax
                nisa.dma_copy(dst=out[r0 : r0 + pmax, n0 : n0 + fmax], src=tile)
    return out
