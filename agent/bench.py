"""The production judge: `tools.evaluate` on the process's warm workers, which all its runs share."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from agent.desk import Bench
from agent.policies.protocol import BeyondPolicy
from tools.task import Evaluation, Finding, Kernel, Task
from tools.task_errors import RequestError

Benches = Callable[[], Bench]


def default_bench() -> Bench:
    """Open a judge. Imported late: it loads NumPy and the simulator."""
    from tools import inspection
    from tools.evaluate import check_task, evaluate
    from tools.sandbox import POOL, JobFailed, Lease

    lease = Lease(POOL)

    def judge(kernel: Kernel, task: Task) -> Evaluation:
        with lease.worker() as worker:
            return evaluate(kernel, task, worker=worker)

    def check(task: Task) -> None:
        with lease.worker() as worker:
            check_task(task, worker=worker)

    def lint(source: str, strict: bool = False) -> Sequence[Finding]:
        with lease.worker() as worker:
            return worker.lint(source, strict)

    def trace(source: str, function: str, inputs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        try:
            with lease.worker() as worker:
                return worker.trace(source, function, inputs)
        except JobFailed as failure:
            if failure.kind == "beyond":
                raise BeyondPolicy(failure.message) from failure
            raise RequestError(failure.message) from failure

    def ask(kernel: Kernel, task: Task, question: str) -> str:
        with lease.worker() as worker:
            return inspection.ask(kernel, task, question, worker)

    def locate(kernel: Kernel, task: Task) -> str:
        with lease.worker() as worker:
            return inspection.locate(kernel, task, worker)

    def precision(kernel: Kernel, task: Task) -> str:
        with lease.worker() as worker:
            return inspection.precision(kernel, task, worker)

    return Bench(
        evaluate=judge,
        check_task=check,
        lint=lint,
        trace=trace,
        # On a single core other processes only cost.
        estimate=POOL.estimate if (os.cpu_count() or 1) > 1 else None,
        ask=ask,
        locate=locate,
        precision=precision,
        interrupt=lease.interrupt,
    )
