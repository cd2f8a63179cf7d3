"""What a schedule decides: tile sizes, which operand stays on chip, who transposes, who evacuates, how far to run ahead."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal

PlanName = Literal["fused", "deferred", "apart"]
EngineName = Literal["vector", "scalar", "gpsimd"]


@dataclass(frozen=True, slots=True)
class RowSchedule:
    """How element-wise work and reductions on a tile of rows are done.

    Attributes:
        free_tile: columns in one pass over a row; 0: whole rows stay in SBUF.
        engines: engines that share flexible element-wise work.
        statistics: `sums` adds up x and x*x; `bn_stats` takes mean and variance in one pass.
        rsqrt: engine for per-row square roots; `vector` avoids an activation-table switch.
        flatten: re-cut purely element-wise work into 128 long rows.
        ahead: reduce the next rows before finishing the current ones.
        pack: short rows that lie side by side in one partition, so that instructions and DMA runs are long.
        intermediates: `storage` keeps products on the way in the output's two-byte type, which the Vector Engine streams
            faster; sums stay in float32.
        shared: where rows that all partitions share (gains, biases) are kept; the Vector Engine streams an SBUF and a PSUM
            operand together at twice the rate of two float32 SBUF operands.
    """

    free_tile: int = 0
    engines: tuple[EngineName, ...] = ("vector", "scalar")
    statistics: Literal["sums", "bn_stats"] = "sums"
    rsqrt: Literal["scalar", "vector"] = "scalar"
    flatten: bool = True
    ahead: bool = False
    pack: int = 1
    intermediates: Literal["float32", "storage"] = "float32"
    shared: Literal["sbuf", "psum"] = "sbuf"


@dataclass(frozen=True, slots=True)
class MatmulSchedule:
    """How a matmul and what is fused with it are blocked.

    Attributes:
        n_block: columns of the right operand held in SBUF at once; 0: all of them, loaded once.
        m_tiles: row tiles (of 128) whose transposed left operand is held at once.
        order: `mn` keeps rows and streams columns past them; `nm` keeps columns and streams rows.
        left: who transposes a left operand whose rows are contiguous: Tensor Engine (`pe`) or DMA.
        right: the same for a right operand stored as [N, K].
        evacuate: engine that empties PSUM; `alternate` switches at every bank.
        ahead: prepare the next row block before multiplying the current one.
        k_block: contraction elements loaded at a time while PSUM banks of a whole block keep accumulating; 0: all of them.
            Needs a stored left operand and at most 6 banks a block.
        rows: element-wise choices for prologue and epilogue.
    """

    n_block: int = 0
    m_tiles: int = 1
    order: Literal["mn", "nm"] = "mn"
    left: Literal["pe", "dma"] = "pe"
    right: Literal["pe", "dma"] = "pe"
    evacuate: Literal["vector", "scalar", "alternate"] = "vector"
    ahead: bool = False
    k_block: int = 0
    rows: RowSchedule = field(default_factory=RowSchedule)


@dataclass(frozen=True, slots=True)
class Schedule:
    """A whole kernel's choices.

    Attributes:
        plan: how the graph is cut: `fused` computes left operands of matmuls in place, `deferred` also moves per-row
            factors behind the matmul, `apart` writes left operands to HBM first.
        stages: one entry a stage of the plan, in order.
    """

    plan: PlanName = "fused"
    stages: tuple[RowSchedule | MatmulSchedule, ...] = ()

    def describe(self) -> dict[str, object]:
        """Plain values for reports."""
        return {
            "plan": self.plan,
            "stages": [
                {f.name: _plain(getattr(s, f.name)) for f in fields(s)} | {"kind": type(s).__name__}
                for s in self.stages
            ],
        }

    @classmethod
    def parse(cls, described: Mapping[str, Any]) -> Schedule | None:
        """The schedule that `describe` gave, or None when the values mean none."""
        try:
            stages = tuple(_stage(dict(s)) for s in described["stages"])
            name = described["plan"]
            return cls(name, stages) if name in ("fused", "deferred", "apart") else None
        except (KeyError, TypeError, ValueError):
            return None


def _stage(values: dict[str, Any]) -> RowSchedule | MatmulSchedule:
    kind = values.pop("kind")
    if kind == "MatmulSchedule":
        return MatmulSchedule(**{**values, "rows": _stage({**values["rows"], "kind": "RowSchedule"})})
    return RowSchedule(**{**values, "engines": tuple(values["engines"])})


def _plain(value: object) -> object:
    if isinstance(value, RowSchedule):
        return {f.name: _plain(getattr(value, f.name)) for f in fields(value)}
    return list(value) if isinstance(value, tuple) else value
