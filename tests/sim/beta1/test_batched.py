"""Iterations that are computed together give what they give one by one: the same bits, trace and findings."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tools.sim import SimResult, load_source, simulate
from tools.sim import execute as execution
from tools.sim.batch import Values

HEAD = """
import numpy as np
import neuronxcc.nki as nki
import neuronxcc.nki.isa as nisa
import neuronxcc.nki.language as nl
from neuronxcc.nki.language import par_dim
"""


def both(source: str, *arrays: np.ndarray, target: str = "trn1") -> SimResult:
    """Run with batches and without; everything must be equal."""
    results = []
    written = []
    for batched in (True, False):
        own = [a.copy() for a in arrays]
        results.append(simulate(load_source(HEAD + source, "kernel"), *own, target=target, batched=batched))
        written.append(own)
    fast, slow = results
    for a, b in zip((*fast.outputs, *written[0]), (*slow.outputs, *written[1])):
        assert a.dtype == b.dtype
        assert a.shape == b.shape
        assert a.tobytes() == b.tobytes()
    np.testing.assert_array_equal(fast.trace.instructions, slow.trace.instructions)
    np.testing.assert_array_equal(fast.trace.operands, slow.trace.operands)
    assert [str(d) for d in fast.diagnostics] == [str(d) for d in slow.diagnostics]
    return fast


def normal(*shape: int, seed: int = 0, dtype: type = np.float32) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


MATMUL = """
@nki.jit
def kernel(a, b):
    out = nl.ndarray((a.shape[1], b.shape[1]), dtype=a.dtype, buffer=nl.shared_hbm)
    for m in nl.affine_range(a.shape[1] // 128):
        acc = nl.zeros((128, b.shape[1]), nl.float32, buffer=nl.psum)
        for k in nl.affine_range(a.shape[0] // 128):
            left = nl.load(a[k * 128:(k + 1) * 128, m * 128:(m + 1) * 128])
            right = nl.load(b[k * 128:(k + 1) * 128, :])
            acc += nisa.nc_matmul(left, right)
        done = nl.copy(acc, dtype=a.dtype)
        nl.store(out[m * 128:(m + 1) * 128, :], done)
    return out
"""


def test_independent_matmuls_run_together(batches: list[int]) -> None:
    a, b = normal(512, 1024), normal(512, 256, seed=1)
    result = both(MATMUL, a, b)
    assert max(batches) == 8
    np.testing.assert_allclose(result.outputs[0], a.T @ b, rtol=1e-4, atol=1e-3)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_random_lane_wise_loops(data: st.DataObject) -> None:
    rows = data.draw(st.sampled_from([64, 96, 128]), "partitions")
    columns = data.draw(st.sampled_from([1, 16, 48]), "columns")
    trips = data.draw(st.integers(1, 9), "trips")
    inner = data.draw(st.integers(1, 4), "inner")
    cut = data.draw(st.sampled_from([0, 0, 17]), "rows missing")
    dtype = data.draw(st.sampled_from(["nl.float32", "nl.bfloat16"]), "type")
    total = rows * trips * inner - cut
    masked = f"mask=(({inner} * i + j) * {rows} + ip < {total})"
    lines = []
    names = ["x0"]
    for number in range(data.draw(st.integers(1, 5), "instructions")):
        source = data.draw(st.sampled_from(names))
        other = data.draw(st.sampled_from(names))
        choice = data.draw(
            st.sampled_from(
                [
                    "nl.exp({a}, {m})",
                    "nl.add({a}, {b}, {m})",
                    "nl.multiply({a}, 1.5, {m})",
                    "nisa.tensor_scalar({a}, op0=nl.multiply, operand0=scale, op1=nl.add, operand1=0.5, {m})",
                    "nisa.activation(op=nl.tanh, data={a}, bias=scale, scale=0.5, {m})",
                    "nl.subtract({a}, nl.max({a}, axis=[1], keepdims=True, {m}), {m})",
                    "nl.copy({a}, dtype=" + dtype + ", {m})",
                    "nisa.reciprocal({a}, {m})",
                ]
            )
        )
        name = f"x{number + 1}"
        lines.append(f"            {name} = " + choice.format(a=source, b=other, m=masked))
        names.append(name)
    accumulate = data.draw(st.booleans(), "accumulates")
    source = (
        f"""
@nki.jit
def kernel(x, s):
    out = nl.ndarray(x.shape, dtype=x.dtype, buffer=nl.shared_hbm)
    ip, jf = nl.arange({rows})[:, None], nl.arange({columns})[None, :]
    sums = nl.zeros((par_dim({rows}), {columns}), dtype=nl.float32, buffer=nl.sbuf)
    scale = nl.load(s)
    for i in nl.affine_range({trips}):
        for j in nl.affine_range({inner}):
            x0 = nl.load(x[({inner} * i + j) * {rows} + ip, jf], {masked})
"""
        + "\n".join(lines)
        + ("\n            sums[...] += " + names[-1] if accumulate and not cut else "")
        + f"""
            nl.store(out[({inner} * i + j) * {rows} + ip, jf], {names[-1]}, {masked})
    total = nl.ndarray(({rows}, {columns}), dtype=nl.float32, buffer=nl.shared_hbm)
    nl.store(total, sums)
    return out, total
"""
    )
    both(source, normal(total, columns), normal(rows, 1, seed=1))


@settings(max_examples=25, deadline=None)
@given(
    m=st.integers(1, 5),
    k=st.integers(1, 3),
    n=st.sampled_from([32, 64, 200]),
    wide=st.sampled_from([32, 64, 100, 128]),
    low=st.booleans(),
)
def test_random_matmuls(m: int, k: int, n: int, wide: int, low: bool) -> None:
    source = MATMUL.replace("m * 128:(m + 1) * 128", f"m * {wide}:(m + 1) * {wide}")
    source = source.replace("// 128):\n        acc", f"// {wide}):\n        acc").replace(
        "nl.zeros((128,", f"nl.zeros(({wide},"
    )
    if low:
        source = source.replace("a[k * 128:(k + 1) * 128, ", "a[k * 128:(k + 1) * 128, ").replace(
            "nisa.nc_matmul(left, right)",
            "nisa.nc_matmul(nl.copy(left, dtype=nl.bfloat16), nl.copy(right, dtype=nl.bfloat16))",
        )
    both(source, normal(128 * k, wide * m), normal(128 * k, n, seed=1))


def test_dependent_iterations_stay_in_order(batches: list[int]) -> None:
    both(
        """
@nki.jit
def kernel(x):
    out = nl.ndarray((128, 16), dtype=x.dtype, buffer=nl.shared_hbm)
    state = nl.zeros((17, par_dim(128), 1), dtype=x.dtype, buffer=nl.sbuf)
    for i in nl.sequential_range(16):
        tile = nl.load(x[128 * i:128 * (i + 1), :])
        state[i + 1] = nl.add(nl.multiply(state[i], 0.5), nl.sum(tile, axis=[1]))
        nl.store(out[:, i:i + 1], state[i + 1])
    return out
""",
        normal(2048, 8),
    )
    assert not batches


def test_an_argument_that_is_written_in_place() -> None:
    both(
        """
@nki.jit
def kernel(x):
    for i in nl.affine_range(8):
        tile = nl.load(x[128 * i:128 * (i + 1), :])
        nl.store(x[128 * i:128 * (i + 1), :], nl.exp(tile))
    return x
""",
        normal(1024, 8),
    )


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (
            "tile = nl.load(x[128 * i + ip, jf], mask=(128 * i + ip < 1000))\n        y = nl.exp(tile)",
            "KW-UNINITIALISED",
        ),
        ("tile = nl.load(x[128 * i + ip, jf])\n        y = nl.sin(nl.multiply(tile, 100.0))", "KW-ACTIVATION-RANGE"),
    ],
)
def test_findings_about_values_are_kept(body: str, code: str) -> None:
    result = both(
        f"""
@nki.jit
def kernel(x):
    out = nl.ndarray(x.shape, dtype=x.dtype, buffer=nl.shared_hbm)
    ip, jf = nl.arange(128)[:, None], nl.arange(8)[None, :]
    for i in nl.affine_range(8):
        {body}
        nl.store(out[128 * i + ip, jf], y)
    return out
""",
        normal(1024, 8),
    )
    assert code in [d.code for d in result.diagnostics]


def test_the_switch_keeps_batches_off(monkeypatch: pytest.MonkeyPatch) -> None:
    ran = []
    original = Values.run
    monkeypatch.setattr(Values, "run", lambda self: (ran.append(1), original(self))[1])
    assert execution.Values is Values
    kernel = load_source(HEAD + MATMUL, "kernel")
    a, b = normal(256, 256), normal(256, 64, seed=1)
    simulate(kernel, a, b, target="trn1", batched=False)
    assert not ran
    simulate(kernel, a, b, target="trn1")
    assert ran


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("batched", [True, False])
def test_products_that_overflow_are_infinite_without_a_warning_of_numpys(batched: bool) -> None:
    source = """
def kernel(x):
    out = nl.ndarray((512, 128), dtype=x.dtype, buffer=nl.shared_hbm)
    for i in nl.affine_range(4):
        tile = nl.load(x[i * 128:(i + 1) * 128, :])
        nl.store(out[i * 128:(i + 1) * 128, :], nisa.nc_matmul(tile, tile))
    return out
"""
    x = np.full((512, 128), 3e38, np.float32)
    assert np.isinf(simulate(load_source(HEAD + source, "kernel"), x, batched=batched).outputs[0]).all()
