"""`neuron_dtypes`: casts between NumPy arrays of the language's types, for host code that prepares inputs.

A packed type is a structured NumPy dtype of one field, so that arrays remember which MX format their integers hold.
"""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from tools.sim import dtypes
from tools.sim.dtypes import DType, as_dtype
from tools.sim.isa.microscaling import unpack

PACKED = (dtypes.float8_e4m3fn_x4, dtypes.float8_e5m2_x4, dtypes.float4_e2m1fn_x4)
_ELEMENT = {
    dtypes.float8_e4m3fn_x4: ml_dtypes.float8_e4m3fn,
    dtypes.float8_e5m2_x4: ml_dtypes.float8_e5m2,
    dtypes.float4_e2m1fn_x4: ml_dtypes.float4_e2m1fn,
}


def host_dtype(dtype: Any) -> np.dtype[Any]:
    """The NumPy dtype of host arrays that hold `dtype`."""
    kind = as_dtype(dtype)
    return dtypes.packed_host_dtype(kind) if kind in PACKED else kind.storage


def static_cast(values: Any, dtype: Any) -> NDArray[Any]:
    """`values` as `dtype`. To a packed type four neighbours of the last axis become one element; from one, the reverse."""
    array = np.asarray(values)
    source, target = as_dtype(array.dtype), as_dtype(dtype)
    if source is target:
        return array
    if source in PACKED:
        lanes = unpack(np.ascontiguousarray(array).view(source.storage), source)
        array = lanes.reshape(*array.shape[:-1], -1)
        return array.astype(target.storage)
    if target not in PACKED:
        with np.errstate(all="ignore"):
            return array.astype(target.storage)
    lanes = array.astype(np.float32).astype(_ELEMENT[target])
    raw = np.ascontiguousarray(lanes).view(np.uint8).reshape(*array.shape[:-1], -1, 4)
    packed: NDArray[Any]
    if target is dtypes.float4_e2m1fn_x4:
        wide = raw.astype(np.uint16) & 0xF
        packed = wide[..., 0] | wide[..., 1] << 4 | wide[..., 2] << 8 | wide[..., 3] << 12
    else:
        packed = np.ascontiguousarray(raw).view(np.uint32)[..., 0]
    return np.ascontiguousarray(packed).view(host_dtype(target))


def sizeinbytes(dtype: Any) -> int:
    """Bytes of one element (a packed element counts as one)."""
    return as_dtype(dtype).itemsize


def finfo(dtype: Any) -> Any:
    """Limits of a float type."""
    return ml_dtypes.finfo(as_dtype(dtype).storage)  # type: ignore[no-untyped-call]


def is_float_type(dtype: Any) -> bool:
    """Whether `dtype` is an ordinary or a packed float type."""
    kind = as_dtype(dtype)
    return kind.is_float or kind in PACKED


def members() -> dict[str, Any]:
    """Contents of the `neuron_dtypes` module."""
    named: dict[str, Any] = {str(d): host_dtype(d) for d in dtypes.ALL if isinstance(d, DType)}
    return {
        **named,
        "static_cast": static_cast,
        "sizeinbytes": sizeinbytes,
        "finfo": finfo,
        "is_float_type": is_float_type,
    }
