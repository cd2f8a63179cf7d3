from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.sim.programs import Engine, Flag, Program
from tools.sim.instruction import Inst, Trace
from tools.sim.machine import machine
from tools.sim.timing import BETA1, BETA2, IN_ORDER, TimingOptions, compiled, compiled_reuse, schedule
from tools.sim.timing.allocation import displaced
from tools.sim.timing.optimising import optimised

pytest.importorskip("numba")

STEPS = st.lists(
    st.tuples(st.sampled_from(["load", "matmul", "vector", "scalar", "gpsimd", "store"]), st.integers(0, 7)),
    min_size=1,
    max_size=60,
)


def program(steps: list[tuple[str, int]], target: str) -> Trace:
    """Tiles of many sizes, allocated on the way, so that SBUF and PSUM fill up."""
    p = Program(target)
    x, y = p.tile(16384, "float32", "hbm"), p.tile(16384, "float32", "shared_hbm")
    tiles = [p.tile(512)]
    banks = [p.tile(512, "float32", "psum")]
    for kind, k in steps:
        tile = tiles[k % len(tiles)]
        if kind == "load":
            tiles.append(p.tile(512 << (k % 6)))
            p.load((tiles[-1], 0, 512), (x, 0, 512), Engine.SYNC if k == 0 else Engine.UNKNOWN)
        elif kind == "store":
            p.load((y, 512 * k, 512 * k + 512), (tile, 0, 512))
        elif kind == "matmul":
            banks.append(p.tile(128 << (k % 3), "float32", "psum"))
            p.matmul((banks[-1], 0, 128), (tile, 0, 128), (tiles[-1], 0, 128), n=128, flags=Flag.FP32)
        elif kind == "gpsimd":
            p.copy((tile, 0, 128), (tiles[-1], 128, 256), n=128, engine=Engine.GPSIMD)
        else:
            engine = Engine.VECTOR if kind == "vector" else Engine.SCALAR
            p.copy((tile, 0, 128), (banks[k % len(banks)], 0, 128), n=128, engine=engine, flags=Flag.PSUM_SRC)
    return p.finish()


@settings(max_examples=60, deadline=None)
@given(STEPS, st.sampled_from(["trn1", "trn2"]), st.sampled_from([IN_ORDER, BETA1, BETA2]))
def test_compiled_loop_gives_the_same_times(steps: list[tuple[str, int]], target: str, model: object) -> None:
    trace, options = program(steps, target), TimingOptions(compiler_model=model)  # type: ignore[arg-type]
    plain = schedule(trace, machine(target), options)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiled, "wanted", lambda count: True)
        fast = schedule(trace, machine(target), options)
    for field in fields(plain):
        found = getattr(plain, field.name)
        if isinstance(found, np.ndarray):
            assert np.array_equal(found, getattr(fast, field.name)), field.name
    assert plain.latency_ns == fast.latency_ns


@settings(max_examples=60, deadline=None)
@given(STEPS, st.sampled_from([1, 3]), st.booleans())
def test_compiled_passes_give_the_same_program(steps: list[tuple[str, int]], times: int, rolled: bool) -> None:
    loop = "affine_range" if rolled else "static_range"
    trace = replace(
        program(steps * times, "trn1"), sources={"kernel.py": f"for i in nl.{loop}(9):\n" + "    f()\n" * 9}
    )
    trace.instructions[:, Inst.LINE] = 0
    trace.lines[:] = [("kernel.py", 3)]
    plain, gone = optimised(trace, machine("trn1"), BETA1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiled_reuse, "wanted", lambda count: True)
        fast, dropped = optimised(trace, machine("trn1"), BETA1)
    assert np.array_equal(gone, dropped)
    assert np.array_equal(plain.instructions, fast.instructions)
    assert np.array_equal(plain.operands, fast.operands)


def test_compiled_passes_drop_what_repeats() -> None:
    trace = program([("load", 1), ("vector", 1), ("scalar", 2)] * 20, "trn1")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiled_reuse, "wanted", lambda count: True)
        assert optimised(trace, machine("trn1"), BETA1)[1].sum() > 10


@settings(max_examples=60, deadline=None)
@given(STEPS)
def test_compiled_placement_gives_the_same_tiles(steps: list[tuple[str, int]]) -> None:
    trace = program(steps * 4, "trn1")
    plain = displaced(trace, machine("trn1"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiled, "wanted_tiles", lambda count: True)
        fast = displaced(trace, machine("trn1"))
    assert np.array_equal(plain[0], fast[0])
    assert np.array_equal(plain[1], fast[1])
