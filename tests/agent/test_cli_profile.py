"""`kernelwright profile`: what it prints and writes, and how it refuses."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.cli import main
from tests.agent.test_simulation import DOUBLE, TWICE

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    """Run `kernelwright profile` in a folder that holds double.py and twice.py; (status, out, err)."""
    (tmp_path / "double.py").write_text(DOUBLE)
    (tmp_path / "twice.py").write_text(TWICE)
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["kernelwright", "profile", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        assert isinstance(ended.value.code, int)
        return ended.value.code, out, err

    return call


INPUT = ("--input", "x=128x512:float32")


def test_it_says_where_the_time_goes(run: Run) -> None:
    status, out, _ = run("double.py:kernel", *INPUT)
    assert status == 0
    assert "double.py:kernel:" in out
    assert "us simulated on trn2" in out
    assert "nisa.tensor_scalar(dst=doubled" in out
    assert "Findings" in out


TILED = """
import nki
import nki.isa as nisa
import nki.language as nl


@nki.jit
def kernel(x):
    out = nl.ndarray(x.shape, dtype=x.dtype, buffer=nl.shared_hbm)
    for i in nl.affine_range(x.shape[0] // 128):
        tile = nl.ndarray((128, x.shape[1]), dtype=x.dtype, buffer=nl.sbuf)
        nisa.dma_copy(dst=tile, src=x[i * 128:(i + 1) * 128, :])
        nisa.tensor_scalar(dst=tile, data=tile, op0=nl.multiply, operand0=2.0)
        nisa.dma_copy(dst=out[i * 128:(i + 1) * 128, :], src=tile)
    return out
"""


def test_time_is_shown_by_loop(run: Run) -> None:
    Path("tiled.py").write_text(TILED)
    status, out, _ = run("tiled.py", "--input", "x=640x512:float32")
    assert status == 0
    (line,) = [line for line in out.splitlines() if line.endswith("for i in nl.affine_range(x.shape[0] // 128)")]
    assert line.split()[0] == "10"
    assert line.split("  for")[0].split()[-3:] == ["5", "2.5", "MiB"]
    _, out, _ = run("tiled.py", "--input", "x=640x512:float32", "--json")
    (loop,) = json.loads(out)["profile"]["loops"]
    assert (loop["first_line"], loop["last_line"], loop["iterations"]) == (10, 14, 5)
    assert set(loop["engines"]) == {"DMA", "Vector"}
    _, out, _ = run("tiled.py", "--input", "x=640x512:float32", "--sql", "SELECT iterations FROM sourceloop", "--json")
    assert json.loads(out) == [{"iterations": 5}]


def test_unwritten_memory_that_is_read_is_named(run: Run) -> None:
    Path("unset.py").write_text(DOUBLE.replace("    nisa.dma_copy(dst=tile, src=x)\n", ""))
    status, out, _ = run("unset.py", *INPUT)
    assert status == 0
    assert "warning KW-UNINITIALISED" in out
    _, out, _ = run("unset.py", *INPUT, "--json")
    (finding,) = json.loads(out)["findings"]
    assert finding["source"].startswith("nisa.tensor_scalar(dst=doubled, data=tile")
    _, out, _ = run("double.py", *INPUT, "--json")
    assert json.loads(out)["findings"] == []


def test_a_place_that_cant_be_written_is_refused_before_any_work(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tools.profiled.profile_kernel", lambda *a, **k: pytest.fail("the kernel was profiled"))
    status, out, err = run("double.py", *INPUT, "--html", "no/such/folder/r.html")
    assert (status, out) == (2, "")
    assert "can't write no/such/folder/r.html" in err


def test_json_is_alone_on_standard_output(run: Run) -> None:
    status, out, _ = run("double.py", *INPUT, "--json", "--html", "r.html", "--explain", "Vector", "--what-if")
    found = json.loads(out)
    assert status == 0
    assert found["explanation"]["engine"] == "Vector"
    assert [g["target"] for g in found["generations"]] == ["trn1", "trn2", "trn3"]
    assert Path("r.html").read_text().startswith("<!doctype html>")


def test_a_question_in_words_is_answered(run: Run) -> None:
    status, out, _ = run("double.py", *INPUT, "--explain", "what keeps the Vector Engine busy?")
    assert status == 0
    assert "The Vector Engine is busy" in out
    _, out, _ = run("double.py", *INPUT, "--explain", "what would bf16 gain?", "--json")
    assert "in bfloat16 instead of float32" in json.loads(out)["answer"]


@pytest.mark.parametrize("width", [60, 80, 120])
def test_nothing_is_wider_than_the_terminal(run: Run, monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    Path("tiled.py").write_text(TILED)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setattr("shutil.get_terminal_size", lambda *a: os.terminal_size((width, 24)))
    for arguments in ((), ("--explain", "Vector", "--what-if"), ("--sql", "SELECT * FROM Instruction LIMIT 2")):
        status, out, _ = run("tiled.py", "--input", "x=640x512:float32", *arguments)
        assert status == 0
        plain = re.sub(r"\x1b\[[0-9;]*m", "", out)
        assert max(map(len, plain.splitlines())) <= width


def test_sql_answers_over_the_tables(run: Run) -> None:
    question = "SELECT opcode, count(*) AS n FROM Instruction GROUP BY opcode ORDER BY n DESC, opcode"
    status, out, _ = run("double.py", *INPUT, "--sql", question, "--json")
    assert status == 0
    assert json.loads(out) == [{"opcode": "dma_copy", "n": 2}, {"opcode": "tensor_scalar", "n": 1}]


def test_files_are_written_and_named(run: Run) -> None:
    status, out, _ = run("double.py", *INPUT, "--parquet", "tables", "--perfetto", "t.json")
    assert status == 0
    assert "wrote tables" in out
    assert (Path("tables") / "Instruction.parquet").is_file()
    assert json.loads(Path("t.json").read_text())["traceEvents"]


def test_a_kernel_of_the_library_brings_its_own_inputs(run: Run) -> None:
    status, out, _ = run("row_sum", "--json")
    assert status == 0
    assert json.loads(out)["kernel"] == "row_sum.py:kernel"


def test_the_line_of_an_error_is_located(run: Run) -> None:
    Path("wrong.py").write_text(DOUBLE.replace("operand0=2.0", "operand0=3.0"))
    _, right, _ = run("double.py", *INPUT, "--locate", "--reference", "twice.py:twice", "--json")
    assert json.loads(right)["location"]["verdict"] == "agrees"
    status, out, _ = run("wrong.py", *INPUT, "--locate", "--reference", "twice.py:twice", "--json")
    assert status == 0
    location = json.loads(out)["location"]
    assert location["verdict"] == "logic"
    assert location["pattern"].startswith("output 0:")


def test_precision_names_lossy_lines(run: Run) -> None:
    status, out, _ = run("double.py", "--input", "x=128x512:bfloat16", "--precision", "--json")
    assert status == 0
    assert json.loads(out)["precision"]["lines"][0]["dtype"] == "bfloat16"


NO_STORE = DOUBLE.replace("nisa.dma_copy(dst=out, src=doubled)", "pass")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("double.py",), "give the kernel's inputs"),
        (("nothing.py:f", *INPUT), "can't read nothing.py"),
        (("nothing",), "the library has no kernel"),
        (("double.py:absent", *INPUT), "absent"),
        (("double.py", "--input", "x"), "isn't understood"),
        (("double.py", "--input", "x=300x4:float32"), "KW-"),
        (("double.py", *INPUT, "--target", "tpu"), "use trn1, trn2, trn3"),
        (("double.py", *INPUT, "--explain", "Texture"), "can't tell what is asked"),
        (("double.py", *INPUT, "--locate"), "give --reference"),
        (("double.py", *INPUT, "--reference", "double.py:f"), "--reference is compared only by --locate"),
        (("double.py", *INPUT, "--sql", "SELECT 1", "--what-if"), "ask for --what-if in another call"),
        (("double.py", *INPUT, "--explain", "why is the sky blue?"), "can't tell what is asked"),
        (("double.py", *INPUT, "--sql", "SELEC 1"), "the SQL is wrong"),
        (("double.py", *INPUT, "--sql", "COPY Summary TO 'x.csv'"), "only SELECT is allowed"),
        (("double.py", *INPUT, "--sql", "SELECT * FROM read_csv('twice.py')"), "and no file"),
        (("double.py", *INPUT, "--sql", "SELECT getenv('HOME')"), "getenv does not exist"),
        (("double.py", *INPUT, "--sql", "SELECT nothing FROM Instruction"), "nothing"),
        (("double.py", *INPUT, "--html", "/dev/null"), "isn't a file"),
        (("store.py", *INPUT, "--html", "r.html"), "stores nothing"),
        (("double.py", *INPUT, "--html", "no/such/folder/r.html"), "can't write"),
        (("double.py", *INPUT, "--html", "."), "it is a folder"),
        (("double.py", *INPUT, "--perfetto", "no/t.json", "--json"), "can't write"),
        (("double.py", *INPUT, "--parquet", "double.py"), "it is a file"),
        (("two.py", *INPUT), "two.py holds 2 kernels (a, b)"),
    ],
)
def test_bad_input_is_one_sentence_status_2_and_no_file(run: Run, arguments: tuple[str, ...], words: str) -> None:
    Path("store.py").write_text(NO_STORE)
    Path("two.py").write_text("def a(x):\n    return x\n\n\ndef b(x):\n    return x\n")
    before = set(Path().iterdir())
    status, _, err = run(*arguments)
    assert status == 2
    assert words in err
    assert len(err.strip().splitlines()) == 1
    assert set(Path().iterdir()) == before
