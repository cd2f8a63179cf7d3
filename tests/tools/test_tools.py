"""The thin tools: contract in, contract out."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from tests.tools.tasks import ADD_KERNEL, HEAD
from tools.docs import DocsArgs, docs
from tools.explain import ExplainArgs, explain
from tools.lint import LintArgs, lint
from tools.profile import ProfileArgs, profile
from tools.registry import TOOLS, tool
from tools.sandbox import Worker
from tools.simulate import SimulateArgs, simulate
from tools.task import TensorSpec
from tools.task_errors import RequestError

INPUTS = (TensorSpec(name="x", shape=(192, 96)), TensorSpec(name="y", shape=(192, 96)))


def test_simulate_times_a_kernel_and_names_its_outputs(worker: Worker) -> None:
    found = simulate(SimulateArgs(source=ADD_KERNEL.source, inputs=INPUTS), worker=worker)
    assert found.ok
    assert [(t.shape, t.dtype) for t in found.outputs] == [((192, 96), "float32")]
    assert found.performance is not None
    assert found.performance.latency_us > found.performance.roofline_us > 0


def test_simulate_reports_faults_as_findings(worker: Worker) -> None:
    found = simulate(SimulateArgs(source=HEAD + "def kernel(x, y):\n    return x.y", inputs=INPUTS), worker=worker)
    assert not found.ok
    assert found.findings[0].code == "KW-PYTHON"
    assert found.findings[0].line == 5
    assert found.performance is None
    with pytest.raises(RequestError, match="float12"):
        simulate(
            SimulateArgs(source=ADD_KERNEL.source, inputs=(TensorSpec(name="x", shape=(1,), dtype="float12"),)),
            worker=worker,
        )


def test_lint_runs_nothing(worker: Worker) -> None:
    found = lint(LintArgs(source="import os\nwhile True:\n    pass\n"), worker=worker)
    assert [(f.code, f.line) for f in found.findings] == [("KW-IMPORT", 1)]
    assert lint(LintArgs(source="import nki\n"), worker=worker).findings == ()


@pytest.mark.parametrize("strict", [False, True])
def test_lint_reports_unknown_names_and_oversized_tiles_once(worker: Worker, strict: bool) -> None:
    source = (
        "import nki\nimport nki.language as nl\n@nki.jit\ndef kernel(a):\n"
        "    i = nl.arange(4)\n    t = nl.ndarray((256, 4), nl.float32, buffer=nl.sbuf)\n    return nl.addd(t, i)\n"
    )
    found = lint(LintArgs(source=source, strict=strict), worker=worker).findings
    removed = "KW-STRICT-REMOVED" if strict else "KW-UNKNOWN-NAME"
    assert [(f.code, f.line, f.column) for f in found] == [
        (removed, 5, 9),
        ("KW-PARTITION-LIMIT", 6, 21),
        ("KW-UNKNOWN-NAME", 7, 12),
    ]
    assert found[2].fix == "did you mean nl.add?"


def test_profile_attributes_time_to_lines(worker: Worker) -> None:
    found = profile(ProfileArgs(source=ADD_KERNEL.source, inputs=INPUTS, top=3), worker=worker)
    assert found.ok
    assert len(found.lines) == 3
    assert any("tensor_tensor" in line.source for line in found.lines)
    assert found.hbm_read_bytes == 2 * 192 * 96 * 4
    (loop,) = found.loops
    assert loop.header.startswith("for start in range(")
    assert (loop.depth, loop.iterations) == (0, 2)
    assert loop.busy_us == pytest.approx(sum(loop.engines.values()))
    assert not profile(ProfileArgs(source="def kernel(x, y: pass", inputs=INPUTS), worker=worker).ok


def test_explain_answers_in_words(worker: Worker) -> None:
    found = explain(ExplainArgs(source=ADD_KERNEL.source, inputs=INPUTS, engine="Vector"), worker=worker)
    assert found.ok
    assert "Vector" in found.answer
    assert not explain(ExplainArgs(source="def kernel(x, y): return 1", inputs=INPUTS), worker=worker).ok


def test_docs_find_instructions_and_machine_numbers() -> None:
    first = docs(DocsArgs(query="nc_matmul")).entries[0]
    assert first.name == "nki.isa.nc_matmul"
    assert "stationary" in first.text
    assert "Tensor" in first.text
    assert docs(DocsArgs(query="psum banks")).entries[0].name == "machine.psum_banks"
    assert docs(DocsArgs(query="zzzz")).entries == ()


def test_the_registry_is_the_contract() -> None:
    assert len({t.name for t in TOOLS}) == len(TOOLS)
    for found in TOOLS:
        assert found.description.endswith(".")
        assert found.schema["additionalProperties"] is False
    assert tool("docs").call({"query": "memset"}).entries
    with pytest.raises(ValidationError):
        tool("docs").call({"question": "memset"})
    with pytest.raises(KeyError, match="simulate"):
        tool("teleport")
