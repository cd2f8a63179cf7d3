"""Grouped-query attention, full (not causal): a key/value head stays in SBUF for all query heads of its group."""

import nki
import nki.isa as nisa
import nki.language as nl


def turn(data, engine):
    """Transpose a [P, F] tile by the PE array into a new SBUF tile [F, P]."""
    p, f = data.shape
    turned = nl.ndarray((f, p), dtype=data.dtype, buffer=nl.psum)
    nisa.nc_transpose(dst=turned, data=data)
    tile = nl.ndarray((f, p), dtype=data.dtype, buffer=nl.sbuf)
    nisa.tensor_copy(dst=tile, src=turned, engine=engine)
    return tile


@nki.jit
def kernel(q, k, v):
    """softmax(q k^T / sqrt(D)) v for each query head.

    Dimensions:
        H: query heads. G: key/value heads, dividing H. N: positions, a multiple of 512. D: head size, at most 128.

    Args:
        q: [H, N, D] in HBM.
        k, v: [G, N, D] in HBM.

    Returns:
        [H, N, D] in HBM, q's type.

    Notes:
        Scores of 128 queries against all keys are held in SBUF, so a row of N float32 must fit there several times.
        The division by the row sum waits until the output tile, which is D wide instead of N.
    """
    heads, n_size, d_size = q.shape
    groups = k.shape[0]
    pmax, fmax = nl.tile_size.pmax, nl.tile_size.gemm_moving_fmax
    n_tiles, banks = n_size // pmax, n_size // fmax
    scale = 1.0 / d_size**0.5
    out = nl.ndarray((heads, n_size, d_size), dtype=q.dtype, buffer=nl.shared_hbm)
    for g in range(groups):
        keys = nl.ndarray((d_size, n_size), dtype=k.dtype, buffer=nl.sbuf)
        values = nl.ndarray((pmax, n_tiles, d_size), dtype=v.dtype, buffer=nl.sbuf)
        for t in range(n_tiles):
            rows = slice(t * pmax, (t + 1) * pmax)
            key_rows = nl.ndarray((pmax, d_size), dtype=k.dtype, buffer=nl.sbuf)
            nisa.dma_copy(dst=key_rows, src=k[g, rows, :])
            turned = nl.ndarray((d_size, pmax), dtype=k.dtype, buffer=nl.psum)
            nisa.nc_transpose(dst=turned, data=key_rows)
            nisa.tensor_copy(dst=keys[:, rows], src=turned)
            nisa.dma_copy(dst=values[:, t, :], src=v[g, rows, :])
        for h in range(g * (heads // groups), (g + 1) * (heads // groups)):
            for m in range(n_tiles):
                query_rows = nl.ndarray((pmax, d_size), dtype=q.dtype, buffer=nl.sbuf)
                nisa.dma_copy(dst=query_rows, src=q[h, m * pmax : (m + 1) * pmax, :])
                query = turn(query_rows, nisa.vector_engine)

                scores = nl.ndarray((pmax, n_size), dtype=nl.float32, buffer=nl.sbuf)
                peaks = nl.ndarray((pmax, banks), dtype=nl.float32, buffer=nl.sbuf)
                for j in range(banks):
                    part = slice(j * fmax, (j + 1) * fmax)
                    acc = nl.ndarray((pmax, fmax), dtype=nl.float32, buffer=nl.psum)
                    nisa.nc_matmul(dst=acc, stationary=query, moving=keys[:, part])
                    nisa.tensor_reduce(dst=peaks[:, j : j + 1], op=nl.maximum, data=acc, axis=1)
                    nisa.activation(dst=scores[:, part], op=nl.copy, data=acc)
                lowest = nl.ndarray((pmax, 1), dtype=nl.float32, buffer=nl.sbuf)
                nisa.tensor_reduce(dst=lowest, op=nl.maximum, data=peaks, axis=1, negate=True)
                nisa.tensor_scalar(dst=lowest, data=lowest, op0=nl.multiply, operand0=scale)

                weights = nl.ndarray((pmax, n_size), dtype=v.dtype, buffer=nl.sbuf)
                total = nl.ndarray((pmax, 1), dtype=nl.float32, buffer=nl.sbuf)
                nisa.activation_reduce(
                    dst=weights, op=nl.exp, data=scores, reduce_op=nl.add, reduce_res=total, bias=lowest, scale=scale
                )
                blended = nl.ndarray((pmax, d_size), dtype=nl.float32, buffer=nl.psum)
                for t in range(n_tiles):
                    engine = nisa.vector_engine if t % 2 == 0 else nisa.scalar_engine
                    weight = turn(weights[:, t * pmax : (t + 1) * pmax], engine)
                    nisa.nc_matmul(dst=blended, stationary=weight, moving=values[:, t, :])
                share = nl.ndarray((pmax, 1), dtype=nl.float32, buffer=nl.sbuf)
                nisa.reciprocal(dst=share, data=total)
                result = nl.ndarray((pmax, d_size), dtype=q.dtype, buffer=nl.sbuf)
                nisa.tensor_scalar(dst=result, data=blended, op0=nl.multiply, operand0=share)
                nisa.dma_copy(dst=out[h, m * pmax : (m + 1) * pmax, :], src=result)
    return out
