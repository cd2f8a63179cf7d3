"""Suites, scoring, baselines, and a small suite run through the real agent."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from agent.events import RunFailed, RunRefused
from agent.settings import load_settings
from evals import cli
from evals.baseline import baseline_path, compare_results
from evals.result import Result, append_result, read_results
from evals.runner import run_suite, score
from evals.scores import SCORERS, summarise
from evals.suite import Suite, load_suite, suites
from tools.generate.specify import parse_request
from tools.task_errors import RequestError

SMALL = """
name = "small"
description = "Three requests that take a second each."
budget = { attempts = 2, seconds = 60 }

[[problems]]
id = "add"
request = "add a and b, 128x64, float32"

[[problems]]
id = "too-fast"
request = "add a and b, 128x64, float32, latency under 0.01 us"

[[problems]]
id = "square"
request = "x 64x64, float32"
reference = "square.py:square"

[[problems]]
id = "nonsense"
request = "make me happy"
expect = "refused"

[[problems]]
id = "wrongly-expected"
request = "make me happy"
"""


@pytest.fixture
def small(tmp_path: Path) -> Path:
    (tmp_path / "square.py").write_text("import numpy as np\n\ndef square(x):\n    return np.exp(x) * x\n")
    path = tmp_path / "small.toml"
    path.write_text(SMALL)
    return path


def result(problem: str, **more: object) -> Result:
    base = {
        "suite": "s", "problem": problem, "request": "r", "policy": "offline", "outcome": "solved", "solved": True, "correct": True,
        "latency_us": 10.0, "roofline_fraction": 0.5, "model_version": "1.0", "target": "trn2", "task_digest": "t", "attempts": 2,
    }  # fmt: skip
    return Result.model_validate({**base, **more})


def test_a_suite_runs_through_the_agent(small: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    settings = load_settings().model_copy(update={"home": home})
    found = {r.problem: r for r in run_suite(load_suite(str(small)), settings, policy="offline", jobs=2)}
    assert {name: r.outcome for name, r in found.items()} == {
        "add": "solved",
        "too-fast": "missed",
        "square": "solved",
        "nonsense": "refused",
        "wrongly-expected": "unanswered",
    }
    assert found["add"].trials >= 2
    assert found["add"].latency_us
    assert found["add"].kernel_digest
    assert found["too-fast"].correct
    assert not found["too-fast"].solved
    assert found["nonsense"].solved
    assert not home.exists()  # nothing among the user's own runs


def test_the_command_prints_a_table_writes_lines_and_tells_by_its_status(small: Path, tmp_path: Path) -> None:
    out = tmp_path / "results"
    console = Console(record=True, width=100, file=open("/dev/null", "w"))  # noqa: SIM115, PTH123
    status = cli.run(str(small), policy="offline", out=out, only=["add", "nonsense"], console=console)
    text = console.export_text()
    assert status == 0
    assert "2 of 2 solved" in text
    assert "roofline" in text
    rows = [json.loads(line) for line in (out / "small.jsonl").read_text().splitlines()]
    assert [r["problem"] for r in rows] == ["add", "nonsense"]
    with pytest.raises(RequestError, match="exists already"):
        cli.run(str(small), policy="offline", out=out)
    missed = cli.run(str(small), policy="offline", only=["too-fast"], console=console, baseline=out / "small.jsonl")
    assert missed == 1
    assert "new" in console.export_text()


def test_operators_mistakes_are_one_sentence_and_status_2(small: Path, tmp_path: Path) -> None:
    runner = CliRunner()
    for arguments, says in (
        (["run", "no-such-suite"], "smoke"),
        (["run", str(small), "--only", "nothing"], "no problem 'nothing'"),
        (["run", str(small), "--policy", "telepathy"], "policy"),
        (["run", str(small), "--policy", "openai"], "OPENAI_API_KEY"),
        (["compare", str(tmp_path / "a"), str(tmp_path / "b")], "doesn't exist"),
    ):
        ran = runner.invoke(cli.app, arguments)
        assert ran.exit_code == 2, (arguments, ran.output)
        assert says in ran.stderr
        assert ran.stderr.count("\n") == 1


def test_shipped_suites_are_well_formed_and_large_enough() -> None:
    assert "smoke" in suites()
    smoke = load_suite("smoke")
    assert len(smoke.problems) >= 12
    for problem in smoke.problems:
        request = smoke.request(problem, "offline")
        if problem.expect == "solved" and not problem.reference:
            assert parse_request(request.request).inputs


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("name = 3", "malformed"),
        ("name =", "no TOML"),
        ('name = "x"\ndescription = "y"\nproblems = []', "malformed"),
        ('name = "x"\ndescription = "y"\n[[problems]]\nid = "a"\n[[problems]]\nid = "a"', "stand twice"),
        ('name = "x"\ndescription = "y"\n[[problems]]\nid = "a"\nwish = 1', "wish"),
    ],
)
def test_a_malformed_suite_is_told_in_a_sentence(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(text)
    with pytest.raises(RequestError, match=says):
        load_suite(str(path))


def test_a_missing_reference_or_an_empty_request_is_told_before_any_work(tmp_path: Path) -> None:
    path = tmp_path / "s.toml"
    for line, says in (
        ('reference = "nowhere.py:f"', "doesn't exist"),
        ('request = ""', "empty"),
        ('goal = "soon"\nrequest = "x"', "goal"),
    ):
        path.write_text(f'name = "x"\ndescription = "y"\n[[problems]]\nid = "a"\n{line}\n')
        with pytest.raises(RequestError, match=says):
            list(run_suite(load_suite(str(path)), load_settings(), policy="offline"))


def test_faults_of_ours_are_neither_solved_nor_refused() -> None:
    suite = Suite.model_validate(
        {"name": "s", "description": "d", "problems": [{"id": "a", "request": "x", "expect": "refused"}]}
    )
    problem = suite.problems[0]
    assert score(suite, problem, "offline", [RunFailed(message="boom")]).outcome == "failed"
    assert score(suite, problem, "offline", []).outcome == "failed"
    assert score(suite, problem, "offline", [RunRefused(message="no", kind="settings")]).outcome == "unanswered"
    assert score(suite, problem, "offline", [RunRefused(message="no", kind="beyond")]).solved


def test_scores_add_up() -> None:
    rows = [
        result("a", roofline_fraction=0.25),
        result("b", roofline_fraction=1.0),
        result("c", outcome="wrong", solved=False, correct=False),
    ]
    found = summarise(rows)
    assert (found.problems, found.solved, found.correct) == (3, 2, 2)
    assert found.roofline_fraction == pytest.approx(0.5)
    assert "2 of 3 solved" in found.sentence
    assert [SCORERS["roofline"](r) for r in rows] == [0.25, 1.0, 0.0]
    assert [SCORERS["solved"](r) for r in rows] == [1, 1, 0]
    assert [SCORERS["correct"](r) for r in rows] == [1, 1, 0]
    assert summarise([]).roofline_fraction is None


def test_comparison_sees_better_worse_new_and_incomparable() -> None:
    then = [result(p) for p in ("same", "faster", "slower", "lost", "model", "task", "gone")]
    now = [
        result("same", latency_us=10.05),
        result("faster", latency_us=8.0),
        result("slower", latency_us=12.0),
        result("lost", solved=False, outcome="missed", message="why"),
        result("model", model_version="2.0", latency_us=1.0),
        result("task", task_digest="u", latency_us=1.0),
        result("fresh"),
    ]
    assert {c.problem: c.kind for c in compare_results(then, now)} == {
        "same": "same", "faster": "better", "slower": "worse", "lost": "worse", "model": "incomparable", "task": "incomparable",
        "fresh": "new", "gone": "gone",
    }  # fmt: skip


def test_results_survive_the_file_and_the_kept_baseline_is_readable(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "r.jsonl"
    rows = [result("a"), result("b", latency_us=None)]
    for row in rows:
        append_result(path, row)
    assert read_results(path) == rows
    path.write_text("{}\n")
    with pytest.raises(RequestError, match="line 1"):
        read_results(path)
    kept = baseline_path("smoke", "offline")
    assert {r.problem for r in read_results(kept)} == {p.id for p in load_suite("smoke").problems}


def test_compare_command_fails_when_something_got_worse(tmp_path: Path) -> None:
    old, new = tmp_path / "old.jsonl", tmp_path / "new.jsonl"
    append_result(old, result("a"))
    append_result(new, result("a", latency_us=20.0))
    runner = CliRunner()
    assert runner.invoke(cli.app, ["compare", str(old), str(new)]).exit_code == 1
    assert runner.invoke(cli.app, ["compare", str(old), str(old)]).exit_code == 0
