"""NumPy specification of `add_rmsnorm_matmul`."""

import numpy as np

EPSILON = 1e-5


def reference(x, z, g, w):
    """rmsnorm(x + z) * g @ w in float32; g is a column [K, 1]."""
    x, z, g, w = (t.astype(np.float32) for t in (x, z, g, w))
    y = x + z
    y = y / np.sqrt(np.mean(y * y, axis=-1, keepdims=True) + EPSILON) * g.T
    return y @ w
