"""The Beta-1 compiler's error catalogue: each fault is refused with its code, place, operand and fix, and its twin runs."""

from __future__ import annotations

from textwrap import indent

import numpy as np
import pytest

from tests.sim.beta1.run import run
from tools.sim import Diagnostic, KernelError

HEAD = "@nki.jit\ndef kernel(a, b):\n    out = nl.ndarray(a.shape, a.dtype, buffer=nl.shared_hbm)\n"
FIRST = 10
"""Line of a body's first statement."""


def refusal(body: str, strict: bool = False) -> Diagnostic | None:
    """What stops a kernel of this body; None when it runs."""
    source = HEAD + indent(body, "    ") + "\n    return out\n"
    a = np.ones((128, 512), np.float32)
    try:
        run(source, a, a.copy(), strict=strict)
    except KernelError as error:
        return error.diagnostic
    return None


def check(body: str, line: int, code: str, error: str, strict: bool = False) -> Diagnostic:
    found = refusal(body, strict)
    assert found is not None
    assert (found.code, found.where.line - FIRST + 1) == (code, line)
    assert found.where.column >= 0
    assert error in found.message
    assert found.fix
    return found


LOAD = "t = nl.load(a)\n"
STORE = "nl.store(out, t)"
PLACED = (
    "t = nl.ndarray((128, 512), nl.float32, buffer=ncc.sbuf.alloc(lambda idx, p, f: (0, 0)))\n"
    "u = nl.ndarray((128, 512), nl.float32, buffer=ncc.sbuf.alloc(lambda idx, p, f: (0, 2048)))\n"
    "z = nl.ndarray((128, 1), nl.float32, buffer=ncc.sbuf.alloc(lambda idx, p, f: (0, 4096)))\n"
    "t[...] = nl.load(a)\n"
)

ALWAYS = [
    ("nl.store(out, nl.load(a[nl.arange(128)]))", 1, "KW-INDEX-1D", "err_1d_arange_not_supported"),
    (LOAD + "nl.store(out, nl.exp(t[nl.arange(128)]))", 2, "KW-INDEX-1D", "err_1d_arange_not_supported"),
    ("t = nl.load(a[0:128, nl.arange(512)[None, :]])\n" + STORE, 1, "KW-INDEX-MIX",
     "err_unsupported_mixing_basic_advanced_tensor_indexing"),
    (LOAD + "i = nl.load(b[0:128, 0:1], dtype=nl.int32)\nnl.store(out, nisa.activation(nl.exp, t, bias=i))", 3,
     "KW-DTYPE", "bias is int32"),
    ("t: nt.tensor[64, 512] = nl.load(a)\n" + STORE, 1, "KW-SHAPE-MISMATCH", "err_annotation_shape_mismatch"),
]  # fmt: skip


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize(("body", "line", "code", "error"), ALWAYS)
def test_faults_that_always_stop_the_kernel(body, line, code, error, strict):
    check(body, line, code, error, strict)


STRICT = [
    (LOAD + "i = nl.load(b[0:128, 0:1], dtype=nl.int32)\nu = t[i, nl.arange(512)[None, :]]\nnl.store(out, u)", 3,
     "KW-STRICT-INDIRECT", "err_copy_dynamic_indirect_indices_not_natively_supported"),
    ("i = nl.load(b[0:128, 0:1], dtype=nl.int32)\nt = nl.load(a[nl.arange(128)[:, None], i])\nnl.store(out[:, 0:1], t)", 2,
     "KW-STRICT-INDIRECT", "err_indirect_indices_free_dim"),
    (PLACED + "u[...] = nisa.activation(nl.exp, t)\nnl.store(out, u)", 5, "KW-STRICT-ALLOCATED",
     "err_bias_tensor_must_be_specified_in_allocation"),
    (PLACED + "u[...] = nl.load(a)\nq = nl.matmul(t[:, 0:128], u)\nnl.store(out, q)", 6, "KW-STRICT-ALLOCATED",
     "err_transpose_on_tensor_engine_not_allowed_in_allocated_kernel"),
    (PLACED + "w = nl.zeros((128, 512), nl.float32)\nnl.store(out, nl.add(t, w))", 5, "KW-STRICT-ALLOCATED",
     "err_tensor_creation_on_scratchpad_with_init_value_not_supported"),
    ("for i in nl.affine_range(2):\n    s = nl.ndarray((128, 512), nl.float32, buffer=nl.shared_hbm)\n" + LOAD + STORE, 2,
     "KW-STRICT-SHARED-HBM", "err_shared_hbm_must_in_kernel_level"),
    ("p, f = nl.arange(128)[:, None], nl.arange(512)[None, :]\nt = nl.load(a[p, f], mask=(p % 4 < 2))\n"
     "nl.store(out[p, f], t[p, f], mask=(p % 4 < 2))", 2, "KW-MASK-EXPRESSION", "err_unsupported_expression_in_mask"),
    ("p, f = nl.arange(128)[:, None], nl.arange(512)[None, :]\nt = nl.load(a[p, f], mask=(p * f < 2))\n"
     "nl.store(out[p, f], t[p, f], mask=(p * f < 2))", 2, "KW-MASK-EXPRESSION", "err_unsupported_expression_in_mask"),
    ("for i in nl.affine_range(2):\n    t = nl.load(a)\nnl.store(out, t)", 3, "KW-STRICT-SCOPE",
     "err_local_variable_used_out_of_scope"),
]  # fmt: skip


@pytest.mark.parametrize(("body", "line", "code", "error"), STRICT)
def test_faults_that_only_the_compiler_refuses(body, line, code, error):
    check(body, line, code, error, strict=True)
    assert refusal(body) is None


CLEAN = [
    "i = nl.load(b[0:128, 0:1], dtype=nl.int32)\nt = nl.load(a[i, nl.arange(512)[None, :]])\n" + STORE,
    PLACED + "z[...] = nl.load(b[:, 0:1])\nu[...] = nisa.activation(nl.exp, t, bias=z)\nnl.store(out, u)",
    PLACED + "u[...] = nl.load(a)\nq = nl.matmul(t[:, 0:128], u, transpose_x=True)\nnl.store(out, q)",
    "t: nt.tensor[128, 512] = nl.load(a)\nn = 512\nu: nt.tensor[128, n] = nl.exp(t)\nnl.store(out, u)",
    "if a.shape[0] == 128:\n    more = nl.ndarray((128, 512), nl.float32, buffer=nl.shared_hbm)\n    t = nl.load(a)\nelse:\n    t = nl.load(b)\n"
    + STORE,
    "for i in nl.affine_range(2):\n    t = nl.load(a)\nfor i in nl.affine_range(2):\n    t = nl.load(a)\n    nl.store(out, t)",
    "p, f = nl.arange(128)[:, None], nl.arange(512)[None, :]\nt = nl.load(a[p, f], mask=(p + 2 * f < 2000))\n"
    "nl.store(out[p, f], t[p, f], mask=(p + 2 * f < 2000))",
]


@pytest.mark.parametrize("body", CLEAN)
def test_clean_twins_run_in_a_strict_run(body):
    assert refusal(body, strict=True) is None


def test_an_output_that_nothing_wrote_names_the_line_that_made_it():
    found = refusal("t = nl.load(a)")
    assert found is not None
    assert (found.code, found.where.line) == ("KW-OUTPUT-UNWRITTEN", FIRST - 1)
    assert "nl.ndarray" in found.where.text


def test_language_calls_of_module_code_name_their_line():
    with pytest.raises(KernelError) as caught:
        run("@nki.jit\ndef kernel(a):\n    return a\nnl.exp(3)\n", np.ones((4, 4), np.float32))
    found = caught.value.diagnostic
    assert (found.code, found.where.line, found.where.text) == ("KW-OUTSIDE-KERNEL", FIRST, "nl.exp(3)")


def test_local_gather_gives_a_row_of_sixteen_for_each_column_of_indices():
    source = """
        @nki.jit
        def kernel(x, index):
            out = nl.ndarray((128, 4, 16, 4), x.dtype, buffer=nl.shared_hbm)
            got: nt.tensor[128, 4, 16, 4] = nisa.local_gather(nl.load(x), nl.load(index), 4, 64)
            nl.store(out, got)
            return out
    """
    x = np.random.default_rng(0).standard_normal((128, 32, 4)).astype(np.float32)
    picks = np.random.default_rng(1).integers(0, 32, (16, 4)).astype(np.uint16)
    index = np.tile(picks * 4, (8, 1)).astype(np.uint16)
    expected = x[:, picks.T.reshape(-1)].reshape(128, 4, 16, 4)
    assert np.array_equal(run(source, x, index).outputs[0], expected)
