"""Output types of Beta-1 operations (NKI API, "NKI Type Promotion")."""

from __future__ import annotations

from typing import Any

import numpy as np

from tools.sim import context, dtypes
from tools.sim.dtypes import DType, as_dtype
from tools.sim.tensor import Tensor

_FLOAT_BITS = {
    dtypes.float8_e4m3: 8,
    dtypes.float8_e4m3fn: 8,
    dtypes.float8_e5m2: 8,
    dtypes.float8_e8m0fnu: 8,
    dtypes.float16: 16,
    dtypes.bfloat16: 16,
    dtypes.tfloat32: 19,
    dtypes.float32: 32,
    dtypes.float64: 64,
}
_UNSIGNED = (dtypes.uint8, dtypes.uint16, dtypes.uint32, dtypes.bool_)
_SIGNED = {1: dtypes.int8, 2: dtypes.int16, 4: dtypes.int32}


def dtype_of(value: Any) -> DType:
    """The `DType` that a `dtype=` argument names."""
    if type(value) is DType:
        return value
    try:
        return as_dtype(value)
    except TypeError as error:
        context.fail("KW-DTYPE", str(error), operand="dtype", fix="use a type of nl, such as nl.float32 or nl.bfloat16")


def scalar_type(value: Any) -> DType:
    """Type of a scalar operand: NumPy scalars keep theirs, Python numbers are the widest of their kind."""
    if isinstance(value, np.generic):
        return as_dtype(value.dtype)
    if isinstance(value, bool):
        return dtypes.uint8
    return dtypes.int32 if isinstance(value, int) else dtypes.float32


def promote(a: DType, b: DType) -> DType:
    """The type that holds results of an operation on `a` and `b`."""
    if a is b:
        return a
    if a.is_float or b.is_float:
        if not b.is_float:
            return a
        if not a.is_float:
            return b
        wide, narrow = (a, b) if _FLOAT_BITS[a] >= _FLOAT_BITS[b] else (b, a)
        if _FLOAT_BITS[wide] > _FLOAT_BITS[narrow]:
            return wide
        return dtypes.bfloat16 if _FLOAT_BITS[wide] == 8 else dtypes.float32
    if (a in _UNSIGNED) == (b in _UNSIGNED):
        return a if a.itemsize >= b.itemsize else b
    unsigned, signed = (a, b) if a in _UNSIGNED else (b, a)
    if signed.itemsize > unsigned.itemsize:
        return signed
    return _SIGNED.get(unsigned.itemsize * 2, dtypes.float32)


def result_type(dtype: Any, *operands: Any) -> DType:
    """`dtype` if given, else the promotion of all operands (tiles and scalars)."""
    if dtype is not None:
        return dtype_of(dtype)
    kind: DType | None = None
    for operand in operands:
        own = operand.dtype if isinstance(operand, Tensor) else scalar_type(operand)
        kind = own if kind is None else promote(kind, own)
    assert kind is not None
    return kind
