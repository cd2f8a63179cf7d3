"""The compiler's static rules: each refusal with its clean twin."""

from __future__ import annotations

from textwrap import dedent

import numpy as np
import pytest

from tools.sim import KernelError, load_source, simulate
from tools.sim.errors import Severity
from tools.sim.frontend.rules import compiler_rules

HEAD = "import nki\nimport nki.isa as nisa\nimport nki.language as nl\n"
BETA1_HEAD = "import neuronxcc.nki as nki\nimport neuronxcc.nki.isa as nisa\nimport neuronxcc.nki.language as nl\n"


def codes(body: str, head: str = HEAD, dialect: str = "nki") -> list[tuple[str, int]]:
    found = compiler_rules(head + dedent(body), "kernel.py", dialect)
    return [(d.code, d.where.line - 3 if d.where else 0) for d in found]


def inside(statement: str) -> str:
    return f"@nki.jit\ndef kernel(a, flag=None):\n    {statement}\n    return a\n"


@pytest.mark.parametrize(
    ("wrong", "right", "code"),
    [
        ("x = 1 if flag is None else 2", "x = 1 if flag == None else 2", "KW-STRICT-PYTHON"),
        ("x = {1: 2}", "x = {'one': 2}", "KW-STRICT-PYTHON"),
        ("global y", "y = 1", "KW-STRICT-PYTHON"),
        ("raise ValueError('no')", "assert flag == None, 'no'", "KW-STRICT-PYTHON"),
        ("nisa.tensor_copy(a, a, mask=flag)", "nisa.tensor_copy(a, a)", "KW-STRICT-REMOVED"),
        ("nisa.register_move(a, imm=1)", "nisa.register_move(a, src=1)", "KW-STRICT-REMOVED"),
        ("nisa.dma_copy(a, a, dst_rmw_op=nl.add)", "nisa.dma_copy(a, a)", "KW-STRICT-REMOVED"),
        ("x = nl.ndarray((1, 1), nl.float32, buffer='sbuf')", "x = nl.ndarray((1, 1), nl.float32, buffer=nl.sbuf)",
         "KW-STRICT-REMOVED"),
        ("x = nl.arange(4)", "x = nl.ds(0, 4)", "KW-STRICT-REMOVED"),
        ("nisa.tensor_copy_dynamic_src(a)", "nisa.tensor_copy(a, a)", "KW-STRICT-REMOVED"),
        ("x = [i for i in nl.affine_range(4)]", "x = [i for i in range(4)]", "KW-STRICT-DEPRECATED"),
        ("x = nl.divide(a, a)", "x = nl.multiply(a, a)", "KW-STRICT-NO-COMPILE"),
        ("x = nl.tile_size.psum_fmax", "x = nl.tile_size.psum_bank_fmax", "KW-STRICT-DEPRECATED"),
    ],
)  # fmt: skip
def test_a_statement_is_refused_and_its_clean_twin_is_not(wrong: str, right: str, code: str) -> None:
    assert (code, 3) in codes(inside(wrong))
    assert codes(inside(right)) == []


def test_rules_hold_only_where_the_compiler_reads() -> None:
    body = """
    def host(x):
        try:
            return x is None
        except ValueError:
            raise
    """
    body = dedent(body)
    assert codes(body) == []
    assert [c for c, _ in codes(body + "\n@nki.jit\ndef kernel(a):\n    return host(a)\n")] == ["KW-STRICT-PYTHON"] * 3


def test_decorator_and_nested_kernel_and_namespace_and_class() -> None:
    body = """
    from neuronxcc import nki as old

    class Config:
        size = 4

    @nki.jit(mode="trace")
    def inner(a):
        return a

    @nki.jit
    def kernel(a, *, size=1):
        c = Config()
        return inner(a)
    """
    found = {code for code, _ in codes(body)}
    assert found == {
        "KW-STRICT-NAMESPACE", "KW-STRICT-CLASS", "KW-STRICT-JIT", "KW-STRICT-NESTED", "KW-STRICT-PYTHON",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ("for i in nl.affine_range(2):\n        t = nl.load(a)\n    nl.store(a, t)", "KW-STRICT-SCOPE"),
        ("while flag:\n        pass", "KW-STRICT-WHILE"),
        ("i_p = nl.arange(4)[:, None]\n    nl.load(a, mask=(i_p < 3 and i_p > 1))", "KW-STRICT-MASK"),
    ],
)
def test_beta1_rules(body: str, code: str) -> None:
    assert code in [c for c, _ in codes(inside(body), BETA1_HEAD, "neuronxcc.nki")]


def test_beta1_tiles_made_before_the_block_are_visible_after_it() -> None:
    body = "t = nl.ndarray((4, 4), nl.float32)\n    for i in nl.affine_range(2):\n        t = nl.load(a)\n    y = nl.exp(t)"
    assert codes(inside(body), BETA1_HEAD, "neuronxcc.nki") == []


def test_strict_simulation_refuses_what_the_simulator_alone_accepts() -> None:
    source = HEAD + dedent("""
        @nki.jit
        def kernel(a, scale=None):
            factor = 2.0 if scale is None else scale
            out = nl.ndarray(a.shape, dtype=a.dtype, buffer=nl.shared_hbm)
            for _ in nl.affine_range(1):
                tile = nl.ndarray(a.shape, dtype=a.dtype, buffer=nl.sbuf)
                nisa.dma_copy(dst=tile, src=a)
                nisa.tensor_scalar(dst=tile, data=tile, op0=nl.multiply, operand0=factor)
                nisa.dma_copy(dst=out, src=tile)
            return out
    """)
    a = np.ones((4, 4), np.float32)
    assert (simulate(load_source(source), a).outputs[0] == 2).all()
    with pytest.raises(KernelError) as caught:
        simulate(load_source(source), a, strict=True)
    assert caught.value.diagnostic.code == "KW-STRICT-PYTHON"
    assert caught.value.diagnostic.where is not None
    assert caught.value.diagnostic.where.text == "factor = 2.0 if scale is None else scale"
    warned = simulate(load_source(source.replace("scale is None", "scale == None")), a, strict=True)
    assert [d.code for d in warned.diagnostics if d.severity is Severity.WARNING] == ["KW-STRICT-DEPRECATED"]


def test_strict_output_must_be_shared() -> None:
    source = HEAD + dedent("""
        @nki.jit
        def kernel(a):
            out = nl.ndarray(a.shape, dtype=a.dtype, buffer=nl.hbm)
            nisa.dma_copy(dst=out, src=a)
            return out
    """)
    a = np.ones((4, 4), np.float32)
    simulate(load_source(source), a)
    with pytest.raises(KernelError) as caught:
        simulate(load_source(source), a, strict=True)
    assert caught.value.diagnostic.code == "KW-STRICT-OUTPUT"


def parameters(body: str, signature: str = "a, out") -> list[tuple[str, int, str]]:
    source = BETA1_HEAD + "import neuronxcc.nki.typing as nt\n@nki.jit\ndef kernel(" + signature + "):\n"
    source += "".join(f"    {line}\n" for line in dedent(body).strip().split("\n"))
    found = compiler_rules(source, "kernel.py", "neuronxcc.nki")
    return [(d.code, d.where.line - 6 if d.where else 0, d.operand) for d in found]


@pytest.mark.parametrize(
    ("body", "line"),
    [
        ("nl.store(out, nl.load(a))\nreturn out", 1),
        ("nl.store(out[0:4], value=nl.load(a))\nreturn out", 1),
        ("nisa.dma_copy(dst=out, src=a)\nreturn out", 1),
        ("o = out.reshape((4, 4))\nfor i in nl.affine_range(2):\n    nl.store(o[i], value=nl.load(a))\nreturn out", 3),
        ("def put(where, x):\n    nl.store(where[...], x)\nput(out, nl.load(a))\nreturn out", 2),
        ("x, o = a, out\nnl.store(o, nl.load(x))\nreturn out", 2),
    ],
)
def test_beta1_parameters_are_read_only(body: str, line: int) -> None:
    assert parameters(body) == [("KW-STRICT-IMMUTABLE", line, "out")]
    assert parameters(body, "a, out: nt.mutable_tensor") == []
    assert parameters(body, "a, out: 'nt.mutable_tensor'") == []


@pytest.mark.parametrize(
    "body",
    [
        "out = nl.ndarray((4, 4), a.dtype, buffer=nl.shared_hbm)\nnl.store(out, nl.load(a))\nreturn out",
        "a = nl.load(a)\na[0:1] = 0.0\nreturn out",
        "if out.shape[0] > 1:\n    out = nl.ndarray((4, 4), a.dtype, buffer=nl.shared_hbm)\nnl.store(out, nl.load(a))\nreturn out",
    ],
)
def test_beta1_names_that_no_longer_mean_a_parameter_may_be_written(body: str) -> None:
    assert parameters(body) == []


def test_beta1_writable_parameters_are_results() -> None:
    signature = "a, out: nt.mutable_tensor"
    store = "nl.store(out, nl.load(a))\n"
    missing = [("KW-STRICT-NOT-RETURNED", 0, "out")]
    assert parameters(store, signature) == missing
    assert parameters(store + "b = nl.ndarray((4, 4), a.dtype, buffer=nl.shared_hbm)\nreturn b", signature) == missing
    assert parameters(store + "return a, out", signature) == []
    assert parameters(store + "o = out\nreturn o", signature) == []
    assert parameters(store + "results = [a, out]\nreturn results", signature) == []


def test_a_jitted_function_that_another_kernel_calls_may_write_what_it_is_given() -> None:
    body = """
    @nki.jit
    def put(where, x):
        nl.store(where, x)

    @nki.jit(mode="trace")
    def traced(where, x):
        nl.store(where, x)

    @nki.jit
    def kernel(a):
        out = nl.ndarray(a.shape, a.dtype, buffer=nl.shared_hbm)
        put(out, nl.load(a))
        return out
    """
    assert codes(body, BETA1_HEAD, "neuronxcc.nki") == []


def test_strict_simulation_stops_at_a_write_to_a_parameter() -> None:
    body = "@nki.jit\ndef kernel(a{}):\n    nl.store(a, nl.load(a) + 1)\n    return a\n"
    x = np.zeros((4, 4), np.float32)
    with pytest.raises(KernelError, match="KW-STRICT-IMMUTABLE") as caught:
        simulate(load_source(BETA1_HEAD + body.format(""), "kernel"), x, strict=True)
    where = caught.value.diagnostic.where
    assert where is not None
    assert (where.line, where.column) == (6, 4)
    head = BETA1_HEAD + "import neuronxcc.nki.typing as nt\n"
    simulate(load_source(head + body.format(": nt.mutable_tensor"), "kernel"), x, strict=True)
    assert x.max() == 1
