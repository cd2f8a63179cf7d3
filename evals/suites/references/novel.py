# mypy: ignore-errors
"""NumPy specifications that no grammar of words covers: requests by reference."""

import numpy as np


def gated_residual(x, gate, residual):
    """residual + x * sigmoid(gate), then scaled to unit root mean square in each row."""
    y = residual + x / (1.0 + np.exp(-gate))
    return y / np.sqrt(np.mean(y * y, axis=-1, keepdims=True) + 1e-6)


def centred_softmax(x):
    """Softmax of rows that were centred and divided by their spread."""
    centred = x - np.mean(x, axis=-1, keepdims=True)
    z = centred / np.sqrt(np.mean(centred * centred, axis=-1, keepdims=True) + 1e-5)
    powers = np.exp(z - np.max(z, axis=-1, keepdims=True))
    return powers / np.sum(powers, axis=-1, keepdims=True)


def raises(x):
    """A reference that can't work: it must be refused."""
    return np.linalg.inv(x[:, :3])
