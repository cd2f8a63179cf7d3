"""Shares in words: a little is never nothing, almost all is never all."""

from __future__ import annotations

import pytest

from tools.percent import percent


@pytest.mark.parametrize(
    ("share", "says"),
    [(0.0, "0.0%"), (1.0, "100.0%"), (0.326, "32.6%"), (9 / 131072, "0.01%"), (0.999936, "99.99%"), (1e-6, "0.0001%")],
)
def test_a_share_reads_as_what_it_is(share: float, says: str) -> None:
    assert percent(share) == says
