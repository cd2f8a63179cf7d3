"""Doubles for tests of the agent: a judge that reads verdicts from comments, a clock that tests turn."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Sequence

from agent.desk import Bench, Desk
from agent.policies.chat_model import Reply, ToolCall
from agent.state import Proposal, RunRequest, RunState
from tools.task import (
    EngineTime,
    Evaluation,
    Finding,
    Goal,
    Kernel,
    Performance,
    Reference,
    Task,
    TensorSpec,
    Tolerance,
    Trial,
)

ROOFLINE_US = 50.0


def make_task(goal: str = "correct", target: str = "trn2") -> Task:
    return Task(
        name="double",
        request="double x",
        reference=Reference(source="def reference(x):\n    return x * 2\n"),
        inputs=(TensorSpec(name="x", shape=(256, 64)),),
        target=target,  # type: ignore[arg-type]
        goal=Goal.parse(goal),
        tolerance=Tolerance(rtol=1e-5, atol=1e-6, rel_l2=1e-5, reason="float32 storage."),
    )


def kernel(latency: float | None, note: str = "") -> Kernel:
    """A kernel whose comment says how the fake judge finds it: a latency in us, or None for wrong."""
    verdict = "wrong" if latency is None else f"latency={latency}"
    return Kernel(source=f"# {verdict} {note}\ndef kernel(x):\n    return x\n")


def judge(candidate: Kernel, task: Task) -> Evaluation:
    """The fake judge: correct with the latency of the kernel's comment, wrong without one."""
    match = re.search(r"latency=([\d.]+)", candidate.source)
    latency = float(match[1]) if match else None
    performance = None
    findings: tuple[Finding, ...] = ()
    if latency is not None:
        performance = Performance(
            latency_us=latency,
            roofline_us=ROOFLINE_US,
            roofline_fraction=ROOFLINE_US / latency,
            bound="memory",
            bottleneck="Vector Engine",
            engines=(
                EngineTime(engine="Vector Engine", busy_us=latency * 0.9, share=0.9, instructions=10),
                EngineTime(engine="DMA", busy_us=latency * 0.4, share=0.4, instructions=4),
            ),
            hbm_read_bytes=65536,
            hbm_write_bytes=65536,
            instructions=14,
            notes=("line 2: many short instructions; use longer rows",),
            hot_lines=((2, latency * 0.8),),
        )
    else:
        findings = (Finding(code="KW-TEST", message="x is not doubled", line=3, fix="multiply by 2"),)
    return Evaluation(
        kernel_digest=candidate.digest,
        task_digest=task.digest,
        model_version="test-1",
        target=task.target,
        correct=latency is not None,
        findings=findings,
        trials=(
            Trial(
                seed_label="draw 1",
                shapes=((256, 64),),
                passed=latency is not None,
                max_abs_error=0.0,
                max_rel_error=1e-7 if latency else 1.0,
                rel_l2=1e-8,
            ),
        ),
        performance=performance,
        failure="" if latency is not None else "wrong",
    )


def fake_bench(evaluate: Callable[[Kernel, Task], Evaluation] = judge) -> Bench:
    return Bench(evaluate=evaluate, check_task=lambda task: None)


class FakeClock:
    """Time that stands still until it is told to go on; sleeping makes it go on."""

    def __init__(self) -> None:
        self._now = 1000.0
        self._lock = threading.Lock()
        self.slept: list[float] = []

    def now(self) -> float:
        with self._lock:
            return self._now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.advance(seconds)

    def advance(self, seconds: float) -> None:
        with self._lock:
            self._now += seconds


Step = float | None | Exception | Callable[[RunState, Desk], Proposal | None]


class ListPolicy:
    """A policy that proposes kernels of the given latencies in order; None is a wrong kernel."""

    name = "list"
    model = ""
    prompts = ""

    def __init__(self, steps: Sequence[Step], task: Task | None = None) -> None:
        self.steps = list(steps)
        self.task = task or make_task()
        self.asked: list[str] = []

    def specify(self, request: RunRequest, desk: Desk) -> Task:
        self.asked.append("specify")
        return self.task

    def draft(self, state: RunState, desk: Desk) -> Proposal | None:
        return self._next("draft", state, desk)

    def debug(self, state: RunState, desk: Desk) -> Proposal | None:
        return self._next("debug", state, desk)

    def improve(self, state: RunState, desk: Desk) -> Proposal | None:
        return self._next("improve", state, desk)

    def answer(self, question: str, state: RunState, desk: Desk) -> str:
        return f"asked: {question}"

    def _next(self, step: str, state: RunState, desk: Desk) -> Proposal | None:
        self.asked.append(step)
        done = len(state.candidates)
        if done >= len(self.steps):
            return None
        latency = self.steps[done]
        if isinstance(latency, Exception):
            raise latency
        if callable(latency):
            return latency(state, desk)
        best = state.best
        return Proposal(
            kernel=kernel(latency, f"number {done + 1}"),
            change=f"{step} {done + 1}",
            parents=(best.number,) if best else (),
        )


def call(name: str, /, **arguments: object) -> Reply:
    """A model's reply that uses one tool."""
    made = ToolCall(id=f"id-{name}", name=name, arguments=json.dumps(arguments))
    return Reply(calls=(made,), stop="tools", input_tokens=100, output_tokens=20)
