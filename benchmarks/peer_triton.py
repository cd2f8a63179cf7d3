"""Triton's side of `peers.py`: its interpreter on the CPU, kernels of our own in its idiom.

The interpreter reads and writes memory by address, so tensors here are NumPy arrays with the few methods it asks of them;
PyTorch is not needed.
"""

from __future__ import annotations

import os

os.environ["TRITON_INTERPRET"] = "1"  # read when Triton is imported

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import triton
import triton.language as tl
from peer_operations import EPSILON, Array, serve

CHOICES = {
    "softmax": [{"ROWS": 1}, {"ROWS": 4}, {"ROWS": 16}],
    "layernorm": [{"ROWS": 1}, {"ROWS": 4}, {"ROWS": 16}],
    "matmul": [{"M": 64, "N": 64, "K": 32}, {"M": 128, "N": 128, "K": 64}, {"M": 128, "N": 256, "K": 64}],
    "attention": [{"M": 64, "N": 64}, {"M": 128, "N": 64}, {"M": 128, "N": 128}],
}
"""Block sizes that one would also use on a GPU."""


class Memory:
    """The storage of a tensor: what Triton copies to the host and back, which is where it is already."""

    def __init__(self, array: Array) -> None:
        self.array = array

    def data_ptr(self) -> int:
        return self.array.ctypes.data

    def cpu(self) -> Memory:
        return self

    def copy_(self, other: Memory) -> None:
        if other.array is not self.array:
            raise ValueError("a tensor moved")


class Tensor:
    """A NumPy array as Triton's interpreter wants to see it."""

    device = "cpu"

    def __init__(self, array: Array) -> None:
        self.array = array

    @property
    def shape(self) -> tuple[int, ...]:
        return self.array.shape

    @property
    def dtype(self) -> str:
        return f"torch.{self.array.dtype.name}"

    def data_ptr(self) -> int:
        return self.array.ctypes.data

    def untyped_storage(self) -> Memory:
        return Memory(self.array)

    def storage_offset(self) -> int:
        return 0

    def size(self) -> tuple[int, ...]:
        return self.array.shape

    def stride(self) -> tuple[int, ...]:
        return tuple(s // self.array.itemsize for s in self.array.strides)

    def new_empty(self, _size: int, device: str) -> Tensor:
        return Tensor(np.empty(0, self.array.dtype))

    def set_(self, memory: Memory, _offset: int, _size: tuple[int, ...], _stride: tuple[int, ...]) -> None:
        self.array = memory.array


@triton.jit
def softmax(x, out, columns, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """A block of whole rows."""
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    cols = tl.arange(0, COLUMNS)
    at = rows[:, None] * columns + cols[None, :]
    inside = (cols < columns)[None, :]
    values = tl.load(x + at, mask=inside, other=-float("inf"))
    powers = tl.exp(values - tl.max(values, axis=1)[:, None])
    tl.store(out + at, powers / tl.sum(powers, axis=1)[:, None], mask=inside)


@triton.jit
def layernorm(x, gain, bias, out, columns, epsilon, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """A block of whole rows."""
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    cols = tl.arange(0, COLUMNS)
    at = rows[:, None] * columns + cols[None, :]
    inside = (cols < columns)[None, :]
    values = tl.load(x + at, mask=inside, other=0.0)
    centred = tl.where(inside, values - (tl.sum(values, axis=1) / columns)[:, None], 0.0)
    scale = tl.rsqrt(tl.sum(centred * centred, axis=1) / columns + epsilon)
    gains = tl.load(gain + cols, mask=cols < columns, other=0.0)
    shifts = tl.load(bias + cols, mask=cols < columns, other=0.0)
    tl.store(out + at, centred * scale[:, None] * gains[None, :] + shifts[None, :], mask=inside)


@triton.jit
def matmul(a, b, out, k_size, n_size, M: tl.constexpr, N: tl.constexpr, K: tl.constexpr):
    """A block of the result; sizes are multiples of the block's."""
    rows = tl.program_id(0) * M + tl.arange(0, M)
    cols = tl.program_id(1) * N + tl.arange(0, N)
    depth = tl.arange(0, K)
    left = a + rows[:, None] * k_size + depth[None, :]
    right = b + depth[:, None] * n_size + cols[None, :]
    total = tl.zeros((M, N), dtype=tl.float32)
    for _ in range(0, k_size, K):
        total = tl.dot(tl.load(left), tl.load(right), total, input_precision="ieee")
        left += K
        right += K * n_size
    tl.store(out + rows[:, None] * n_size + cols[None, :], total)


@triton.jit
def attention(q, k, v, out, keys, factor, M: tl.constexpr, N: tl.constexpr, D: tl.constexpr):
    """A block of queries against all keys, a block of them at a time, with a running maximum and sum."""
    rows = tl.program_id(0) * M + tl.arange(0, M)
    lanes = tl.arange(0, D)
    queries = tl.load(q + rows[:, None] * D + lanes[None, :])
    peak = tl.full((M,), -float("inf"), dtype=tl.float32)
    total = tl.zeros((M,), dtype=tl.float32)
    blended = tl.zeros((M, D), dtype=tl.float32)
    for start in range(0, keys, N):
        some = start + tl.arange(0, N)
        block = tl.load(k + some[None, :] * D + lanes[:, None])
        scores = tl.dot(queries, block, input_precision="ieee") * factor
        higher = tl.maximum(peak, tl.max(scores, axis=1))
        weights = tl.exp(scores - higher[:, None])
        shrink = tl.exp(peak - higher)
        total = total * shrink + tl.sum(weights, axis=1)
        values = tl.load(v + some[:, None] * D + lanes[None, :])
        blended = tl.dot(weights, values, blended * shrink[:, None], input_precision="ieee")
        peak = higher
    tl.store(out + rows[:, None] * D + lanes[None, :], blended / total[:, None])


def prepare(operation: str, block: Mapping[str, int], values: list[Array]) -> Callable[[], Any]:
    """The launch of a kernel with these block sizes."""
    given = [Tensor(v) for v in values]
    first, last = values[0], values[-1]

    def run() -> Array:
        out = np.empty((first.shape[0], last.shape[1]), np.float32)
        if operation in ("softmax", "layernorm"):
            grid = (first.shape[0] // block["ROWS"],)
            sizes = {"ROWS": block["ROWS"], "COLUMNS": triton.next_power_of_2(first.shape[1])}
            if operation == "softmax":
                softmax[grid](*given, Tensor(out), first.shape[1], **sizes)
            else:
                layernorm[grid](*given, Tensor(out), first.shape[1], EPSILON, **sizes)
        elif operation == "matmul":
            grid = (first.shape[0] // block["M"], last.shape[1] // block["N"])
            matmul[grid](*given, Tensor(out), first.shape[1], last.shape[1], **block)
        else:
            grid = (first.shape[0] // block["M"],)
            attention[grid](*given, Tensor(out), last.shape[0], first.shape[1] ** -0.5, D=first.shape[1], **block)
        return out

    return run


if __name__ == "__main__":
    serve(CHOICES, triton.__version__, prepare)
