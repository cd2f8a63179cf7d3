"""Hidden test inputs: how values are drawn for a task. Seeds come from the operating system and leave no trace."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from tools.task import TensorSpec
from tools.wire import storage_type

LARGE_FACTORS = (32.0, 8.0, 2.0)
"""Factors of the large-value draw, tried in turn until the reference stays finite in float32."""
SPIKE = 12.0
"""Size of the outlier that the uneven draw puts into every row."""

Arrays = list[NDArray[np.generic]]


@dataclass(frozen=True, slots=True)
class Draw:
    """One set of inputs and the name that reports use for it."""

    label: str
    arrays: Arrays


def rng() -> np.random.Generator:
    """A generator that nobody can predict."""
    return np.random.default_rng()  # seeded from os.urandom


def plain(specs: Sequence[TensorSpec], generator: np.random.Generator, factor: float = 1.0) -> Arrays:
    """Values as the task declares them, times `factor`, rounded to the storage types."""
    return [_stored(_scaled(_values(spec, generator), _factor(spec, factor)), spec) for spec in specs]


def uneven(specs: Sequence[TensorSpec], generator: np.random.Generator) -> Arrays:
    """Rows and columns of very different size and an outlier in every row: skipping a part of the input shows."""
    found = []
    for spec in specs:
        values = _values(spec, generator)
        if spec.distribution in ("normal", "large", "positive") and not _is_integer(spec.dtype):
            for axis, size in enumerate(spec.shape):
                if size > 1:
                    steps = 2.0 ** generator.uniform(-1.5, 1.5, size)
                    values *= steps.reshape([size if a == axis else 1 for a in range(len(spec.shape))]).astype(
                        np.float32
                    )
            rows = values.reshape(-1, spec.shape[-1])
            if spec.shape[-1] > 1:
                at = generator.integers(0, spec.shape[-1], len(rows))
                rows[np.arange(len(rows)), at] *= SPIKE / np.maximum(np.abs(rows[np.arange(len(rows)), at]), 0.25)
            values = rows.reshape(spec.shape)
        found.append(_stored(values, spec))
    return found


def _values(spec: TensorSpec, generator: np.random.Generator) -> NDArray[np.float32]:
    if _is_integer(spec.dtype):
        low, high = (0, 2) if spec.dtype == "bool" else (0 if spec.dtype.startswith("u") else -8, 9)
        return generator.integers(low, high, spec.shape).astype(np.float32)
    if spec.distribution == "uniform":
        return generator.random(spec.shape, np.float32)
    if spec.distribution == "small_int":
        return generator.integers(-8, 9, spec.shape).astype(np.float32)
    values = generator.standard_normal(spec.shape, np.float32)
    if spec.distribution == "positive":
        return np.abs(values) + np.float32(0.1)
    return values * np.float32(8) if spec.distribution == "large" else values


def _factor(spec: TensorSpec, factor: float) -> np.float32:
    grows = spec.distribution in ("normal", "large", "positive") and not _is_integer(spec.dtype)
    return np.float32(factor if grows else 1.0)


def _scaled(values: NDArray[np.float32], factor: np.float32) -> NDArray[np.float32]:
    """Values times a factor, without a copy where it is 1: inputs may hold tens of millions of numbers."""
    return values if factor == 1 else values * factor


def _is_integer(dtype: str) -> bool:
    return dtype.startswith(("int", "uint", "bool"))


def _stored(values: NDArray[np.float32], spec: TensorSpec) -> NDArray[np.generic]:
    kind = storage_type(spec.dtype)
    if not _is_integer(spec.dtype) and kind != np.float32:
        limit = float(ml_dtypes.finfo(kind).max)  # type: ignore[no-untyped-call]
        values = np.clip(values, -limit, limit)
    return np.ascontiguousarray(values.astype(kind, copy=False))


def nbytes(spec: TensorSpec) -> int:
    """Bytes of a tensor in its storage type."""
    return prod(spec.shape) * storage_type(spec.dtype).itemsize
