"""A number of the machine and why it is believed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Mark = Literal["documented", "measured", "fitted"]


@dataclass(frozen=True, slots=True)
class Fact:
    """One number of one NeuronCore generation.

    Attributes:
        value: the number, in `unit`.
        unit: `bytes`, `GHz`, `ns`, `cycles` (of the named engine), `B/ns`, `count`, `ratio`, ...
        mark: `documented` (stated by the vendor), `measured` (read off a published profile or benchmark) or
            `fitted` (chosen so that the model meets measured latencies).
        source: where it was read, or what it was fitted to.
    """

    value: float
    unit: str
    mark: Mark
    source: str
