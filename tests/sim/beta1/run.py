"""Runs Beta-1 kernels given as source text."""

from __future__ import annotations

from textwrap import dedent
from typing import Any

from tools.sim import SimResult, load_source, simulate

PRELUDE = """\
import numpy as np
import neuronxcc.nki as nki
import neuronxcc.nki.compiler as ncc
import neuronxcc.nki.isa as nisa
import neuronxcc.nki.language as nl
import neuronxcc.nki.typing as nt
"""


def run(source: str, *args: Any, **options: Any) -> SimResult:
    """Simulate the function `kernel` of `source`."""
    return simulate(load_source(PRELUDE + dedent(source)), *args, **options)


def opcodes(result: SimResult) -> list[str]:
    """Names of the recorded instructions, in order."""
    return [result.trace.opcode_name(i) for i in range(len(result.trace))]
