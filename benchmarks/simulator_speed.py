"""How much the simulator costs beyond the arithmetic that it simulates: ratios measured side by side in one run.

    uv run python benchmarks/simulator_speed.py [--quick | --smoke] [--json] [--repos DIR] [--parts PART ...]
        [--only NAME ...] [--threads N]

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
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from tools.sim import load_kernel, load_source, simulate

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(Path(__file__).resolve().parent))

# Sibling scripts, found by the line above.
from baselines import CHECKOUT, BaselineCase, find  # noqa: E402
from measurement import by_turns, limit_threads, own_process, peak_mib  # noqa: E402
from problems import PROBLEMS, Problem  # noqa: E402

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


def against_numpy(repeats: int, size: int) -> list[dict[str, Any]]:
    """Ratios to NumPy's float32 matmul of `size` cubed, values and timing included."""
    rng = np.random.default_rng(0)
    rows = []
    for dtype in ("bfloat16", "float32"):
        storage = np.dtype(getattr(ml_dtypes, dtype, None) or dtype)
        a, b = (rng.standard_normal((size, size), dtype=np.float32).astype(storage) for _ in range(2))
        wide_a, wide_b = a.astype(np.float32), b.astype(np.float32)
        kernel = load_source(MATMUL)
        simulate(kernel, a, b).latency_us  # noqa: B018 - loads what is loaded on first use
        turns = by_turns(
            lambda k=kernel, x=a, y=b: simulate(k, x, y).latency_us, lambda x=wide_a, y=wide_b: x.T @ y, repeats
        )
        rows.append(
            {
                "case": f"matmul {size}^3 {dtype}",
                "simulated_s": turns.ours,
                "numpy_s": turns.theirs,
                "ratio_to_numpy": turns.ratio,
            }
        )
    return rows


class LibraryCase:
    """One of the 14 problems, solved by the library's own kernel."""

    def __init__(self, problem: Problem, quick: bool) -> None:
        self._inputs = problem.inputs(quick)
        self._function = problem.reference()
        self._kernel = load_kernel(problem.source, "kernel")

    def reference(self) -> tuple[Any, ...]:
        """What NumPy gives."""
        found = self._function(*self._inputs)
        return found if isinstance(found, tuple) else (found,)

    def simulate(self, data: bool = True) -> Any:
        """The simulator's result, its time computed."""
        result = simulate(self._kernel, *self._inputs, data=data)
        result.latency_us  # noqa: B018 - computing it is part of the work
        return result

    def outputs(self, result: Any, wanted: tuple[Any, ...]) -> Sequence[Any]:
        """The kernel's outputs in the reference's shapes."""
        return result.outputs


Case = LibraryCase | BaselineCase


def case_of(name: str, quick: bool, repos: Path | None) -> Case:
    """A problem by name: the public baseline when `repos` is given, else the library's kernel."""
    if repos is not None:
        return next(b for b in find(repos) if b.name == name).case()
    return LibraryCase(next(p for p in PROBLEMS if p.name == name), quick)


def problem_rows(names: Sequence[str], quick: bool, repos: Path | None) -> list[dict[str, Any]]:
    """Time, error and peak memory of each problem, each measurement in a process of its own."""
    rows = []
    for name in names:
        shared = ["--problem", name, *(["--quick"] if quick else []), *(["--repos", str(repos)] if repos else [])]
        row = own_process(__file__, *shared, "--measure", "time")
        ours, theirs = (own_process(__file__, *shared, "--measure", what) for what in ("ours", "theirs"))
        rows.append({**row, "memory_ratio": ours / theirs, "memory_mib": ours, "reference_memory_mib": theirs})
        print(f"{name}: ratio {row['ratio_to_numpy']:.2f}, memory {ours / theirs:.2f}", file=sys.stderr, flush=True)
    return rows


def measured(name: str, quick: bool, repos: Path | None, what: str) -> Any:
    """One measurement of one problem in this process: `time`, or the peak MiB of `ours` or `theirs`."""
    case = case_of(name, quick, repos)
    if what == "time":
        return timed(name, case, repeats=3 if quick else 5)
    kept = case.simulate() if what == "ours" else case.reference()
    peak = peak_mib()
    del kept
    return peak


def timed(name: str, case: Case, repeats: int) -> dict[str, Any]:
    """Both run by turns, large problems fewer times, and the values of the last turn compared."""
    case.simulate(data=False)  # loads what is loaded on first use
    start = time.perf_counter()
    shapes = case.simulate(data=False)
    shapes_s = time.perf_counter() - start
    turns = by_turns(case.simulate, case.reference, repeats, seconds=15.0, least=2)
    result, wanted = turns.result, turns.wanted
    if shapes.latency_us != result.latency_us:
        raise SystemExit(f"{name}: {shapes.latency_us} us without data, {result.latency_us} us with it")
    return {
        "case": name,
        "simulated_s": turns.ours,
        "numpy_s": turns.theirs,
        "ratio_to_numpy": turns.ratio,
        "rel_l2": max(relative_l2(a, b) for a, b in zip(case.outputs(result, wanted), wanted, strict=True)),
        "latency_us": result.latency_us,
        "instructions": len(result.trace),
        "findings": len(result.diagnostics),
        "shapes_only_s": shapes_s,
        "repeats": turns.count,
    }


def relative_l2(got: Any, wanted: Any) -> float:
    """Distance of two arrays over the length of the second, in float64, a piece at a time: outputs reach a gigabyte."""
    a, b = np.ravel(got), np.ravel(wanted)
    if a.shape != b.shape:
        raise SystemExit(f"the kernel's output has {a.size} elements, the reference's {b.size}")
    distance = length = 0.0
    for start in range(0, a.size, 1 << 22):
        x, y = (v[start : start + (1 << 22)].astype(np.float64) for v in (a, b))
        distance += float(np.dot(x - y, x - y))
        length += float(np.dot(y, y))
    return math.sqrt(distance / length)


def summary(rows: Sequence[Mapping[str, Any]], prefix: str) -> dict[str, Any]:
    """Geometric mean and worst figures of a table of problems; nothing for an empty one."""
    if not rows:
        return {}
    return {
        f"{prefix}_geomean": math.exp(statistics.fmean(math.log(r["ratio_to_numpy"]) for r in rows)),
        f"{prefix}_worst": max(r["ratio_to_numpy"] for r in rows),
    }


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


def print_problems(title: str, rows: Sequence[Mapping[str, Any]], geomean: float) -> None:
    """One table of problems."""
    print(title)
    print(
        f"{'problem':32s} {'simulated s':>12s} {'NumPy s':>10s} {'ratio':>7s} {'memory':>7s} {'rel L2':>8s} "
        f"{'shapes-only s':>14s}"
    )
    for row in rows:
        print(
            f"{row['case']:32s} {row['simulated_s']:12.3f} {row['numpy_s']:10.3f} {row['ratio_to_numpy']:7.2f} "
            f"{row['memory_ratio']:7.2f} {row['rel_l2']:8.0e} {row['shapes_only_s']:14.2f}"
        )
    print(f"{'geometric mean':32s} {'':12s} {'':10s} {geomean:7.2f}\n")


def main() -> None:
    """Run everything and print tables, or one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="smaller sizes and fewer repeats")
    parser.add_argument(
        "--smoke", action="store_true", help="seconds only: shows that it runs, its figures mean nothing"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    parser.add_argument("--only", nargs="*", default=[], metavar="NAME", help="of the 14 problems, only these")
    parser.add_argument(
        "--repos",
        type=Path,
        metavar="DIR",
        help=f"also run NKIBench's own baselines, from DIR/{CHECKOUT}, at full size",
    )
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="only these parts")
    parser.add_argument(
        "--threads", type=int, metavar="N", help="BLAS threads for NumPy and the simulator alike (default: all)"
    )
    parser.add_argument("--problem", help=argparse.SUPPRESS)
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.problem:
        print(json.dumps(measured(options.problem, options.quick, options.repos, options.measure)))
        return
    if options.measure == "machinery":
        print(json.dumps(machinery(options.quick, options.smoke)))
        return
    if options.threads is not None:
        limit_threads(options.threads)
    report = run_parts(options)
    if options.json:
        print(json.dumps(report))
    else:
        show(report)


PARTS = ("baselines", "library", "machinery")
"""NKIBench's own kernels; the library's kernels for the same problems; cost per instruction, cold start and the like."""

SMOKE = ("silu", "rmsnorm_matmul")
"""Problems that a smoke run still does, at their quick size."""


def run_parts(options: argparse.Namespace) -> dict[str, Any]:
    """All figures that the options ask for."""
    quick = options.quick or options.smoke
    report: dict[str, Any] = {
        "cpu_count": os.cpu_count(),
        "blas_threads": options.threads or os.cpu_count(),
        "numpy": np.__version__,
        "smoke": options.smoke,
    }
    kinds = {"library": [p.name for p in PROBLEMS]}
    if options.repos:
        kinds = {"baselines": [b.name for b in find(options.repos)], **kinds}
    else:
        report["note"] = (
            "the library's own kernels were measured for the 14 problems; --repos DIR adds NKIBench's own baselines"
        )
    unknown = set(options.only) - {n for names in kinds.values() for n in names}
    if unknown:
        raise SystemExit(f"no problem is called {', '.join(sorted(unknown))}; there are {', '.join(kinds['library'])}")
    chosen = options.only or (SMOKE if options.smoke else ())
    if "baselines" in options.parts and options.repos:
        names = [n for n in kinds["baselines"] if not chosen or n in chosen]
        rows = problem_rows(names, quick, options.repos)
        report |= {"baselines": rows, **summary(rows, "baselines_ratio")}
        report["baselines_memory_ratio_worst"] = max((r["memory_ratio"] for r in rows), default=None)
    if "library" in options.parts:
        rows = problem_rows([n for n in kinds["library"] if not chosen or n in chosen], quick, None)
        report |= {"cases": rows, **summary(rows, "ratio_to_numpy")}
        report["memory_ratio_worst"] = max((r["memory_ratio"] for r in rows), default=None)
    if "machinery" in options.parts:
        sizes = [f"--{name}" for name in ("quick", "smoke") if getattr(options, name)]
        report |= own_process(__file__, "--measure", "machinery", *sizes)
    return report


def machinery(quick: bool, smoke: bool) -> dict[str, Any]:
    """The figures that belong to no problem, measured in this process."""
    quick = quick or smoke
    steps, longest = (200, 800) if smoke else (2_000, 20_000) if quick else (20_000, 1_000_000)
    return {
        "matmul": against_numpy(1 if smoke else 3 if quick else 7, 512 if smoke else 1024 if quick else 2048),
        "per_instruction": per_instruction(steps),
        "growth": growth(200 if smoke else 1_000, longest),
        "cold_start_s": min(cold_start() for _ in range(1 if smoke else 3)),
        "candidates_per_second": autotuning_rate(0.2 if smoke else 2.0),
    }


def show(report: Mapping[str, Any]) -> None:
    """The report as text."""
    if "note" in report:
        print(report["note"])
    if report.get("baselines"):
        print_problems("NKIBench's own baselines at full size", report["baselines"], report["baselines_ratio_geomean"])
    if report.get("cases"):
        print_problems("the library's kernels", report["cases"], report["ratio_to_numpy_geomean"])
    if "per_instruction" not in report:
        return
    for row in report["matmul"]:
        print(f"{row['case']:32s} {row['simulated_s']:12.3f} {row['numpy_s']:10.3f} {row['ratio_to_numpy']:7.2f}")
    each, grown = report["per_instruction"], report["growth"]
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
