"""Answers about a run from its own figures: bottleneck, lines, changes, evidence. No model needed."""

from __future__ import annotations

import re
from collections.abc import Callable

from agent.state import Candidate, RunState, goal_status
from tools.task import EngineTime, Kernel, Performance, Task
from tools.task_errors import RequestError

_ENGINES = {
    "vector": ("vector", "dve"),
    "scalar": ("scalar", "activation engine"),
    "tensor": ("tensor", "pe array", "systolic"),
    "gpsimd": ("gpsimd", "pool"),
    "dma": ("dma", "memory traffic", "hbm", "bandwidth"),
}

_DOES = {
    "vector": "element-wise operations, reductions and copies out of PSUM",
    "scalar": "functions such as exp and rsqrt, with their scale and bias, and copies",
    "tensor": "matmuls and transposes",
    "gpsimd": "work across partitions, iota and selections",
    "dma": "loads and stores between HBM and SBUF",
}


_TIMELINE = re.compile(
    r"\bidl|\bwait|\bstall|\bstarv|\bgap\b|\bgain|\bwhat if\b|\bwould\b|critical path|late\b|longest|reload|spill|\bbytes\b|\btrn ?[123]\b"
)
"""Questions that the summary can't answer and the timeline can."""

_BUSY = 0.6
"""Share of the launch above which an engine, not waiting, is what bounds a kernel."""


Ask = Callable[[Kernel, Task, str], str]


def answer_from_profile(question: str, state: RunState, ask: Ask | None = None) -> str:
    """Answer a question about the best kernel from its profile.

    Args:
        question: in words; engines, lines, changes, correctness, roofline and goal are understood.
        state: the run.
        ask: answers from the kernel's timeline (why something waits, what a change would gain); None: not at hand.

    Returns:
        A few sentences; says so when the question isn't one that the figures answer.
    """
    best = state.best or state.last
    if best is None or best.evaluation is None or state.task is None:
        return "There is no judged kernel yet; describe one first, e.g. 'softmax, x 512x1024, float32, trn2'."
    words = question.lower()
    performance = best.evaluation.performance
    if re.search(r"\b(correct|error|accura|tolerance|tested|trust|verif|confiden|sure|right|wrong|reliab)", words):
        return _evidence(state, best)
    if performance is None:
        return f"Candidate {best.number} was not timed, so there is no profile to answer from."
    if re.search(r"\b(chang|history|attempt|tried|what did you|got it|faster than before|speed-?up)", words):
        return _changes(state)
    if ask is not None and _TIMELINE.search(words):
        try:
            return ask(best.kernel, state.task, question)
        except RequestError:
            pass  # not a question about the timeline after all
    if named := re.search(r"\blines? (\d+)", words):
        return _line(int(named[1]), best, performance)
    if re.search(r"\b(line|hot|where|slowest)", words):
        return _hot_lines(best, performance)
    if re.search(r"\b(goal|how far|reach)", words):
        return f"{goal_status(state.task, state.candidates).text}. {_bound(performance)}"
    asked = [engine for engine, names in _ENGINES.items() if any(name in words for name in names)]
    if asked:
        return "\n".join(_engine(engine, best, performance) for engine in asked)
    if re.search(r"\b(bottleneck|bound|slow|why|limit|roofline|latency|engine|profile|improve|fast)", words):
        return "\n".join([_bound(performance), _shares(performance), *_notes(performance)])
    return (
        "That isn't something the offline policy can answer. Ask about the bottleneck, an engine, hot lines, the goal, "
        "the changes or the correctness of the kernel, or ask for a change, e.g. 'now for trn3'."
    )


def _find(engine: str, performance: Performance) -> EngineTime | None:
    return next((e for e in performance.engines if engine in e.engine.lower().replace("q", "")), None)


def _engine(engine: str, best: Candidate, performance: Performance) -> str:
    entry = _find(engine, performance)
    if entry is None or entry.instructions == 0:
        return f"The {engine} engine does nothing in this kernel, so it isn't the bottleneck."
    is_it = engine in performance.bottleneck.lower()
    lead = "is the bottleneck" if is_it else f"is not the bottleneck; {performance.bottleneck} is"
    average = entry.busy_us * 1000 / entry.instructions
    lines = [
        f"{entry.engine} {lead}. It is busy {entry.busy_us:.2f} of {performance.latency_us:.2f} us simulated "
        f"({entry.share:.0%}) with {entry.instructions} instructions of {average:.0f} ns on average. "
        f"It does the {_DOES[engine]}."
    ]
    if is_it and entry.share < _BUSY:
        lines.append(
            f"But with {entry.share:.0%} it isn't what the time is spent on: the engines mostly wait for each other and for "
            "DMA, and this one merely waits least."
        )
    others = [e for e in performance.engines if e.engine != entry.engine and e.instructions]
    if is_it and others:
        second = max(others, key=lambda e: e.busy_us)
        ceiling = entry.busy_us / second.busy_us if second.busy_us else 0.0
        lines.append(
            f"The next busiest is {second.engine} with {second.busy_us:.2f} us, so relieving {entry.engine} alone "
            f"could gain at most {ceiling:.2f}x before that one binds."
        )
    if is_it:
        lines.append(_hot_lines(best, performance))
        lines += _notes(performance)
    return "\n".join(lines)


def _bound(performance: Performance) -> str:
    return (
        f"The kernel takes {performance.latency_us:.2f} us simulated; the roofline of the task is "
        f"{performance.roofline_us:.2f} us ({performance.roofline_fraction:.1%} reached). It is {performance.bound} "
        f"bound; the bottleneck is {performance.bottleneck}."
    )


def _shares(performance: Performance) -> str:
    busy = sorted((e for e in performance.engines if e.instructions), key=lambda e: -e.share)
    return "Busy: " + ", ".join(f"{e.engine} {e.share:.0%}" for e in busy) + "."


def _notes(performance: Performance) -> list[str]:
    return [f"- {note}" for note in performance.notes]


def _hot_lines(best: Candidate, performance: Performance) -> str:
    if not performance.hot_lines:
        return "The profile names no lines."
    source = best.kernel.source.splitlines()
    rows = [
        f"  line {line}: {us:.2f} us of engine time  {source[line - 1].strip() if 0 < line <= len(source) else ''}"
        for line, us in performance.hot_lines[:5]
    ]
    return "Most time of all engines together goes to:\n" + "\n".join(rows)


def _line(number: int, best: Candidate, performance: Performance) -> str:
    source = best.kernel.source.splitlines()
    if not 0 < number <= len(source):
        return f"The kernel has {len(source)} lines, so there is no line {number}."
    spent = dict(performance.hot_lines).get(number)
    time = f"{spent:.2f} us of engine time" if spent is not None else "not among the lines that take most of the time"
    return f"Line {number}, {time}: {source[number - 1].strip() or '(empty)'}"


def _changes(state: RunState) -> str:
    rows = []
    for candidate in state.candidates:
        if candidate.evaluation is None:
            continue
        result = f"{candidate.latency_us:.2f} us" if candidate.correct and candidate.latency_us else "not correct"
        mark = " (best)" if state.best is not None and candidate.number == state.best.number else ""
        rows.append(f"  {candidate.number}. {candidate.change.rstrip('.')}: {result}{mark}")
    return "What was tried:\n" + "\n".join(rows)


def _evidence(state: RunState, best: Candidate) -> str:
    evaluation = best.evaluation
    assert evaluation is not None, "asked only about judged kernels"
    assert state.task is not None, "asked only about runs with a task"
    if not evaluation.correct:
        return f"Candidate {best.number} is not correct: {evaluation.first_problem or evaluation.failure}"
    rows = [
        f"  {trial.seed_label}: max relative error {trial.max_rel_error:.2e}, relative L2 {trial.rel_l2:.2e}"
        for trial in evaluation.trials
    ]
    tolerance = state.task.tolerance
    return (
        f"Candidate {best.number} agrees with the reference on {len(rows)} hidden draws "
        f"(rtol {tolerance.rtol:g}, atol {tolerance.atol:g}: {tolerance.reason}):\n" + "\n".join(rows)
    )
