"""The HTTP API: runs, events, refusals, limits, the token."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from fastapi.testclient import TestClient

from agent.runs import Runs
from agent.service.app import build_app
from agent.settings import Settings, SettingsError
from tests.agent.doubles import ListPolicy, make_task
from tools.task_errors import RequestError


@pytest.fixture
def client(settings: Settings, make_runs) -> Iterator[TestClient]:
    yield from serve(settings, make_runs(ListPolicy([None, 100.0, 80.0], make_task("latency<=90us"))))


def serve(settings: Settings, runs: Runs) -> Iterator[TestClient]:
    with TestClient(build_app(settings, runs), raise_server_exceptions=False) as client:
        yield client


def events_of(text: str) -> list[dict[str, object]]:
    found = []
    for block in text.replace("\r\n", "\n").strip().split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.split("\n") if not line.startswith(":"))
        if fields:
            found.append({"id": int(fields["id"]), "event": fields["event"], **json.loads(fields["data"])})
    return found


def begin(client: TestClient) -> str:
    answer = client.post("/v1/runs", json={"request": "double x"})
    assert answer.status_code == 202
    assert answer.headers["location"] == answer.json()["url"]
    return answer.json()["run_id"]


def test_a_run_from_request_to_report(client: TestClient) -> None:
    run_id = begin(client)
    events = events_of(client.get(f"/v1/runs/{run_id}/events").text)
    assert [event["id"] for event in events] == list(range(1, len(events) + 1))
    assert events[0]["event"] == "run_started"
    assert events[-1]["event"] == "finished"
    view = client.get(f"/v1/runs/{run_id}").json()
    assert view["run"]["status"] == "done"
    assert view["report"]["goal_met"] is True
    assert view["report"]["latency_us"] == 80.0
    assert view["report"] == events[-1]["report"]


def test_events_are_replayed_after_the_last_one_seen(client: TestClient) -> None:
    run_id = begin(client)
    everything = events_of(client.get(f"/v1/runs/{run_id}/events").text)
    rest = events_of(client.get(f"/v1/runs/{run_id}/events", headers={"Last-Event-ID": "5"}).text)
    assert rest == everything[5:]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"request": "double x", "target": "tpu"}, "target 'tpu' isn't known; use 'trn1', 'trn2' or 'trn3'"),
        ({"request": "double x", "goal": "fast"}, "roofline>=0.6"),
        ({"request": " "}, "the request is empty"),
        ({"request": "double x", "goals": "x"}, "there is no field 'goals'"),
        ({"request": "double x", "attempts": 0}, "attempts: must be at least 1, not 0"),
        ({"request": 5}, "request: must be text, not 5"),
        ({"request": "double x", "reference_source": "def f(): pass"}, "a reference needs both"),
        ({"request": "double x", "policy": "psychic"}, "policy 'psychic' isn't known"),
    ],
)
def test_bad_input_is_refused_in_one_sentence(client: TestClient, body: dict[str, object], words: str) -> None:
    answer = client.post("/v1/runs", json=body)
    assert answer.status_code == 422
    assert words in answer.json()["detail"]
    assert "\n" not in answer.json()["detail"]


def test_a_body_that_is_not_json(client: TestClient) -> None:
    answer = client.post("/v1/runs", content=b"{", headers={"content-type": "application/json"})
    assert answer.status_code == 422
    assert "not JSON" in answer.json()["detail"]


def test_a_request_that_the_grammar_refuses_is_422(settings: Settings, make_runs) -> None:
    policy = ListPolicy([])

    def refuse(request: object, desk: object) -> object:
        raise RequestError("the request names no operation; write e.g. softmax, x 512x1024")

    policy.specify = refuse  # type: ignore[assignment,method-assign]
    for client in serve(settings, make_runs(policy)):
        answer = client.post("/v1/runs", json={"request": "hello"})
        assert answer.status_code == 422
        assert answer.json()["detail"].startswith("the request names no operation")


def test_the_body_has_the_fields_of_the_command_line(client: TestClient) -> None:
    body = {
        "request": "double x",
        "goal": "latency<=1us",
        "target": "trn3",
        "attempts": 2,
        "seconds": 50,
        "policy": "offline",
    }
    run_id = client.post("/v1/runs", json=body).json()["run_id"]
    events = events_of(client.get(f"/v1/runs/{run_id}/events").text)
    report = events[-1]["report"]
    assert isinstance(report, dict)
    assert (report["target"], report["goal"], report["attempts"]) == ("trn3", "latency<=1us", 2)


def test_a_cancelled_run_reports_its_best(client: TestClient) -> None:
    run_id = begin(client)
    client.get(f"/v1/runs/{run_id}/events")
    assert client.post(f"/v1/runs/{run_id}/cancel").status_code == 202
    assert client.get(f"/v1/runs/{run_id}").json()["report"]["correct"] is True
    refused = client.post(f"/v1/runs/{run_id}/resume")
    assert refused.status_code == 422
    assert "finished" in refused.json()["detail"]


def test_an_unknown_run_is_404(client: TestClient) -> None:
    for method, path in (("GET", ""), ("GET", "/events"), ("POST", "/cancel")):
        answer = client.request(method, f"/v1/runs/1122-abcdef{path}")
        assert answer.status_code == 404
        assert "1122-abcdef" in answer.json()["detail"]


def test_too_large_a_body_is_refused_announced_or_not(client: TestClient, settings: Settings) -> None:
    big = b'{"request": "' + b"x" * settings.max_request_bytes + b'"}'
    assert client.post("/v1/runs", content=big).status_code == 413
    assert client.post("/v1/runs", content=iter([big[:1000], big[1000:]])).status_code == 413


def test_a_fault_of_ours_is_500_without_a_traceback(settings: Settings, make_runs) -> None:
    runs = make_runs()
    runs.rows = lambda limit: 1 / 0  # type: ignore[assignment,method-assign]
    for client in serve(settings, runs):
        answer = client.get("/v1/runs")
        assert answer.status_code == 500
        assert "ZeroDivisionError" in answer.json()["detail"]
        assert "Traceback" not in answer.text


def test_with_a_token_only_health_is_open(settings: Settings, make_runs) -> None:
    guarded = Settings(home=settings.home, token="secret")  # type: ignore[arg-type]
    for client in serve(guarded, make_runs()):
        assert client.get("/healthz").status_code == 200
        assert client.get("/v1/runs").status_code == 401
        assert client.get("/v1/runs", headers={"Authorization": "Bearer wrong"}).status_code == 401
        assert client.get("/v1/runs", headers={"Authorization": "Bearer secret"}).status_code == 200


def test_listening_beyond_loopback_needs_a_token(settings: Settings) -> None:
    settings.check_host("127.0.0.1")
    with pytest.raises(SettingsError, match="KERNELWRIGHT_TOKEN"):
        settings.check_host("0.0.0.0")
    Settings(home=settings.home, token="secret").check_host("0.0.0.0")  # type: ignore[arg-type]


def test_the_api_documents_itself(client: TestClient) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    assert {"/v1/runs", "/v1/runs/{run_id}", "/v1/runs/{run_id}/events", "/healthz"} <= set(paths)
    assert client.get("/docs").status_code == 200
