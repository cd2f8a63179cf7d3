"""The command line's refusals: one sentence on standard error, status 2."""

from __future__ import annotations

import pytest

from agent.cli import main


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["write"], "the request is empty"),
        (["write", "double x", "--target", "tpu"], "use 'trn1', 'trn2' or 'trn3'"),
        (["write", "double x", "--goal", "quick"], "latency<=120us"),
        (["write", "double x", "--reference", "nothing.py"], "file.py:function"),
        (["write", "double x", "--reference", "nothing.py:f"], "can't read nothing.py"),
        (["write", "double x", "--attempts", "0"], "attempts"),
        (["write", "double x", "--out", "/proc/nothing"], "can't write into --out"),
        (["resume", "nothing"], "there is no run 'nothing'"),
        (["show", "nothing"], "there is no run 'nothing'"),
        (["conjure"], "conjure"),
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
