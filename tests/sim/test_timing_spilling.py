"""Tiles that don't fit SBUF under the Beta-1 compiler model: what is saved, what comes back, and who waits for it."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.sim.programs import Engine, Program
from tools.sim.instruction import Inst, Trace
from tools.sim.machine import machine
from tools.sim.profiler import profile
from tools.sim.timing import BETA1, TimingOptions, Wait, peak_usage, schedule
from tools.sim.timing.spilling import spilled

TRN1 = machine("trn1")
WIDE = TRN1.sbuf_partition_bytes // 4 // 4
"""Columns of a float32 tile that fills a quarter of SBUF."""
BYTES = 128 * WIDE * 4


def held(tiles: int, *, loaded: bool = False) -> Trace:
    """Fills `tiles` tiles of a quarter of SBUF, then reads them in the same order."""
    program = Program("trn1", dialect="neuronxcc.nki")
    x, y = program.tile(tiles * WIDE, "float32", "hbm"), program.tile(tiles * 8, "float32", "shared_hbm")
    small = program.tile(8)
    kept = [program.tile(WIDE) for _ in range(tiles)]
    for k, tile in enumerate(kept):
        program.line += 1  # another line is another value
        if loaded:
            program.load(tile, (x, k * WIDE, (k + 1) * WIDE))
        else:
            program.add("memset", Engine.VECTOR, out=[tile], free=WIDE)
    for k, tile in enumerate(kept):
        program.copy((small, 0, 8), (tile, 0, 8), n=8)
        program.load((y, 8 * k, 8 * k + 8), small)
    return program.finish()


def test_tiles_that_fit_stay() -> None:
    trace = held(3)
    found, own = spilled(trace, TRN1)
    assert found is trace
    assert own.tolist() == list(range(len(trace)))


def test_what_does_not_fit_is_saved_once_and_comes_back_once() -> None:
    trace = held(6)  # three fit beside the small tile
    timeline = schedule(trace, TRN1)
    assert timeline.spills.save_bytes == timeline.spills.reload_bytes == 3 * BYTES
    assert timeline.spills.transfers == 6
    assert len(timeline) == len(trace)


def test_what_hbm_still_holds_is_not_saved() -> None:
    spills = schedule(held(6, loaded=True), TRN1).spills
    assert (spills.save_bytes, spills.reload_bytes) == (0, 3 * BYTES)


def test_the_tile_that_is_used_again_last_makes_way() -> None:
    program = Program("trn1", dialect="neuronxcc.nki")
    a, b, c, d = (program.tile(WIDE) for _ in range(4))
    small = program.tile(8)
    for tile in (a, b, c, d):
        program.line += 1
        program.add("memset", Engine.VECTOR, out=[tile], free=WIDE)
    for tile in (c, d, a, b):
        program.copy((small, 0, 8), (tile, 0, 8), n=8)
    trace = program.finish()
    found, own = spilled(trace, TRN1)
    added = np.setdiff1d(np.arange(len(found)), own)
    moved = found.operands[found.instructions[added, Inst.FIRST_OPERAND], 0].tolist()
    assert moved[0] == b
    assert [found.buffers[m].name for m in moved] == ["t1", "t1"]


def test_tiles_that_the_kernel_placed_are_never_spilled() -> None:
    program = Program("trn1", dialect="neuronxcc.nki")
    tiles = [program.tile(WIDE, address=(0, k * WIDE * 4)) for k in range(4)] + [program.tile(WIDE)]
    for tile in tiles * 2:
        program.add("memset", Engine.VECTOR, out=[tile], free=WIDE)
    trace = program.finish()
    assert spilled(trace, TRN1)[0] is trace


def test_readers_wait_for_their_tile_to_come_back() -> None:
    trace = held(6)
    timeline = schedule(trace, TRN1)
    reads = [i for i in range(len(trace)) if trace.opcode_name(i) == "tensor_copy"]
    late = [i for i in reads if timeline.wait[i] == Wait.DMA]
    assert late
    assert (timeline.waited_for[late] == -1).all()  # no instruction of the kernel's


def test_spilling_costs_time_and_can_be_switched_off() -> None:
    trace = held(12)
    off = TimingOptions(compiler_model=replace(BETA1, spill=False))
    assert schedule(trace, TRN1).latency_ns > schedule(trace, TRN1, off).latency_ns
    assert schedule(trace, TRN1, off).spills.transfers == 0


def test_profile_counts_spills_and_still_adds_up() -> None:
    trace = held(6)
    timeline = schedule(trace, TRN1)
    found = profile(trace, timeline, TRN1)
    stores = 6 * 128 * 8 * 4
    assert found.hbm_write_bytes == stores + found.spill_save_bytes == stores + 3 * BYTES
    assert found.hbm_read_bytes == found.spill_reload_bytes == 3 * BYTES
    assert found.dma_transfer_count == 6 + 6
    assert found.reload_read_bytes == 0  # that is for inputs
    for engine in found.engines:
        assert engine.busy_us + engine.idle_us == found.latency_us


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 11), st.integers(0, 11), st.booleans()), min_size=1, max_size=60))
def test_no_more_than_sbuf_holds_is_live_afterwards(steps: list[tuple[int, int, bool]]) -> None:
    program = Program("trn1", dialect="neuronxcc.nki")
    x = program.tile(WIDE, "float32", "hbm")
    tiles = [program.tile(WIDE // (1 + k % 3)) for k in range(12)]
    for into, source, load in steps:
        if load:
            columns = WIDE // (1 + into % 3)
            program.load((tiles[into], 0, columns), (x, 0, columns))
        else:
            program.copy((tiles[into], 0, 64), (tiles[source], 0, 64), n=64)
    trace = program.finish()
    found, own = spilled(trace, TRN1)
    assert peak_usage(found)[0] <= TRN1.sbuf_partition_bytes
    assert (np.diff(own) > 0).all()
    assert (found.column(Inst.OPCODE)[own] == trace.column(Inst.OPCODE)).all()
    timeline = schedule(trace, TRN1)
    assert np.isfinite(timeline.start_ns).all()
    slow = replace(TRN1, dma_bytes_per_ns=TRN1.dma_bytes_per_ns / 2)
    assert schedule(trace, slow).latency_ns >= timeline.latency_ns


@pytest.mark.parametrize("target", ["trn1", "trn2"])
def test_kernels_of_the_current_dialect_are_not_spilled(target: str) -> None:
    trace = replace(held(6), dialect="nki", target=target)
    assert schedule(trace, machine(target)).spills.transfers == 0
