"""LayerNorm: mean and variance of each row by the Vector Engine's statistics instructions."""

import nki
import nki.isa as nisa
import nki.language as nl

EPSILON = 1e-5


@nki.jit
def kernel(x, gain, bias):
    """Normalise rows to mean 0 and variance 1, then scale and shift.

    Dimensions:
        M: rows, any number. N: columns; four tiles of [128, N] must fit in SBUF.

    Args:
        x: [M, N] in HBM.
        gain, bias: [1, N] in HBM.

    Returns:
        [M, N] in HBM, x's type.

    Notes:
        - `bn_stats` reads at most 512 elements a partition; `bn_aggr` merges the pieces, whatever their sizes are.
        - (x - mean) * scale is one tensor_scalar with two [P, 1] operands.
    """
    rows, columns = x.shape
    pmax, piece = nl.tile_size.pmax, nl.tile_size.bn_stats_fmax
    pieces = (columns + piece - 1) // piece
    out = nl.ndarray((rows, columns), dtype=x.dtype, buffer=nl.shared_hbm)
    gains = nl.ndarray((pmax, columns), dtype=gain.dtype, buffer=nl.sbuf)
    shifts = nl.ndarray((pmax, columns), dtype=bias.dtype, buffer=nl.sbuf)
    epsilon = nl.ndarray((pmax, 1), dtype=nl.float32, buffer=nl.sbuf)
    nisa.dma_copy(dst=gains, src=gain.broadcast_to((pmax, columns)))
    nisa.dma_copy(dst=shifts, src=bias.broadcast_to((pmax, columns)))
    nisa.memset(dst=epsilon, value=EPSILON)
    for start in range(0, rows, pmax):
        height = min(pmax, rows - start)
        tile = nl.ndarray((height, columns), dtype=x.dtype, buffer=nl.sbuf)
        nisa.dma_copy(dst=tile, src=x[start : start + height, :])
        statistics = nl.ndarray((height, pieces, 6), dtype=nl.float32, buffer=nl.sbuf)
        for i in range(pieces):
            nisa.bn_stats(dst=statistics[:, i, :], data=tile[:, i * piece : min((i + 1) * piece, columns)])
        moments = nl.ndarray((height, 2), dtype=nl.float32, buffer=nl.sbuf)
        nisa.bn_aggr(dst=moments, data=statistics)
        scale = nl.ndarray((height, 1), dtype=nl.float32, buffer=nl.sbuf)
        nisa.activation(dst=scale, op=nl.rsqrt, data=moments[:, 1:2], bias=epsilon[0:height, :])
        wide = nl.ndarray((height, columns), dtype=nl.float32, buffer=nl.sbuf)
        nisa.tensor_scalar(
            dst=wide, data=tile, op0=nl.subtract, operand0=moments[:, 0:1], op1=nl.multiply, operand1=scale
        )
        nisa.tensor_tensor(dst=wide, data1=wide, data2=gains[0:height, :], op=nl.multiply)
        nisa.tensor_tensor(dst=tile, data1=wide, data2=shifts[0:height, :], op=nl.add)
        nisa.dma_copy(dst=out[start : start + height, :], src=tile)
    return out
