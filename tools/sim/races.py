"""Races of two cores on shared HBM: both touch a byte between two meetings, and at least one of them writes it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from tools.sim.core import Core, Launch
from tools.sim.errors import Diagnostic, Severity, SourceRange
from tools.sim.memory import Buffer
from tools.sim.tensor import Tensor

_WRITTEN, _READ = 1, 2


@dataclass(slots=True)
class _Touched:
    """What one core did to one buffer since the last meeting: views with the trace line of the instruction."""

    buffer: Buffer
    writes: list[tuple[Tensor, int]] = field(default_factory=list)
    reads: list[tuple[Tensor, int]] = field(default_factory=list)


class RaceWatch:
    """Compares what the cores of a launch did to shared HBM, meeting by meeting.

    Rows picked by an index tile aren't compared: which they are is known only to the instruction.
    """

    def __init__(self, launch: Launch, cores: Sequence[Core]) -> None:
        self.launch = launch
        self.cores = cores
        for core in cores:
            core.watch = []

    def meeting(self) -> None:
        """All cores are here: report conflicts since the last time, and forget them."""
        sides = [self._collect(core) for core in self.cores]
        for first in range(len(sides)):
            for second in range(first + 1, len(sides)):
                for key in sides[first].keys() & sides[second].keys():
                    self._compare(sides[first][key], sides[second][key], first, second)

    def _collect(self, core: Core) -> dict[int, _Touched]:
        touched: dict[int, _Touched] = {}
        watch = core.watch or []
        for tensor, written, line in watch:
            if tensor.rows is None:
                entry = touched.setdefault(tensor.buffer.id, _Touched(tensor.buffer))
                (entry.writes if written else entry.reads).append((tensor, line))
        watch.clear()
        return touched

    def _compare(self, a: _Touched, b: _Touched, first: int, second: int) -> None:
        if not a.writes and not b.writes:
            return
        buffer = a.buffer
        marks = np.zeros(buffer.partitions * buffer.row_bytes * buffer.scale, np.uint8)
        for views, bit in ((a.writes, _WRITTEN), (a.reads if b.writes else [], _READ)):
            for view, _ in views:
                view.map_view(marks)[...] |= bit
        for views, bits, verb in ((b.writes, _WRITTEN | _READ, "writes"), (b.reads, _WRITTEN, "reads")):
            for view, line in views:
                hit = view.map_view(marks) & bits
                if hit.any():
                    where = np.argwhere(hit.any(axis=-1))[0]
                    self._report(a, view, line, tuple(int(i) for i in where), int(hit.max()), verb, first, second)
                    return

    def _report(
        self,
        a: _Touched,
        view: Tensor,
        line: int,
        index: tuple[int, ...],
        bits: int,
        verb: str,
        first: int,
        second: int,
    ) -> None:
        wrote = bool(bits & _WRITTEN)
        mates = a.writes if wrote else a.reads
        mate = next((n for v, n in mates if _overlap(v, view)), -1)
        key = ("KW-RACE-SHARED", str(mate), line)
        if key in self.launch.reported:
            return
        self.launch.reported.add(key)
        name = view.buffer.name or "a shared tensor"
        self.launch.diagnostics.append(
            Diagnostic(
                code="KW-RACE-SHARED",
                severity=Severity.WARNING,
                message=f"core {second} {verb} element {list(index)} of a {list(view.shape)} view of {name}, which core "
                f"{first} {'writes' if wrote else 'reads'} ({self._place(mate)}) with no barrier between",
                where=self._range(line),
                operand=view.buffer.name,
                found=list(index),
                fix="put nisa.core_barrier(tensor, (0, 1)) between, or let each core keep to its part",
                related=tuple(r for r in (self._range(mate),) if r is not None),
            )
        )

    def _range(self, line: int) -> SourceRange | None:
        if not 0 <= line < len(self.launch.lines):
            return None
        file, number = self.launch.lines[line]
        return SourceRange(file, number)

    def _place(self, line: int) -> str:
        found = self._range(line)
        return f"{found.file.rsplit('/', 1)[-1]}:{found.line}" if found else "elsewhere"


def _overlap(a: Tensor, b: Tensor) -> bool:
    r, s = a.region(), b.region()
    return r[0] < s[1] and s[0] < r[1] and r[2] < s[3] and s[2] < r[3]
