"""The command line's refusals: one sentence on standard error, status 2."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from agent.cli import main
from tools.task import Finding

KERNELS = Path(__file__).resolve().parents[2] / "kernels"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["write"], "the request is empty"),
        (["write", "double x", "--target", "tpu"], "use 'trn1', 'trn2' or 'trn3'"),
        (["write", "double x", "--goal", "quick"], "latency<=120us"),
        (["write", "double x", "--reference", "nothing.py"], "file.py:function"),
        (["write", "double x", "--reference", "nothing.py:f"], "can't read nothing.py"),
        (["write", "double x", "--attempts", "0"], "attempts"),
        (["write", "double x", "--out", "/proc/nothing"], "can't write into /proc/nothing"),
        (["resume", "nothing"], "there is no run 'nothing'"),
        (["show", "nothing"], "there is no run 'nothing'"),
        (["conjure"], "conjure"),
        (
            ["simulate", f"{KERNELS}/add/kernel.py:absent", "--input", "x=128x4"],
            "there is no function 'absent'; the source has",
        ),
        (["library", "nothing"], "the library has no kernel"),
    ],
)
def test_bad_input_is_one_sentence_and_status_2(
    arguments: list[str], words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["kernelwright", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    out, err = capsys.readouterr()
    assert ended.value.code == 2
    assert words in err
    assert len(err.strip().splitlines()) == 1
    assert out == ""


def test_runs_in_a_pipe_keep_their_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("KERNELWRIGHT_HOME", str(tmp_path))
    words = "matmul x 128x256 by w 512x128, " + "please, " * 40
    monkeypatch.setattr("sys.argv", ["kernelwright", "write", words])
    with pytest.raises(SystemExit):
        main()
    assert "inner sizes 256 and 512" in capsys.readouterr().err
    monkeypatch.setattr("sys.argv", ["kernelwright", "runs"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0
    line = capsys.readouterr().out.splitlines()[1]
    assert re.match(r" \d{4}-[0-9a-f]{6}  \d\d \w{3} \d\d:\d\d  refused ", line)
    assert "matmul x 128x256 by w 512x128" in line


def test_a_finding_of_lint_names_its_line_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "k.py").write_text("import nki\nimport os\n")
    monkeypatch.setattr("sys.argv", ["kernelwright", "lint", str(tmp_path / "k.py")])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 1
    assert capsys.readouterr().out.startswith(f"{tmp_path}/k.py:2:1: error KW-IMPORT")


def test_findings_of_lint_as_json_name_the_file_that_was_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "k.py").write_text("import nki\nimport os\n")
    monkeypatch.setattr("sys.argv", ["kernelwright", "lint", str(tmp_path / "k.py"), "--json"])
    with pytest.raises(SystemExit):
        main()
    (finding,) = json.loads(capsys.readouterr().out)
    assert (finding["file"], finding["line"], finding["code"]) == (str(tmp_path / "k.py"), 2, "KW-IMPORT")


def test_a_message_and_its_fix_are_two_sentences() -> None:
    assert str(Finding(code="KW-X", message="it is so", fix="do this")) == "error KW-X: it is so. Fix: do this"
    assert str(Finding(code="KW-X", message="Is it?", fix="do this")) == "error KW-X: Is it? Fix: do this"
