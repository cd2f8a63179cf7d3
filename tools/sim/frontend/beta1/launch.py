"""Entry points of Beta 1: `nki.jit`, `baremetal`, `benchmark`, `profile`, `simulate_kernel`, all on the simulator."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tools.sim import context
from tools.sim.frontend.absent import is_stand_in
from tools.sim.frontend.host_arrays import results
from tools.sim.frontend.jit import JitKernel, make_jit
from tools.sim.frontend.language import TensorSpec

DIALECT = "neuronxcc.nki"

jit = make_jit(DIALECT)
_JIT_OPTIONS = ("mode", "platform_target", "debug_kernel", "show_compiler_tb", "experimental_flags", "kernel_return")


class Latency:
    """Latency of a benchmarked kernel. The simulator is deterministic, so every percentile is the same."""

    def __init__(self, latency_us: float) -> None:
        self.latency_us = latency_us

    def get_latency_percentile(self, percentile: int) -> float:
        """Simulated latency in microseconds."""
        if not 0 <= percentile <= 100:
            raise ValueError(f"percentile {percentile} must lie between 0 and 100")
        return self.latency_us


class BenchmarkResult:
    """What a benchmarked kernel keeps of its last call: `nc_latency`."""

    def __init__(self, latency_us: float) -> None:
        self.nc_latency = Latency(latency_us)


class BenchmarkKernel(JitKernel):
    """A kernel whose calls are timed: `kernel.benchmark_result.nc_latency.get_latency_percentile(50)`."""

    def __init__(
        self,
        function: Callable[..., Any],
        dialect: str,
        options: dict[str, Any],
        grid: tuple[Any, ...] = (),
        parent: BenchmarkKernel | None = None,
    ) -> None:
        super().__init__(function, dialect, options, grid)
        self.parent = parent
        self.result: BenchmarkResult | None = None

    @property
    def benchmark_result(self) -> BenchmarkResult:
        """Latency of the last call."""
        if self.result is None:
            raise AttributeError("benchmark_result exists after the kernel was called")
        return self.result

    def __getitem__(self, grid: Any) -> BenchmarkKernel:
        sizes = grid if isinstance(grid, tuple) else (grid,)
        return BenchmarkKernel(self.function, self.dialect, self.options, sizes, self)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if context.find() is not None or any(is_stand_in(value) for value in (*args, *kwargs.values())):
            return super().__call__(*args, **kwargs)
        from tools.sim.execute import simulate
        from tools.sim.frontend.jit import default_precision, default_target

        shapes_only = any(isinstance(v, TensorSpec) for v in (*args, *kwargs.values()))
        args = tuple(v.placeholder() if isinstance(v, TensorSpec) else v for v in args)
        kwargs = {k: v.placeholder() if isinstance(v, TensorSpec) else v for k, v in kwargs.items()}
        run = simulate(
            self, *args, target=default_target(), precision=default_precision(), data=not shapes_only, **kwargs
        )
        holder: BenchmarkKernel | None = self
        while holder is not None:
            holder.result = BenchmarkResult(run.latency_us)
            holder = holder.parent
        return None if shapes_only else results(run.outputs, (args, kwargs))


def _wrap(function: Any, options: dict[str, Any], kind: type[JitKernel]) -> Any:
    if function is None:
        return lambda f: _wrap(f, options, kind)
    grid = function.grid if isinstance(function, JitKernel) else ()
    raw = function.function if isinstance(function, JitKernel) else function
    return kind(raw, DIALECT, options, grid)


def baremetal(kernel: Any = None, **options: Any) -> Any:
    """Run a kernel on arrays without a framework: here, on the simulator. Options name files that aren't written."""
    return _wrap(kernel, options, JitKernel)


def benchmark(kernel: Any = None, **options: Any) -> Any:
    """Run a kernel and keep its simulated latency in `benchmark_result`."""
    return _wrap(kernel, options, BenchmarkKernel)


def profile(func: Any = None, **options: Any) -> Any:
    """Run a kernel as `benchmark` does; the profile is the simulator's own."""
    return _wrap(func, options, BenchmarkKernel)


def simulate_kernel(kernel: Any, *args: Any, **kwargs: Any) -> Any:
    """Run a kernel on arrays; those that it writes in place are updated."""
    return _wrap(kernel, {}, JitKernel)(*args, **kwargs)


def trace(function: Any = None, **options: Any) -> Any:
    """Mark a function that kernels call."""
    return jit(function, **options) if function is not None else jit(**options)
