"""Time by loop: which loop a line belongs to, how often it ran, and that nothing is counted twice or lost."""

from __future__ import annotations

import ast

import numpy as np
import pytest

from tests.insight.conftest import BLOCKED, record
from tools.sim.profiler import Profile
from tools.sim.source_loops import LoopTime, loops_of
from tools.sim.trips import names_of, trips

HEAD = "import nki\nimport nki.language as nl\nimport nki.isa as nisa\n\n"


def profiled(source: str, *shapes: tuple[int, int]) -> Profile:
    return record(source, *(np.zeros(shape, np.float32) for shape in shapes)).profile


def loop(profile: Profile, header: str) -> LoopTime:
    (found,) = [entry for entry in profile.loops if entry.header.startswith(header)]
    return found


def test_nested_loops_are_counted_and_the_outer_holds_the_inner() -> None:
    profile = profiled(BLOCKED, (384, 256), (384, 1024))
    m, n, k = profile.loops
    assert [entry.depth for entry in (m, n, k)] == [0, 1, 2]
    assert [entry.iterations for entry in (m, n, k)] == [2, 4, 12]
    assert (n.parent_line, k.parent_line) == (m.first_line, n.first_line)
    assert k.header == "for k in range(x.shape[0] // 128)"
    assert set(k.engines) == {"Tensor", "DMA"}
    assert set(n.engines) == {"Tensor", "DMA", "Vector"}
    assert k.dma_bytes == 12 * (128 * 128 + 128 * 512) * 4
    assert m.dma_bytes == k.dma_bytes + 4 * 128 * 512 * 4
    assert m.own_us == 0.0
    assert n.busy_us == pytest.approx(n.own_us + k.busy_us)
    assert 0 < k.active_us <= m.active_us <= profile.latency_us


def test_loops_and_the_lines_outside_them_add_up_to_all_lines() -> None:
    profile = profiled(BLOCKED, (256, 256), (256, 512))
    (outer,) = [entry for entry in profile.loops if entry.depth == 0]
    for name in ("busy_us", "stall_us", "instructions", "dma_bytes"):
        assert getattr(outer, name) == pytest.approx(sum(getattr(line, name) for line in profile.lines))
    assert outer.busy_us == pytest.approx(sum(outer.engines.values()))


HELPERS = (
    HEAD
    + """
def scaled(t, by):
    for part in range(2):
        nisa.tensor_scalar(t[:, part*32:(part+1)*32], t[:, part*32:(part+1)*32], nl.multiply, by)

def shifted(t):
    nisa.tensor_scalar(t, t, nl.add, 1.0)

@nki.jit
def kernel(x):
    out = nl.ndarray(x.shape, dtype=x.dtype, buffer=nl.shared_hbm)
    for i in range(x.shape[0] // 128):
        t = nl.ndarray((128, 64), dtype=x.dtype, buffer=nl.sbuf)
        nisa.dma_copy(dst=t, src=x[i*128:(i+1)*128, :])
        scaled(t, 2.0)
        shifted(t)
        nisa.dma_copy(dst=out[i*128:(i+1)*128, :], src=t)
    for j in range(3):
        u = nl.ndarray((128, 64), dtype=x.dtype, buffer=nl.sbuf)
        nisa.memset(u, 0.0)
        shifted(u)
        nisa.dma_copy(dst=out[0:128, :], src=u)
    return out

def test():
    for size in (128, 256):
        kernel(size)
"""
)


def test_a_helper_counts_to_the_loop_that_holds_all_its_calls() -> None:
    profile = profiled(HELPERS, (512, 64))
    i, part, j = loop(profile, "for i"), loop(profile, "for part"), loop(profile, "for j")
    assert (i.depth, part.depth, j.depth) == (0, 1, 0), "the test's loop calls the kernel and isn't part of it"
    assert part.parent_line == i.first_line
    assert i.helpers == ("scaled",)
    assert (i.iterations, part.iterations, j.iterations) == (4, 8, 3)
    # `shifted` is called from both loops: its line says nothing about which, so it counts to neither.
    assert i.instructions == 4 * (2 + 2)
    assert j.instructions == 3 * 2
    assert j.helpers == ()


def test_a_loop_of_one_statement_is_counted_by_its_instructions() -> None:
    body = "    for i in range(x.shape[0] // 128):\n        nisa.dma_copy(dst=out[i*128:(i+1)*128, :], src=x[i*128:(i+1)*128, :])\n"
    text = (
        HEAD
        + "@nki.jit\ndef kernel(x):\n    out = nl.ndarray(x.shape, dtype=x.dtype, buffer=nl.shared_hbm)\n"
        + body
        + "    return out\n"
    )
    (only,) = profiled(text, (640, 64)).loops
    assert (only.iterations, only.instructions) == (5, 5)


def test_what_only_some_iterations_run_says_nothing_about_their_number() -> None:
    text = HEAD + (
        "@nki.jit\ndef kernel(x):\n    out = nl.ndarray(x.shape, dtype=x.dtype, buffer=nl.shared_hbm)\n"
        "    for i in range(4):\n        if i == 2:\n            nisa.dma_copy(dst=out, src=x)\n    return out\n"
    )
    (only,) = profiled(text, (128, 64)).loops
    assert only.iterations is None
    assert only.instructions == 1


def test_a_loop_around_one_inner_loop_is_counted_by_the_inner_ones_range() -> None:
    text = HEAD + (
        "@nki.jit\ndef kernel(x):\n    out = nl.ndarray(x.shape, dtype=x.dtype, buffer=nl.shared_hbm)\n"
        "    for i in range(x.shape[1] // 64):\n        for j in nl.affine_range(2):\n"
        "            nisa.dma_copy(dst=out[:, j*32:(j+1)*32], src=x[:, j*32:(j+1)*32])\n    return out\n"
    )
    i, j = profiled(text, (128, 192)).loops
    assert (i.iterations, j.iterations) == (3, 6)
    assert j.header == "for j in nl.affine_range(2)"


BETA1 = """
import neuronxcc.nki as nki
import neuronxcc.nki.language as nl

@nki.jit
def kernel(x):
    out = nl.ndarray(x.shape, dtype=x.dtype, buffer=nl.shared_hbm)
    for i in nl.affine_range(4):
        t = nl.load(x[nl.ds(i * 128, 128), :])
        s = nl.softmax(t, axis=-1)
        nl.store(out[nl.ds(i * 128, 128), :], s)
    return out
"""


def test_beta1_loops() -> None:
    (only,) = profiled(BETA1, (512, 64)).loops
    assert only.iterations == 4
    assert only.header == "for i in nl.affine_range(4)"


def test_loops_of_two_cores_add_up() -> None:
    text = BLOCKED.replace("range(x.shape[1] // 128)", "range(nl.program_id(0), x.shape[1] // 128, 2)")
    x = np.zeros((256, 512), np.float32)
    result = record(text, x, x, grid=2)
    assert result.trace.cores == 2
    assert result.profile.loops[0].iterations == 4


def test_source_that_is_not_python_has_no_loops() -> None:
    assert loops_of("for for for").loops == ()


def test_recursion_and_while_are_read() -> None:
    found = loops_of("def f(n):\n    while n:\n        f(n - 1)\n        for i in range(0, 10, 3):\n            g(i)\n")
    assert [(nest.header, nest.depth) for nest in found.loops] == [("while n", 0), ("for i in range(0, 10, 3)", 1)]
    assert "i" not in names_of(ast.parse("i = 1\ni = 2"), None).values


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("range(0, 10, 3)", 4),
        ("nl.affine_range(-(-x.shape[0] // 128))", 4),
        ("range(K // TILE)", 2),
        ("range(min(M, 3))", 3),
        ("range(M, 0, -100)", 5),
        ("range(4 // 0)", None),
        ("range(0, 4, 0)", None),
        ("range(unknown)", None),
        ("range(twice)", None),
        ("range(itself)", None),
        ("tiles", None),
        ("range(0, M, rows)", 4),
        ("range(0, K, free)", 1),
        ("range(odd)", None),
    ],
)
def test_trips_follow_from_numbers_and_shapes(header: str, expected: int | None) -> None:
    text = (
        "TILE = 128\ndef kernel(x, tiles):\n    M, K = x.shape\n    twice = 1\n    twice = 2\n    itself = itself + 1\n"
        "    rows, free, odd = nl.tile_size.pmax, nl.tile_size.gemm_moving_fmax, unknown\n"
        f"    for i in {header}:\n        pass\n"
    )
    (only,) = loops_of(text).loops
    assert only.counter is not None
    assert trips(*only.counter, {"x": (500, 256)}) == expected
