"""Data types: names, sizes and NumPy storage. Rounding is ml_dtypes' or NumPy's, never our own."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np


class DType(str):
    """A data type of the language. Equal to its name, hashable, usable wherever a NumPy dtype is.

    Attributes:
        itemsize: bytes of one element (a packed x4 type counts its four lanes as one element).
        storage: NumPy dtype that holds one element.
        kind: `float`, `int`, `bool` or `packed`.
        code: small integer used in traces.
    """

    itemsize: int
    storage: np.dtype[Any]
    kind: str
    code: int

    __slots__ = ("code", "itemsize", "kind", "storage")

    def __new__(cls, name: str, storage: Any, kind: str, code: int) -> DType:
        self = super().__new__(cls, name)
        self.storage = np.dtype(storage)
        self.itemsize = self.storage.itemsize
        self.kind = kind
        self.code = code
        return self

    def __eq__(self, other: object) -> bool:
        if type(other) is DType:
            return self is other
        if isinstance(other, str):
            return str.__eq__(self, other) or _ALIASES.get(other) is self
        if other is None:
            return False
        try:
            return _lookup(other) is self
        except TypeError:
            return False

    def __ne__(self, other: object) -> bool:
        return not self.__eq__(other)

    __hash__ = str.__hash__

    def __repr__(self) -> str:
        return str.__str__(self)

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return as_dtype, (str.__str__(self),)

    def __copy__(self) -> DType:
        return self

    def __deepcopy__(self, memo: object) -> DType:
        return self

    @property
    def name(self) -> str:
        """The type's name, as NumPy dtypes offer it."""
        return str.__str__(self)

    @property
    def is_float(self) -> bool:
        """Whether values are floating point (packed MX types are not)."""
        return self.kind == "float"

    @property
    def is_integer(self) -> bool:
        """Whether values are integers or booleans."""
        return self.kind in ("int", "bool")


_TABLE: list[DType] = []


def _define(name: str, storage: Any, kind: str) -> DType:
    dtype = DType(name, storage, kind, len(_TABLE))
    _TABLE.append(dtype)
    return dtype


float32 = _define("float32", np.float32, "float")
tfloat32 = _define("tfloat32", np.float32, "float")
bfloat16 = _define("bfloat16", ml_dtypes.bfloat16, "float")
float16 = _define("float16", np.float16, "float")
float8_e4m3 = _define("float8_e4m3", ml_dtypes.float8_e4m3, "float")
float8_e4m3fn = _define("float8_e4m3fn", ml_dtypes.float8_e4m3fn, "float")
float8_e5m2 = _define("float8_e5m2", ml_dtypes.float8_e5m2, "float")
float8_e8m0fnu = _define("float8_e8m0fnu", ml_dtypes.float8_e8m0fnu, "float")
int32 = _define("int32", np.int32, "int")
uint32 = _define("uint32", np.uint32, "int")
int16 = _define("int16", np.int16, "int")
uint16 = _define("uint16", np.uint16, "int")
int8 = _define("int8", np.int8, "int")
uint8 = _define("uint8", np.uint8, "int")
bool_ = _define("bool", np.uint8, "bool")
int64 = _define("int64", np.int64, "int")
float64 = _define("float64", np.float64, "float")
float8_e4m3fn_x4 = _define("float8_e4m3fn_x4", np.uint32, "packed")
float8_e5m2_x4 = _define("float8_e5m2_x4", np.uint32, "packed")
float4_e2m1fn_x4 = _define("float4_e2m1fn_x4", np.uint16, "packed")

ALL: tuple[DType, ...] = tuple(_TABLE)
_BY_NAME: dict[str, DType] = {str(d): d for d in ALL}
_ALIASES: dict[str, DType] = {
    "bool_": bool_,
    "fp32": float32,
    "bf16": bfloat16,
    "fp16": float16,
    "float8e4": float8_e4m3,
    "float8e5": float8_e5m2,
    "float8e4fn": float8_e4m3fn,
    "tf32": tfloat32,
}
_BY_NUMPY: dict[Any, DType] = {
    d.storage: d for d in reversed(ALL) if d.kind != "packed" and d is not bool_ and d is not tfloat32
}
_BY_NUMPY[np.dtype(np.bool_)] = bool_


def packed_host_dtype(dtype: DType) -> np.dtype[Any]:
    """The structured NumPy dtype of host arrays that hold a packed type; its one field bears the type's name."""
    return np.dtype([(dtype.name, dtype.storage)])


_BY_NUMPY.update({packed_host_dtype(d): d for d in ALL if d.kind == "packed"})


def _lookup(value: Any) -> DType:
    if isinstance(value, DType):
        return value
    if isinstance(value, str):
        found = _BY_NAME.get(value) or _ALIASES.get(value)
        if found is not None:
            return found
        raise TypeError(value)
    found = _BY_NUMPY.get(np.dtype(value))
    if found is None:
        raise TypeError(value)
    return found


def as_dtype(value: Any) -> DType:
    """The `DType` for a name, a NumPy dtype or scalar type, or a `DType`.

    Raises:
        TypeError: no such type; the message lists the known names.
    """
    try:
        return _lookup(value)
    except (TypeError, ValueError):  # NumPy's word for an object whose .dtype is none: ValueError
        text = str(value).removeprefix("torch.")
        found = _BY_NAME.get(text) or _ALIASES.get(text)
        if found is not None:
            return found
        known = ", ".join(sorted(_BY_NAME))
        raise TypeError(f"unknown dtype {value!r}; known types: {known}") from None
