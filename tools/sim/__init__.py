"""A NeuronCore in NumPy: runs NKI kernels, checks limits, and says how long the hardware would take.

`simulate(load_kernel("rmsnorm.py", "kernel"), x, target="trn2")` returns outputs, latency, profile and diagnostics.
"""

from tools.sim.errors import Diagnostic, KernelError, Severity, SourceRange, UnsupportedError
from tools.sim.execute import SimResult, simulate, simulate_group
from tools.sim.frontend.host import install
from tools.sim.frontend.loader import LoadedKernel, load_kernel, load_source
from tools.sim.machine import machine

__all__ = [
    "Diagnostic",
    "KernelError",
    "LoadedKernel",
    "Severity",
    "SimResult",
    "SourceRange",
    "UnsupportedError",
    "install",
    "load_kernel",
    "load_source",
    "machine",
    "simulate",
    "simulate_group",
]
