"""How near the timing model comes to real devices, by device and by repository.

    uv run python benchmarks/timing_accuracy.py --repos DIR [--ids REGEX] [--jobs N] [--json [FILE]] [--list]

DIR holds checkouts named `owner+name` of the repositories that published the kernels. Prints, for each
group: number of points, median and 90th percentile absolute error, median signed error, Spearman rank
correlation, and the share of pairs (variants of one problem on one device that are more than 10 % apart)
that the model orders rightly, beside a plain roofline guess. A launch that doesn't run counts as 100 % off
and its pairs as lost. With `--json`, `overall` holds points, median_abs_error, spearman,
within_group_spearman and pairs_ordered.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import re
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.launches import launch_key, launches, offset_us, parts, run
from tools.sim.machine import MODEL_VERSION, machine

PAIR_RATIO = 1.10
"""Measurements that lie closer together are no pair: devices repeat no better."""
SMALLEST_GROUP = 5
"""Points that a group needs to count for the rank correlation within groups."""


def roofline_us(case: dict[str, Any]) -> float:
    """The larger of the problem's flops over the peak and its minimum bytes over the bandwidth."""
    target = machine(case["device"])
    wide = any(s["dtype"] == "float32" for p in parts(case) for s in p["inputs"])
    peak = target.peak_tflops("float32" if wide else "bfloat16") * 1e6
    return max(case["flop"] / peak, case["min_io_bytes"] / (target.hbm_gbps * 1e3))


def simulate_one(job: tuple[dict[str, Any], str, str]) -> dict[str, Any]:
    """Body time of one launch in microseconds, or why it failed."""
    case, repos, scratch = job
    begun = time.perf_counter()
    try:
        body = sum(float(r.latency_us) for r in run(case, Path(repos), Path(scratch)))
    except Exception as error:  # noqa: BLE001 - any failure of a foreign kernel is a result to report
        return {"status": "failed", "detail": f"{type(error).__name__}: {str(error)[:200]}"}
    return {"status": "ok", "body_us": body, "seconds": time.perf_counter() - begun}


def spearman(a: list[float], b: list[float]) -> float:
    """Rank correlation with tied ranks averaged; NaN below three points."""
    if len(a) < 3:
        return float("nan")

    def ranks(values: list[float]) -> Any:
        _, inverse, counts = np.unique(np.asarray(values), return_inverse=True, return_counts=True)
        found = (np.cumsum(counts) - (counts - 1) / 2.0)[inverse]
        return found - found.mean()

    x, y = ranks(a), ranks(b)
    scale = float(np.sqrt((x * x).sum() * (y * y).sum()))
    return float((x * y).sum() / scale) if scale else float("nan")


def pairs_of(points: list[dict[str, Any]]) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """(slow, fast) measurements of one problem on one device that are more than 10 % apart."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for point in points:
        groups[(point["group"], point["device"])].append(point)
    found = []
    for members in groups.values():
        for one, other in combinations(members, 2):
            fast, slow = sorted((one, other), key=lambda p: float(p["latency_us"]))
            if slow["latency_us"] > PAIR_RATIO * fast["latency_us"]:
                found.append((slow, fast))
    return found


def score(points: list[dict[str, Any]], key: str = "predicted_us") -> dict[str, float]:
    """Errors, rank correlations and pair order of `points[key]` against the measured latencies."""
    done = [p for p in points if p.get(key) is not None]
    errors = [p[key] / p["latency_us"] - 1 for p in done]
    absolute = [abs(e) for e in errors] + [1.0] * (len(points) - len(done))
    pairs = pairs_of(points)
    right = sum(1 for s, f in pairs if s.get(key) is not None and f.get(key) is not None and s[key] > f[key])
    groups: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for point in done:
        groups[(point["group"], point["device"])].append(point)
    within = [
        spearman([p[key] for p in g], [p["latency_us"] for p in g]) for g in groups.values() if len(g) >= SMALLEST_GROUP
    ]
    within = [0.0 if w != w else w for w in within]
    return {
        "points": len(points),
        "failed": len(points) - len(done),
        "median_abs_error": statistics.median(absolute) if absolute else float("nan"),
        "p90_abs_error": float(np.percentile(absolute, 90)) if absolute else float("nan"),
        "bias": statistics.median(errors) if errors else float("nan"),
        "spearman": spearman([p[key] for p in done], [p["latency_us"] for p in done]),
        "within_group_spearman": sum(within) / len(within) if within else float("nan"),
        "pairs": len(pairs),
        "pairs_ordered": right / len(pairs) if pairs else float("nan"),
    }


def table(points: list[dict[str, Any]]) -> dict[str, Any]:
    """Print the accuracy tables; returns the scores behind them."""
    print(
        f"{'':44s} {'points':>6s} {'failed':>6s} {'med|e|%':>8s} {'p90|e|%':>8s} {'bias%':>7s} {'Spearman':>8s} "
        f"{'within':>7s} {'pairs':>6s} {'right%':>7s}"
    )
    scores: dict[str, Any] = {"by_device": {}, "by_repository": {}}

    def row(name: str, found: dict[str, float]) -> dict[str, float]:
        print(
            f"{name[:44]:44s} {found['points']:6.0f} {found['failed']:6.0f} {100 * found['median_abs_error']:8.1f} "
            f"{100 * found['p90_abs_error']:8.1f} {100 * found['bias']:+7.1f} {found['spearman']:8.3f} "
            f"{found['within_group_spearman']:7.3f} {found['pairs']:6.0f} {100 * found['pairs_ordered']:7.1f}"
        )
        return found

    for field, into in (("device", "by_device"), ("repo", "by_repository")):
        for value in sorted({p[field] for p in points}):
            scores[into][value] = row(value, score([p for p in points if p[field] == value]))
    scores["roofline"] = row("roofline guess, all", score(points, "roofline_us"))
    scores["overall"] = row("model, all", score(points))
    return scores


def main() -> int:
    """Run the launches and print the tables; the exit code is 1 when a launch failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repos", type=Path, required=True, help="folder of checkouts named owner+name")
    parser.add_argument("--ids", default="", help="only launches whose id matches this regular expression")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument(
        "--json", nargs="?", const="-", metavar="FILE",
        help="scores and points as one JSON object, into FILE or else alone on standard output (tables go to standard error)",
    )  # fmt: skip
    parser.add_argument("--list", action="store_true", help="print every launch")
    options = parser.parse_args()
    if not options.repos.is_dir():
        parser.error(f"--repos {options.repos} is no folder")
    cases = [c for c in launches() if re.search(options.ids, c["id"])]
    if not cases:
        parser.error(f"no launch matches {options.ids!r}")
    same: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for case in cases:
        same[launch_key(case)].append(case)
    with contextlib.redirect_stdout(sys.stderr if options.json == "-" else sys.stdout):
        points = measured(same, options)
        scores = table(points)
    if options.json:
        text = json.dumps({"model_version": MODEL_VERSION, **scores, "points": points}, indent=1)
        if options.json == "-":
            print(text)
        else:
            Path(options.json).write_text(text, encoding="utf-8")
    return 1 if any(p["status"] != "ok" for p in points) else 0


def measured(same: Mapping[str, Sequence[dict[str, Any]]], options: argparse.Namespace) -> list[dict[str, Any]]:
    """The points of all launches, those of one key simulated once."""
    points: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as scratch:
        jobs = [(group[0], str(options.repos.resolve()), scratch) for group in same.values()]
        with multiprocessing.get_context("spawn").Pool(options.jobs, maxtasksperchild=8) as pool:
            for group, result in zip(same.values(), pool.imap(simulate_one, jobs), strict=True):
                for case in group:
                    fields = ("id", "device", "repo", "group", "role", "trust", "base", "latency_us", "number_source")
                    point = {k: case.get(k) for k in fields} | result | {"roofline_us": roofline_us(case)}
                    if result["status"] == "ok":
                        point["predicted_us"] = result["body_us"] + offset_us(case)
                    points.append(point)
                    if options.list or result["status"] != "ok":
                        print(_line(point), flush=True)
    return points


def _line(point: dict[str, Any]) -> str:
    if point["status"] != "ok":
        return f"{point['id']:56s} {point['detail']}"
    error = 100 * (point["predicted_us"] / point["latency_us"] - 1)
    return f"{point['id']:56s} {point['predicted_us']:10.1f} of {point['latency_us']:10.1f} us {error:+7.1f} %"


if __name__ == "__main__":
    sys.exit(main())
