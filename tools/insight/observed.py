"""One timed launch with everything that questions about it need: trace, machine, timeline, profile, derived columns."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from tools.insight.soundness import check
from tools.sim.instruction import OPCODES, Engine, Inst, Operand, Trace
from tools.sim.machine import Machine
from tools.sim.profiler import ENGINE_NAMES, Profile, profile
from tools.sim.timing import LAW_NAMES, Edge, Edges, Timeline, TimingOptions, dependencies, schedule

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

WRITES, READS = 1, 2
"""Bits of an operand's FLAGS column."""


@dataclass(frozen=True)
class Observed:
    """A trace placed in time on a machine, and what was measured there.

    Attributes:
        trace: the recorded instruction stream.
        machine: where it was timed.
        options: switches of the timing model that were used, and that counterfactuals use again.
        timeline: the trace placed in time.
        profile: metrics of the timeline.
    """

    trace: Trace
    machine: Machine
    options: TimingOptions
    timeline: Timeline
    profile: Profile

    @classmethod
    def of(cls, trace: Trace, machine: Machine, options: TimingOptions | None = None) -> Observed:
        """Time `trace` on `machine`.

        Raises:
            TraceError: the trace is malformed, empty, or stores nothing.
            UnsupportedError: an instruction has no known cost.
        """
        check(trace)
        options = options or TimingOptions()
        timeline = schedule(trace, machine, options)
        return cls(trace, machine, options, timeline, profile(trace, timeline, machine))

    # -- columns, one entry an instruction -------------------------------------------------------------------------

    @cached_property
    def opcode(self) -> NDArray[np.str_]:
        """Opcode names."""
        names = np.array([entry.name for entry in OPCODES])
        return np.asarray(names[self.trace.column(Inst.OPCODE)])

    @cached_property
    def line(self) -> Ints:
        """Ids of source lines."""
        return self.trace.column(Inst.LINE)

    @cached_property
    def core(self) -> Ints:
        """Core numbers."""
        return self.trace.column(Inst.CORE)

    @cached_property
    def flags(self) -> Ints:
        """Bits of `Flag`."""
        return self.trace.column(Inst.FLAGS)

    @cached_property
    def law(self) -> NDArray[np.str_]:
        """Names of the cost laws."""
        return np.asarray(np.array(LAW_NAMES)[self.timeline.costs.law])

    @cached_property
    def is_dma(self) -> Bools:
        """Instructions whose data moves on the DMA engines."""
        return self.timeline.costs.is_dma

    @cached_property
    def engine(self) -> Ints:
        """Issuing engine by `Engine`; DMAs that name none have `Engine.UNKNOWN`."""
        within = self.timeline.lane % self.timeline.lanes
        return np.where(within < len(ENGINE_NAMES), within, int(Engine.UNKNOWN))

    @cached_property
    def busy_end(self) -> NDArray[np.float64]:
        """End of the time that an instruction keeps its engine active, ns (DMA: of its trigger)."""
        return np.where(self.is_dma, self.timeline.issue_ns, self.timeline.end_ns)

    @cached_property
    def held_ns(self) -> NDArray[np.float64]:
        """Time that an instruction held its engine, or its share of all DMA engines, ns."""
        cost = self.timeline.costs
        share = (cost.last_engine - cost.first_engine) / self.machine.dma_engines
        return np.where(self.is_dma, cost.work_ns * share, self.timeline.issue_ns - self.timeline.start_ns)

    @cached_property
    def owner(self) -> Ints:
        """Instruction of each operand row."""
        return np.repeat(np.arange(len(self.trace)), self.trace.column(Inst.OPERANDS))

    @cached_property
    def hbm_buffer(self) -> Bools:
        """Which buffers lie in HBM."""
        return np.array([b.space not in ("sbuf", "psum") for b in self.trace.buffers] or [False])

    def _touches(self, *, hbm: bool, access: int) -> Bools:
        operands = self.trace.operands
        mine = self.hbm_buffer[operands[:, Operand.BUFFER]] == hbm
        mine &= (operands[:, Operand.FLAGS] & access) != 0
        found = np.zeros(len(self.trace), np.bool_)
        found[self.owner[mine]] = True
        return found

    @cached_property
    def is_load(self) -> Bools:
        """DMAs from HBM to the chip."""
        return self.is_dma & self._touches(hbm=True, access=READS) & self._touches(hbm=False, access=WRITES)

    @cached_property
    def is_store(self) -> Bools:
        """DMAs that write HBM."""
        return self.is_dma & self._touches(hbm=True, access=WRITES)

    @cached_property
    def _edges(self) -> Edges:
        return dependencies(self.trace, self.machine, self.timeline.costs, space=False)

    @cached_property
    def results(self) -> tuple[Ints, Ints]:
        """(producer, consumer) pairs: the consumer waits for the producer's result."""
        mine = self._edges.kind == Edge.RESULT
        return self._edges.before[mine], self._edges.after[mine]

    @cached_property
    def flows(self) -> tuple[Ints, Ints]:
        """(producer, consumer) pairs along which values flow: results, and sums that go on in the same engine."""
        mine = (self._edges.kind == Edge.RESULT) | (self._edges.kind == Edge.ORDER)
        return self._edges.before[mine], self._edges.after[mine]

    @cached_property
    def consumers(self) -> Ints:
        """Number of instructions that wait for the result of each."""
        return np.bincount(self.results[0], minlength=len(self.trace))

    # -- source ----------------------------------------------------------------------------------------------------

    @cached_property
    def _calls(self) -> dict[str, list[tuple[int, int, str]]]:
        found: dict[str, list[tuple[int, int, str]]] = {}
        for file, text in self.trace.sources.items():
            try:
                tree = ast.parse(text)
            except SyntaxError:
                continue  # hand-made traces carry placeholder text
            lines = text.splitlines()
            found[file] = [
                (
                    node.lineno,
                    node.end_lineno or node.lineno,
                    " ".join(s.strip() for s in lines[node.lineno - 1 : node.end_lineno]),
                )
                for node in ast.walk(tree)
                if isinstance(node, ast.stmt) and not hasattr(node, "body")
            ]
        return found

    def where(self, line: int) -> str:
        """`file:line` of a line id, without the folder."""
        if not 0 <= line < len(self.trace.lines):
            return "an unknown line"
        file, number = self.trace.lines[line]
        return f"{file.replace(chr(92), '/').rsplit('/', 1)[-1]}:{number}"

    def number(self, line: int) -> int:
        """Line number of a line id; 0 when unknown."""
        return self.trace.lines[line][1] if 0 <= line < len(self.trace.lines) else 0

    def source(self, line: int) -> str:
        """Text of the source statement at a line id; empty when it isn't known."""
        if not 0 <= line < len(self.trace.lines):
            return ""
        file, number = self.trace.lines[line]
        spans = [c for c in self._calls.get(file, []) if c[0] <= number <= c[1]]
        return min(spans, key=lambda c: c[1] - c[0])[2] if spans else ""
