"""Prompts: every file has a head, strict variables, and holds words only."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from agent.knowledge import search, search_text
from agent.policies.chat_model import ToolCall
from agent.prompt import FOLDER, load_prompt, prompts_version
from agent.state import Candidate, Message, RunRequest, RunState
from agent.toolbox import EvaluateKernel, Tool, kernel_tools
from tests.agent.doubles import judge, kernel, make_task
from tools.task import Kernel
from tools.task_errors import RequestError

NAMES = sorted(path.stem for path in FOLDER.glob("*.md"))

_RIGHT = Candidate(number=1, kernel=kernel(100.0), change="first", evaluation=judge(kernel(100.0), make_task()))
_WRONG = Candidate(number=2, kernel=kernel(None), change="second", evaluation=judge(kernel(None), make_task()))

VALUES: dict[str, object] = {
    "knowledge": "KNOWLEDGE",
    "task": "TASK",
    "request": "softmax of x",
    "goal": None,
    "target": "trn3",
    "seed": "def kernel(x): ...",
    "messages": [Message(role="user", text="now for trn3")],
    "wrong": "WRONG",
    "best": "BEST",
    "kernel": "KERNEL",
    "history": [_RIGHT, _WRONG],
    "question": "why?",
    "problem": "length",
}


@pytest.mark.parametrize("name", NAMES)
def test_every_prompt_renders_with_exactly_its_variables(name: str) -> None:
    prompt = load_prompt(name)
    assert prompt.purpose
    values = {v: VALUES[v] for v in prompt.variables}
    if name == "task":
        values = {"task": make_task("roofline>=0.5")}
    text = prompt.render(**values)
    assert text.strip()
    assert "{{" not in text
    assert "{%" not in text
    with pytest.raises(ValueError, match="needs"):
        prompt.render(**values, surplus=1)
    if prompt.variables:
        with pytest.raises(ValueError, match="needs"):
            prompt.render()


def test_the_steps_carry_what_they_are_about() -> None:
    debug = load_prompt("debug").render(task="TASK", wrong="WRONG", history=VALUES["history"])
    assert "- 2: second -> line 3: error KW-TEST: x is not doubled" in debug
    improve = load_prompt("improve").render(
        task="TASK", best="BEST", goal="50 %", history=VALUES["history"], messages=[]
    )
    assert "- 1: first -> 100.00 us" in improve
    task = load_prompt("task").render(task=make_task("roofline>=0.5"))
    assert "- x: shape 256 x 64, float32" in task
    assert "roofline>=0.5" in task


def test_the_version_is_one_of_the_words(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    before = prompts_version()
    for path in FOLDER.glob("*.md"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    monkeypatch.setattr("agent.prompt.FOLDER", tmp_path)
    prompts_version.cache_clear()
    assert prompts_version() == before
    (tmp_path / "draft.md").write_text((tmp_path / "draft.md").read_text() + "more\n")
    prompts_version.cache_clear()
    assert prompts_version() != before
    prompts_version.cache_clear()


@pytest.mark.parametrize(
    ("query", "title"),
    [("psum matmul stationary", "Matmul and PSUM"), ("activation bias reduce", "Element-wise and reductions")],
)
def test_search_finds_the_section(query: str, title: str) -> None:
    assert search(query)[0].title == title


def test_a_search_without_a_hit_names_the_sections() -> None:
    assert "Matmul and PSUM" in search_text("zzz")


def test_a_tool_schema_comes_from_its_model() -> None:
    spec = Tool("evaluate_kernel", EvaluateKernel, lambda arguments: "").spec
    assert spec.description.startswith("Judge a kernel")
    assert spec.parameters["required"] == ["source", "change"]
    assert spec.parameters["additionalProperties"] is False


def test_the_tools_of_a_kernel_step(make_runs) -> None:
    state = RunState(run_id="r", request=RunRequest(request="double x"), task=make_task())
    desk = SimpleNamespace(bench=SimpleNamespace(ask=None, locate=None, precision=None))
    names = [spec.name for spec in kernel_tools(state, desk).specs]  # type: ignore[arg-type]
    assert names == [
        "evaluate_kernel", "lint_kernel", "explain_candidate", "search_docs", "library_kernel", "submit_kernel", "give_up",
    ]  # fmt: skip


def test_a_model_may_look_into_its_candidates() -> None:
    state = RunState(run_id="r", request=RunRequest(request="double x"), task=make_task())

    def refuse(kernel: object, task: object) -> str:
        raise RequestError("its instructions depend on data")

    bench = SimpleNamespace(
        ask=lambda kernel, task, question: f"{question}: {kernel.source}", locate=refuse, precision=lambda k, t: t.name
    )
    journal = SimpleNamespace(
        candidates=[Candidate(number=1, kernel=Kernel(source="the source"), change="c")], emit=print
    )
    toolbox = kernel_tools(state, SimpleNamespace(bench=bench, journal=journal))  # type: ignore[arg-type]
    assert [s.name for s in toolbox.specs][3:6] == ["ask_profile", "locate_error", "precision_report"]

    def used(name: str, **arguments: object) -> str:
        return toolbox.use(ToolCall(id="1", name=name, arguments=json.dumps(arguments))).text

    assert used("ask_profile", number=1, question="why?") == "why?: the source"
    assert used("precision_report", number=1) == "double"
    assert used("locate_error", number=1) == "its instructions depend on data"
    assert used("locate_error", number=2) == "there is no candidate 2 in this run"
