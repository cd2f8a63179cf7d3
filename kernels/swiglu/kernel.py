"""The gated MLP (silu(x @ gate) * (x @ up)) @ down, fused: the hidden activations never leave SBUF.

The hidden layer is computed transposed, [hidden, rows], which is just the stationary layout that the second matmul needs.
"""

import nki
import nki.isa as nisa
import nki.language as nl


@nki.jit
def kernel(x, gate, up, down):
    """Apply a SwiGLU block.

    Dimensions:
        M: rows, a multiple of 512. K: model size, a multiple of 128. F: hidden size, a multiple of 128.

    Args:
        x: [M, K] in HBM.
        gate, up: [K, F] in HBM.
        down: [F, K] in HBM.

    Returns:
        [M, K] in HBM, x's type.

    Notes:
        Weights are streamed once for every 512 rows. silu(g) is g * sigmoid(g), evaluated by the Scalar Engine straight
        from PSUM while the Vector Engine multiplies.
    """
    m_size, k_size = x.shape
    f_size = gate.shape[1]
    pmax, fmax = nl.tile_size.pmax, nl.tile_size.gemm_moving_fmax
    k_tiles, f_tiles = k_size // pmax, f_size // pmax
    out = nl.ndarray((m_size, k_size), dtype=x.dtype, buffer=nl.shared_hbm)
    for m0 in range(0, m_size, fmax):
        moving = nl.ndarray((pmax, k_tiles, fmax), dtype=x.dtype, buffer=nl.sbuf)
        for r in range(0, fmax, pmax):
            rows = nl.ndarray((pmax, k_size), dtype=x.dtype, buffer=nl.sbuf)
            nisa.dma_copy(dst=rows, src=x[m0 + r : m0 + r + pmax, :])
            for k in range(0, k_tiles, 4):
                group = min(4, k_tiles - k)
                bank = nl.ndarray((pmax, group, pmax), dtype=x.dtype, buffer=nl.psum)
                for i in range(group):
                    nisa.nc_transpose(dst=bank[:, i, :], data=rows[:, (k + i) * pmax : (k + i + 1) * pmax])
                nisa.tensor_copy(dst=moving[:, k : k + group, r : r + pmax], src=bank)

        hidden = nl.ndarray((pmax, f_tiles, fmax), dtype=x.dtype, buffer=nl.sbuf)
        for f in range(f_tiles):
            part = slice(f * pmax, (f + 1) * pmax)
            gates = nl.ndarray((pmax, k_tiles, pmax), dtype=gate.dtype, buffer=nl.sbuf)
            ups = nl.ndarray((pmax, k_tiles, pmax), dtype=up.dtype, buffer=nl.sbuf)
            for k in range(k_tiles):
                nisa.dma_copy(dst=gates[:, k, :], src=gate[k * pmax : (k + 1) * pmax, part])
                nisa.dma_copy(dst=ups[:, k, :], src=up[k * pmax : (k + 1) * pmax, part])
            gated = nl.ndarray((pmax, fmax), dtype=nl.float32, buffer=nl.psum)
            raised = nl.ndarray((pmax, fmax), dtype=nl.float32, buffer=nl.psum)
            for k in range(k_tiles):
                nisa.nc_matmul(dst=gated, stationary=gates[:, k, :], moving=moving[:, k, :])
            for k in range(k_tiles):
                nisa.nc_matmul(dst=raised, stationary=ups[:, k, :], moving=moving[:, k, :])
            smooth = nl.ndarray((pmax, fmax), dtype=nl.float32, buffer=nl.sbuf)
            nisa.activation(dst=smooth, op=nl.silu, data=gated)
            nisa.tensor_tensor(dst=hidden[:, f, :], data1=smooth, data2=raised, op=nl.multiply)

        for n0 in range(0, k_size, fmax):
            width = min(fmax, k_size - n0)
            sums = [nl.ndarray((pmax, width), dtype=nl.float32, buffer=nl.psum) for _ in range(fmax // pmax)]
            for f in range(f_tiles):
                right = nl.ndarray((pmax, width), dtype=down.dtype, buffer=nl.sbuf)
                nisa.dma_copy(dst=right, src=down[f * pmax : (f + 1) * pmax, n0 : n0 + width])
                for i, acc in enumerate(sums):
                    nisa.nc_matmul(dst=acc, stationary=hidden[:, f, i * pmax : (i + 1) * pmax], moving=right)
            for i, acc in enumerate(sums):
                tile = nl.ndarray((pmax, width), dtype=x.dtype, buffer=nl.sbuf)
                nisa.tensor_copy(dst=tile, src=acc)
                r0 = m0 + i * pmax
                nisa.dma_copy(dst=out[r0 : r0 + pmax, n0 : n0 + width], src=tile)
    return out
