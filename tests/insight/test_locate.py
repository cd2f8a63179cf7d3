from collections.abc import Callable

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray

from tests.insight.rule_kernels import LOAD_X, OUT, STORE, source
from tools.insight import Location, locate, lockstep, precision_report
from tools.program import Program, record
from tools.sim import load_source, machine
from tools.task import Tolerance

TIGHT = Tolerance(rtol=1e-5, atol=1e-5, rel_l2=1e-5, reason="test")
LOOSE = Tolerance(rtol=2e-2, atol=2e-2, rel_l2=2e-2, reason="test")
Array = NDArray[np.float64]


def recorded(body: str, *arrays: NDArray[np.generic]) -> tuple[Program, str]:
    text = source(body)
    program, _, _ = record(load_source(text), arrays, "trn2")
    return program, text


def located(
    body: str, want: Callable[[Array, Array], Array], scale: float = 1.0, tolerance: Tolerance = TIGHT
) -> tuple[Location, str]:
    """Locate the error of a kernel over random x and w [256, 64]; the text of the line that is named."""
    generator = np.random.default_rng(0)
    x, w = ((generator.standard_normal((256, 64)) * scale).astype(np.float32) for _ in range(2))
    program, text = recorded(body, x, w)
    found = locate(program, [x, w], [want(x.astype(np.float64), w.astype(np.float64))], tolerance)
    return found, text.splitlines()[found.line - 1] if found.line else ""


TILES = """
for i in range(2):
    t = nl.ndarray((128, 64), dtype=nl.float32, buffer=nl.sbuf)
    nisa.dma_copy(dst=t, src=x[i*128:(i+1)*128, :])
    u = nl.ndarray((128, 64), dtype=nl.float32, buffer=nl.sbuf)
"""
SAVE = "    nisa.dma_copy(dst=out[i*128:(i+1)*128, :], src=u)\nreturn out\n"


def test_a_right_kernel_agrees() -> None:
    found, _ = located(OUT + TILES + "    nisa.tensor_tensor(u, t, t, op=nl.add)\n" + SAVE, lambda x, w: x + x)
    assert (found.verdict, found.line, found.suspects) == ("agrees", 0, ())


def test_the_line_that_makes_infinity_is_named() -> None:
    body = TILES + "    nisa.activation(u, nl.exp, t)\n    nisa.tensor_tensor(u, u, u, op=nl.subtract)\n" + SAVE
    found, line = located(OUT + body, lambda x, w: np.zeros_like(x), scale=100.0)
    assert found.verdict == "not finite"
    assert "nl.exp" in line
    assert "between -" in found.sentence
    assert found.pattern.startswith("output 0:")


def test_the_line_that_rounds_is_named() -> None:
    body = (
        TILES
        + "    h = nl.ndarray((128, 64), dtype=nl.bfloat16, buffer=nl.sbuf)\n"
        + "    nisa.tensor_scalar(h, t, nl.add, 100.0)\n    nisa.tensor_scalar(u, h, nl.subtract, 100.0)\n"
        + SAVE
    )
    found, line = located(OUT + body, lambda x, w: x)
    assert found.verdict == "rounding"
    assert "nisa.tensor_scalar(h, t, nl.add, 100.0)" in line
    assert "bfloat16" in found.sentence


def test_a_line_that_only_wrong_elements_pass_through_is_named() -> None:
    body = (
        TILES
        + "    if i == 0:\n        nisa.tensor_tensor(u, t, t, op=nl.add)\n"
        + "    else:\n        nisa.tensor_tensor(u, t, t, op=nl.multiply)\n"
        + SAVE
    )
    found, line = located(OUT + body, lambda x, w: x + x)
    assert found.verdict == "logic"
    assert "nl.multiply" in line
    assert "only wrong elements" in found.sentence


def test_a_line_that_wrong_elements_miss_is_named() -> None:
    body = (
        TILES
        + "    nisa.tensor_tensor(u, t, t, op=nl.add)\n    if i == 0:\n        nisa.tensor_scalar(u, u, nl.multiply, 3.0)\n"
        + SAVE
    )
    found, line = located(OUT + body, lambda x, w: 6 * x)
    assert found.verdict == "logic"
    assert "nl.multiply" in line
    assert "never do" in found.sentence


def test_an_input_that_is_never_read_is_named() -> None:
    found, _ = located(OUT + TILES + "    nisa.tensor_tensor(u, t, t, op=nl.add)\n" + SAVE, lambda x, w: x + w)
    assert found.verdict == "logic"
    assert "never depend on input w" in found.sentence


def test_a_read_of_unwritten_memory_is_named() -> None:
    body = (
        TILES
        + "    nisa.tensor_scalar(u[:, 0:32], t[:, 0:32], nl.add, 1.0)\n"
        + "    nisa.tensor_tensor(u, u, t, op=nl.add)\n"
        + SAVE
    )
    found, line = located(OUT + body, lambda x, w: 2 * x + 1)
    assert found.verdict == "uninitialised"
    assert "tensor_tensor(u, u, t" in line


def test_a_wrong_number_of_outputs_is_an_error() -> None:
    x = np.zeros((128, 64), np.float32)
    program, _ = recorded(OUT + LOAD_X + STORE, x, x)
    with pytest.raises(ValueError, match="returns 1 outputs, the reference 2"):
        locate(program, [x, x], [x, x], TIGHT)


# -- the shadow --------------------------------------------------------------------------------------------------------

CHAIN = """
out = nl.ndarray((64, 64), dtype=nl.bfloat16, buffer=nl.shared_hbm)
a = nl.ndarray((128, 64), dtype=nl.bfloat16, buffer=nl.sbuf)
b = nl.ndarray((128, 64), dtype=nl.bfloat16, buffer=nl.sbuf)
nisa.dma_copy(dst=a, src=x[0:128, :])
nisa.dma_copy(dst=b, src=w[0:128, :])
acc = nl.ndarray((64, 64), dtype=nl.float32, buffer=nl.psum)
nisa.nc_matmul(dst=acc, stationary=a, moving=b)
nisa.nc_matmul(dst=acc, stationary=b, moving=a)
s = nl.ndarray((64, 64), dtype=nl.bfloat16, buffer=nl.sbuf)
nisa.tensor_scalar(s, acc, nl.multiply, 0.5)
r = nl.ndarray((64, 1), dtype=nl.float32, buffer=nl.sbuf)
nisa.tensor_reduce(r, nl.add, s, axis=1)
nisa.tensor_scalar(s, s, nl.subtract, r)
nisa.dma_copy(dst=out, src=s)
return out
"""


def chain() -> tuple[Program, list[NDArray[np.generic]], Array]:
    generator = np.random.default_rng(1)
    x, w = (generator.standard_normal((128, 64)).astype(ml_dtypes.bfloat16) for _ in range(2))
    program, _ = recorded(CHAIN, x, w)
    a, b = x.astype(np.float64), w.astype(np.float64)
    s = (a.T @ b + b.T @ a) * 0.5
    return program, [x, w], s - s.sum(axis=1, keepdims=True)


def test_the_shadow_computes_in_float64_from_start_to_end() -> None:
    program, inputs, want = chain()
    run = lockstep(program, inputs, machine("trn2"))
    np.testing.assert_allclose(run.shadow[0], want, rtol=1e-13, atol=1e-13)
    assert run.unshadowed == ()
    hardware = np.asarray(run.outputs[0], np.float64)
    assert 1e-4 < np.abs(hardware - want).max() / np.abs(want).max() < 2e-2


def test_the_hardware_side_is_the_ordinary_run() -> None:
    from tools.program import replay

    program, inputs, _ = chain()
    run = lockstep(program, inputs, machine("trn2"))
    np.testing.assert_array_equal(run.outputs[0], replay(program, inputs, machine("trn2")).outputs[0])


def test_lines_lose_what_their_types_lose() -> None:
    program, inputs, _ = chain()
    found = precision_report(program, inputs)
    rows = {row.source.split("(")[0] + " " + row.dtype: row for row in found.lines}
    assert rows["nisa.dma_copy bfloat16"].local_error == 0.0, "a copy loses nothing"
    assert rows["nisa.nc_matmul float32"].local_error < 1e-6
    narrow = [row for row in found.lines if row.opcode == "tensor_scalar"]
    assert all(2.0**-10 < row.local_error < 2.0**-7 for row in narrow)
    assert all(13 < row.bits_lost < 18 for row in narrow)
    assert all(row.wider_cost_us is not None for row in narrow)
    assert found.lines[0].local_error == max(row.local_error for row in found.lines)
    assert found.lines[0].where in found.answer
    assert found.output_error[0] == pytest.approx(max(r.inherited_error for r in found.lines), rel=1e-6)


def test_a_float32_kernel_loses_nothing() -> None:
    x = np.random.default_rng(0).standard_normal((128, 64)).astype(np.float32)
    program, _ = recorded(OUT + LOAD_X + "nisa.tensor_scalar(t, t, nl.multiply, 3.0)\n" + STORE, x, x)
    assert "No line loses" in precision_report(program, [x, x]).answer
