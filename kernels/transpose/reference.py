"""NumPy specification of `transpose`."""

import numpy as np


def reference(x):
    """Rows become columns."""
    return np.transpose(x)
