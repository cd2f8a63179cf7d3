"""What may be asked about a kernel of a run: its timeline, its error, its precision."""

from __future__ import annotations

import pytest

from tools import inspection
from tools.library import load
from tools.task import Kernel
from tools.task_errors import RequestError


def test_a_question_is_answered_from_the_timeline() -> None:
    kernel, task = load("softmax", "small")
    assert "The Scalar Engine is idle" in inspection.ask(kernel, task, "why is the Scalar Engine idle?")
    assert inspection.ask(kernel, task, "how about trn1?").startswith("trn1: ")
    with pytest.raises(RequestError, match="can't tell what is asked"):
        inspection.ask(kernel, task, "who are you?")


def test_the_line_of_an_error_is_told_and_no_value_of_the_reference() -> None:
    kernel, task = load("rmsnorm", "small")
    assert inspection.locate(kernel, task) == "Every output agrees with the reference within the tolerance."
    wrong = Kernel(source=kernel.source.replace("scale=1.0 / columns", "scale=1.0"))
    said = inspection.locate(wrong, task)
    line = next(k for k, text in enumerate(wrong.source.splitlines(), 1) if "scale=1.0," in text)
    assert f"kernel.py:{line} stands out" in said
    assert "too small by a factor of 17.89" in said


def test_lossy_lines_are_told() -> None:
    kernel, task = load("softmax", "ragged")
    assert "tensor_scalar" in inspection.precision(kernel, task)


def test_a_kernel_that_fails_is_one_sentence() -> None:
    _, task = load("softmax", "small")
    with pytest.raises(RequestError, match="the kernel did nothing"):
        inspection.ask(Kernel(source="def kernel(x):\n    return x\n"), task, "why is it slow?")
