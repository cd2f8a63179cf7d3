"""Every kernel of the library is what its reference says, by the same judge that everybody uses."""

from __future__ import annotations

import ast

import pytest

from tools.evaluate import evaluate
from tools.library import KERNELS, LibraryError, library, load
from tools.sandbox import Worker

CASES = [(entry.op, shape) for entry in library() for shape in entry.shapes if shape != "nkibench"]
"""The sizes of NKIBench take minutes with three draws each: benchmarks/simulator_speed.py compares their values."""


@pytest.mark.parametrize(("op", "shape"), [c for c in CASES if c[1] != "full"])
def test_a_library_kernel_is_correct(worker: Worker, op: str, shape: str) -> None:
    kernel, task = load(op, shape)
    found = evaluate(kernel, task, worker=worker)
    assert found.correct, found.first_problem
    assert not [f for f in found.findings if f.severity != "note"]


@pytest.mark.slow
@pytest.mark.parametrize(("op", "shape"), [c for c in CASES if c[1] == "full"])
def test_a_library_kernel_is_correct_at_full_size(op: str, shape: str) -> None:
    kernel, task = load(op, shape)
    found = evaluate(kernel, task)
    assert found.correct, found.first_problem


@pytest.mark.parametrize("target", ["trn1", "trn3"])
@pytest.mark.parametrize("op", ["softmax", "rmsnorm_matmul", "transpose"])
def test_library_kernels_run_on_other_generations(worker: Worker, op: str, target: str) -> None:
    kernel, task = load(op, "small", target)  # type: ignore[arg-type]
    assert task.target == target
    assert evaluate(kernel, task, worker=worker).correct


def test_the_library_has_the_operations_that_the_project_promises() -> None:
    names = {entry.op for entry in library()}
    assert {
        "add", "scale_bias_activation", "row_sum", "softmax", "rmsnorm", "layernorm", "transpose", "matmul", "matmul_blocked",
        "rmsnorm_matmul", "linear_gelu", "attention",
    } <= names  # fmt: skip


@pytest.mark.parametrize("entry", library(), ids=lambda entry: entry.op)
def test_library_kernels_are_written_to_be_read(entry: object) -> None:
    folder = KERNELS / entry.op  # type: ignore[attr-defined]
    for name in ("kernel.py", "reference.py"):
        tree = ast.parse((folder / name).read_text())
        assert ast.get_docstring(tree)
        assert all(ast.get_docstring(f) for f in ast.walk(tree) if isinstance(f, ast.FunctionDef))
    text = (folder / "kernel.py").read_text()
    for section in ("Dimensions:", "Args:", "Returns:"):
        assert section in text


def test_only_folders_with_a_card_are_listed_and_unknown_names_are_told() -> None:
    assert {e.op for e in library()} == {p.parent.name for p in KERNELS.glob("*/task.toml")}
    with pytest.raises(LibraryError, match="softmax"):
        load("no_such_kernel")
    with pytest.raises(LibraryError, match="small"):
        load("softmax", "no such shape")
    with pytest.raises(LibraryError):
        load("../agent")


def test_the_folder_is_data_not_a_package() -> None:
    assert not list(KERNELS.rglob("__init__.py"))
