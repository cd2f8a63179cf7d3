"""The production judge: `tools.evaluate` with a worker process of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from agent.desk import Bench
from agent.policies.protocol import BeyondPolicy
from tools.task import Evaluation, Kernel, Task
from tools.task_errors import RequestError

Benches = Callable[[], Bench]


def default_bench() -> Bench:
    """Open a judge. Imported late: it loads NumPy and the simulator."""
    from tools.evaluate import check_task, evaluate
    from tools.sandbox import JobFailed, Worker

    worker = Worker()

    def judge(kernel: Kernel, task: Task) -> Evaluation:
        return evaluate(kernel, task, worker=worker)

    def trace(source: str, function: str, inputs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        try:
            return worker.trace(source, function, inputs)
        except JobFailed as failure:
            if failure.kind == "beyond":
                raise BeyondPolicy(failure.message) from failure
            raise RequestError(failure.message) from failure

    return Bench(
        evaluate=judge,
        check_task=lambda task: check_task(task, worker=worker),
        lint=worker.lint,
        trace=trace,
        interrupt=worker.interrupt,
        close=worker.close,
    )
