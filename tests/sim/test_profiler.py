import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.sim.programs import Engine, Flag, Program
from tools.sim import load_source, simulate
from tools.sim.instruction import Inst, Trace
from tools.sim.machine import machine
from tools.sim.profiler import Profile, covered, profile
from tools.sim.timing import schedule

TRN2 = machine("trn2")


def pipeline(count: int, *, reload: bool = False) -> Trace:
    program = Program()
    x = program.tile(512, "bfloat16", "hbm", role="input")
    w = program.tile(128, "bfloat16", "hbm", role="input")
    y = program.tile(512, "bfloat16", "shared_hbm", role="output")
    a = program.tile(128, "bfloat16")
    program.load(a, w)
    for i in range(count):
        if i == 0 or reload:
            b = program.tile(512, "bfloat16")
            program.line = 10
            program.load(b, x)
        acc, out = program.tile(512, "float32", "psum"), program.tile(512, "bfloat16")
        program.line = 11
        program.matmul(acc, a, b)
        program.line = 12
        program.copy(out, acc, flags=Flag.PSUM_SRC)
        program.line = 13
        program.load(y, out)
    return program.finish()


def profiled(trace: Trace) -> Profile:
    return profile(trace, schedule(trace, TRN2), TRN2)


def test_union_of_intervals() -> None:
    assert covered(np.array([0.0, 5.0, 1.0]), np.array([2.0, 7.0, 3.0])) == 5.0
    assert covered(np.array([]), np.array([])) == 0.0


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 30), st.booleans())
def test_busy_plus_idle_is_the_latency_and_bytes_add_up(count: int, reload: bool) -> None:
    trace = pipeline(count, reload=reload)
    found = profiled(trace)
    for engine in found.engines:
        assert engine.busy_us + engine.idle_us == found.latency_us
        assert engine.idle_us >= 0
    assert found.hbm_write_bytes == count * 128 * 1024
    assert found.hbm_read_bytes + found.hbm_write_bytes == int(trace.column(Inst.BYTES).sum())
    assert found.reload_read_bytes == (count - 1) * 128 * 1024 * reload
    assert found.input_read_bytes == 128 * 1024 + 128 * 256


def test_flops_and_utilisation_use_the_raw_definition() -> None:
    found = profiled(pipeline(64))
    assert found.hardware_flops == 64 * 2 * 128 * 128 * 512
    assert found.transpose_flops == 0
    expected = 100 * found.hardware_flops / (2 * 128 * 128 * 2.4e9 * found.latency_us * 1e-6)
    assert found.hfu_estimated_percent == pytest.approx(expected)
    assert found.pe_row_utilisation_percent == pytest.approx(100)
    assert found.pe_column_utilisation_percent == pytest.approx(100)
    assert found.mbu_estimated_percent == pytest.approx(
        100 * (found.hbm_read_bytes + found.hbm_write_bytes) / (716 * found.latency_us * 1e3)
    )


def test_no_bound_exceeds_the_latency() -> None:
    found = profiled(pipeline(64, reload=True))
    assert max(found.memory_us, found.compute_us, found.pipeline_us) <= found.latency_us
    assert found.bottleneck in ("Vector Engine", "DMA")


def test_time_is_attributed_to_source_lines() -> None:
    found = profiled(pipeline(64))
    lines = {entry.line: entry for entry in found.lines}
    assert lines[12].engine == "Vector"
    assert lines[11].engine == "Tensor"
    assert lines[13].dma_bytes == 64 * 128 * 1024
    assert lines[12].instructions == 64
    # Eight banks run full, then each matmul waits for the eviction of an older tile.
    stall = next(s for s in found.stalls if s.engine == "Tensor" and s.cause == "space")
    assert (stall.line, stall.waits_for_line, stall.waits_for) == (11, 12, "tensor_copy")


def test_profile_is_json() -> None:
    text = json.dumps(profiled(pipeline(4)).to_json())
    assert json.loads(text)["engines"][0]["engine"] == "Tensor"


def test_triggering_engine_is_busy_for_the_trigger_only() -> None:
    program = Program()
    x, t = program.tile(4096, "float32", "hbm"), program.tile(4096)
    program.load(t, x, Engine.SYNC)
    found = profiled(program.finish())
    assert found.engine("Sync").busy_us == pytest.approx(TRN2.dma_trigger_ns / 1e3, abs=1e-3)
    assert found.dma_active_us > 4


FLOAT32_TRANSPOSES = """
import nki
import nki.language as nl
import nki.isa as nisa

@nki.jit
def kernel(x):
    out = nl.ndarray((128, 128), dtype=nl.float32, buffer=nl.shared_hbm)
    t = nl.ndarray((128, 128), dtype=nl.float32, buffer=nl.sbuf)
    nisa.dma_copy(dst=t, src=x[0:128, 0:128])
    for i in range(64):
        p = nl.ndarray((128, 128), dtype=nl.float32, buffer=nl.psum)
        nisa.nc_transpose(dst=p, data=t)
    nisa.tensor_copy(t, p)
    nisa.dma_copy(dst=out, src=t)
    return out
"""


@pytest.mark.parametrize("target", ["trn1", "trn2", "trn3"])
def test_transposes_in_transpose_mode_bound_the_latency_by_what_they_take(target: str) -> None:
    found = simulate(
        load_source(FLOAT32_TRANSPOSES), np.zeros((128, 128), np.float32), target=target, data=False
    ).profile
    assert found.adjusted_hardware_flops == 4 * found.hardware_flops  # Neuron Explorer's rule
    assert 0.3 * found.latency_us < found.compute_us <= found.latency_us


TWICE = """
import nki
import nki.language as nl
import nki.isa as nisa

@nki.jit
def kernel(x):
    scratch = nl.ndarray((128, 64), dtype=nl.float32, buffer=nl.private_hbm)
    out = nl.ndarray((128, 64), dtype=nl.float32, buffer=nl.shared_hbm)
    for i in range(2):
        t = nl.ndarray((128, 64), dtype=nl.float32, buffer=nl.sbuf)
        nisa.dma_copy(dst=t, src=x[0:128, :])
        nisa.dma_copy(dst=scratch, src=t)
        u = nl.ndarray((128, 64), dtype=nl.float32, buffer=nl.sbuf)
        nisa.dma_copy(dst=u, src=scratch)
        nisa.dma_copy(dst=out, src=u)
    return out
"""


def test_a_part_that_is_read_twice_is_a_reload_and_what_goes_out_and_back_a_spill() -> None:
    size = 128 * 64 * 4
    found = simulate(load_source(TWICE), np.zeros((256, 64), np.float32), data=False).profile
    assert (found.input_read_bytes, found.reload_read_bytes) == (size, size)
    assert (found.spill_save_bytes, found.spill_reload_bytes) == (2 * size, 2 * size)
    assert (found.hbm_read_bytes, found.hbm_write_bytes) == (4 * size, 4 * size)
