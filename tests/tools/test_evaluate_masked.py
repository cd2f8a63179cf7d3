"""The judge and what a mask left out: a result that depends on it fails."""

from __future__ import annotations

from tests.tools.tasks import kernel, task
from tools.evaluate import evaluate
from tools.sandbox import Worker

BETA1_HEAD = "import neuronxcc.nki as nki\nimport neuronxcc.nki.language as nl\n"
MASKED_SQUARE = """
@nki.jit
def kernel(x):
    out = nl.ndarray(x.shape, dtype=x.dtype, buffer=nl.shared_hbm)
    p, f = nl.arange(128)[:, None], nl.arange(64)[None, :]
    a = nl.load(x[p, f], mask=p < 96)
    nl.store(out[p, f], nl.square(a), mask=p < {rows})
    if {rows} < 128:
        nl.store(out[96:128, 0:64], nl.square(nl.load(x[96:128, 0:64])))
    return out
"""
SQUARE = task("def reference(x):\n    return x * x", ("x", (128, 64), "float32"))


def test_the_judge_fails_a_result_that_depends_on_the_rest_and_warns_when_it_doesnt(worker: Worker) -> None:
    wrong = evaluate(kernel(MASKED_SQUARE.format(rows=128), BETA1_HEAD), SQUARE, worker=worker)
    assert not wrong.correct
    right = evaluate(kernel(MASKED_SQUARE.format(rows=96), BETA1_HEAD), SQUARE, worker=worker)
    assert right.correct
    for found in (wrong, right):
        assert [f.severity for f in found.findings if f.code == "KW-UNINITIALISED"] == ["warning"]
