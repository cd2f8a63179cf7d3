"""The shortest time that a task's minimum traffic and arithmetic allow: every input read once, every output written once.

Engines other than the Tensor Engine are not counted: their work depends on how the kernel is written.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Literal

from tools.generate.errors import BeyondOffline
from tools.generate.graph import Graph
from tools.generate.roofline import roofline as planned
from tools.sim.dtypes import as_dtype
from tools.sim.machine import machine
from tools.task import Task

MANTISSA = {
    "float32": 23, "float64": 52, "tfloat32": 10, "float16": 10, "bfloat16": 7, "float8_e4m3": 3, "float8_e4m3fn": 3,
    "float8_e5m2": 2, "float8_e8m0fnu": 0,
}  # fmt: skip
"""Stored mantissa bits of the float types (OCP 8-bit formats; IEEE 754; bfloat16)."""


@dataclass(frozen=True, slots=True)
class Roofline:
    """Lower bounds of a task's time on one core.

    Attributes:
        memory_us: minimum bytes at the rate that one core can draw.
        compute_us: matmul flops at the Tensor Engine's peak for the types that the task allows; 0 when unknown.
        fastest_us: the same with every product in the narrowest type that the task allows.
        read_bytes, write_bytes: minimum traffic.
        flops: of all matmuls.
        matmuls: how many there are.
        traced: whether the reference could be traced; otherwise flops are unknown and inputs count in full.
    """

    memory_us: float
    compute_us: float
    fastest_us: float
    read_bytes: int
    write_bytes: int
    flops: int
    matmuls: int
    traced: bool

    @property
    def us(self) -> float:
        """The larger of the two bounds."""
        return max(self.memory_us, self.compute_us)

    @property
    def bound(self) -> Literal["memory", "compute"]:
        """Which of the two it is."""
        return "compute" if self.compute_us > self.memory_us else "memory"

    @property
    def floor_us(self) -> float:
        """What no honest kernel can beat, even one that reorders matmuls or skips inputs that cancel out."""
        bounds = [self.memory_us / 2 if self.traced else 0.0]
        if self.matmuls == 1:
            bounds.append(self.fastest_us)
        return max(bounds)


def output_types(task: Task, count: int) -> tuple[str, ...]:
    """Storage type of each of `count` outputs."""
    return task.output_dtypes or (task.inputs[0].dtype,) * count


def narrowest_type(task: Task) -> str:
    """The narrowest float type that the task lets a kernel compute in."""
    floats = [t.dtype for t in task.inputs if t.dtype in MANTISSA] or ["float32"]
    return min(floats, key=lambda name: MANTISSA[name])


def roofline(task: Task, outputs: Sequence[tuple[int, ...]], graph: Graph | None) -> Roofline:
    """Bounds for `task`, whose outputs have the shapes `outputs`; `graph` is its traced reference, if it has one."""
    target = machine(task.target)
    kinds = output_types(task, len(outputs))
    written = sum(prod(shape) * as_dtype(kind).itemsize for shape, kind in zip(outputs, kinds))
    read = sum(_used(task, i, graph) for i in range(len(task.inputs)))
    flops, matmuls = _flops(graph) if graph is not None else (0, 0)
    kind = "float32" if task.precision == "fp32" else narrowest_type(task)
    memory_us = (read + written) / target.hbm_gbps / 1e3
    fastest_us = flops / (target.peak_tflops(kind) * 1e6)
    return Roofline(
        memory_us, _compute_us(task, graph, fastest_us), fastest_us, read, written, flops, matmuls, graph is not None
    )


def _compute_us(task: Task, graph: Graph | None, fastest_us: float) -> float:
    """Matmul time with each product in the type that its operands have, where the generator can tell."""
    if graph is None:
        return fastest_us
    try:
        return planned(task, graph, machine(task.target)).compute_us
    except BeyondOffline:
        return fastest_us


def _used(task: Task, index: int, graph: Graph | None) -> int:
    """Bytes of an input that the result depends on, as far as slices tell."""
    spec = task.inputs[index]
    elements = prod(spec.shape)
    if graph is not None:
        live = _live(graph)
        nodes = [n for n in graph.inputs if int(n.attrs["index"]) == index and n.id in live]
        users = [graph[u] for n in nodes for u in graph.users()[n.id] if u in live]
        if not nodes:
            return 0
        if users and all(u.op == "slice" for u in users) and not set(graph.outputs) & {n.id for n in nodes}:
            elements = min(elements, sum(u.size for u in users))
    return elements * as_dtype(spec.dtype).itemsize


def _live(graph: Graph) -> set[int]:
    found: set[int] = set()
    stack = list(graph.outputs)
    while stack:
        node = stack.pop()
        if node not in found:
            found.add(node)
            stack.extend(graph[node].inputs)
    return found


def _flops(graph: Graph) -> tuple[int, int]:
    live = _live(graph)
    matmuls = [n for n in graph if n.op == "matmul" and n.id in live and graph[n.inputs[0]].op != "constant"]
    return sum(2 * n.size * graph[n.inputs[0]].shape[-1] for n in matmuls), len(matmuls)
