"""Lower bounds of a task's time."""

from __future__ import annotations

from typing import Any

import pytest

from tests.tools.tasks import BF16, task
from tools.generate.graph import Graph
from tools.generate.tracing import trace_reference
from tools.roofline import roofline
from tools.sim.machine import machine
from tools.task import Task


def graph_of(wanted: Task) -> Graph:
    specs: list[dict[str, Any]] = [t.model_dump(include={"name", "shape", "dtype"}) for t in wanted.inputs]
    return Graph.from_json(trace_reference(wanted.reference.source, wanted.reference.function, specs))


def test_a_matmul_counts_its_flops_and_each_tensor_once() -> None:
    wanted = task(
        "def reference(x, y):\n    return x @ y",
        ("x", (256, 512), "bfloat16"),
        ("y", (512, 1024), "bfloat16"),
        tolerance=BF16,
    )
    found = roofline(wanted, [(256, 1024)], graph_of(wanted))
    assert found.flops == 2 * 256 * 512 * 1024
    assert found.read_bytes == 2 * (256 * 512 + 512 * 1024)
    assert found.write_bytes == 2 * 256 * 1024
    trn2 = machine("trn2")
    assert found.compute_us == pytest.approx(found.flops / trn2.peak_tflops("bfloat16") / 1e6)
    assert found.memory_us == pytest.approx((found.read_bytes + found.write_bytes) / trn2.hbm_gbps / 1e3)
    assert found.us == max(found.compute_us, found.memory_us)


def test_float32_precision_lowers_the_peak() -> None:
    wanted = task("def reference(x):\n    return x @ x", ("x", (512, 512), "bfloat16"), tolerance=BF16)
    strict = wanted.model_copy(update={"precision": "fp32"})
    graph = graph_of(wanted)
    ratio = roofline(strict, [(512, 512)], graph).compute_us / roofline(wanted, [(512, 512)], graph).compute_us
    assert ratio == pytest.approx(machine("trn2").tensor_fp32_passes)


def test_inputs_count_as_far_as_they_are_used() -> None:
    wanted = task("def reference(x):\n    return x[:16] * 2", ("x", (64, 32), "float32"))
    found = roofline(wanted, [(16, 32)], graph_of(wanted))
    assert found.read_bytes == 16 * 32 * 4


def test_an_untraceable_reference_has_a_memory_bound_and_no_floor() -> None:
    wanted = task("def reference(x):\n    return np.sort(x)", ("x", (64, 32), "float32"))
    found = roofline(wanted, [(64, 32)], None)
    assert not found.traced
    assert found.us == found.memory_us > 0
    assert found.floor_us == 0
