"""The model policy with a scripted model: follow-ups, refusals, nudges, the end of its turns."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from agent.chat import Conversation
from agent.events import Event, Noted, RunFinished, RunRefused, ToolCalled
from agent.policies.chat_model import ModelRefused, Reply, Transient, Turn, UserTurn
from agent.policies.endpoint import Endpoint
from agent.policies.model import ModelPolicy
from agent.policies.scripted import Answer, ScriptedModel
from agent.settings import Settings, SettingsError
from agent.state import RunRequest, StopReason
from tests.agent.doubles import FakeClock, call, kernel
from tools.task import Budget

TASK = call(
    "submit_task",
    name="double",
    reference_source="def reference(x):\n    return x * 2\n",
    inputs=[{"name": "x", "shape": [256, 64]}],
    goal="latency<=95us",
)


def submit(latency: float | None, change: str = "a change") -> Reply:
    return call("submit_kernel", source=kernel(latency, change).source, change=change)


def run(
    make_runs, answers: Sequence[Answer], words: str = "double x 256x64", **settings: object
) -> tuple[list[Event], ScriptedModel]:
    model = ScriptedModel(answers)
    runs = make_runs(ModelPolicy("scripted", model), **settings)
    return list(runs.stream(runs.start(RunRequest(request=words)))), model


def report(events: list[Event]):
    assert isinstance(events[-1], RunFinished), events[-1]
    return events[-1].report


def test_a_kernel_of_its_own_evaluation_can_be_the_best(make_runs) -> None:
    trial = call("evaluate_kernel", source=kernel(90.0).source, change="trial")
    events, _ = run(make_runs, [TASK, submit(120.0), trial, call("give_up", reason="done")])
    assert report(events).goal_met
    assert report(events).latency_us == 90.0
    assert report(events).attempts == 2


def test_giving_up_ends_the_search(make_runs) -> None:
    events, _ = run(make_runs, [TASK, submit(120.0), call("give_up", reason="nothing left")])
    assert report(events).stop == StopReason.EXHAUSTED
    assert any(isinstance(e, Noted) and "nothing left" in e.text for e in events)


def test_a_model_that_only_talks_is_nudged_and_then_left(make_runs) -> None:
    talk = Reply(text="I think it is fine.", input_tokens=10, output_tokens=5)
    events, model = run(make_runs, [TASK, submit(120.0), talk, talk, talk], model_turns=3)
    assert report(events).latency_us == 120.0
    assert any("didn't finish its step within 3 calls" in limit for limit in report(events).limits)
    last = model.calls[-1][1]
    assert isinstance(last[-1], UserTurn)
    assert "called no tool" in last[-1].text


def test_a_refusal_falls_back_to_the_grammar_only_where_it_parses(make_runs) -> None:
    refuse = call("refuse_request", reason="no operation is named; write one")
    events, _ = run(make_runs, [refuse, submit(90.0)], "softmax, x 256x64, float32")
    assert report(events).task == "softmax"
    assert any(isinstance(e, Noted) and "read by the grammar" in e.text for e in events)
    events, _ = run(make_runs, [refuse], "something nice")
    assert isinstance(events[-1], RunRefused)
    assert events[-1].message == "no operation is named; write one"


def test_slips_are_told_to_the_model(make_runs) -> None:
    slips = [
        call("conjure", spell="x"),
        call("evaluate_kernel", source="x"),
        call("submit_kernel", source="x", change="y", tolerance=1.0),
        call("explain_candidate", number=7),
    ]
    events, _ = run(make_runs, [TASK, *slips, submit(90.0)])
    assert report(events).goal_met
    told = [e.summary for e in events if isinstance(e, ToolCalled) and not e.ok]
    assert "there is no tool 'conjure'; there are evaluate_kernel" in told[0]
    assert told[1].endswith("change: is missing")
    assert "tolerance: there is no such field" in told[2]
    assert "no candidate 7" in told[3]


def test_the_reference_of_the_user_is_the_specification(make_runs) -> None:
    runs = make_runs(ModelPolicy("scripted", ScriptedModel([submit(90.0)])))
    request = RunRequest(
        request="x 256x64, float32, latency<=95us",
        reference_source="def mine(x):\n    return x + 1.0\n",
        reference_function="mine",
        goal="latency<=95us",
    )
    events = list(runs.stream(runs.start(request)))
    assert "x + 1.0" in report(events).reference
    assert report(events).goal_met


def test_a_wish_in_chat_reaches_the_model(make_runs) -> None:
    asked: list[str] = []

    def hear(system: str, turns: Sequence[Turn]) -> Reply:
        assert isinstance(turns[0], UserTurn)
        asked.append(turns[0].text)
        return submit(80.0, "heard")

    answer = Reply(text="Because of its work.", input_tokens=1, output_tokens=1)
    model = ScriptedModel([TASK, submit(90.0), hear, answer])
    runs = make_runs(ModelPolicy("scripted", model))
    chat = Conversation(runs, RunRequest(request="(chat)"))
    list(chat.say("double x 256x64"))
    pieces = list(chat.say("please use the gpsimd engine less"))
    assert isinstance(pieces[-1], RunFinished)
    assert pieces[-1].report.latency_us == 80.0
    assert "please use the gpsimd engine less" in asked[0]
    assert list(chat.say("why is the vector engine busy?")) == ["Because of its work."]


def test_waits_end_with_the_time_budget(make_runs, clock: FakeClock) -> None:
    model = ScriptedModel([TASK, submit(120.0), Transient("slow down", retry_after=500.0)])
    runs = make_runs(ModelPolicy("scripted", model))
    events = list(runs.stream(runs.start(RunRequest(request="double", budget=Budget(seconds=100.0)))))
    assert report(events).latency_us == 120.0
    assert any("asks to wait 500 s" in limit for limit in report(events).limits)
    assert not clock.slept


def test_a_refused_call_is_not_repeated(make_runs) -> None:
    events, model = run(make_runs, [ModelRefused("the server refused the key")], "something nice")
    assert isinstance(events[-1], RunRefused)
    assert len(model.calls) == 1


def test_a_model_out_of_reach_isnt_called_an_end_of_ideas(make_runs) -> None:
    events, _ = run(make_runs, [TASK, *[Transient("no connection")] * 6], model_retries=5)
    assert report(events).stop == StopReason.MODEL_FAILED
    assert report(events).verdict == "No correct kernel was found (the model failed)"
    runs = make_runs(ModelPolicy("scripted", ScriptedModel([TASK, *[Transient("no connection")] * 6, submit(90.0)])))
    run_id = runs.start(RunRequest(request="double"))
    assert report(list(runs.stream(run_id))).stop == StopReason.MODEL_FAILED
    seen = runs.last_seq(run_id)
    runs.resume(run_id)
    assert report(list(runs.stream(run_id, seen))).correct


def test_a_base_url_that_is_no_address_is_refused_at_once() -> None:
    with pytest.raises(SettingsError, match=r"OPENAI_BASE_URL 'nonsense' is no address; it begins with http://"):
        Endpoint.of("openai", None, "nonsense", "https://public", Settings())


def test_a_script_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "script.json"
    path.write_text(json.dumps([{"text": "hm", "calls": [{"name": "give_up", "arguments": {"reason": "x"}}]}]))
    reply = ScriptedModel.from_file(path).complete("", [], [], lambda text: None)
    assert (reply.text, reply.calls[0].name, reply.calls[0].arguments) == ("hm", "give_up", '{"reason": "x"}')
    path.write_text("[1]")
    with pytest.raises(SettingsError, match="KERNELWRIGHT_SCRIPT"):
        ScriptedModel.from_file(path)
    with pytest.raises(SettingsError, match="KERNELWRIGHT_SCRIPT"):
        ScriptedModel.from_file(tmp_path / "nothing.json")
