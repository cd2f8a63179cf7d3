"""Frames between the judge and its worker: a length, a JSON header, then raw arrays. No pickle: the other side may lie."""

from __future__ import annotations

import contextlib
import fcntl
import json
import math
import os
import select
import struct
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

LARGEST_HEADER = 64 << 20
"""Bytes of JSON that a reader accepts."""

_PREFIX = struct.Struct("<QQ")
_KINDS = {
    np.dtype(kind).name: np.dtype(kind)
    for kind in (
        "bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "float16", "float32", "float64",
        ml_dtypes.bfloat16, ml_dtypes.float8_e4m3, ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2,
        ml_dtypes.float8_e8m0fnu, ml_dtypes.float4_e2m1fn,
    )
}  # fmt: skip
"""Element types that may travel; anything else (objects, strings, records) is refused."""


class WireError(Exception):
    """The other side sent something that is no frame."""


class TooLarge(WireError):
    """The other side sent more than it may."""


class Closed(WireError):
    """The other side is gone."""


class Late(Exception):
    """The deadline passed before the frame was complete."""


@dataclass(slots=True)
class Frame:
    """A header and its arrays."""

    header: dict[str, Any]
    arrays: list[NDArray[Any]] = field(default_factory=list)


def storage_type(name: str) -> np.dtype[Any]:
    """The NumPy type called `name`.

    Raises:
        WireError: not one that may travel.
    """
    found = _KINDS.get(name)
    if found is None:
        raise WireError(f"type {name!r} isn't known; use one of {', '.join(sorted(_KINDS))}")
    return found


def pipe() -> tuple[int, int]:
    """A pipe, (read end, write end), with as large a buffer as the system gives."""
    ends = os.pipe()
    resize = getattr(fcntl, "F_SETPIPE_SZ", None)
    if resize is not None:
        with contextlib.suppress(PermissionError, OSError):
            fcntl.fcntl(ends[1], resize, 1 << 20)
    return ends


def send(fd: int, header: dict[str, Any], arrays: Sequence[NDArray[Any]] = ()) -> None:
    """Write one frame.

    Raises:
        WireError: an array has a type that may not travel.
        BrokenPipeError: nobody reads any more.
    """
    described = []
    payload = []
    for array in arrays:
        storage_type(array.dtype.name)
        flat = np.ascontiguousarray(array)
        described.append({"dtype": array.dtype.name, "shape": list(array.shape)})
        payload.append(flat.reshape(-1).view(np.uint8).data)
    text = json.dumps({**header, "arrays": described}).encode()
    total = sum(len(part) for part in payload)
    for part in (memoryview(_PREFIX.pack(len(text), total)), memoryview(text), *payload):
        _write(fd, part)


def _write(fd: int, data: memoryview) -> None:
    while data:
        data = data[os.write(fd, data) :]


def receive(
    fd: int,
    largest: int,
    *,
    deadline: float | None = None,
    ended: Callable[[], bool] | None = None,
    largest_header: int = LARGEST_HEADER,
) -> Frame:
    """Read one frame.

    Args:
        fd: where from.
        largest: bytes of arrays that are accepted.
        deadline: `time.monotonic()` by which the frame must be complete.
        ended: says whether the writer is gone though the pipe is open; asked whenever nothing came for a while.

    Raises:
        Late: the deadline passed.
        Closed: the writer is gone.
        TooLarge: it sent more than `largest`.
        WireError: it sent no frame.
    """
    reader = _Reader(fd, deadline, ended)
    header_size, total = _PREFIX.unpack(reader.take(_PREFIX.size))
    if header_size > largest_header or total > largest:
        raise TooLarge(f"{header_size + total} bytes were sent; {largest} are allowed")
    try:
        header = json.loads(bytes(reader.take(header_size)))
        described = [(storage_type(str(a["dtype"])), tuple(int(n) for n in a["shape"])) for a in header.pop("arrays")]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise WireError(f"the header is malformed: {error}") from error
    if any(n < 0 for _, shape in described for n in shape):
        raise WireError("an array has a negative size")
    sizes = [math.prod(shape) * kind.itemsize for kind, shape in described]
    if sum(sizes) != total:
        raise WireError("the arrays are not as long as the header says")
    body = reader.take(total)
    arrays = []
    start = 0
    for (kind, shape), size in zip(described, sizes):
        arrays.append(
            np.frombuffer(body, np.uint8, size, start).view(kind).reshape(shape) if size else np.empty(shape, kind)
        )
        start += size
    return Frame(header, arrays)


class _Reader:
    def __init__(self, fd: int, deadline: float | None, ended: Callable[[], bool] | None) -> None:
        self.fd = fd
        self.deadline = deadline
        self.ended = ended

    def take(self, size: int) -> bytearray:
        data = bytearray(size)
        view = memoryview(data)
        while view:
            self._wait()
            count = os.readv(self.fd, [view])
            if not count:
                raise Closed("the other side closed the pipe")
            view = view[count:]
        return data

    def _wait(self) -> None:
        if self.deadline is None and self.ended is None:
            return
        while True:
            left = math.inf if self.deadline is None else self.deadline - time.monotonic()
            if left <= 0:
                raise Late
            gone = self.ended is not None and self.ended()
            if select.select([self.fd], [], [], 0 if gone else min(left, 0.05))[0]:
                return
            if gone:
                raise Closed("the other side is gone")
