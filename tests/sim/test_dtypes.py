"""Data types are names, keys and NumPy dtypes at once."""

from __future__ import annotations

import copy
import pickle

import ml_dtypes
import numpy as np
import pytest

from tools.sim import dtypes


def test_a_type_equals_its_name_and_its_numpy_type() -> None:
    assert dtypes.float32 == "float32"
    assert dtypes.float32 == np.float32
    assert dtypes.bfloat16 == ml_dtypes.bfloat16
    assert dtypes.bool_ == np.bool_
    assert dtypes.float8_e4m3 == "float8e4"
    assert dtypes.float32 != dtypes.tfloat32
    assert dtypes.float32 != "bfloat16"
    assert {dtypes.int32: 1}["int32"] == 1
    assert np.dtype(dtypes.bfloat16) == ml_dtypes.bfloat16


@pytest.mark.parametrize("dtype", dtypes.ALL, ids=str)
def test_copies_are_the_type_itself(dtype: dtypes.DType) -> None:
    assert copy.deepcopy(dtype) is dtype
    assert pickle.loads(pickle.dumps(dtype)) is dtype
    assert dtypes.as_dtype(str(dtype)) is dtype


def test_an_unknown_type_is_refused_with_the_known_ones() -> None:
    with pytest.raises(TypeError, match="bfloat16"):
        dtypes.as_dtype("float12")
