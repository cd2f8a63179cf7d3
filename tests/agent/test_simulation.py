"""A kernel of one's own on the real simulator, from the command line and over HTTP."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from fastapi.testclient import TestClient

from agent.service.app import build_app
from agent.settings import Settings
from agent.simulation import SimulateRequest, input_of, run_simulation
from tools.task_errors import RequestError

DOUBLE = """
import nki
import nki.isa as nisa
import nki.language as nl


@nki.jit
def kernel(x):
    out = nl.ndarray(x.shape, dtype=x.dtype, buffer=nl.shared_hbm)
    tile = nl.ndarray(x.shape, dtype=x.dtype, buffer=nl.sbuf)
    nisa.dma_copy(dst=tile, src=x)
    doubled = nl.ndarray(x.shape, dtype=x.dtype, buffer=nl.sbuf)
    nisa.tensor_scalar(dst=doubled, data=tile, op0=nl.multiply, operand0=2.0)
    nisa.dma_copy(dst=out, src=doubled)
    return out
"""
TWICE = "def twice(x):\n    return x * 2.0\n"


def asked(source: str = DOUBLE, shape: str = "x=128x64:bfloat16", **fields: object) -> SimulateRequest:
    return SimulateRequest(source=source, inputs=(input_of(shape),), **fields)  # type: ignore[arg-type]


def test_without_a_reference_it_runs_and_is_timed() -> None:
    result = run_simulation(asked())
    assert result.ok
    assert result.correct is None
    assert result.outputs == ("128x64 bfloat16",)
    assert result.performance is not None
    assert 1.0 < result.performance.latency_us < 100.0


def test_with_a_reference_it_is_judged() -> None:
    right = run_simulation(asked(reference_source=TWICE, reference_function="twice"))
    assert right.correct
    wrong = run_simulation(asked(DOUBLE.replace("2.0", "3.0"), reference_source=TWICE, reference_function="twice"))
    assert wrong.correct is False
    assert not wrong.ok
    assert any(not trial.passed for trial in wrong.trials)


def test_a_fault_of_the_kernel_is_a_finding_with_its_line() -> None:
    result = run_simulation(asked(shape="x=256x64"))
    assert not result.ok
    assert result.findings[0].line
    assert "128" in str(result.findings[0])


def test_a_kernel_that_loops_forever_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    from tools.confinement import Limits

    monkeypatch.setattr("tools.sandbox.Limits", lambda: Limits(seconds=1.0))
    endless = DOUBLE.replace("    return out", "    while True:\n        pass")
    result = run_simulation(asked(endless))
    assert not result.ok
    assert "KW-TIMEOUT" in result.findings[0].code


@pytest.mark.parametrize("text", ["x", "x=12", "x=1x2:bfloat16:z", "=4x4", "x=0x4", "x=axb"])
def test_inputs_that_make_no_sense(text: str) -> None:
    if text == "x=12":
        assert input_of(text).shape == (12,)
        return
    with pytest.raises(RequestError, match="--input"):
        input_of(text)


def test_an_unknown_type_is_bad_input() -> None:
    with pytest.raises(RequestError, match="float99"):
        run_simulation(asked(shape="x=128x64:float99"))


@pytest.fixture
def client(settings: Settings) -> Iterator[TestClient]:
    with TestClient(build_app(settings)) as client:
        yield client


def test_over_http(client: TestClient) -> None:
    body = {"source": DOUBLE, "inputs": [{"name": "x", "shape": [128, 64], "dtype": "float32"}], "target": "trn3"}
    answer = client.post("/v1/simulate", json=body)
    assert answer.status_code == 200
    assert answer.json()["ok"] is True
    assert answer.json()["target"] == "trn3"
    assert client.post("/v1/simulate", json={**body, "target": "h100"}).status_code == 422
    bad = client.post("/v1/simulate", json={**body, "inputs": [{"name": "x", "shape": [1, 2], "dtype": "float99"}]})
    assert bad.status_code == 422
    assert "float99" in bad.json()["detail"]
