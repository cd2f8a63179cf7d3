"""`nki.baremetal`, `benchmark` and `simulate_kernel` run on the simulator."""

from __future__ import annotations

import numpy as np

from tools.sim.frontend.beta1 import build

MODULES = build()
nki, nl = MODULES["neuronxcc.nki"], MODULES["neuronxcc.nki.language"]
X = np.arange(32, dtype=np.float32).reshape(4, 8)


def double(x):
    out = nl.ndarray(x.shape, dtype=x.dtype, buffer=nl.shared_hbm)
    i = nl.program_id(0)
    rows = nl.ds(i * (4 // nl.num_programs()), 4 // nl.num_programs())
    nl.store(out[rows, :], nl.load(x[rows, :]) * 2.0)
    return out


def in_place(x: nki.tensor):
    nl.store(x, nl.load(x) + 1.0)


def test_baremetal_returns_what_the_kernel_returns():
    assert np.array_equal(nki.baremetal(double)(X), 2 * X)
    assert np.array_equal(nki.baremetal(save_neff_name="file.neff")(double)[2](X), 2 * X)


def test_benchmark_keeps_the_simulated_latency():
    kernel = nki.benchmark(warmup=1, iters=2)(nki.jit(double))
    assert np.array_equal(kernel[nl.nc(2) * 2](X), 2 * X)
    latency = kernel.benchmark_result.nc_latency
    assert latency.get_latency_percentile(50) == latency.get_latency_percentile(99) > 0


def test_simulate_kernel_updates_arguments_in_place():
    x = X.copy()
    nki.simulate_kernel(nki.trace(in_place), x)
    assert np.array_equal(x, X + 1)
    assert np.array_equal(nki.simulate_kernel(nki.jit(double, mode="simulation")[nl.spmd_dim(nl.nc(2), 2)], X), 2 * X)


def test_a_benchmark_takes_shapes_in_place_of_arrays():
    spec = MODULES["neuronxcc.nki.typing"].tensor[[4, 8], nl.float32]
    kernel = nki.benchmark(nki.jit(double))
    assert kernel(spec) is None
    timed = kernel.benchmark_result.nc_latency.get_latency_percentile(99)
    kernel(X)
    assert timed == kernel.benchmark_result.nc_latency.get_latency_percentile(99)
