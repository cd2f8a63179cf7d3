"""NumPy specification of `matmul`."""


def reference(a_t, b):
    """a^T @ b."""
    return a_t.T @ b
