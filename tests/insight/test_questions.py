"""Questions in words about one kernel: what is understood, and whether the answer is the profile's."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from tests.insight.conftest import BLOCKED, record
from tools.insight import Observed, answer, explain_gap
from tools.insight import counterfactual as what_if
from tools.sim.timing import TimingOptions


@cache
def launch() -> Observed:
    result = record(BLOCKED, np.zeros((1024, 1024), np.float32), np.zeros((1024, 1024), np.float32))
    return Observed.of(result.trace, result.machine, TimingOptions())


def lines() -> list[str]:
    return BLOCKED.splitlines()


def line_of(text: str) -> int:
    return next(k for k, line in enumerate(lines(), 1) if text in line)


@pytest.mark.parametrize(
    "question",
    [
        "why is the Tensor Engine idle 27 %?",
        "What starves the PE?",
        "what is the matmul unit waiting for",
        "Why does TensorE stall?",
        "Tensor",
        "what's holding up the systolic array?",
    ],
)
def test_an_idle_engine_is_explained_however_it_is_called(question: str) -> None:
    found = answer(launch(), question)
    assert found.explanation is not None
    assert found.explanation.engine == "Tensor"
    assert f"idle {explain_gap(launch(), engine='Tensor').idle_percent:.1f}%" in found.text


@pytest.mark.parametrize(
    ("question", "says"),
    [
        ("what keeps the Vector Engine busy?", "in 16 instructions of kernel.py"),
        ("where does DVE spend its time", "nisa.tensor_copy(r, acc)"),
        ("what does GpSimd do?", "no work in this kernel"),
        ("does the vector engine limit us?", "at most"),
        ("is it memory bound or compute bound?", "Bounds: memory"),
        ("why is it slow?", "Predicted gain"),
        ("how good is the MFU?", "PE rows 100%"),
        ("which inputs are loaded again?", "32.0 MiB are inputs read again"),
        ("what do the DMA queues carry?", "transfers of"),
        ("which lines are hot?", "Most engine time goes to"),
        ("what is the critical path?", "The critical path, by line"),
        ("longest gap?", "The longest waits"),
        ("how would it do on trn1 and trn3?", "trn3: "),
        ("which engine idles most?", "What counts is the busiest of them"),
    ],
)
def test_other_questions_are_told_apart(question: str, says: str) -> None:
    assert says in answer(launch(), question).text


def test_what_a_change_would_gain_is_re_simulated() -> None:
    seen = launch()
    hoisted, narrower = what_if.loads_hoisted(seen), what_if.other_dtype(seen)
    assert hoisted is not None
    assert narrower is not None
    assert answer(seen, "what would I gain if loads were hoisted?").text == hoisted.sentence
    assert answer(seen, "how much faster would bf16 be?").text == narrower.sentence
    copy = line_of("nisa.tensor_copy")
    assert (
        f"kernel.py:{copy} on the Scalar Engine" in answer(seen, f"what if line {copy} ran on the scalar engine").text
    )
    assert "With no waits between engines" in answer(seen, "what if there were no waits at all?").text


def test_a_line_says_whom_it_waits_for() -> None:
    product, load = line_of("nisa.nc_matmul"), line_of("dst=b, src=w")
    text = answer(launch(), f"why is line {product} late?").text
    assert f"for data still moved by kernel.py:{load}" in text
    assert f"If kernel.py:{product} never waited for kernel.py:{load}" in text


@pytest.mark.parametrize(
    ("question", "says"),
    [
        ("will it rain tomorrow?", "can't tell what is asked"),
        ("why is core 3 of the tensor engine idle?", "the launch used 1"),
        ("what does line 2 wait for?", "no instruction comes from line 2"),
    ],
)
def test_what_cannot_be_answered_is_said(question: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        answer(launch(), question)
