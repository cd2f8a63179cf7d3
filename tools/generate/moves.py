"""Single changes to a schedule, each with the reason why it may help; and the schedules to start from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

from tools.generate.context import KernelContext
from tools.generate.matmul import MatmulFacts, facts
from tools.generate.plan import Plan, Stage
from tools.generate.schedule import EngineName, MatmulSchedule, PlanName, RowSchedule, Schedule
from tools.sim.machine import Machine

Transposer = Literal["pe", "dma"]
BASE_ENGINES: tuple[EngineName, ...] = ("vector",)


@dataclass(frozen=True, slots=True)
class Move:
    """A schedule one step away.

    Attributes:
        schedule: the changed schedule.
        why: what changed and why, as the beginning of a sentence.
    """

    schedule: Schedule
    why: str


class Space:
    """All schedules of one plan."""

    def __init__(self, plan: Plan, machine: Machine) -> None:
        self.plan, self.machine = plan, machine
        context = KernelContext(plan, machine)
        self.matmuls: dict[int, MatmulFacts] = {
            k: facts(context, s) for k, s in enumerate(plan.stages) if s.kind == "matmul"
        }
        graph = plan.graph
        self.narrow = any(t.role == "output" and t.dtype in ("bfloat16", "float16") for t in plan.tensors.values())
        self.shared = any(len([n for n in v.shape if n > 1]) == 1 for s in plan.stages for v in s.leaves.values())
        self.moments = any(n.op == "subtract" for n in graph) and any(n.op == "square" for n in graph)
        self.roots_of_rows = any(n.op in ("rsqrt", "sqrt") for n in graph)

    def starts(self, plan: PlanName) -> Iterator[Schedule]:
        """Simple schedules, the plainest first; later ones need less SBUF."""
        for window, block, tiles, piece in ((0, 512, 1, 0), (2048, 512, 1, 0), (512, 128, 1, 0), (2048, 512, 1, 1024)):
            stages: list[RowSchedule | MatmulSchedule] = []
            for stage in self.plan.stages:
                rows = RowSchedule(free_tile=window, engines=BASE_ENGINES)
                if stage.kind == "matmul":
                    stages.append(MatmulSchedule(n_block=block, m_tiles=tiles, k_block=piece, rows=rows))
                else:
                    stages.append(rows)
            yield Schedule(plan, tuple(stages))

    def moves(self, schedule: Schedule) -> Iterator[Move]:
        """Every schedule that differs from `schedule` in one choice of one stage."""
        many = len(self.plan.stages) > 1
        for k, (stage, choice) in enumerate(zip(self.plan.stages, schedule.stages)):
            place = f" in stage {k + 1}" if many else ""
            options = (
                self._matmul_moves(choice, self.matmuls[k])
                if isinstance(choice, MatmulSchedule)
                else self._row_moves(choice, stage)
            )
            for changed, why in options:
                if changed != choice:
                    stages = (*schedule.stages[:k], changed, *schedule.stages[k + 1 :])
                    yield Move(replace(schedule, stages=stages), why + place)

    def _row_moves(self, choice: RowSchedule, stage: Stage) -> Iterator[tuple[RowSchedule, str]]:
        if stage.kind == "transpose":
            return
        graph = self.plan.graph
        width = max((graph[i].width for i, _ in stage.roots), default=1)
        width = max([width, *(v.shape[-1] for v in stage.leaves.values() if v.shape)])
        if choice.free_tile:
            yield replace(choice, free_tile=0), "Kept whole rows in SBUF, so that each is loaded once"
        for free in (512, 1024, 2048, 4096, 8192):
            if free < width:
                yield (
                    replace(choice, free_tile=free),
                    f"Worked on windows of {free} columns, so that loads, compute and stores overlap",
                )
        count = max(max(self.plan.graph[i].size for i in (*stage.leaves, *stage.region) if i >= 0) // max(width, 1), 1)
        for pack in (1, 2, 4, 8, 16, 32, 64):
            if (
                pack != choice.pack
                and count % pack == 0
                and pack * width <= 4096
                and (pack == 1 or count >= 128 * pack)
            ):
                yield (
                    replace(choice, pack=pack),
                    f"Laid {pack} rows side by side in each partition, so that instructions and DMA runs are longer",
                )
        yield from self._engine_moves(choice)
        if any(graph[i].op == "reduce" for i in stage.region):
            ahead = "Reduced the next rows before finishing the current ones, so that the engines don't take turns"
            yield (
                replace(choice, ahead=not choice.ahead),
                ahead if not choice.ahead else "Finished each tile of rows before the next",
            )
        if stage.kind == "rows" and choice.flatten:
            yield replace(choice, flatten=False), "Kept the tensor's own rows instead of re-cutting it into 128"
        elif stage.kind == "rows":
            yield (
                replace(choice, flatten=True),
                "Re-cut the tensor into 128 long rows, so that all partitions work and DMA runs are long",
            )

    def _engine_moves(self, choice: RowSchedule) -> Iterator[tuple[RowSchedule, str]]:
        engines: tuple[tuple[EngineName, ...], ...] = (
            ("vector",),
            ("vector", "scalar"),
            ("vector", "scalar", "gpsimd"),
        )
        for group in engines:
            if group != choice.engines:
                names = " and ".join(e.title() for e in group)
                yield (
                    replace(choice, engines=group),
                    f"Shared element-wise work between the {names} Engine{'s' if len(group) > 1 else ''}",
                )
        if self.narrow:
            if choice.intermediates == "float32":
                yield (
                    replace(choice, intermediates="storage"),
                    "Kept products on the way in the two-byte output type, which the Vector Engine streams faster",
                )
            else:
                yield replace(choice, intermediates="float32"), "Kept intermediates in float32"
        if self.shared:
            if choice.shared == "sbuf":
                yield (
                    replace(choice, shared="psum"),
                    "Kept shared rows in PSUM, from where the Vector Engine streams them beside an SBUF operand",
                )
            else:
                yield replace(choice, shared="sbuf"), "Kept shared rows in SBUF"
        if self.moments:
            if choice.statistics == "sums":
                yield replace(choice, statistics="bn_stats"), "Took mean and variance in one pass with bn_stats"
            else:
                yield replace(choice, statistics="sums"), "Took mean and variance from sums on the Scalar Engine"
        if self.roots_of_rows:
            if choice.rsqrt == "scalar":
                yield (
                    replace(choice, rsqrt="vector"),
                    "Moved the per-row square roots to the Vector Engine, which saves activation-table switches",
                )
            else:
                yield replace(choice, rsqrt="scalar"), "Moved the per-row square roots to the Scalar Engine"

    def _matmul_moves(self, choice: MatmulSchedule, f: MatmulFacts) -> Iterator[tuple[MatmulSchedule, str]]:
        for changed in self._blockings(choice, f):
            yield changed, matmul_change(choice, changed)
        ways: tuple[Literal["vector", "scalar", "alternate"], ...] = ("vector", "scalar", "alternate")
        for way in ways:
            changed = replace(choice, evacuate=way)
            yield changed, matmul_change(choice, changed)
        for rows, why in self._engine_moves(choice.rows):
            yield replace(choice, rows=rows), why

    def _blockings(self, choice: MatmulSchedule, f: MatmulFacts) -> Iterator[MatmulSchedule]:
        """Block sizes, loop order and transposes together: they only pay in combination. Neighbours come first."""
        two_bytes = f.dtype in ("bfloat16", "float16")
        lefts: tuple[Transposer, ...] = ("pe", "dma") if f.left == "rows" and two_bytes else (choice.left,)
        rights: tuple[Transposer, ...] = ("pe", "dma") if f.transposed_right and two_bytes else (choice.right,)
        aheads = (False, True) if f.left in ("rows", "computed") and f.rows > 128 else (False,)
        blocks = [0, *(b for b in (256, 512, 1024, 2048, 4096) if b < f.columns)]
        tiles = [t for t in (1, 2, 4, 8, 16, 32) if (t - 1) * 128 < f.rows]
        found: list[MatmulSchedule] = []
        for left in lefts:
            for right in rights:
                for block in blocks:
                    if not block:
                        for t in tiles if f.left == "columns" else (1,):
                            for ahead in aheads:
                                found.append(
                                    replace(
                                        choice,
                                        n_block=0,
                                        m_tiles=t,
                                        order="mn",
                                        left=left,
                                        right=right,
                                        ahead=ahead,
                                        k_block=0,
                                    )
                                )
                        continue
                    plain = replace(choice, n_block=block, left=left, right=right, ahead=False, k_block=0)
                    for t in tiles:
                        found.append(replace(plain, m_tiles=t, order="mn"))
                        if t * -(-block // 512) * f.matmuls <= 6 and f.inner > 2048 and f.left in ("rows", "columns"):
                            found.extend(
                                replace(plain, m_tiles=t, order="mn", k_block=piece) for piece in (512, 1024, 2048)
                            )
                    if not f.full_rows:
                        found.append(replace(plain, m_tiles=1, order="nm"))

        yield from sorted(found, key=lambda s: estimate_us(s, f, self.machine))


def estimate_us(s: MatmulSchedule, f: MatmulFacts, machine: Machine) -> float:
    """A quick guess of a matmul schedule's time, to try the promising ones first; the simulator decides.

    Counts traffic and PE time, as if they overlapped but for a tenth, and puts what can't fit SBUF last.
    """
    size = 2 if f.dtype in ("bfloat16", "float16") else 1 if f.dtype.startswith("float8") else 4
    block = s.n_block or f.columns
    row_blocks, column_blocks = -(-f.rows // (128 * s.m_tiles)), -(-f.columns // block)
    left, right, out = f.rows * f.inner * size, f.inner * f.columns * size * f.matmuls, f.rows * f.columns * size
    k_tiles = -(-f.inner // 128)
    if s.k_block:
        reads = (column_blocks, row_blocks)
        resident = -(-s.k_block // 128) * size * (block * f.matmuls + 128 * s.m_tiles) * 2
    elif not s.n_block:
        reads = (1, 1)
        resident = k_tiles * size * (f.columns * f.matmuls + 256)
    elif s.order == "nm":
        reads = (column_blocks, 1)
        resident = k_tiles * size * (2 * block * f.matmuls + 256)
    else:
        reads = (1, row_blocks)
        resident = k_tiles * size * (2 * block * f.matmuls + 128 * s.m_tiles)
    run = min(block, f.columns) * size
    descriptor = machine.dma_descriptor_ns * machine.dma_bytes_per_ns  # bytes that a descriptor's overhead is worth
    moved = left * reads[0] + right * reads[1] * (1 + descriptor / run) + out * (1 + descriptor / run)
    turned = f.left in ("rows", "computed") and s.left == "pe"
    flops = 2.0 * f.rows * f.inner * f.columns * f.matmuls * f.batch
    pe = flops / (machine.peak_tflops(f.dtype) * 1e6)
    if turned:
        pe += f.batch * f.rows / 128 * k_tiles * reads[0] * 0.07
    dma = f.batch * moved / (machine.dma_gbps * 1e3)
    late = 0.0 if s.ahead or s.left == "dma" or s.m_tiles > 1 else 0.02 * pe
    return max(pe, dma) + 0.1 * min(pe, dma) + late + (1e9 if resident > machine.sbuf_partition_bytes else 0.0)


def matmul_change(old: MatmulSchedule, new: MatmulSchedule) -> str:
    """What distinguishes two schedules of a matmul, and why one would do so."""
    parts = []
    if new.n_block != old.n_block or new.m_tiles != old.m_tiles or new.order != old.order:
        if not new.n_block:
            parts.append("kept all of the right operand in SBUF, so that it is read from HBM once")
            if new.m_tiles != old.m_tiles and new.m_tiles > 1:
                parts.append(f"loaded the left operand {new.m_tiles * 128} rows at a time, in long DMA runs")
        elif new.order == "nm":
            parts.append(f"kept a block of {new.n_block} columns in SBUF and streamed all rows past it")
        else:
            parts.append(
                f"blocked the product into {new.m_tiles * 128} rows by {new.n_block} columns, so that both operands are used "
                "several times once in SBUF"
            )
    if new.k_block != old.k_block and new.k_block:
        parts.append(f"streamed both operands in pieces of {new.k_block} along K while PSUM accumulates")
    if new.left != old.left:
        parts.append(
            "let the DMA transpose the left operand, which frees the Tensor Engine"
            if new.left == "dma"
            else "transposed the left operand on the Tensor Engine"
        )
    if new.right != old.right:
        parts.append(
            "let the DMA transpose the right operand, which frees the Tensor Engine"
            if new.right == "dma"
            else "transposed the right operand on the Tensor Engine"
        )
    if new.ahead != old.ahead:
        parts.append(
            "prepared the next rows before multiplying the current ones, so that the Tensor Engine needn't wait"
            if new.ahead
            else "prepared rows just before multiplying them"
        )
    if new.evacuate != old.evacuate:
        way = (
            "the Vector and Scalar Engines in turn"
            if new.evacuate == "alternate"
            else f"the {new.evacuate.title()} Engine"
        )
        parts.append(f"emptied PSUM by {way}")
    text = ", and ".join(parts) if len(parts) < 3 else "; ".join(parts)
    return text[:1].upper() + text[1:]
