import json
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.sim.programs import Flag, Program
from tools.insight import Observed, explain_gap, what_if
from tools.insight.critical import critical_path, path_shares
from tools.sim.execute import SimResult
from tools.sim.instruction import Engine, Inst, Trace
from tools.sim.machine import machine
from tools.sim.profiler import ENGINE_NAMES
from tools.sim.timing import IN_ORDER, TimingOptions

TRN2 = machine("trn2")
PLAIN = TimingOptions(compiler_model=IN_ORDER)


@st.composite
def programs(draw: st.DrawFn) -> Trace:
    """Random loads, copies on any engine, matmuls and stores over a few shared tiles."""
    program = Program(draw(st.sampled_from(["trn1", "trn2", "trn3"])))
    x = program.tile(512, "bfloat16", "hbm", role="input")
    y = program.tile(512, "bfloat16", "shared_hbm", role="output")
    tiles = [program.tile(512, "bfloat16") for _ in range(draw(st.integers(2, 5)))]
    banks = [program.tile(512, "float32", "psum") for _ in range(2)]
    for tile in tiles:
        program.load(tile, x)
    for bank in banks:
        program.matmul(bank, tiles[0], tiles[1])
    for _ in range(draw(st.integers(1, 40))):
        program.line = draw(st.integers(1, 6))
        a, b = (draw(st.sampled_from(tiles)) for _ in range(2))
        match draw(st.integers(0, 4)):
            case 0:
                program.load(a, x, draw(st.sampled_from([Engine.UNKNOWN, Engine.SYNC, Engine.GPSIMD])))
            case 1:
                program.copy(a, b, engine=draw(st.sampled_from([Engine.VECTOR, Engine.SCALAR, Engine.GPSIMD])))
            case 2:
                program.matmul(draw(st.sampled_from(banks)), a, b)
            case 3:
                program.copy(a, draw(st.sampled_from(banks)), flags=Flag.PSUM_SRC)
            case _:
                program.load(y, a)
    program.load(y, tiles[0])
    return program.finish()


@settings(max_examples=40, deadline=None)
@given(programs(), st.booleans())
def test_causes_add_up_to_the_idle_time_exactly(trace: Trace, in_order: bool) -> None:
    seen = Observed.of(trace, machine(trace.target), PLAIN if in_order else None)
    for engine in ENGINE_NAMES:
        found = explain_gap(seen, engine=engine, limit=4)
        assert found.busy_us + found.idle_us == found.latency_us == seen.profile.latency_us
        assert sum(c.us for c in found.causes) == found.idle_us
        assert all(c.us >= 0 for c in found.causes if c.cause != "drained")


@settings(max_examples=40, deadline=None)
@given(programs())
def test_bytes_of_the_profile_are_the_sum_over_instructions(trace: Trace) -> None:
    profile = Observed.of(trace, machine(trace.target)).profile
    assert profile.hbm_read_bytes + profile.hbm_write_bytes == int(trace.column(Inst.BYTES).sum())
    assert sum(line.dma_bytes for line in profile.lines) == int(trace.column(Inst.BYTES).sum())
    assert sum(line.instructions for line in profile.lines) == len(trace)
    assert sum(e.instructions for e in profile.engines) + _queued(trace) == len(trace)


def _queued(trace: Trace) -> int:
    return int((trace.column(Inst.ENGINE) == Engine.UNKNOWN).sum())


@settings(max_examples=25, deadline=None)
@given(programs())
def test_the_critical_path_makes_up_the_latency(trace: Trace) -> None:
    seen = Observed.of(trace, machine(trace.target))
    assert sum(p.us for p in path_shares(seen)) * 1e3 == pytest.approx(seen.timeline.latency_ns)
    starts = seen.timeline.start_ns[critical_path(seen)]
    assert (np.diff(starts) >= -1e-6).all()


def test_a_starved_tensor_engine_is_explained_with_lines_and_proof(blocked: Callable[..., SimResult]) -> None:
    result = blocked()
    found = explain_gap(result.trace, result.machine, "tensor")
    text = result.trace.sources["kernel.py"].splitlines()
    top = next(c for c in found.causes if c.cause == "dma")
    assert "nc_matmul" in text[int(top.where.split(":")[1]) - 1]
    assert "dma_copy" in text[int(top.waits_for.split(":")[1]) - 1]
    assert top.source.startswith("nisa.nc_matmul(")
    kinds = {c.kind for c in found.counterfactuals}
    assert "loads hoisted" in kinds
    assert "other dtype" in kinds
    assert all(c.gain_us > 0 and c.before_us == found.latency_us for c in found.counterfactuals)
    assert found.answer.startswith("The Tensor Engine is idle")
    assert json.loads(json.dumps(found.to_json()))["engine"] == "Tensor"


def test_an_engine_without_work_is_said_to_have_none(blocked: Callable[..., SimResult]) -> None:
    result = blocked(512)
    found = explain_gap(result.trace, result.machine, "GpSimd")
    assert found.idle_percent == 100
    assert [c.cause for c in found.causes] == ["unused"]


@pytest.mark.parametrize(("kw", "words"), [({"engine": "Texture"}, "choose one of Tensor"), ({"core": 3}, "no core 3")])
def test_a_wrong_engine_or_core_is_one_sentence(
    blocked: Callable[..., SimResult], kw: dict[str, object], words: str
) -> None:
    result = blocked(512)
    with pytest.raises(ValueError, match=words):
        explain_gap(result.trace, result.machine, **kw)  # type: ignore[arg-type]


def test_every_generation_is_timed_and_obstacles_are_named(blocked: Callable[..., SimResult]) -> None:
    rows = {r.target: r for r in what_if(blocked(512).trace)}
    assert set(rows) == {"trn1", "trn2", "trn3"}
    assert rows["trn2"].speedup == pytest.approx(1.0)
    assert all(r.latency_us and r.latency_us >= r.pipeline_us for r in rows.values())
    program = Program("trn3")
    y, t, acc = program.tile(1024, space="shared_hbm"), program.tile(1024), program.tile(1024, space="psum")
    program.matmul(acc, t, t, n=1024)
    program.copy(t, acc, n=1024)
    program.load(y, t)
    narrow = {r.target: r for r in what_if(program.finish())}
    assert narrow["trn1"].latency_us is None
    assert "1024 columns" in narrow["trn1"].obstacle
    assert narrow["trn3"].latency_us is not None
