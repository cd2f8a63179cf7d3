"""Putting values off and batching loops changes nothing that can be seen: bits, instruction stream, findings, output."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tools.sim import SimResult, batch, deferral, load_source, simulate
from tools.sim.deferral import DeferringCore
from tools.sim.errors import Diagnostic, KernelError

HEAD = """
import numpy as np
import nki
import nki.isa as nisa
import nki.language as nl
"""


def both(source: str, *arrays: np.ndarray) -> SimResult:
    """Run with values put off and without; everything must be equal."""
    results, written = [], []
    for batched in (True, False):
        own = [a.copy() for a in arrays]
        results.append(simulate(load_source(HEAD + source, "kernel"), *own, batched=batched))
        written.append(own)
    fast, slow = results
    for a, b in zip((*fast.outputs, *written[0]), (*slow.outputs, *written[1]), strict=True):
        assert a.dtype == b.dtype
        assert a.shape == b.shape
        assert a.tobytes() == b.tobytes()
    np.testing.assert_array_equal(fast.trace.instructions, slow.trace.instructions)
    np.testing.assert_array_equal(fast.trace.operands, slow.trace.operands)
    assert fast.trace.buffers == slow.trace.buffers
    assert fast.trace.lines == slow.trace.lines
    assert fast.findings == slow.findings
    assert fast.printed == slow.printed
    return fast


@pytest.fixture
def settlements(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many instructions had been put off at each catching up."""
    seen: list[int] = []
    original = DeferringCore._catch_up

    def catch_up(self: DeferringCore, values: batch.Values) -> None:
        seen.append(len(self.numbers))
        original(self, values)

    monkeypatch.setattr(DeferringCore, "_catch_up", catch_up)
    return seen


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def loop(body: str, *, before: str = "", after: str = "", columns: str = "x.shape[1]") -> str:
    """A kernel that loads 128 rows of x an iteration as `t`, runs the body and stores `y`."""

    def lines(text: str, deep: int) -> str:
        return "\n".join(" " * deep + line for line in text.strip().splitlines())

    return f"""
@nki.jit
def kernel(x, w):
    out = nl.ndarray((x.shape[0], {columns}), dtype=x.dtype, buffer=nl.shared_hbm)
{lines(before, 4)}
    for i in range(x.shape[0] // 128):
        rows = slice(i * 128, (i + 1) * 128)
        t = nl.ndarray((128, x.shape[1]), dtype=x.dtype, buffer=nl.sbuf)
        nisa.dma_copy(dst=t, src=x[rows, :])
        y = nl.ndarray((128, {columns}), dtype=x.dtype, buffer=nl.sbuf)
{lines(body, 8)}
        nisa.dma_copy(dst=out[rows, :], src=y)
{lines(after, 4)}
    return out
"""


SOFTMAX = loop(
    """
top = nl.ndarray((128, 1), dtype=nl.float32, buffer=nl.sbuf)
nisa.tensor_reduce(dst=top, op=nl.maximum, data=t, axis=1, negate=True)
total = nl.ndarray((128, 1), dtype=nl.float32, buffer=nl.sbuf)
nisa.activation_reduce(dst=y, op=nl.exp, data=t, reduce_op=nl.add, reduce_res=total, bias=top)
nisa.reciprocal(dst=total, data=total)
nisa.tensor_scalar(dst=y, data=y, op0=nl.multiply, operand0=total)
"""
)


def test_independent_iterations_run_together(batches: list[int]) -> None:
    x = normal(1024, 16)
    result = both(SOFTMAX, x, x)
    assert batches == [8]
    wanted = np.exp(x - x.max(axis=1, keepdims=True))
    np.testing.assert_allclose(result.outputs[0], wanted / wanted.sum(axis=1, keepdims=True), rtol=1e-5)


def test_the_switch_keeps_values_from_being_put_off(settlements: list[int]) -> None:
    x = normal(256, 8)
    simulate(load_source(HEAD + SOFTMAX, "kernel"), x, x, batched=False)
    assert not settlements
    simulate(load_source(HEAD + SOFTMAX, "kernel"), x, x)
    assert settlements == [12]


def test_a_first_iteration_may_differ(batches: list[int]) -> None:
    both(
        loop(
            """
if i == 0:
    nisa.tensor_copy(dst=y, src=t)
else:
    nisa.tensor_scalar(dst=y, data=t, op0=nl.multiply, operand0=2.0)
    nisa.activation(dst=y, op=nl.tanh, data=y)
"""
        ),
        normal(1024, 8),
        normal(1),
    )
    assert max(batches) == 7


def test_iterations_that_pass_a_tile_on_run_one_by_one(batches: list[int]) -> None:
    body = """
nisa.tensor_tensor(dst=state, data1=state, data2=t, op=nl.add)
nisa.activation(dst=y, op=nl.tanh, data=state)
nisa.tensor_copy(dst=state, src=y)
"""
    before = """
state = nl.ndarray((128, x.shape[1]), dtype=x.dtype, buffer=nl.sbuf)
nisa.memset(dst=state, value=0.5)
"""
    both(loop(body, before=before), normal(1024, 8), normal(1))
    assert not batches


def test_a_sum_over_iterations_keeps_its_order(batches: list[int]) -> None:
    before = """
total = nl.ndarray((128, x.shape[1]), dtype=x.dtype, buffer=nl.sbuf)
nisa.memset(dst=total, value=0.1)
"""
    body = """
nisa.activation(dst=y, op=nl.exp, data=t)
nisa.tensor_tensor(dst=total, data1=total, data2=y, op=nl.add)
"""
    after = "nisa.dma_copy(dst=out[0:128, :], src=total)"
    both(loop(body, before=before, after=after), normal(1024, 8), normal(1))
    assert batches == [8]


def test_two_buffers_by_turns(batches: list[int]) -> None:
    """A buffer of the iteration before is still needed when a later place of the body runs."""
    before = """
pair = [nl.ndarray((128, x.shape[1]), dtype=x.dtype, buffer=nl.sbuf) for _ in range(2)]
for k in range(2):
    nisa.dma_copy(dst=pair[k], src=x[k * 128:(k + 1) * 128, :])
"""
    body = """
nisa.tensor_tensor(dst=y, data1=t, data2=pair[i % 2], op=nl.add)
nisa.tensor_tensor(dst=y, data1=y, data2=pair[(i + 1) % 2], op=nl.subtract)
"""
    both(loop(body, before=before), normal(1024, 8), normal(1))
    assert batches == [8]


def test_products_and_transposes_of_all_iterations(batches: list[int]) -> None:
    before = """
weights = nl.ndarray((32, 32), dtype=x.dtype, buffer=nl.sbuf)
nisa.dma_copy(dst=weights, src=w)
"""
    body = """
turned = nl.ndarray((32, 128), dtype=x.dtype, buffer=nl.psum)
nisa.nc_transpose(dst=turned, data=t)
left = nl.ndarray((32, 128), dtype=x.dtype, buffer=nl.sbuf)
nisa.tensor_copy(dst=left, src=turned, engine=nisa.scalar_engine if i % 2 else nisa.vector_engine)
acc = nl.ndarray((128, 32), dtype=nl.float32, buffer=nl.psum)
for k in range(3):
    nisa.nc_matmul(dst=acc, stationary=left, moving=weights)
nisa.tensor_copy(dst=y, src=acc)
"""
    x, w = normal(1024, 32), normal(32, 32, seed=1)
    result = both(loop(body, before=before), x, w)
    assert batches == [8]
    np.testing.assert_allclose(result.outputs[0], 3 * (x @ w), rtol=1e-4, atol=1e-4)


def test_a_scan_runs_over_the_lanes_of_all_iterations(batches: list[int]) -> None:
    body = "nisa.tensor_tensor_scan(dst=y, data0=t, data1=t, initial=0.5, op0=nl.multiply, op1=nl.add)"
    both(loop(body), normal(512, 300), normal(1))
    assert batches == [4]


def test_registers_hold_what_the_last_iteration_left() -> None:
    after = """
last = nl.ndarray((128, 1), dtype=nl.float32, buffer=nl.sbuf)
nisa.activation(dst=y, op=nl.square, data=y, reduce_op=nl.add, reduce_res=last, reduce_cmd=nisa.reduce_cmd.reduce)
nisa.dma_copy(dst=out[0:128, 0:1], src=last)
"""
    body = """
total = nl.ndarray((128, 1), dtype=nl.float32, buffer=nl.sbuf)
nisa.activation_reduce(dst=y, op=nl.exp, data=t, reduce_op=nl.add, reduce_res=total)
"""
    both(loop(body, after=after), normal(1024, 8), normal(1))


# -- what needs values ---------------------------------------------------------------------------------------------------


def test_a_value_that_the_kernel_asks_for_is_there(settlements: list[int]) -> None:
    source = """
@nki.jit
def kernel(x, n):
    out = nl.ndarray(x.shape, dtype=x.dtype, buffer=nl.shared_hbm)
    count = nl.ndarray((1, 1), dtype=nl.int32, buffer=nl.sbuf)
    nisa.dma_copy(dst=count, src=n)
    tile = nl.ndarray(x.shape, dtype=x.dtype, buffer=nl.sbuf)
    nisa.dma_copy(dst=tile, src=x)
    register = nisa.register_alloc(0)
    nisa.register_load(register, count)
    steps = 0
    while register > 0 if hasattr(register, "__gt__") else register.value > 0:
        nisa.activation(dst=tile, op=nl.tanh, data=tile)
        register.value -= 1
        steps += 1
    nisa.dma_copy(dst=out, src=tile)
    return out
"""
    source = source.replace('register > 0 if hasattr(register, "__gt__") else register.value > 0', "register.value > 0")
    result = both(source, normal(128, 4), np.array([[3]], np.int32))
    assert settlements == [2]
    assert len(result.trace) == 2 + 1 + 3 + 1


def test_an_index_read_from_a_tile_sees_what_was_put_off() -> None:
    source = """
@nki.jit
def kernel(x, w):
    out = nl.ndarray((128, 4), dtype=x.dtype, buffer=nl.shared_hbm)
    at = nl.ndarray((1, 1), dtype=nl.int32, buffer=nl.sbuf)
    nisa.memset(dst=at, value=5)
    tile = nl.ndarray((128, 4), dtype=x.dtype, buffer=nl.sbuf)
    nisa.dma_copy(dst=tile, src=x.ap(pattern=[[16, 128], [1, 4]], scalar_offset=at, indirect_dim=1))
    nisa.dma_copy(dst=out, src=tile)
    return out
"""
    x = normal(128, 16)
    np.testing.assert_array_equal(both(source, x, normal(1)).outputs[0], x[:, 5:9])


def test_what_is_printed_and_its_order(capsys: pytest.CaptureFixture[str]) -> None:
    body = """
nisa.activation(dst=y, op=nl.square, data=t)
print("iteration", i)
nl.device_print("first", y[0:1, 0:1])
"""
    result = both(loop(body), normal(384, 4), normal(1))
    assert len(result.printed) == 3
    once, again = capsys.readouterr().out.split("iteration 0")[1:]
    assert once == again


def test_python_runs_once(batches: list[int]) -> None:
    """What the kernel does to lists and dictionaries happens as often as without batches."""
    before = "seen = {}"
    body = """
nisa.tensor_scalar(dst=y, data=t, op0=nl.add, operand0=float(len(seen)))
seen[i] = y
"""
    source = loop(body, before=before, after="COUNT.append(len(seen))")
    space = load_source(HEAD + "COUNT = []\n" + source, "kernel")
    simulate(space, normal(512, 4), normal(1))
    assert space.function.__globals__["COUNT"] == [4]


UNWRITTEN = {
    "a tile that nothing wrote": "nisa.activation(dst=y, op=nl.exp, data=nl.ndarray((128, 8), nl.float32, nl.sbuf))",
    "part of a tile": """
half = nl.ndarray((128, 8), dtype=nl.float32, buffer=nl.sbuf)
nisa.tensor_copy(dst=half[:, 0:5], src=t[:, 0:5])
nisa.tensor_copy(dst=half[0:32, 5:8], src=t[0:32, 5:8])
nisa.activation(dst=y, op=nl.exp, data=half)
""",
    "strided parts": """
half = nl.ndarray((128, 8), dtype=nl.float32, buffer=nl.sbuf)
nisa.tensor_copy(dst=half[:, 0:8:2], src=t[:, 0:4])
nisa.activation(dst=y, op=nl.exp, data=half)
""",
    "accumulation on nothing": """
acc = nl.ndarray((8, 8), dtype=nl.float32, buffer=nl.psum)
nisa.nc_matmul(dst=acc, stationary=t, moving=t, accumulate=True)
nisa.tensor_copy(dst=y, src=t)
nisa.tensor_copy(dst=y[0:8, :], src=acc)
""",
}


@pytest.mark.parametrize("body", UNWRITTEN.values(), ids=UNWRITTEN)
@pytest.mark.parametrize("ahead", [0, 9])
def test_reads_of_what_was_never_written(body: str, ahead: int) -> None:
    before = "\n".join(
        ["tile = nl.ndarray((128, 1), dtype=nl.float32, buffer=nl.sbuf)"] + ahead * ["nisa.memset(dst=tile, value=1.0)"]
    )
    result = both(loop(body, before=before), normal(512, 8), normal(1))
    assert {"KW-UNINITIALISED"} <= {d.code for d in result.findings}


def test_findings_about_values_stand_where_they_belong(settlements: list[int]) -> None:
    """One is made while instructions are recorded, the others when values are computed: program order all the same."""
    body = """
nisa.activation(dst=y, op=nl.log, data=t)
nisa.tensor_copy(dst=y[8:128, :], src=y[8:128, :])
nisa.activation(dst=y, op=nl.sqrt, data=t)
nisa.iota(dst=y[16:48, 0:1], pattern=[[0, 1]], offset=0, channel_multiplier=1)
"""
    result = both(loop(body), normal(512, 8), normal(1))
    assert [d.code for d in result.findings].count("KW-ACTIVATION-RANGE") == 2
    assert settlements == [4 * 6]


def test_an_error_names_the_same_place() -> None:
    body = "nisa.tensor_copy(dst=y, src=t) if i < 3 else nisa.tensor_copy(dst=y, src=t[:, 0:3])"
    errors = []
    for batched in (True, False):
        with pytest.raises(KernelError) as caught:
            simulate(load_source(HEAD + loop(body), "kernel"), normal(1024, 8), normal(1), batched=batched)
        errors.append(caught.value.diagnostic)
    assert errors[0] == errors[1]


# -- memory --------------------------------------------------------------------------------------------------------------


def test_arguments_that_share_memory() -> None:
    """No proof covers a write to one of them: the other changes with it."""
    source = """
@nki.jit
def kernel(x, y):
    out = nl.ndarray((1024, 4), dtype=x.dtype, buffer=nl.shared_hbm)
    for i in range(7):
        tile = nl.ndarray((128, 4), dtype=x.dtype, buffer=nl.sbuf)
        nisa.dma_copy(dst=tile, src=x[i * 128:(i + 1) * 128, :])
        nisa.tensor_scalar(dst=tile, data=tile, op0=nl.add, operand0=1.0)
        nisa.dma_copy(dst=y[(i + 1) * 128:(i + 2) * 128, :], src=tile)
        nisa.dma_copy(dst=out[i * 128:(i + 1) * 128, :], src=tile)
    nisa.dma_copy(dst=out[7 * 128:1024, :], src=x[7 * 128:1024, :])
    return out
"""
    outputs = []
    for batched in (True, False):
        x = normal(1024, 4)
        outputs.append(simulate(load_source(HEAD + source, "kernel"), x, x, batched=batched).outputs[0])
        np.testing.assert_allclose(x[-1], x[127] + 7, rtol=1e-5)
    assert outputs[0].tobytes() == outputs[1].tobytes()


def test_what_arguments_hold_is_not_put_off(batches: list[int]) -> None:
    source = """
@nki.jit
def kernel(x, w):
    for i in range(8):
        tile = nl.ndarray((128, 4), dtype=x.dtype, buffer=nl.sbuf)
        nisa.dma_copy(dst=tile, src=x[i * 128:(i + 1) * 128, :])
        nisa.activation(dst=tile, op=nl.tanh, data=tile)
        nisa.dma_copy(dst=x[i * 128:(i + 1) * 128, :], src=tile)
    return x
"""
    both(source, normal(1024, 4), normal(1))
    assert batches == []  # a launch that must start again needs its arguments as they were


@pytest.mark.parametrize("most", [28, 33, 50])
def test_long_records_are_caught_up_on_in_between(
    monkeypatch: pytest.MonkeyPatch, settlements: list[int], most: int
) -> None:
    monkeypatch.setattr(deferral, "_EARLY", most)
    monkeypatch.setattr(deferral, "_PROBE", most)
    monkeypatch.setattr(deferral, "_MOST_DEFERRED", most)
    before = """
kept = []
total = nl.ndarray((128, x.shape[1]), dtype=x.dtype, buffer=nl.sbuf)
nisa.memset(dst=total, value=0.0)
"""
    body = """
nisa.activation(dst=y, op=nl.exp, data=t)
nisa.tensor_tensor(dst=total, data1=total, data2=y, op=nl.add)
kept.append(nl.ndarray((128, x.shape[1]), dtype=x.dtype, buffer=nl.sbuf))
nisa.tensor_scalar(dst=kept[-1], data=y, op0=nl.multiply, operand0=0.5)
"""
    after = """
for tile in kept:
    nisa.tensor_tensor(dst=total, data1=total, data2=tile, op=nl.subtract)
nisa.dma_copy(dst=out[0:128, :], src=total)
"""
    both(loop(body, before=before, after=after), normal(2048, 8), normal(1))
    assert len(settlements) > 1


def test_what_a_predicated_copy_keeps_of_an_unwritten_tile_is_nan() -> None:
    source = """
@nki.jit
def kernel(x, w):
    out = nl.ndarray(x.shape, dtype=x.dtype, buffer=nl.shared_hbm)
    tile = nl.ndarray(x.shape, dtype=x.dtype, buffer=nl.sbuf)
    flags = nl.ndarray(x.shape, dtype=nl.int32, buffer=nl.sbuf)
    nisa.dma_copy(dst=tile, src=x)
    nisa.dma_copy(dst=flags, src=w)
    kept = nl.ndarray(x.shape, dtype=x.dtype, buffer=nl.sbuf)
    nisa.tensor_copy_predicated(dst=kept, src=tile, predicate=flags)
    nisa.dma_copy(dst=out, src=kept)
    return out
"""
    x, flags = normal(4, 6), np.arange(24, dtype=np.int32).reshape(4, 6) % 3
    np.testing.assert_array_equal(both(source, x, flags).outputs[0], np.where(flags != 0, x, np.nan))


# -- any kernel ----------------------------------------------------------------------------------------------------------


BODIES = (
    "nisa.tensor_tensor(dst={d}, data1={a}, data2={b}, op=nl.add)",
    "nisa.tensor_tensor(dst={d}, data1={a}, data2={b}, op=nl.maximum)",
    "nisa.activation(dst={d}, op=nl.tanh, data={a}, bias=lane, scale=0.5)",
    "nisa.activation(dst={d}, op=nl.exp, data={a}, bias=lanes[j % 2])",
    "nisa.activation(dst={d}, op=nl.log, data={a})",
    "nisa.activation_reduce(dst={d}, op=nl.copy, data={a}, reduce_op=nl.add, reduce_res=lanes[0])",
    "n = nl.ndarray((P, 1), nl.float32, nl.sbuf)\n"
    "nisa.activation_reduce(dst={d}, op=nl.copy, data={a}, reduce_op=nl.add, reduce_res=n)\n"
    "nisa.tensor_scalar(dst={d}, data={a}, op0=nl.multiply, operand0=n)",
    "nisa.tensor_scalar(dst={d}, data={a}, op0=nl.multiply, operand0=lane, op1=nl.add, operand1=0.25)",
    "nisa.tensor_scalar(dst={d}, data={a}, op0=nl.subtract, operand0=float(j), reverse0=True)",
    "nisa.scalar_tensor_tensor(dst={d}, data={a}, op0=nl.multiply, operand0=lane, op1=nl.subtract, operand1={b})",
    "nisa.tensor_reduce(dst=lanes[j % 2], op=nl.add, data={a}, axis=1)",
    "n = nl.ndarray((P, 1), nl.float32, nl.sbuf)\nnisa.tensor_reduce(dst=n, op=nl.add, data={a}, axis=1)",
    "nisa.tensor_copy(dst={d}, src={a}, engine=nisa.scalar_engine if j % 2 else nisa.vector_engine)",
    "nisa.tensor_copy(dst={d}[:, 0:F // 2], src={a}[:, F // 2:F])",
    "nisa.tensor_copy_predicated(dst={d}, src={a}, predicate={b}.view(nl.uint32))",
    "nisa.tensor_tensor_scan(dst={d}, data0={a}, data1={b}, initial=lane, op0=nl.multiply, op1=nl.add)",
    "nisa.dma_copy(dst={d}, src={a})",
    "nisa.dma_copy(dst={d}, src=w[j % 3:j % 3 + P, :])",
    "nisa.nc_matmul(dst=acc[:, (j % 2) * F:(j % 2 + 1) * F], stationary={a}, moving={b})",
    "nisa.nc_matmul(dst=acc[:, 0:F], stationary={a}, moving=square)",
    "m = nl.ndarray((F, F), nl.float32, nl.psum)\nnisa.nc_matmul(dst=m, stationary={a}, moving={b})",
    "m = nl.ndarray((F, F), nl.float32, nl.psum)\nnisa.nc_matmul(dst=m, stationary={a}, moving=square)",
    "nisa.tensor_copy(dst={d}[0:min(F, P), :], src=acc[0:min(F, P), 0:F])",
    "nisa.tensor_copy(dst={d}[0:min(F, P), :], src=m[0:min(F, P), :])",
    "v = nl.ndarray((F, P), nl.float32, nl.psum)\nnisa.nc_transpose(dst=v, data={a})\n"
    "nisa.tensor_copy(dst=strip[:, (j % T) * P:(j % T + 1) * P], src=v)",
    "nisa.nc_transpose(dst=turned, data={a})\nnisa.tensor_copy(dst=strip[:, j * P:(j + 1) * P], src=turned)",
    "nisa.dma_copy(dst=out[(j % T) * P:(j % T + 1) * P, :], src={a})",
    "nisa.memset(dst={d}, value=float(i))",
    "if j == 1:\n    nisa.memset(dst={d}, value=1.5)",
    "kept.append({a})",
    "nisa.dropout(dst={d}, data={a}, prob=0.25)",
)
"""What one line of a random body may do to tiles d, a and b; j counts all iterations."""


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_random_kernels(data: st.DataObject) -> None:
    draw_and_compare(data)


def draw_and_compare(data: st.DataObject) -> None:
    """One random kernel."""
    p = data.draw(st.sampled_from([1, 32, 64]), "partitions")
    f = data.draw(st.sampled_from([2, 16, 32]), "columns")
    outer, inner = data.draw(st.integers(1, 5), "outer trips"), data.draw(st.integers(1, 5), "inner trips")
    shared = data.draw(st.lists(st.sampled_from(["s0", "s1"]), max_size=2, unique=True), "tiles made before the loops")
    whole = data.draw(st.booleans(), "they are written first")
    lines: list[str] = []
    names = ["t", *shared]
    for number in range(data.draw(st.integers(1, 7), "instructions")):
        a, b = data.draw(st.sampled_from(names)), data.draw(st.sampled_from([*names, "kept[-1]", "kept[j // 2]"]))
        body = data.draw(st.sampled_from(BODIES))
        fresh = "dst={d}" in body and data.draw(st.integers(0, 3)) > 0
        d = f"y{number}" if fresh else data.draw(st.sampled_from(names))
        if fresh:
            lines.append(f"{d} = nl.ndarray((P, F), dtype=nl.float32, buffer=nl.sbuf)")
            names.append(d)
        lines += body.format(d=d, a=a, b=b).splitlines()
    lines.append(f"nisa.dma_copy(dst=out[j * P:(j + 1) * P, :], src={names[-1]})")
    prologue = [f"{s} = nl.ndarray((P, F), dtype=nl.float32, buffer=nl.sbuf)" for s in shared]
    prologue += [f"nisa.dma_copy(dst={s}, src=w[0:P, :])" for s in shared if whole]
    deep = "\n            "
    source = f"""
P, F, T = {p}, {f}, {outer * inner}
@nki.jit
def kernel(x, w):
    out = nl.ndarray(x.shape, dtype=x.dtype, buffer=nl.shared_hbm)
    lane = nl.ndarray((P, 1), dtype=nl.float32, buffer=nl.sbuf)
    lanes = [nl.ndarray((P, 1), dtype=nl.float32, buffer=nl.sbuf) for _ in range(2)]
    for tile in (lane, *lanes):
        nisa.dma_copy(dst=tile, src=w[0:P, 0:1])
    acc = nl.ndarray((F, 2 * F), dtype=nl.float32, buffer=nl.psum)
    m = acc[:, 0:F]
    square = nl.ndarray((P, F), dtype=nl.float32, buffer=nl.sbuf)
    nisa.dma_copy(dst=square, src=w[0:P, :])
    turned = nl.ndarray((F, P), dtype=nl.float32, buffer=nl.psum)
    strip = nl.ndarray((F, T * P), dtype=nl.float32, buffer=nl.sbuf)
    kept = [lane.broadcast_to((P, F))]
    {(chr(10) + "    ").join(prologue) or "pass"}
    for i in range({outer}):
        for k in range({inner}):
            j = i * {inner} + k
            t = nl.ndarray((P, F), dtype=nl.float32, buffer=nl.sbuf)
            nisa.dma_copy(dst=t, src=x[j * P:(j + 1) * P, :])
            {deep.join(lines)}
    return out
"""
    probe = data.draw(st.sampled_from([7, 40, 1 << 9]), "instructions put off")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(deferral, "_EARLY", probe)
        patch.setattr(deferral, "_PROBE", probe)
        patch.setattr(deferral, "_MOST_DEFERRED", probe)
        patch.setattr(batch, "_LEAST_GAIN", 1 << 20)
        patch.setattr(batch, "_LEAST_TOGETHER", 2)
        both_or_neither(source, normal(p * outer * inner, f), normal(p + 2, f, seed=1))


def both_or_neither(source: str, *arrays: np.ndarray) -> None:
    """The same results, or the same error."""
    errors: list[Diagnostic | None] = []
    for batched in (True, False):
        try:
            simulate(load_source(HEAD + source, "kernel"), *(a.copy() for a in arrays), batched=batched)
            errors.append(None)
        except KernelError as error:
            errors.append(error.diagnostic)
    assert errors[0] == errors[1]
    if errors[0] is None:
        both(source, *arrays)
