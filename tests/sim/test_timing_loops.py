"""Loops as the timing model sees them: read from the kernel's text, kept rolled or not by the compiler model."""

from dataclasses import replace

import numpy as np
import pytest

from tests.sim.programs import Engine, Program
from tools.sim.instruction import Flag, Trace
from tools.sim.machine import machine
from tools.sim.timing import BETA1, TimingOptions, compiled, costs, dependencies, schedule
from tools.sim.timing.barriers import barriers
from tools.sim.timing.line_loops import LineLoops, line_loops
from tools.sim.timing.optimising import reused

TRN2 = machine("trn2")
ONLY_LOOP = "for j in nl.affine_range(N):\n    load()\n    compute()\n    store()\n"


def placed_in(trace: Trace, source: str) -> Trace:
    """`trace` as if it had been recorded from `source`."""
    return replace(trace, sources={"kernel.py": source})


def test_lines_know_their_loops() -> None:
    program = Program()
    tile = program.tile(1)
    for program.line in range(1, 14):
        program.add("memset", Engine.VECTOR, out=[tile], free=1)
    source = (
        "def kernel(x):\n"  # 1
        "    a = 1\n"
        "    for i in nl.affine_range(4):\n"
        "        b = 1\n"  # 4: alone
        "    for i in nl.sequential_range(4):\n"
        "        c = 1\n"
        "        for k in static_range(4):\n"
        "            d = 1\n"  # 8: unrolled
        "        e = 1\n"
        "    for i in range(4):\n"
        "        for k in affine_range(4):\n"
        "            f = 1\n"
        "            g = 1\n"
    )
    found = line_loops(placed_in(program.finish(), source))
    assert [nest.rolled for nest in found] == [n in (4, 6, 7, 9, 12, 13) for n in range(1, 14)]
    assert found[3] == LineLoops(rolled=True, single=3, outer=3)
    assert [nest.outer for nest in found] == [0, 0, 0, 3, 0, 5, 5, 5, 5, 0, 10, 10, 10]
    assert [nest.single for nest in found if nest.single] == [3]


@pytest.mark.parametrize("source", ["for (", ""])
def test_unknown_sources_have_no_loops(source: str) -> None:
    program = Program()
    program.add("memset", Engine.VECTOR, out=[program.tile(1)], free=1)
    assert line_loops(placed_in(program.finish(), source)) == [LineLoops()]


def stream(trips: int, columns: int = 2048, loads: int = 4, source: str = ONLY_LOOP) -> Trace:
    """`trips` times: loads, one cheap instruction, a store."""
    program = Program(dialect="neuronxcc.nki")
    x = program.tile(loads * trips * columns, "float32", "hbm")
    y = program.tile(trips * columns, "float32", "shared_hbm")
    for j in range(trips):
        tiles = [program.tile(columns) for _ in range(loads)]
        program.line = 2
        for k, tile in enumerate(tiles):
            at = (j * loads + k) * columns
            program.load(tile, (x, at, at + columns))
        program.line = 3
        out = program.tile(columns)
        program.add("tensor_tensor", Engine.VECTOR, out=[out], ins=tiles, free=64)
        program.line = 4
        program.load((y, j * columns, j * columns + columns), out)
    return placed_in(program.finish(), source)


def cost_of_rolling(trace: Trace) -> float:
    """ns that barriers between trips cost."""
    overlapped = TimingOptions(compiler_model=replace(BETA1, trip_barriers=False))
    return schedule(trace, TRN2).latency_ns - schedule(trace, TRN2, overlapped).latency_ns


@pytest.mark.parametrize("columns", [512, 2048])
def test_uneven_trips_lose_a_round_trip_each(columns: int) -> None:
    round_trip = TRN2.dma_trigger_ns + TRN2.dma_start_ns + TRN2.dma_completion_ns
    assert cost_of_rolling(stream(50, columns)) == pytest.approx(50 * round_trip, rel=0.15)


@pytest.mark.parametrize("trips", [8, 16, 48])
def test_short_and_even_loops_overlap(trips: int) -> None:
    assert cost_of_rolling(stream(trips)) == 0


@pytest.mark.parametrize("loop", ["static_range", "sequential_range", "range"])
def test_other_loops_overlap(loop: str) -> None:
    assert cost_of_rolling(stream(50, source=ONLY_LOOP.replace("affine_range", loop))) == 0


def test_a_loop_inside_another_overlaps() -> None:
    source = "for i in nl.affine_range(5): pass\n" + ONLY_LOOP
    assert cost_of_rolling(stream(50, source="\n".join(source.split("\n")[1:]))) > 0
    nested = "for i in nl.affine_range(5):\n  for j in nl.affine_range(10):\n    compute()\n    store()\n"
    assert cost_of_rolling(stream(50, source=nested)) == 0


@pytest.mark.parametrize("loads", [20, 40])
def test_many_loads_of_a_trip_block_no_queue(loads: int) -> None:
    trace = stream(21, 128, loads)
    assert schedule(trace, TRN2).latency_ns > 0
    if loads > 32:
        assert cost_of_rolling(trace) == 0


def test_tiles_too_large_for_a_pipeline_run_without_barriers() -> None:
    # One trip fills SBUF: its store has to end before the next trip can load.
    trace = stream(17, 20480, 1)
    cost = costs(trace, TRN2)
    edges = dependencies(trace, TRN2, cost)
    assert barriers(trace, TRN2, cost, edges) is None
    assert cost_of_rolling(trace) == 0


def test_compiled_loop_keeps_the_barriers() -> None:
    pytest.importorskip("numba")
    trace = stream(50)
    plain = schedule(trace, TRN2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiled, "wanted", lambda count: True)
        assert np.array_equal(plain.start_ns, schedule(trace, TRN2).start_ns)


def phases(source: str) -> float:
    """ns of two phases that hand blocks over through HBM."""
    program = Program(dialect="neuronxcc.nki")
    x, y = program.tile(8 * 512, "float32", "hbm"), program.tile(8 * 512, "float32", "shared_hbm")
    scores = program.tile(8 * 512, "float32", "private_hbm")
    for program.line, (source_tensor, target) in ((2, (x, scores)), (5, (scores, y))):
        for block in range(8):
            at, tile, made = (block * 512, block * 512 + 512), program.tile(512), program.tile(512)
            program.load(tile, (source_tensor, *at))
            program.add("activation", Engine.SCALAR, out=[made], ins=[tile], free=4096)
            program.load((target, *at), made)
    return schedule(placed_in(program.finish(), source), TRN2).latency_ns


def test_another_nest_waits_for_the_whole_tensor() -> None:
    apart = phases("for i in affine_range(8):\n    a()\n\nfor i in affine_range(8):\n    b()\n")
    together = phases("for i in affine_range(8):\n    a()\n\n    \n    b()\n")
    round_trips = TRN2.dma_trigger_ns + TRN2.dma_start_ns + TRN2.dma_completion_ns
    assert apart > together + round_trips


def products(inner: str) -> Trace:
    """Four outer trips, in each the same two products of two tiles."""
    program = Program(dialect="neuronxcc.nki")
    x, y = program.tile(1024, "float32", "hbm"), program.tile(4096, "float32", "shared_hbm")
    left, right = program.tile(512), program.tile(512)
    program.load(left, (x, 0, 512))
    program.load(right, (x, 512, 1024))
    program.line = 3
    for _ in range(4):
        for k, tile in enumerate((left, right)):
            product = program.tile(512)
            program.add("tensor_tensor", Engine.VECTOR, out=[product], ins=[tile], free=512)
            program.load((y, 512 * k, 512 * k + 512), product)
    text = f"for i in nl.affine_range(4):\n    for k in nl.{inner}(2):\n        product()\n"
    return placed_in(program.finish(), text)


@pytest.mark.parametrize(("inner", "dropped"), [("affine_range", 0), ("static_range", 6)])
def test_invariants_leave_the_loop_they_stand_in_only(inner: str, dropped: int) -> None:
    _, gone = reused(products(inner), TRN2)
    assert int(gone.sum()) == dropped


@pytest.mark.parametrize(("dtype", "passes"), [("float32", 4), ("bfloat16", 1)])
def test_wide_transposes_on_vector_take_four_passes(dtype: str, passes: int) -> None:
    program = Program()
    a, b = program.tile(32, dtype, rows=32), program.tile(32, dtype, rows=32)
    flags = Flag.TRANSPOSE | (Flag.FP32 if dtype == "float32" else 0)
    program.add("nc_transpose", Engine.VECTOR, out=[b], ins=[a], partitions=32, free=32, aux=32, flags=flags)
    cycles = 32 * passes + TRN2.vector_overhead_cycles
    assert costs(program.finish(), TRN2).issue_ns[0] == pytest.approx(max(cycles, 64) / TRN2.vector_ghz)


def test_rows_off_the_grid_cost_more_and_packets_cost_by_length() -> None:
    def work(columns: int) -> float:
        program = Program()
        x, t = program.tile(columns, "float32", "hbm"), program.tile(columns)
        program.load(t, x)
        return float(costs(program.finish(), TRN2).work_ns[0])

    rows = TRN2.partitions / TRN2.dma_engines
    assert work(684) - work(688) == pytest.approx(rows * (TRN2.dma_unaligned_ns - 16 / TRN2.dma_bytes_per_ns))
    assert work(1024 + 512) == pytest.approx(1.5 * work(1024))
