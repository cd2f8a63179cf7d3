"""Intermediate values of a reference, and tiles that hold a block of one."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tools.insight.steps import Step, agreement, instrumented

REFERENCE = '''
import numpy as np

def double(x):
    return 2 * x

def reference(x, w):
    """Not a formula of anything."""
    half = x.shape[0] // 2
    y = np.exp(x[:half] - np.max(x, axis=-1, keepdims=True)[:half]).T
    total = np.zeros(w.shape, w.dtype)
    for m in range(3):
        total[:, m] = double(w[:, m]) * x[0, m]
    return y, total
'''

RNG = np.random.default_rng(3)


def steps_of(source: str, *inputs: NDArray[Any]) -> list[Step]:
    made = instrumented(source, "reference")
    names: dict[str, Any] = {}
    exec(made.source, names)
    return made.steps(names[made.function](*inputs))


def named(steps: Sequence[Step], text: str) -> Step:
    return next(s for s in steps if s.text == text)


def test_every_expression_is_kept_with_its_line_and_the_result_is_the_same() -> None:
    x, w = RNG.standard_normal((8, 5)), RNG.standard_normal((4, 3))
    steps = steps_of(REFERENCE, x, w)
    np.testing.assert_array_equal(named(steps, "np.max(x, axis=-1, keepdims=True)").values, x.max(-1, keepdims=True))
    assert named(steps, "x[:half]").line == 10
    names: dict[str, Any] = {}
    exec(REFERENCE, names)
    turned = next(s for s in steps if s.text.startswith("np.exp") and s.values.shape == (5, 4))
    np.testing.assert_array_equal(turned.values, names["reference"](x, w)[0])


def test_what_a_loop_gives_is_one_step_over_all_its_runs() -> None:
    x, w = RNG.standard_normal((8, 5)), RNG.standard_normal((4, 3))
    step = named(steps_of(REFERENCE, x, w), "double(w[:, m])")
    np.testing.assert_array_equal(step.values, 2 * w.T)


def test_a_reference_with_too_many_values_gives_none() -> None:
    source = "def reference(x):\n    for k in range(5000):\n        y = x + k\n    return y\n"
    assert steps_of(source, np.ones(4)) == []


STEP = Step("s", 1, RNG.standard_normal((64, 96)))


@pytest.mark.parametrize(
    "tile",
    [
        STEP.values,
        STEP.values[16:48, 32:64],
        STEP.values[3:9].T,
        STEP.values[::2, 5:],
        STEP.values.reshape(64, 8, 12)[:, 3],
        STEP.values[:, 7:8],
        np.repeat(STEP.values[5:6], 128, axis=0),
        STEP.values.astype(np.float32).astype(np.float64),
    ],
)
def test_a_block_however_it_is_cut_is_found(tile: NDArray[np.float64]) -> None:
    assert STEP.holds(tile)


@pytest.mark.parametrize(
    "tile",
    [
        STEP.values * 1.01,
        STEP.values + 0.01,
        np.roll(STEP.values, 32, axis=1),
        np.concatenate([STEP.values[:8], STEP.values[24:32]]),
        np.where(np.eye(64, 96, dtype=bool), 0.0, STEP.values),
        np.full((4, 4), np.nan),
    ],
)
def test_what_is_no_block_is_not_found(tile: NDArray[np.float64]) -> None:
    assert not STEP.holds(tile)


def test_the_most_frequent_value_is_no_hindrance() -> None:
    values = np.exp(STEP.values - STEP.values.max(-1, keepdims=True))  # 1.0 in each row
    assert Step("e", 1, values).holds(values[8:40])


@pytest.mark.parametrize(
    ("tile", "how"), [(-STEP.values, "-"), (1 / STEP.values, "1 / "), (STEP.values * 96, "96 times ")]
)
def test_sign_reciprocal_and_the_factor_of_a_mean_are_named(tile: NDArray[np.float64], how: str) -> None:
    found = agreement(tile, [STEP], (64.0, 96.0))
    assert found is not None
    assert found.text == f"{how}`s`"
