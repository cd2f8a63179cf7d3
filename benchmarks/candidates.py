"""What a candidate costs beside its own simulation: process starts, confined forks, and what warm workers save.

    uv run python benchmarks/candidates.py [--smoke] [--json]

Ratios are medians over runs by turns in one process. `job` is a kernel recorded by the worker (foreign source: a fresh confined
fork for each), `cold` the same including the start of a worker process, `in process` the same kernel simulated without data
here. `search` is the offline policy's search for a fused RMSNorm and matmul: candidates timed one by one in this process, over
the same search with batches on all warm workers.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))

from measurement import Turns, by_turns

from tools.generate.offline import Attempt, Generator
from tools.generate.specify import parse_request
from tools.library import load
from tools.sandbox import Pool, Worker
from tools.sim import load_source, simulate
from tools.task import Evaluation, Kernel, Task
from tools.wire import storage_type

REQUEST = "fused RMSNorm and matmul, x 4096x1024 by w 1024x2048, bfloat16, trn2"
SMOKE_REQUEST = "softmax x 128x256, float32, trn2"


def jobs(kernel: Kernel, task: Task, repeats: int) -> dict[str, float]:
    """Seconds of a candidate as a job in a warm worker, in this process, and with a worker's start."""
    described = [{"shape": t.shape, "dtype": t.dtype} for t in task.inputs]
    arrays = [np.broadcast_to(np.zeros((), storage_type(t.dtype)), t.shape) for t in task.inputs]

    def plain() -> Any:
        return simulate(load_source(kernel.source, kernel.function), *arrays, target=task.target, data=False)

    def recorded(worker: Worker) -> Any:
        return worker.record(kernel.source, kernel.function, described, task.target)

    def cold() -> Any:
        with Worker() as fresh:
            return recorded(fresh)

    with Worker() as worker:
        recorded(worker), plain()
        warm = by_turns(lambda: recorded(worker), plain, repeats)
        started = by_turns(cold, lambda: recorded(worker), max(2, repeats // 4))
    return {
        "in_process_s": warm.theirs,
        "job_s": warm.ours,
        "cold_s": started.ours,
        "job_over_in_process": warm.ratio,
        "cold_over_job": started.ratio,
    }


def climb(task: Task, steps: int, **helpers: Any) -> list[str]:
    """Digests of the kernels that a search of so many steps goes through."""
    generator = Generator(task, slice_seconds=120.0, **helpers)
    draft = generator.first()
    history: list[Attempt] = []
    for _ in range(steps):
        judged = Evaluation(
            kernel_digest=draft.kernel.digest, task_digest="", model_version="", target=task.target, correct=True
        )
        history.append(Attempt(draft, judged))
        found = generator.improve(history)
        if found is None:
            break
        draft = found
    return [a.draft.kernel.digest for a in history]


def search(request: str, repeats: int) -> dict[str, Any]:
    """The offline search one by one over the search on warm workers; both must find the same kernels."""
    task = parse_request(request)
    pool = Pool()
    pool.start()
    try:
        alone: Callable[[], list[str]] = lambda: climb(task, 3)  # noqa: E731
        shared: Callable[[], list[str]] = lambda: climb(task, 3, estimator=pool.estimate, batch=8)  # noqa: E731
        alone(), shared()
        turns: Turns = by_turns(alone, shared, repeats)
    finally:
        pool.close()
    if turns.result != turns.wanted:
        raise SystemExit("the two searches found different kernels")
    return {"one_by_one_s": turns.ours, "warm_workers_s": turns.theirs, "gain": turns.ratio, "request": request}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="small and short: shows that it runs")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    options = parser.parse_args()
    shapes = ("small",) if options.smoke else ("small", "full")
    report: dict[str, Any] = {
        "jobs": {
            f"matmul_blocked {shape}": jobs(*load("matmul_blocked", shape), 3 if options.smoke else 20)
            for shape in shapes
        },
        "search": search(SMOKE_REQUEST if options.smoke else REQUEST, 1 if options.smoke else 3),
        "cpu_count": os.cpu_count(),
    }
    if options.json:
        print(json.dumps(report))
        return
    for name, row in report["jobs"].items():
        print(
            f"{name:22s} in process {row['in_process_s'] * 1e3:7.1f} ms   job {row['job_s'] * 1e3:7.1f} ms "
            f"({row['job_over_in_process']:.1f} times)   with a process start {row['cold_s'] * 1e3:7.1f} ms "
            f"({row['cold_over_job']:.1f} times a job)"
        )
    row = report["search"]
    print(
        f"search: one by one {row['one_by_one_s']:.2f} s, on warm workers {row['warm_workers_s']:.2f} s, gain {row['gain']:.2f}"
    )


if __name__ == "__main__":
    main()
