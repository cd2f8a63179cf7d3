"""Matrix product, the plain way: one 128 x 512 block of the result at a time, contraction summed up in PSUM."""

import nki
import nki.isa as nisa
import nki.language as nl


@nki.jit
def kernel(a_t, b):
    """Multiply a^T by b, with `a` given transposed as the Tensor Engine wants it.

    Dimensions:
        M, N: size of the result. K: contraction. Any sizes.

    Args:
        a_t: [K, M] in HBM.
        b: [K, N] in HBM.

    Returns:
        [M, N] in HBM, a_t's type.

    Notes:
        - `nc_matmul` contracts over partitions: both operands have K there, at most 128 at a time.
        - The first product of a PSUM tile overwrites it, later ones add (`accumulate=None`).
        - Every block loads its operands anew: `a_t` N/512 times, `b` M/128 times. See `matmul_blocked` for the cure.
    """
    k_size, m_size = a_t.shape
    n_size = b.shape[1]
    pmax, mmax, nmax = nl.tile_size.pmax, nl.tile_size.gemm_stationary_fmax, nl.tile_size.gemm_moving_fmax
    out = nl.ndarray((m_size, n_size), dtype=a_t.dtype, buffer=nl.shared_hbm)
    for m in range(0, m_size, mmax):
        height = min(mmax, m_size - m)
        for n in range(0, n_size, nmax):
            width = min(nmax, n_size - n)
            total = nl.ndarray((height, width), dtype=nl.float32, buffer=nl.psum)
            for k in range(0, k_size, pmax):
                depth = min(pmax, k_size - k)
                left = nl.ndarray((depth, height), dtype=a_t.dtype, buffer=nl.sbuf)
                right = nl.ndarray((depth, width), dtype=b.dtype, buffer=nl.sbuf)
                nisa.dma_copy(dst=left, src=a_t[k : k + depth, m : m + height])
                nisa.dma_copy(dst=right, src=b[k : k + depth, n : n + width])
                nisa.nc_matmul(dst=total, stationary=left, moving=right)
            result = nl.ndarray((height, width), dtype=a_t.dtype, buffer=nl.sbuf)
            nisa.tensor_copy(dst=result, src=total)
            nisa.dma_copy(dst=out[m : m + height, n : n + width], src=result)
    return out
