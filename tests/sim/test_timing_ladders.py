"""Published figures of single instructions and short sequences, each beside what the model says.

Sources: the vendor's guides, profiler pictures and published profiles, as named in each row. What spans whole kernels is in
`benchmarks/timing_accuracy.py`.
"""

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from tests.sim.programs import Engine, Flag, Program
from tools.sim import load_source, simulate
from tools.sim.instruction import Trace
from tools.sim.machine import machine
from tools.sim.profiler import profile
from tools.sim.timing import TimingOptions, costs, schedule
from tools.sim.timing.spilling import spilled

STEADY = TimingOptions(throttle=False)


def one(name: str, engine: Engine, n: int, target: str, **kw: Any) -> Trace:
    """One instruction over [128, n] float32 tiles."""
    program = Program(target)
    program.add(name, engine, out=[program.tile(n)], ins=[program.tile(n), program.tile(n)], free=n, **kw)
    return program.finish()


# (instruction, engine, elements, flags, target, published ns, source)
DURATIONS = [
    ("tensor_copy", Engine.VECTOR, 512, Flag.PSUM_SRC, "trn2", 680, "4096-cubed matmul ladder: 172-176 us for 256 copies"),
    ("tensor_copy", Engine.VECTOR, 512, Flag.PSUM_SRC, "trn2", 690, "fused attention profile"),
    ("tensor_reduce", Engine.VECTOR, 512, 0, "trn2", 685, "fused attention profile"),
    ("tensor_copy", Engine.SCALAR, 512, 0, "trn2", 585, "fused attention profile"),
    ("tensor_copy", Engine.SCALAR, 128, 0, "trn2", 265, "fused attention profile"),
    ("tensor_copy", Engine.VECTOR, 128, Flag.PSUM_SRC, "trn2", 290, "fused attention profile"),
    ("activation", Engine.SCALAR, 512, 0, "trn2", 705, "fused attention profile"),
    ("activation", Engine.SCALAR, 4096, 0, "trn2", 3700, "DMA overview, picture 3"),
    ("activation", Engine.SCALAR, 128, 0, "trn2", 400, "DMA overview, picture 5: 397-405"),
    (
        "tensor_scalar", Engine.VECTOR, 512, Flag.CONTIGUOUS | Flag.SCALAR_OPERAND, "trn2", 481,
        "fused attention profile",
    ),
    ("tensor_tensor", Engine.VECTOR, 8192, Flag.CONTIGUOUS, "trn1", 14987, "performance guide, figures 10 and 17"),
    ("activation", Engine.SCALAR, 1, 0, "trn1", 159, "performance guide, figure 16"),
    ("activation", Engine.SCALAR, 8192, 0, "trn1", 6000, "performance guide, figure 10"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "engine", "n", "flags", "target", "published", "source"), DURATIONS)
def test_duration_of_an_instruction(
    name: str, engine: Engine, n: int, flags: int, target: str, published: float, source: str
) -> None:
    assert costs(one(name, engine, n, target, flags=flags), machine(target)).latency_ns[0] == pytest.approx(
        published, rel=0.05
    ), source


# (instruction, engine, elements, target, published ns from start to start, source)
INTERVALS = [
    ("tensor_tensor", Engine.VECTOR, 512, "trn1", 1010, "rope of NKIBench: Vector active 3104 us for 3072"),
    ("tensor_reduce", Engine.VECTOR, 512, "trn1", 554, "gqa_full of NKIBench: Vector active 5998 us, 8192 of them and small ones"),
    ("tensor_scalar", Engine.SCALAR, 512, "trn1", 409, "gqa_full of NKIBench: Scalar active 7376 us for 12288 and 17664 of 128"),
    ("tensor_copy", Engine.SCALAR, 128, "trn1", 134, "matmul of NKIBench: Scalar active 2395 us for 15360 and 768 of 512"),
    ("scalar_tensor_tensor", Engine.VECTOR, 1824, "trn2", 2070, "adamw on trn2: Vector N + 160 cycles"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "engine", "n", "target", "published", "source"), INTERVALS)
def test_interval_between_instructions(
    name: str, engine: Engine, n: int, target: str, published: float, source: str
) -> None:
    assert costs(one(name, engine, n, target), machine(target)).issue_ns[0] == pytest.approx(published, rel=0.06), (
        source
    )


def test_a_chain_of_activations_on_trn1() -> None:
    """Performance guide, figure 16: each of one element starts 189 ns after the one that it needs."""
    program = Program("trn1")
    a, b = program.tile(1), program.tile(1)
    for k in range(6):
        program.add("activation", Engine.SCALAR, out=[(a, b)[k % 2]], ins=[(b, a)[k % 2]], free=1)
    starts = schedule(program.finish(), machine("trn1")).start_ns
    assert starts[5] - starts[4] == pytest.approx(189, rel=0.02)


@pytest.mark.parametrize(
    ("flags", "published", "source"),
    [(0, 217.3, "2048 back to back: 77.2 TFLOP/s"), (Flag.FP32, 859.4, "kernel optimisation tutorial: 28.16 ms for 32768")],
)  # fmt: skip
def test_matmul_rate_on_trn2(flags: int, published: float, source: str) -> None:
    program = Program()
    a, b, acc = program.tile(128), program.tile(512), program.tile(512, "float32", "psum")
    program.matmul(acc, a, b, flags=flags)
    assert costs(program.finish(), machine("trn2")).issue_ns[0] == pytest.approx(published, rel=0.01), source


def test_a_short_matmul_on_trn1() -> None:
    """Performance guide, figures 18 to 21: 128 columns of bf16 last 188 to 219 ns."""
    program = Program("trn1")
    a, b = program.tile(128, "bfloat16"), program.tile(128, "bfloat16")
    program.matmul(program.tile(128, "float32", "psum"), a, b, n=128)
    assert costs(program.finish(), machine("trn1")).latency_ns[0] == pytest.approx(203, rel=0.2)


def test_double_row_takes_the_time_of_half_its_rows() -> None:
    """Trainium2 guide: a K=256 fp8 matmul in the time of a K=128 bf16 one."""
    times = []
    for flags in (Flag.FP8 | Flag.DOUBLE_ROW, 0):
        program = Program()
        a, b, acc = program.tile(128), program.tile(512), program.tile(512, "float32", "psum")
        program.matmul(acc, a, b, flags=flags)
        times.append(costs(program.finish(), machine("trn2")).issue_ns[0])
    assert times[0] == times[1]


# (instruction, FREE, AUX, flags, published GpSimd cycles)
ON_GPSIMD = [
    ("iota", 512, 0, 0, 150 + 512),
    ("affine_select", 512, 0, 0, 150 + 512),
    ("topk", 4 * 1024 + 8, 0, Flag.HALF_IO, 150 + 4 * 1024 + 8),
    ("local_gather", 256, 1, 0, 150 + 256 * 8),
    ("local_gather", 256 * 32, 32, 0, 150 + 256 * 32 * (28 + 128) / 128),
    ("local_gather", 256 * 2, 2, Flag.HALF_IO, 150 + 256 * 2 * (28 + 8) / 8 / 2),
]


@pytest.mark.parametrize(("name", "free", "aux", "flags", "cycles"), ON_GPSIMD)
def test_gpsimd_instructions_take_their_published_cycles(
    name: str, free: int, aux: int, flags: int, cycles: float
) -> None:
    program = Program("trn1")
    program.add(name, Engine.GPSIMD, out=[program.tile(8)], ins=[program.tile(8)], free=free, aux=aux, flags=flags)
    assert costs(program.finish(), machine("trn1")).issue_ns[0] == pytest.approx(cycles / 1.4)


def test_a_store_of_one_engine_on_trn1() -> None:
    """Performance guide, figure 29: 32 KiB on one of 16 busy DMA engines take 1810 ns."""
    program = Program("trn1")
    y, t = program.tile(1024, "float32", "shared_hbm"), program.tile(1024)
    program.load(y, t)
    assert costs(program.finish(), machine("trn1")).work_ns[0] == pytest.approx(1810, rel=0.03)


def test_gpsimd_writes_descriptors_of_a_tile_in_580_ns() -> None:
    """Fused attention profile: loads of 128 rows start 576, 582 and 582 ns apart."""
    program = Program()
    x = program.tile(3 * 512, "float32", "hbm")
    for k in range(3):
        program.load(program.tile(512), (x, 512 * k, 512 * k + 512), Engine.GPSIMD, Flag.SWDGE)
    starts = schedule(program.finish(), machine("trn2")).start_ns
    assert starts[2] - starts[1] == pytest.approx(580, rel=0.03)


COPY = """
import nki
import nki.isa as nisa
import nki.language as nl

@nki.jit
def kernel(x, width):
    out = nl.ndarray(x.shape, dtype=x.dtype, buffer=nl.shared_hbm)
    for row in range(0, x.shape[0], 128):
        for column in range(0, x.shape[1], width):
            tile = nl.ndarray((128, width), dtype=x.dtype, buffer=nl.sbuf)
            nisa.dma_copy(dst=tile, src=x[row : row + 128, column : column + width], dge_mode=nisa.dge_mode.swdge)
            nisa.dma_copy(dst=out[row : row + 128, column : column + width], src=tile)
    return out
"""


@pytest.mark.parametrize(("rows", "width", "published"), [(128, 512, 16.0), (512, 2048, 47.0)])
def test_bf16_copies_through_sbuf_on_trn2(rows: int, width: int, published: float) -> None:
    """DMA efficiency study, mixed descriptor modes: active 16 us (259 GB/s) by tiles of 512 columns, 47 us (354) by 2048."""
    x = np.broadcast_to(np.zeros((), ml_dtypes.bfloat16), (rows, 8192))
    trace = simulate(load_source(COPY), x, width, target="trn2", data=False).trace
    trn2 = machine("trn2")
    assert profile(trace, schedule(trace, trn2), trn2).dma_active_us == pytest.approx(published, rel=0.2)


def test_scores_that_do_not_fit_are_spilled_by_the_share_measured() -> None:
    """bmm_softmax of NKIBench on trn1 spills 754 of 1074 MB of scores: of a head's 512 KiB a partition what doesn't fit."""
    program = Program("trn1", dialect="neuronxcc.nki")
    scores = [[program.tile(512) for _ in range(8)] for _ in range(32)]
    for block in range(8):
        for row in range(32):
            program.add("memset", Engine.VECTOR, out=[scores[row][block]], free=512)
    for row in range(32):
        powers = [program.tile(512) for _ in range(8)]
        for block in range(8):
            program.copy(powers[block], scores[row][block], engine=Engine.SCALAR)
        for block in range(8):
            program.copy(program.tile(512), powers[block])
    trace = program.finish()
    found, _ = spilled(trace, machine("trn1"))
    reloaded = (len(found) - len(trace)) / 2
    assert reloaded / (32 * 8) == pytest.approx(754 / 1074, rel=0.06)
