"""What the current dialect refuses: each fault with its code, place, operand and fix, and the twin that runs."""

from __future__ import annotations

import ast
from pathlib import Path
from textwrap import indent
from typing import Any

import numpy as np
import pytest

from tools.sim import Diagnostic, KernelError, load_source, simulate

HEAD = (
    "import nki\nimport nki.isa as nisa\nimport nki.language as nl\n@nki.jit\ndef kernel(a, b):\n"
    "    out = nl.ndarray(a.shape, dtype=a.dtype, buffer=nl.shared_hbm)\n"
    "    t = nl.ndarray((128, 512), dtype=nl.float32, buffer=nl.sbuf)\n    nisa.dma_copy(t, a)\n"
    "    u = nl.ndarray((128, 512), dtype=nl.float32, buffer=nl.sbuf)\n    nisa.dma_copy(u, b)\n"
    "    p = nl.ndarray((128, 512), dtype=nl.float32, buffer=nl.psum)\n"
)
FIRST = HEAD.count("\n") + 1


def refusal(body: str, *, strict: bool = False, warnings: bool = False, **options: Any) -> Diagnostic | None:
    """What stops a kernel of this body (or, with `warnings`, its first warning); None when it runs."""
    source = HEAD + indent(body, "    ") + "\n    nisa.dma_copy(out, t)\n    return out\n"
    a = np.ones((128, 512), np.float32)
    try:
        done = simulate(load_source(source), a, a.copy(), strict=strict, **options)
    except KernelError as error:
        return error.diagnostic
    return next((d for d in done.diagnostics if d.severity == "warning"), None) if warnings else None


def tile(name: str, shape: str, dtype: str, value: str = "0.0") -> str:
    return (
        f"{name} = nl.ndarray({shape}, dtype=nl.{dtype}, buffer=nl.sbuf, name='{name}')\nnisa.memset({name}, {value})\n"
    )


FP8 = tile("w", "(128, 128)", "float8_e4m3fn")
MATMUL = "nisa.nc_matmul(p[:, 0:128], w, w)"
ALWAYS = [
    ("t + u", 1, "KW-TENSOR-OPERATOR", "", "nl.add"),
    ("nl.softmaxx(t)", 1, "KW-UNKNOWN-NAME", "", "softmax"),
    ("with nl.no_reorder():\n    for i in nl.dynamic_range(0, 4):\n        nisa.tensor_copy(u, t)", 2, "KW-ORDERED-LOOP", "",
     "inside the loop's body"),
    ("def step(i):\n    nisa.tensor_copy(u, t)\nwith nl.no_reorder():\n    nl.fori_loop(0, 4, step)", 4, "KW-ORDERED-LOOP",
     "", "inside the loop's body"),
    ("for i in nl.dynamic_range(0, 4, 0):\n    pass", 1, "KW-DYNAMIC-STEP", "step", "number"),
    ("r = nisa.register_alloc(2)\nint(r)", 2, "KW-REGISTER-VALUE", "", "scalar_offset"),
    ("r = nisa.register_alloc(2)\nfor i in range(r):\n    pass", 2, "KW-REGISTER-VALUE", "", "dynamic_range"),
    (FP8 + MATMUL, 3, "KW-MATMUL-DTYPE", "stationary", "trn3"),
]  # fmt: skip


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize(("body", "line", "code", "operand", "fix"), ALWAYS)
def test_faults_that_always_stop_the_kernel(body, line, code, operand, fix, strict):
    found = refusal(body, strict=strict)
    assert found is not None
    assert (found.code, found.where.line - FIRST + 1, found.operand) == (code, line, operand)
    assert found.where.column >= 0
    assert fix in found.fix


STRICT = [
    (tile("w", "(128, 4)", "int32", "1.0"), 2, "KW-MEMSET-VALUE", "value"),
    (tile("w", "(128, 1, 128)", "float32") + "nisa.dma_transpose(w, a[:, 0:128])", 3, "KW-DMA-SHAPE", "dst"),
    (tile("w", "(128, 1)", "bfloat16") + "nisa.tensor_scalar(u, t, nl.add, w)", 3, "KW-DTYPE", "operand0"),
    ("nisa.nc_matmul(p, t[:, 0:128], u)\nw = nl.rsqrt(p)", 2, "KW-GPSIMD-PSUM", "x"),
    (tile("w", "(128, 2, 2, 2, 2, 2)", "float32"), 2, "KW-RANK", "w"),
]


@pytest.mark.parametrize(("body", "line", "code", "operand"), STRICT)
def test_faults_that_only_the_compiler_refuses(body, line, code, operand):
    found = refusal(body, strict=True)
    assert found is not None
    assert (found.code, found.where.line - FIRST + 1, found.operand) == (code, line, operand)
    assert found.fix
    assert found.found is not None
    assert refusal(body) is None


CLEAN = [
    "nl.add(t, u)",
    "def step(i):\n    with nl.no_reorder():\n        nisa.tensor_copy(u, t)\nnl.fori_loop(0, 4, step)",
    "with nl.no_reorder():\n    nisa.tensor_copy(u, t)\nr = nisa.register_alloc(1)\nwhile r:\n    nisa.register_move(r, 0)",
    tile("w", "(128, 4)", "int32", "1"),
    tile("w", "(128, 128)", "float32") + "nisa.dma_transpose(w, a[:, 0:128])",
    tile("w", "(128, 1)", "float32") + "nisa.tensor_scalar(u, t, nl.add, w)",
    "nisa.nc_matmul(p, t[:, 0:128], u)\nnisa.activation(u, nl.rsqrt, p)",
    tile("w", "(128, 2, 2, 2, 2)", "float32"),
]


@pytest.mark.parametrize("body", CLEAN)
def test_clean_twins_run_in_a_strict_run(body):
    assert refusal(body, strict=True) is None


def test_trn3_takes_the_float8_that_trn2_refuses():
    assert refusal(FP8 + MATMUL, target="trn3") is None


def test_a_register_as_a_condition_is_a_warning_and_in_a_strict_run_an_error():
    body = "r = nisa.register_alloc(2)\nif r:\n    nisa.tensor_copy(u, t)"
    warned = refusal(body, warnings=True)
    stopped = refusal(body, strict=True)
    assert warned is not None
    assert stopped is not None
    assert warned.code == stopped.code == "KW-REGISTER-VALUE"
    assert warned.where == stopped.where


def test_lists_are_no_arguments_of_a_strict_run():
    source = HEAD.replace("kernel(a, b)", "kernel(pair)").replace("    out", "    a, b = pair\n    out", 1)
    kernel = load_source(source + "    nisa.dma_copy(out, t)\n    return out\n")
    a = np.ones((128, 512), np.float32)
    with pytest.raises(KernelError) as caught:
        simulate(kernel, [a, a], strict=True)
    assert caught.value.diagnostic.code == "KW-STRICT-PYTHON"
    assert np.array_equal(simulate(kernel, (a, a), strict=True).outputs[0], a)


def test_outputs_in_the_wrong_memory_name_the_line_that_made_them():
    found = refusal("return t")
    assert found is not None
    assert (found.code, found.where.text) == (
        "KW-OUTPUT-PLACEMENT",
        "t = nl.ndarray((128, 512), dtype=nl.float32, buffer=nl.sbuf)",
    )


def test_every_refusal_says_how_to_mend_it():
    root = Path(__file__).parents[3] / "tools" / "sim"
    silent = [
        f"{path.name}:{node.lineno}"
        for path in sorted(root.rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in ("fail", "strict_fail")
        and isinstance(node.func.value, ast.Name)
        and node.func.value.id == "context"
        and not any(k.arg == "fix" for k in node.keywords)
    ]
    assert silent == []


def test_the_result_type_of_0_2_may_be_named_and_that_of_dst_counts():
    body = "nisa.tensor_copy(u, t, dtype=nl.{})"
    assert refusal(body.format("float32"), warnings=True) is None
    warned = refusal(body.format("bfloat16"), warnings=True)
    stopped = refusal(body.format("bfloat16"), strict=True)
    assert warned is not None
    assert stopped is not None
    assert warned.code == stopped.code == "KW-RESULT-TYPE"
    assert (warned.found, warned.limit) == ("bfloat16", "float32")
