"""Shares and amounts of bytes, for people."""

from __future__ import annotations


def percent(share: float) -> str:
    """A share of 0 to 1 with one decimal, or as many as it takes: a little isn't called 0 %, nor almost all 100 %."""
    digits = 1
    while digits < 9 and 0 < share < 1 and f"{share:.{digits}%}" in (f"{0:.{digits}%}", f"{1:.{digits}%}"):
        digits += 1
    return f"{share:.{digits}%}"


def amount(count: float) -> str:
    """Bytes for people: `16.0 MiB`."""
    for size, unit in ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count:.0f} B"
