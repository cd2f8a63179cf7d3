"""NumPy specification of `lora`."""

import numpy as np


def reference(x, w, a, b):
    """x @ w + (x @ a) @ b in float32."""
    x, w, a, b = (t.astype(np.float32) for t in (x, w, a, b))
    return x @ w + (x @ a) @ b
