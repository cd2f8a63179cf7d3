"""Matrix product with reuse: `b` stays in SBUF, each row block of `a` is loaded once, results leave as whole rows."""

import nki
import nki.isa as nisa
import nki.language as nl


@nki.jit
def kernel(a_t, b):
    """Multiply a^T by b, with `a` given transposed.

    Dimensions:
        M, N: size of the result, any. K: contraction, a multiple of 128. K * N elements of `b` must fit in SBUF
        (about 24 MiB with the other tiles).

    Args:
        a_t: [K, M] in HBM.
        b: [K, N] in HBM.

    Returns:
        [M, N] in HBM, a_t's type.

    Notes:
        - Both inputs are read once: the traffic is the least that there is.
        - A block of `a_t` is one DMA for all of K: [128, K/128, 128] with K's high part along the free dimension.
        - Stationary tiles are loaded into the array for 512 columns of `b` each; the copy out of PSUM runs on the Vector
          Engine while the array works on the next block.
    """
    k_size, m_size = a_t.shape
    n_size = b.shape[1]
    pmax, mmax, nmax = nl.tile_size.pmax, nl.tile_size.gemm_stationary_fmax, nl.tile_size.gemm_moving_fmax
    depth = k_size // pmax
    out = nl.ndarray((m_size, n_size), dtype=a_t.dtype, buffer=nl.shared_hbm)
    right = nl.ndarray((pmax, depth, n_size), dtype=b.dtype, buffer=nl.sbuf)
    for k in range(depth):
        nisa.dma_copy(dst=right[:, k, :], src=b[k * pmax : (k + 1) * pmax, :])
    for m in range(0, m_size, mmax):
        height = min(mmax, m_size - m)
        left = nl.ndarray((pmax, depth, height), dtype=a_t.dtype, buffer=nl.sbuf)
        for k in range(depth):
            nisa.dma_copy(dst=left[:, k, :], src=a_t[k * pmax : (k + 1) * pmax, m : m + height])
        result = nl.ndarray((height, n_size), dtype=a_t.dtype, buffer=nl.sbuf)
        for n in range(0, n_size, nmax):
            width = min(nmax, n_size - n)
            total = nl.ndarray((height, width), dtype=nl.float32, buffer=nl.psum)
            for k in range(depth):
                nisa.nc_matmul(dst=total, stationary=left[:, k, :], moving=right[:, k, n : n + width])
            nisa.tensor_copy(dst=result[:, n : n + width], src=total)
        nisa.dma_copy(dst=out[m : m + height, :], src=result)
    return out
