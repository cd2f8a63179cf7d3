"""Arrays of the caller's framework: PyTorch tensors go in and come out, without a copy where their memory allows it.

PyTorch is never imported here: a caller that passes its tensors has imported it.
"""

from __future__ import annotations

import sys
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

_NAMELESS = {
    "bfloat16": (ml_dtypes.bfloat16, "int16"),
    "float8_e4m3fn": (ml_dtypes.float8_e4m3fn, "uint8"),
    "float8_e5m2": (ml_dtypes.float8_e5m2, "uint8"),
}
"""Types that NumPy and PyTorch share no name for: the NumPy type, and the integers through which the bytes pass."""


def is_torch(value: Any) -> bool:
    """Whether `value` is a PyTorch tensor."""
    kind = getattr(sys.modules.get("torch"), "Tensor", None)
    return isinstance(kind, type) and isinstance(value, kind)  # hosts put stand-ins under that name


def from_torch(tensor: Any) -> NDArray[Any]:
    """A PyTorch tensor on the CPU as an array over the same memory."""
    plain = tensor.detach()
    found = _NAMELESS.get(str(plain.dtype).removeprefix("torch."))
    if found is None:
        values: NDArray[Any] = plain.numpy()
        return values
    kind, carrier = found
    return plain.view(getattr(sys.modules["torch"], carrier)).numpy().view(kind)


def to_torch(array: NDArray[Any]) -> Any:
    """An array as a PyTorch tensor of its own memory."""
    torch = sys.modules["torch"]
    own = np.array(array, order="C", copy=True)
    name = own.dtype.name
    if name not in _NAMELESS:
        return torch.from_numpy(own)
    _, carrier = _NAMELESS[name]
    return torch.from_numpy(own.view(carrier)).view(getattr(torch, name))


def results(outputs: tuple[NDArray[Any], ...], given: Any) -> Any:
    """What a user's call returns: None, one result or a tuple, as PyTorch tensors if the arguments held any."""
    found = tuple(to_torch(o) for o in outputs) if _any_torch(given) else outputs
    if not found:
        return None
    return found[0] if len(found) == 1 else found


def _any_torch(value: Any) -> bool:
    if isinstance(value, tuple | list):
        return any(_any_torch(v) for v in value)
    if isinstance(value, dict):
        return any(_any_torch(v) for v in value.values())
    return is_torch(value)
