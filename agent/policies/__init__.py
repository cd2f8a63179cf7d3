"""Who writes kernels: interchangeable policies behind one protocol."""
