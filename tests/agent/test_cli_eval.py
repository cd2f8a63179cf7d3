"""`kernelwright eval` hands everything to the eval plug-in and keeps its exit status."""

from __future__ import annotations

import pytest

from agent.cli import app


def run(*words: str) -> int:
    import typer.main

    status = typer.main.get_command(app).main(args=["eval", *words], prog_name="kernelwright", standalone_mode=False)
    assert isinstance(status, int)
    return status


def test_suites_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("list") == 0
    assert "smoke" in capsys.readouterr().out


def test_an_unknown_suite_is_one_sentence_and_status_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("run", "nosuch") == 2
    assert "there is no suite 'nosuch'" in capsys.readouterr().err
