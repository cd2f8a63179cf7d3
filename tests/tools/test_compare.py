"""Comparison: what passes, and the words for what doesn't."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tools.compare import PIECE, compare, passes
from tools.task import Tolerance

TOLERANCE = Tolerance(rtol=1e-3, atol=1e-3, rel_l2=1e-3, reason="test")
RNG = np.random.default_rng(7)
WANT = RNG.standard_normal((256, 384))


def changed(where: object, by: float = 1.0) -> np.ndarray:
    got = WANT.copy()
    got[where] += by  # type: ignore[index]
    return got


@pytest.mark.parametrize(
    ("got", "says"),
    [
        (np.zeros_like(WANT), "all zero"),
        (np.full_like(WANT, 2.0), "one constant"),
        (np.full_like(WANT, np.nan), "NaN everywhere"),
        (changed((slice(None), 3), np.nan), "NaN in 256 places (only column 3 of 384)"),
        (changed((5, 5), np.inf), "infinity in 1 places"),
        (-WANT, "sign is reversed"),
        (WANT * 2, "too large by a factor of 2"),
        (WANT / 3, "too small by a factor of 3"),
        (WANT + 1.5, "off by the same amount (+1.5)"),
        (np.roll(WANT, 1, 0), "shifted by one row"),
        (np.roll(WANT, -1, 1), "shifted by one column"),
        (np.ascontiguousarray(WANT.T).reshape(WANT.shape), "transposed order"),
        (np.roll(WANT, 128, 1), "shifted by 128 of 384 columns"),
        (np.roll(WANT, 128, 0), "the halves of 128 rows are exchanged"),
        (
            WANT.reshape(2, 128, 3, 128).transpose(0, 3, 2, 1).reshape(WANT.shape),
            "each tile of 128 x 128 is transposed",
        ),
        (WANT * np.linspace(0.5, 2, 256)[:, None], "each row is off by a factor of its own (0.57"),
        (WANT + np.linspace(0.5, 2, 384), "each column is off by an amount of its own (+0.57"),
        (
            WANT + np.outer(np.linspace(1, 2, 256), np.linspace(-1, 3, 384)),
            "one number a row times one number a column",
        ),
        (np.maximum(WANT, WANT + 0.02 * np.abs(WANT)), "nearly all to one side, too large: no rounding"),
        (WANT * 1.02 ** np.sign(np.abs(WANT) - 0.7) + np.linspace(-0.03, 0.03, 256)[:, None], "alike within each row"),
        (np.where(RNG.random(WANT.shape) < 0.99, 1.5, 1.0) * np.abs(WANT) ** 1.5, "wrong throughout"),
        (changed((slice(None), 7)), "only column 7 of 384"),
        (changed((9,)), "only row 9 of 256"),
        (changed((slice(200, None),)), "rows from 200 to the end (256)"),
        (changed((slice(0, 40),)), "the first 40 rows of 256"),
        (changed((slice(128, 256), slice(0, 128))), "columns 0..127 are wrong: 1 whole tile(s) of 128"),
        (changed((slice(None), slice(0, None, 4))), "every 4th of the columns"),
        (changed((slice(10, 20),)), "rows 10..19 of 256"),
        (WANT + 0.004 * RNG.standard_normal(WANT.shape), "too little precision"),
        (RNG.standard_normal(WANT.shape), "wrong throughout"),
    ],
)
def test_patterns_are_named(got: np.ndarray, says: str) -> None:
    found = compare(got, WANT, TOLERANCE)
    assert not found.passed
    assert says in found.detail


def test_one_wrong_element_of_many_is_no_zero_per_cent() -> None:
    want = np.ones((1000, 1000), np.float32)
    got = want.copy()
    got[7, 9] = 2.0
    assert "1 of 1000000 elements wrong (0.0001%)" in compare(got, want, TOLERANCE).detail


def test_a_square_transpose_and_a_partial_tile_are_named() -> None:
    want = RNG.standard_normal((96, 96))
    assert "last two axes are swapped" in compare(want.T, want, TOLERANCE).detail
    want = RNG.standard_normal((300, 8))
    got = want.copy()
    got[256:] = 0
    assert "the last partial tile" in compare(got, want, TOLERANCE).detail


def test_a_copied_input_is_recognised() -> None:
    x = RNG.standard_normal(WANT.shape).astype(np.float32)
    assert "copy of input 1" in compare(x, WANT, TOLERANCE, [WANT, x]).detail


def test_the_detail_shows_no_value_of_the_reference() -> None:
    want = np.full((4, 4), 123456.0) + np.arange(16).reshape(4, 4)
    found = compare(want + RNG.standard_normal((4, 4)) * 5000, want, TOLERANCE)
    assert "1234" not in found.detail


def test_errors_are_measured_against_the_whole() -> None:
    want = np.array([3.0, 4.0])
    found = compare(np.array([3.0, 4.5]), want, TOLERANCE)
    assert found.max_abs_error == 0.5
    assert found.rel_l2 == pytest.approx(0.5 / 5)
    assert found.max_rel_error == pytest.approx(0.5 / (4 + np.sqrt(12.5)), rel=1e-6)


def test_a_scale_blind_or_norm_blind_error_fails() -> None:
    assert not compare(WANT * 1.01, WANT, TOLERANCE).passed
    one_wrong = WANT.copy()
    one_wrong[0, 0] += 0.05  # invisible in the norm
    assert not compare(one_wrong, WANT, TOLERANCE).passed
    everywhere = WANT * (1 + 0.0009) + 0.0009  # each element near, the whole too far
    assert (
        "error of the whole is too large"
        in compare(everywhere, WANT, TOLERANCE.model_copy(update={"rel_l2": 1e-4})).detail
    )


def test_nan_never_passes_not_even_against_a_tiny_reference() -> None:
    assert not compare(np.array([np.nan]), np.array([0.0]), TOLERANCE).passed
    assert compare(np.zeros(3), np.zeros(3), TOLERANCE).passed
    assert not compare(np.array([1e-30, 0, 0]), np.zeros(3), TOLERANCE).passed


def test_different_shapes_are_a_mistake_of_the_caller() -> None:
    with pytest.raises(ValueError, match="shapes"):
        compare(np.zeros(3), np.zeros(4), TOLERANCE)


def test_large_arrays_are_judged_like_small_ones() -> None:
    want = RNG.standard_normal(2 * PIECE + 17).astype(np.float32)
    got = want.copy()
    got[-1] += 1
    found = compare(got, want, TOLERANCE)
    assert not found.passed
    assert found.max_abs_error == pytest.approx(1, rel=1e-5)
    assert compare(want, want, TOLERANCE).passed


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31), st.floats(1e-6, 0.5), st.floats(0, 3))
def test_compare_is_its_definition(seed: int, rtol: float, noise: float) -> None:
    rng = np.random.default_rng(seed)
    want = rng.standard_normal((5, 7)) * 10 ** rng.uniform(-3, 3)
    got = want + noise * rtol * rng.standard_normal((5, 7)) * np.abs(want)
    tolerance = Tolerance(rtol=rtol, atol=rtol, rel_l2=rtol, reason="property")
    scale = np.sqrt(np.mean(want**2))
    near = (np.abs(got - want) <= rtol * scale + rtol * np.abs(want)).all()
    whole = np.linalg.norm(got - want) / np.linalg.norm(want) <= rtol
    found = compare(got, want, tolerance)
    assert found.passed == bool(near and whole)
    assert passes(got, want, tolerance) == found.passed
