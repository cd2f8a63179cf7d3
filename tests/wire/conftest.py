from __future__ import annotations

from collections.abc import Iterator

import pytest
import respx

from tests.agent.conftest import clock, make_runs, settings

__all__ = ["clock", "make_runs", "settings"]


@pytest.fixture
def httpx2_mock() -> Iterator[respx.Router]:
    """The plugin's router, but a route may stay unused: some tests promise that no call is made."""
    with respx.mock(using="httpcore2", assert_all_called=False) as router:
        yield router
