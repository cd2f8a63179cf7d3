"""The production judge: `tools.evaluate` with one worker process for the whole sitting."""

from __future__ import annotations

from agent.desk import Bench


def default_bench() -> Bench:
    """Open the judge. Imported late: it loads NumPy and the simulator."""
    from tools.evaluate import check_task, evaluate

    return Bench(evaluate=evaluate, check_task=check_task)
