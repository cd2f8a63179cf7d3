"""Runs generated kernels on the simulator and compares them with the operator graph in float64."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ml_dtypes
import numpy as np

from tests.generate.references import SOURCE
from tools.generate.graph import Graph, evaluate
from tools.generate.moves import Space
from tools.generate.plan import defer_row_scales, make_plan
from tools.generate.render import render
from tools.generate.schedule import Schedule
from tools.generate.tracing import trace_reference
from tools.sim import SimResult, load_source, machine, simulate

NUMPY = {"float32": np.float32, "bfloat16": ml_dtypes.bfloat16, "float16": np.float16}
REL_L2 = {"float32": 2e-5, "bfloat16": 8e-3, "float16": 1.5e-3}

Shapes = Sequence[tuple[int, ...]]


def traced(function: str, shapes: Shapes, dtype: str = "float32", source: str = SOURCE) -> Graph:
    """The graph of one of the references."""
    names = "xyzuvw"
    specs = [{"name": names[i], "shape": s, "dtype": dtype} for i, s in enumerate(shapes)]
    return Graph.from_json(trace_reference(source, function, specs))


def arrays(shapes: Shapes, dtype: str, seed: int = 0) -> list[np.ndarray[Any, Any]]:
    """Normal numbers of a type."""
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(s).astype(NUMPY[dtype]) for s in shapes]


def run(
    function: str, shapes: Shapes, dtype: str = "float32", target: str = "trn2", choose: Any = None, defer: bool = False
) -> tuple[SimResult, str]:
    """Render, simulate and compare one reference under one schedule; returns the result and the kernel's source.

    Args:
        choose: picks a schedule, given the start schedule and the space; by default the start.
    """
    graph = traced(function, shapes, dtype)
    plan = make_plan(defer_row_scales(graph) if defer else graph, [dtype])
    space = Space(plan, machine(target))
    schedule: Schedule = next(iter(space.starts("deferred" if defer else "fused")))
    if choose is not None:
        schedule = choose(schedule, space)
    source = render(plan, schedule, machine(target)).source
    data = arrays(shapes, dtype)
    result = simulate(load_source(source, "kernel"), *data, target=target)
    wanted = evaluate(graph, data)
    assert len(result.outputs) == len(wanted)
    for got, want in zip(result.outputs, wanted):
        assert got.shape == (want.shape or (1,))
        error = np.sqrt(np.mean((got.astype(np.float64).reshape(want.shape) - want) ** 2))
        scale = np.sqrt(np.mean(want**2))
        assert error <= REL_L2[dtype] * scale + 1e-30, f"{function} {shapes} {dtype}: {error / scale:.2e}\n{source}"
    assert not [d for d in result.diagnostics if d.severity == "error"]
    return result, source
