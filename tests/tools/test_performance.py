"""What a judged kernel's time is said to go to: the findings of the bottleneck rules, by predicted gain."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from tests.insight.conftest import blocked, record
from tools import performance
from tools.insight import Observed, advise
from tools.performance import notes, performance_of
from tools.roofline import Roofline
from tools.sim.execute import SimResult

assert blocked  # a fixture

NO_LIMITS = Roofline(1.0, 0.0, 0.0, 0, 0, 0, 0, False)


def seen(result: SimResult) -> Observed:
    return Observed.of(result.trace, result.machine)


def test_notes_are_the_rules_findings_by_gain(blocked: Callable[..., SimResult]) -> None:
    result = blocked(1024)
    said = performance_of(result.trace, "trn2", NO_LIMITS).notes
    advice = [a for a in advise(seen(result)) if a.proof is None or a.proof.gain_percent >= 1]
    assert said == tuple(a.sentence for a in advice[: performance.MOST_NOTES])
    assert any(note.startswith("[D1]") and "Predicted gain" in note for note in said)


def test_a_long_program_gets_its_notes_without_proof(
    blocked: Callable[..., SimResult], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(performance, "MOST_PROVEN", 10)
    said = notes(seen(blocked(512)))
    assert not any("Predicted gain" in note for note in said)
    assert "gains were not re-simulated" in said[-1]


def test_a_kernel_that_stores_nothing_still_has_notes() -> None:
    source = (
        "import nki\nimport nki.language as nl\nimport nki.isa as nisa\n\n@nki.jit\ndef kernel(x):\n"
        "    out = nl.ndarray(x.shape, dtype=x.dtype, buffer=nl.shared_hbm)\n"
        "    t = nl.ndarray(x.shape, dtype=x.dtype, buffer=nl.sbuf)\n    nisa.memset(t, 0.0)\n    return out\n"
    )
    trace = record(source, np.zeros((128, 64), np.float32)).trace
    assert performance_of(trace, "trn2", NO_LIMITS).notes


def test_an_active_engine_and_a_short_back_to_back_time_dont_contradict(blocked: Callable[..., SimResult]) -> None:
    """A reader sees the Tensor Engine 80 % active beside 'the busiest needs 60 %': the note must say why."""
    launch = seen(blocked(1024, dtype="bfloat16"))
    (advice,) = advise(launch, rules=("T5",), prove=False)
    use = max(launch.profile.engines, key=lambda e: e.busy_us)
    assert ("counts as active" in advice.evidence) == (use.busy_us > launch.profile.pipeline_us)
