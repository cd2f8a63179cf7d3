"""rmsnorm(x + z) * g @ w: the gain is folded into w once, the row scale is applied to the finished rows.

Scaling a row commutes with the matmul, so the PE array can start before the norm is known.
"""

import nki
import nki.isa as nisa
import nki.language as nl

EPSILON = 1e-5


@nki.jit
def kernel(x, z, g, w):
    """Residual add, RMS normalisation and matmul.

    Dimensions:
        M: rows, a multiple of 128. K: contraction, a multiple of 128. N: columns, a multiple of 512.

    Args:
        x, z: [M, K] in HBM.
        g: [K, 1] gain in HBM.
        w: [K, N] in HBM; K * N must fit in SBUF.

    Returns:
        [M, N] in HBM, x's type.
    """
    m_size, k_size = x.shape
    n_size = w.shape[1]
    pmax, fmax = nl.tile_size.pmax, nl.tile_size.gemm_moving_fmax
    k_tiles = k_size // pmax
    out = nl.ndarray((m_size, n_size), dtype=x.dtype, buffer=nl.shared_hbm)
    right = nl.ndarray((pmax, k_tiles, n_size), dtype=w.dtype, buffer=nl.sbuf)
    for k in range(k_tiles):
        lanes = slice(k * pmax, (k + 1) * pmax)
        gain = nl.ndarray((pmax, 1), dtype=nl.float32, buffer=nl.sbuf)
        nisa.dma_copy(dst=gain, src=g[lanes, :])
        nisa.dma_copy(dst=right[:, k, :], src=w[lanes, :])
        nisa.tensor_scalar(dst=right[:, k, :], data=right[:, k, :], op0=nl.multiply, operand0=gain)
    epsilon = nl.ndarray((pmax, 1), dtype=nl.float32, buffer=nl.sbuf)
    nisa.memset(dst=epsilon, value=EPSILON)
    for m0 in range(0, m_size, pmax):
        rows = nl.ndarray((pmax, k_size), dtype=x.dtype, buffer=nl.sbuf)
        other = nl.ndarray((pmax, k_size), dtype=z.dtype, buffer=nl.sbuf)
        nisa.dma_copy(dst=rows, src=x[m0 : m0 + pmax, :])
        nisa.dma_copy(dst=other, src=z[m0 : m0 + pmax, :])
        nisa.tensor_tensor(dst=rows, data1=rows, data2=other, op=nl.add)
        square = nl.ndarray((pmax, k_size), dtype=nl.float32, buffer=nl.sbuf)
        total = nl.ndarray((pmax, 1), dtype=nl.float32, buffer=nl.sbuf)
        nisa.activation_reduce(dst=square, op=nl.square, data=rows, reduce_op=nl.add, reduce_res=total)
        scale = nl.ndarray((pmax, 1), dtype=nl.float32, buffer=nl.sbuf)
        nisa.activation(dst=scale, op=nl.rsqrt, data=total, scale=1.0 / k_size, bias=epsilon)

        left = nl.ndarray((pmax, k_tiles, pmax), dtype=x.dtype, buffer=nl.sbuf)
        for k in range(0, k_tiles, 4):
            group = min(4, k_tiles - k)
            bank = nl.ndarray((pmax, group, pmax), dtype=x.dtype, buffer=nl.psum)
            for i in range(group):
                nisa.nc_transpose(dst=bank[:, i, :], data=rows[:, (k + i) * pmax : (k + i + 1) * pmax])
            nisa.tensor_copy(dst=left[:, k : k + group, :], src=bank)
        result = nl.ndarray((pmax, n_size), dtype=x.dtype, buffer=nl.sbuf)
        for n0 in range(0, n_size, fmax):
            part = slice(n0, n0 + fmax)
            acc = nl.ndarray((pmax, fmax), dtype=nl.float32, buffer=nl.psum)
            for k in range(k_tiles):
                nisa.nc_matmul(dst=acc, stationary=left[:, k, :], moving=right[:, k, part])
            nisa.tensor_scalar(dst=result[:, part], data=acc, op0=nl.multiply, operand0=scale)
        nisa.dma_copy(dst=out[m0 : m0 + pmax, :], src=result)
    return out
