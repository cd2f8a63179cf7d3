"""The offline policy on the real generator, judge and simulator: requests in, correct kernels or one sentence out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from agent.cli import main

REFERENCES = """
import numpy as np


def swish(x, b):
    y = x + b
    return y / (1.0 + np.exp(-y))


def raises(x):
    return x.nothing()


def gives_nan(x):
    return np.log(-np.abs(x) - 1.0)


def sorts(x):
    return np.sort(x, axis=-1)


def imports_os(x):
    import os

    return x * len(os.environ)


def zero(x):
    return x * 0.0
"""


@pytest.fixture
def references(tmp_path: Path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(REFERENCES)
    return path


def command(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr("sys.argv", ["kernelwright", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    assert isinstance(ended.value.code, int)
    return ended.value.code


def test_words_to_a_correct_kernel(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    words = "layernorm of x 200x96, float32, trn2, reach 1% of roofline"
    assert command(monkeypatch, "write", words, "--json", "--out", str(out)) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["correct"]
    assert report["goal_met"]
    assert report["policy"] == "offline"
    assert report["goal"] == "roofline>=0.01"
    assert len(report["trials"]) >= 2
    assert "nki" in (out / "kernel.py").read_text()
    # What was written is what was judged: it can be simulated again, with the same time.
    status = command(monkeypatch, "simulate", f"{out / 'kernel.py'}:kernel", "--json", *_inputs(report))
    assert status == 0
    again = json.loads(capsys.readouterr().out)
    assert again["performance"]["latency_us"] == pytest.approx(report["latency_us"])


def _inputs(report: dict[str, object]) -> list[str]:
    flags: list[str] = []
    for spec in report["inputs"]:  # type: ignore[attr-defined]
        flags += ["--input", f"{spec['name']}={'x'.join(map(str, spec['shape']))}:{spec['dtype']}"]
    return flags


def test_a_reference_to_a_correct_kernel(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], references: Path
) -> None:
    words = "x 150x80, b 150x80, bfloat16, trn3"
    status = command(monkeypatch, "write", words, "--reference", f"{references}:swish", "--goal", "correct", "--json")
    report = json.loads(capsys.readouterr().out)
    assert status == 0
    assert report["correct"]
    assert report["target"] == "trn3"
    assert [spec["dtype"] for spec in report["inputs"]] == ["bfloat16", "bfloat16"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["hello there"], "names no operation"),
        (["softmax"], "no shape"),
        (["matmul, a 128x256 by b 512x64, float32"], "contradict"),
        (["softmax, x 512x1024, float32, trn9"], "unknown target 'trn9'"),
    ],
)
def test_words_that_make_no_task(
    arguments: list[str], words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(monkeypatch, "write", *arguments) == 2
    out, err = capsys.readouterr()
    assert words in err
    assert len(err.strip().splitlines()) == 1
    assert out == ""


@pytest.mark.parametrize(
    ("function", "words"),
    [
        ("raises", "the reference fails"),
        ("gives_nan", "NaN"),
        ("imports_os", "imports 'os'"),
        ("zero", "constant"),
        ("sorts", "--policy openai"),
        ("missing", "no function 'missing'"),
    ],
)
def test_references_that_make_no_task(
    function: str,
    words: str,
    references: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert command(monkeypatch, "write", "x 256x128", "--reference", f"{references}:{function}") == 2
    err = capsys.readouterr().err.strip().splitlines()
    assert words in err[-1]
    assert err[-1].count("this is beyond the offline policy") <= 1


def test_a_chat_over_a_pipe(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    lines = iter(
        [
            "softmax, x 128x64, float32, trn2, reach 1% of roofline",
            "now for trn3",
            "why is it slow?",
            "show kernel",
            f"save {tmp_path / 'kept'}",
            "quit",
        ]
    )
    monkeypatch.setattr("builtins.input", lambda prompt="": next(lines))
    assert command(monkeypatch, "chat") == 0
    out = capsys.readouterr().out
    assert "simulated on trn2" in out
    assert "simulated on trn3" in out
    assert "the bottleneck is" in out
    assert "def kernel(x):" in out
    assert json.loads((tmp_path / "kept" / "report.json").read_text())["target"] == "trn3"
