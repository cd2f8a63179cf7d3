"""Threads of BLAS while tiles are multiplied."""

from __future__ import annotations

import os
from collections.abc import Iterator

import numpy as np
import pytest

from tools.sim import blas, load_source, simulate

SOURCE = """
import nki, nki.isa as nisa, nki.language as nl

@nki.jit
def kernel(x, look):
    out = nl.ndarray((128, 128), dtype=x.dtype, buffer=nl.shared_hbm)
    tile, product = nl.load(x), nl.ndarray((128, 128), dtype=nl.float32, buffer=nl.psum)
    nisa.nc_matmul(dst=product, stationary=tile, moving=tile)
    nisa.tensor_copy(dst=tile, src=product)
    nl.store(out, tile)
    look()
    return out
"""
X = np.ones((128, 128), np.float32)


@pytest.fixture
def threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """A BLAS of four threads; the numbers that it was given."""
    given = [4]
    monkeypatch.setattr(blas, "_threads", lambda: (lambda: given[-1], given.append))
    for name in blas.CHOSEN:
        monkeypatch.delenv(name, raising=False)
    blas._crowded.cache_clear()
    yield given
    blas._crowded.cache_clear()


def test_on_a_busy_machine_tiles_are_multiplied_by_one_thread(threads, monkeypatch):
    monkeypatch.setattr(os, "getloadavg", lambda: (1e3, 0.0, 0.0))
    seen: list[int] = []
    simulate(load_source(SOURCE, "kernel"), X, lambda: seen.append(threads[-1]))
    assert seen == [1]
    assert threads[-1] == 4  # the caller's own products have all of them again


def test_a_launch_that_fails_gives_the_threads_back(threads, monkeypatch):
    monkeypatch.setattr(os, "getloadavg", lambda: (1e3, 0.0, 0.0))
    with pytest.raises(Exception, match="stop"):
        simulate(load_source(SOURCE, "kernel"), X, lambda: (_ for _ in ()).throw(ValueError("stop")))
    assert threads[-1] == 4


@pytest.mark.parametrize("reason", ["idle", "chosen", "no values"])
def test_otherwise_the_number_of_threads_is_left_alone(threads, monkeypatch, reason):
    monkeypatch.setattr(os, "getloadavg", lambda: (0.0 if reason == "idle" else 1e3, 0.0, 0.0))
    if reason == "chosen":
        monkeypatch.setenv("OPENBLAS_NUM_THREADS", "4")
    simulate(load_source(SOURCE, "kernel"), X, lambda: None, data=reason != "no values")
    assert threads == [4]


def test_the_blas_of_numpys_wheel_is_found_and_obeys():
    found = blas._threads()
    if found is None:
        pytest.skip("this NumPy brings no OpenBLAS of its own")
    get, put = found
    before = get()
    put(1)
    assert get() == 1
    put(before)
    assert get() == before
