"""NumPy specification of `rmsnorm_matmul`."""

import numpy as np


def reference(x, w):
    """(x / sqrt(mean(x^2) + 1e-6)) @ w."""
    return (x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + 1e-6)) @ w
