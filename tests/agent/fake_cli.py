"""The real command line over a fake judge and a fixed list of kernels, for tests that need a process of its own.

Usage: python -m tests.agent.fake_cli LOG DELAY COMMAND...   LOG gets a line for each kernel judged.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import agent.cli
import agent.runs
from agent.runs import Runs
from agent.settings import Settings, load_settings
from agent.state import RunRequest
from tests.agent.doubles import ListPolicy, fake_bench, judge, make_task
from tools.task import Evaluation, Kernel, Task


def main() -> None:
    log, delay = Path(sys.argv[1]), float(sys.argv[2])
    sys.argv = ["kernelwright", *sys.argv[3:]]

    def slow(kernel: Kernel, task: Task) -> Evaluation:
        with log.open("a") as file:
            file.write(f"begin {kernel.source.splitlines()[0]}\n")
        time.sleep(delay)
        with log.open("a") as file:
            file.write(f"end {kernel.source.splitlines()[0]}\n")
        return judge(kernel, task)

    def policies(request: RunRequest, settings: Settings) -> ListPolicy:
        return ListPolicy([100.0, 90.0, 80.0, 70.0, 60.0, 50.0], make_task(request.goal or "latency<=55us"))

    def opened(settings: Settings | None = None) -> Runs:
        return Runs(settings or load_settings(), benches=lambda: fake_bench(slow), policies=policies)

    agent.runs.Runs = opened  # type: ignore[assignment,misc]
    agent.cli.main()


if __name__ == "__main__":
    main()
