"""NumPy specification of `adamw`. The moments are returned too: the parameters alone hide a wrong update."""

import numpy as np

LEARNING_RATE, DECAY = 1e-3, 1e-2
BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8
STEP = 10


def reference(theta, grad, m, v):
    """One AdamW step at STEP."""
    first = BETA1 * m + (1 - BETA1) * grad
    second = BETA2 * v + (1 - BETA2) * grad * grad
    root = np.sqrt(second / (1 - BETA2**STEP)) + EPSILON
    update = LEARNING_RATE * (first / (1 - BETA1**STEP)) / root
    return theta * (1 - LEARNING_RATE * DECAY) - update, first, second
