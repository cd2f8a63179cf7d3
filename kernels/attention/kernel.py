"""One attention head, softmax(q k^T / sqrt(D)) v, a block of 128 queries at a time; the scores never leave the chip."""

import nki
import nki.isa as nisa
import nki.language as nl


@nki.jit
def kernel(q, k, v):
    """Scaled dot-product attention without a mask.

    Dimensions:
        S: queries, any number. T: keys, a multiple of 128, at most 2048. D: head size, at most 128.

    Args:
        q: [S, D] in HBM.
        k, v: [T, D] in HBM.

    Returns:
        [S, D] in HBM, q's type.

    Notes:
        - q and k are transposed on the PE array, because the product of the two contracts over D.
        - A block's scores, [128, T] in float32, fill up to four PSUM banks; the maximum is taken straight from PSUM.
        - exp((score - max) / sqrt(D)) and its sum are one activation. The weights are divided by their sum only after the
          second matmul, on [128, D] instead of [128, T].
        - The second matmul contracts over T: the weights are transposed in blocks of 128, and the products add up in PSUM.
    """
    s_size, d_size = q.shape
    t_size = k.shape[0]
    pmax, nmax = nl.tile_size.pmax, nl.tile_size.gemm_moving_fmax
    blocks = t_size // pmax
    factor = 1.0 / d_size**0.5
    out = nl.ndarray((s_size, d_size), dtype=q.dtype, buffer=nl.shared_hbm)

    values = nl.ndarray((pmax, blocks, d_size), dtype=v.dtype, buffer=nl.sbuf)
    keys = nl.ndarray((d_size, t_size), dtype=k.dtype, buffer=nl.sbuf)
    for t in range(blocks):
        rows = slice(t * pmax, (t + 1) * pmax)
        tile = nl.ndarray((pmax, d_size), dtype=k.dtype, buffer=nl.sbuf)
        turned = nl.ndarray((d_size, pmax), dtype=k.dtype, buffer=nl.psum)
        nisa.dma_copy(dst=values[:, t, :], src=v[rows, :])
        nisa.dma_copy(dst=tile, src=k[rows, :])
        nisa.nc_transpose(dst=turned, data=tile)
        nisa.tensor_copy(dst=keys[:, rows], src=turned)

    for s in range(0, s_size, pmax):
        height = min(pmax, s_size - s)
        tile = nl.ndarray((height, d_size), dtype=q.dtype, buffer=nl.sbuf)
        turned = nl.ndarray((d_size, height), dtype=q.dtype, buffer=nl.psum)
        queries = nl.ndarray((d_size, height), dtype=q.dtype, buffer=nl.sbuf)
        nisa.dma_copy(dst=tile, src=q[s : s + height, :])
        nisa.nc_transpose(dst=turned, data=tile)
        nisa.tensor_copy(dst=queries, src=turned)

        scores = nl.ndarray((height, t_size), dtype=nl.float32, buffer=nl.psum)
        for t in range(0, t_size, nmax):
            width = min(nmax, t_size - t)
            nisa.nc_matmul(dst=scores[:, t : t + width], stationary=queries, moving=keys[:, t : t + width])
        shift = nl.ndarray((height, 1), dtype=nl.float32, buffer=nl.sbuf)
        nisa.tensor_reduce(dst=shift, op=nl.maximum, data=scores, axis=1, negate=True)
        nisa.tensor_scalar(dst=shift, data=shift, op0=nl.multiply, operand0=factor)
        weights = nl.ndarray((height, t_size), dtype=q.dtype, buffer=nl.sbuf)
        total = nl.ndarray((height, 1), dtype=nl.float32, buffer=nl.sbuf)
        nisa.activation_reduce(
            dst=weights, op=nl.exp, data=scores, scale=factor, bias=shift, reduce_op=nl.add, reduce_res=total
        )
        nisa.reciprocal(dst=total, data=total)

        summed = nl.ndarray((height, d_size), dtype=nl.float32, buffer=nl.psum)
        for t in range(blocks):
            part = nl.ndarray((pmax, height), dtype=q.dtype, buffer=nl.psum)
            moved = nl.ndarray((pmax, height), dtype=q.dtype, buffer=nl.sbuf)
            nisa.nc_transpose(dst=part, data=weights[:, t * pmax : (t + 1) * pmax])
            nisa.tensor_copy(dst=moved, src=part)
            nisa.nc_matmul(dst=summed, stationary=moved, moving=values[:, t, :])
        result = nl.ndarray((height, d_size), dtype=q.dtype, buffer=nl.sbuf)
        nisa.tensor_scalar(dst=result, data=summed, op0=nl.multiply, operand0=total)
        nisa.dma_copy(dst=out[s : s + height, :], src=result)
    return out
