"""NumPy specification of `matmul_blocked`."""


def reference(a_t, b):
    """a^T @ b."""
    return a_t.T @ b
