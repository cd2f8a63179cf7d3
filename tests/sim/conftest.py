"""What tests of batched values share."""

from __future__ import annotations

import pytest

from tools.sim.batch import _Batch


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Iterations of each batch that runs."""
    seen: list[int] = []
    original = _Batch.run

    def run(self: _Batch) -> None:
        seen.append(self.trips)
        original(self)

    monkeypatch.setattr(_Batch, "run", run)
    return seen
