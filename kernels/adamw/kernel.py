"""One AdamW step: decay, both moments and the bias-corrected update in a single pass over HBM."""

import nki
import nki.isa as nisa
import nki.language as nl

LEARNING_RATE, DECAY = 1e-3, 1e-2
BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8
STEP = 10


@nki.jit
def kernel(theta, grad, m, v):
    """Update parameters and moments.

    Dimensions:
        M: rows, any number. N: columns.

    Args:
        theta, grad, m, v: [M, N] float32 in HBM: parameters, gradient, first and second moment.

    Returns:
        The new theta, m and v, each [M, N] float32.

    Notes:
        The Scalar Engine squares the gradient and takes the root while the Vector Engine blends the moments.
    """
    rows, columns = theta.shape
    pmax = nl.tile_size.pmax
    correction1, correction2 = 1.0 - BETA1**STEP, 1.0 - BETA2**STEP
    new_theta = nl.ndarray((rows, columns), dtype=theta.dtype, buffer=nl.shared_hbm)
    new_m = nl.ndarray((rows, columns), dtype=m.dtype, buffer=nl.shared_hbm)
    new_v = nl.ndarray((rows, columns), dtype=v.dtype, buffer=nl.shared_hbm)
    for start in range(0, rows, pmax):
        height = min(pmax, rows - start)
        part = slice(start, start + height)
        tiles = []
        for tensor in (theta, grad, m, v):
            tile = nl.ndarray((height, columns), dtype=nl.float32, buffer=nl.sbuf)
            nisa.dma_copy(dst=tile, src=tensor[part, :])
            tiles.append(tile)
        t, g, first, second = tiles

        square = nl.ndarray((height, columns), dtype=nl.float32, buffer=nl.sbuf)
        nisa.activation(dst=square, op=nl.square, data=g, scale=(1.0 - BETA2) ** 0.5)
        # second = BETA2 * second + (1 - BETA2) * g^2
        nisa.scalar_tensor_tensor(
            dst=second, data=second, op0=nl.multiply, operand0=BETA2, op1=nl.add, operand1=square
        )
        # first = BETA1 * first + (1 - BETA1) * g
        nisa.tensor_scalar(dst=g, data=g, op0=nl.multiply, operand0=1.0 - BETA1)
        nisa.scalar_tensor_tensor(dst=first, data=first, op0=nl.multiply, operand0=BETA1, op1=nl.add, operand1=g)
        # step = first / (sqrt(second / correction2) + eps), scaled by -lr / correction1 when it is added
        root = nl.ndarray((height, columns), dtype=nl.float32, buffer=nl.sbuf)
        nisa.activation(dst=root, op=nl.sqrt, data=second, scale=1.0 / correction2)
        nisa.tensor_scalar(dst=root, data=root, op0=nl.add, operand0=EPSILON)
        nisa.reciprocal(dst=root, data=root)
        nisa.tensor_tensor(dst=root, data1=root, data2=first, op=nl.multiply)
        nisa.tensor_scalar(dst=t, data=t, op0=nl.multiply, operand0=1.0 - LEARNING_RATE * DECAY)
        nisa.scalar_tensor_tensor(
            dst=t, data=root, op0=nl.multiply, operand0=-LEARNING_RATE / correction1, op1=nl.add, operand1=t
        )

        for tensor, tile in ((new_theta, t), (new_m, first), (new_v, second)):
            nisa.dma_copy(dst=tensor[part, :], src=tile)
    return new_theta, new_m, new_v
