"""How the benchmarks measure: interleaved seconds and their ratios, and the peak memory of a process."""

from __future__ import annotations

import json
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True, slots=True)
class Turns:
    """Two ways of doing one thing, run by turns.

    Attributes:
        ours, theirs: median seconds.
        ratio: median of ours / theirs over neighbouring runs, which feel the same disturbances.
        count: turns taken.
        result, wanted: what the last turn of each gave.
    """

    ours: float
    theirs: float
    ratio: float
    count: int
    result: Any
    wanted: Any


def by_turns(
    ours: Callable[[], Any], theirs: Callable[[], Any], repeats: int, seconds: float = math.inf, least: int = 1
) -> Turns:
    """Run both alternately, at most `repeats` times; after `seconds` no further turn starts once `least` are done."""
    pairs: list[tuple[float, float]] = []
    result = wanted = None
    begun = time.perf_counter()
    while len(pairs) < repeats and (len(pairs) < least or time.perf_counter() - begun < seconds):
        result = wanted = None  # two generations of large outputs need not fit
        start = time.perf_counter()
        wanted = theirs()
        middle = time.perf_counter()
        result = ours()
        pairs.append((time.perf_counter() - middle, middle - start))
    return Turns(
        ours=statistics.median(a for a, _ in pairs),
        theirs=statistics.median(b for _, b in pairs),
        ratio=statistics.median(a / b for a, b in pairs),
        count=len(pairs),
        result=result,
        wanted=wanted,
    )


def peak_mib() -> float:
    """Largest memory that this process ever held, MiB.

    Not getrusage's maximum: that one survives exec and so starts at what the parent process held.
    """
    status = Path("/proc/self/status").read_text(encoding="ascii")
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) / 1024


def limit_threads(count: int, pin: bool = False) -> None:
    """Let all that this process starts use `count` BLAS threads; a NumPy that is loaded already keeps its own.

    Args:
        pin: also keep to `count` processors, for libraries that have no such setting. On a busy machine this hurts: the
            scheduler can't move anything to an idle processor.

    Raises:
        SystemExit: there aren't so many.
    """
    there = sorted(os.sched_getaffinity(0))
    if not 1 <= count <= len(there):
        raise SystemExit(f"--threads takes 1 to {len(there)} here")
    if pin:
        os.sched_setaffinity(0, there[-count:])
    os.environ.update({name: str(count) for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")})


def own_process(script: str | Path, *arguments: str) -> Any:
    """The JSON that a script prints in its last line, run in a process of its own.

    Raises:
        SystemExit: it failed; what it said is on standard error.
    """
    command: Sequence[str] = [sys.executable, str(script), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    if done.returncode:
        sys.stderr.write(done.stderr)
        raise SystemExit(f"{Path(script).name} {' '.join(arguments)} failed")
    return json.loads(done.stdout.splitlines()[-1])
