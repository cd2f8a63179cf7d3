"""Figures for people: a little is never nothing, almost all is never all; bytes in units that can be read."""

from __future__ import annotations

import pytest

from tools.figures import amount, percent


@pytest.mark.parametrize(
    ("share", "says"),
    [(0.0, "0.0%"), (1.0, "100.0%"), (0.326, "32.6%"), (9 / 131072, "0.01%"), (0.999936, "99.99%"), (1e-6, "0.0001%")],
)
def test_a_share_reads_as_what_it_is(share: float, says: str) -> None:
    assert percent(share) == says


def test_bytes_have_the_unit_that_reads_best() -> None:
    assert [amount(n) for n in (0, 1023, 1536, 33554432, 5 << 30)] == [
        "0 B",
        "1023 B",
        "1.5 KiB",
        "32.0 MiB",
        "5.0 GiB",
    ]
