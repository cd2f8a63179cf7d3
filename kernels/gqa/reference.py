"""NumPy specification of `gqa`."""

import numpy as np


def reference(q, k, v):
    """Full attention of q [H, N, D] over k, v [G, N, D], each shared by H / G query heads."""
    q, k, v = (t.astype(np.float32) for t in (q, k, v))
    repeat = q.shape[0] // k.shape[0]
    out = np.empty_like(q)
    for h in range(q.shape[0]):
        scores = q[h] @ k[h // repeat].T / np.sqrt(np.float32(q.shape[2]))
        scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
        out[h] = scores / scores.sum(axis=-1, keepdims=True) @ v[h // repeat]
    return out
