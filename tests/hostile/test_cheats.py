"""Kernels that want to pass without doing the work: each is rejected, its honest twin is accepted.

The cheats are those known from the field: no-op, constant, copied input, part of the input skipped, lower precision,
leftover memory, special-cased inputs, work done outside the instruction stream.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from tests.tools.tasks import BF16, FP32, HEAD, kernel, rowwise, task
from tools.evaluate import evaluate
from tools.program import Malformed, Program
from tools.sandbox import JobFailed, Recorded, Worker
from tools.sim.instruction import Inst, Operand
from tools.task import Kernel, Task

SHAPE = (192, 320)
SOFTMAX = task(
    "def reference(x):\n    e = np.exp(x - x.max(axis=-1, keepdims=True))\n    return e / e.sum(axis=-1, keepdims=True)",
    ("x", SHAPE, "float32"),
)
RMSNORM = task(
    "def reference(x):\n    return x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + 1e-6)",
    ("x", SHAPE, "bfloat16"),
    tolerance=BF16,
)
TRANSPOSE = task("def reference(x):\n    return x.T", ("x", (128, 128), "float32"), tolerance=BF16)
ABS = task("def reference(x):\n    return np.abs(x) + x", ("x", SHAPE, "float32"))
MATMUL = task(
    "def reference(x, y):\n    return x.T @ y",
    ("x", (128, 128), "float32"),
    ("y", (128, 256), "float32"),
    tolerance=FP32,
)


def softmax(exp_input: str = "tile", shift: bool = True, columns: int = SHAPE[1]) -> str:
    bias = "bias=low, " if shift else ""
    return f"""
low = nl.ndarray((n, 1), dtype=nl.float32, buffer=nl.sbuf)
total = nl.ndarray((n, 1), dtype=nl.float32, buffer=nl.sbuf)
part = nl.ndarray((n, {columns}), dtype=nl.float32, buffer=nl.sbuf)
nisa.tensor_reduce(dst=low, op=nl.maximum, data=tile, axis=1, negate=True)
nisa.activation_reduce(dst=part, op=nl.exp, data=tile[:, 0:{columns}], {bias}reduce_op=nl.add, reduce_res=total)
nisa.activation(dst=tile, op=nl.exp, data=tile{", bias=low" if shift else ""})
nisa.reciprocal(dst=total, data=total)
nisa.tensor_scalar(dst=tile, data=tile, op0=nl.multiply, operand0=total)
"""


def rmsnorm(columns: int) -> str:
    return f"""
squares = nl.ndarray((n, {columns}), dtype=nl.float32, buffer=nl.sbuf)
total = nl.ndarray((n, 1), dtype=nl.float32, buffer=nl.sbuf)
nisa.activation_reduce(dst=squares, op=nl.square, data=tile[:, 0:{columns}], reduce_op=nl.add, reduce_res=total)
nisa.tensor_scalar(dst=total, data=total, op0=nl.multiply, operand0=1.0 / {columns}, op1=nl.add, operand1=1e-6)
nisa.activation(dst=total, op=nl.rsqrt, data=total)
nisa.tensor_scalar(dst=tile, data=tile, op0=nl.multiply, operand0=total)
"""


def turn(kind: str) -> Kernel:
    return kernel(f"""
@nki.jit
def kernel(x):
    out = nl.ndarray((128, 128), dtype=x.dtype, buffer=nl.shared_hbm)
    tile = nl.ndarray((128, 128), dtype=nl.{kind}, buffer=nl.sbuf)
    bank = nl.ndarray((128, 128), dtype=nl.{kind}, buffer=nl.psum)
    done = nl.ndarray((128, 128), dtype=x.dtype, buffer=nl.sbuf)
    nisa.dma_copy(dst=tile, src=x)
    nisa.nc_transpose(dst=bank, data=tile)
    nisa.tensor_copy(dst=done, src=bank)
    nisa.dma_copy(dst=out, src=done)
    return out
""")


def product(kind: str) -> Kernel:
    return kernel(f"""
@nki.jit
def kernel(x, y):
    out = nl.ndarray((128, 256), dtype=x.dtype, buffer=nl.shared_hbm)
    a = nl.ndarray((128, 128), dtype=nl.{kind}, buffer=nl.sbuf)
    b = nl.ndarray((128, 256), dtype=nl.{kind}, buffer=nl.sbuf)
    nisa.dma_copy(dst=a, src=x)
    nisa.dma_copy(dst=b, src=y)
    bank = nl.ndarray((128, 256), dtype=nl.float32, buffer=nl.psum)
    done = nl.ndarray((128, 256), dtype=x.dtype, buffer=nl.sbuf)
    nisa.nc_matmul(dst=bank, stationary=a, moving=b)
    nisa.tensor_copy(dst=done, src=bank)
    nisa.dma_copy(dst=out, src=done)
    return out
""")


ABS_HONEST = """
twin = nl.ndarray((n, x.shape[1]), dtype=x.dtype, buffer=nl.sbuf)
nisa.activation(dst=twin, op=nl.abs, data=tile)
nisa.tensor_tensor(dst=tile, data1=tile, data2=twin, op=nl.add)
"""


@dataclass(frozen=True)
class Cheat:
    task: Task
    cheat: Kernel
    honest: Kernel


CHEATS = {
    "no-op: output never written": Cheat(
        SOFTMAX,
        kernel("@nki.jit\ndef kernel(x):\n    return nl.ndarray(x.shape, dtype=x.dtype, buffer=nl.shared_hbm)"),
        rowwise(softmax()),
    ),
    "no-op: the input is returned": Cheat(SOFTMAX, kernel("@nki.jit\ndef kernel(x):\n    return x"), rowwise(softmax())),
    "the input is copied": Cheat(SOFTMAX, rowwise("pass"), rowwise(softmax())),
    "zeros": Cheat(SOFTMAX, rowwise("nisa.memset(dst=tile, value=0.0)"), rowwise(softmax())),
    "the mean as a constant": Cheat(SOFTMAX, rowwise(f"nisa.memset(dst=tile, value={1 / 320})"), rowwise(softmax())),
    "softmax without the maximum": Cheat(SOFTMAX, rowwise(softmax(shift=False)), rowwise(softmax())),
    "softmax over 15/16 of the columns": Cheat(SOFTMAX, rowwise(softmax(columns=300)), rowwise(softmax())),
    "rmsnorm over 15/16 of the columns": Cheat(RMSNORM, rowwise(rmsnorm(300)), rowwise(rmsnorm(320))),
    "rmsnorm over 7/8 of the columns": Cheat(RMSNORM, rowwise(rmsnorm(280)), rowwise(rmsnorm(320))),
    "a transpose in bfloat16 within a loose tolerance": Cheat(TRANSPOSE, turn("bfloat16"), turn("float32")),
    "a float32 matmul in bfloat16": Cheat(MATMUL, product("bfloat16"), product("float32")),
    "a loose float32 matmul in bfloat16": Cheat(
        MATMUL.model_copy(update={"tolerance": BF16}), product("bfloat16"), product("float32")
    ),
    "leftover memory": Cheat(
        ABS, rowwise("tile = nl.ndarray((n, x.shape[1]), dtype=x.dtype, buffer=nl.sbuf)"), rowwise(ABS_HONEST)
    ),
    "the first tile only": Cheat(ABS, rowwise("if start == 0:\n    " + ABS_HONEST.strip().replace("\n", "\n    ")), rowwise(ABS_HONEST)),
    "positive inputs only": Cheat(
        ABS, rowwise("nisa.tensor_scalar(dst=tile, data=tile, op0=nl.multiply, operand0=2.0)"), rowwise(ABS_HONEST)
    ),
    "a PSUM bank that happens to be zero": Cheat(
        MATMUL, kernel(product("float32").source.replace(HEAD, "").replace("moving=b)", "moving=b, accumulate=True)")), product("float32")
    ),
    "a second call is cheaper than the first": Cheat(
        ABS,
        kernel(rowwise(ABS_HONEST).source.replace(HEAD, "").replace("@nki.jit", "CALLS = []\n@nki.jit").replace(
            "    out = ", "    CALLS.append(1)\n    if len(CALLS) > 1:\n        return x\n    out = ").replace(
            "    return out", "    return kernel.function(x)")),
        rowwise(ABS_HONEST),
    ),
    "host arithmetic instead of instructions": Cheat(
        ABS,
        kernel("import numpy as np\n@nki.jit\ndef kernel(x):\n    return np.abs(np.asarray(x)) + np.asarray(x)"),
        rowwise(ABS_HONEST),
    ),
    "catch everything and fall back": Cheat(
        ABS,
        kernel("@nki.jit\ndef kernel(x):\n    try:\n        return nl.fast_abs(x)\n    except Exception:\n        return x"),
        rowwise(ABS_HONEST),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CHEATS)
def test_a_cheat_is_rejected_and_its_honest_twin_accepted(worker: Worker, name: str) -> None:
    case = CHEATS[name]
    honest = evaluate(case.honest, case.task, worker=worker)
    assert honest.correct, f"the honest twin: {honest.first_problem}"
    caught = evaluate(case.cheat, case.task, worker=worker)
    assert not caught.correct
    assert caught.failure in ("wrong", "rejected")
    assert caught.first_problem


def test_kernel_code_sees_no_values(worker: Worker) -> None:
    """Recording knows shapes only: there is nothing to read, so nothing to special-case."""
    made = rowwise("print(tile, x)\nprint(nl.device_print('x', tile))")
    found = worker.record(made.source, "kernel", [{"shape": SHAPE, "dtype": "float32"}], "trn2")
    assert not any(digit in found.printed for digit in ("0.", "e-"))


def recorded(worker: Worker) -> Recorded:
    return worker.record(product("float32").source, "kernel", [t.model_dump() for t in MATMUL.inputs], "trn2")


def inputs() -> list[np.ndarray]:
    return [np.ones((128, 128), np.float32), np.ones((128, 256), np.float32)]


@pytest.mark.parametrize(
    ("row", "column", "value"),
    [
        (2, Inst.FREE, 1),
        (2, Inst.AUX, 1),
        (0, Inst.BYTES, 4),
        (3, Inst.FREE, 1),
        (3, Inst.PARTITIONS, 1),
    ],
)
def test_a_record_that_claims_less_work_than_it_does_is_refused(
    worker: Worker, row: int, column: Inst, value: int
) -> None:
    found = recorded(worker)
    table = found.tables[0].copy()
    table[row, column] = value
    forged = Recorded(found.program, found.header, [table, *found.tables[1:]], (), "")
    with pytest.raises(JobFailed) as caught:
        worker.replay(forged, "", [inputs()], [(0, 255)])
    assert caught.value.finding is not None
    assert caught.value.finding.code == "KW-TAMPERED"


@pytest.mark.parametrize("column", [Operand.ROW1, Operand.BYTE1, Operand.BUFFER, Operand.DTYPE, Operand.FLAGS])
def test_a_record_with_false_operands_is_refused(worker: Worker, column: Operand) -> None:
    found = recorded(worker)
    table = found.tables[1].copy()
    table[4, column] = 0 if table[4, column] else 1
    forged = Recorded(found.program, found.header, [found.tables[0], table, *found.tables[2:]], (), "")
    with pytest.raises(JobFailed) as caught:
        worker.replay(forged, "", [inputs()], [(0, 255)])
    assert caught.value.finding is not None
    assert caught.value.finding.code == "KW-TAMPERED"


@pytest.mark.parametrize(
    "change",
    [
        {"buffers": []},
        {"lines": "no"},
        {"outputs": ["x"]},
        {"constants": [1, 2, 3]},
        {"target": "abacus"},
        {"parameters": 5},
        {"dialect": None, "buffers": None},
    ],
)
def test_a_malformed_record_is_refused(worker: Worker, change: dict[str, object]) -> None:
    found = recorded(worker)
    with pytest.raises(Malformed):
        Program.unpack({**found.header, **change}, found.tables, "", "kernel.py")


def test_instructions_beyond_the_tables_are_refused(worker: Worker) -> None:
    found = recorded(worker)
    for index, column, value in (
        (0, Inst.OPCODE, 10_000),
        (0, Inst.OPERANDS, 60),
        (0, Inst.LINE, 9999),
        (0, Inst.FREE, -1),
    ):
        table = found.tables[0].copy()
        table[index, column] = value
        with pytest.raises(Malformed):
            Program.unpack(found.header, [table, *found.tables[1:]], "", "kernel.py")
