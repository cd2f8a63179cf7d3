"""NumPy specification of `add`."""


def reference(a, b):
    """The elementwise sum."""
    return a + b
