"""The judge accepts right kernels, says what is wrong with others, and refuses tasks without a verdict."""

from __future__ import annotations

import time

import pytest

from tests.tools.tasks import ADD, ADD_KERNEL, BF16, HEAD, kernel, rowwise, task
from tools.confinement import Limits
from tools.evaluate import check_task, evaluate
from tools.sandbox import Worker
from tools.sim.machine import MODEL_VERSION
from tools.task import Kernel
from tools.task_errors import RequestError

SQUARE = task("def reference(x):\n    return x * x", ("x", (192, 96), "float32"))
SQUARE_KERNEL = rowwise("nisa.activation(dst=tile, op=nl.square, data=tile)")


def test_a_right_kernel_is_accepted_with_evidence(worker: Worker) -> None:
    found = evaluate(ADD_KERNEL, ADD, worker=worker)
    assert found.correct
    assert found.failure == ""
    assert [t.seed_label for t in found.trials] == ["draw 1", "uneven values", "large values"]
    assert all(t.passed and t.max_rel_error < 1e-6 for t in found.trials)
    assert found.kernel_digest == ADD_KERNEL.digest
    assert found.task_digest == ADD.digest
    assert found.model_version == MODEL_VERSION


def test_the_performance_is_complete(worker: Worker) -> None:
    found = evaluate(ADD_KERNEL, ADD, worker=worker).performance
    assert found is not None
    assert found.hbm_read_bytes == 2 * 192 * 96 * 4
    assert found.hbm_write_bytes == 192 * 96 * 4
    assert 0 < found.roofline_us < found.latency_us
    assert found.roofline_fraction == pytest.approx(found.roofline_us / found.latency_us)
    assert {e.engine for e in found.engines} == {"Tensor", "Vector", "Scalar", "GpSimd", "Sync", "DMA"}
    assert found.instructions == 8
    assert found.notes
    assert all(1 <= line <= 20 for line, _ in found.hot_lines)


def test_figures_depend_on_the_target(worker: Worker) -> None:
    latencies = set()
    for target in ("trn1", "trn2", "trn3"):
        found = evaluate(ADD_KERNEL, ADD.model_copy(update={"target": target}), worker=worker)
        assert found.performance is not None
        assert found.target == target
        latencies.add(found.performance.latency_us)
    assert len(latencies) == 3


def test_two_judgements_agree_on_time(worker: Worker) -> None:
    one, two = (evaluate(ADD_KERNEL, ADD, worker=worker).performance for _ in range(2))
    assert one == two


def test_a_small_kernel_is_judged_quickly(worker: Worker) -> None:
    evaluate(ADD_KERNEL, ADD, worker=worker)
    started = time.process_time()
    found = evaluate(ADD_KERNEL, ADD, worker=worker)
    assert time.process_time() - started < 1.0
    assert found.seconds < 10  # wall: the machine may be busy


@pytest.mark.parametrize(
    ("work", "says"),
    [
        ("nisa.activation(dst=tile, op=nl.copy, data=tile)", "copy of input 0"),
        ("nisa.memset(dst=tile, value=0.0)", "all zero"),
        ("nisa.memset(dst=tile, value=1.0)", "one constant"),
        ("nisa.activation(dst=tile, op=nl.square, data=tile, scale=2.0)", "too large by a factor of 4"),
        (
            "nisa.activation(dst=tile, op=nl.square, data=tile)\n"
            "nisa.tensor_scalar(dst=tile, data=tile, op0=nl.multiply, operand0=-1.0)",
            "sign is reversed",
        ),
        ("nisa.activation(dst=tile[:, 0:90], op=nl.square, data=tile[:, 0:90])", "columns from 90 to the end"),
        ("if start == 0: nisa.activation(dst=tile, op=nl.square, data=tile)", "rows from 128 to the end"),
        ("nisa.activation(dst=tile, op=nl.rsqrt, data=tile)", "NaN"),
    ],
)
def test_a_wrong_kernel_is_told_what_is_wrong(worker: Worker, work: str, says: str) -> None:
    found = evaluate(rowwise(work), SQUARE, worker=worker)
    assert not found.correct
    assert found.failure == "wrong"
    assert found.performance is None
    assert says in found.first_problem


@pytest.mark.parametrize(
    ("made", "code"),
    [
        (kernel("@nki.jit\ndef kernel(x):\n    return nl.ndarray((3, 4), dtype=x.dtype, buffer=nl.shared_hbm)"), "KW-OUTPUT-SHAPE"),
        (rowwise("pass", out="nl.bfloat16"), "KW-OUTPUT-DTYPE"),
        (kernel("@nki.jit\ndef kernel(x):\n    return x, x"), "KW-OUTPUT-COUNT"),
        (kernel("@nki.jit\ndef kernel(x):\n    return None"), "KW-OUTPUT-COUNT"),
        (kernel("@nki.jit\ndef kernel(x):\n    return 3.5"), "KW-OUTPUT-TYPE"),
        (kernel("@nki.jit\ndef kernel(x, y):\n    return x"), "KW-ARGUMENTS"),
        (kernel("@nki.jit\ndef other(x):\n    return x"), "KW-NO-FUNCTION"),
        (kernel("def kernel(x:\n"), "KW-SYNTAX"),
        (kernel("@nki.jit\ndef kernel(x):\n    return nl.ndarray(x.shape, dtype=x.dtype, buffer=nl.shared_hbm)"), "KW-OUTPUT-UNWRITTEN"),
        (kernel("@nki.jit\ndef kernel(x):\n    t = nl.ndarray(x.shape, dtype=x.dtype, buffer=nl.sbuf)\n    return t"), "KW-PARTITION-LIMIT"),
        (kernel("@nki.jit\ndef kernel(x):\n    return 1 / 0"), "KW-PYTHON"),
    ],
)  # fmt: skip
def test_a_broken_kernel_is_rejected_with_a_finding(worker: Worker, made: Kernel, code: str) -> None:
    found = evaluate(made, SQUARE, worker=worker)
    assert found.failure == "rejected"
    assert next(f.code for f in found.findings if f.severity == "error") == code
    assert not found.trials


def test_what_we_do_not_model_is_not_called_a_wrong_kernel(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    from tools import evaluate as judge
    from tools.sim.errors import UnsupportedError

    def unsupported(*_: object) -> None:
        raise UnsupportedError("this instruction's cost")

    monkeypatch.setattr(judge, "performance_of", unsupported)
    found = evaluate(SQUARE_KERNEL, SQUARE, worker=worker)
    assert found.failure == "unsupported"
    assert all(t.passed for t in found.trials)


def test_reading_unwritten_memory_fails_even_when_the_value_is_plausible(worker: Worker) -> None:
    made = rowwise("""
extra = nl.ndarray((n, x.shape[1]), dtype=x.dtype, buffer=nl.sbuf)
nisa.activation(dst=tile, op=nl.square, data=tile)
nisa.tensor_tensor(dst=tile, data1=tile, data2=extra, op=nl.maximum)
""")
    found = evaluate(made, SQUARE, worker=worker)
    assert not found.correct
    assert "KW-UNINITIALISED" in {f.code for f in found.findings}


def test_reading_unwritten_memory_that_never_matters_is_only_a_warning(worker: Worker) -> None:
    made = rowwise("""
extra = nl.ndarray((n, x.shape[1]), dtype=x.dtype, buffer=nl.sbuf)
spare = nl.ndarray((n, x.shape[1]), dtype=x.dtype, buffer=nl.sbuf)
nisa.tensor_copy(dst=spare, src=extra)
nisa.activation(dst=tile, op=nl.square, data=tile)
""")
    found = evaluate(made, SQUARE, worker=worker)
    assert found.correct
    assert [f.severity for f in found.findings if f.code == "KW-UNINITIALISED"] == ["warning"]


def test_control_flow_that_depends_on_values_is_judged_on_each_draw(worker: Worker) -> None:
    wanted = task(
        "def reference(x, start):\n    return x[int(start[0, 0]) : int(start[0, 0]) + 2] * 2.0",
        ("x", (10, 64), "float32"), ("start", (1, 1), "uint32"), start={"distribution": "small_int"},
    )  # fmt: skip
    made = kernel("""
@nki.jit
def kernel(x, start):
    out = nl.ndarray((2, 64), dtype=x.dtype, buffer=nl.shared_hbm)
    tile = nl.ndarray((2, 64), dtype=x.dtype, buffer=nl.sbuf)
    at = nisa.register_alloc(start)
    nisa.dma_copy(dst=tile, src=x[nl.ds(at, 2), :])
    nisa.tensor_scalar(dst=tile, data=tile, op0=nl.multiply, operand0=2.0)
    nisa.dma_copy(dst=out, src=tile)
    return out
""")
    for _ in range(3):
        found = evaluate(made, wanted, worker=worker)
        assert found.correct, found.first_problem


def test_bfloat16_matmul_in_bfloat16_is_fine_and_float32_data_in_bfloat16_is_not(worker: Worker) -> None:
    source = """
@nki.jit
def kernel(x, y):
    out = nl.ndarray((128, 128), dtype=x.dtype, buffer=nl.shared_hbm)
    a = nl.ndarray((128, 128), dtype=x.dtype, buffer=nl.sbuf)
    b = nl.ndarray((128, 128), dtype=y.dtype, buffer=nl.sbuf)
    nisa.dma_copy(dst=a, src=x)
    nisa.dma_copy(dst=b, src=y)
    c = nl.ndarray((128, 128), dtype=nl.bfloat16, buffer=nl.sbuf)
    d = nl.ndarray((128, 128), dtype=nl.bfloat16, buffer=nl.sbuf)
    nisa.tensor_copy(dst=c, src=a)
    nisa.tensor_copy(dst=d, src=b)
    total = nl.ndarray((128, 128), dtype=nl.float32, buffer=nl.psum)
    nisa.nc_matmul(dst=total, stationary=c, moving=d)
    result = nl.ndarray((128, 128), dtype=x.dtype, buffer=nl.sbuf)
    nisa.tensor_copy(dst=result, src=total)
    nisa.dma_copy(dst=out, src=result)
    return out
"""

    def product(kind: str, **more: object) -> object:
        return task(
            "def reference(x, y):\n    return x.T @ y",
            ("x", (128, 128), kind),
            ("y", (128, 128), kind),
            tolerance=BF16,
            **more,
        )

    assert evaluate(kernel(source), product("bfloat16"), worker=worker).correct  # type: ignore[arg-type]
    for wanted in (product("float32"), product("bfloat16", precision="fp32")):
        found = evaluate(kernel(source), wanted, worker=worker)  # type: ignore[arg-type]
        assert found.failure == "rejected"
        assert found.findings[0].code == "KW-PRECISION"
        assert found.findings[0].line is not None


def test_time_below_the_physical_floor_is_an_error(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    from tools import evaluate as judge

    real = judge.performance_of
    monkeypatch.setattr(judge, "performance_of", lambda *a: real(*a).model_copy(update={"latency_us": 0.01}))
    found = evaluate(SQUARE_KERNEL, SQUARE, worker=worker)
    assert not found.correct
    assert found.findings[0].code == "KW-IMPOSSIBLE"


@pytest.mark.parametrize(
    ("reference", "says"),
    [
        ("def reference(x):\n    return 1 / 0", "ZeroDivisionError"),
        ("def reference(x):\n    return np.log(x)", "NaN"),
        ("def reference(x):\n    return 1.0 / (x - x)", "infinity"),
        ("def reference(x):\n    return float(x.sum())", "not an array"),
        ("def reference(x):\n    return x.sum(keepdims=False)", "not an array"),
        ("def reference(x):\n    return None", "NoneType"),
        ("def reference(x):\n    return ()", "returns nothing"),
        ("def reference(x, y):\n    return x + y", "missing 1 required"),
        ("def other(x):\n    return x", "no function 'reference'"),
        ("def reference(x:\n", "SyntaxError"),
        ("def reference(x):\n    return np.zeros_like(x)", "constant"),
        ("def reference(x):\n    return np.ones_like(x) + 1e-9 * x", "constant"),
        ("def reference(x):\n    return x", "equal to input x"),
        ("def reference(x):\n    return x + 1e-7 * x * x", "equal to input x"),
        (
            "def reference(x):\n    return np.arange(x.size, dtype=float).reshape(x.shape)",
            "doesn't depend on its inputs",
        ),
        ("def reference(x):\n    return x[x > 0]", "shapes of the reference's outputs depend"),
        ("import torch\ndef reference(x):\n    return x", "imports 'torch'"),
        ("def reference(x):\n    return open('/etc/passwd')", "reaches outside"),
        ("def reference(x):\n    return x.astype(complex)", "complex"),
        ("def reference(x):\n    return (1e20 + x) - 1e20", "constant"),
    ],
)
def test_a_task_that_can_not_be_judged_is_refused(worker: Worker, reference: str, says: str) -> None:
    with pytest.raises(RequestError, match=says) as caught:
        check_task(task(reference, ("x", (64, 32), "float32")), worker=worker)
    assert "\n" not in str(caught.value)


def test_a_single_number_is_judged_by_how_it_differs_between_draws(worker: Worker) -> None:
    total = task("def reference(x):\n    return x.sum(keepdims=True).reshape(1)", ("x", (64, 32), "float32"))
    check_task(total, worker=worker)
    still = task("def reference(x):\n    return 3 + 1e-9 * x.sum(keepdims=True).reshape(1)", ("x", (64, 32), "float32"))
    with pytest.raises(RequestError, match="constant 3"):
        check_task(still, worker=worker)


def test_an_input_that_does_not_matter_is_refused(worker: Worker) -> None:
    unused = task("def reference(x, y):\n    return x * x", ("x", (64, 32), "float32"), ("y", (64, 32), "float32"))
    with pytest.raises(RequestError, match="input y"):
        check_task(unused, worker=worker)
    # AdamW without a look at the update: the decay term hides under the tolerance of the whole.
    decay = task(
        "def reference(x, y):\n    return x * np.abs(x) + 1e-9 * y",
        ("x", (64, 32), "float32"),
        ("y", (64, 32), "float32"),
    )
    with pytest.raises(RequestError, match="ignores it"):
        check_task(decay, worker=worker)


def test_contradictory_or_unknown_types_are_refused(worker: Worker) -> None:
    with pytest.raises(RequestError, match="unknown type 'float12'"):
        check_task(task("def reference(x):\n    return x * x", ("x", (4, 4), "float12")), worker=worker)
    with pytest.raises(RequestError, match="1 outputs but the task names 2"):
        check_task(SQUARE.model_copy(update={"output_dtypes": ("float32", "float32")}), worker=worker)
    with pytest.raises(RequestError, match="tighter than bfloat16"):
        check_task(SQUARE.model_copy(update={"output_dtypes": ("bfloat16",)}), worker=worker)


def test_a_reference_that_never_returns_is_refused(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    from tools import specification

    monkeypatch.setattr(specification, "REFERENCE_LIMITS", Limits(seconds=0.5))
    endless = task("def reference(x):\n    while True:\n        pass", ("x", (4, 4), "float32"))
    with pytest.raises(RequestError, match="did not finish"):
        check_task(endless, worker=worker)


def test_hard_draws_are_left_out_where_the_reference_itself_gives_up(worker: Worker) -> None:
    growing = task("def reference(x):\n    return np.exp(np.exp(x))", ("x", (64, 64), "float32"))
    made = rowwise("nisa.activation(dst=tile, op=nl.exp, data=tile)\nnisa.activation(dst=tile, op=nl.exp, data=tile)")
    found = evaluate(made, growing, worker=worker)
    assert "draw 1" in {t.seed_label for t in found.trials}
    notes = [f.message for f in found.findings if f.code == "KW-COVERAGE"]
    assert any("large values" in n for n in notes)


def test_a_large_task_prepares_one_draw_and_the_others_once_a_kernel_passed_it(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tools import specification

    monkeypatch.setattr(specification, "LARGE_ELEMENTS", 1000)
    large = task("def reference(x):\n    return x * x + 1", ("x", (192, 90), "float32"))
    check_task(large, worker=worker)
    spec = specification.specification(large, worker)
    assert spec.staged
    assert spec.standing == []
    wrong = evaluate(rowwise("nisa.activation(dst=tile, op=nl.square, data=tile)"), large, worker=worker)
    assert wrong.failure == "wrong"
    assert [t.seed_label for t in wrong.trials] == ["draw 1"]
    assert spec.standing == [], "a wrong kernel doesn't wait for draws that it never meets"
    work = "nisa.activation(dst=tile, op=nl.square, data=tile)\nnisa.tensor_scalar(tile, tile, nl.add, 1.0)"
    found = evaluate(rowwise(work), large, worker=worker)
    assert found.correct
    assert [t.seed_label for t in found.trials] == ["draw 1", "uneven values", "large values"]
    assert len(spec.standing) == 2
    made = list(spec.standing)
    assert evaluate(rowwise(work), large, worker=worker).correct
    assert all(one is two for one, two in zip(made, spec.standing)), "made once"


def test_a_large_kernel_that_fails_only_on_a_hard_draw_is_wrong(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tools import specification

    monkeypatch.setattr(specification, "LARGE_ELEMENTS", 1000)
    large = task("def reference(x):\n    return x * 2 + 0", ("x", (192, 88), "float32"))
    clipped = rowwise(
        "nisa.tensor_scalar(tile, tile, nl.multiply, 2.0)\nnisa.tensor_scalar(tile, tile, nl.minimum, 20.0)"
    )
    found = evaluate(clipped, large, worker=worker)
    assert found.failure == "wrong"
    assert found.trials[0].passed
    assert not all(t.passed for t in found.trials)


def test_the_first_kernel_of_a_large_task_meets_the_draw_that_was_made_and_no_other_does(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tools import specification

    monkeypatch.setattr(specification, "LARGE_ELEMENTS", 1000)
    large = task("def reference(x):\n    return x * 3", ("x", (192, 86), "float32"))
    spec = specification.specification(large, worker)
    one, two = (specification.fresh(large, spec, worker) for _ in range(2))
    assert (one.draw.arrays[0] != two.draw.arrays[0]).any()
    assert (one.wanted[0] == one.draw.arrays[0] * 3).all()


def test_evaluate_without_a_worker_uses_the_shared_ones() -> None:
    assert evaluate(SQUARE_KERNEL, SQUARE).correct


def test_an_interrupted_judge_returns_soon(worker: Worker) -> None:
    import threading

    endless = Kernel(source=HEAD + "def kernel(x):\n    while True:\n        pass\n")
    check_task(SQUARE, worker=worker)
    timer = threading.Timer(0.5, worker.interrupt)
    timer.start()
    started = time.monotonic()
    found = evaluate(endless, SQUARE, worker=worker)
    timer.cancel()
    assert found.failure == "crashed"
    assert time.monotonic() - started < 10
    assert evaluate(SQUARE_KERNEL, SQUARE, worker=worker).correct
