"""Both vendors over a faked wire: the same promises, the same tests."""

from __future__ import annotations

import json
from typing import Any

import httpx2
import pytest
import respx

from agent.events import ModelRetried, ModelText, RunFinished, RunRefused, ToolCalled
from agent.policies.chat_model import (
    AssistantTurn,
    ModelRefused,
    Reply,
    ToolCall,
    ToolResult,
    ToolSpec,
    ToolTurn,
    Transient,
    UserTurn,
)
from agent.policies.factory import choose
from agent.policies.model import ModelPolicy
from agent.policies.prices import dollars
from agent.prompt import prompts_version
from agent.settings import Settings, SettingsError
from agent.state import RunRequest, StopReason
from tests.agent.doubles import FakeClock, fake_bench, kernel
from tests.wire.vendors import AnthropicWire, OpenAIWire, Wire
from tools.task import Budget

TOOL = ToolSpec(name="look", description="Look.", parameters={"type": "object", "properties": {}})

TASK = {
    "name": "double",
    "reference_source": "import numpy as np\n\n\ndef reference(x):\n    return x * 2\n",
    "inputs": [{"name": "x", "shape": [256, 64]}],
    "goal": "latency<=95us",
}


@pytest.fixture(params=[OpenAIWire(), AnthropicWire()], ids=lambda wire: wire.name)
def wire(request: pytest.FixtureRequest) -> Wire:
    chosen: Wire = request.param
    return chosen


@pytest.fixture
def keyed(settings: Settings) -> Settings:
    return Settings(home=settings.home, OPENAI_API_KEY="k-open", ANTHROPIC_API_KEY="k-anth")  # type: ignore[call-arg]


def sent(route: respx.Route, index: int = -1) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(route.calls[index].request.content)
    return body


def test_text_and_calls_are_put_together_from_the_stream(
    wire: Wire, keyed: Settings, httpx2_mock: respx.Router
) -> None:
    arguments = '{"source": "a = 1\\nb = \\"ü\\""}'
    httpx2_mock.post(wire.url).mock(return_value=wire.answer("Looking at it.", [("look", arguments), ("look", "{}")]))
    heard: list[str] = []
    reply = wire.model(keyed).complete("sys", [UserTurn(text="go")], [TOOL], heard.append)
    assert reply.text == "Looking at it."
    assert "".join(heard) == reply.text
    assert len(heard) > 1, "text arrives while it is written"
    assert [(call.name, call.arguments) for call in reply.calls] == [("look", arguments), ("look", "{}")]
    assert len({call.id for call in reply.calls}) == 2
    assert (reply.input_tokens, reply.cached_tokens, reply.output_tokens) == (100, 40, 20)
    assert reply.stop == "tools"


def test_a_conversation_with_tools_is_sent_as_the_vendor_wants_it(
    wire: Wire, keyed: Settings, httpx2_mock: respx.Router
) -> None:
    route = httpx2_mock.post(wire.url).mock(return_value=wire.answer("done"))
    call = ToolCall(id="one", name="look", arguments='{"at": 1}')
    turns = [
        UserTurn(text="go"),
        AssistantTurn(reply=Reply(text="I look.", calls=(call,))),
        ToolTurn(results=(ToolResult(call_id="one", text="seen", ok=False),)),
    ]
    wire.model(keyed).complete("the system prompt", turns, [TOOL], lambda text: None)
    body = sent(route)
    assert body["stream"] is True
    assert wire.tools(body) == {"look": TOOL.parameters}
    assert wire.tool_results(body) == ["seen"]
    if wire.name == "openai":
        assert body["messages"][0] == {"role": "system", "content": "the system prompt"}
        assert body["messages"][2]["tool_calls"][0]["function"] == {"name": "look", "arguments": '{"at": 1}'}
        assert body["messages"][3]["tool_call_id"] == "one"
        assert body["max_completion_tokens"] == keyed.max_output_tokens
        assert route.calls[0].request.headers["authorization"] == "Bearer k-open"
    else:
        assert body["system"][0]["text"] == "the system prompt"
        assert body["messages"][1]["content"][1] == {
            "type": "tool_use", "id": "one", "name": "look", "input": {"at": 1},
        }  # fmt: skip
        assert body["messages"][2]["content"][0]["is_error"] is True
        assert body["max_tokens"] == keyed.max_output_tokens
        assert "k-anth" in str(route.calls[0].request.headers.raw)


def test_arguments_that_are_no_object_can_be_sent_back(wire: Wire, keyed: Settings, httpx2_mock: respx.Router) -> None:
    route = httpx2_mock.post(wire.url).mock(return_value=wire.answer("done"))
    call = ToolCall(id="one", name="look", arguments="{not json")
    turns = [UserTurn(text="go"), AssistantTurn(reply=Reply(calls=(call,))), ToolTurn(results=())]
    wire.model(keyed).complete("s", turns, [TOOL], lambda text: None)
    assert "{not json" in json.dumps(sent(route)["messages"])


def test_a_base_url_needs_no_key_and_has_no_list_price(
    wire: Wire, settings: Settings, httpx2_mock: respx.Router, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(wire.key.replace("API_KEY", "BASE_URL"), wire.base)
    local = Settings(home=settings.home)
    route = httpx2_mock.post(wire.local_url).mock(return_value=wire.answer("hello", usage=(10, 0, 2)))
    model = wire.model(local)
    assert model.complete("s", [UserTurn(text="go")], [], lambda text: None).text == "hello"
    assert route.called
    assert "tools" not in sent(route)
    assert not model.listed_price
    assert choose("auto", local) == wire.name
    if wire.name == "openai":
        assert sent(route)["max_tokens"] == local.max_output_tokens


def test_a_server_without_usage_is_counted_by_length(keyed: Settings, httpx2_mock: respx.Router) -> None:
    wire = OpenAIWire()
    httpx2_mock.post(wire.url).mock(return_value=wire.answer("x" * 400, usage=None))
    reply = wire.model(keyed).complete("s" * 4000, [UserTurn(text="go")], [], lambda text: None)
    assert reply.output_tokens == 100
    assert 1000 <= reply.input_tokens <= 1100


@pytest.mark.parametrize("status", [408, 409, 429, 500, 503, 529])
def test_passing_errors_are_transient(wire: Wire, keyed: Settings, httpx2_mock: respx.Router, status: int) -> None:
    httpx2_mock.post(wire.url).mock(return_value=wire.error(status, "later", {"retry-after": "7"}))
    with pytest.raises(Transient) as caught:
        wire.model(keyed).complete("s", [UserTurn(text="go")], [], lambda text: None)
    assert caught.value.retry_after == 7.0
    assert str(status) in caught.value.reason


def test_a_lost_connection_and_a_cut_off_answer_are_transient(
    wire: Wire, keyed: Settings, httpx2_mock: respx.Router
) -> None:
    httpx2_mock.post(wire.url).mock(side_effect=[httpx2.ConnectError("refused"), wire.cut_off()])
    for words in ("no connection", "broke off"):
        with pytest.raises(Transient, match=words):
            wire.model(keyed).complete("s", [UserTurn(text="go")], [], lambda text: None)


def test_lasting_errors_name_the_fix(wire: Wire, keyed: Settings, httpx2_mock: respx.Router) -> None:
    httpx2_mock.post(wire.url).mock(side_effect=[wire.error(401, "bad key"), wire.error(404, "no such model")])
    with pytest.raises(ModelRefused, match=wire.key):
        wire.model(keyed).complete("s", [UserTurn(text="go")], [], lambda text: None)
    with pytest.raises(ModelRefused, match="no such model"):
        wire.model(keyed).complete("s", [UserTurn(text="go")], [], lambda text: None)


def test_without_a_key_the_variable_is_named(wire: Wire, settings: Settings) -> None:
    with pytest.raises(SettingsError, match=wire.key):
        wire.model(settings)
    assert choose("auto", settings) == "offline"


def run(wire: Wire, keyed: Settings, make_runs: Any, budget: Budget | None = None) -> list[Any]:
    runs = make_runs(ModelPolicy(wire.name, wire.model(keyed)), fake_bench())
    return list(runs.stream(runs.start(RunRequest(request="double x 256x64", budget=budget or Budget()))))


def submit(latency: float | None, change: str = "a change") -> tuple[str, str]:
    return "submit_kernel", json.dumps({"source": kernel(latency, change).source, "change": change})


def test_a_whole_run_through_the_wire(
    wire: Wire, keyed: Settings, make_runs: Any, clock: FakeClock, httpx2_mock: respx.Router
) -> None:
    route = httpx2_mock.post(wire.url).mock(
        side_effect=[
            wire.answer("Doubling.", [("submit_task", json.dumps(TASK))]),
            wire.error(429, "slow down", {"retry-after": "3"}),
            wire.answer("", [("search_docs", json.dumps({"query": "matmul psum"}))]),
            wire.answer("", [("evaluate_kernel", '{"source": broken')]),
            wire.answer("", [submit(None, "first")]),
            wire.answer("I only talk."),
            wire.answer("", [submit(120.0, "mended")]),
            wire.answer("", [("evaluate_kernel", json.dumps({"source": kernel(110.0).source, "change": "trial"}))]),
            wire.answer("", [submit(90.0, "faster")]),
        ]
    )
    events = run(wire, keyed, make_runs)
    report = events[-1].report
    assert report.goal_met
    assert (report.policy, report.prompts) == (wire.name, prompts_version())
    assert [(c.number, c.change, c.latency_us) for c in report.candidates] == [
        (1, "first", None), (2, "mended", 120.0), (3, "trial", 110.0), (4, "faster", 90.0),
    ]  # fmt: skip
    assert report.attempts == 4
    assert report.tokens == 8 * 120
    unit = dollars(report.model, Reply(input_tokens=100, cached_tokens=40, output_tokens=20))
    assert unit is not None
    assert report.dollars == pytest.approx(8 * unit, abs=1e-6)
    assert [e.wait_seconds for e in events if isinstance(e, ModelRetried)] == [3.0]
    assert clock.slept
    assert sum(clock.slept) == pytest.approx(3.0)
    assert any(isinstance(e, ModelText) and e.text == "Doubling." for e in events)
    refused = [e for e in events if isinstance(e, ToolCalled) and not e.ok]
    assert "not JSON" in refused[0].summary
    # What was wrong with the arguments went back to the model, and what the search found.
    told = wire.tool_results(sent(route, 4))
    assert "PSUM" in told[0]
    assert "not JSON" in told[1]
    # A wrong kernel's finding reaches the model's next step, with its fix.
    assert "x is not doubled" in json.dumps(sent(route, 5)["messages"])
    assert "multiply by 2" in json.dumps(sent(route, 5)["messages"])
    # The profile of the best kernel reaches the step that improves it.
    assert "many short instructions" in json.dumps(sent(route, 7)["messages"])


def test_nothing_that_the_model_is_sent_gives_the_tolerance_away_to_it(
    wire: Wire, keyed: Settings, make_runs: Any, httpx2_mock: respx.Router
) -> None:
    route = httpx2_mock.post(wire.url).mock(
        side_effect=[
            wire.answer("", [("submit_task", json.dumps({**TASK, "tolerance": {"rtol": 1.0}}))]),
            wire.answer("", [("submit_task", json.dumps(TASK))]),
            wire.answer("", [submit(90.0)]),
        ]
    )
    events = run(wire, keyed, make_runs)
    assert isinstance(events[-1], RunFinished)
    assert events[-1].report.tolerance.rtol < 0.1
    assert "tolerance" in wire.tool_results(sent(route, 1))[0]
    for schema in wire.tools(sent(route, 2)).values():
        assert not {"tolerance", "precision", "rtol", "atol"} & set(schema.get("properties", {}))


def test_retries_end(wire: Wire, keyed: Settings, make_runs: Any, clock: FakeClock, httpx2_mock: respx.Router) -> None:
    route = httpx2_mock.post(wire.url).mock(return_value=wire.error(503, "overloaded"))
    events = run(wire, keyed, make_runs)
    assert isinstance(events[-1], RunRefused)
    assert route.call_count == keyed.model_retries + 1
    waits = [e.wait_seconds for e in events if isinstance(e, ModelRetried)]
    assert len(waits) == keyed.model_retries
    assert all(0.5 * 2**i <= wait <= 2**i for i, wait in enumerate(waits)), waits


def test_a_model_that_goes_away_leaves_the_best_kernel(
    wire: Wire, keyed: Settings, make_runs: Any, httpx2_mock: respx.Router
) -> None:
    httpx2_mock.post(wire.url).mock(
        side_effect=[
            wire.answer("", [("submit_task", json.dumps(TASK))]),
            wire.answer("", [submit(120.0)]),
            wire.error(401, "key revoked"),
        ]
    )
    report = run(wire, keyed, make_runs)[-1].report
    assert report.correct
    assert report.latency_us == 120.0
    assert any("refused the key" in limit for limit in report.limits)


def test_the_token_budget_is_hard(wire: Wire, keyed: Settings, make_runs: Any, httpx2_mock: respx.Router) -> None:
    answers = [wire.answer("", [("submit_task", json.dumps(TASK))])]
    answers += [wire.answer("", [submit(200.0 - i, f"number {i}")]) for i in range(20)]
    route = httpx2_mock.post(wire.url).mock(side_effect=answers)
    report = run(wire, keyed, make_runs, Budget(tokens=400))[-1].report
    assert report.stop == StopReason.TOKENS
    assert report.tokens == 480
    assert route.call_count == 4
    assert report.latency_us == 198.0


def test_the_dollar_budget_is_hard(wire: Wire, keyed: Settings, make_runs: Any, httpx2_mock: respx.Router) -> None:
    answers = [wire.answer("", [("submit_task", json.dumps(TASK))])]
    answers += [wire.answer("", [submit(200.0 - i, f"number {i}")], usage=(1_000_000, 0, 0)) for i in range(20)]
    httpx2_mock.post(wire.url).mock(side_effect=answers)
    report = run(wire, keyed, make_runs, Budget(dollars=2.0, tokens=100_000_000))[-1].report
    assert report.stop == StopReason.DOLLARS
    assert 2.0 <= report.dollars <= 5.0
    assert report.correct


def test_no_tokens_means_no_call(wire: Wire, keyed: Settings, make_runs: Any, httpx2_mock: respx.Router) -> None:
    route = httpx2_mock.post(wire.url).mock(return_value=wire.answer("no"))
    events = run(wire, keyed, make_runs, Budget(tokens=0))
    assert isinstance(events[-1], RunRefused)
    assert not route.called
