"""The compiler models: what they change in a program, and what they must leave alone."""

import numpy as np
import pytest

from tests.sim.programs import Engine, Flag, Program
from tools.sim import load_source, simulate
from tools.sim.instruction import Inst, Trace
from tools.sim.machine import machine
from tools.sim.profiler import profile
from tools.sim.timing import BETA1, BETA2, IN_ORDER, TimingOptions, schedule
from tools.sim.timing.optimising import balanced, forwarded, optimised, reused, working_copy
from tools.sim.timing.renaming import renamed

TRN1, TRN2 = machine("trn1"), machine("trn2")


def single_buffer_loop() -> Trace:
    """One tile, filled anew in each iteration."""
    program = Program()
    x, t, u = program.tile(16 * 512, "float32", "hbm"), program.tile(512), program.tile(512)
    for i in range(16):
        program.load(t, (x, 512 * i, 512 * i + 512))
        program.copy(u, t, engine=Engine.SCALAR)
    return program.finish()


def test_whole_overwrites_get_their_own_tile() -> None:
    trace = single_buffer_loop()
    found = renamed(working_copy(trace))
    assert len(found.buffers) == len(trace.buffers) + 2 * 15
    assert len({int(b) for b in found.operands[found.operands[:, 1] == 2, 0]} - {0}) == 16
    serial = schedule(trace, TRN2, TimingOptions(compiler_model=IN_ORDER)).latency_ns
    assert schedule(trace, TRN2, TimingOptions(compiler_model=BETA2)).latency_ns < serial / 2


def test_a_placed_tile_and_a_partial_overwrite_keep_their_name() -> None:
    program = Program()
    x = program.tile(512, "float32", "hbm")
    placed, part = program.tile(512, address=(0, 0)), program.tile(1024)
    for _ in range(4):
        program.load(placed, x)
        program.load((part, 0, 512), x)
    program.copy((part, 512, 1024), placed)
    assert renamed(program.finish()).operands[:, 0].max() == part


def test_results_in_place_keep_their_tile() -> None:
    program = Program()
    x = program.tile(4 * 512, "float32", "hbm")
    t = program.tile(512)
    for i in range(4):
        program.load(t, (x, 512 * i, 512 * i + 512))
        program.copy(t, t, engine=Engine.SCALAR)
    trace = program.finish()
    assert len(renamed(trace).buffers) == len(trace.buffers) + 3


def reload(iterations: int, columns: int, target: str = "trn2") -> Trace:
    """Each iteration loads the same weights and another row block."""
    program = Program(target, dialect="neuronxcc.nki")
    w = program.tile(columns, "float32", "hbm", role="input")
    x = program.tile(iterations * 64, "float32", "hbm", role="input")
    for i in range(iterations):
        a, b, c = program.tile(columns), program.tile(64), program.tile(64)
        program.load(a, w)
        program.load(b, (x, 64 * i, 64 * i + 64))
        program.copy(c, b, n=64)
        program.copy((c, 0, 64), (a, 0, 64), n=64)
    return program.finish()


def test_values_that_fit_are_loaded_once() -> None:
    trace = reload(8, 1024)
    found = profile(trace, schedule(trace, TRN2), TRN2)
    assert found.hbm_read_bytes == 128 * (4096 + 8 * 256)
    assert found.dropped_instructions == 7 + 7  # the loads, and the copies of the value that they brought
    plain = schedule(trace, TRN2, TimingOptions(compiler_model=BETA2))
    assert not plain.dropped.any()


def test_values_that_do_not_fit_are_loaded_again() -> None:
    program = Program(dialect="neuronxcc.nki")
    columns = TRN2.sbuf_partition_bytes // 4 * 3 // 5
    weights = [program.tile(columns, "float32", "hbm") for _ in range(2)]
    for _ in range(4):
        for w in weights:
            t, u = program.tile(columns), program.tile(64)
            program.load(t, w)
            program.copy(u, (t, 0, 64), n=64)
    trace, dropped = reused(program.finish(), TRN2)
    assert not dropped.any()
    assert len(trace.operands) == 4 * 2 * 4


def test_a_changed_tile_is_not_mistaken_for_the_value_it_held() -> None:
    program = Program(dialect="neuronxcc.nki")
    x = program.tile(512, "float32", "hbm")
    a, b, c = (program.tile(512) for _ in range(3))
    program.load(a, x)
    program.copy(c, a)
    program.copy((a, 0, 512), c)  # overwritten after it was read
    program.load(b, x)
    program.copy(c, b)
    assert not reused(program.finish(), TRN2)[1].any()


def test_hbm_that_the_kernel_writes_is_loaded_again() -> None:
    program = Program(dialect="neuronxcc.nki")
    x, s = program.tile(512, "float32", "private_hbm"), program.tile(512)
    for _ in range(2):
        program.load(x, s)
        t = program.tile(512)
        program.load(t, x)
        program.copy(s, t)
    assert not reused(program.finish(), TRN2)[1].any()


def test_strided_transfers_of_one_rectangle_are_different_values() -> None:
    program = Program(dialect="neuronxcc.nki")
    x = program.tile(1024, "float32", "hbm")
    for _ in range(2):
        t, u = program.tile(512), program.tile(512)
        # Every other element of the row: half the bytes of the rectangle.
        program.add("dma_copy", Engine.UNKNOWN, out=[t], ins=[(x, 0, 1024)], free=2048, aux=4, nbytes=128 * 2048)
        program.copy(u, t)
    assert not reused(program.finish(), TRN2)[1].any()


def spread_row(readers: str) -> Trace:
    program = Program("trn1", dialect="neuronxcc.nki")
    ones, row = program.tile(128, rows=1), program.tile(512, rows=1)
    acc, wide, out = program.tile(512, "float32", "psum"), program.tile(512), program.tile(512)
    program.matmul(acc, ones, row, partitions=1, flags=Flag.FP32)
    program.copy(wide, acc, flags=Flag.PSUM_SRC)
    if readers == "matmul":
        other = program.tile(512, "float32", "psum")
        program.matmul(other, (wide, 0, 128), wide)
    else:
        program.add("tensor_tensor", Engine.VECTOR, out=[out], ins=[out, wide], free=512, flags=Flag.TWO_TENSORS)
    return program.finish()


def test_a_spread_row_is_read_from_psum() -> None:
    trace, dropped = forwarded(spread_row("vector"), TRN1)
    assert dropped.tolist() == [False, True, False]
    assert trace.instructions[2, Inst.FLAGS] & Flag.PSUM_SRC
    assert trace.operands[trace.instructions[2, Inst.FIRST_OPERAND] + 2, 0] == 2
    assert optimised(spread_row("vector"), TRN1, BETA1)[0].instructions[1, Inst.OPERANDS] == 0


def test_the_trace_that_is_timed_stays_as_it_is() -> None:
    trace = spread_row("vector")
    instructions, operands = trace.instructions.copy(), trace.operands.copy()
    schedule(trace, TRN1)
    assert (trace.instructions == instructions).all()
    assert (trace.operands == operands).all()


def test_a_spread_row_that_a_matmul_reads_is_copied() -> None:
    assert not forwarded(spread_row("matmul"), TRN1)[1].any()


def test_copies_are_shared_between_vector_and_scalar() -> None:
    program = Program(dialect="neuronxcc.nki")
    acc = program.tile(512, "float32", "psum")
    for _ in range(40):
        program.copy(program.tile(512), acc, flags=Flag.PSUM_SRC)
    engines = balanced(program.finish(), TRN2).column(Inst.ENGINE)
    assert 15 <= int((engines == Engine.SCALAR).sum()) <= 25


def test_a_fast_mode_copy_stays_on_vector() -> None:
    program = Program(dialect="neuronxcc.nki")
    a = program.tile(2048, "bfloat16")
    for _ in range(8):
        program.copy(program.tile(2048, "bfloat16"), a, n=2048, flags=Flag.HALF_IO | Flag.CONTIGUOUS)
    assert (balanced(program.finish(), TRN2).column(Inst.ENGINE) == Engine.VECTOR).all()


@pytest.mark.parametrize("model", [IN_ORDER, BETA1, BETA2])
def test_times_stay_aligned_with_the_recorded_trace(model: object) -> None:
    trace = reload(8, 1024)
    timeline = schedule(trace, TRN2, TimingOptions(compiler_model=model))  # type: ignore[arg-type]
    assert len(timeline) == len(trace)
    assert np.isfinite(timeline.start_ns).all()
    found = profile(trace, timeline, TRN2)
    for engine in found.engines:
        assert engine.busy_us + engine.idle_us == found.latency_us
    assert sum(e.instructions for e in found.engines) + found.dma_transfer_count == (
        len(trace) - found.dropped_instructions
    )


def test_on_trn1_scalar_does_every_copy_and_on_trn2_both_engines_share() -> None:
    def engines(target: str) -> list[int]:
        program = Program(target, dialect="neuronxcc.nki")
        acc = program.tile(512, "float32", "psum")
        for _ in range(8):
            program.copy(program.tile(512), acc, flags=Flag.PSUM_SRC)
        return [int(e) for e in balanced(program.finish(), machine(target)).column(Inst.ENGINE)]

    assert set(engines("trn1")) == {Engine.SCALAR}
    assert set(engines("trn2")) == {Engine.SCALAR, Engine.VECTOR}


def test_integers_stay_on_vector() -> None:
    program = Program("trn1", dialect="neuronxcc.nki")
    program.copy(program.tile(512), program.tile(512), flags=Flag.INTEGER)
    assert balanced(program.finish(), TRN1).column(Inst.ENGINE).tolist() == [Engine.VECTOR]


KERNEL = """
import neuronxcc.nki as nki
import neuronxcc.nki.isa as nisa
import neuronxcc.nki.language as nl

@nki.jit
def kernel(x):
    out = nl.ndarray(x.shape, dtype=x.dtype, buffer=nl.shared_hbm)
    t = nl.load(x)
    a = nisa.tensor_copy(t)
    b = nisa.tensor_copy(a, engine=nisa.vector_engine)
    c = nisa.tensor_scalar(b, nl.multiply, 2.0)
    d = nisa.tensor_scalar(c, nl.maximum, 0.0)
    e = nisa.tensor_scalar(d, nl.subtract, 1.0)
    nl.store(out, e)
    return out
"""


def test_what_names_its_engine_or_exists_on_vector_only_stays_there() -> None:
    trace = simulate(load_source(KERNEL), np.zeros((128, 512), np.float32), target="trn1", data=False).trace
    moved = balanced(working_copy(trace), TRN1).column(Inst.ENGINE)
    compute = np.isin([trace.opcode_name(i) for i in range(len(trace))], ("tensor_copy", "tensor_scalar"))
    scalar, vector = Engine.SCALAR, Engine.VECTOR
    assert moved[compute].tolist() == [scalar, vector, scalar, vector, scalar]
