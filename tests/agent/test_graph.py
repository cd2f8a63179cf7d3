"""The graph's road: which node follows which, when it stops, and what it reports."""

from __future__ import annotations

import pytest

from agent.events import Decided, Event, PhaseEntered, RunFinished
from agent.report import Report
from agent.runs import Runs
from agent.state import RunRequest, StopReason
from tests.agent.doubles import FakeClock, ListPolicy, fake_bench, judge, make_task
from tools.task import Budget, Evaluation, Kernel, Task


def finish(runs: Runs, budget: Budget | None = None, **fields: object) -> tuple[list[Event], Report]:
    request = RunRequest(request="double x", budget=budget or Budget(), **fields)  # type: ignore[arg-type]
    events = list(runs.stream(runs.start(request)))
    assert isinstance(events[-1], RunFinished)
    return events, events[-1].report


def phases(events: list[Event]) -> list[str]:
    return [event.phase.value for event in events if isinstance(event, PhaseEntered)]


def test_the_road_of_a_kernel_that_is_right_at_once(make_runs) -> None:
    events, report = finish(make_runs(ListPolicy([100.0], make_task("roofline>=0.5"))))
    assert phases(events) == ["specify", "draft", "check", "profile", "decide", "report"]
    assert report.goal_met
    assert report.correct
    assert report.stop == StopReason.GOAL_MET
    assert report.latency_us == 100.0
    assert report.roofline_fraction == 0.5
    assert report.attempts == 1


def test_a_wrong_kernel_is_debugged_and_a_right_one_improved(make_runs) -> None:
    policy = ListPolicy([None, 200.0, 90.0], make_task("latency<=95us"))
    events, report = finish(make_runs(policy))
    assert policy.asked == ["specify", "draft", "debug", "improve"]
    assert phases(events)[3:] == [
        "decide", "debug", "check", "profile", "decide", "improve", "check", "profile", "decide", "report",
    ]  # fmt: skip
    assert report.goal_met
    assert [c.number for c in report.changes] == [2, 3]
    assert report.speedup == pytest.approx(200 / 90)


def test_after_three_wrong_improvements_the_search_goes_back_to_the_best(make_runs) -> None:
    policy = ListPolicy([100.0, None, None, None, 90.0], make_task("latency<=95us"))
    finish(make_runs(policy))
    assert policy.asked == ["specify", "draft", "improve", "debug", "debug", "improve"]


def test_the_best_kernel_is_kept_when_later_ones_are_slower(make_runs) -> None:
    _, report = finish(make_runs(ListPolicy([100.0, 120.0, None], make_task("latency<=10us"))))
    assert report.latency_us == 100.0
    assert report.correct
    assert not report.goal_met
    assert report.stop == StopReason.EXHAUSTED


def test_a_speedup_goal_counts_from_the_first_correct_kernel(make_runs) -> None:
    _, report = finish(make_runs(ListPolicy([None, 100.0, 60.0, 50.0], make_task("speedup>=2"))))
    assert report.goal_met
    assert report.speedup == 2.0


@pytest.mark.parametrize(
    ("goal", "latency", "words"),
    [
        ("roofline>=0.5", 100.01, "49.995% of roofline, 50% asked"),
        ("roofline>=0.625", 80.2, "62.3% of roofline, 62.5% asked"),
        ("latency<=80us", 80.001, "80.001 us simulated, 80 us asked"),
        ("latency<=80us", 79.5, "79.50 us simulated, 80 us asked"),
        ("latency<=20us", 79.5, "79.50 us simulated, 20 us asked, less than the roofline of 50.00 us"),
    ],
)
def test_a_near_miss_doesnt_read_as_what_was_asked(make_runs, goal: str, latency: float, words: str) -> None:
    _, report = finish(make_runs(ListPolicy([latency], make_task(goal))))
    assert words in report.verdict


def test_without_a_goal_some_attempts_polish_the_first_correct_kernel(make_runs) -> None:
    steps = [100.0 - i for i in range(20)]
    _, report = finish(make_runs(ListPolicy(steps), polish_attempts=4))
    assert report.attempts == 5
    assert report.latency_us == 96.0


def test_correct_as_an_explicit_goal_stops_at_the_first_correct_kernel(make_runs) -> None:
    _, report = finish(make_runs(ListPolicy([100.0, 50.0])), goal="correct")
    assert report.attempts == 1
    assert report.stop == StopReason.CORRECT


def test_no_gain_ends_a_search(make_runs) -> None:
    policy = ListPolicy([100.0] + [99.9] * 50, make_task("latency<=10us"))
    _, report = finish(make_runs(policy, patience=5), Budget(attempts=100))
    assert report.stop == StopReason.NO_GAIN
    assert report.attempts == 6


def test_kernels_that_are_never_right_end_a_search(make_runs) -> None:
    def different(kernel: Kernel, task: Task) -> Evaluation:
        return judge(kernel, task)

    _, report = finish(make_runs(ListPolicy([None] * 50), fake_bench(different), give_up_after=4))
    assert report.stop == StopReason.STUCK
    assert not report.correct
    assert "x is not doubled" in report.verdict
    assert "Fix: multiply by 2" in report.verdict


def test_the_attempt_budget_is_hard(make_runs) -> None:
    steps = [100.0 * 0.9**i for i in range(50)]
    _, report = finish(make_runs(ListPolicy(steps, make_task("latency<=0.1us"))), Budget(attempts=7))
    assert report.attempts == 7
    assert report.stop == StopReason.ATTEMPTS
    assert report.latency_us == pytest.approx(100.0 * 0.9**6)


def test_the_time_budget_returns_the_best_so_far(make_runs, clock: FakeClock) -> None:
    def slow(kernel: Kernel, task: Task) -> Evaluation:
        clock.advance(10.0)
        return judge(kernel, task)

    steps = [100.0 * 0.9**i for i in range(50)]
    # The supervisor must not step in between: the step ends within the grace.
    runs = make_runs(ListPolicy(steps, make_task("latency<=0.1us")), fake_bench(slow), grace_seconds=60.0)
    events, report = finish(runs, Budget(seconds=35.0))
    assert report.attempts == 4
    assert report.stop == StopReason.SECONDS
    assert report.seconds == 40.0
    decided = [event for event in events if isinstance(event, Decided)]
    assert decided[-1].reason.startswith("time spent")


def test_the_same_kernel_is_not_judged_twice(make_runs) -> None:
    judged: list[str] = []

    def counting(kernel: Kernel, task: Task) -> Evaluation:
        judged.append(kernel.digest)
        return judge(kernel, task)

    policy = ListPolicy([100.0], make_task("latency<=10us"))
    same = policy._next
    policy.improve = lambda state, desk: (  # type: ignore[method-assign]
        same("improve", state.model_copy(update={"candidates": []}), desk) if len(state.candidates) < 3 else None
    )
    _, report = finish(make_runs(policy, fake_bench(counting)))
    assert len(report.candidates) == 3
    assert len(judged) == 1
    assert report.attempts == 1


def test_the_report_says_what_was_not_covered(make_runs) -> None:
    _, report = finish(make_runs())
    text = " ".join(report.limits)
    assert "simulated" in text
    assert "1 hidden draws" in text
    assert "reference was derived" in text
