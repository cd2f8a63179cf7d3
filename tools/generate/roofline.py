"""The shortest time that a task's least bytes and its matmul arithmetic allow."""

from __future__ import annotations

from dataclasses import dataclass

from tools.generate.graph import Graph
from tools.generate.lower import itemsize
from tools.generate.views import elements
from tools.sim.machine import Machine
from tools.task import Task


@dataclass(frozen=True, slots=True)
class Roofline:
    """Least work of a task on a machine.

    Attributes:
        hbm_bytes: every input read once, every output written once.
        flops: matmul operations by the type that they may run in.
        memory_us: time for the bytes at the bandwidth that one core can draw.
        compute_us: time for the matmuls at the Tensor Engine's peak.
    """

    hbm_bytes: int
    flops: dict[str, int]
    memory_us: float
    compute_us: float

    @property
    def us(self) -> float:
        """The roofline: whichever takes longer."""
        return max(self.memory_us, self.compute_us)

    @property
    def bound(self) -> str:
        """`memory` or `compute`."""
        return "compute" if self.compute_us > self.memory_us else "memory"


def roofline(task: Task, graph: Graph, machine: Machine) -> Roofline:
    """Least bytes and flops of a task.

    Element-wise work and reductions don't count: they can overlap with both. A column sum done by a matmul of ones doesn't
    count as arithmetic either.

    Args:
        task: gives the types of outputs and the precision that matmuls may use.
        graph: the reference as traced by `tracing.trace_reference`.
        machine: the target.
    """
    from tools.generate.plan import make_plan

    dtypes = output_dtypes(task, len(graph.outputs))
    read = {i for n in graph for i in n.inputs} | set(graph.outputs)
    hbm = sum(n.size * itemsize(n.dtype) for n in graph.inputs if n.id in read)
    hbm += sum(elements(graph[i].shape) * itemsize(d) for i, d in zip(graph.outputs, dtypes))
    kinds = make_plan(graph, dtypes, task.precision).matmul_dtype
    flops: dict[str, int] = {}
    for node in graph:
        if node.op == "matmul" and graph[node.inputs[0]].op != "constant":
            kind = kinds[node.id]
            flops[kind] = flops.get(kind, 0) + 2 * node.size * graph[node.inputs[0]].width
    compute = sum(count / (machine.peak_tflops(kind) * 1e6) for kind, count in flops.items())
    return Roofline(hbm, flops, hbm / (machine.hbm_gbps * 1e3), compute)


def output_dtypes(task: Task, count: int) -> list[str]:
    """Storage type of each result: as the task says, else that of the first input."""
    given = list(task.output_dtypes) or [task.inputs[0].dtype]
    return [given[min(i, len(given) - 1)] for i in range(count)]
