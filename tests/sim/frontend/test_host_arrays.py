"""PyTorch tensors as arguments: PyTorch isn't a requirement, so a stand-in with the interface that is used takes its place."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from tools.sim import load_source
from tools.sim.frontend.host_arrays import from_torch, is_torch, results, to_torch
from tools.sim.frontend.jit import JitKernel

KINDS = {"float32": np.float32, "int16": np.int16, "uint8": np.uint8, "bfloat16": ml_dtypes.bfloat16}
HIDDEN = ("bfloat16",)


class Tensor:
    """Bytes and a type's name; like PyTorch it shows NumPy only the types that both have."""

    def __init__(self, array: Any, name: str) -> None:
        self.array, self.name = array, name

    @property
    def dtype(self) -> str:
        return f"torch.{self.name}"

    def detach(self) -> Tensor:
        return self

    def numpy(self) -> Any:
        if self.name in HIDDEN:
            raise TypeError(f"Got unsupported ScalarType {self.name}")
        return self.array

    def view(self, name: str) -> Tensor:
        return Tensor(self.array.view(KINDS[name]), name)


@pytest.fixture
def torch(monkeypatch):
    module = ModuleType("torch")
    module.Tensor = Tensor
    module.from_numpy = lambda array: Tensor(array, array.dtype.name)
    for name in KINDS:
        setattr(module, name, name)
    monkeypatch.setitem(sys.modules, "torch", module)
    return module


SOURCE = """
import nki
import nki.language as nl

@nki.jit
def kernel(pair, done):
    t = nl.load(pair[0])
    nl.store(done, t)
    out = nl.ndarray(t.shape, dtype=t.dtype, buffer=nl.shared_hbm)
    nl.store(out, nl.add(t, nl.load(pair[1])))
    return out
"""


@pytest.mark.parametrize("name", ["float32", "bfloat16"])
def test_tensors_go_in_and_come_out_and_are_written_in_place(torch, name):
    kernel = load_source(SOURCE).jit
    assert isinstance(kernel, JitKernel)
    x, y, done = (Tensor(np.full((4, 4), v).astype(KINDS[name]), name) for v in (1, 2, 0))
    got = kernel((x, y), done)
    assert (got.dtype, got.array.dtype) == (f"torch.{name}", KINDS[name])
    assert (got.array.astype(np.float32) == 3).all()
    assert (done.array.astype(np.float32) == 1).all()


def test_arrays_stay_arrays_beside_an_imported_torch(torch):
    x, done = np.ones((4, 4), np.float32), np.zeros((4, 4), np.float32)
    got = load_source(SOURCE).jit((x, x), done)
    assert isinstance(got, np.ndarray)
    assert not is_torch(x)


def test_memory_is_shared_on_the_way_in_and_the_callers_own_on_the_way_out(torch):
    x = Tensor(np.ones((2, 2), ml_dtypes.bfloat16), "bfloat16")
    assert np.shares_memory(from_torch(x), x.array)
    assert not np.shares_memory(to_torch(from_torch(x)).array, x.array)


def test_one_result_none_or_several():
    one = np.ones(1)
    assert results((), ()) is None
    assert results((one,), ()) is one
    assert results((one, one), ()) == (one, one)


def test_a_stand_in_for_torch_has_no_tensors(monkeypatch):
    fake = ModuleType("torch")
    fake.Tensor = None
    monkeypatch.setitem(sys.modules, "torch", fake)
    assert not is_torch(np.ones(1))
    assert results((np.ones(1),), np.ones(1)).shape == (1,)
