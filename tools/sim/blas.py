"""How many threads BLAS may use for the products of tiles.

A tile's product takes a fraction of a millisecond, and OpenBLAS shares each of them out over all its threads. On a machine
whose processors are all busy that is ruinous: each product waits until every thread has had its turn (ratios of 5 to 60 to one
thread were seen). So a process that starts to simulate on such a machine uses one thread for its tiles. It decides once:
BLAS sums in another order on other numbers of threads, and launches of one process should agree bit for bit.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import numpy as np

_PREFIXES = ("scipy_openblas", "openblas")
_SUFFIXES = ("64_", "")
CHOSEN = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
"""Variables by which a user, a benchmark or the worker's parent says how many threads BLAS has."""


@contextmanager
def tile_threads() -> Iterator[None]:
    """Within it, products of tiles use as many threads as pay; afterwards BLAS has its own number again."""
    threads = _threads() if _crowded() else None
    if threads is None:
        yield
        return
    get, put = threads
    before = get()
    put(1)
    try:
        yield
    finally:
        put(before)


@cache
def _crowded() -> bool:
    """Whether other work kept all processors busy over the last minute, when this process first asked.

    Not so when the number of threads was chosen for this process: that choice holds.
    """
    if any(name in os.environ for name in CHOSEN):
        return False
    try:
        load = os.getloadavg()[0]
    except (AttributeError, OSError):  # not to be had on this system
        return False
    return load > len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else load > (os.cpu_count() or 1)


@cache
def _threads() -> tuple[Callable[[], int], Callable[[int], None]] | None:
    """Reads and sets the number of threads of the OpenBLAS that NumPy's wheel brings along; None for another BLAS."""
    package = Path(np.__file__).parent
    for folder in (package.parent / "numpy.libs", package / ".dylibs"):
        for path in sorted(folder.glob("*openblas*")):
            library = ctypes.CDLL(str(path))
            for prefix in _PREFIXES:
                for suffix in _SUFFIXES:
                    get = getattr(library, f"{prefix}_get_num_threads{suffix}", None)
                    put = getattr(library, f"{prefix}_set_num_threads{suffix}", None)
                    if get is not None and put is not None:
                        return get, put
    return None
