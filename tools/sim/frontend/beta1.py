"""The Beta-1 dialect, `neuronxcc.nki`."""

from __future__ import annotations

from types import ModuleType


def build() -> dict[str, ModuleType]:
    """The modules of this dialect by dotted name."""
    return {}
