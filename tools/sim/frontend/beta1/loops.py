"""Loops, program ids and launch grids of Beta 1. Every loop really iterates, with integers."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from itertools import pairwise
from math import prod
from typing import Any

from tools.sim import context
from tools.sim.frontend.beta1.affine import body_of
from tools.sim.frontend.beta1.index import LoopIndex
from tools.sim.frontend.beta1.mask import resolve
from tools.sim.frontend.beta1.movement import in_sbuf, source, tile_of, unknown
from tools.sim.frontend.beta1.promotion import dtype_of
from tools.sim.frontend.beta1.tile import Tile, begin, defer
from tools.sim.instruction import ParallelLoop, TraceBuilder
from tools.sim.isa import vector
from tools.sim.tensor import Tensor

_HINTS = ("precise_schedule", "multi_buffer", "name")


def _index(value: int, first: bool) -> LoopIndex:
    index = LoopIndex(value)
    index.first = first
    return index


class Loop:
    """`nl.affine_range(...)` and its kin: integers that know the first iteration of their loop.

    Attributes:
        values: the index of each iteration.
        parallel: whether the kernel says that the iterations don't depend on each other.
    """

    __slots__ = ("parallel", "values")

    def __init__(self, values: range, parallel: bool) -> None:
        self.values = values
        self.parallel = parallel

    def __iter__(self) -> Iterator[LoopIndex]:
        core = context.find()
        frame = sys._getframe(1)
        steps: Iterable[LoopIndex] | None = None
        if core is not None and core.recorder is not None:
            body = body_of(frame)
            if body is not None:
                loop = (frame.f_code, frame.f_lineno)
                steps = core.recorder.iterate(loop, self.values, _index, lambda: body.holds(frame), body.masked)
        if steps is None:
            steps = (_index(value, k == 0) for k, value in enumerate(self.values))
        if core is None or not self.parallel or len(self.values) < 2:
            return iter(steps)
        return _noted(core.builder, core.builder.line_id(frame.f_code.co_filename, frame.f_lineno), self.values, steps)

    def __len__(self) -> int:
        return len(self.values)


_NOTED_RUNS = 8
"""Runs of one loop whose iterations are noted: what one run writes, the later ones write shifted."""


def _noted(builder: TraceBuilder, line: int, values: range, steps: Iterable[LoopIndex]) -> Iterator[LoopIndex]:
    """The iterations `steps`, noting in the trace where each begins.

    Iterations that the recorder derives don't come by here: they repeat the one before them, instruction by instruction.
    """
    if sum(run.line == line for run in builder.parallel) >= _NOTED_RUNS:
        yield from steps
        return
    seen: list[tuple[int, int]] = []
    for index in steps:
        seen.append((values.index(int(index)), builder.count))
        yield index
    seen.append((len(values), builder.count))
    starts: list[int] = []
    for (k, row), (after, later) in pairwise(seen):
        starts.extend(row + (later - row) * j // (after - k) for j in range(after - k))
    builder.parallel.append(ParallelLoop(line, (*starts, seen[-1][1])))


def _loop(api: str, bounds: tuple[Any, ...], hints: dict[str, Any], parallel: bool = False) -> Loop:
    for extra in hints:
        if extra not in _HINTS:
            context.fail("KW-ARGUMENT", f"{api} has no argument {extra!r}", operand=extra, fix="remove it")
    for bound in bounds:
        if isinstance(bound, Tensor):
            context.fail(
                "KW-DYNAMIC-LOOP",
                f"{api}: a loop bound is a tile (err_dynamic_control_flow_not_supported)",
                fix="loop bounds must be known while the kernel is traced",
            )
    return Loop(range(*(context.index_value(b) for b in bounds)), parallel)


def affine_range(*bounds: Any, **hints: Any) -> Loop:
    """Iterations without dependence on each other, but for associative accumulation."""
    return _loop("nl.affine_range", bounds, hints, parallel=True)


def sequential_range(*bounds: Any, **hints: Any) -> Loop:
    """Iterations that depend on the ones before."""
    return _loop("nl.sequential_range", bounds, hints)


def static_range(*bounds: Any, **hints: Any) -> Loop:
    """Iterations that the tracer unrolls."""
    return _loop("nl.static_range", bounds, hints)


# -- grids -------------------------------------------------------------------------------------------------------------


class CoreCount(int):
    """`nl.nc(n)`: as a grid dimension, program instances spread over n NeuronCores (here they run one after another)."""


def nc(count: int) -> CoreCount:
    """A grid dimension of `count` NeuronCores."""
    return CoreCount(context.index_value(count))


def spmd_dim(*factors: Any) -> int:
    """A grid dimension made of several, each instances or NeuronCores."""
    return prod(context.index_value(f) for f in factors)


def program_id(axis: Any = 0) -> int:
    """Coordinate of this program instance in the launch grid."""
    core = context.current()
    at = context.index_value(axis)
    if at >= max(len(core.launch.grid), 1):
        context.fail(
            "KW-PROGRAM-AXIS",
            f"program_id({at}): the grid has {len(core.launch.grid)} dimensions",
            operand="axis",
            found=at,
            limit=len(core.launch.grid) - 1,
            fix="launch the kernel with a grid of that many dimensions",
        )
    return core.program[at] if core.program else 0


def num_programs(axes: Any = None) -> int:
    """Number of program instances along `axes` (all of them by default)."""
    grid = context.current().launch.grid or (1,)
    if axes is None:
        return prod(grid)
    chosen = axes if isinstance(axes, tuple | list) else (axes,)
    return prod(grid[a] if a < len(grid) else 1 for a in chosen)


def program_ndim() -> int:
    """Rank of the launch grid; 0 without one."""
    return len(context.current().launch.grid)


# -- reductions over loops ---------------------------------------------------------------------------------------------


def loop_reduce(x: Any, op: Any, loop_indices: Any, *, dtype: Any = None, mask: Any = None, **kwargs: Any) -> Any:
    """Reduce a tile over the iterations of loops: the first iteration copies, later ones fold into the destination.

    Args:
        x: this iteration's tile.
        op: reduction operator.
        loop_indices: the variables of the loops that are reduced over.
        dtype: type of the result.
    """
    unknown("nl.loop_reduce", kwargs)
    core = begin()
    tile = tile_of(x, "x", "nl.loop_reduce")
    indices = loop_indices if isinstance(loop_indices, tuple | list) else (loop_indices,)
    first = all(i.first if isinstance(i, LoopIndex) else i == 0 for i in indices)
    kind = tile.dtype if dtype is None else dtype_of(dtype)
    chooser = resolve(mask, tile.shape)
    data = source(tile, chooser)

    def emit(dst: Any) -> None:
        if first:
            vector.tensor_copy(dst, data)
            return
        second = in_sbuf(core, data) if dst.buffer.space == "psum" else data
        vector.tensor_tensor(dst, dst, second, op)

    place = core.here()
    key = ("loop_reduce", place.code, place.lasti) if place is not None else ("loop_reduce",)
    # `b = nl.loop_reduce(...)` binds a name: later iterations fold into the tile of the first one
    home = None if first else core.constants.get(key)
    result = defer(
        core,
        tile.shape,
        kind,
        emit,
        explicit=dtype is not None,
        chooser=chooser,
        home=home if isinstance(home, Tile) and home.shape == tile.shape else None,
    )
    core.constants[key] = result
    return result
