"""Shares in per cent, for people."""

from __future__ import annotations


def percent(share: float) -> str:
    """A share of 0 to 1 with one decimal, or as many as it takes: a little isn't called 0 %, nor almost all 100 %."""
    digits = 1
    while digits < 9 and 0 < share < 1 and f"{share:.{digits}%}" in (f"{0:.{digits}%}", f"{1:.{digits}%}"):
        digits += 1
    return f"{share:.{digits}%}"
