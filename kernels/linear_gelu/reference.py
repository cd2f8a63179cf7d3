"""NumPy specification of `linear_gelu`: gelu by its tanh approximation."""

import numpy as np


def reference(x_t, w, bias):
    """gelu(w^T @ x_t + bias), features by rows."""
    y = w.T @ x_t + bias
    return 0.5 * y * (1.0 + np.tanh(np.sqrt(2.0 / np.pi) * (y + 0.044715 * y**3)))
