"""What people and models in a run may ask about one of its kernels: the profile, the line of an error, lost precision.

Inputs are drawn anew with a fixed seed; the judge's hidden draws are no part of it, and no value of a reference is shown.
"""

from __future__ import annotations

from tools.insight import answer
from tools.profiled import RECORDED_FILE, find_error, find_precision, profile_kernel
from tools.sandbox import Worker
from tools.task import Kernel, Task
from tools.task_errors import RequestError

SECONDS = 10.0
"""For counterfactuals of one question."""


def ask(kernel: Kernel, task: Task, question: str, worker: Worker | None = None) -> str:
    """Answer a question in words about a kernel's profile; gains are re-simulated.

    Raises:
        RequestError: the kernel can't be recorded, or the question isn't understood.
    """
    seen = profile_kernel(kernel, task.inputs, task.target, filename=RECORDED_FILE, worker=worker).seen
    try:
        return answer(seen, question, seconds=SECONDS).text
    except ValueError as error:
        raise RequestError(str(error)) from error


def locate(kernel: Kernel, task: Task, worker: Worker | None = None) -> str:
    """The line at which a kernel's result leaves the reference's, with the pattern of the error and further suspects.

    Raises:
        RequestError: the kernel fails, its control flow depends on data, or the reference fails.
    """
    done = profile_kernel(kernel, task.inputs, task.target, filename=RECORDED_FILE, worker=worker)
    found = find_error(done, task.inputs, task.reference, task.tolerance, worker=worker)
    suspects = [f"- {s.where}: {s.reason}: {s.source}" for s in found.suspects]
    return "\n".join([found.sentence, *([found.pattern] if found.pattern else []), *suspects])


def precision(kernel: Kernel, task: Task, worker: Worker | None = None) -> str:
    """Which lines of a kernel lose bits against a float64 shadow, and what float32 there would cost in time.

    Raises:
        RequestError: the kernel fails, or its control flow depends on data.
    """
    done = profile_kernel(kernel, task.inputs, task.target, filename=RECORDED_FILE, worker=worker)
    return find_precision(done, task.inputs).answer
