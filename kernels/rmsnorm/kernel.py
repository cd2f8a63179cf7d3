"""RMSNorm: x / sqrt(mean(x^2) + eps) * gain. Squares are summed while they are made."""

import nki
import nki.isa as nisa
import nki.language as nl

EPSILON = 1e-6


@nki.jit
def kernel(x, gain):
    """Root-mean-square normalisation of rows.

    Dimensions:
        M: rows, any number. N: columns; three tiles of [128, N] must fit in SBUF.

    Args:
        x: [M, N] in HBM.
        gain: [1, N] in HBM.

    Returns:
        [M, N] in HBM, x's type.

    Notes:
        - One activation squares a tile and adds the squares up; the squares themselves are never read.
        - A second, on [128, 1], turns sums into 1 / sqrt(sum / N + eps): its `scale` does the division.
        - `gain` is repeated to all partitions once, before the loop.
    """
    rows, columns = x.shape
    pmax = nl.tile_size.pmax
    out = nl.ndarray((rows, columns), dtype=x.dtype, buffer=nl.shared_hbm)
    gains = nl.ndarray((pmax, columns), dtype=gain.dtype, buffer=nl.sbuf)
    epsilon = nl.ndarray((pmax, 1), dtype=nl.float32, buffer=nl.sbuf)
    nisa.dma_copy(dst=gains, src=gain.broadcast_to((pmax, columns)))
    nisa.memset(dst=epsilon, value=EPSILON)
    for start in range(0, rows, pmax):
        height = min(pmax, rows - start)
        tile = nl.ndarray((height, columns), dtype=x.dtype, buffer=nl.sbuf)
        squares = nl.ndarray((height, columns), dtype=nl.float32, buffer=nl.sbuf)
        total = nl.ndarray((height, 1), dtype=nl.float32, buffer=nl.sbuf)
        scale = nl.ndarray((height, 1), dtype=nl.float32, buffer=nl.sbuf)
        nisa.dma_copy(dst=tile, src=x[start : start + height, :])
        nisa.activation_reduce(dst=squares, op=nl.square, data=tile, reduce_op=nl.add, reduce_res=total)
        nisa.activation(dst=scale, op=nl.rsqrt, data=total, scale=1.0 / columns, bias=epsilon[0:height, :])
        nisa.scalar_tensor_tensor(
            dst=tile, data=tile, op0=nl.multiply, operand0=scale, op1=nl.multiply, operand1=gains[0:height, :]
        )
        nisa.dma_copy(dst=out[start : start + height, :], src=tile)
    return out
