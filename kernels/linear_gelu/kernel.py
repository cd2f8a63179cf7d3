"""gelu(x @ w + bias): bias and activation ride on the copy out of PSUM, by computing the result transposed."""

import nki
import nki.isa as nisa
import nki.language as nl


@nki.jit
def kernel(x_t, w, bias):
    """A linear layer with gelu; input and output are feature-major.

    Dimensions:
        M: rows of x (tokens), any. K: contraction, a multiple of 128. N: output features, any; K * M elements of `x_t` must
        fit in SBUF.

    Args:
        x_t: [K, M] in HBM: x transposed.
        w: [K, N] in HBM.
        bias: [N, 1] in HBM, float32.

    Returns:
        [N, M] in HBM, x_t's type: the result transposed.

    Notes:
        - With features in partitions the bias is one number a partition, and gelu(product + bias) is a single activation
          that reads PSUM and writes SBUF. With rows in partitions it would take two instructions more.
        - w is stationary and x moves: w's [K, 128] column blocks are loaded once each.
    """
    k_size, m_size = x_t.shape
    n_size = w.shape[1]
    pmax, nmax = nl.tile_size.pmax, nl.tile_size.gemm_moving_fmax
    depth = k_size // pmax
    out = nl.ndarray((n_size, m_size), dtype=x_t.dtype, buffer=nl.shared_hbm)
    moving = nl.ndarray((pmax, depth, m_size), dtype=x_t.dtype, buffer=nl.sbuf)
    for k in range(depth):
        nisa.dma_copy(dst=moving[:, k, :], src=x_t[k * pmax : (k + 1) * pmax, :])
    for n in range(0, n_size, pmax):
        height = min(pmax, n_size - n)
        weights = nl.ndarray((pmax, depth, height), dtype=w.dtype, buffer=nl.sbuf)
        shift = nl.ndarray((height, 1), dtype=nl.float32, buffer=nl.sbuf)
        for k in range(depth):
            nisa.dma_copy(dst=weights[:, k, :], src=w[k * pmax : (k + 1) * pmax, n : n + height])
        nisa.dma_copy(dst=shift, src=bias[n : n + height, :])
        result = nl.ndarray((height, m_size), dtype=x_t.dtype, buffer=nl.sbuf)
        for m in range(0, m_size, nmax):
            width = min(nmax, m_size - m)
            total = nl.ndarray((height, width), dtype=nl.float32, buffer=nl.psum)
            for k in range(depth):
                nisa.nc_matmul(dst=total, stationary=weights[:, k, :], moving=moving[:, k, m : m + width])
            nisa.activation(dst=result[:, m : m + width], op=nl.gelu_apprx_tanh, data=total, bias=shift)
        nisa.dma_copy(dst=out[n : n + height, :], src=result)
    return out
