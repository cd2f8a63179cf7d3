"""NumPy specification of `swiglu`."""

import numpy as np


def reference(x, gate, up, down):
    """(silu(x @ gate) * (x @ up)) @ down in float32."""
    x, gate, up, down = (t.astype(np.float32) for t in (x, gate, up, down))
    g = x @ gate
    return (g / (1 + np.exp(-g)) * (x @ up)) @ down
