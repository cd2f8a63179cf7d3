"""From a request to a task: by the grammar of `tools.generate`, or from what a model stated."""

from __future__ import annotations

import ast
import tempfile
from pathlib import Path

from agent.state import RunRequest
from tools.task import Goal, Target, Task, TensorSpec
from tools.task_errors import RequestError


def grammar_task(request: RunRequest) -> Task:
    """Read the request without a model.

    Raises:
        RequestError: one sentence saying what is missing or contradictory, with the fix.
    """
    from tools.generate import specify

    if request.reference_source is None or request.reference_function is None:
        return specify.parse_request(request.request)
    return _from_reference(
        request.reference_source, request.reference_function, request.request, file=request.reference_file
    )


def _from_reference(
    source: str,
    function: str,
    words: str,
    inputs: tuple[TensorSpec, ...] | None = None,
    target: Target | None = None,
    file: str = "reference.py",
) -> Task:
    from tools.generate import specify

    check_reference(source, function)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / file
        path.write_text(source, encoding="utf-8")
        return specify.task_from_reference(path, function, words, inputs=inputs, target=target)


def check_reference(source: str, function: str) -> None:
    """Look at a reference without running it.

    Raises:
        RequestError: it isn't Python, or has no such function.
    """
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError) as error:
        raise RequestError(f"the reference is not valid Python ({error}); mend it and try again") from error
    names = [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]
    if function not in names:
        there = f"it has {', '.join(names)}" if names else "it has none"
        raise RequestError(f"the reference has no function {function!r} at its top level; {there}")


def model_task(
    request: RunRequest,
    name: str,
    source: str,
    function: str,
    inputs: tuple[TensorSpec, ...],
    target: Target,
    goal: Goal,
) -> Task:
    """A task as a model stated it. Tolerance and precision are ours, never the model's.

    Raises:
        RequestError: the parts make no task.
    """
    stated = stated_task(source, function, inputs, target)
    reference = stated.reference.model_copy(update={"origin": "model"})
    update = {"name": name, "request": request.request, "goal": goal, "reference": reference}
    return stated.model_copy(update=update)


def stated_task(source: str, function: str, inputs: tuple[TensorSpec, ...], target: Target) -> Task:
    """A task from a reference and its inputs, all given.

    Raises:
        RequestError: the parts make no task.
    """
    return _from_reference(source, function, "", inputs, target)


def revised_task(task: Task, text: str) -> Task | None:
    """The task after a follow-up such as "now for trn3"; None when the words are not a change.

    Raises:
        RequestError: they are a change that makes no sense.
    """
    from tools.generate import specify

    return specify.revise(task, text)
