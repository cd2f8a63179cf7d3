"""Loops of the source: which loop each source line belongs to, and what each loop cost.

A trace knows lines, not loops, so loops are read from the source text. A line inside a helper function belongs to the
deepest loop that holds every place from which the helper is referred to; where helpers are shared by several loops that is
the loop around them all, or none. Comprehensions aren't loops here: their instructions belong to the loop around them.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from tools.sim.instruction import Inst, Trace
from tools.sim.trips import Names, names_of, trips

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

Function = ast.FunctionDef | ast.AsyncFunctionDef
Loop = ast.For | ast.AsyncFor | ast.While


@dataclass(frozen=True, slots=True)
class SourceLoop:
    """One loop of a source file.

    Attributes:
        first_line, last_line: of its header and of its body's last statement.
        header: `for ... in ...` or `while ...`, on one line.
        depth: loops around it, across the calls of helper functions.
        parent: position of the loop around it in the file's loops, -1 for none.
        helpers: functions outside its lines all of whose calls are inside it.
        items: line ranges of the statements that run once in each iteration; helpers called there included.
        counter: what it loops over, and the names that stand in it; None for `while`.
    """

    first_line: int
    last_line: int
    header: str
    depth: int
    parent: int
    helpers: tuple[str, ...]
    items: tuple[tuple[tuple[int, int], ...], ...]
    counter: tuple[ast.expr, Names] | None


@dataclass(frozen=True, slots=True)
class SourceLoops:
    """The loops of one source file, outer before inner, and the loop of each line that is in one."""

    loops: tuple[SourceLoop, ...]
    loop_of: dict[int, int]


@dataclass(slots=True)
class _Place:
    """A function or loop while its file is being read."""

    node: Function | Loop | None
    function: int
    """The function around it, as a position among the functions."""
    loop: int
    """The loop around it within that function, -1 for none."""


@dataclass(slots=True)
class _Reader:
    """Collects loops, functions and the places where functions are referred to."""

    functions: list[_Place] = field(default_factory=lambda: [_Place(None, 0, -1)])
    loops: list[_Place] = field(default_factory=list)
    names: dict[str, list[int]] = field(default_factory=dict)
    mentions: list[tuple[str, int, int, int]] = field(default_factory=list)
    """(name, line, function, loop) of everything that may be a call of a function."""

    def read(self, node: ast.AST, function: int, loop: int) -> None:
        if isinstance(node, Function):
            for outside in (*node.decorator_list, *node.args.defaults, *filter(None, node.args.kw_defaults)):
                self.read(outside, function, loop)
            self.functions.append(_Place(node, function, loop))
            self.names.setdefault(node.name, []).append(len(self.functions) - 1)
            function, loop = len(self.functions) - 1, -1
            children: Iterator[ast.AST] = iter(node.body)
        elif isinstance(node, Loop):
            around = loop
            self.loops.append(_Place(node, function, loop))
            loop = len(self.loops) - 1
            for last in node.orelse:
                self.read(last, function, around)
            if not isinstance(node, ast.While):
                self.read(node.iter, function, around)
            children = iter([node.test, *node.body] if isinstance(node, ast.While) else node.body)
        else:
            if isinstance(node, ast.Name):
                self.mentions.append((node.id, node.lineno, function, loop))
            elif isinstance(node, ast.Attribute):
                self.mentions.append((node.attr, node.lineno, function, loop))
            children = ast.iter_child_nodes(node)
        for child in children:
            self.read(child, function, loop)


def _chain(loop: int, parents: list[int]) -> list[int]:
    """A loop and those around it, the innermost first."""
    found = []
    while loop >= 0 and loop not in found:
        found.append(loop)
        loop = parents[loop]
    return found


KERNEL_DECORATORS = ("jit", "trace", "baremetal", "benchmark", "profile", "simulate")


def _is_kernel(node: Function) -> bool:
    for decorator in node.decorator_list:
        called = decorator.func if isinstance(decorator, ast.Call) else decorator
        if isinstance(called, ast.Attribute) and called.attr in KERNEL_DECORATORS:
            return True
        if isinstance(called, ast.Name) and called.id in KERNEL_DECORATORS:
            return True
    return False


class _Contexts:
    """The loop around each function: the deepest that holds all mentions of it."""

    def __init__(self, reader: _Reader) -> None:
        self.reader = reader
        self.known: dict[int, list[int]] = {}
        self.mentions: dict[int, list[tuple[int, int, int]]] = {}
        reached = self._reached()
        for name, line, function, loop in reader.mentions:
            if function in reached:
                for called in reader.names.get(name, ()):
                    self.mentions.setdefault(called, []).append((line, function, loop))

    def _reached(self) -> set[int]:
        """Functions that a kernel of the module leads to: a test that calls the kernel in a loop is no loop around it."""
        functions = self.reader.functions
        kernels = {
            k for k, place in enumerate(functions) if isinstance(place.node, Function) and _is_kernel(place.node)
        }
        reached = kernels or set(range(1, len(functions)))
        more = set(reached)
        while more:
            names = {name for name, _, function, _ in self.reader.mentions if function in more}
            more = {k for name in names for k in self.reader.names.get(name, ())} - reached
            reached |= more
        return reached

    def around(self, function: int, seen: frozenset[int] = frozenset()) -> list[int]:
        """Loops around a function's body, the innermost first; of a recursive function those of its other calls."""
        if function in self.known or function in seen:
            return self.known.get(function, [])
        chains = [
            self.loops_at(f, loop, seen | {function})
            for _, f, loop in self.mentions.get(function, ())
            if f not in seen | {function}
        ]
        shared = [k for k in chains[0] if all(k in chain for chain in chains)] if chains else []
        if not seen:
            self.known[function] = shared
        return shared

    def loops_at(self, function: int, loop: int, seen: frozenset[int] = frozenset()) -> list[int]:
        """Loops around a place, the innermost first."""
        inside = _chain(loop, [place.loop for place in self.reader.loops])
        return inside + self.around(function, seen)


@lru_cache(maxsize=64)
def loops_of(source: str) -> SourceLoops:
    """The loops of a module's source; none when it isn't valid Python."""
    try:
        tree = ast.parse(source)
    except SyntaxError:
        return SourceLoops((), {})  # hand-made traces carry placeholder text
    reader = _Reader()
    for statement in tree.body:
        reader.read(statement, 0, -1)
    contexts = _Contexts(reader)
    chains = [[k, *contexts.loops_at(place.function, place.loop)] for k, place in enumerate(reader.loops)]
    # An inner loop that lies in a helper may stand before the loop around it: outer ones come first.
    order = sorted(range(len(chains)), key=lambda k: [_line(reader, around) for around in reversed(chains[k])])
    position = {k: n for n, k in enumerate(order)}
    loop_of = {line: position[k] for line, k in _lines(reader, contexts).items()}
    loops = []
    for k in order:
        node = reader.loops[k].node
        assert isinstance(node, Loop)
        around = chains[k][1:]
        loops.append(
            SourceLoop(
                first_line=node.lineno,
                last_line=_end(node),
                header=_header(node),
                depth=len(around),
                parent=position[around[0]] if around else -1,
                helpers=_helpers(reader, contexts, k),
                items=_items(reader, contexts, node),
                counter=_counter(tree, reader, k),
            )
        )
    return SourceLoops(tuple(loops), loop_of)


def _line(reader: _Reader, loop: int) -> int:
    node = reader.loops[loop].node
    return node.lineno if node is not None else 0


def _end(node: Loop) -> int:
    last = node.body[-1]
    return last.end_lineno or last.lineno


def _header(node: Loop) -> str:
    if isinstance(node, ast.While):
        return f"while {ast.unparse(node.test)}"
    return f"for {ast.unparse(node.target)} in {ast.unparse(node.iter)}"


def _lines(reader: _Reader, contexts: _Contexts) -> dict[int, int]:
    """The innermost loop of each line that is in one; loops by their position in `reader`."""
    spans: list[tuple[int, int, int]] = []
    for k, place in enumerate(reader.functions):
        if isinstance(place.node, Function):
            around = contexts.around(k)
            spans.append((place.node.lineno, place.node.end_lineno or place.node.lineno, around[0] if around else -1))
    for k, place in enumerate(reader.loops):
        if isinstance(place.node, Loop):
            spans.append((place.node.lineno, _end(place.node), k))
    found: dict[int, int] = {}
    for first, last, loop in sorted(spans, key=lambda s: (s[0], -s[1])):
        for line in range(first, last + 1):
            found[line] = loop
    return {line: loop for line, loop in found.items() if loop >= 0}


def _helpers(reader: _Reader, contexts: _Contexts, loop: int) -> tuple[str, ...]:
    """Names of the functions whose own lines count to this loop."""
    found = []
    for k, place in enumerate(reader.functions):
        if isinstance(place.node, Function) and contexts.around(k)[:1] == [loop]:
            found.append(place.node.name)
    return tuple(found)


def _items(reader: _Reader, contexts: _Contexts, node: Loop) -> tuple[tuple[tuple[int, int], ...], ...]:
    """Line ranges of the body's statements that run exactly once in each iteration, up to a possible early end."""
    found: list[tuple[tuple[int, int], ...]] = []
    for statement in node.body:
        leaves = any(isinstance(part, ast.Break | ast.Continue | ast.Return) for part in ast.walk(statement))
        if leaves and not isinstance(statement, Loop):
            break
        if isinstance(statement, ast.If | ast.Try | ast.Match | Function) or _conditional(statement):
            continue
        last = statement.end_lineno or statement.lineno
        ranges = [(statement.lineno, last)]
        for k, place in enumerate(reader.functions):
            calls = contexts.mentions.get(k, [])
            if isinstance(place.node, Function) and len(calls) == 1 and statement.lineno <= calls[0][0] <= last:
                ranges.append((place.node.lineno, place.node.end_lineno or place.node.lineno))
        found.append(tuple(ranges))
    return tuple(found)


def _conditional(statement: ast.stmt) -> bool:
    return any(
        isinstance(part, ast.IfExp | ast.BoolOp | ast.comprehension | ast.Lambda) for part in ast.walk(statement)
    )


def _counter(tree: ast.Module, reader: _Reader, loop: int) -> tuple[ast.expr, Names] | None:
    node, around = reader.loops[loop].node, reader.functions[reader.loops[loop].function].node
    if not isinstance(node, ast.For | ast.AsyncFor):
        return None
    return node.iter, names_of(tree, around if isinstance(around, Function) else None)


# -- cost --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class LoopTime:
    """What one loop of the source cost, loops inside it and helpers called from it included.

    Attributes:
        file, first_line, last_line, header: where it is and how it reads.
        depth: loops around it. parent_line: first line of the loop around it, 0 for none.
        iterations: how often its body ran in the whole launch, all cores; None where the instruction stream doesn't tell.
        busy_us: engine time of its instructions; as everywhere, a DMA counts its share of all DMA engines.
        own_us: that time without the loops inside it.
        engines: that time by engine (`Tensor`, ..., `DMA`), the largest first.
        active_us: time in which at least one of its instructions ran.
        stall_us: waiting of the engines in front of its instructions.
        instructions, dma_bytes: their number, and the bytes that its DMAs move.
        helpers: functions outside its lines whose instructions count to it because all calls are in it.
    """

    file: str
    first_line: int
    last_line: int
    header: str
    depth: int
    parent_line: int
    iterations: int | None
    busy_us: float
    own_us: float
    engines: dict[str, float]
    active_us: float
    stall_us: float
    instructions: int
    dma_bytes: int
    helpers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Cost:
    """What the instructions of a launch cost, one entry each (all [n]; times in ns).

    Attributes:
        held: time that it held its engine.
        where: index of that engine in `names`.
        names: engines, the DMA engines last.
        waited: time that its engine waited in front of it.
        moved: bytes, DMAs only.
        start, end: when it ran (a DMA: from its trigger to the end of its data).
    """

    held: Floats
    where: Ints
    names: tuple[str, ...]
    waited: Floats
    moved: Ints
    start: Floats
    end: Floats


def loop_times(trace: Trace, cost: Cost) -> tuple[LoopTime, ...]:
    """Every loop that issued instructions, in the order of the source, outer before inner."""
    found: list[LoopTime] = []
    line = trace.column(Inst.LINE)
    files = {file for file, _ in trace.lines}
    order = np.argsort(cost.start, kind="stable") if len(trace) else np.empty(0, np.int64)
    for file, text in trace.sources.items():
        source = loops_of(text)
        if file not in files or not source.loops:
            continue
        numbers = np.array([number if f == file else 0 for f, number in trace.lines])
        number = np.where(line >= 0, numbers[line], 0)
        own = np.array([source.loop_of.get(int(k), -1) for k in numbers])
        loop = np.where(line >= 0, own[line], -1)
        found += _file_loops(trace, cost, file, source, number, loop, order)
    return tuple(found)


def _file_loops(
    trace: Trace, cost: Cost, file: str, source: SourceLoops, number: Ints, loop: Ints, order: Ints
) -> list[LoopTime]:
    count, engines = len(source.loops), len(cost.names)
    mine = loop >= 0
    table = np.zeros((count, engines))
    np.add.at(table, (loop[mine], cost.where[mine]), cost.held[mine])
    own = table.sum(axis=1)
    stall = np.bincount(loop[mine], cost.waited[mine], count)
    numbers = np.bincount(loop[mine], minlength=count)
    moved = np.bincount(loop[mine], cost.moved[mine], count)
    inside = np.eye(count, dtype=np.bool_)
    for k in sorted(range(count), key=lambda k: -source.loops[k].depth):
        around = source.loops[k].parent
        if around >= 0:
            inside[around] |= inside[k]
            for column in (table, stall, numbers, moved):
                column[around] += column[k]
    found = []
    for k, each in enumerate(source.loops):
        if not numbers[k]:
            continue
        member = inside[k][np.maximum(loop, 0)] & mine
        spent = {name: float(us) / 1e3 for name, us in zip(cost.names, table[k]) if us > 0}
        rows = order[member[order]]
        found.append(
            LoopTime(
                file=file,
                first_line=each.first_line,
                last_line=each.last_line,
                header=each.header,
                depth=each.depth,
                parent_line=source.loops[each.parent].first_line if each.parent >= 0 else 0,
                iterations=_iterations(trace, source, k, number, member),
                busy_us=float(table[k].sum()) / 1e3,
                own_us=float(own[k]) / 1e3,
                engines=dict(sorted(spent.items(), key=lambda entry: -entry[1])),
                active_us=_union(cost.start[rows], cost.end[rows]) / 1e3,
                stall_us=float(stall[k]) / 1e3,
                instructions=int(numbers[k]),
                dma_bytes=int(moved[k]),
                helpers=each.helpers,
            )
        )
    return found


def _union(start: Floats, end: Floats) -> float:
    """Length of the union of intervals that are sorted by their start."""
    reach = np.maximum.accumulate(end)
    before = np.concatenate([start[:1], reach[:-1]])
    return float(np.maximum(reach - np.maximum(start, before), 0.0).sum())


def iterations_of(trace: Trace, loop: LoopTime) -> Ints | None:
    """The iteration of `loop` that each instruction of core 0 belongs to, counted over the launch; -1 outside of it.

    Instructions are put to the iteration that is open when they are issued. None where the stream doesn't tell.
    """
    source = loops_of(trace.sources.get(loop.file, ""))
    which = [
        k for k, each in enumerate(source.loops) if (each.first_line, each.header) == (loop.first_line, loop.header)
    ]
    if not which:
        return None
    inside = {k for k in range(len(source.loops)) if which[0] in _around(source, k)}
    lines = {line for line, k in source.loop_of.items() if k in inside}
    numbers = np.array([n if f == loop.file and n in lines else 0 for f, n in trace.lines])
    line = trace.column(Inst.LINE)
    number = np.where((line >= 0) & (trace.column(Inst.CORE) == 0), numbers[line], 0)
    rows = np.flatnonzero(number > 0)
    item = _items_at(source.loops[which[0]], number[rows])
    present = np.unique(item[item >= 0])
    if len(present) < 2:
        return None
    known = np.flatnonzero(item >= 0)
    entered = known[(np.diff(item[known], prepend=-1) != 0) & (item[known] == present[0])]
    found = np.full(len(trace), -1, np.int64)
    found[rows] = np.maximum(np.searchsorted(entered, np.arange(len(rows)), side="right") - 1, 0)
    return found


def _around(source: SourceLoops, loop: int) -> list[int]:
    """A loop and those around it."""
    found = []
    while loop >= 0:
        found.append(loop)
        loop = source.loops[loop].parent
    return found


def _items_at(each: SourceLoop, numbers: Ints) -> Ints:
    """Which of the statements that every iteration runs each line number belongs to, -1 for none."""
    item = np.full(len(numbers), -1)
    for k, ranges in enumerate(each.items):
        for first, last in ranges:
            item[(numbers >= first) & (numbers <= last)] = k
    return item


def _iterations(trace: Trace, source: SourceLoops, loop: int, number: Ints, member: NDArray[np.bool_]) -> int | None:
    """How often a loop's body ran: how often the stream comes back to one of the statements that every iteration runs.

    With two such statements the stream leaves and re-enters the first once an iteration. With one there is nothing in
    between to tell; then its rarest opcode is taken to be issued once an iteration. Where that statement is a loop whose
    header says how often it runs, the count of that loop is divided.
    """
    each = source.loops[loop]
    total = 0
    rows_all = np.flatnonzero(member)
    cores = trace.column(Inst.CORE)[rows_all]
    for core in np.unique(cores).tolist():
        rows = rows_all[cores == core]
        item = _items_at(each, number[rows])
        present = np.unique(item[item >= 0])
        if not len(present):
            return None
        if len(present) > 1:
            known = item[item >= 0]
            entered = np.flatnonzero(np.diff(known, prepend=-1) != 0)
            total += int((known[entered] == present[0]).sum())
            continue
        only = each.items[int(present[0])]
        inner = [k for k, other in enumerate(source.loops) if other.parent == loop and _within(other, only)]
        if inner:
            counter = source.loops[inner[0]].counter
            times = trips(*counter, _shapes(trace)) if counter is not None and len(inner) == 1 else None
            within = np.zeros(len(trace), np.bool_)
            within[rows] = True
            ran = _iterations(trace, source, inner[0], number, within) if times else None
            if ran is None or not times or ran % times:
                return None
            total += ran // times
            continue
        opcodes = trace.column(Inst.OPCODE)[rows[item >= 0]]
        counts = np.unique(opcodes, return_counts=True)[1]
        if (counts % counts.min()).any():
            return None
        total += int(counts.min())
    return total


def _shapes(trace: Trace) -> dict[str, tuple[int, ...]]:
    return {b.name: b.shape for b in trace.buffers if b.role in ("input", "constant") and b.name}


def _within(loop: SourceLoop, ranges: tuple[tuple[int, int], ...]) -> bool:
    return any(first <= loop.first_line and loop.last_line <= last for first, last in ranges)
