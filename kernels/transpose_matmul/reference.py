"""NumPy specification of `transpose_matmul`."""

import numpy as np


def reference(a, b):
    """a^T @ b in float32."""
    return a.astype(np.float32).T @ b.astype(np.float32)
