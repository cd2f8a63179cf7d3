"""Row softmax: maximum, exponential with its sum folded in, division. Rows stay in their partitions throughout."""

import nki
import nki.isa as nisa
import nki.language as nl


@nki.jit
def kernel(x):
    """Softmax over the last axis.

    Dimensions:
        M: rows, any number. N: columns; two tiles of [128, N] must fit in SBUF.

    Args:
        x: [M, N] in HBM.

    Returns:
        [M, N] in HBM, x's type.

    Notes:
        - The row maximum is subtracted first: exp of a large input overflows otherwise.
        - `activation_reduce` adds up the exponentials while it makes them; a separate reduction would read them again.
        - The maximum is negated by the reduction itself, because the activation adds its bias.
    """
    rows, columns = x.shape
    pmax = nl.tile_size.pmax
    out = nl.ndarray((rows, columns), dtype=x.dtype, buffer=nl.shared_hbm)
    for start in range(0, rows, pmax):
        height = min(pmax, rows - start)
        tile = nl.ndarray((height, columns), dtype=x.dtype, buffer=nl.sbuf)
        powers = nl.ndarray((height, columns), dtype=nl.float32, buffer=nl.sbuf)
        lowest = nl.ndarray((height, 1), dtype=nl.float32, buffer=nl.sbuf)
        total = nl.ndarray((height, 1), dtype=nl.float32, buffer=nl.sbuf)
        nisa.dma_copy(dst=tile, src=x[start : start + height, :])
        nisa.tensor_reduce(dst=lowest, op=nl.maximum, data=tile, axis=1, negate=True)
        nisa.activation_reduce(dst=powers, op=nl.exp, data=tile, bias=lowest, reduce_op=nl.add, reduce_res=total)
        nisa.reciprocal(dst=total, data=total)
        nisa.tensor_scalar(dst=tile, data=powers, op0=nl.multiply, operand0=total)
        nisa.dma_copy(dst=out[start : start + height, :], src=tile)
    return out
