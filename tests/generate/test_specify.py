"""Requests in words become tasks; what is wrong with one is said in a sentence."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tools.generate.specify import parse_request, revise, task_from_reference
from tools.task import Task
from tools.task_errors import RequestError


def shapes(task: Task) -> dict[str, tuple[int, ...]]:
    """Input shapes by name."""
    return {i.name: i.shape for i in task.inputs}


def result(task: Task, seed: int = 0) -> tuple[np.ndarray, list[np.ndarray]]:
    """The reference's result on normal numbers, and the inputs."""
    rng = np.random.default_rng(seed)
    data = [rng.standard_normal(i.shape).astype(np.float32) for i in task.inputs]
    namespace: dict[str, object] = {}
    exec(task.reference.source, namespace)
    return namespace[task.reference.function](*data), data  # type: ignore[operator]


def test_the_main_request() -> None:
    task = parse_request("fused RMSNorm and matmul, x 4096x1024 by w 1024x2048, bfloat16, trn2, reach 50% of roofline")
    assert shapes(task) == {"x": (4096, 1024), "w": (1024, 2048)}
    assert {i.dtype for i in task.inputs} == {"bfloat16"}
    assert (task.name, task.target, str(task.goal)) == ("rmsnorm-matmul", "trn2", "roofline>=0.5")
    assert "bfloat16" in task.tolerance.reason


@pytest.mark.parametrize(
    ("text", "name", "expected"),
    [
        ("softmax of a 300x1000 float32 matrix", "softmax", {"x": (300, 1000)}),
        ("layer norm followed by gelu, x: [512, 1024], bf16", "layernorm-gelu", {"x": (512, 1024)}),
        ("gelu of a matmul of x (64, 32) and w (32, 48)", "matmul-gelu", {"x": (64, 32), "w": (32, 48)}),
        ("matmul then bias then relu: x 300x200, w 200x130", "matmul-bias-relu", {"x": (300, 200), "w": (200, 130), "b": (130,)}),
        ("512x1024x2048 gemm", "matmul", {"x": (512, 1024), "w": (1024, 2048)}),
        ("matmul 300x200 by 200x100, then add residual 300x100", "matmul-residual", {"x": (300, 200), "w": (200, 100), "residual": (300, 100)}),
        ("row sum of x 4096 by 1024", "row-sum", {"x": (4096, 1024)}),
        ("row-wise max over 300 rows and 20 columns", "row-max", {"x": (300, 20)}),
        ("elementwise add of two 1024 by 2048 tensors", "add", {"x": (1024, 2048), "y": (1024, 2048)}),
        ("linear layer 1024 -> 4096 for 300 rows with bias and relu", "matmul-bias-relu", {"x": (300, 1024), "w": (1024, 4096), "b": (4096,)}),
        ("rmsnorm with gain g 1024 over x 4096x1024", "rmsnorm", {"x": (4096, 1024), "g": (1024,)}),
        ("scale by 0.125 then softmax, 64 rows, 200 columns", "scale-softmax", {"x": (64, 200)}),
        ("x 4k x 1k by w 1k x 2k matmul", "matmul", {"x": (4096, 1024), "w": (1024, 2048)}),
        ("mean and variance of each row, x 100x200", "row-mean-row-var", {"x": (100, 200)}),
        ("attention over q 8x256x64, k 8x256x64, v 8x256x64", "attention", {"q": (8, 256, 64), "k": (8, 256, 64), "v": (8, 256, 64)}),
    ],
)  # fmt: skip
def test_phrasings(text: str, name: str, expected: dict[str, tuple[int, ...]]) -> None:
    task = parse_request(text)
    assert task.name == name
    assert shapes(task) == expected
    out, _ = result(task) if max(np.prod(i.shape) for i in task.inputs) < 500_000 else (np.zeros(1), [])
    parts = out if isinstance(out, tuple) else (out,)
    assert all(np.isfinite(p).all() for p in parts)


def test_references_compute_what_the_words_say() -> None:
    out, (x, w) = result(parse_request("x 30x20 by w transposed 13x20 matmul, then softmax"))
    scores = x @ w.T
    exps = np.exp(scores - scores.max(-1, keepdims=True))
    np.testing.assert_allclose(out, exps / exps.sum(-1, keepdims=True), rtol=1e-5)
    out, (x,) = result(parse_request("multiply x 10x20 by 3"))
    np.testing.assert_allclose(out, 3 * x, rtol=1e-6)
    out, (x, w, b) = result(parse_request("compute relu(x @ w + b) * 2 with x 30x20, w 20x10, b 10"))
    np.testing.assert_allclose(out, 2 * np.maximum(x @ w + b, 0), rtol=1e-4, atol=1e-5)
    out, (x, r, w) = result(
        parse_request("fuse residual add, layernorm and matmul: x [6, 5], residual [6, 5], w [5, 4]")
    )
    s = x + r
    normed = (s - s.mean(-1, keepdims=True)) / np.sqrt(s.var(-1, keepdims=True) + 1e-5)
    np.testing.assert_allclose(out, normed @ w, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("text", "goal"),
    [
        ("reach 50% of roofline", "roofline>=0.5"), ("roofline >= 0.6", "roofline>=0.6"), ("at least half the roofline", "roofline>=0.5"),
        ("under 120 us", "latency<=120us"), ("in 0.2 ms", "latency<=200us"), ("latency <= 90 µs", "latency<=90us"),
        ("twice as fast", "speedup>=2"), ("1.5x faster", "speedup>=1.5"), ("speed-up of 3", "speedup>=3"), ("", "correct"),
    ],
)  # fmt: skip
def test_goals(text: str, goal: str) -> None:
    assert str(parse_request(f"softmax x 64x64, {text}").goal) == goal


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("hello world 3x4", "names no operation"),
        ("", "empty"),
        ("relu", "no shape is given"),
        ("matmul 3x4", "second matrix"),
        ("softmax 3x4 on trn9", "unknown target 'trn9'"),
        ("softmax 3x4 for h100", "unknown target 'h100'"),
        ("matmul x 300x200 by w 128x64", "contradict each other.*200 and 128"),
        ("softmax x 300x20 for 400 rows", "400 rows contradict"),
        ("softmax 4x0", "size of 0"),
        ("softmax 3x4 float64", "float64 isn't offered"),
        ("conv2d of x 3x4x5x6", "don't cover 'conv2d'"),
        ("softmax x 3x4, z 5x6", "z 5x6 isn't used"),
        ("compute gelu(x @ w) with x 3x4, w 5x6", "contradict each other"),
        ("softmax 3x4 for trn1 and trn2", "two targets"),
        ("reach 150% of the roofline, softmax 3x4", "at most 100"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_one_sentence(text: str, says: str) -> None:
    with pytest.raises(RequestError, match=says) as caught:
        parse_request(text)
    message = str(caught.value)
    assert message.endswith(".")
    assert "\n" not in message


@settings(max_examples=60, deadline=None, derandomize=True)
@given(m=st.integers(1, 5000), k=st.integers(1, 5000), n=st.integers(1, 5000), form=st.integers(0, 3))
def test_any_sizes_are_read(m: int, k: int, n: int, form: int) -> None:
    text = [
        f"matmul of x {m}x{k} and w {k}x{n}", f"x: [{m}, {k}] times w: ({k}, {n}), a matmul", f"gemm {m} x {k} by {k} x {n}",
        f"multiply matrices: matmul, x is {m} by {k}, w is {k} by {n}, bf16",
    ][form]  # fmt: skip
    assert list(shapes(parse_request(text)).values()) == [(m, k), (k, n)]


def test_follow_ups_keep_the_context() -> None:
    task = parse_request("fused RMSNorm and matmul, x 4096x1024 by w 1024x2048, bfloat16, trn2")
    assert revise(task, "why is the Vector Engine the bottleneck?") is None
    moved = revise(task, "now for trn3")
    assert moved is not None
    assert moved.target == "trn3"
    fewer = revise(moved, "make it work for 300 rows")
    assert fewer is not None
    assert shapes(fewer) == {"x": (300, 1024), "w": (1024, 2048)}
    assert fewer.target == "trn3"
    wide = revise(task, "in float32")
    assert wide is not None
    assert wide.tolerance.rel_l2 < task.tolerance.rel_l2
    grown = revise(task, "then add a gelu")
    assert grown is not None
    assert grown.name == "rmsnorm-matmul-gelu"
    faster = revise(task, "reach 80% of the roofline")
    assert faster is not None
    assert str(faster.goal) == "roofline>=0.8"
    with pytest.raises(RequestError, match="contradict"):
        revise(task, "w 512x512")


def test_a_numpy_file_is_a_specification(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        'import numpy as np\ndef norm(x, g):\n    """x: [64, 32] and g [32], bfloat16"""\n    return x * g\n'
    )
    assert shapes(task_from_reference(file, "norm")) == {"x": (64, 32), "g": (32,)}
    task = task_from_reference(file, "norm", "x 128x16, g 16, float32, trn1, under 50 us")
    assert shapes(task) == {"x": (128, 16), "g": (16,)}
    assert (task.target, str(task.goal), task.reference.origin) == ("trn1", "latency<=50us", "file")
    with pytest.raises(RequestError, match="no function 'other'"):
        task_from_reference(file, "other")
    with pytest.raises(RequestError, match="can't be read"):
        task_from_reference(tmp_path / "none.py", "norm")
    file.write_text("def norm(x, g): return x * g\n")
    with pytest.raises(RequestError, match="no shape is known for 'g'"):
        task_from_reference(file, "norm", "x 3x4")


@pytest.mark.parametrize(
    ("text", "quoted"),
    [
        ("max along the last axis minus the mean, x 13x99", "'minus the mean'"),
        ("compute the mean of each row and subtract it, x 10x20", "'subtract it'"),
        ("softmax of x 12x25, then frobnicate", "'frobnicate'"),
        ("masked softmax of x 12x25", "'masked'"),
        ("rmsnorm of x 10x20 + y", "'+ y'"),
    ],
)
def test_a_part_that_is_not_understood_is_refused_and_never_left_out(text: str, quoted: str) -> None:
    with pytest.raises(RequestError, match=r"--reference file\.py:function") as refused:
        parse_request(text)
    assert quoted.strip("'") in str(refused.value)


def test_an_operator_beside_an_expression_is_refused() -> None:
    with pytest.raises(RequestError, match="rmsnorm stands beside 'x@w'"):
        parse_request("rmsnorm then x@w, x 10x20, w 20x30")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("please write me an efficient kernel that computes the softmax of each row of a 30x10 matrix, with minimum latency", {"x": (30, 10)}),
        ("matmul + bias + gelu, x 12x25, w 25x51", {"x": (12, 25), "w": (25, 51), "b": (51,)}),
        ("dot-product attention, q, k and v 8x128x64", {"q": (8, 128, 64), "k": (8, 128, 64), "v": (8, 128, 64)}),
        ("silu(x@g)*(x@u), x 51x10, g and u 10x76", {"x": (51, 10), "g": (10, 76), "u": (10, 76)}),
        ("L2 normalise each row of x 30x76", {"x": (30, 76)}),
        ("softmax of x 12x25, max performance", {"x": (12, 25)}),
        ("x divided by 8 then softmax, x 10x20", {"x": (10, 20)}),
    ],
)  # fmt: skip
def test_plain_ways_to_ask_are_understood(text: str, expected: dict[str, tuple[int, ...]]) -> None:
    assert shapes(parse_request(text)) == expected
    assert list(shapes(parse_request(text))) == list(expected)


def test_steps_follow_an_expression() -> None:
    out, (x, y) = result(parse_request("x + y then softmax, x 30x15, y 15"))
    exps = np.exp(x + y - (x + y).max(-1, keepdims=True))
    np.testing.assert_allclose(out, exps / exps.sum(-1, keepdims=True), rtol=1e-5)
    out, (x, w, v) = result(parse_request("relu(x @ w) followed by a matmul; x 3x4, w 4x5, v 5x6"))
    np.testing.assert_allclose(out, np.maximum(x @ w, 0) @ v, rtol=1e-5)


def test_sum_of_squares() -> None:
    out, (x,) = result(parse_request("sum of squares per row of a 77x100 fp32 array"))
    np.testing.assert_allclose(out, (x * x).sum(-1), rtol=1e-5)


def test_a_beside_b_is_a_name_and_its_transposition_counts() -> None:
    out, (a, b) = result(parse_request("multiply a.T by b, a is 25x25, b is 25x25"))
    np.testing.assert_allclose(out, a.T * b)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("softmax x -4x256", "-4x256 is negative"),
        ("softmax x 128x256 int3", "int3 isn't offered"),
        ("multiply a 30x20 by b 20x45", "say 'matmul' for a matrix product"),
    ],
)
def test_wrong_shapes_and_types_are_named(text: str, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        parse_request(text)


@pytest.mark.parametrize(
    ("text", "phrase"),
    [
        ("max over columns of 25x51", "over the columns"),
        ("sum across rows of 25x51", "across rows"),
        ("column sums and the max over the columns of 25x51", "over the columns"),
    ],
)
def test_an_axis_that_may_be_either_is_never_taken_for_one(text: str, phrase: str) -> None:
    with pytest.raises(RequestError, match=f"{phrase!r} isn't understood"):
        parse_request(text)


@pytest.mark.parametrize(
    "text",
    [
        "softmax over axis -1 of 25x51",
        "softmax over axis 1 of 25x51",
        "softmax of 25x51, dim=1",
        "softmax over the last axis, 25x51",
    ],
)
def test_the_last_axis_by_any_name(text: str) -> None:
    out, (x,) = result(parse_request(text))
    exps = np.exp(x - x.max(-1, keepdims=True))
    np.testing.assert_allclose(out, exps / exps.sum(-1, keepdims=True), rtol=1e-5)


@pytest.mark.parametrize(
    "text",
    ["mean over axis 0 of 25x51", "column means of 25x51", "average of each column of 25x51", "mean per column, 25x51"],
)
def test_means_of_columns(text: str) -> None:
    task = parse_request(text)
    assert shapes(task) == {"x": (25, 51)}
    out, (x,) = result(task)
    np.testing.assert_allclose(out, x.mean(0), rtol=1e-5)


def test_the_norm_of_a_row_isnt_the_normalised_row() -> None:
    out, (x,) = result(parse_request("l2 norm of each row of 20x30 fp32"))
    np.testing.assert_allclose(out, np.linalg.norm(x, axis=-1), rtol=1e-5)
    with pytest.raises(RequestError, match="can mean the norm of each row"):
        parse_request("l2 norm of 20x30")


@pytest.mark.parametrize(
    ("text", "phrase"),
    [
        ("gelu with temperature 0.7, 25x51", "the number 0.7"),
        ("softmax with eps 1e-3 of 25x51", "the number 0.001"),
        ("relu with slope 0.2, 25x51", "the number 0.2"),
        ("batched softmax, batch of 8, 25x51", "the number 8"),
        ("add three tensors a, b, c of 25x51", "'three tensors'"),
    ],
)
def test_numbers_and_signs_are_never_left_out(text: str, phrase: str) -> None:
    with pytest.raises(RequestError, match=phrase):
        parse_request(text)


def test_an_expression_may_stand_right_before_its_shape() -> None:
    out, (x,) = result(parse_request("exp(-x) 25x51"))
    np.testing.assert_allclose(out, np.exp(-x), rtol=1e-6)


def test_what_a_request_does_without_isnt_asked_for() -> None:
    assert shapes(parse_request("layernorm without bias of 25x51")) == {"x": (25, 51)}


def test_operators_follow_earlier_changes() -> None:
    task = parse_request("layernorm of 200 x 76 in bf16 for trn2")
    for change in ("make it work for 333 rows", "now for trn3", "then add a gelu"):
        changed = revise(task, change)
        assert changed is not None
        task = changed
    assert (task.name, task.target, shapes(task)) == ("layernorm-gelu", "trn3", {"x": (333, 76)})
    out, _ = result(task)
    assert out.shape == (333, 76)
    assert "np.tanh" in task.reference.source
    with pytest.raises(RequestError, match="masked"):
        revise(task, "then a masked softmax")


@pytest.mark.parametrize(
    "text",
    [
        "multiply x by scale, add bias, then relu; x 12x20",
        "multiply x by a scale, add bias, then relu; x 12x20, scale 20",
        "scale, then bias, then relu, x 12x20",
    ],
)
def test_a_scale_is_one_product(text: str) -> None:
    task = parse_request(text)
    assert shapes(task) == {"x": (12, 20), "scale": (20,), "b": (20,)}
    out, (x, scale, b) = result(task)
    np.testing.assert_allclose(out, np.maximum(x * scale + b, 0), rtol=1e-6)
