"""Rotary position embedding with the head dimension on partitions: both halves meet without moving data."""

import nki
import nki.isa as nisa
import nki.language as nl


@nki.jit
def kernel(x, cos, sin):
    """Rotate the two halves of the head dimension against each other.

    Dimensions:
        D: head dimension, 2 * H, H at most 128. S: positions times heads.

    Args:
        x: [D, S] in HBM.
        cos, sin: [H, S] in HBM.

    Returns:
        [D, S]: the upper half is x0*cos - x1*sin, the lower half x1*cos + x0*sin.

    Notes:
        Each half is loaded into a tile of its own that starts at partition 0, so that all operands share lanes.
    """
    size, positions = x.shape
    half = size // 2
    chunk = min(4096, positions)
    out = nl.ndarray((size, positions), dtype=x.dtype, buffer=nl.shared_hbm)
    for start in range(0, positions, chunk):
        width = min(chunk, positions - start)
        part = slice(start, start + width)
        x0 = nl.ndarray((half, width), dtype=x.dtype, buffer=nl.sbuf)
        x1 = nl.ndarray((half, width), dtype=x.dtype, buffer=nl.sbuf)
        c = nl.ndarray((half, width), dtype=cos.dtype, buffer=nl.sbuf)
        s = nl.ndarray((half, width), dtype=sin.dtype, buffer=nl.sbuf)
        nisa.dma_copy(dst=x0, src=x[0:half, part])
        nisa.dma_copy(dst=x1, src=x[half:size, part])
        nisa.dma_copy(dst=c, src=cos[:, part])
        nisa.dma_copy(dst=s, src=sin[:, part])

        upper = nl.ndarray((half, width), dtype=x.dtype, buffer=nl.sbuf)
        cross = nl.ndarray((half, width), dtype=x.dtype, buffer=nl.sbuf)
        nisa.tensor_tensor(dst=upper, data1=x0, data2=c, op=nl.multiply)
        nisa.tensor_tensor(dst=cross, data1=x1, data2=s, op=nl.multiply)
        nisa.tensor_tensor(dst=upper, data1=upper, data2=cross, op=nl.subtract)
        nisa.dma_copy(dst=out[0:half, part], src=upper)

        lower = nl.ndarray((half, width), dtype=x.dtype, buffer=nl.sbuf)
        nisa.tensor_tensor(dst=lower, data1=x1, data2=c, op=nl.multiply)
        nisa.tensor_tensor(dst=cross, data1=x0, data2=s, op=nl.multiply)
        nisa.tensor_tensor(dst=lower, data1=lower, data2=cross, op=nl.add)
        nisa.dma_copy(dst=out[half:size, part], src=lower)
    return out
