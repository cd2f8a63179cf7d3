"""Tracing turns NumPy functions into graphs that compute the same, and says what it can't follow."""

from __future__ import annotations

import numpy as np
import pytest

from tests.generate.references import SOURCE
from tests.generate.simulated import arrays, traced
from tools.generate.errors import BeyondOffline
from tools.generate.graph import Graph, evaluate
from tools.generate.plan import defer_row_scales
from tools.generate.tracing import trace_reference


def graph_of(body: str, *shapes: tuple[int, ...]) -> Graph:
    """The graph of a function `f` with arguments x, y, z."""
    return traced("f", shapes, source=f"import numpy as np\nimport math\n{body}\n")


def ops(graph: Graph) -> list[str]:
    """The operators of a graph, without inputs and constants."""
    return [n.op for n in graph if n.op not in ("input", "constant")]


@pytest.mark.parametrize(
    ("function", "shapes"),
    [
        ("softmax", [(5, 7)]), ("layernorm", [(5, 7), (7,), (7,)]), ("swiglu", [(5, 7), (7, 6), (7, 6), (6, 7)]),
        ("attention", [(2, 5, 4)] * 3), ("heads", [(2, 3, 4, 5), (2, 6, 4, 5)]), ("statistics", [(5, 7)]),
        ("choose", [(5, 7)]), ("joined", [(5, 7), (5, 2)]), ("part", [(5, 7)]), ("exact_gelu", [(5, 7)]),
        ("column_sum", [(5, 7)]), ("two_products", [(5, 7), (7, 3), (5, 2), (2, 3)]),
    ],
)  # fmt: skip
def test_graph_computes_what_numpy_computes(function: str, shapes: list[tuple[int, ...]]) -> None:
    namespace: dict[str, object] = {}
    exec(SOURCE, namespace)
    data = [a.astype(np.float64) for a in arrays(shapes, "float32")]
    wanted = namespace[function](*data)  # type: ignore[operator]
    wanted = wanted if isinstance(wanted, tuple) else (wanted,)
    for graph in (traced(function, shapes), defer_row_scales(traced(function, shapes))):
        for got, want in zip(evaluate(graph, data), wanted, strict=True):
            np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("text", "op"),
    [
        ("1 / (1 + np.exp(-x))", "sigmoid"), ("x / (1 + np.exp(-x))", "silu"), ("x * (1 / (1 + np.exp(-x)))", "silu"),
        ("0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x ** 3)))", "gelu_apprx_tanh"),
        ("x * (1 + np.tanh(0.7978845608 * x * (1 + 0.044715 * x * x))) / 2", "gelu_apprx_tanh"),
        ("np.log1p(np.exp(x))", "softplus"), ("np.maximum(0, x)", "relu"), ("np.where(x > 0, x, 0)", "relu"),
        ("np.logaddexp(x, 0)", "softplus"), ("x ** -0.5", "rsqrt"), ("1 / np.sqrt(x)", "rsqrt"),
    ],
)  # fmt: skip
def test_idioms_become_one_operator(text: str, op: str) -> None:
    found = ops(graph_of(f"def f(x): return {text}", (4, 5)))
    assert op in found
    assert set(found) <= {op, "multiply"}


def test_control_flow_on_shapes_is_followed() -> None:
    graph = graph_of(
        "def f(x):\n    for _ in range(x.shape[0]):\n        x = x + 1\n    return x * 2 if x.ndim == 2 else x", (3, 4)
    )
    assert ops(graph) == ["add", "multiply"]
    assert evaluate(graph, [np.zeros((3, 4))])[0][0, 0] == 6


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("def f(x):\n    return x if x.sum() > 0 else -x", "decides by the values"),
        ("def f(x): return float(x.sum())", "Python number"),
        ("def f(x): return np.sort(x)", "np.sort"),
        ("def f(x): return np.fft.fft(x)", "can't be traced|np.fft"),
        ("def f(x):\n    x[0] = 1\n    return x", "assigns into"),
        ("def f(x): return x[x > 0]", "indexing by an array"),
        ("def f(x): return x * np.array([1.0, 5.0, 2.0, 7.0, 3.0])", "constant array"),
        ("def f(x): return 3.0", "doesn't depend on its inputs"),
        ("def f(x):\n    for i in range(9999):\n        x = x * i + np.exp(x)\n    return x", "more than 4000"),
        ("def f(x):\n    y = np.empty_like(x)\n    y[1:] = x[1:]\n    return y", "don't tile"),
        ("def f(x):\n    y = np.empty((4, 5))\n    y[...] = x\n    y[0] = 1.0\n    return y", "don't tile|twice"),
        ("def f(x): return np.logaddexp.accumulate(x)", "logaddexp.accumulate"),
    ],
)  # fmt: skip
def test_what_cannot_be_traced_is_named(body: str, says: str) -> None:
    with pytest.raises(BeyondOffline, match=says):
        graph_of(body, (4, 5))


def test_a_reference_that_fails_carries_its_own_error() -> None:
    with pytest.raises(ValueError, match="ZeroDivisionError"):
        graph_of("def f(x): return x * (1 // 0)", (4, 5))
    with pytest.raises(ValueError, match="defines no function"):
        graph_of("def g(x): return x", (4, 5))
    with pytest.raises(ValueError, match="!="):
        graph_of("def f(x, y): return x @ y", (4, 5), (4, 5))


def test_json_round_trip_and_malformed_graphs() -> None:
    data = trace_reference(SOURCE, "softmax", [{"name": "x", "shape": [4, 5], "dtype": "float32"}])
    assert Graph.from_json(data).to_json() == data
    data["nodes"][1]["inputs"] = [7]
    with pytest.raises(ValueError, match="malformed"):
        Graph.from_json(data)


def test_variables_of_the_reference_name_the_nodes() -> None:
    names = {n.name for n in traced("layernorm", [(4, 5), (5,), (5,)])}
    assert {"mean", "variance"} <= names


def test_tracing_leaves_numpy_alone() -> None:
    before = np.vectorize
    traced("exact_gelu", [(4, 5)])
    assert np.vectorize is before
