"""A minimal kernel for each hazard of the recorded stream, and its clean twin."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tools.sim import Severity, SimResult, load_source, simulate

HEAD = "import nki\nimport nki.language as nl\nimport nki.isa as nisa\n\n@nki.jit\ndef kernel(x):\n"
LOAD = """
    out = nl.ndarray(x.shape, dtype=x.dtype, buffer=nl.shared_hbm)
    t = nl.ndarray(x.shape, dtype=x.dtype, buffer=nl.sbuf)
    nisa.dma_copy(t, x)
"""
STORE = """
    nisa.dma_copy(out, t)
    return out
"""


def run(body: str, shape: tuple[int, ...] = (128, 64), **options: Any) -> SimResult:
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    return simulate(load_source(HEAD + LOAD + body + STORE), x, **options)


def codes(body: str, shape: tuple[int, ...] = (128, 64), **options: Any) -> list[str]:
    return [d.code for d in run(body, shape, **options).diagnostics]


PLACED = """
    a = nl.ndarray((128, 64), dtype=nl.float32, buffer=nl.sbuf, address=(0, 1024))
    nisa.tensor_copy(a, t)
    b = nl.ndarray((128, 64), dtype=nl.float32, buffer=nl.sbuf, address=(0, {}))
    nisa.memset(b, 1.0)
    nisa.tensor_tensor(t, a, b, nl.add)
"""

AGAIN = """
    a = nl.ndarray((128, 64), dtype=nl.float32, buffer=nl.sbuf, address=(0, 0))
    nisa.tensor_copy(a, t)
    nisa.tensor_copy(t, a)
    b = nl.ndarray((128, 64), dtype=nl.float32, buffer=nl.sbuf, address=(0, 0))
    nisa.memset(b, 1.0)
    nisa.tensor_copy(t, b)
"""


def test_live_tiles_over_each_other():
    result = run(PLACED.format(1024 + 252))
    found = [d for d in result.diagnostics if d.code == "KW-ADDRESS-OVERLAP"]
    assert len(found) == 1
    assert found[0].where is not None
    assert "address=(0, 1276)" in found[0].where.text
    assert "read again at kernel.py:" in found[0].message
    assert codes(PLACED.format(1024 + 256)) == []
    assert codes(AGAIN) == []


def test_other_partitions_do_not_overlap():
    body = """
    a = nl.ndarray((64, 64), dtype=nl.float32, buffer=nl.sbuf, address=(0, 0))
    nisa.tensor_copy(a, t[0:64])
    b = nl.ndarray((64, 64), dtype=nl.float32, buffer=nl.sbuf, address=(64, 0))
    nisa.tensor_copy(b, t[64:128])
    nisa.tensor_tensor(t[0:64], a, b, nl.add)
"""
    assert codes(body) == []


def test_addresses_beyond_the_memory():
    result = run(PLACED.format(1 << 18))
    assert [(d.code, d.severity) for d in result.diagnostics] == [("KW-ADDRESS-RANGE", Severity.ERROR)]


TILES = """
    for i in range(8):
        keep = nl.ndarray((128, {}), dtype=nl.float32, buffer=nl.sbuf)
        nisa.memset(keep, 1.0)
        nisa.tensor_tensor(t, t, keep[:, 0:64], nl.add)
"""

HELD = """
    tiles = [nl.ndarray((128, 8192), dtype=nl.float32, buffer=nl.sbuf) for _ in range({})]
    for tile in tiles:
        nisa.memset(tile, 1.0)
    for tile in tiles:
        nisa.tensor_tensor(t, t, tile[:, 0:64], nl.add)
"""


def test_sbuf_capacity_counts_what_is_live():
    assert codes(TILES.format(32768)) == []
    assert codes(HELD.format(5)) == []
    found = [d for d in run(HELD.format(7)).diagnostics if d.code == "KW-SBUF-CAPACITY"]
    assert len(found) == 1
    assert found[0].severity is Severity.ERROR
    assert found[0].found == 7 * 8192 * 4 + 256
    assert codes(HELD.format(7), target="trn3") == []


PSUM = """
    groups = [nl.ndarray((64, 512), dtype=nl.float32, buffer=nl.psum) for _ in range({})]
    w = nl.ndarray((128, 512), dtype=nl.float32, buffer=nl.sbuf)
    nisa.memset(w, 1.0)
    for g in groups:
        nisa.nc_matmul(g, t, w)
    for g in groups:
        nisa.tensor_tensor(t[0:64], t[0:64], g[:, 0:64], nl.add)
"""


def test_psum_capacity_counts_what_is_live():
    assert codes(PSUM.format(8)) == []
    assert codes(PSUM.format(9)) == ["KW-PSUM-CAPACITY"]


@pytest.mark.parametrize(
    ("rows", "clean"),
    [
        ("32:64", True),
        ("96:128", True),
        ("64:128", True),
        ("0:128", True),
        ("16:32", False),
        ("32:96", False),
        ("1:2", False),
    ],
)
def test_start_partitions(rows, clean):
    found = codes(f"\n    nisa.tensor_scalar(t[{rows}], t[{rows}], nl.multiply, 2.0)\n")
    assert found == ([] if clean else ["KW-START-PARTITION"])


BANK = """
    p = nl.ndarray((64, 1024), dtype=nl.float32, buffer=nl.psum)
    nisa.nc_matmul(p[:, 0:512], t, w)
    nisa.nc_matmul(p[:, {0}:{0} + 256], t, w[:, 0:256])
    nisa.tensor_copy(t[0:64], p[:, {0}:{0} + 64])
    nisa.tensor_copy(t[0:64], p[:, 0:64])
"""
WEIGHTS = "\n    w = nl.ndarray((128, 512), dtype=nl.float32, buffer=nl.sbuf)\n    nisa.memset(w, 1.0)\n"


def test_matmul_results_stay_in_a_bank():
    assert codes(WEIGHTS + BANK.format(512)) == []
    assert codes(WEIGHTS + BANK.format(384)) == ["KW-PSUM-BANK"]
    assert codes(WEIGHTS + BANK.format(384), target="trn3") == []


def test_results_that_nobody_reads():
    body = "\n    u = nl.ndarray((128, 64), dtype=nl.float32, buffer=nl.sbuf)\n    nisa.tensor_copy(u, t)\n"
    found = run(body).diagnostics
    assert [(d.code, d.severity) for d in found] == [("KW-UNUSED-RESULT", Severity.NOTE)]
    assert codes(body + "    nisa.tensor_copy(t, u)\n") == []


def test_a_dst_that_a_reduction_needs_is_no_waste():
    body = """
    u = nl.ndarray((128, 64), dtype=nl.float32, buffer=nl.sbuf)
    s = nl.ndarray((128, 1), dtype=nl.float32, buffer=nl.sbuf)
    nisa.activation(u, nl.square, t, reduce_op=nl.add, reduce_res=s, reduce_cmd=nisa.reduce_cmd.reset_reduce)
    nisa.tensor_scalar(t, t, nl.multiply, s)
"""
    assert codes(body) == []


def test_beta1_tiles_beyond_capacity_are_spilled_by_that_compiler_hence_a_warning():
    result = run(HELD.format(7))
    result.trace.dialect = "neuronxcc.nki"
    (found,) = [d for d in result.diagnostics if d.code == "KW-SBUF-CAPACITY"]
    assert found.severity is Severity.WARNING
