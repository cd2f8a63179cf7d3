"""Generated kernels compute what their references say, for any size and schedule."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.generate.simulated import run
from tools.generate.moves import Space
from tools.generate.schedule import MatmulSchedule, RowSchedule, Schedule

CASES = [
    ("add", [(300, 70), (300, 70)]),
    ("add", [(1, 1), (1, 1)]),
    ("add", [(129, 300), (300,)]),
    ("add", [(127, 129), (127, 1)]),
    ("softmax", [(300, 200)]),
    ("softmax", [(129,)]),
    ("rmsnorm", [(129, 300), (300,)]),
    ("layernorm", [(130, 513), (513,), (513,)]),
    ("gelu", [(7, 13, 5)]),
    ("exact_gelu", [(127, 3)]),
    ("matmul", [(300, 200), (200, 130)]),
    ("matmul", [(1, 129), (129, 1)]),
    ("matmul", [(2, 130, 40), (40, 70)]),
    ("matmul", [(2, 130, 40), (2, 40, 70)]),
    ("matmul_nk", [(300, 200), (130, 200)]),
    ("matmul_km", [(200, 300), (200, 130)]),
    ("rmsnorm_matmul", [(300, 256), (256, 700)]),
    ("rmsnorm_gain_matmul", [(200, 129), (129,), (129, 64)]),
    ("layernorm_matmul", [(200, 100), (100,), (100,), (100, 64)]),
    ("linear_gelu", [(130, 127), (127, 600), (600,)]),
    ("swiglu", [(300, 64), (64, 96), (64, 96), (96, 64)]),
    ("attention", [(2, 3, 130, 32)] * 3),
    ("matmul_softmax", [(129, 64), (64, 600)]),
    ("residual", [(200, 100), (100, 300), (200, 300)]),
    ("two_products", [(130, 64), (64, 50), (130, 70), (70, 50)]),
    ("transpose", [(300, 200)]),
    ("transpose", [(1300, 2100)]),
    ("column_sum", [(300, 200)]),
    ("statistics", [(300, 200)]),
    ("choose", [(200, 100)]),
    ("heads", [(2, 33, 4, 16), (2, 47, 4, 16)]),
    ("joined", [(130, 20), (130, 7)]),
    ("part", [(40, 31)]),
    ("lengths", [(300, 40)]),
    ("running", [(300, 200)]),
    ("running", [(3, 40, 7)]),
    ("running_product", [(130, 50)]),
    ("running_extremes", [(130, 50)]),
    ("places", [(130, 50)]),
    ("first_place", [(130, 50)]),
    ("triangles", [(130, 140)]),
    ("triangles", [(1, 3)]),
    ("counted", [(130, 50)]),
    ("causal", [(2, 130, 32)] * 3),
    ("causal", [(300, 64)] * 3),
    ("added_mask", [(2, 3, 130, 32)] * 3),
    ("added_mask", [(1, 16), (513, 16), (513, 16)]),
    ("summed_scores", [(130, 40), (40, 70)]),
    ("by_heads", [(130, 4, 32), (130, 2, 32), (130, 2, 32)]),
]


@pytest.mark.parametrize(
    ("function", "shapes"), CASES, ids=lambda v: v if isinstance(v, str) else "x".join(map(str, v))
)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_kernel_computes_its_reference(function: str, shapes: list[tuple[int, ...]], dtype: str) -> None:
    run(function, shapes, dtype)


SIZES = st.sampled_from([1, 2, 64, 127, 128, 129, 200, 300, 513, 640])


def walk(seed: int, steps: int) -> Any:
    """A schedule some random moves away from the start."""

    def choose(schedule: Schedule, space: Space) -> Schedule:
        rng = random.Random(seed)
        for _ in range(steps):
            moves = list(space.moves(schedule))
            if moves:
                schedule = rng.choice(moves).schedule
        return schedule

    return choose


@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(m=SIZES, k=SIZES, n=SIZES, seed=st.integers(0, 999), dtype=st.sampled_from(["float32", "bfloat16", "float16"]),
       function=st.sampled_from(["matmul", "matmul_nk", "matmul_km", "rmsnorm_matmul", "residual", "matmul_softmax", "linear_gelu"]),
       target=st.sampled_from(["trn1", "trn2", "trn3"]), defer=st.booleans())  # fmt: skip
def test_any_schedule_of_a_matmul_is_right(
    m: int, k: int, n: int, seed: int, dtype: str, function: str, target: str, defer: bool
) -> None:
    shapes: dict[str, list[tuple[int, ...]]] = {
        "matmul": [(m, k), (k, n)], "matmul_nk": [(m, k), (n, k)], "matmul_km": [(k, m), (k, n)],
        "rmsnorm_matmul": [(m, k), (k, n)], "residual": [(m, k), (k, n), (m, n)], "matmul_softmax": [(m, k), (k, n)],
        "linear_gelu": [(m, k), (k, n), (n,)],
    }  # fmt: skip
    run(function, shapes[function], dtype, target, walk(seed, seed % 6), defer)


@settings(max_examples=30, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(m=SIZES, n=st.sampled_from([3, 64, 129, 513, 1000, 2500]), seed=st.integers(0, 999),
       dtype=st.sampled_from(["float32", "bfloat16"]), function=st.sampled_from(["softmax", "rmsnorm", "layernorm", "gelu", "add"]),
       target=st.sampled_from(["trn1", "trn2", "trn3"]))  # fmt: skip
def test_any_schedule_of_rows_is_right(m: int, n: int, seed: int, dtype: str, function: str, target: str) -> None:
    shapes: dict[str, list[tuple[int, ...]]] = {
        "softmax": [(m, n)], "rmsnorm": [(m, n), (n,)], "layernorm": [(m, n), (n,), (n,)], "gelu": [(m, n)],
        "add": [(m, n), (m, n)],
    }  # fmt: skip
    run(function, shapes[function], dtype, target, walk(seed, seed % 5))


@settings(max_examples=24, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(m=SIZES, n=st.sampled_from([3, 64, 129, 513, 1000]), seed=st.integers(0, 999),
       function=st.sampled_from(["running", "places", "causal", "triangles", "added_mask"]),
       target=st.sampled_from(["trn1", "trn2", "trn3"]))  # fmt: skip
def test_any_schedule_of_places_and_running_totals_is_right(
    m: int, n: int, seed: int, function: str, target: str
) -> None:
    shapes: dict[str, list[tuple[int, ...]]] = {
        "running": [(m, n)], "places": [(m, n)], "triangles": [(min(m, n), n)], "causal": [(2, min(m, 300), 32)] * 3,
        "added_mask": [(min(m, 300), 16), (n, 16), (n, 16)],
    }  # fmt: skip
    if function == "added_mask" and m > n:
        shapes["added_mask"] = [(n, 16)] * 3
    run(function, shapes[function], "float32", target, walk(seed, seed % 5))


def test_rows_too_long_for_sbuf_are_read_in_windows() -> None:
    def windows(schedule: Schedule, space: Space) -> Schedule:
        return Schedule("fused", (RowSchedule(free_tile=4096),))

    _, source = run("softmax", [(3, 70001)], choose=windows)
    assert source.count("for c0 in range(0, 70001, 4096):") == 3  # maximum, sum, result
    run("layernorm", [(2, 20000), (20000,), (20000,)], choose=windows)


def test_resident_weights_are_loaded_once() -> None:
    def resident(schedule: Schedule, space: Space) -> Schedule:
        return Schedule("deferred", (MatmulSchedule(n_block=0, left="dma"),))

    shapes = [(512, 256), (256, 384)]
    result, _ = run("rmsnorm_matmul", shapes, "bfloat16", choose=resident, defer=True)
    read = 2 * (512 * 256 * 2) + 256 * 384 * 2  # x twice: once as rows, once transposed by the DMA
    assert result.profile.hbm_read_bytes == read


def test_per_row_factors_move_behind_the_matmul() -> None:
    _, after = run("rmsnorm_matmul", [(256, 128), (128, 64)], defer=True)
    scale = max(after.rfind("operand0=rstd"), after.rfind("scale=rstd"))
    assert scale > after.index("nc_matmul")


def test_a_long_contraction_streams_through_sbuf() -> None:
    def pieces(schedule: Schedule, space: Space) -> Schedule:
        return Schedule("fused", (MatmulSchedule(n_block=512, m_tiles=2, k_block=256),))

    for function, shapes in (
        ("matmul", [(300, 1000), (1000, 700)]), ("matmul_nk", [(300, 1000), (130, 1000)]), ("matmul_km", [(777, 129), (777, 513)]),
        ("residual", [(260, 513), (513, 600), (260, 600)]), ("matmul", [(2, 100, 300), (2, 300, 20)]),
    ):  # fmt: skip
        _, source = run(function, shapes, "bfloat16", choose=pieces)
        assert "for k0 in range(" in source


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("function", "shapes"),
    [
        ("softmax", [(1024, 64)]), ("softmax", [(1200, 30)]), ("rmsnorm", [(512, 32), (32,)]), ("statistics", [(640, 30)]),
        ("layernorm", [(512, 32), (32,), (32,)]), ("add", [(1024, 64), (1024, 1)]), ("add", [(1024, 64), (64,)]), ("gelu", [(520, 7)]),
    ],
)  # fmt: skip
def test_short_rows_lie_side_by_side(function: str, shapes: list[tuple[int, ...]], dtype: str) -> None:
    for choice in (
        RowSchedule(pack=4, flatten=False),
        RowSchedule(pack=2, ahead=True, flatten=False, engines=("vector", "scalar", "gpsimd")),
        RowSchedule(pack=4, shared="psum", intermediates="storage", flatten=False),
    ):
        _, source = run(function, shapes, dtype, choose=lambda s, p, c=choice: Schedule("fused", (c,) * len(s.stages)))
        assert f", {choice.pack}, {shapes[0][1]})" in source


@pytest.mark.parametrize("function", ["softmax", "rmsnorm", "layernorm"])
@pytest.mark.parametrize("rows", [128, 129, 300, 512])
def test_reducing_ahead_changes_no_value(function: str, rows: int) -> None:
    shapes: list[tuple[int, ...]] = [(rows, 200), *([(200,)] * {"softmax": 0, "rmsnorm": 1, "layernorm": 2}[function])]
    for statistics in ("sums", "bn_stats"):
        choice = RowSchedule(
            ahead=True, statistics=statistics, rsqrt="vector", shared="psum", engines=("vector", "scalar", "gpsimd")
        )  # type: ignore[arg-type]
        run(function, shapes, "float32", choose=lambda s, p, c=choice: Schedule("fused", (c,)))
