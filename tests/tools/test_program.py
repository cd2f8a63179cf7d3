"""Recording without data and replaying elsewhere gives what a direct run gives: for the library and for Beta-1 kernels."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tests.tools.tasks import HEAD, task
from tools import draws
from tools.evaluate import evaluate
from tools.library import library, load
from tools.program import Program, record, replay, run_directly
from tools.sandbox import Worker
from tools.sim import load_source, machine, simulate
from tools.sim.dtypes import ALL
from tools.task import Kernel


@pytest.mark.parametrize("op", [entry.op for entry in library()])
def test_a_record_without_data_replays_to_the_same_bits(op: str) -> None:
    kernel, task = load(op, "small")
    values = draws.plain(task.inputs, np.random.default_rng(3))
    loaded = load_source(kernel.source, kernel.function)
    direct = simulate(loaded, *[v.copy() for v in values], target=task.target)
    shapes = [np.broadcast_to(np.zeros((), v.dtype), v.shape) for v in values]
    program, _, _ = record(loaded, shapes, task.target)
    header, tables = program.pack()
    sent = Program.unpack(json.loads(json.dumps(header)), tables, kernel.source, "kernel.py")
    replayed = replay(sent, values, machine(task.target))
    assert not program.opaque
    assert not program.depends_on_data
    assert np.array_equal(sent.trace.instructions, direct.trace.instructions)
    assert [a.tobytes() for a in replayed.outputs] == [b.tobytes() for b in direct.outputs]


MERGE = (
    HEAD
    + """
@nki.jit
def kernel(a, b):
    out = nl.ndarray((32, 48), dtype=nl.float32, buffer=nl.shared_hbm)
    left = nl.ndarray(a.shape, dtype=a.dtype, buffer=nl.sbuf)
    right = nl.ndarray(b.shape, dtype=b.dtype, buffer=nl.sbuf)
    bank = nl.ndarray((32, 48), dtype=nl.float32, buffer=nl.psum)
    done = nl.ndarray((32, 48), dtype=nl.float32, buffer=nl.sbuf)
    nisa.dma_copy(dst=left, src=a)
    nisa.dma_copy(dst=right, src=b)
    nisa.nc_matmul(bank[:, 0:32], left, right[:, 0:32])
    nisa.nc_matmul(bank[:, 16:48], left, right[:, 0:32])
    nisa.nc_matmul(bank, left, right)
    nisa.tensor_copy(done, bank)
    nisa.dma_copy(dst=out, src=done)
    return out
"""
)


def test_overlapping_accumulation_groups_replay() -> None:
    rng = np.random.default_rng(5)
    values = [rng.standard_normal((64, 32)).astype(np.float32), rng.standard_normal((64, 48)).astype(np.float32)]
    loaded = load_source(MERGE)
    direct = simulate(loaded, *values).outputs[0]
    program, _, _ = record(loaded, values, "trn2")
    assert np.array_equal(replay(program, values, machine("trn2")).outputs[0], direct)


BETA1 = """
import neuronxcc.nki as nki
import neuronxcc.nki.language as nl


@nki.jit
def kernel(a):
    out = nl.ndarray(a.shape, dtype=a.dtype, buffer=nl.shared_hbm)
    for i in nl.affine_range(a.shape[0] // 128):
        rows, columns = nl.mgrid[0:128, 0:64]
        tile = nl.load(a[i * 128 + rows, columns], mask=(columns < 64))
        nl.store(out[i * 128 + rows, columns], nl.exp(tile) * 2.0)
    return out
"""


def test_kernels_of_the_older_dialect_are_judged_too(worker: Worker) -> None:
    wanted = task("def reference(a):\n    return np.exp(a) * 2", ("a", (256, 64), "float32"))
    found = evaluate(Kernel(source=BETA1, dialect="neuronxcc.nki"), wanted, worker=worker)
    assert found.correct, found.first_problem
    assert found.performance is not None


def test_kernels_of_the_older_dialect_replay_to_the_bits_of_a_direct_run() -> None:
    a = np.random.default_rng(5).standard_normal((256, 64)).astype(np.float32)
    loaded = load_source(BETA1)
    program, _, _ = record(loaded, [a], "trn1")
    assert not program.opaque
    _, direct, _ = run_directly(loaded, [a], "trn1")
    (replayed,) = replay(program, [a], machine("trn1")).outputs
    assert replayed.tobytes() == direct[0].tobytes()


TWO_CORES = (
    HEAD
    + """
def work(a):
    out = nl.ndarray(a.shape, dtype=a.dtype, buffer=nl.shared_hbm)
    core, cores = nl.program_id(0), nl.num_programs(0)
    half = a.shape[0] // cores
    for i in range(half // 128):
        first = core * half + i * 128
        tile = nl.ndarray((128, a.shape[1]), dtype=a.dtype, buffer=nl.sbuf)
        nisa.dma_copy(dst=tile, src=a[first : first + 128, :])
        nisa.activation(dst=tile, op=nl.exp, data=tile)
        nisa.dma_copy(dst=out[first : first + 128, :], src=tile)
    return out

kernel = nki.jit(work)[2]
"""
)


def test_a_record_that_is_partial_is_run_directly_and_says_so(worker: Worker) -> None:
    wanted = task("def reference(a):\n    return np.exp(a)", ("a", (256, 64), "float32"))
    found = evaluate(Kernel(source=TWO_CORES), wanted, worker=worker)
    assert found.correct, found.first_problem
    assert any("several cores" in f.message for f in found.findings if f.code == "KW-COVERAGE")
    wrong = evaluate(Kernel(source=TWO_CORES.replace("nl.exp", "nl.square")), wanted, worker=worker)
    assert wrong.failure == "wrong"


def test_capacity_is_the_judges_business_too(worker: Worker) -> None:
    source = (
        HEAD
        + """
@nki.jit
def kernel(a):
    out = nl.ndarray(a.shape, dtype=a.dtype, buffer=nl.shared_hbm)
    kept = []
    for i in range(40):
        tile = nl.ndarray((128, 2048), dtype=a.dtype, buffer=nl.sbuf)
        nisa.dma_copy(dst=tile, src=a)
        kept.append(tile)
    for tile in kept:
        nisa.activation(dst=tile, op=nl.exp, data=tile)
    nisa.dma_copy(dst=out, src=kept[-1])
    return out
"""
    )
    wanted = task("def reference(a):\n    return np.exp(a)", ("a", (128, 2048), "float32"))
    found = evaluate(Kernel(source=source), wanted, worker=worker)
    assert found.failure == "rejected"
    assert found.findings[0].code == "KW-SBUF-CAPACITY"


def test_every_type_of_the_language_has_a_name_on_the_wire() -> None:
    from tools.execution import type_name
    from tools.wire import storage_type

    for code, kind in enumerate(ALL):
        assert storage_type(type_name(code)).itemsize == kind.itemsize
