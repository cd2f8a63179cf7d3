"""rmsnorm(x) @ w in one kernel: the row scale is applied to the finished rows, so the matmul needn't wait for the norm."""

import nki
import nki.isa as nisa
import nki.language as nl

EPSILON = 1e-6


@nki.jit
def kernel(x, w):
    """Normalise the rows of x and multiply by w.

    Dimensions:
        M: rows, any number. K: contraction, a multiple of 128. N: columns, any; K * N elements of `w` must fit in SBUF.

    Args:
        x: [M, K] in HBM.
        w: [K, N] in HBM.

    Returns:
        [M, N] in HBM, x's type.

    Notes:
        - A row's scale commutes with the matmul: (s * x) @ w = s * (x @ w). The norm (Scalar Engine) and the products
          (Tensor Engine) of a row block then run side by side, and x never goes back to HBM.
        - x arrives with rows in partitions, as the norm wants it; the matmul wants K there, so blocks are transposed on the
          PE array, four to a PSUM bank to save copies.
        - The copy out of PSUM multiplies by the scale: it costs nothing extra.
    """
    m_size, k_size = x.shape
    n_size = w.shape[1]
    pmax, nmax = nl.tile_size.pmax, nl.tile_size.gemm_moving_fmax
    depth, group = k_size // pmax, 4
    out = nl.ndarray((m_size, n_size), dtype=x.dtype, buffer=nl.shared_hbm)
    epsilon = nl.ndarray((pmax, 1), dtype=nl.float32, buffer=nl.sbuf)
    nisa.memset(dst=epsilon, value=EPSILON)
    right = nl.ndarray((pmax, depth, n_size), dtype=w.dtype, buffer=nl.sbuf)
    for k in range(depth):
        nisa.dma_copy(dst=right[:, k, :], src=w[k * pmax : (k + 1) * pmax, :])
    for m in range(0, m_size, pmax):
        height = min(pmax, m_size - m)
        tile = nl.ndarray((height, k_size), dtype=x.dtype, buffer=nl.sbuf)
        nisa.dma_copy(dst=tile, src=x[m : m + height, :])

        squares = nl.ndarray((height, k_size), dtype=nl.float32, buffer=nl.sbuf)
        total = nl.ndarray((height, 1), dtype=nl.float32, buffer=nl.sbuf)
        scale = nl.ndarray((height, 1), dtype=nl.float32, buffer=nl.sbuf)
        nisa.activation_reduce(dst=squares, op=nl.square, data=tile, reduce_op=nl.add, reduce_res=total)
        nisa.activation(dst=scale, op=nl.rsqrt, data=total, scale=1.0 / k_size, bias=epsilon[0:height, :])

        left = nl.ndarray((pmax, depth, height), dtype=x.dtype, buffer=nl.sbuf)
        for first in range(0, depth, group):
            count = min(group, depth - first)
            bank = nl.ndarray((pmax, count, height), dtype=x.dtype, buffer=nl.psum)
            for i in range(count):
                k = first + i
                nisa.nc_transpose(dst=bank[:, i, :], data=tile[:, k * pmax : (k + 1) * pmax])
            nisa.tensor_copy(dst=left[:, first : first + count, :], src=bank)

        result = nl.ndarray((height, n_size), dtype=x.dtype, buffer=nl.sbuf)
        for n in range(0, n_size, nmax):
            width = min(nmax, n_size - n)
            product = nl.ndarray((height, width), dtype=nl.float32, buffer=nl.psum)
            for k in range(depth):
                nisa.nc_matmul(dst=product, stationary=left[:, k, :], moving=right[:, k, n : n + width])
            nisa.tensor_scalar(dst=result[:, n : n + width], data=product, op0=nl.multiply, operand0=scale)
        nisa.dma_copy(dst=out[m : m + height, :], src=result)
    return out
