"""softmax(A @ B) row by row: scores of 128 rows fill PSUM, the exponential sums itself on the way."""

import nki
import nki.isa as nisa
import nki.language as nl


@nki.jit
def kernel(a, b):
    """Softmax over the last axis of a batched product.

    Dimensions:
        B: batch. M: rows, a multiple of 128. K: contraction, at most 128. N: columns, a multiple of 512; a row of N must
        fit in SBUF.

    Args:
        a: [B, M, K] in HBM.
        b: [B, K, N] in HBM.

    Returns:
        [B, M, N] in HBM, a's type.

    Notes:
        The row maximum is taken per PSUM bank first; exp(score - max) and its row sum are one Scalar Engine pass.
    """
    batch, m_size, k_size = a.shape
    n_size = b.shape[2]
    pmax, fmax = nl.tile_size.pmax, nl.tile_size.gemm_moving_fmax
    banks = n_size // fmax
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

            scores = nl.ndarray((pmax, n_size), dtype=nl.float32, buffer=nl.sbuf)
            peaks = nl.ndarray((pmax, banks), dtype=nl.float32, buffer=nl.sbuf)
            for j in range(banks):
                part = slice(j * fmax, (j + 1) * fmax)
                acc = nl.ndarray((pmax, fmax), dtype=nl.float32, buffer=nl.psum)
                nisa.nc_matmul(dst=acc, stationary=left, moving=right[:, part])
                nisa.tensor_reduce(dst=peaks[:, j : j + 1], op=nl.maximum, data=acc, axis=1)
                nisa.activation(dst=scores[:, part], op=nl.copy, data=acc)
            lowest = nl.ndarray((pmax, 1), dtype=nl.float32, buffer=nl.sbuf)
            nisa.tensor_reduce(dst=lowest, op=nl.maximum, data=peaks, axis=1, negate=True)
            total = nl.ndarray((pmax, 1), dtype=nl.float32, buffer=nl.sbuf)
            nisa.activation_reduce(
                dst=scores, op=nl.exp, data=scores, reduce_op=nl.add, reduce_res=total, bias=lowest
            )
            share = nl.ndarray((pmax, 1), dtype=nl.float32, buffer=nl.sbuf)
            nisa.reciprocal(dst=share, data=total)
            result = nl.ndarray((pmax, n_size), dtype=a.dtype, buffer=nl.sbuf)
            nisa.tensor_scalar(dst=result, data=scores, op0=nl.multiply, operand0=share)
            nisa.dma_copy(dst=out[i, m0 : m0 + pmax, :], src=result)
    return out
