from collections.abc import Callable

import numpy as np
import pytest

from tests.sim.programs import Engine, Flag, Program
from tools.insight import Observed, TraceError, check, check_order, edits
from tools.insight import counterfactual as what_if
from tools.insight.blocking import blocked_loads
from tools.sim.execute import SimResult
from tools.sim.instruction import Inst, Operand, Trace
from tools.sim.machine import machine
from tools.sim.timing import IN_ORDER, Edges, TimingOptions, schedule

TRN2 = machine("trn2")
PLAIN = TimingOptions(compiler_model=IN_ORDER)


def single_buffered(count: int = 8) -> Trace:
    program = Program()
    x, y = program.tile(2048, space="hbm", role="input"), program.tile(2048, space="shared_hbm")
    t = program.tile(2048)
    for _ in range(count):
        program.line = 1
        program.load(t, x)
        program.line = 2
        r = program.tile(2048)
        program.copy(r, t, n=2048, engine=Engine.SCALAR)
        program.line = 3
        program.load(y, r)
    return program.finish()


def seen(trace: Trace) -> Observed:
    return Observed.of(trace, TRN2, PLAIN)


def test_dropping_keeps_the_operands_of_the_others() -> None:
    trace = single_buffered(3)
    gone = trace.column(Inst.LINE) == 1
    left = edits.drop(trace, gone)
    check(left)
    assert len(left) == len(trace) - 3
    owner, before = edits.owners(left), edits.owners(trace)
    kept = ~gone[before]
    np.testing.assert_array_equal(left.operands, trace.operands[kept])
    assert (np.diff(owner) >= 0).all()


def test_doubling_alternates_and_new_fills_start_new_tiles() -> None:
    trace = single_buffered(6)
    twice = edits.rotate(trace, [2], 2)
    loads = edits.owners(twice)[twice.operands[:, Operand.FLAGS] == 1]
    names = twice.operands[twice.operands[:, Operand.FLAGS] == 1, Operand.BUFFER][twice.column(Inst.LINE)[loads] == 0]
    assert names[0] == names[2] == names[4] == 2
    assert names[1] == names[3] == names[5] != 2
    readers = twice.operands[(edits.owners(twice) % 3 == 1) & (twice.operands[:, Operand.FLAGS] == 2), Operand.BUFFER]
    np.testing.assert_array_equal(readers, names)
    always = edits.rotate(trace, [2], 0)
    assert len(always.buffers) == len(trace.buffers) + 5
    assert schedule(twice, TRN2, PLAIN).latency_ns < schedule(trace, TRN2, PLAIN).latency_ns


def test_an_accumulator_is_never_torn_apart() -> None:
    program = Program()
    x, y, t = program.tile(512, space="hbm"), program.tile(512, space="shared_hbm"), program.tile(512)
    program.load((t, 0, 256), x)
    program.copy(t, (t, 0, 256), n=256)
    program.load((t, 256, 512), x)  # half of the tile is filled anew, the other half stays
    program.load(y, t)
    trace = program.finish()
    assert edits.rotate(trace, [2], 2).buffers == trace.buffers


def test_repeated_loads_are_those_of_one_unwritten_region() -> None:
    program = Program()
    x, y, t = program.tile(512, space="hbm"), program.tile(512, space="shared_hbm"), program.tile(512)
    for source in (x, (x, 0, 256), x, y):
        program.load(t, source)
    program.load(y, t)
    program.load(t, y)
    trace = program.finish()
    loads = np.array([True, True, True, True, False, True])
    assert edits.repeated_loads(trace, loads).tolist() == [-1, -1, 0, -1, -1, -1]


def test_gathers_are_never_taken_for_repeats() -> None:
    program = Program()
    x, t = program.tile(512, space="hbm"), program.tile(512)
    for _ in range(2):
        program.load(t, x, flags=Flag.INDIRECT)
    assert (edits.repeated_loads(program.finish(), np.array([True, True])) == -1).all()


def test_hoisting_says_when_sbuf_cannot_hold_it(blocked: Callable[..., SimResult]) -> None:
    result = blocked(1024)
    small = what_if.loads_hoisted(Observed.of(result.trace, result.machine))
    assert small is not None
    assert small.gain_us > 0
    assert "resident" in small.caveat
    program = Program()
    x, y = program.tile(65536, space="hbm"), program.tile(512, space="shared_hbm")
    r = program.tile(512)
    for _ in range(2):
        for k in range(128):
            t = program.tile(512)
            program.load(t, (x, 512 * k, 512 * (k + 1)))
            program.copy(r, t)
    program.load(y, r)
    large = what_if.loads_hoisted(seen(program.finish()))
    assert large is not None
    assert "block the loops" in large.caveat
    assert not large.feasible


def test_hoisting_more_than_fits_is_timed_as_blocked_loops() -> None:
    program = Program()
    x, w = (
        program.tile(8192, space="hbm", role="input"),
        program.tile(1 << 18, space="hbm", role="input"),
    )
    y = program.tile(512, space="shared_hbm")
    for m in range(8):
        for k in range(256):
            a, b = program.tile(1024), program.tile(1024)
            program.load(a, (x, 1024 * m, 1024 * (m + 1)))
            program.load(b, (w, 1024 * k, 1024 * (k + 1)))
            program.add("tensor_tensor", Engine.VECTOR, out=[y_tile := program.tile(1024)], ins=[a, b], free=1024)
    program.load(y, y_tile)
    launch = seen(program.finish())
    plan = blocked_loads(launch, edits.repeated_loads(launch.trace, launch.is_load))
    assert plan is not None
    assert (plan.kept, plan.streamed) == (("t0",), ("t1",))
    assert plan.factor == 8
    assert plan.peak_bytes <= launch.machine.sbuf_partition_bytes
    left = int((launch.is_load & (plan.original < 0)).sum())
    assert (
        8 + 256 <= left <= 8 + 2 * 256
    )  # x once, w once for all of the eight iterations, and what the even spread costs
    timed = what_if.loads_hoisted(launch)
    assert timed is not None
    assert timed.feasible
    assert "in blocks of 8 iterations" in timed.caveat


def test_joined_transfers_carry_all_bytes_and_operands() -> None:
    trace = single_buffered(8)
    launch = seen(trace)
    joined, count = what_if.joined_dmas(launch, np.flatnonzero(launch.is_dma), 32768)
    check(joined)
    assert count == 16
    assert joined.column(Inst.BYTES).sum() == trace.column(Inst.BYTES).sum()
    assert len(joined.operands) == len(trace.operands)
    assert len(joined) == 8 + 2 + 2


def test_narrower_elements_halve_the_bytes_and_speed_up_matmuls(blocked: Callable[..., SimResult]) -> None:
    wide = blocked(512).trace
    narrow = edits.retyped(wide, [b.id for b in wide.buffers if b.space != "psum"], 0.5)
    real = blocked(512, np.float16).trace
    assert narrow.column(Inst.BYTES).sum() * 2 == wide.column(Inst.BYTES).sum()
    matmul = wide.column(Inst.FREE) == 512
    fp32 = narrow.column(Inst.FLAGS)[matmul] & Flag.FP32
    assert not fp32.any()
    loads = slice(0, 2)
    np.testing.assert_array_equal(
        narrow.operands[loads, : Operand.DTYPE], real.operands[loads, : Operand.DTYPE], strict=True
    )
    assert narrow.column(Inst.AUX)[0] == real.column(Inst.AUX)[0]


def test_forgetting_removes_the_wait_and_nothing_else() -> None:
    trace = single_buffered(2)
    launch = seen(trace)
    rows = np.flatnonzero(launch.line == 1)
    free = edits.forget(trace, rows, np.flatnonzero(launch.line == 0))
    check(free)
    assert len(free) == len(trace)
    start = schedule(free, TRN2, PLAIN).start_ns[rows[0]]
    assert start < schedule(trace, TRN2, PLAIN).start_ns[rows[0]]


def test_engines_only_take_what_the_instruction_set_allows() -> None:
    program = Program()
    x, y = program.tile(512, space="hbm"), program.tile(512, space="shared_hbm")
    t, p = program.tile(512), program.tile(512, space="psum")
    program.load(t, x)
    first = program.copy(t, t)
    second = program.copy(t, p, flags=Flag.PSUM_SRC)
    third = program.matmul(p, t, t)
    program.load(y, t)
    trace = program.finish()
    rows = np.array([first, second, third])
    assert what_if.can_run(trace, rows, Engine.GPSIMD).tolist() == [True, False, False]
    assert what_if.can_run(trace, rows, Engine.VECTOR).tolist() == [True, True, False]


def test_no_waits_at_all_is_a_lower_bound() -> None:
    launch = seen(single_buffered(8))
    bound = what_if.all_stalls_removed(launch)
    doubled = what_if.buffers_doubled(launch, [2])
    assert bound.after_us <= doubled.after_us < bound.before_us


# -- bad input ---------------------------------------------------------------------------------------------------------


def test_an_empty_trace_is_refused() -> None:
    with pytest.raises(TraceError, match="no instruction"):
        check(Program().finish())


def test_a_kernel_without_a_store_is_refused() -> None:
    program = Program()
    program.load(program.tile(512), program.tile(512, space="hbm"))
    with pytest.raises(TraceError, match="stores nothing"):
        Observed.of(program.finish(), TRN2)


@pytest.mark.parametrize(
    ("table", "column", "value", "words"),
    [
        ("instructions", Inst.OPCODE, 9999, "opcode 9999"),
        ("instructions", Inst.LINE, 77, "line 77"),
        ("instructions", Inst.ENGINE, 42, "engine 42"),
        ("instructions", Inst.OPERANDS, 5, "don't follow"),
        ("operands", Operand.BUFFER, 1234, "buffer 1234"),
        ("operands", Operand.ROW1, 0, "empty rectangle"),
    ],
)
def test_a_broken_table_is_named(table: str, column: int, value: int, words: str) -> None:
    trace = single_buffered(2)
    getattr(trace, table)[1, column] = value
    with pytest.raises(TraceError, match=words):
        check(trace)


def test_waits_in_a_circle_are_refused() -> None:
    trace = single_buffered(2)
    kind = np.zeros(2, np.int64)
    check_order(trace, Edges(np.array([0, 1]), np.array([1, 2]), kind))
    check_order(trace, Edges(np.array([4]), np.array([2]), kind[:1]))  # backwards, but no circle
    with pytest.raises(TraceError, match="cycle"):
        check_order(trace, Edges(np.array([0, 1]), np.array([1, 0]), kind))
    with pytest.raises(TraceError, match="outside the trace"):
        check_order(trace, Edges(np.array([0]), np.array([99]), kind[:1]))


def test_a_circle_through_the_order_of_issue_is_found() -> None:
    trace = single_buffered(2)
    # Both copies run on the Scalar Engine: the first can't wait for the second.
    rows = np.flatnonzero(trace.column(Inst.ENGINE) == Engine.SCALAR)
    with pytest.raises(TraceError, match=r"tensor_copy .* could never start"):
        check_order(trace, Edges(rows[1:], rows[:1], np.zeros(1, np.int64)))


def test_only_instructions_of_one_line_are_joined() -> None:
    program = Program()
    x, y = program.tile(512, space="hbm", role="input"), program.tile(512, space="shared_hbm")
    t = program.tile(512)
    program.load(t, x)
    for _ in range(4):
        for line in (1, 2):
            program.line = line
            program.copy(program.tile(512), t)
    program.load(y, t)
    trace = program.finish()
    rows = np.flatnonzero(trace.column(Inst.BYTES) == 0)
    after = edits.joined(trace, rows, 2, edits.Joining((Inst.FREE,)))
    check(after)
    mine = after.column(Inst.BYTES) == 0
    assert after.column(Inst.LINE)[mine].tolist() == [trace.column(Inst.LINE)[rows[k]] for k in (0, 1, 4, 5)]
    assert after.column(Inst.FREE)[mine].tolist() == [1024] * 4
