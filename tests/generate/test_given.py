"""Functions that people give with --reference become kernels with the same values."""

from __future__ import annotations

import numpy as np
import pytest

from tests.generate import given
from tools.generate.errors import BeyondOffline
from tools.generate.offline import Generator
from tools.generate.specify import task_from_reference
from tools.sim import load_source, simulate


@pytest.mark.parametrize("name", [n for n in given.SHAPES if n not in given.BEYOND])
def test_a_function_becomes_a_kernel_with_its_values(name: str) -> None:
    task = task_from_reference(given.__file__, name, given.SHAPES[name])
    source = Generator(task).first().kernel.source
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal(s.shape).astype(np.float32) for s in task.inputs]
    outputs = simulate(load_source(source, "kernel"), *arrays, target=task.target).outputs
    wanted = getattr(given, name)(*(a.copy() for a in arrays))
    for got, want in zip(outputs, wanted if isinstance(wanted, tuple) else (wanted,), strict=True):
        exact = np.asarray(want, np.float64)
        error = np.sqrt(np.mean((got.astype(np.float64).reshape(exact.shape) - exact) ** 2))
        assert error <= 2e-5 * np.sqrt(np.mean(exact**2)), source


@pytest.mark.parametrize(("name", "says"), given.BEYOND.items())
def test_a_function_beyond_the_generator_is_named(name: str, says: str) -> None:
    with pytest.raises(BeyondOffline, match=says):
        Generator(task_from_reference(given.__file__, name, given.SHAPES[name]))
