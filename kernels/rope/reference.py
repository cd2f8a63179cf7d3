"""NumPy specification of `rope`."""

import numpy as np


def reference(x, cos, sin):
    """Rotate the halves of axis 0."""
    half = x.shape[0] // 2
    x0, x1 = x[:half], x[half:]
    return np.concatenate([x0 * cos - x1 * sin, x1 * cos + x0 * sin], axis=0)
