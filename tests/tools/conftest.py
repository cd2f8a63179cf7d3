from __future__ import annotations

from collections.abc import Iterator

import pytest

from tools.confinement import Limits
from tools.sandbox import Worker


@pytest.fixture(scope="session")
def worker() -> Iterator[Worker]:
    with Worker(Limits(seconds=20.0, memory_bytes=1 << 30)) as found:
        yield found
