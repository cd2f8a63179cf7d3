"""NumPy specification of `silu`."""

import numpy as np


def reference(x):
    """x * sigmoid(x), in float32."""
    wide = x.astype(np.float32)
    return wide / (1.0 + np.exp(-wide))
