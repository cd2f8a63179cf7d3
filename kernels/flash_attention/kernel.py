"""Flash attention, one head: keys and values pass by in blocks, and no row of scores is ever held whole."""

import nki
import nki.isa as nisa
import nki.language as nl

BLOCK = 1024
"""Keys of a block. Their scores fill two PSUM banks, so the next queries' scores have room beside them."""


def scores_of(queries, keys):
    """q k^T of a tile of queries [D, M] and a block of keys [D, N], in a new PSUM tile [M, N]."""
    height, length = queries.shape[1], keys.shape[1]
    nmax = nl.tile_size.gemm_moving_fmax
    scores = nl.ndarray((height, length), dtype=nl.float32, buffer=nl.psum)
    for t in range(0, length, nmax):
        width = min(nmax, length - t)
        nisa.nc_matmul(dst=scores[:, t : t + width], stationary=queries, moving=keys[:, t : t + width])
    return scores


@nki.jit
def kernel(q, k, v):
    """Scaled dot-product attention without a mask, softmax(q k^T / sqrt(D)) v.

    Dimensions:
        S: queries, any number; S * D / 32 bytes a partition must fit in SBUF. T: keys, a multiple of 128. D: head size, at
        most 128.

    Args:
        q: [S, D] in HBM.
        k, v: [T, D] in HBM.

    Returns:
        [S, D] in HBM, q's type.

    Notes:
        - The outer loop goes over blocks of keys: keys and values are read once, whatever S is. What a block adds to a query
          is its weights' sum and their product with the values, both relative to the largest score so far; when a later
          block has a larger one, what was added up before is scaled down by exp((old - new) / sqrt(D)).
        - Only the sums [S, 1], the peaks [S, 1] and the blended values [S, D] live from block to block, in float32.
        - The second matmul contracts over keys: weights are transposed in squares of 128, four squares to a PSUM bank and
          one copy. Vector and Scalar Engine share the copies, as the maximum and exp keep one of them busy each.
        - The next queries' scores are asked for before this tile's softmax, or the PE array would wait for that.
        - The division by the sum waits for the last block.
    """
    s_size, d_size = q.shape
    t_size = k.shape[0]
    pmax, nmax = nl.tile_size.pmax, nl.tile_size.gemm_moving_fmax
    s_tiles = (s_size + pmax - 1) // pmax
    factor = 1.0 / d_size**0.5
    out = nl.ndarray((s_size, d_size), dtype=q.dtype, buffer=nl.shared_hbm)

    queries = nl.ndarray((d_size, s_size), dtype=q.dtype, buffer=nl.sbuf)
    for s in range(s_tiles):
        height = min(pmax, s_size - s * pmax)
        rows = slice(s * pmax, s * pmax + height)
        tile = nl.ndarray((height, d_size), dtype=q.dtype, buffer=nl.sbuf)
        turned = nl.ndarray((d_size, height), dtype=q.dtype, buffer=nl.psum)
        nisa.dma_copy(dst=tile, src=q[rows, :])
        nisa.nc_transpose(dst=turned, data=tile)
        nisa.tensor_copy(dst=queries[:, rows], src=turned)

    lowest = nl.ndarray((pmax, s_tiles), dtype=nl.float32, buffer=nl.sbuf)
    sums = nl.ndarray((pmax, s_tiles), dtype=nl.float32, buffer=nl.sbuf)
    blended = nl.ndarray((pmax, s_tiles, d_size), dtype=nl.float32, buffer=nl.sbuf)

    for start in range(0, t_size, BLOCK):
        length = min(BLOCK, t_size - start)
        squares = length // pmax
        values = nl.ndarray((pmax, squares, d_size), dtype=v.dtype, buffer=nl.sbuf)
        keys = nl.ndarray((d_size, length), dtype=k.dtype, buffer=nl.sbuf)
        for t in range(squares):
            rows = slice(start + t * pmax, start + (t + 1) * pmax)
            tile = nl.ndarray((pmax, d_size), dtype=k.dtype, buffer=nl.sbuf)
            turned = nl.ndarray((d_size, pmax), dtype=k.dtype, buffer=nl.psum)
            nisa.dma_copy(dst=values[:, t, :], src=v[rows, :])
            nisa.dma_copy(dst=tile, src=k[rows, :])
            nisa.nc_transpose(dst=turned, data=tile)
            nisa.tensor_copy(dst=keys[:, t * pmax : (t + 1) * pmax], src=turned)

        coming = scores_of(queries[:, 0 : min(pmax, s_size)], keys)
        for s in range(s_tiles):
            height = min(pmax, s_size - s * pmax)
            scores = coming
            if s + 1 < s_tiles:
                coming = scores_of(queries[:, (s + 1) * pmax : min((s + 2) * pmax, s_size)], keys)
            # Peaks are kept negated and scaled, as the activation adds its bias.
            shift = nl.ndarray((height, 1), dtype=nl.float32, buffer=nl.sbuf)
            nisa.tensor_reduce(dst=shift, op=nl.maximum, data=scores, axis=1, negate=True)
            kept = lowest[0:height, s : s + 1]
            if start == 0:
                nisa.tensor_scalar(dst=kept, data=shift, op0=nl.multiply, operand0=factor)
            else:
                before = nl.ndarray((height, 1), dtype=nl.float32, buffer=nl.sbuf)
                nisa.tensor_copy(dst=before, src=kept)
                nisa.tensor_scalar(dst=kept, data=shift, op0=nl.multiply, operand0=factor, op1=nl.minimum, operand1=before)
                shrink = nl.ndarray((height, 1), dtype=nl.float32, buffer=nl.sbuf)
                nisa.activation(dst=shrink, op=nl.exp, data=before, scale=-1.0, bias=kept)

            weights = nl.ndarray((height, length), dtype=v.dtype, buffer=nl.sbuf)
            added = nl.ndarray((height, 1), dtype=nl.float32, buffer=nl.sbuf)
            nisa.activation_reduce(
                dst=weights, op=nl.exp, data=scores, scale=factor, bias=kept, reduce_op=nl.add, reduce_res=added
            )
            product = nl.ndarray((height, d_size), dtype=nl.float32, buffer=nl.psum)
            group = nmax // pmax
            for t in range(0, squares, group):
                count = min(group, squares - t)
                part = nl.ndarray((pmax, count, height), dtype=v.dtype, buffer=nl.psum)
                for i in range(count):
                    nisa.nc_transpose(dst=part[:, i, :], data=weights[:, (t + i) * pmax : (t + i + 1) * pmax])
                moved = nl.ndarray((pmax, count, height), dtype=v.dtype, buffer=nl.sbuf)
                nisa.tensor_copy(dst=moved, src=part, engine=nisa.scalar_engine if t else nisa.vector_engine)
                for i in range(count):
                    nisa.nc_matmul(dst=product, stationary=moved[:, i, :], moving=values[:, t + i, :])

            total, blend = sums[0:height, s : s + 1], blended[0:height, s, :]
            if start == 0:
                nisa.tensor_copy(dst=total, src=added)
                nisa.tensor_copy(dst=blend, src=product)
            else:
                nisa.scalar_tensor_tensor(
                    dst=total, data=total, op0=nl.multiply, operand0=shrink, op1=nl.add, operand1=added
                )
                nisa.scalar_tensor_tensor(
                    dst=blend, data=blend, op0=nl.multiply, operand0=shrink, op1=nl.add, operand1=product
                )

    for s in range(s_tiles):
        height = min(pmax, s_size - s * pmax)
        share = nl.ndarray((height, 1), dtype=nl.float32, buffer=nl.sbuf)
        nisa.reciprocal(dst=share, data=sums[0:height, s : s + 1])
        result = nl.ndarray((height, d_size), dtype=q.dtype, buffer=nl.sbuf)
        nisa.tensor_scalar(dst=result, data=blended[0:height, s, :], op0=nl.multiply, operand0=share)
        nisa.dma_copy(dst=out[s * pmax : s * pmax + height, :], src=result)
    return out
