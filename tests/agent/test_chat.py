"""A conversation: requests, follow-ups that keep the context, questions, refusals."""

from __future__ import annotations

import io

import pytest

from agent.chat import Conversation, is_question
from agent.desk import Desk
from agent.events import RunFinished, RunRefused
from agent.explain import answer_from_profile
from agent.repl import converse
from agent.specify import grammar_task
from agent.state import RunRequest, RunState
from tests.agent.doubles import ListPolicy
from tools.task import Kernel, Task
from tools.task_errors import RequestError


class GrammarPolicy(ListPolicy):
    """Fixed kernels for what the grammar reads; answers from the profile, as the offline policy does."""

    def specify(self, request: RunRequest, desk: Desk) -> Task:
        return grammar_task(request)

    def answer(self, question: str, state: RunState, desk: Desk) -> str:
        return answer_from_profile(question, state)


@pytest.fixture
def conversation(make_runs) -> Conversation:
    runs = make_runs(GrammarPolicy([100.0, 90.0, 80.0]), polish_attempts=1)
    return Conversation(runs, RunRequest(request="(chat)"))


def say(conversation: Conversation, text: str) -> list[object]:
    return list(conversation.say(text))


def finished(pieces: list[object]) -> RunFinished:
    assert isinstance(pieces[-1], RunFinished)
    return pieces[-1]


def test_questions_about_waits_and_changes_are_asked_of_the_timeline(make_runs) -> None:
    runs = make_runs(GrammarPolicy([100.0]), polish_attempts=1)
    conversation = Conversation(runs, RunRequest(request="(chat)"))
    say(conversation, "softmax, x 512x1024, float32, trn2")
    state = conversation.state
    assert state is not None

    def ask(kernel: Kernel, task: Task, question: str) -> str:
        if "rain" in question:
            raise RequestError("not understood")
        return f"{task.name}: {question}"

    assert (
        answer_from_profile("why is the Tensor Engine idle?", state, ask)
        == f"{state.task.name}: why is the Tensor Engine idle?"
    )
    assert "can answer" in answer_from_profile("would it rain?", state, ask)
    assert "is the bottleneck" in answer_from_profile("why is the Vector Engine the bottleneck?", state, ask)
    assert "does nothing in this kernel" in answer_from_profile("why is the Tensor Engine idle?", state)


def test_a_follow_up_keeps_the_task(conversation: Conversation) -> None:
    first = finished(say(conversation, "softmax, x 512x1024, float32, trn2")).report
    assert (first.target, first.inputs[0].shape) == ("trn2", (512, 1024))
    second = finished(say(conversation, "now for trn3")).report
    assert (second.target, second.inputs[0].shape) == ("trn3", (512, 1024))
    third = finished(say(conversation, "make it work for 300 rows")).report
    assert (third.target, third.inputs[0].shape) == ("trn3", (300, 1024))
    state = conversation.state
    assert state is not None
    assert [m.text for m in state.messages if m.role == "user"] == [
        "softmax, x 512x1024, float32, trn2", "now for trn3", "make it work for 300 rows",
    ]  # fmt: skip


def test_a_question_is_answered_from_the_profile_and_starts_no_run(conversation: Conversation) -> None:
    say(conversation, "softmax, x 512x1024, float32, trn2")
    run_id = conversation.run_id
    (answer,) = say(conversation, "why is the Vector Engine the bottleneck?")
    assert isinstance(answer, str)
    assert "is the bottleneck" in answer
    assert "81.00 of 90.00 us" in answer
    assert "at most 2.25x" in answer
    assert "line 2: 72.00 us" in answer
    assert conversation.run_id == run_id
    state = conversation.state
    assert state is not None
    assert state.messages[-1].text == answer


@pytest.mark.parametrize(
    ("question", "words"),
    [
        ("is the DMA the bottleneck?", "is not the bottleneck; Vector Engine is"),
        ("what does the tensor engine do?", "does nothing in this kernel"),
        ("which lines are slow?", "def kernel(x):"),
        ("what did you change?", "2. improve 2: 90.00 us (best)"),
        ("is it correct?", "agrees with the reference on 1 hidden draws"),
        ("how far is it from the roofline?", "55.6% reached"),
        ("how confident are you that it is right", "agrees with the reference on 1 hidden draws"),
        ("what does line 2 do", "Line 2, 72.00 us of engine time: def kernel(x):"),
        ("what is in line 99?", "there is no line 99"),
        ("what is the weather?", "isn't something the offline policy can answer"),
    ],
)
def test_questions(conversation: Conversation, question: str, words: str) -> None:
    say(conversation, "softmax, x 512x1024, float32, trn2")
    (answer,) = say(conversation, question)
    assert words in str(answer)


def test_make_it_faster_goes_on_from_what_is_there(conversation: Conversation) -> None:
    assert finished(say(conversation, "softmax, x 512x1024, float32, trn2")).report.latency_us == 90.0
    assert finished(say(conversation, "make it faster")).report.latency_us == 80.0


def test_a_new_request_begins_anew(conversation: Conversation) -> None:
    say(conversation, "softmax, x 512x1024, float32, trn2")
    report = finished(say(conversation, "matmul, a 256x256 by b 256x512, bfloat16, trn2")).report
    assert [spec.shape for spec in report.inputs] == [(256, 256), (256, 512)]


def test_a_refused_line_leaves_the_conversation_where_it_was(conversation: Conversation) -> None:
    (*_, refused) = say(conversation, "please do something nice")
    assert isinstance(refused, RunRefused)
    assert conversation.run_id is None
    say(conversation, "softmax, x 512x1024, float32, trn2")
    run_id = conversation.run_id
    (answer,) = say(conversation, "please do something nice")
    assert isinstance(answer, str)
    assert conversation.run_id == run_id


def test_a_new_request_with_a_fault_is_told(conversation: Conversation) -> None:
    say(conversation, "softmax, x 512x1024, float32, trn2")
    with pytest.raises(RequestError, match="contradict"):
        say(conversation, "matmul, a 128x256 by b 512x64, float32")


def test_a_session_is_gone_on_with(conversation: Conversation) -> None:
    say(conversation, "softmax, x 512x1024, float32, trn2")
    again = Conversation(conversation._runs, RunRequest(request="(chat)"), conversation.run_id)
    report = finished(say(again, "now for trn3")).report
    assert report.inputs[0].shape == (512, 1024)


@pytest.mark.parametrize(
    ("text", "asks"),
    [
        ("why is it slow", True),
        ("what about trn3?", False),
        ("now for trn3?", False),
        ("which engine is busy?", True),
        ("the vector engine?", True),
        ("make it faster", False),
        ("explain the bottleneck", True),
    ],
)
def test_what_is_a_question(text: str, asks: bool) -> None:
    assert is_question(text) is asks


@pytest.mark.parametrize("line", ["show kernel", "show me the kernel", "print the code please", "kernel"])
def test_the_kernel_is_shown(make_runs, line: str, monkeypatch, capsys) -> None:
    runs = make_runs(GrammarPolicy([100.0]), polish_attempts=1)
    monkeypatch.setattr("sys.stdin", io.StringIO(f"softmax, x 512x1024, float32, trn2\n{line}\n"))
    assert converse(Conversation(runs, RunRequest(request="(chat)")), runs) == 0
    assert "def kernel(x):" in capsys.readouterr().out.split(f"> {line}")[1]


@pytest.mark.parametrize("line", ["help", "/help", ":Help"])
def test_help_is_a_command_with_or_without_a_slash(make_runs, line: str, monkeypatch, capsys) -> None:
    runs = make_runs(GrammarPolicy([100.0]), polish_attempts=1)
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{line}\n"))
    assert converse(Conversation(runs, RunRequest(request="(chat)")), runs) == 0
    assert "save FOLDER" in capsys.readouterr().out


def test_the_kernel_is_saved(make_runs, tmp_path, monkeypatch, capsys) -> None:
    runs = make_runs(GrammarPolicy([100.0]), polish_attempts=1)
    monkeypatch.setattr("sys.stdin", io.StringIO(f"softmax, x 512x1024, float32, trn2\nsave it to {tmp_path}/out\n"))
    assert converse(Conversation(runs, RunRequest(request="(chat)")), runs) == 0
    assert (tmp_path / "out" / "kernel.py").read_text().strip()
    assert "saved" in capsys.readouterr().out


@pytest.mark.parametrize("line", ["quit", "/quit", ":q", "Exit"])
def test_ways_to_leave(make_runs, line: str, monkeypatch, capsys) -> None:
    runs = make_runs(GrammarPolicy([100.0]), polish_attempts=1)
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{line}\nsoftmax, x 512x1024, float32, trn2\n"))
    assert converse(Conversation(runs, RunRequest(request="(chat)")), runs) == 0
    assert "softmax" not in capsys.readouterr().out
