"""rmsnorm(x @ w + z) * g: whole rows of the product stay in SBUF until their norm is known."""

import nki
import nki.isa as nisa
import nki.language as nl

EPSILON = 1e-5


@nki.jit
def kernel(x, w, z, g):
    """Matmul, residual add and RMS normalisation.

    Dimensions:
        M: rows, a multiple of 128. K: contraction, a multiple of 128. N: columns, a multiple of 512.

    Args:
        x: [M, K] in HBM.
        w: [K, N] in HBM; K * N must fit in SBUF.
        z: [M, N] residual in HBM.
        g: [1, N] gain in HBM.

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
        nisa.dma_copy(dst=right[:, k, :], src=w[k * pmax : (k + 1) * pmax, :])
    gain = nl.ndarray((pmax, n_size), dtype=g.dtype, buffer=nl.sbuf)
    nisa.dma_copy(dst=gain, src=g.broadcast_to((pmax, n_size)))
    epsilon = nl.ndarray((pmax, 1), dtype=nl.float32, buffer=nl.sbuf)
    nisa.memset(dst=epsilon, value=EPSILON)
    for m0 in range(0, m_size, pmax):
        rows = nl.ndarray((pmax, k_size), dtype=x.dtype, buffer=nl.sbuf)
        nisa.dma_copy(dst=rows, src=x[m0 : m0 + pmax, :])
        left = nl.ndarray((pmax, k_tiles, pmax), dtype=x.dtype, buffer=nl.sbuf)
        for k in range(0, k_tiles, 4):
            group = min(4, k_tiles - k)
            bank = nl.ndarray((pmax, group, pmax), dtype=x.dtype, buffer=nl.psum)
            for i in range(group):
                nisa.nc_transpose(dst=bank[:, i, :], data=rows[:, (k + i) * pmax : (k + i + 1) * pmax])
            nisa.tensor_copy(dst=left[:, k : k + group, :], src=bank, engine=nisa.scalar_engine)

        line = nl.ndarray((pmax, n_size), dtype=nl.float32, buffer=nl.sbuf)
        nisa.dma_copy(dst=line, src=z[m0 : m0 + pmax, :])
        for n0 in range(0, n_size, fmax):
            part = slice(n0, n0 + fmax)
            acc = nl.ndarray((pmax, fmax), dtype=nl.float32, buffer=nl.psum)
            for k in range(k_tiles):
                nisa.nc_matmul(dst=acc, stationary=left[:, k, :], moving=right[:, k, part])
            nisa.tensor_tensor(dst=line[:, part], data1=acc, data2=line[:, part], op=nl.add)
        square = nl.ndarray((pmax, n_size), dtype=nl.float32, buffer=nl.sbuf)
        total = nl.ndarray((pmax, 1), dtype=nl.float32, buffer=nl.sbuf)
        nisa.activation_reduce(dst=square, op=nl.square, data=line, reduce_op=nl.add, reduce_res=total)
        scale = nl.ndarray((pmax, 1), dtype=nl.float32, buffer=nl.sbuf)
        nisa.activation(dst=scale, op=nl.rsqrt, data=total, scale=1.0 / n_size, bias=epsilon)
        result = nl.ndarray((pmax, n_size), dtype=x.dtype, buffer=nl.sbuf)
        nisa.scalar_tensor_tensor(
            dst=result, data=line, op0=nl.multiply, operand0=scale, op1=nl.multiply, operand1=gain
        )
        nisa.dma_copy(dst=out[m0 : m0 + pmax, :], src=result)
    return out
