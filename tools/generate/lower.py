"""Instruction selection for a tile of rows: element-wise nodes and last-axis reductions become engine instructions.

Values are tiles [rows, width], per-row numbers are [rows, 1]. Neighbouring nodes join into one instruction where the engines
can: func(data * scale + bias) with a running sum on the Scalar Engine, two operators with per-row numbers and a second
tile on the Vector Engine.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from tools.generate.errors import BeyondOffline
from tools.generate.graph import COMPARISONS, LOGICAL, UNARY, Graph, Node
from tools.generate.plan import Plan, Stage
from tools.generate.schedule import EngineName, RowSchedule
from tools.generate.text import Names, Section, number
from tools.sim.machine import Machine

Extent = Literal["whole", "block", "chunk"]
_SIZES = {
    "float32": 4, "int32": 4, "uint32": 4, "bfloat16": 2, "float16": 2, "int16": 2, "uint16": 2, "int8": 1, "uint8": 1,
    "float8_e4m3": 1, "float8_e5m2": 1, "float8_e4m3fn": 1, "bool": 1,
}  # fmt: skip
_STEMS = {
    "square": "squares", "exp": "exps", "rsqrt": "rstd", "reciprocal": "inverse", "multiply": "scaled", "add": "total",
    "subtract": "centred", "maximum": "upper", "minimum": "lower", "reduce:add": "row_sum", "reduce:maximum": "row_max",
    "reduce:minimum": "row_min", "reduce:multiply": "row_product", "matmul": "product", "where": "chosen", "iota": "index",
    "scan": "running",
}  # fmt: skip


def itemsize(dtype: str) -> int:
    """Bytes of one element."""
    return _SIZES.get(dtype, 4)


def copy_line(dst: str, src: str, engine: str, machine: Machine) -> str:
    """A copy on `engine`; the first generation's Scalar Engine copies by an activation."""
    if engine == "scalar" and machine.generation <= 2:
        return f"nisa.activation(dst={dst}, op=nl.copy, data={src})"
    return f"nisa.tensor_copy(dst={dst}, src={src}{'' if engine == 'vector' else f', engine=nisa.{engine}_engine'})"


@dataclass(frozen=True, slots=True)
class Tile:
    """A tile that holds a node's value.

    Attributes:
        column: [rows, 1], one number a row.
        extent: which part of the columns it spans.
        outer: allocated outside the row loop, hence with all partitions.
    """

    name: str
    dtype: str
    column: bool
    extent: Extent = "whole"
    outer: bool = False
    psum: bool = False
    row_step: int = 1
    """Elements from one partition to the next, for per-row numbers that share a tile."""


@dataclass(frozen=True, slots=True)
class Operand:
    """An instruction's operand: a number, a per-row number or a tile."""

    text: str
    kind: Literal["number", "column", "tile"]
    dtype: str = "float32"
    psum: bool = False
    value: float = 0.0


@dataclass(slots=True)
class Balance:
    """Spreads flexible instructions over engines by estimated nanoseconds."""

    machine: Machine
    allowed: tuple[EngineName, ...]
    busy_ns: dict[str, float] = field(default_factory=lambda: {"vector": 0.0, "scalar": 0.0, "gpsimd": 0.0})
    forced: EngineName | None = None

    def cost(self, engine: str, width: int, passes: float = 1.0) -> float:
        """Estimated time of an instruction over `width` elements a partition."""
        cycles = {"vector": 80.0, "scalar": 80.0, "gpsimd": 150.0}[engine]
        rate = {"vector": 1.0, "scalar": 1.0, "gpsimd": self.machine.gpsimd_passes}[engine]
        return (cycles + width * passes * rate) / self.machine.clock_ghz(engine)

    def pick(self, width: int, choices: dict[str, float]) -> EngineName:
        """The engine that would finish first; `choices` maps engines to passes over the data."""
        names: list[str] = [e for e in choices if e in self.allowed] or list(choices)
        if self.forced is not None and self.forced in choices:
            names = [self.forced]
        best = min(names, key=lambda e: self.busy_ns[e] + self.cost(e, width, choices[e]))
        self.busy_ns[best] += self.cost(best, width, choices[best])
        return best  # type: ignore[return-value]

    def charge(self, engine: str, width: int, passes: float = 1.0) -> None:
        """Count work that has no choice of engine."""
        self.busy_ns[engine] += self.cost(engine, width, passes)


class RowCode:
    """Emits the instructions of one stage into sections of the kernel's text."""

    def __init__(
        self,
        plan: Plan,
        stage: Stage,
        machine: Machine,
        schedule: RowSchedule,
        names: Names,
        load: Callable[[RowCode, int], None],
        *,
        outer: Section,
        body: Section,
        rows: str,
        full_rows: str,
        ragged: bool,
        pack: int = 1,
    ) -> None:
        """Start with nothing computed.

        Args:
            load: emits the load of a leaf and registers its tile.
            outer: section before the row loop, for what all rows share.
            body: section inside it.
            rows: expression for the number of rows of the current tile.
            full_rows: rows of a tile that isn't the last.
            ragged: whether the last tile has fewer rows.
            pack: rows of the tensor side by side in a partition; tiles are then [rows, pack, width] and [rows, pack].
        """
        self.pack = pack
        self.plan, self.stage, self.graph = plan, stage, plan.graph
        self.machine, self.schedule, self.names = machine, schedule, names
        self._load = load
        self.outer, self.body = outer, body
        self.rows, self.full_rows, self.ragged = rows, full_rows, ragged
        self.tiles: dict[int, Tile] = {}
        self.named: dict[str, str] = {}
        self.region = set(stage.region)
        self.roots = {id for id, _ in stage.roots}
        self.balance = Balance(machine, schedule.engines)
        self.uses = self._count_uses()
        self.mode: Extent = "whole"
        self.windows: dict[tuple[Extent, Extent], str] = {}
        self.widths: dict[Extent, str] = {}
        self.window_width = 0
        self.window_size = 0
        self.placed: dict[int, Tile] = {}
        self.partial: dict[int, tuple[str, str]] = {}
        self.dtypes: dict[int, str] = {}
        types = {plan.tensors[target.tensor].dtype for _, target in stage.roots}
        narrow = schedule.intermediates == "storage" and len(types) == 1
        self.narrow = types.pop() if narrow and types <= {"bfloat16", "float16"} else ""
        self.outer_bytes = 0
        self.loop_bytes = 0
        self.psum_columns = 0
        self.columns: dict[int, bool] = {}
        self.shared: dict[int, bool] = {}
        self.hoisting = False
        self.allowed: Callable[[int], bool] = lambda id: True
        self.moments: dict[int, tuple[int, int]] = {}
        self.summed: set[int] = set()
        if schedule.statistics == "bn_stats" and pack == 1:
            self._find_moments()

    # -- facts about nodes -------------------------------------------------------------------------------------------

    def _count_uses(self) -> dict[int, int]:
        uses: dict[int, int] = {}
        for i in self.stage.region:
            for j in self.graph[i].inputs:
                uses[j] = uses.get(j, 0) + 1
        for m in self.stage.matmuls[:1]:
            left = self.graph[m].inputs[0]
            uses[left] = uses.get(left, 0) + 1
        for id in self.roots:
            uses[id] = uses.get(id, 0) + 1
        return uses

    def is_column(self, id: int) -> bool:
        """Whether one number a row says it all."""
        node = self.graph[id]
        tile = self.tiles.get(id)
        if tile is not None:
            return tile.column
        if id in self.stage.leaves:
            view = self.stage.leaves[id]
            return not view.shape or (view.shape[-1] == 1 and not self.stage.cut_width) or view.strides[-1] == 0
        if (node.width == 1 and not self.stage.cut_width) or node.op == "reduce":
            return True
        if id not in self.region:
            return False
        if node.op == "scan":
            return False
        known = self.columns.get(id)
        if known is None:
            known = all(self.graph[i].op == "constant" or self.is_column(i) for i in node.inputs)
            self.columns[id] = known
        return known

    def row_width(self, id: int) -> int:
        """Elements in a row of node `id`."""
        width = self.graph[id].width
        return self.stage.cut_width or width

    def constant(self, id: int) -> float | None:
        """The number that a node holds, or None."""
        node = self.graph[id]
        return float(node.attrs["value"]) if node.op == "constant" else None

    def row_free(self, id: int) -> bool:
        """Whether a computed node is the same for all rows, so that it can be made before the row loop."""
        node = self.graph[id]
        if node.op == "constant":
            return True
        if id in self.stage.leaves:
            tile = self.tiles.get(id)
            return tile.outer if tile is not None else self.shared_leaf(id)
        known = self.shared.get(id)
        if known is None:
            known = self.shared[id] = id in self.region and all(self.row_free(i) for i in node.inputs)
        return known

    shared_leaf: Callable[[int], bool]
    """Whether a leaf doesn't change along the rows; set by the stage's emitter."""

    def fusable(self, id: int) -> bool:
        """Whether node `id` may vanish into its only user."""
        return (
            id in self.region
            and id not in self.tiles
            and id not in self.roots
            and id not in self.moments
            and self.uses.get(id, 0) == 1
            and self.allowed(id)
            and id not in self.placed
            and not (self.row_free(id))
        )

    def width(self, id: int) -> int:
        """Elements a row that an instruction on node `id` streams now."""
        node = self.graph[id]
        if self.is_column(id):
            return self.pack if self.packed else 1
        if self.packed:
            return self.pack * self.row_width(id)
        if self.mode != "whole" and self.row_width(node.id) == self.window_width:
            return min(self.window_size, self.row_width(node.id))
        return self.row_width(node.id)

    # -- tiles -------------------------------------------------------------------------------------------------------

    def stem(self, id: int) -> str:
        """A readable name for node `id`."""
        node = self.graph[id]
        if node.op == "input" or (id in self.stage.leaves and node.name):
            return f"{node.name}_tile"
        if node.name:
            return node.name
        key = f"reduce:{node.attrs['kind']}" if node.op == "reduce" else node.op
        return _STEMS.get(key, node.op)

    def allocate(
        self, stem: str, width: int | str, dtype: str, *, outer: bool = False, space: str = "sbuf", rows: str = ""
    ) -> str:
        """Emit an allocation [rows, width] and return its name."""
        name = self.names.unique(stem)
        where = self.outer if outer or self.hoisting else self.body
        count = rows or (self.full_rows if outer or self.hoisting else self.rows)
        where.line(f"{name} = nl.ndarray(({count}, {width}), dtype=nl.{dtype}, buffer=nl.{space})")
        return name

    def new_tile(self, id: int, dtype: str = "", stem: str = "") -> Tile:
        """Allocate the tile for node `id` at the current extent and register it."""
        placed = self.placed.get(id)
        if placed is not None:
            self.tiles[id] = placed
            return placed
        node = self.graph[id]
        column = self.is_column(id)
        dtype = (
            dtype
            or self.dtypes.get(id)
            or ("uint8" if node.op in (*COMPARISONS, *LOGICAL, "logical_not") else "float32")
        )
        if column:
            dtype = self.dtypes.get(id, "float32")
        elif dtype == "float32" and self._may_be_narrow(id):
            dtype = self.narrow
        extent: Extent = "whole"
        width: int | str = self.row_width(node.id)
        if self.packed:
            width = self.pack if column else f"{self.pack}, {width}"
        elif column:
            width = 1
        if not column and self.mode != "whole" and self.row_width(node.id) == self.window_width and not self.hoisting:
            extent = self.mode
            width = self.widths[self.mode]
        name = self.allocate(stem or self.stem(id), width, dtype)
        size = itemsize(dtype) * (1 if column else (self.window_size if extent == "chunk" else self.row_width(node.id)))
        if self.hoisting:
            self.outer_bytes += size
        else:
            self.loop_bytes += size * self.pack
        tile = Tile(name, dtype, column, extent, self.hoisting)
        self.tiles[id] = tile
        return tile

    def _may_be_narrow(self, id: int) -> bool:
        """Whether node `id` may be kept in the output's two-byte type: only products read it, and sums made beside it."""
        if not self.narrow or id in self.roots or id not in self.region:
            return False
        users = [self.graph[i] for i in self.region if id in self.graph[i].inputs]
        return bool(users) and all(u.op == "multiply" or (u.op == "reduce" and u.attrs["kind"] == "add") for u in users)

    def text(self, tile: Tile) -> str:
        """How an instruction at the current extent refers to `tile`."""
        row = ":" + self.rows if tile.outer and self.ragged and not self.hoisting else ""
        col = ""
        if not tile.column and tile.extent != self.mode and not self.hoisting:
            col = self.windows.get((tile.extent, self.mode), "")
        if not row and not col:
            return tile.name
        return f"{tile.name}[{row or ':'}, {col or ':'}]"

    def operand(self, id: int) -> Operand:
        """Node `id` as an operand, emitting what it needs first."""
        value = self.constant(id)
        if value is not None:
            return Operand(number(value), "number", value=value)
        self.emit(id)
        tile = self.tiles[id]
        if tile.column:
            return Operand(self.text(self.as_float32(id)), "column", psum=tile.psum)
        return Operand(self.text(tile), "tile", tile.dtype, tile.psum)

    def as_float32(self, id: int) -> Tile:
        """The tile of a per-row number in float32, as scalar operands must be."""
        tile = self.tiles[id]
        if tile.dtype == "float32" and not tile.psum:
            return tile
        if tile.outer and not self.hoisting:
            wide = Tile(self.allocate(f"{tile.name}_f32", 1, "float32", outer=True), "float32", True, outer=True)
            self.outer.line(f"nisa.tensor_copy(dst={wide.name}, src={tile.name})")
        else:
            wide = Tile(self.allocate(f"{tile.name}_f32", self.pack, "float32"), "float32", True)
            self.put(f"nisa.tensor_copy(dst={wide.name}, src={self.text(tile)})")
        self.tiles[id] = wide
        return wide

    def put(self, line: str) -> None:
        """Emit one instruction."""
        (self.outer if self.hoisting else self.body).line(line)

    # -- emission ----------------------------------------------------------------------------------------------------

    def emit(self, id: int) -> None:
        """Make node `id` available as a tile."""
        if id in self.tiles:
            return
        node = self.graph[id]
        if id in self.stage.leaves:
            self._load(self, id)
            return
        if node.op == "matmul":
            raise AssertionError("a matmul's tile is made by the matmul stage")
        if self.mode == "whole" or self.row_width(node.id) == self.window_width or self.is_column(id):
            if not self.hoisting and self.row_free(id):
                self._emit_hoisted(id)
                return
            if id in self.moments:
                self._emit_moments(id)
            elif node.op == "broadcast":
                self.emit(node.inputs[0])
                self.tiles[id] = self.tiles[node.inputs[0]]
            elif node.op == "reduce":
                self._emit_reduce(node)
            elif node.op == "scan":
                self._emit_scan(node)
            elif node.op == "where":
                self._emit_where(node)
            elif node.op in UNARY:
                self._emit_unary(node)
            else:
                self._emit_binary(node)
            return
        raise BeyondOffline("values of different widths in one windowed stage")

    def _emit_hoisted(self, id: int) -> None:
        """Compute a value that all rows share, once, on all partitions."""
        mode = self.mode
        self.hoisting, self.mode = True, "whole"
        self.emit(id)
        self.hoisting, self.mode = False, mode

    def _engine(self, name: str) -> str:
        return "" if name == "vector" else f", engine=nisa.{name}_engine"

    def _sum_of(self, id: int) -> int | None:
        """A pending sum over node `id` that can ride on the instruction that makes it."""
        for i in sorted(self.region):
            node = self.graph[i]
            is_sum = node.op == "reduce" and node.inputs == (id,) and node.attrs["kind"] == "add"
            pending = not self.packed and i not in self.tiles and i not in self.moments and i not in self.summed
            if is_sum and pending and self.allowed(i) and not self.is_column(id):
                return i
        return None

    def _activate(self, id: int, op: str, data: Operand, scale: Operand | None, bias: Operand | None) -> None:
        """func(data * scale + bias) on the Scalar Engine, with the row sum if somebody wants it."""
        total = self._sum_of(id)
        tile = self.new_tile(id)
        extra = ""
        if bias is not None and not (bias.kind == "number" and bias.value == 0):
            extra += f", bias={self._bias(bias)}"
        if scale is not None and not (scale.kind == "number" and scale.value == 1):
            extra += f", scale={scale.text}"
        self.balance.charge("scalar", self.width(id)) if self.balance.forced is None else None
        if total is None:
            self.put(f"nisa.activation(dst={self.text(tile)}, op=nl.{op}, data={data.text}{extra})")
            return
        target = self._reduce_target(total)
        self.put(
            f"nisa.activation_reduce(dst={self.text(tile)}, op=nl.{op}, data={data.text}, reduce_op=nl.add, "
            f"reduce_res={target}{extra})"
        )

    def _bias(self, bias: Operand) -> str:
        """The first generation takes biases only as tiles."""
        if bias.kind != "number" or self.machine.generation > 2:
            return bias.text
        known = self.named.get(bias.text)
        if known is None:
            known = self.allocate("bias", 1, "float32", outer=True)
            self.outer.line(f"nisa.memset(dst={known}, value={bias.text})")
            self.named[bias.text] = known
        return f"{known}[:{self.rows}, :]" if self.ragged and not self.hoisting else known

    def _reduce_target(self, id: int) -> str:
        """Where the result of reduction `id` goes: its own tile, or a column of partial results."""
        partial = self.partial.get(id)
        if partial is not None:
            self.summed.add(id)
            return partial[0]
        return self.text(self.new_tile(id))

    def affine(self, id: int) -> tuple[int, Operand | None, Operand | None]:
        """Node `id` as base * scale + bias with per-row or constant scale and bias, fused as far as possible."""
        bias: Operand | None = None
        base = id
        if self.fusable(base):
            node = self.graph[base]
            split = self._split(node)
            if node.op in ("add", "subtract") and split is not None and not (node.op == "subtract" and split[0] == 1):
                data, other = node.inputs[split[0]], node.inputs[1 - split[0]]
                bias = self.operand(other) if node.op == "add" else self._scaled_column(other, -1.0)
                base = data
        if self.fusable(base):
            node = self.graph[base]
            split = self._split(node)
            if node.op == "multiply" and split is not None:
                data, other = node.inputs[split[0]], node.inputs[1 - split[0]]
                factor = self.constant(other)
                inner = self.graph[data]
                inner_split = self._split(inner)
                shifted = inner.op == "add" or (
                    inner.op == "subtract" and inner_split is not None and inner_split[0] == 0
                )
                if bias is None and factor is not None and inner_split is not None and shifted and self.fusable(data):
                    moved = inner.inputs[inner_split[1]]
                    sign = factor if inner.op == "add" else -factor
                    return inner.inputs[inner_split[0]], self.operand(other), self._scaled_column(moved, sign)
                return data, self.operand(other), bias
        return base, None, bias

    def _split(self, node: Node) -> tuple[int, int] | None:
        """(position of the data, position of the number) when exactly one operand of a binary node is a number a row.

        For per-row values themselves only constants count as numbers.
        """
        if node.op in UNARY or node.op == "where" or len(node.inputs) != 2:
            return None
        narrow = self.is_column(node.id)
        columns = [
            self.graph[i].op == "constant" or (self.is_column(i) and not narrow and not self.packed)
            for i in node.inputs
        ]
        if columns.count(True) != 1:
            return None
        return columns.index(False), columns.index(True)

    @property
    def packed(self) -> bool:
        """Whether tiles hold several rows a partition here."""
        return self.pack > 1 and not self.hoisting

    def scale_ahead(self, id: int) -> None:
        """Make the helpers of a per-row number early: its negative, where it is going to be subtracted."""
        if self.pack > 1:
            return
        for i in self.region:
            node = self.graph[i]
            if node.op == "subtract" and node.inputs[1] == id and self.fusable(i) and not self.is_column(i):
                users = [self.graph[u] for u in self.region if i in self.graph[u].inputs]
                if all(u.op in UNARY for u in users):
                    self._scaled_column(id, -1.0)

    def _scaled_column(self, id: int, factor: float) -> Operand:
        """A per-row number (or constant) times a constant."""
        value = self.constant(id)
        if value is not None:
            return Operand(number(value * factor), "number", value=value * factor)
        source = self.operand(id)
        key = f"{source.text}*{factor!r}"
        known = self.named.get(key)
        if known is None or self.hoisting:
            known = self.allocate(f"neg_{self.stem(id)}" if factor == -1 else f"scaled_{self.stem(id)}", 1, "float32")
            self.put(f"nisa.tensor_scalar(dst={known}, data={source.text}, op0=nl.multiply, operand0={number(factor)})")
            self.named[key] = known
        return Operand(known, "column")

    def forget_names(self) -> None:
        """Drop helper columns, which live in one tile of rows only."""
        self.named = {k: v for k, v in self.named.items() if "*" not in k}

    # -- one operand -------------------------------------------------------------------------------------------------

    def _emit_unary(self, node: Node) -> None:
        id, op, source = node.id, node.op, node.inputs[0]
        if op == "round":
            self._emit_round(node)
            return
        if op == "logical_not":
            data = self.operand(source)
            tile = self.new_tile(id)
            self.put(f"nisa.tensor_scalar(dst={self.text(tile)}, data={data.text}, op0=nl.equal, operand0=0.0)")
            return
        if op == "reciprocal" and self.is_column(id):
            data = self.operand(source)
            tile = self.new_tile(id)
            self.balance.charge("vector", 8)
            self.put(f"nisa.reciprocal(dst={self.text(tile)}, data={data.text})")
            return
        base, scale, bias = self.affine(source)
        data = self.operand(base)
        column = self.is_column(id)
        if op in ("rsqrt", "sqrt") and column and self.schedule.rsqrt == "vector":
            self._emit_power(id, data, scale, bias, -0.5 if op == "rsqrt" else 0.5)
            return
        if op == "relu" and scale is None and self._sum_of(id) is None:
            engine = self.balance.pick(
                self.width(id),
                {"vector": 1.0, "scalar": 1.0} if data.psum else {"vector": 1.0, "scalar": 1.0, "gpsimd": 1.0},
            )
            if engine != "scalar":
                tile = self.new_tile(id)
                ops = "op0=nl.maximum, operand0=0.0"
                if bias is not None:
                    ops = f"op0=nl.add, operand0={bias.text}, op1=nl.maximum, operand1=0.0"
                self.put(f"nisa.tensor_scalar(dst={self.text(tile)}, data={data.text}, {ops}{self._engine(engine)})")
                return
        self._activate(id, op, data, scale, bias)

    def _emit_power(self, id: int, data: Operand, scale: Operand | None, bias: Operand | None, exponent: float) -> None:
        tile = self.new_tile(id)
        target, source = self.text(tile), data.text
        if scale is not None or bias is not None:
            first = (
                f"op0=nl.multiply, operand0={scale.text}"
                if scale
                else f"op0=nl.add, operand0={bias.text if bias else 0.0}"
            )
            second = f", op1=nl.add, operand1={bias.text}" if scale and bias else ""
            if not (scale and bias):
                second = f", op1=nl.power, operand1={exponent}"
            self.put(f"nisa.tensor_scalar(dst={target}, data={source}, {first}{second})")
            if not (scale and bias):
                return
            source = target
        self.put(f"nisa.tensor_scalar(dst={target}, data={source}, op0=nl.power, operand0={exponent})")

    def _emit_round(self, node: Node) -> None:
        data = self.operand(node.inputs[0])
        tile = self.new_tile(node.id)
        width = 1 if tile.column else self._shape_width(node)
        whole = self.allocate("integers", width, "int32")
        self.put(f"nisa.tensor_copy(dst={whole}, src={data.text})  # to int32: rounds to nearest even")
        self.put(f"nisa.tensor_copy(dst={self.text(tile)}, src={whole})")
        self.balance.charge("vector", self.width(node.id), 2.0)

    def _shape_width(self, node: Node) -> int | str:
        if self.packed:
            return f"{self.pack}, {self.row_width(node.id)}"
        if self.mode != "whole" and self.row_width(node.id) == self.window_width and not self.hoisting:
            return self.widths[self.mode]
        return self.row_width(node.id)

    # -- two operands ------------------------------------------------------------------------------------------------

    def _emit_binary(self, node: Node) -> None:
        if self.is_column(node.id):
            self._emit_column_binary(node)
            return
        split = self._split(node)
        if split is None:
            self._emit_tile_tile(node)
            return
        self._emit_tile_number(node, split)

    def _emit_column_binary(self, node: Node) -> None:
        """Per-row numbers: small instructions on the Vector Engine."""
        op, (left, right) = node.op, node.inputs
        lc, rc = self.constant(left), self.constant(right)
        if (
            rc is not None
            and self.fusable(left)
            and self.graph[left].op in ("add", "multiply", "subtract", "maximum", "minimum")
        ):
            inner = self.graph[left]
            c = self.constant(inner.inputs[1])
            if c is not None:
                data = self.operand(inner.inputs[0])
                tile = self.new_tile(node.id)
                self.put(
                    f"nisa.tensor_scalar(dst={self.text(tile)}, data={data.text}, op0=nl.{inner.op}, operand0={number(c)}, "
                    f"op1=nl.{op}, operand1={number(rc)})"
                )
                self.balance.charge("vector", 1)
                return
        a, b = self._operands_of(left, right)
        tile = self.new_tile(node.id)
        self.balance.charge("vector", 1)
        if rc is not None or lc is not None:
            data, other, reverse = (a, b, "") if rc is not None else (b, a, ", reverse0=True")
            self.put(
                f"nisa.tensor_scalar(dst={self.text(tile)}, data={data.text}, op0=nl.{op}, operand0={other.text}{reverse})"
            )
        else:
            self.put(f"nisa.tensor_tensor(dst={self.text(tile)}, data1={a.text}, data2={b.text}, op=nl.{op})")

    def _emit_tile_number(self, node: Node, split: tuple[int, int]) -> None:
        """A tile with a number a row: two such steps make one tensor_scalar, or an affine activation."""
        id, op = node.id, node.op
        data_id, other_id = node.inputs[split[0]], node.inputs[split[1]]
        total = self._sum_of(id)
        if op in ("multiply", "add") or (op == "subtract" and split[0] == 0):
            choices = {"vector": 1.0, "scalar": 1.0}
            if total is not None:
                choices = {"scalar": 1.0}
            affine_ok = True
        else:
            choices, affine_ok = {"vector": 1.0}, False
        inner = self.graph[data_id]
        inner_split = self._split(inner) if self.fusable(data_id) else None
        if inner_split is not None and inner.op not in ("add", "subtract", "multiply", "maximum", "minimum"):
            inner_split = None
        both = inner_split is not None
        if both and not (op in ("add", "subtract") and inner.op == "multiply"):
            affine_ok = False
        if "gpsimd" in self.schedule.engines and total is None:
            choices["gpsimd"] = 1.0
        if not affine_ok and len(choices) > 1:
            choices.pop("scalar", None)
        elif not affine_ok:  # a sum is wanted and the Scalar Engine can do only the outer step
            both, inner_split = False, None
        source = self.tiles.get(data_id)
        if source is not None and source.psum:
            choices.pop("gpsimd", None)
        if both:
            assert inner_split is not None
            base = inner.inputs[inner_split[0]]
            if base in self.tiles and self.tiles[base].psum:
                choices.pop("gpsimd", None)
        engine = self.balance.pick(self.width(id), choices)
        if engine == "scalar":
            base, scale, bias = self._affine_parts(node, split, both)
            self._activate(id, "copy", self.operand(base), scale, bias)
            return
        if both:
            assert inner_split is not None
            first = self.operand(inner.inputs[inner_split[1]])
            second = self.operand(other_id)
            data = self.operand(inner.inputs[inner_split[0]])
            tile = self.new_tile(id)
            r0 = ", reverse0=True" if inner.op == "subtract" and inner_split[0] == 1 else ""
            r1 = (
                ", reverse1=True"
                if op in ("subtract", "greater", "greater_equal", "less", "less_equal") and split[0] == 1
                else ""
            )
            self.put(
                f"nisa.tensor_scalar(dst={self.text(tile)}, data={data.text}, op0=nl.{inner.op}, operand0={first.text}{r0}, "
                f"op1=nl.{op}, operand1={second.text}{r1}{self._engine(engine)})"
            )
            return
        other, data = self.operand(other_id), self.operand(data_id)
        tile = self.new_tile(id)
        reverse = (
            ", reverse0=True"
            if split[0] == 1 and op in ("subtract", "greater", "greater_equal", "less", "less_equal")
            else ""
        )
        self.put(
            f"nisa.tensor_scalar(dst={self.text(tile)}, data={data.text}, op0=nl.{op}, operand0={other.text}{reverse}"
            f"{self._engine(engine)})"
        )

    def _affine_parts(
        self, node: Node, split: tuple[int, int], both: bool
    ) -> tuple[int, Operand | None, Operand | None]:
        data_id, other_id = node.inputs[split[0]], node.inputs[split[1]]
        if node.op == "multiply":
            return data_id, self.operand(other_id), None
        bias = self.operand(other_id) if node.op == "add" else self._scaled_column(other_id, -1.0)
        if both:
            inner = self.graph[data_id]
            inner_split = self._split(inner)
            assert inner_split is not None
            return inner.inputs[inner_split[0]], self.operand(inner.inputs[inner_split[1]]), bias
        return data_id, None, bias

    def _emit_tile_tile(self, node: Node) -> None:
        """Two tiles; a per-row step on either one rides along as scalar_tensor_tensor."""
        id, op, (left, right) = node.id, node.op, node.inputs
        for position in (0, 1):
            inner_id, other_id = node.inputs[position], node.inputs[1 - position]
            if inner_id == other_id or not self.fusable(inner_id) or self.is_column(inner_id):
                continue
            inner = self.graph[inner_id]
            split = self._split(inner)
            if split is None or inner.op not in ("add", "subtract", "multiply", "maximum", "minimum"):
                continue
            if op in (*COMPARISONS, *LOGICAL):
                continue
            factor = self.operand(inner.inputs[split[1]])
            other = self._side_by_side(other_id, node)
            data = self.operand(inner.inputs[split[0]])
            if data.psum and other.psum:
                break
            tile = self.new_tile(id)
            r0 = ", reverse0=True" if inner.op == "subtract" and split[0] == 1 else ""
            r1 = ", reverse1=True" if op == "subtract" and position == 1 else ""
            self.balance.charge("vector", self.width(id), 2.0)
            self.put(
                f"nisa.scalar_tensor_tensor(dst={self.text(tile)}, data={data.text}, op0=nl.{inner.op}, "
                f"operand0={factor.text}{r0}, op1=nl.{op}, operand1={other.text}{r1})"
            )
            return
        if self.packed:
            a, b = self._side_by_side(left, node), self._side_by_side(right, node)
        else:
            a, b = self._operands_of(left, right)
        tile = self.new_tile(id)
        choices = {"vector": 2.0}
        if not (a.psum or b.psum):
            choices["gpsimd"] = 2.0
        if a.psum or b.psum:
            choices["vector"] = 1.0
        engine = self.balance.pick(
            self.width(id), choices if "gpsimd" in self.schedule.engines else {"vector": choices["vector"]}
        )
        self.put(
            f"nisa.tensor_tensor(dst={self.text(tile)}, data1={a.text}, data2={b.text}, op=nl.{op}{self._engine(engine)})"
        )

    def _side_by_side(self, id: int, like: Node) -> Operand:
        """An operand for tiles of packed rows: what belongs to a row, or to all rows, is repeated by its access pattern."""
        found = self.operand(id)
        tile = self.tiles.get(id)
        if not self.packed or tile is None or not (tile.column or tile.outer):
            return found
        width = self.row_width(like.id)
        steps = (
            (tile.row_step if tile.outer else self.pack, 0 if tile.outer else 1, 0) if tile.column else (width, 0, 1)
        )
        pattern = f"[[{steps[0]}, {self.rows}], [{steps[1]}, {self.pack}], [{steps[2]}, {width}]]"
        return Operand(f"{tile.name}.ap(pattern={pattern})", "tile", tile.dtype, tile.psum)

    def _beside(self, id: int) -> Operand:
        """A per-row number as operand of another one: numbers for all rows are repeated for each packed row."""
        found = self.operand(id)
        tile = self.tiles.get(id)
        if not self.packed or tile is None or not tile.outer:
            return found
        return Operand(f"{tile.name}.ap(pattern=[[{tile.row_step}, {self.rows}], [0, {self.pack}]])", "column")

    def _operands_of(self, left: int, right: int) -> tuple[Operand, Operand]:
        """Both operands, at most one of them in PSUM."""
        a, b = self._beside(left), self._beside(right)
        if a.psum and b.psum:
            b = self._out_of_psum(right)
            a = b if left == right else a
        return a, b

    def _out_of_psum(self, id: int) -> Operand:
        """Copy a PSUM tile to SBUF: at most one input of an instruction may lie in PSUM."""
        tile = self.tiles[id]
        source = self.text(tile)
        name = self.allocate(f"{self.stem(id)}_sb", self.widths.get("chunk", self.row_width(id)), "float32")
        engine = self.balance.pick(self.width(id), {"vector": 1.0, "scalar": 1.0})
        self.put(copy_line(name, source, engine, self.machine))
        self.tiles[id] = Tile(name, "float32", False, tile.extent)
        return Operand(name, "tile")

    def _emit_where(self, node: Node) -> None:
        """Copy the second choice, then the first one where the condition holds."""
        condition, yes, no = node.inputs
        self.emit(condition) if self.constant(condition) is None else None
        column = self.is_column(node.id)
        for i in (yes, no):
            if self.constant(i) is None:
                self.emit(i)
        tile = self.new_tile(node.id)
        target = self.text(tile)
        self.balance.charge("vector", self.width(node.id), 3.0)
        value = self.constant(no)
        if value is not None:
            self.put(f"nisa.memset(dst={target}, value={number(value)})")
        else:
            self.put(f"nisa.tensor_copy(dst={target}, src={self.spread(no, node, column)})")
        value = self.constant(yes)
        chosen = number(value) if value is not None else self.spread(yes, node, column, tile.dtype)
        mask = self._mask(condition, node, column)
        self.put(f"nisa.tensor_copy_predicated(dst={target}, src={chosen}, predicate={mask})")

    def _mask(self, condition: int, node: Node, column: bool) -> str:
        tile = self.tiles[condition]
        if tile.dtype != "uint8":
            width = 1 if tile.column else self._shape_width(node)
            name = self.allocate("mask", width, "uint8")
            self.put(f"nisa.tensor_scalar(dst={name}, data={self.text(tile)}, op0=nl.not_equal, operand0=0.0)")
            tile = Tile(name, "uint8", tile.column, self.mode if not tile.column else "whole", self.hoisting)
            self.tiles[condition] = tile
        return self.spread(condition, node, column)

    def spread(self, id: int, like: Node, column: bool, dtype: str = "") -> str:
        """The tile of node `id`, repeated along the row if it holds one number a row."""
        tile = self.tiles[id]
        if dtype and tile.dtype != dtype:
            width = 1 if tile.column else self._shape_width(like)
            name = self.allocate(f"{tile.name}_cast", width, dtype)
            self.put(f"nisa.tensor_copy(dst={name}, src={self.text(tile)})")
            tile = Tile(name, dtype, tile.column, self.mode if not tile.column else "whole", self.hoisting)
        if column or not tile.column:
            return self.text(tile)
        rows = self.full_rows if self.hoisting else self.rows
        return f"{tile.name}.ap(pattern=[[{tile.row_step}, {rows}], [0, {self._shape_width(like)}]])"

    # -- running totals ----------------------------------------------------------------------------------------------

    def _emit_scan(self, node: Node) -> None:
        """r = r before op x along the row, on the Vector Engine: (1 * r) + x, or (x * r) + 0 for products."""
        source, kind = node.inputs[0], str(node.attrs["kind"])
        self.emit(source) if self.constant(source) is None else None
        value = self.constant(source)
        data = self.even(value, node) if value is not None else self.spread(source, node, False)
        tile = self.new_tile(node.id, "float32")
        self.balance.charge("vector", self.width(node.id), 2.0)
        first, second, initial, op = (self.even(1.0, node), data, "0.0", kind)
        if kind in ("maximum", "minimum"):
            initial = "-3.4e38" if kind == "maximum" else "3.4e38"
        if kind == "multiply":
            first, second, initial, op = data, self.even(0.0, node), "1.0", "add"
        self.put(
            f"nisa.tensor_tensor_scan(dst={self.text(tile)}, data0={first}, data1={second}, initial={initial}, op0=nl.multiply, "
            f"op1=nl.{op})"
        )

    def even(self, value: float, like: Node) -> str:
        """A tile that holds one number everywhere: a column of it, repeated by its access pattern."""
        key = f"even {value!r}"
        name = self.named.get(key)
        if name is None:
            name = self.named[key] = self.allocate("ones" if value == 1 else "even", 1, "float32", outer=True)
            self.outer.line(f"nisa.memset(dst={name}, value={number(value)})")
        rows = self.full_rows if self.hoisting else self.rows
        return f"{name}.ap(pattern=[[1, {rows}], [0, {self._shape_width(like)}]])"

    def width_text(self, id: int) -> int | str:
        """Columns of node `id` at the current extent, as an allocation writes them."""
        return self._shape_width(self.graph[id])

    # -- reductions --------------------------------------------------------------------------------------------------

    def _emit_reduce(self, node: Node) -> None:
        id, source, kind = node.id, node.inputs[0], str(node.attrs["kind"])
        if self.is_column(source):
            self._emit_column_reduce(node)
            return
        if kind == "add" and source not in self.tiles and source not in self.stage.leaves:
            self.emit(source)  # may take the sum along
            if id in self.tiles or id in self.summed:
                return
        data = self.operand(source)
        if kind == "add" and not self.packed:
            engine = self.balance.pick(self.width(source), {"vector": 1.0, "scalar": 1.0})
        else:
            engine = "vector"
            self.balance.charge("vector", self.width(source))
        if engine == "scalar":
            waste = self.allocate("ignored", self._shape_width(self.graph[source]), "bfloat16")
            self.loop_bytes += 2 * self.width(source)
            target = self._reduce_target(id)
            self.put(
                f"nisa.activation_reduce(dst={waste}, op=nl.copy, data={data.text}, reduce_op=nl.add, reduce_res={target})"
            )
            return
        target = self._reduce_target(id)
        self.put(f"nisa.tensor_reduce(dst={target}, op=nl.{kind}, data={data.text}, axis={2 if self.packed else 1})")

    def _emit_column_reduce(self, node: Node) -> None:
        """Reducing a value that is the same along the row."""
        count, kind = self.row_width(node.inputs[0]), str(node.attrs["kind"])
        data = self.operand(node.inputs[0])
        tile = self.new_tile(node.id)
        if kind == "multiply":
            raise BeyondOffline("the product of a value repeated along the row")
        factor = number(float(count)) if kind == "add" else "1.0"
        self.put(f"nisa.tensor_scalar(dst={self.text(tile)}, data={data.text}, op0=nl.multiply, operand0={factor})")

    # -- mean and variance in one pass -------------------------------------------------------------------------------

    def _find_moments(self) -> None:
        """Find variances: sum(square(x - sum(x) / n)) / n, and the mean that goes with them."""
        for i in self.stage.region:
            node = self.graph[i]
            if node.op != "multiply" or self.constant(node.inputs[1]) is None:
                continue
            total = self.graph[node.inputs[0]]
            if total.op != "reduce" or total.attrs["kind"] != "add" or self.graph[total.inputs[0]].op != "square":
                continue
            centred = self.graph[self.graph[total.inputs[0]].inputs[0]]
            if centred.op != "subtract":
                continue
            x, mean = centred.inputs
            scaled = self.graph[mean]
            if scaled.op != "multiply" or self.graph[scaled.inputs[0]].op != "reduce":
                continue
            n = self.row_width(x)
            inverse, again = self.constant(scaled.inputs[1]), self.constant(node.inputs[1])
            same = self.graph[scaled.inputs[0]].inputs == (x,) and inverse is not None and again is not None
            if (
                same
                and abs(float(inverse or 0) * n - 1) < 1e-6
                and abs(float(again or 0) * n - 1) < 1e-6
                and x not in self.roots
            ):
                self.moments[i] = (x, mean)
                self.moments[mean] = (x, i)
                square = total.inputs[0]
                if self.uses.get(square, 0) == 1 and self.uses.get(total.id, 0) == 1:
                    self.uses[centred.id] = self.uses.get(centred.id, 1) - 1

    def _emit_moments(self, id: int) -> None:
        x, other = self.moments[id]
        reduce_of = self.graph[id].inputs[0]
        variance = (
            id
            if self.graph[self.graph[reduce_of].inputs[0]].op == "square" and self.graph[reduce_of].inputs[0] != x
            else other
        )
        mean = other if variance == id else id
        data = self.operand(x)
        width, fmax = self.row_width(x), self.machine.bn_stats_fmax
        pieces = -(-width // fmax)
        stats = self.allocate("stats", 6 * pieces, "float32")
        moments = self.allocate("moments", 2, "float32")
        tile = self.tiles[x]
        row = f":{self.rows}" if tile.outer and self.ragged else ":"
        for piece in range(pieces):
            low, high = piece * fmax, min(width, (piece + 1) * fmax)
            part = f"{tile.name}[{row}, {low}:{high}]" if pieces > 1 else data.text
            target = f"{stats}[:, {6 * piece}:{6 * piece + 6}]" if pieces > 1 else stats
            self.put(f"nisa.bn_stats(dst={target}, data={part})")
        self.put(f"nisa.bn_aggr(dst={moments}, data={stats})")
        self.balance.charge("vector", width)
        self.tiles[mean] = Tile(f"{moments}[:, 0:1]", "float32", True, row_step=2)
        self.tiles[variance] = Tile(f"{moments}[:, 1:2]", "float32", True, row_step=2)


def graph_level(graph: Graph, region: set[int]) -> dict[int, int]:
    """How many reductions must be finished before each node of the region can be computed (for a reduce: its own pass)."""
    level: dict[int, int] = {}
    for node in graph:
        if node.id not in region:
            level[node.id] = 0
            continue
        below = max((level[i] for i in node.inputs), default=0)
        level[node.id] = below + 1 if node.op == "reduce" else below
    return level
