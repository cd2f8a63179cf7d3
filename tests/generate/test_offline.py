"""The generator drafts, improves within its time, learns from wrong drafts, and says what is beyond it."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from tools.generate import offline
from tools.generate.errors import BeyondOffline
from tools.generate.estimate import Estimate, one_by_one
from tools.generate.offline import Attempt, Draft, Generator
from tools.generate.schedule import Schedule
from tools.generate.specify import parse_request
from tools.task import Evaluation, TensorSpec


def judged(draft: Draft, correct: bool = True) -> Attempt:
    """A draft with a bare judgement."""
    return Attempt(
        draft,
        Evaluation(kernel_digest=draft.kernel.digest, task_digest="", model_version="", target="trn2", correct=correct),
    )


def climb(generator: Generator, limit: int = 12) -> list[Attempt]:
    """Attempts until the generator knows nothing better, all judged right."""
    history = [judged(generator.first())]
    while len(history) < limit:
        draft = generator.improve(history)
        if draft is None:
            break
        history.append(judged(draft))
    return history


def test_improvement_is_monotonic_explained_and_ends() -> None:
    generator = Generator(parse_request("fused RMSNorm and matmul, x 512x512 by w 512x1024, bfloat16, trn2"))
    history = climb(generator)
    times = [generator._by_digest[a.draft.kernel.digest].latency_us for a in history]
    assert times == sorted(times, reverse=True)
    assert len(history) < 12
    assert times[-1] < 0.75 * times[0]
    assert all("simulated" in a.draft.change and a.draft.change.endswith(".") for a in history)
    assert len({a.draft.kernel.digest for a in history}) == len(history)


def test_roofline_counts_bytes_once_and_matmul_flops() -> None:
    roof = Generator(parse_request("fused RMSNorm and matmul, x 4096x1024 by w 1024x2048, bfloat16, trn2")).roofline()
    assert roof.hbm_bytes == 2 * (4096 * 1024 + 1024 * 2048 + 4096 * 2048)
    assert roof.flops == {"bfloat16": 2 * 4096 * 1024 * 2048}
    assert roof.bound == "compute"
    assert roof.us == pytest.approx(218.45, abs=0.1)
    assert Generator(parse_request("column sum of x 256x512")).roofline().flops == {}


def test_a_draft_judged_wrong_is_left_alone() -> None:
    generator = Generator(parse_request("softmax x 256x512, bfloat16"))
    first = generator.first()
    other = generator.improve([judged(first, correct=False)])
    assert other is not None
    assert other.kernel.digest != first.kernel.digest
    again = generator.improve([judged(first, correct=False), judged(other)])
    assert again is None or again.kernel.digest != first.kernel.digest


def test_a_new_process_goes_on_from_stored_drafts() -> None:
    task = parse_request("matmul x 512x512 by w 512x512, bfloat16")
    history = climb(Generator(task), limit=2)
    resumed = Generator(task).improve(history)
    direct = Generator(task)
    expected = direct.improve(climb(direct, limit=2))
    assert (resumed and resumed.kernel.digest) == (expected and expected.kernel.digest)


def test_schedules_survive_storage() -> None:
    generator = Generator(parse_request("matmul x 256x256 by w 256x256"))
    draft = generator.first()
    schedule = Schedule.parse(draft.schedule)
    assert schedule is not None
    assert generator.render(schedule).source == draft.kernel.source
    assert Schedule.parse({"stages": [{"kind": "RowSchedule", "free": 1}]}) is None


def test_the_tracer_can_be_replaced() -> None:
    calls = []

    def tracer(source: str, function: str, specs: object) -> dict[str, object]:
        calls.append(function)
        from tools.generate.tracing import trace_reference

        return trace_reference(source, function, specs)  # type: ignore[arg-type]

    Generator(parse_request("relu x 64x64"), tracer=tracer)
    assert calls == ["reference"]


def test_what_is_beyond_says_what_to_do() -> None:
    task = parse_request("relu x 64x64")
    hard = task.model_copy(
        update={
            "reference": task.reference.model_copy(
                update={"source": "import numpy as np\ndef reference(x): return np.sort(x)\n"}
            )
        }
    )
    with pytest.raises(BeyondOffline, match=r"np\.sort.*model policy"):
        Generator(hard)


def test_candidates_timed_in_batches_give_the_same_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    task = parse_request("softmax x 256x512, bfloat16")
    batches: list[int] = []

    def estimator(sources: Sequence[str], inputs: Sequence[TensorSpec], target: str) -> Sequence[Estimate]:
        batches.append(len(sources))
        return one_by_one(sources, inputs, target)

    monkeypatch.setattr(offline, "WORTH_SHARING", 0.0)
    together = climb(Generator(task, estimator=estimator, batch=4), limit=3)
    assert [a.draft.kernel.digest for a in together] == [a.draft.kernel.digest for a in climb(Generator(task), limit=3)]
    assert max(batches) == 4
    batches.clear()
    monkeypatch.setattr(offline, "WORTH_SHARING", 1e9)
    climb(Generator(task, estimator=estimator, batch=4), limit=2)
    assert batches == []
