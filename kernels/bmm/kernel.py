"""Batched matmul with a short contraction: bound by writing the result, so PSUM is evicted by two engines in turn."""

import nki
import nki.isa as nisa
import nki.language as nl


@nki.jit
def kernel(a, b):
    """Multiply matrices batch by batch.

    Dimensions:
        B: batch. M: rows, a multiple of 128. K: contraction, at most 128. N: columns, a multiple of 512.

    Args:
        a: [B, M, K] in HBM.
        b: [B, K, N] in HBM.

    Returns:
        [B, M, N] in HBM, a's type.
    """
    batch, m_size, k_size = a.shape
    n_size = b.shape[2]
    pmax, fmax = nl.tile_size.pmax, nl.tile_size.gemm_moving_fmax
    out = nl.ndarray((batch, m_size, n_size), dtype=a.dtype, buffer=nl.shared_hbm)
    for i in range(batch):
        right = nl.ndarray((k_size, n_size), dtype=b.dtype, buffer=nl.sbuf)
        nisa.dma_copy(dst=right, src=b[i])
        for m0 in range(0, m_size, pmax):
            rows = nl.ndarray((pmax, k_size), dtype=a.dtype, buffer=nl.sbuf)
            nisa.dma_copy(dst=rows, src=a[i, m0 : m0 + pmax, :])
            turned = nl.ndarray((k_size, pmax), dtype=a.dtype, buffer=nl.psum)
            nisa.nc_transpose(dst=turned, data=rows)
            left = nl.ndarray((k_size, pmax), dtype=a.dtype, buffer=nl.sbuf)
            nisa.tensor_copy(dst=left, src=turned)
            result = nl.ndarray((pmax, n_size), dtype=a.dtype, buffer=nl.sbuf)
            for j, n0 in enumerate(range(0, n_size, fmax)):
                acc = nl.ndarray((pmax, fmax), dtype=nl.float32, buffer=nl.psum)
                nisa.nc_matmul(dst=acc, stationary=left, moving=right[:, n0 : n0 + fmax])
                engine = nisa.vector_engine if j % 2 == 0 else nisa.scalar_engine
                nisa.tensor_copy(dst=result[:, n0 : n0 + fmax], src=acc, engine=engine)
            nisa.dma_copy(dst=out[i, m0 : m0 + pmax, :], src=result)
    return out
