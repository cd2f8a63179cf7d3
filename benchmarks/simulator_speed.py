"""How much the simulator costs beyond the arithmetic that it simulates: ratios measured side by side in one run.

    uv run python benchmarks/simulator_speed.py [--quick] [--json] [--only NAME ...]

Every ratio is the median over interleaved repeats of (simulated run, timing included) / (NumPy doing the same arithmetic
in float32 with the same BLAS threads). Machines are noisy: compare ratios, never seconds.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from tools.sim import load_kernel, load_source, simulate

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(Path(__file__).resolve().parent))

from problems import PROBLEMS  # noqa: E402 - a sibling script, found by the line above

MATMUL = '''
import nki
import nki.isa as nisa
import nki.language as nl


@nki.jit
def kernel(lhsT, rhs):
    """[M, N] = lhsT[K, M]^T @ rhs[K, N]; rhs stays resident, K accumulates in PSUM."""
    k_size, m_size = lhsT.shape
    n_size = rhs.shape[1]
    k_tiles = k_size // 128
    out = nl.ndarray((m_size, n_size), dtype=lhsT.dtype, buffer=nl.shared_hbm)
    right = nl.ndarray((128, k_tiles, n_size), dtype=rhs.dtype, buffer=nl.sbuf)
    for k in range(k_tiles):
        nisa.dma_copy(dst=right[:, k, :], src=rhs[k * 128 : (k + 1) * 128, :])
    for m in range(m_size // 128):
        left = nl.ndarray((128, k_tiles, 128), dtype=lhsT.dtype, buffer=nl.sbuf)
        for k in range(k_tiles):
            nisa.dma_copy(dst=left[:, k, :], src=lhsT[k * 128 : (k + 1) * 128, m * 128 : (m + 1) * 128])
        for n in range(n_size // 512):
            acc = nl.ndarray((128, 512), dtype=nl.float32, buffer=nl.psum)
            for k in range(k_tiles):
                nisa.nc_matmul(dst=acc, stationary=left[:, k, :], moving=right[:, k, n * 512 : (n + 1) * 512])
            tile = nl.ndarray((128, 512), dtype=lhsT.dtype, buffer=nl.sbuf)
            nisa.tensor_copy(dst=tile, src=acc)
            nisa.dma_copy(dst=out[m * 128 : (m + 1) * 128, n * 512 : (n + 1) * 512], src=tile)
    return out
'''

SILU = '''
import nki
import nki.isa as nisa
import nki.language as nl


@nki.jit
def kernel(x):
    """silu over rows of 128, the whole row at once."""
    out = nl.ndarray(x.shape, dtype=x.dtype, buffer=nl.shared_hbm)
    for i in range(x.shape[0] // 128):
        tile = nl.ndarray((128, x.shape[1]), dtype=x.dtype, buffer=nl.sbuf)
        nisa.dma_copy(dst=tile, src=x[i * 128 : (i + 1) * 128, :])
        nisa.activation(dst=tile, op=nl.silu, data=tile)
        nisa.dma_copy(dst=out[i * 128 : (i + 1) * 128, :], src=tile)
    return out
'''

TINY = '''
import nki
import nki.isa as nisa
import nki.language as nl


@nki.jit
def kernel(x, steps):
    """`steps` additions on a tile of one element a lane: the price of an instruction."""
    out = nl.ndarray(x.shape, dtype=x.dtype, buffer=nl.shared_hbm)
    tile = nl.ndarray(x.shape, dtype=x.dtype, buffer=nl.sbuf)
    nisa.dma_copy(dst=tile, src=x)
    for _ in range(steps):
        nisa.tensor_tensor(dst=tile, data1=tile, data2=tile, op=nl.maximum)
    nisa.dma_copy(dst=out, src=tile)
    return out
'''


def side_by_side(
    ours: Callable[[], Any], theirs: Callable[[], Any], repeats: int, warm_up: bool = True
) -> tuple[float, float, float]:
    """Median seconds of both, and the median of the ratios of neighbouring runs."""
    if warm_up:
        ours(), theirs()
    pairs = []
    for _ in range(repeats):
        start = time.perf_counter()
        theirs()
        middle = time.perf_counter()
        ours()
        pairs.append((time.perf_counter() - middle, middle - start))
    return (
        statistics.median(a for a, _ in pairs),
        statistics.median(b for _, b in pairs),
        statistics.median(a / b for a, b in pairs),
    )


def against_numpy(repeats: int, quick: bool) -> list[dict[str, Any]]:
    """Ratios to NumPy's float32 matmul of the same size, values and timing included."""
    rng = np.random.default_rng(0)
    size = 1024 if quick else 2048
    rows = []
    for dtype in ("bfloat16", "float32"):
        storage = np.dtype(getattr(ml_dtypes, dtype, None) or dtype)
        a, b = (rng.standard_normal((size, size), dtype=np.float32).astype(storage) for _ in range(2))
        wide_a, wide_b = a.astype(np.float32), b.astype(np.float32)
        kernel = load_source(MATMUL)
        seconds, reference, ratio = side_by_side(
            lambda k=kernel, x=a, y=b: simulate(k, x, y).latency_us, lambda x=wide_a, y=wide_b: x.T @ y, repeats
        )
        rows.append(
            {"case": f"matmul {size}^3 {dtype}", "simulated_s": seconds, "numpy_s": reference, "ratio_to_numpy": ratio}
        )
    return rows


def nkibench(quick: bool, names: list[str]) -> list[dict[str, Any]]:
    """The 14 problems, each in a process of its own: time and peak memory against the NumPy reference's."""
    rows = []
    for problem in PROBLEMS:
        if names and problem.name not in names:
            continue
        command = [sys.executable, __file__, "--problem", problem.name, *(["--quick"] if quick else [])]
        done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT)
        rows.append(json.loads(done.stdout.splitlines()[-1]))
    return rows


def one_problem(name: str, quick: bool) -> dict[str, Any]:
    """Time and memory of one problem in this process."""
    problem = next(p for p in PROBLEMS if p.name == name)
    inputs = problem.inputs(quick)
    reference = problem.reference()
    kernel = load_kernel(problem.source, "kernel")
    base = resident_mib()
    with Peak() as theirs:
        want = reference(*inputs)
    with Peak() as ours:
        result = simulate(kernel, *inputs)
        latency = result.latency_us
    wanted = want if isinstance(want, tuple) else (want,)
    error = max(
        float(np.linalg.norm(got - right) / np.linalg.norm(right))
        for got, right in zip(result.outputs, wanted, strict=True)
    )
    del want, wanted
    seconds, reference_s, ratio = side_by_side(
        lambda: simulate(kernel, *inputs).latency_us, lambda: reference(*inputs), 3 if quick else 2, warm_up=False
    )
    return {
        "case": name,
        "simulated_s": seconds,
        "numpy_s": reference_s,
        "ratio_to_numpy": ratio,
        "rel_l2": error,
        "latency_us": latency,
        "instructions": len(result.trace),
        "memory_ratio": ours.mib / max(theirs.mib, base),
    }


def resident_mib() -> float:
    """Memory this process holds now, MiB."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


class Peak:
    """Largest resident memory while the block runs, in MiB, sampled by a thread."""

    def __enter__(self) -> Peak:
        self.mib = resident_mib()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._stop.wait(0.005):
            self.mib = max(self.mib, resident_mib())

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self.mib = max(self.mib, resident_mib())


def per_instruction(steps: int) -> dict[str, float]:
    """Microseconds an instruction costs beyond its NumPy work: recording and values, and scheduling apart."""
    kernel = load_source(TINY)
    x = np.ones((128, 1), np.float32)
    simulate(kernel, x, 10).latency_us  # noqa: B018 - loads what is loaded on first use
    start = time.perf_counter()
    result = simulate(kernel, x, steps)
    ran = time.perf_counter() - start
    start = time.perf_counter()
    result.latency_us  # noqa: B018 - computing it is what is timed
    scheduled = time.perf_counter() - start
    tile = x.copy()
    start = time.perf_counter()
    for _ in range(steps):
        np.maximum(tile, tile, out=tile)
    numpy = time.perf_counter() - start
    return {
        "instructions": steps,
        "run_us": (ran - numpy) / steps * 1e6,
        "schedule_us": scheduled / steps * 1e6,
        "total_us": (ran + scheduled - numpy) / steps * 1e6,
    }


def growth(small: int, large: int) -> dict[str, float]:
    """Cost per instruction of a long trace over that of a short one (1.0: no growth)."""
    first, second = per_instruction(small), per_instruction(large)
    return {
        "from": small,
        "to": large,
        "run_ratio": second["run_us"] / first["run_us"],
        "schedule_ratio": second["schedule_us"] / first["schedule_us"],
    }


def cold_start() -> float:
    """Seconds from process start to the first simulated 128x512 kernel, interpreter start included."""
    code = (
        "import numpy as np; from tools.sim import load_source, simulate; import benchmarks_kernel as b\n"
        "simulate(load_source(b.SILU), np.ones((128, 512), np.float32)).latency_us"
    )
    code = code.replace("import benchmarks_kernel as b", f"SILU = {SILU!r}").replace("b.SILU", "SILU")
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)})
    return time.perf_counter() - start


def autotuning_rate(seconds: float) -> float:
    """Shapes-only candidate evaluations per second (1024-cubed bfloat16 matmul: load source, record, schedule)."""
    a = np.broadcast_to(np.zeros((), ml_dtypes.bfloat16), (1024, 1024))
    count, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        simulate(load_source(MATMUL), a, a, data=False).latency_us  # noqa: B018 - computing it is what is timed
        count += 1
    return count / (time.perf_counter() - start)


def main() -> None:
    """Run everything and print a table, or one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="smaller sizes and fewer repeats")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    parser.add_argument("--only", nargs="*", default=[], metavar="NAME", help="of the 14 problems, only these")
    parser.add_argument("--problem", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.problem:
        print(json.dumps(one_problem(options.problem, options.quick)))
        return
    rows = nkibench(options.quick, options.only)
    each = per_instruction(2_000 if options.quick else 20_000)
    grown = growth(1_000, 20_000 if options.quick else 1_000_000)
    report = {
        "cases": rows,
        "ratio_to_numpy_geomean": math.exp(statistics.fmean(math.log(r["ratio_to_numpy"]) for r in rows)),
        "ratio_to_numpy_worst": max(r["ratio_to_numpy"] for r in rows),
        "memory_ratio_worst": max(r["memory_ratio"] for r in rows),
        "matmul": against_numpy(3 if options.quick else 7, options.quick),
        "per_instruction": each,
        "growth": grown,
        "cold_start_s": min(cold_start() for _ in range(3)),
        "candidates_per_second": autotuning_rate(2.0),
        "cpu_count": os.cpu_count(),
        "numpy": np.__version__,
    }
    if options.json:
        print(json.dumps(report))
        return
    print(f"{'problem':32s} {'simulated s':>12s} {'NumPy s':>10s} {'ratio':>7s} {'memory':>7s} {'rel L2':>8s}")
    for row in rows:
        print(
            f"{row['case']:32s} {row['simulated_s']:12.3f} {row['numpy_s']:10.3f} {row['ratio_to_numpy']:7.2f} "
            f"{row['memory_ratio']:7.2f} {row['rel_l2']:8.0e}"
        )
    print(f"{'geometric mean':32s} {'':12s} {'':10s} {report['ratio_to_numpy_geomean']:7.2f}")
    for row in report["matmul"]:
        print(f"{row['case']:32s} {row['simulated_s']:12.3f} {row['numpy_s']:10.3f} {row['ratio_to_numpy']:7.2f}")
    print(
        f"per instruction beyond NumPy: {each['total_us']:.1f} us ({each['run_us']:.1f} run, {each['schedule_us']:.1f} schedule)"
    )
    print(
        f"cost growth {grown['from']} -> {grown['to']} instructions: run {grown['run_ratio']:.2f}, "
        f"schedule {grown['schedule_ratio']:.2f}"
    )
    print(f"cold start to a first 128x512 kernel: {report['cold_start_s']:.2f} s")
    print(f"autotuning: {report['candidates_per_second']:.0f} shapes-only candidates per second on one core")


if __name__ == "__main__":
    main()
