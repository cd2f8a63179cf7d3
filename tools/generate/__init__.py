"""From a NumPy reference to readable NKI kernels: tracing, operator graph, stages, schedules, rendering, search."""
