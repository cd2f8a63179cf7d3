"""NumPy specification of `matmul_add_rmsnorm`."""

import numpy as np

EPSILON = 1e-5


def reference(x, w, z, g):
    """rmsnorm(x @ w + z) * g in float32."""
    x, w, z, g = (t.astype(np.float32) for t in (x, w, z, g))
    y = x @ w + z
    return y / np.sqrt(np.mean(y * y, axis=-1, keepdims=True) + EPSILON) * g
