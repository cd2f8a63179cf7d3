"""Selective state-space scan: the recurrence along positions is one scan instruction a state."""

import nki
import nki.isa as nisa
import nki.language as nl


@nki.jit
def kernel(delta, u, a, b, c):
    """h[s] = exp(delta * a[s]) * h_before[s] + delta * u * b[s];  y = sum over s of c[s] * h[s].

    Dimensions:
        C: channels, a multiple of 128. M: positions, any number. S: states.

    Args:
        delta, u: [C, M] float32 in HBM.
        a: [C, S] float32 in HBM.
        b, c: [S, M] float32 in HBM; shared by all channels, hence loaded with a partition step of 0.

    Returns:
        y [C, M] float32 in HBM.

    Notes:
        Positions are worked off in chunks; the last state of a chunk starts the next one.
    """
    channels, positions = delta.shape
    states = a.shape[1]
    pmax = nl.tile_size.pmax
    chunk = min(2048, positions)
    out = nl.ndarray((channels, positions), dtype=delta.dtype, buffer=nl.shared_hbm)
    for c0 in range(0, channels, pmax):
        lanes = slice(c0, c0 + pmax)
        decay = nl.ndarray((pmax, states), dtype=nl.float32, buffer=nl.sbuf)
        nisa.dma_copy(dst=decay, src=a[lanes, :])
        carry = nl.ndarray((pmax, states), dtype=nl.float32, buffer=nl.sbuf)
        nisa.memset(dst=carry, value=0.0)
        for m0 in range(0, positions, chunk):
            width = min(chunk, positions - m0)
            part = slice(m0, m0 + width)
            step = nl.ndarray((pmax, width), dtype=nl.float32, buffer=nl.sbuf)
            drive = nl.ndarray((pmax, width), dtype=nl.float32, buffer=nl.sbuf)
            nisa.dma_copy(dst=step, src=delta[lanes, part])
            nisa.dma_copy(dst=drive, src=u[lanes, part])
            nisa.tensor_tensor(dst=drive, data1=drive, data2=step, op=nl.multiply)
            total = nl.ndarray((pmax, width), dtype=nl.float32, buffer=nl.sbuf)
            for s in range(states):
                keep = nl.ndarray((pmax, width), dtype=nl.float32, buffer=nl.sbuf)
                nisa.activation(dst=keep, op=nl.exp, data=step, scale=decay[:, s : s + 1])
                enter = nl.ndarray((pmax, width), dtype=nl.float32, buffer=nl.sbuf)
                nisa.dma_copy(dst=enter, src=b[s : s + 1, part].broadcast_to((pmax, width)))
                nisa.tensor_tensor(dst=enter, data1=enter, data2=drive, op=nl.multiply)
                state = nl.ndarray((pmax, width), dtype=nl.float32, buffer=nl.sbuf)
                nisa.tensor_tensor_scan(
                    dst=state, data0=keep, data1=enter, initial=carry[:, s : s + 1], op0=nl.multiply, op1=nl.add
                )
                nisa.tensor_copy(dst=carry[:, s : s + 1], src=state[:, width - 1 : width], engine=nisa.scalar_engine)
                weight = nl.ndarray((pmax, width), dtype=nl.float32, buffer=nl.sbuf)
                nisa.dma_copy(dst=weight, src=c[s : s + 1, part].broadcast_to((pmax, width)))
                if s == 0:
                    nisa.tensor_tensor(dst=total, data1=state, data2=weight, op=nl.multiply)
                else:
                    nisa.tensor_tensor(dst=state, data1=state, data2=weight, op=nl.multiply)
                    nisa.tensor_tensor(dst=total, data1=total, data2=state, op=nl.add)
            nisa.dma_copy(dst=out[lanes, part], src=total)
    return out
