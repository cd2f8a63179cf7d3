"""Kernel source from a plan and a schedule."""

from __future__ import annotations

from dataclasses import dataclass

from tools.generate.context import KernelContext
from tools.generate.matmul import emit_matmul
from tools.generate.plan import Plan
from tools.generate.rows import emit_rows, emit_transpose
from tools.generate.schedule import MatmulSchedule, RowSchedule, Schedule
from tools.sim.machine import Machine


@dataclass(frozen=True, slots=True)
class Rendered:
    """Kernel source and what is known about it without running it.

    Attributes:
        source: NKI source text.
        sbuf_bytes: estimate of the SBUF bytes that a partition needs to run without waiting for space.
    """

    source: str
    sbuf_bytes: int


def render(plan: Plan, schedule: Schedule, machine: Machine, *, function: str = "kernel", title: str = "") -> Rendered:
    """Write the kernel that computes `plan` as `schedule` says.

    Raises:
        BeyondOffline: a stage needs an instruction that no emitter knows.
    """
    context = KernelContext(plan, machine)
    for number, (stage, choice) in enumerate(zip(plan.stages, schedule.stages, strict=True)):
        if number or len(plan.stages) > 1:
            context.body.line()
        context.body.comment(_caption(plan, number))
        if stage.kind == "transpose":
            emit_transpose(context, stage)
        elif stage.kind == "matmul":
            assert isinstance(choice, MatmulSchedule)
            emit_matmul(context, stage, choice)
        else:
            assert isinstance(choice, RowSchedule)
            emit_rows(context, stage, choice)
    inputs = [context.tensor_names[n.id] for n in plan.graph.inputs]
    lines = ["import nki", "import nki.isa as nisa", "import nki.language as nl", "", "", "@nki.jit"]
    lines.append(f"def {function}({', '.join(inputs)}):")
    lines.extend(_docstring(context, plan, title))
    lines.append("    P = nl.tile_size.pmax  # partitions")
    lines.extend(context.setup.render())
    lines.append("")
    lines.extend(context.body.render())
    results = [context.tensor_names[k] for k in plan.outputs]
    lines.extend(["", f"    return {', '.join(results)}"])
    return Rendered("\n".join(lines) + "\n", context.sbuf_bytes)


def _caption(plan: Plan, number: int) -> str:
    stage = plan.stages[number]
    graph = plan.graph
    made = ", ".join(plan.tensors[v.tensor].name for _, v in stage.roots)
    ops = [graph[i].op if graph[i].op != "reduce" else f"row {graph[i].attrs['kind']}" for i in stage.region]
    short = ", ".join(dict.fromkeys(ops))
    what = {"rows": "Rows", "matmul": "Matmul", "transpose": "Transpose"}[stage.kind]
    with_ = f" with {short}" if short and stage.kind == "matmul" else (f": {short}" if short else "")
    return f"{what}{with_} -> {made}"


def _docstring(context: KernelContext, plan: Plan, title: str) -> list[str]:
    lines = [f'    """{title or "Generated kernel."}', "", "    Args:"]
    for node in plan.graph.inputs:
        tensor = plan.tensors[node.id]
        lines.append(f"        {context.tensor_names[node.id]}: {tensor.dtype} {list(tensor.shape)} in HBM.")
    lines += ["", "    Returns:"]
    for key in plan.outputs:
        tensor = plan.tensors[key]
        lines.append(f"        {context.tensor_names[key]}: {tensor.dtype} {list(tensor.shape)}.")
    return [*lines, '    """']
