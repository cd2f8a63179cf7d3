from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agent.desk import Bench
from agent.policies.protocol import Policy
from agent.runs import Runs
from agent.settings import Settings
from tests.agent.doubles import FakeClock, ListPolicy, fake_bench

MakeRuns = Callable[..., Runs]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path / "home", grace_seconds=0.2)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def make_runs(settings: Settings, clock: FakeClock) -> Iterator[MakeRuns]:
    """Runs over the fake judge: `make_runs(policy)`."""
    opened: list[Runs] = []

    def make(policy: Policy | None = None, bench: Bench | None = None, **changes: object) -> Runs:
        chosen = policy or ListPolicy([100.0])
        runs = Runs(
            settings.model_copy(update=changes),
            benches=lambda: bench or fake_bench(),
            policies=lambda request, settings: chosen,
            clock=clock,
        )
        opened.append(runs)
        return runs

    yield make
    for runs in opened:
        runs.close()
