"""Classes, enumerations and helpers inside kernels."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tools.sim import KernelError, load_source, simulate

HEAD = (
    "from dataclasses import dataclass, field\nfrom enum import Enum\nimport nki\nimport nki.language as nl\n"
    "import nki.isa as nisa\nfrom nki.language import NKIObject\n"
)
X = np.arange(8, dtype=np.float32).reshape(2, 4)


def run(classes: str, body: str) -> Any:
    text = HEAD + classes + "\n@nki.jit\ndef kernel(x):\n" + "".join(f"    {line}\n" for line in body.splitlines())
    return simulate(load_source(text + "    return x\n"), X.copy())


SYNTHESISED = """
class Shape(NKIObject):
    rows: int
    columns: int = 4
    tile: int

    def __post_init__(self):
        self.size = self.rows * self.columns

class Plain(nl.NKIObject):
    start = None
    stop = 5

@dataclass
class Marked(nl.NKIObject):
    start = None

@dataclass(frozen=True)
class Frozen(nl.NKIObject):
    a: int
    parts: tuple = ()

@dataclass
class Lists(nl.NKIObject):
    parts: list = field(default_factory=list)

class Kind(Enum):
    SUM = "sum"
    MAX = "max"
"""


@pytest.mark.parametrize(
    "body",
    [
        "s = Shape(rows=2)\nassert (s.rows, s.columns, s.size) == (2, 4, 8)\ns.tile = 3\nassert s.tile == 3",
        "s = Shape(2, 5, 6)\nassert (s.columns, s.tile) == (5, 6)",
        "assert Shape(2, 3) == Shape(rows=2, columns=3)\nassert Shape(2, 3) != Shape(2, 4)",
        "p = Plain(start=1)\nassert (p.start, p.stop) == (1, 5)",
        "p = Marked(start=x)\nassert p.start is x\nassert Marked().start is None",
        "f = Frozen(1, parts=(2, 3))\nassert f == Frozen(1, (2, 3))\nassert {f: 1}[Frozen(1, (2, 3))] == 1",
        "a, b = Lists(), Lists()\na.parts.append(1)\nassert b.parts == []",
        "assert {Kind.SUM: nl.add}[Kind('sum')] == nl.add",
    ],
)
def test_objects(body):
    run(SYNTHESISED, body)


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ("Shape(1, 2, 3, 4)", "KW-ARGUMENT"),
        ("Shape(1, width=2)", "KW-ARGUMENT"),
        ("Shape(rows=2).tile", "KW-PYTHON"),
        ("Frozen(1).a = 2", "KW-PYTHON"),
    ],
)
def test_misuse_names_the_line(body, code):
    with pytest.raises(KernelError) as caught:
        run(SYNTHESISED, body)
    assert caught.value.diagnostic.code == code
    assert caught.value.diagnostic.where is not None


LOOPS = """
total = nisa.register_alloc(0)
for i in nl.dynamic_range(2, 8, 2):
    nisa.register_move(total, total + i)
assert int(total.value) == 12
steps = []
nl.fori_loop(0, nisa.register_alloc(3), lambda i: steps.append(i.value))
assert steps == [0, 1, 2]
left = nisa.register_alloc(3)
count = 0
while left:
    nisa.register_move(left, left - 1)
    count += 1
assert count == 3
def body(c):
    nisa.register_move(left, c - 1)
    return left
nisa.register_move(left, 4)
nl.while_loop(left, body)
assert left.value == 0
assert list(nl.affine_range(1, 4)) == [1, 2, 3] == list(nl.sequential_range(1, 4)) == list(nl.static_range(1, 4))
assert nl.program_ndim() == 0 and nl.program_id(0) == 0 and nl.num_programs() == 1
"""


def test_loops_and_registers():
    run("", LOOPS.strip())


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ("for i in nl.dynamic_range(0, 4, 0): pass", "KW-DYNAMIC-STEP"),
        ("for i in nl.dynamic_range(0, 4): nisa.register_move(i, 1)", "KW-REGISTER-FROZEN"),
        ("nl.fori_loop(0, 2, lambda i: 1)", "KW-LOOP-BODY"),
        ("nl.affine_range(4, multi_buffer=2)", "KW-ARGUMENT"),
        ("nki.benchmark(lambda: 0)()", "KW-REMOVED"),
        ("nl.ndarray((4, 4), nl.float32, mask=1)", "KW-ARGUMENT"),
        ("nl.ndarray((4, 4), 'float7')", "KW-DTYPE"),
        ("nl.ndarray((200, 4), nl.float32)", "KW-PARTITION-LIMIT"),
        ("nl.ndarray((4, 4), nl.float32, nl.psum, address=(0, 100))", "KW-PSUM-ADDRESS"),
    ],
)
def test_refused_language(body, code):
    with pytest.raises(KernelError) as caught:
        run("", body)
    assert caught.value.diagnostic.code == code


MATH = """
t = nl.ndarray((2, 4), nl.float32)
nisa.dma_copy(t, x)
r = {expression}
out = nl.ndarray(r.shape, r.dtype, nl.shared_hbm)
s = nl.copy(r)
nisa.dma_copy(out, s)
return out"""


@pytest.mark.parametrize(
    ("expression", "want"),
    [
        ("nl.softmax(t)", np.exp(X) / np.exp(X).sum(-1, keepdims=True)),
        ("nl.rms_norm(t, t, 1, 4)", X * X / np.sqrt((X * X).mean(-1, keepdims=True) + 1e-6)),
        ("nl.var(t, 1)", X.var(-1, keepdims=True)),
        ("nl.mean(t, 1, keepdims=True)", X.mean(-1, keepdims=True)),
        ("nl.max(t, 1)", X.max(-1, keepdims=True)),
        ("nl.where(nl.greater(t, nl.full((2, 4), 3.0, nl.float32)), t, 0.0)", np.where(X > 3, X, 0)),
        ("nl.subtract(1.0, t)", 1 - X),
        ("nl.power(t, 2.0)", X**2),
        ("nl.mod(t, 3.0)", X % 3),
        ("nl.transpose(t)", X.T),
        ("nl.matmul(t, t, transpose_x=True)", X.T @ X),
        ("nl.exp(t, dtype=nl.float16)", np.exp(X).astype(np.float16)),
        ("nl.broadcast_to(nl.max(t, 1), (2, 3))", np.broadcast_to(X.max(-1, keepdims=True), (2, 3))),
        ("nl.expand_dims(t, 1)", X[:, None]),
        ("nl.load_transpose2d(x)", X.T),
        ("nl.add(nl.zeros_like(t), nl.ones((2, 4), nl.float32))", np.ones((2, 4))),
        ("nl.dropout(t, 0.0)", X),
    ],
)
def test_functions_that_return_tiles(expression, want):
    got = run("", MATH.strip().format(expression=expression)).outputs[0]
    np.testing.assert_allclose(got.astype(np.float64), want, rtol=2e-3 if "float16" in expression else 1e-5, atol=1e-6)


def test_limits_of_types():
    run("", "assert nl.finfo(nl.bfloat16).max > 3e38\nassert nl.fp32.min == nl.finfo(nl.float32).min < -3e38")
    with pytest.raises(KernelError, match="KW-DTYPE"):
        run("", "nl.finfo(nl.int32)")
