"""NumPy specification of `scale_bias_activation`: the exact gelu, by the error function."""

import math

import numpy as np

_erf = np.vectorize(math.erf, otypes=[np.float64])


def reference(x, scale, bias):
    """gelu(x * scale + bias)."""
    y = x * scale + bias
    return 0.5 * y * (1.0 + _erf(y / math.sqrt(2.0)))
