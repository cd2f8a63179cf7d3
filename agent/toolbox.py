"""The tools that a model may use while it writes a kernel. Schemas and validation come from the argument models.

A tool never shows hidden inputs, seeds or reference values, and has no way to change task, tolerance or precision.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Annotated, Any, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from agent.desk import Desk
from agent.events import ToolCalled
from agent.faults import fault_text, place_of
from agent.policies.chat_model import ToolCall, ToolResult, ToolSpec
from agent.state import Candidate, Proposal, RunState
from tools.task import Evaluation, Kernel, Task
from tools.task_errors import RequestError

LONGEST_RESULT = 12_000
"""Characters of a tool's answer; a model's context is paid for by the token."""


class Arguments(BaseModel):
    """Base of all tool arguments: unknown names are errors, so that a model's slip is told to it."""

    model_config = ConfigDict(extra="forbid")


A = TypeVar("A", bound=Arguments)


class ToolError(Exception):
    """The tool can't do what the model asked; the text goes back to the model."""


class Tool(Generic[A]):
    """A callable tool with its contract."""

    def __init__(self, name: str, arguments: type[A], run: Callable[[A], str]) -> None:
        self.name = name
        self.arguments = arguments
        self.run = run

    @property
    def spec(self) -> ToolSpec:
        """Name, description and schema, all from the argument model."""
        schema = self.arguments.model_json_schema()
        description = str(schema.pop("description", ""))
        schema.pop("title", None)
        return ToolSpec(name=self.name, description=description, parameters=schema)


class Finish(Exception):
    """The model called a finishing tool; carries its validated arguments."""

    def __init__(self, arguments: Arguments) -> None:
        super().__init__(type(arguments).__name__)
        self.arguments = arguments


class Toolbox:
    """The tools of one step, and the one place where calls are parsed, run and reported."""

    def __init__(self, tools: Iterable[Tool[Any]], finishers: dict[str, type[Arguments]], desk: Desk) -> None:
        self._tools = {tool.name: tool for tool in tools}
        for name, arguments in finishers.items():
            self._tools[name] = Tool(name, arguments, _finish)
        self._desk = desk

    @property
    def specs(self) -> list[ToolSpec]:
        """All tools as the model sees them."""
        return [tool.spec for tool in self._tools.values()]

    def use(self, call: ToolCall) -> ToolResult:
        """Run one call; a slip of the model becomes a result that says what is wrong.

        Raises:
            Finish: the call was a finishing one and its arguments are valid.
            BudgetSpent: the tool needs an attempt and none is left.
        """
        try:
            text = self._run(call)
        except ToolError as error:
            self._desk.journal.emit(ToolCalled(name=call.name[:80], summary=_head(str(error)), ok=False))
            return ToolResult(call_id=call.id, text=str(error), ok=False)
        self._desk.journal.emit(ToolCalled(name=call.name, summary=_head(text), ok=True))
        if len(text) > LONGEST_RESULT:
            text = f"{text[:LONGEST_RESULT]}\n[{len(text) - LONGEST_RESULT} more characters left out]"
        return ToolResult(call_id=call.id, text=text)

    def _run(self, call: ToolCall) -> str:
        tool = self._tools.get(call.name)
        if tool is None:
            raise ToolError(f"there is no tool {call.name!r}; there are {', '.join(self._tools)}")
        try:
            values = json.loads(call.arguments or "{}")
        except json.JSONDecodeError as error:
            raise ToolError(f"the arguments of {call.name} are not JSON: {error}") from error
        try:
            arguments = tool.arguments.model_validate(values)
        except ValidationError as error:
            faults = "; ".join(
                f"{place_of(fault['loc']) or 'arguments'}: {fault_text(fault)}" for fault in error.errors()
            )
            raise ToolError(f"wrong arguments for {call.name}: {faults}") from error
        return tool.run(arguments)


def _finish(arguments: Arguments) -> str:
    raise Finish(arguments)


def _head(text: str) -> str:
    line = text.strip().splitlines()[0] if text.strip() else ""
    return line if len(line) <= 160 else f"{line[:157]}..."


class EvaluateKernel(Arguments):
    """Judge a kernel: lint, run on the simulator, compare with the reference on hidden inputs, time it. Costs one
    attempt of the budget. Returns findings, errors against the reference, latency by engine and profile notes.
    """

    source: Annotated[str, Field(max_length=100_000, description="Complete source of the kernel's module.")]
    function: Annotated[str, Field(description="Name of the kernel function in it.")] = "kernel"
    change: Annotated[str, Field(description="What is new in it and why, in one sentence.")]


class SubmitKernel(Arguments):
    """Hand in the kernel of this step. It is judged next; you get the verdict in the following step."""

    source: Annotated[str, Field(max_length=100_000, description="Complete source of the kernel's module.")]
    function: Annotated[str, Field(description="Name of the kernel function in it.")] = "kernel"
    change: Annotated[str, Field(description="What is new in it and why, in one sentence.")]


class GiveUp(Arguments):
    """Say that you have no further idea worth an attempt."""

    reason: Annotated[str, Field(description="Why, in one sentence.")]


class LintKernel(Arguments):
    """Check a kernel without running it: dialect, imports, names, limits that can be seen in the source. Free."""

    source: Annotated[str, Field(max_length=100_000, description="Complete source of the kernel's module.")]


class ExplainCandidate(Arguments):
    """Show an earlier candidate of this run: source, verdict, profile."""

    number: Annotated[int, Field(ge=1, description="The candidate's number.")]


class AskProfile(Arguments):
    """Ask the profile of a candidate of this run: why an engine or DMA is idle or busy, what a line waits for, which gap is the
    longest, what moves, or what a change would gain (bf16, loads hoisted, buffers doubled, wider DMAs, a line on another
    engine, no waits, trn1, trn2, trn3). Gains are re-simulated. Free.
    """

    number: Annotated[int, Field(ge=1, description="The candidate's number.")]
    question: Annotated[str, Field(max_length=300, description="E.g. 'why is the Tensor Engine idle?'.")]


class LocateError(Arguments):
    """Find the line at which the result of a wrong candidate leaves the reference's: memory that was never written, NaN or
    infinity, rounding, or the first value that agrees with no step of the reference. Runs on inputs of its own. Free.
    """

    number: Annotated[int, Field(ge=1, description="The candidate's number.")]


class PrecisionReport(Arguments):
    """Say which lines of a candidate lose bits against a float64 shadow, and what float32 there would cost in time. Free."""

    number: Annotated[int, Field(ge=1, description="The candidate's number.")]


class SearchDocs(Arguments):
    """Search the NKI pages for an instruction, a limit or an optimisation."""

    query: Annotated[str, Field(max_length=300, description="A few words.")]


class LibraryKernel(Arguments):
    """Read a verified example kernel. Without a name: the list of examples."""

    name: Annotated[str, Field(description="Name of the example; empty for the list.")] = ""


def kernel_tools(state: RunState, desk: Desk) -> Toolbox:
    """The tools of draft, debug and improve."""
    from agent.knowledge import library_text, search_text

    def evaluate_kernel(arguments: EvaluateKernel) -> str:
        assert state.task is not None, "kernels are written after specify"
        parent = parents_of(state)
        proposal = Proposal(
            kernel=Kernel(source=arguments.source, function=arguments.function),
            change=arguments.change,
            parents=parent,
        )
        judged = desk.judge(desk.journal.propose(proposal), state.task)
        assert judged.evaluation is not None, "judge returns judged candidates"
        return f"candidate {judged.number}: {evaluation_text(judged.evaluation)}"

    def lint_kernel(arguments: LintKernel) -> str:
        findings = desk.bench.lint(arguments.source)
        return "\n".join(map(str, findings)) or "no findings"

    return Toolbox(
        [
            Tool("evaluate_kernel", EvaluateKernel, evaluate_kernel),
            Tool("lint_kernel", LintKernel, lint_kernel),
            Tool(
                "explain_candidate",
                ExplainCandidate,
                lambda arguments: candidate_text(_candidate(arguments.number, desk)),
            ),
            *_inspections(state, desk),
            Tool("search_docs", SearchDocs, lambda arguments: search_text(arguments.query)),
            Tool("library_kernel", LibraryKernel, lambda arguments: library_text(arguments.name)),
        ],
        {"submit_kernel": SubmitKernel, "give_up": GiveUp},
        desk,
    )


def _candidate(number: int, desk: Desk) -> Candidate:
    for candidate in desk.journal.candidates:
        if candidate.number == number:
            return candidate
    raise ToolError(f"there is no candidate {number} in this run")


def _inspections(state: RunState, desk: Desk) -> list[Tool[Any]]:
    """The tools that look into a candidate, as far as the bench has them."""

    def told(number: int, look: Callable[[Kernel, Task], str]) -> str:
        assert state.task is not None, "kernels are written after specify"
        try:
            return look(_candidate(number, desk).kernel, state.task)
        except RequestError as error:
            raise ToolError(str(error)) from error

    ask, locate, precision = desk.bench.ask, desk.bench.locate, desk.bench.precision
    found: list[Tool[Any]] = []
    if ask is not None:
        found.append(Tool("ask_profile", AskProfile, lambda a: told(a.number, lambda k, t: ask(k, t, a.question))))
    if locate is not None:
        found.append(Tool("locate_error", LocateError, lambda a: told(a.number, locate)))
    if precision is not None:
        found.append(Tool("precision_report", PrecisionReport, lambda a: told(a.number, precision)))
    return found


def parents_of(state: RunState) -> tuple[int, ...]:
    """What a new kernel descends from: the wrong one just judged when debugging, else the best."""
    last = state.last
    parent = last if last is not None and not last.correct else state.best
    return (parent.number,) if parent else ()


def evaluation_text(evaluation: Evaluation) -> str:
    """A judgement in words for the model: verdict, findings, errors, profile. No inputs, no reference values."""
    lines = ["correct" if evaluation.correct else f"not correct ({evaluation.failure or 'wrong'})"]
    lines += [str(finding) for finding in evaluation.findings[:12]]
    lines += [
        f"{trial.seed_label}: {'passed' if trial.passed else 'failed'}, max relative error {trial.max_rel_error:.3g}, "
        f"relative L2 {trial.rel_l2:.3g}. {trial.detail}".rstrip()
        for trial in evaluation.trials
    ]
    performance = evaluation.performance
    if performance is not None:
        lines.append(
            f"simulated latency {performance.latency_us:.2f} us, roofline {performance.roofline_us:.2f} us "
            f"({performance.roofline_fraction:.1%}), {performance.bound} bound, bottleneck {performance.bottleneck}, "
            f"{performance.instructions} instructions, HBM read {performance.hbm_read_bytes} B, "
            f"written {performance.hbm_write_bytes} B"
        )
        lines += [
            f"engine {e.engine}: busy {e.busy_us:.2f} us ({e.share:.0%}), {e.instructions} instructions"
            for e in performance.engines
        ]
        lines += [f"line {line}: {us:.2f} us" for line, us in performance.hot_lines[:8]]
        lines += [f"note: {note}" for note in performance.notes]
    return "\n".join(lines)


def candidate_text(candidate: Candidate) -> str:
    """A candidate for the model: change, verdict, source."""
    verdict = evaluation_text(candidate.evaluation) if candidate.evaluation else "not judged"
    return f"candidate {candidate.number}: {candidate.change}\n{verdict}\n\n{candidate.kernel.source}"
