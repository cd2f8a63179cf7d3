"""Our own side of `peers.py`: the library's kernels, values and timing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from peer_operations import Array, serve

from tools.sim import load_kernel, simulate

KERNELS = Path(__file__).resolve().parents[1] / "kernels"
FOLDERS = {
    "softmax": "softmax",
    "layernorm": "layernorm",
    "matmul": "matmul_blocked",
    "attention": "flash_attention",
}


def prepare(operation: str, block: Mapping[str, int], values: list[Array]) -> Callable[[], Any]:
    """The library's kernel; the matrix product takes its left operand transposed, as the Tensor Engine wants it."""
    kernel = load_kernel(KERNELS / FOLDERS[operation] / "kernel.py", "kernel")
    if operation == "matmul":
        values = [np.ascontiguousarray(values[0].T), values[1]]

    def run() -> Any:
        result = simulate(kernel, *values)
        result.latency_us  # noqa: B018 - computing it is part of the work
        return result.outputs[0]

    return run


if __name__ == "__main__":
    serve({operation: [{}] for operation in FOLDERS}, version("kernelwright"), prepare)
