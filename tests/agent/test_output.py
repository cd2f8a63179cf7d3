"""Files of a run: whole, and never at the cost of earlier ones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from rich.console import Console

from agent.output import prepare, save
from agent.render import show_report
from agent.report import Report, build_report
from agent.settings import Settings, SettingsError, load_settings
from agent.state import Candidate, RunRequest, RunState, StopReason
from tests.agent.doubles import judge, kernel, make_task


def report(latency: float | None) -> Report:
    task = make_task()
    made = kernel(latency)
    candidate = Candidate(number=1, kernel=made, change="first", evaluation=judge(made, task))
    state = RunState(run_id="r", request=RunRequest(request="double x"), task=task, candidates=[candidate])
    return build_report(state, StopReason.EXHAUSTED)


def test_kernel_and_report_are_written(tmp_path: Path) -> None:
    paths = save(report(100.0), tmp_path / "new" / "out")
    assert [path.name for path in paths] == ["kernel.py", "report.json"]
    assert paths[0].read_text() == kernel(100.0).source
    assert json.loads(paths[1].read_text())["latency_us"] == 100.0
    assert {path.name for path in paths[0].parent.iterdir()} == {"kernel.py", "report.json"}


def test_earlier_files_are_kept(tmp_path: Path) -> None:
    save(report(100.0), tmp_path)
    save(report(100.0), tmp_path)
    assert len(list(tmp_path.iterdir())) == 2, "the same result is not kept twice"
    save(report(90.0), tmp_path)
    save(report(80.0), tmp_path)
    assert (tmp_path / "kernel.py").read_text() == kernel(80.0).source
    assert (tmp_path / "kernel.1.py").read_text() == kernel(100.0).source
    assert (tmp_path / "kernel.2.py").read_text() == kernel(90.0).source
    assert json.loads((tmp_path / "report.2.json").read_text())["latency_us"] == 90.0


def test_a_wrong_kernel_does_not_take_the_place_of_a_right_one(tmp_path: Path) -> None:
    save(report(100.0), tmp_path)
    save(report(None), tmp_path)
    assert (tmp_path / "kernel.py").read_text() == kernel(100.0).source
    assert (tmp_path / "attempt.py").read_text() == kernel(None).source
    assert json.loads((tmp_path / "report.json").read_text())["correct"] is False


def test_a_folder_that_cannot_be_written_is_told_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingsError, match="choose another folder"):
        prepare(tmp_path / "file")


def test_settings_faults_name_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KERNELWRIGHT_PARALLEL_RUNS", "none")
    with pytest.raises(SettingsError, match="KERNELWRIGHT_PARALLEL_RUNS"):
        load_settings()


def test_own_variables_come_before_the_vendors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "theirs")
    monkeypatch.setenv("KERNELWRIGHT_OPENAI_API_KEY", "ours")
    key = Settings().openai_api_key
    assert key is not None
    assert key.get_secret_value() == "ours"
    assert "ours" not in repr(Settings())


def test_one_attempt_is_not_attempts(capsys: pytest.CaptureFixture[str]) -> None:
    show_report(Console(width=120), report(100.0).model_copy(update={"attempts": 1}))
    assert " 1 attempt, " in capsys.readouterr().out


def test_a_derived_reference_is_shown_and_a_given_one_is_not(capsys: pytest.CaptureFixture[str]) -> None:
    source = "import numpy as np\n\n\ndef reference(x):\n    return x + x\n"
    made = report(100.0).model_copy(update={"reference": source, "reference_origin": "words"})
    show_report(Console(width=120), made)
    assert "Reference, as the request was understood\ndef reference(x):\n    return x + x\n" in capsys.readouterr().out
    show_report(Console(width=120), made.model_copy(update={"reference_origin": "file"}))
    assert "def reference(x)" not in capsys.readouterr().out
