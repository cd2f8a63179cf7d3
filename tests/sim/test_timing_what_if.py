"""Machines that differ from the published ones: programs keep their order, so nothing slower makes them faster."""

from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.sim.programs import Engine, Flag, Program
from tools.sim.instruction import Trace
from tools.sim.machine import Machine, machine
from tools.sim.timing import BETA1, BETA2, TimingOptions, compiled, schedule

STEADY = TimingOptions(throttle=False)
"""The clock cap looks at windows of wall time: what ends a little later may fall into a faster window."""

STEPS = st.lists(
    st.tuples(
        st.sampled_from(["load", "store", "matmul", "vector", "scalar", "gpsimd"]),
        st.integers(0, 5),
        st.integers(0, 5),
        st.sampled_from([64, 128, 512]),
    ),
    min_size=1,
    max_size=60,
)
QUEUES = (Engine.UNKNOWN, Engine.SYNC, Engine.SCALAR, Engine.GPSIMD)

RATES = ("dma_bytes_per_ns", "hbm_stack_gbps", "tensor_ghz", "vector_ghz", "scalar_ghz", "gpsimd_ghz")
TIMES = ("dma_trigger_ns", "dma_descriptor_ns", "dma_start_ns", "dma_completion_ns", "semaphore_ns", "tensor_load_ns")


def program(steps: list[tuple[str, int, int, int]], target: str) -> Trace:
    """DMAs on four queues and work on all engines over a few tiles that they keep reusing."""
    p = Program(target)
    tiles = [p.tile(512) for _ in range(6)]
    banks = [p.tile(512, "float32", "psum") for _ in range(6)]
    x, y = p.tile(512, "float32", "hbm"), p.tile(6 * 512, "float32", "shared_hbm")
    engines = {"vector": Engine.VECTOR, "scalar": Engine.SCALAR, "gpsimd": Engine.GPSIMD}
    for kind, i, j, n in steps:
        if kind == "load":
            p.load((tiles[i], 0, n), (x, 0, n), QUEUES[j % 4])
        elif kind == "store":
            p.load((y, 512 * i, 512 * i + n), (tiles[j], 0, n), QUEUES[i % 4])
        elif kind == "matmul":
            p.matmul(banks[i], (tiles[j], 0, 128), tiles[(j + 1) % 6], n=n)
        elif kind == "vector" and j % 2:
            p.copy((tiles[i], 0, n), (banks[j], 0, n), n=n, flags=Flag.PSUM_SRC)
        else:
            p.copy((tiles[i], 0, n), (tiles[j], 0, n), n=n, engine=engines[kind])
    return p.finish()


def slowed(known: Machine, names: set[str], factor: float) -> Machine:
    """`known` with each of the named rates divided, and each of the named times multiplied, by `factor`."""
    changes = {n: getattr(known, n) / factor if n in RATES else getattr(known, n) * factor for n in names}
    return replace(known, **changes)


@settings(max_examples=150, deadline=None)
@given(
    STEPS, st.sampled_from(["trn1", "trn2"]), st.sampled_from([BETA1, BETA2]),
    st.sets(st.sampled_from(RATES + TIMES), min_size=1, max_size=4), st.sampled_from([1.1, 2.0, 7.0]),
)  # fmt: skip
def test_a_slower_machine_is_never_faster(
    steps: list[tuple[str, int, int, int]], target: str, model: object, names: set[str], factor: float
) -> None:
    trace, known = program(steps, target), machine(target)
    options = replace(STEADY, compiler_model=model)  # type: ignore[arg-type]
    assert (
        schedule(trace, slowed(known, names, factor), options).latency_ns >= schedule(trace, known, options).latency_ns
    )


@settings(max_examples=60, deadline=None)
@given(STEPS, st.sampled_from(["trn1", "trn2"]))
def test_a_number_that_plays_no_part_changes_nothing(steps: list[tuple[str, int, int, int]], target: str) -> None:
    trace, known = program(steps, target), machine(target)
    other = replace(known, collective_gbps=known.collective_gbps / 2)
    found, expected = schedule(trace, other), schedule(trace, known)
    for name in ("start_ns", "issue_ns", "end_ns", "data_start_ns", "data_end_ns"):
        assert np.allclose(getattr(found, name), getattr(expected, name), rtol=0, atol=1e-6), name


@pytest.mark.skipif(not compiled.available(), reason="needs numba")
@settings(max_examples=30, deadline=None)
@given(STEPS, st.sampled_from(["trn1", "trn2"]))
def test_the_compiled_loop_keeps_the_order_too(steps: list[tuple[str, int, int, int]], target: str) -> None:
    trace, slow = program(steps, target), slowed(machine(target), set(RATES), 3.0)
    plain = schedule(trace, slow, STEADY)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiled, "wanted", lambda count: True)
        fast = schedule(trace, slow, STEADY)
    for field in fields(plain):
        found = getattr(plain, field.name)
        if isinstance(found, np.ndarray):
            assert np.array_equal(found, getattr(fast, field.name)), field.name
