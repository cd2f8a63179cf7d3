"""The simulated time of a candidate without data: what the search ranks schedules by. The judge never reads it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from tools.sim import KernelError, LoadedKernel, UnsupportedError, load_source, machine, simulate
from tools.sim.timing.allocation import peak_usage
from tools.task import TensorSpec


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a run on shapes alone says about a kernel.

    Attributes:
        latency_us: simulated time; None when the kernel doesn't fit the machine.
        reason: why it doesn't.
    """

    latency_us: float | None
    reason: str = ""


Estimator = Callable[[Sequence[str], Sequence[TensorSpec], str], Sequence[Estimate]]
"""(sources, inputs, target) -> an estimate for each source, in their order."""


def estimate(load: Callable[[], LoadedKernel], arrays: Sequence[NDArray[Any]], target: str) -> Estimate:
    """Simulate a generated kernel on shapes alone.

    Args:
        load: loads its source.
        arrays: of the inputs' shapes and types; their values are never read.
    """
    try:
        result = simulate(load(), *arrays, target=target, data=False)
    except (KernelError, UnsupportedError) as error:
        return Estimate(None, str(error))
    sbuf, psum, _ = peak_usage(result.trace)
    there = machine(target)
    if sbuf > there.sbuf_partition_bytes or psum > there.psum_partition_bytes:
        return Estimate(None, f"{sbuf} bytes of SBUF and {psum} of PSUM a partition are needed")
    bad = next((d for d in result.diagnostics if d.severity == "error"), None)
    if bad is not None:
        return Estimate(None, bad.message)
    return Estimate(result.latency_us)


def one_by_one(sources: Sequence[str], inputs: Sequence[TensorSpec], target: str) -> list[Estimate]:
    """The estimator that needs no other process."""
    arrays = [np.broadcast_to(np.zeros((), _numpy(s.dtype)), s.shape) for s in inputs]
    return [estimate(partial(load_source, source, "kernel"), arrays, target) for source in sources]


def _numpy(dtype: str) -> np.dtype[Any]:
    extra = {"bfloat16": ml_dtypes.bfloat16, "float8_e4m3": ml_dtypes.float8_e4m3, "float8_e5m2": ml_dtypes.float8_e5m2}
    return np.dtype(extra.get(dtype, dtype))
