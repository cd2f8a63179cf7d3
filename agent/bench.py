"""The production judge: `tools.evaluate` with a worker process of its own."""

from __future__ import annotations

from collections.abc import Callable

from agent.desk import Bench
from tools.task import Evaluation, Kernel, Task

Benches = Callable[[], Bench]


def default_bench() -> Bench:
    """Open a judge. Imported late: it loads NumPy and the simulator."""
    from tools.evaluate import check_task, evaluate
    from tools.sandbox import Worker

    worker = Worker()

    def judge(kernel: Kernel, task: Task) -> Evaluation:
        return evaluate(kernel, task, worker=worker)

    return Bench(
        evaluate=judge,
        check_task=lambda task: check_task(task, worker=worker),
        lint=worker.lint,
        interrupt=worker.interrupt,
        close=worker.close,
    )
