"""A kernel of one's own on the real simulator, from the command line and over HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from rich.console import Console

from agent.service.app import build_app
from agent.settings import Settings
from agent.simulation import SimulateRequest, input_of, run_simulation, show_simulation
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


def test_a_read_of_unwritten_memory_is_told_once() -> None:
    """Its finding holds a list, which once brought the merging of findings down."""
    result = run_simulation(asked(DOUBLE.replace("    nisa.dma_copy(dst=tile, src=x)\n", "")))
    (finding,) = [f for f in result.findings if f.code == "KW-UNINITIALISED"]
    assert finding.found == [0, 0]
    assert result.performance is not None


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


@pytest.mark.parametrize("reference", [{}, {"reference_source": TWICE, "reference_function": "twice"}])
def test_inputs_that_no_machine_holds_are_refused_before_they_are_drawn(reference: dict[str, str]) -> None:
    with pytest.raises(RequestError, match=r"the inputs need 3725.3 GiB, the limit is 4 GiB"):
        run_simulation(asked(shape="x=1000000x1000000:float32", **reference))


@pytest.fixture
def client(settings: Settings) -> Iterator[TestClient]:
    with TestClient(build_app(settings)) as client:
        yield client


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ([], 'inputs: must have at least 1 entry, e.g. [{"name": "x", "shape": [512, 1024], "dtype": "bfloat16"}]'),
        ("x", "inputs: must be a list, not 'x', e.g. ["),
        ([{"name": "x", "shape": ["a"]}], "inputs[0].shape[0]: must be a whole number, not 'a'"),
        ([{"name": "x", "shape": [1.5]}], "inputs[0].shape[0]: must be a whole number, not 1.5"),
        ([{"shape": [1]}], "inputs[0].name: is missing"),
        ([7], "inputs[0]: must be a JSON object, not 7"),
    ],
)
def test_bad_inputs_over_http_are_said_in_words(client: TestClient, inputs: object, words: str) -> None:
    answer = client.post("/v1/simulate", json={"source": DOUBLE, "inputs": inputs})
    assert answer.status_code == 422
    assert answer.json()["detail"].startswith(words)


def test_a_body_that_is_no_object(client: TestClient) -> None:
    assert client.post("/v1/simulate", json=[]).json() == {"detail": "the body: must be a JSON object, not []"}


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


BETA1 = """
import neuronxcc.nki as nki
import neuronxcc.nki.language as nl


@nki.jit
def kernel(lhsT, rhs):
    out = nl.ndarray((128, 512), dtype=lhsT.dtype, buffer=nl.shared_hbm)
    product = nl.matmul(nl.load(lhsT)[...], nl.load(rhs)[...], transpose_x=True)
    nl.store(out, value=product)
    return out
"""


def test_views_that_no_record_holds_are_run_directly() -> None:
    inputs = (input_of("lhsT=128x128"), input_of("rhs=128x512"))
    result = run_simulation(SimulateRequest(source=BETA1, inputs=inputs))
    assert result.ok, result.findings
    assert result.outputs == ("128x512 float32",)


FULL = """
import nki
import nki.isa as nisa
import nki.language as nl


@nki.jit
def kernel(x):
    out = nl.ndarray((128, 16), dtype=nl.float32, buffer=nl.shared_hbm)
    tiles = [nl.ndarray((128, 16384), dtype=nl.float32, buffer=nl.sbuf) for _ in range(8)]
    for tile in tiles:
        nisa.dma_copy(dst=tile, src=x)
    for i in range(8):
        nisa.dma_copy(dst=out[:, 2 * i:2 * i + 2], src=tiles[i][:, :2])
    return out
"""


def test_more_than_the_memory_holds_is_found_without_a_reference() -> None:
    result = run_simulation(asked(FULL, "x=128x16384"))
    assert any("capacity" in str(finding).lower() or "CAPACITY" in finding.code for finding in result.findings)


@pytest.mark.parametrize(
    ("source", "reference", "said"),
    [
        (DOUBLE, None, "kernel ran; it was not compared, because no reference is given"),
        (DOUBLE, TWICE, "kernel agrees with the reference"),
        (DOUBLE.replace("2.0", "3.0"), TWICE, "kernel does not agree with the reference"),
        (DOUBLE + "(", TWICE, "kernel was refused, so it was not judged against the reference"),
        (DOUBLE + "(", None, "kernel did not run to its end"),
    ],
)
def test_the_headline_says_how_far_the_kernel_came(
    source: str, reference: str | None, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    fields = {} if reference is None else {"reference_source": reference, "reference_function": "twice"}
    request = asked(source, **fields)
    show_simulation(Console(width=200), request, run_simulation(request))
    out = capsys.readouterr().out
    assert out.startswith(f"{said}\n")
    assert ("--locate" in out) == ("does not agree" in said)


def test_inputs_of_another_form_are_shown_the_right_one(tmp_path: Path) -> None:
    with TestClient(build_app(Settings(home=tmp_path))) as client:
        answer = client.post("/v1/simulate", json={"source": "x", "inputs": {"x": "128x256"}})
    assert answer.status_code == 422
    assert '[{"name": "x", "shape": [512, 1024], "dtype": "bfloat16"}]' in answer.json()["detail"]
