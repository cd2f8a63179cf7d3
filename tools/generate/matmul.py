"""Emitter for matmul stages: left operand transposed onto partitions, right operand resident or streamed in column blocks,
element-wise work before (on rows) and after (out of PSUM) fused in.

out[M, N] = left[M, K] @ right[K, N]: the PE array wants K on partitions for both, so left tiles are transposed unless they
are stored K-major; right tiles are natural unless stored as [N, K].
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tools.generate.context import KernelContext, load_index, load_shared, root_key, store
from tools.generate.lower import RowCode, Tile, copy_line, graph_level, itemsize
from tools.generate.plan import Stage
from tools.generate.schedule import MatmulSchedule
from tools.generate.text import Section
from tools.generate.views import View

PSUM_COLUMNS = 512
"""float32 columns of one PSUM bank."""


@dataclass(frozen=True, slots=True)
class MatmulFacts:
    """What schedules need to know of a matmul stage.

    Attributes:
        rows, inner, columns: M, K, N of one batch element.
        batch: number of batch elements.
        dtype: type that the PE array multiplies in.
        left: how the left operand comes: stored rows, stored K-major, computed rows, or all one number.
        transposed_right: the right operand is stored as [N, K].
        full_rows: something behind the matmul reduces whole rows.
        matmuls: number of right operands.
        left_stored_dtype: type of a stored left operand.
    """

    rows: int
    inner: int
    columns: int
    batch: int
    dtype: str
    left: Literal["rows", "columns", "computed", "number"]
    transposed_right: bool
    full_rows: bool
    matmuls: int
    left_stored_dtype: str


def facts(context: KernelContext, stage: Stage) -> MatmulFacts:
    """Describe a matmul stage."""
    graph = context.plan.graph
    nest, _ = context.nest(stage, last_is_rows=True)
    node = graph[stage.matmuls[0]]
    left = node.inputs[0]
    kind: Literal["rows", "columns", "computed", "number"] = "computed"
    stored = ""
    if graph[left].op == "constant":
        kind = "number"
    elif left in stage.leaves:
        view = stage.leaves[left]
        stored = context.dtype(view)
        kind = "columns" if view.strides[-1] not in (0, 1) and view.shape[-1] > 1 and view.strides[-2] == 1 else "rows"
    batch = 1
    for n in nest.batch:
        batch *= n
    heavy = _heavy(context, stage)
    return MatmulFacts(
        nest.rows, graph[left].width, node.width, batch, context.plan.matmul_dtype[node.id], kind,
        any(_is_transposed(stage.leaves[-1 - m]) for m in stage.matmuls),
        any(graph[i].op == "reduce" and i in heavy for i in stage.region), len(stage.matmuls), stored,
    )  # fmt: skip


def _is_transposed(view: View) -> bool:
    return view.shape[-1] > 1 and view.strides[-1] not in (0, 1)


def _heavy(context: KernelContext, stage: Stage) -> set[int]:
    heavy = set(stage.matmuls)
    for i in sorted(stage.region):
        if any(j in heavy for j in context.plan.graph[i].inputs):
            heavy.add(i)
    return heavy


def emit_matmul(context: KernelContext, stage: Stage, schedule: MatmulSchedule) -> None:
    """Append a matmul stage to the kernel."""
    _Matmul(context, stage, schedule).emit()


class _Matmul:
    def __init__(self, context: KernelContext, stage: Stage, schedule: MatmulSchedule) -> None:
        self.context, self.stage, self.schedule = context, stage, schedule
        self.graph, self.machine = context.plan.graph, context.machine
        self.nest, self.position = context.nest(stage, last_is_rows=True)
        self.facts = facts(context, stage)
        f = self.facts
        self.left_id = self.graph[stage.matmuls[0]].inputs[0]
        self.heavy = _heavy(context, stage)
        self.n_block = schedule.n_block if 0 < schedule.n_block < f.columns else 0
        self.streaming = bool(self.n_block) and (schedule.order == "mn" or f.full_rows)
        self.m_tiles = schedule.m_tiles if self.streaming or f.left == "columns" else 1
        self.prepared = self.streaming and f.left != "columns" and f.left != "number"
        self.ahead = schedule.ahead and not self.n_block and f.rows > 128 and f.left in ("rows", "computed")
        self.k_tiles = -(-f.inner // 128)
        self.k_rows = "P" if f.inner >= 128 else str(f.inner)
        self.k_ragged = f.inner % 128 != 0 and f.inner > 128
        self.kr = "kr" if self.k_ragged else self.k_rows
        self.full, self.ragged = ("P", f.rows % 128 != 0) if f.rows > 128 else (str(f.rows), False)
        self.rows = "rows" if self.ragged else self.full
        self.row = f"r0:r0 + {self.rows}" if f.rows > 128 else ":"
        self.bn = f.columns if not self.n_block else self.n_block
        self.bn_text = str(self.bn) if f.columns % self.bn == 0 else "bn"
        self.k_block = schedule.k_block if 0 < schedule.k_block < f.inner and self._can_stream_k() else 0
        self.accumulators: dict[int, str] = {}
        self.weights: dict[int, str] = {}
        self.left_name = ""
        self.bank_index = "0"
        self.weight_bytes = 0
        self.left_bytes = 0

    def _can_stream_k(self) -> bool:
        """Whether PSUM holds a whole block, and nothing but the product needs the left operand's rows."""
        f = self.facts
        columns = -(-(self.schedule.n_block or f.columns) // PSUM_COLUMNS)
        tiles = min(self.schedule.m_tiles, -(-f.rows // 128))
        prologue = any(i not in self.heavy for i in self.stage.region)
        return columns * tiles * f.matmuls <= 6 and f.left in ("rows", "columns") and not prologue and not f.full_rows

    # -- skeleton ----------------------------------------------------------------------------------------------------

    def emit(self) -> None:
        """The loop nest."""
        context, f = self.context, self.facts
        before = context.body.section()
        section = context.body
        for i, n in enumerate(self.nest.batch):
            section = section.block(f"for b{i} in range({n}):")
        varies = any(self.strides(-1 - m)[:-1] != (0,) * len(self.nest.batch) for m in self.stage.matmuls)
        outer = section.section() if varies or not self.nest.batch else before
        shared = section.section()
        if self.k_block:
            pass
        elif not self.n_block:
            self._load_weights(outer)
        elif not self.streaming:
            section = self._block_loop(section)
            self._load_weights(section)
        self.code = RowCode(
            context.plan, self.stage, self.machine, self.schedule.rows, context.names, self._load,
            outer=shared, body=section, rows=self.rows, full_rows=self.full, ragged=self.ragged,
        )  # fmt: skip
        self.code.shared_leaf = lambda id: f.rows > 1 and self.strides(id)[-1] == 0
        for id, target in self.stage.roots:
            if self.code.uses.get(id) == 1 and id not in self.stage.leaves:
                self.code.dtypes[id] = context.dtype(target)
        if f.left == "computed" and self.code.uses.get(self.left_id) == 1:
            self.code.dtypes[self.left_id] = f.dtype
        if f.left == "number":
            self._number_left(shared)
        if self.k_block:
            self._emit_k_streaming(section)
        elif self.streaming:
            self._emit_streaming(section)
        elif self.ahead:
            self._emit_ahead(section)
        else:
            self._emit_rows(section)
        depth = 2 if self.ahead or not self.prepared else 1
        context.note_sbuf(
            self.weight_bytes * (2 if self.n_block else 1)
            + self.code.outer_bytes
            + 2 * self.code.loop_bytes
            + self.left_bytes * depth * (self.m_tiles if self.prepared else 1)
        )

    def strides(self, key: int) -> tuple[int, ...]:
        return self.nest.strides[self.position[key]]

    def _row_loop(self, section: Section, first: str = "0", stop: str = "") -> Section:
        if self.facts.rows <= 128:
            return section
        section = section.block(f"for r0 in range({first}, {stop or self.facts.rows}, P):")
        if self.ragged:
            section.line(f"rows = min(P, {self.facts.rows} - r0)")
        return section

    def _block_loop(self, section: Section) -> Section:
        section = section.block(f"for nb in range(0, {self.facts.columns}, {self.bn}):")
        if self.bn_text == "bn":
            section.line(f"bn = min({self.bn}, {self.facts.columns} - nb)")
        return section

    def _emit_rows(self, section: Section) -> None:
        """Columns stay in SBUF, rows stream past."""
        body = section
        if self.facts.left == "columns":
            wide = self.m_tiles * 128
            if self.facts.rows > wide:
                body = body.block(f"for m0 in range(0, {self.facts.rows}, {wide}):")
            self._load_left_block(body, wide)
            many = self.facts.rows > wide
            body = self._row_loop(body, "m0" if many else "0", f"min(m0 + {wide}, {self.facts.rows})" if many else "")
        else:
            body = self._row_loop(body)
        self.code.body = body
        self._prologue(body)
        self._compute(body, blocked=bool(self.n_block))

    def _emit_ahead(self, section: Section) -> None:
        """The next rows are loaded and transposed before the current ones are multiplied, so that the PE never waits."""
        count = -(-self.facts.rows // 128)
        ready = self.context.names.unique("ready")
        section.line(f"{ready} = []")
        loop = section.block(f"for step in range({count} + 1):")
        first = loop.block(f"if step < {count}:")
        first.line("r0 = step * P")
        if self.ragged:
            first.line(f"rows = min(P, {self.facts.rows} - r0)")
        self.code.body = first
        self._prologue(first)
        carried = self._carry()
        first.line(f"{ready}.append(({', '.join(carried)},))")
        second = loop.block("if step > 0:")
        second.line("r0 = (step - 1) * P")
        if self.ragged:
            second.line(f"rows = min(P, {self.facts.rows} - r0)")
        second.line(f"({', '.join(carried)},) = {ready}[step - 1]")
        self.code.body = second
        self._compute(second, blocked=False)

    def _emit_streaming(self, section: Section) -> None:
        """Row blocks stay in SBUF, column blocks stream past each of them."""
        f, wide = self.facts, self.m_tiles * 128
        body = section
        stop = str(f.rows)
        start = "0"
        if f.rows > wide:
            body = body.block(f"for m0 in range(0, {f.rows}, {wide}):")
            start, stop = "m0", f"min(m0 + {wide}, {f.rows})"
        prepared = ""
        carried: list[str] = []
        if f.left == "columns":
            self._load_left_block(body, wide)
        elif f.left != "number":
            prepared = self.context.names.unique("prepared")
            body.line(f"{prepared} = []")
            inner = self._row_loop(body, start, stop)
            self.code.body = inner
            self._prologue(inner)
            carried = self._carry()
        whole = self._needs_whole_rows()
        if whole:
            where = inner if prepared else self._row_loop(body, start, stop)
            placing = self._place(where, "whole")
            if not prepared:
                prepared = self.context.names.unique("prepared")
                where.items.insert(0, "    " * where.depth + "# results of one row tile")
                body.items.insert(body.items.index(where) - 1, "    " * body.depth + f"{prepared} = []")
                inner = where
            carried += placing
        if prepared:
            inner.line(f"{prepared}.append(({', '.join(carried)},))")
        columns = self._block_loop(body)
        self._load_weights(columns)
        inner = self._row_loop(columns, start, stop)
        if prepared:
            index = "0" if f.rows <= 128 else (f"(r0 - {start}) // P" if start != "0" else "r0 // P")
            inner.line(f"({', '.join(carried)},) = {prepared}[{index}]")
        self.code.body = inner
        self._compute(inner, blocked=True, keep=whole)
        if whole:
            inner = self._row_loop(body, start, stop)
            inner.line(f"({', '.join(carried)},) = {prepared}[{index}]")
            self.code.body = inner
            self._finish_rows("whole")

    def _emit_k_streaming(self, section: Section) -> None:
        """Both operands stream through SBUF in pieces of K, while the banks of a whole block of the product accumulate."""
        f, names, piece = self.facts, self.context.names, self.k_block
        tiles = min(self.schedule.m_tiles, -(-f.rows // 128))
        wide = tiles * 128
        body, start, stop = section, "0", str(f.rows)
        if f.rows > wide:
            body = body.block(f"for m0 in range(0, {f.rows}, {wide}):")
            start, stop = "m0", f"min(m0 + {wide}, {f.rows})"
        if self.n_block:
            body = self._block_loop(body)
        chunk = min(PSUM_COLUMNS, self.bn)
        ragged = self.bn % chunk != 0 or self.bn_text == "bn"
        nw = f"min({chunk}, {self.bn_text} - n0)" if ragged else str(chunk)
        for m in self.stage.matmuls:
            banks = self.accumulators[m] = names.unique("banks")
            body.line(f"{banks} = []")
        inner = self._row_loop(body, start, stop)
        for m in self.stage.matmuls:
            inner.line(
                f"{self.accumulators[m]}.append([nl.ndarray(({self.rows}, {nw}), dtype=nl.float32, buffer=nl.psum) "
                f"for n0 in range(0, {self.bn_text}, {chunk})])"
            )
        loop = body.block(f"for k0 in range(0, {f.inner}, {piece}):")
        loop.line(f"count = min({piece}, {f.inner} - k0)")
        window = ":" if not self.n_block else f"nb:nb + {self.bn_text}"
        depth, size = -(-piece // 128), itemsize(f.dtype)
        for m in self.stage.matmuls:
            self._load_weight_piece(loop, m, depth, window)
        self.weight_bytes = 2 * depth * self.bn * size * f.matmuls
        self.left_bytes = 2 * depth * 128 * size
        inner = self._row_loop(loop, start, stop)
        self._load_left_piece(inner, depth)
        tile = "0" if f.rows <= 128 else (f"(r0 - {start}) // P" if start != "0" else "r0 // P")
        columns = inner.block(f"for n0 in range(0, {self.bn_text}, {chunk}):")
        columns.line(f"nw = {nw}")
        steps = columns.block("for k in range(0, count, P):")
        steps.line("kr = min(P, count - k)")
        for m in self.stage.matmuls:
            steps.line(
                f"nisa.nc_matmul(dst={self.accumulators[m]}[{tile}][n0 // {chunk}], stationary={self.left_name}[:kr, k // P, :], "
                f"moving={self.weights[m]}[:kr, k // P, n0:n0 + nw])"
            )
        inner = self._row_loop(body, start, stop)
        self.code.body = inner
        self.bank_index = tile
        self._compute(inner, blocked=bool(self.n_block))

    def _load_weight_piece(self, loop: Section, m: int, depth: int, window: str) -> None:
        """A piece of a right operand: [128, K tiles, columns]."""
        f = self.facts
        view = self.stage.leaves[-1 - m]
        stem = self.graph[self.graph[m].inputs[1]].name or "weights"
        name = self.weights[m] = self.context.names.unique(f"{stem}_sb")
        loop.line(f"{name} = nl.ndarray((P, {depth}, {self.bn_text}), dtype=nl.{f.dtype}, buffer=nl.sbuf)")
        tail = [(f.inner, view.strides[-2]), (view.shape[-1], view.strides[-1])]
        turned = _is_transposed(view)
        access = self.context.access(
            view, self.nest, self.strides(-1 - m), tail[::-1] if turned else tail, with_rows=False
        )
        if not turned:
            steps = loop.block("for k in range(0, count, P):")
            steps.line("kr = min(P, count - k)")
            steps.line(f"nisa.dma_copy(dst={name}[:kr, k // P, :], src={access.at('k0 + k:k0 + k + kr', window)})")
            return
        strips = loop.block(f"for n0 in range(0, {self.bn_text}, P):")
        strips.line(f"nw = min(P, {self.bn_text} - n0)")
        strip = self.context.names.unique("strip")
        base = "nb + n0" if self.n_block else "n0"
        strips.line(f"{strip} = nl.ndarray((nw, count), dtype=nl.{f.dtype}, buffer=nl.sbuf)")
        strips.line(f"nisa.dma_copy(dst={strip}, src={access.at(f'{base}:{base} + nw', 'k0:k0 + count')})")
        self._turn_piece(strips, strip, name, "nw", "n0:n0 + nw")

    def _load_left_piece(self, section: Section, depth: int) -> None:
        """A piece of the left operand for one tile of rows: [128, K tiles, rows]."""
        f = self.facts
        view, strides = self.stage.leaves[self.left_id], self.strides(self.left_id)
        stem = self.graph[self.left_id].name or "left"
        self.left_name = self.context.names.unique(f"{stem}_t")
        section.line(f"{self.left_name} = nl.ndarray((P, {depth}, {self.rows}), dtype=nl.{f.dtype}, buffer=nl.sbuf)")
        if f.left == "columns":
            tail = [(f.inner, view.strides[-1]), (f.rows, view.strides[-2])]
            access = self.context.access(view, self.nest, (*strides[:-1], 0), tail, with_rows=False)
            steps = section.block("for k in range(0, count, P):")
            steps.line("kr = min(P, count - k)")
            steps.line(
                f"nisa.dma_copy(dst={self.left_name}[:kr, k // P, :], src={access.at('k0 + k:k0 + k + kr', self.row)})"
            )
            return
        access = self.context.access(view, self.nest, strides, [(f.inner, 1)])
        strip = self.context.names.unique("strip")
        section.line(f"{strip} = nl.ndarray(({self.rows}, count), dtype=nl.{f.dtype}, buffer=nl.sbuf)")
        section.line(f"nisa.dma_copy(dst={strip}, src={access.text(self.row, 'k0:k0 + count')})")
        self._turn_piece(section, strip, self.left_name, self.rows, ":")

    def _turn_piece(self, section: Section, strip: str, target: str, rows: str, columns: str) -> None:
        """Transpose a strip [rows, count] into target[:, K tile, columns] on the PE."""
        turned = self.context.names.unique("turned")
        steps = section.block("for k in range(0, count, P):")
        steps.line("kr = min(P, count - k)")
        steps.line(f"{turned} = nl.ndarray((kr, {rows}), dtype=nl.{self.facts.dtype}, buffer=nl.psum)")
        steps.line(f"nisa.nc_transpose(dst={turned}, data={strip}[:, k:k + kr])")
        steps.line(copy_line(f"{target}[:kr, k // P, {columns}]", turned, self._copy_engine(128), self.machine))

    def _carry(self) -> list[str]:
        """Names that the next phase needs: the transposed operand and per-row numbers; other tiles are made again."""
        kept = {i: t for i, t in self.code.tiles.items() if t.outer or t.column}
        self.code.tiles = kept
        self.code.forget_names()
        wanted = [t.name.split("[")[0] for i, t in kept.items() if not t.outer and self._used_later(i)]
        return list(dict.fromkeys([self.left_name, *wanted]))

    def _used_later(self, id: int) -> bool:
        return any(id in self.graph[i].inputs for i in self.heavy)

    def _needs_whole_rows(self) -> bool:
        return self.facts.full_rows

    # -- operands ----------------------------------------------------------------------------------------------------

    def _load(self, code: RowCode, id: int) -> None:
        """Load a leaf for element-wise use."""
        view = self.stage.leaves[id]
        if self.context.plan.tensors[view.tensor].role == "index":
            load_index(self.context, code, id, view, self.nest, self.strides(id))
            return
        if code.shared_leaf(id):
            load_shared(self.context, code, id, view, self.nest, self.strides(id))
            return
        shape, steps = view.shape or (1,), view.strides or (1,)
        column = code.is_column(id)
        dtype = self.context.dtype(view)
        tail = (1, 1) if column else (shape[-1], steps[-1])
        access = self.context.access(view, self.nest, self.strides(id), [tail])
        if column:
            tile = Tile(code.allocate(code.stem(id), 1, dtype), dtype, True)
            code.tiles[id] = tile
        else:
            tile = code.new_tile(id, dtype)
        window = ":"
        if not column and code.mode != "whole" and self.graph[id].width == code.window_width:
            window = code.windows.get(("whole", code.mode), ":")
        code.put(f"nisa.dma_copy(dst={code.text(tile)}, src={access.text(self.row, window)})")

    def _k_loop(self, section: Section) -> Section:
        if self.k_tiles == 1:
            return section
        section = section.block(f"for k in range({self.k_tiles}):")
        if self.k_ragged:
            section.line(f"kr = min(P, {self.facts.inner} - k * P)")
        return section

    def _k_index(self) -> str:
        return "0" if self.k_tiles == 1 else "k"

    def _k_slice(self) -> str:
        return ":" if self.k_tiles == 1 else f"k * P:k * P + {self.kr}"

    def _k_part(self, name: str, rest: str) -> str:
        """`name[partitions of this k tile, k, rest]`."""
        head = ":kr" if self.k_ragged else ":"
        return f"{name}[{head}, {self._k_index()}, {rest}]"

    def _load_weights(self, section: Section) -> None:
        """Right operands as [K on partitions, K tile, columns]."""
        f = self.facts
        for m in self.stage.matmuls:
            right = self.graph[m].inputs[1]
            view = self.stage.leaves[-1 - m]
            stem = self.graph[right].name or "weights"
            name = self.weights[m] = self.context.names.unique(f"{stem}_sb")
            section.line(
                f"{name} = nl.ndarray(({self.k_rows}, {self.k_tiles}, {self.bn_text}), dtype=nl.{f.dtype}, buffer=nl.sbuf)"
            )
            self.weight_bytes += self.k_tiles * self.bn * itemsize(f.dtype)
            window = ":" if not self.n_block else f"nb:nb + {self.bn_text}"
            n_size, n_step, k_step = view.shape[-1], view.strides[-1], view.strides[-2]
            if not _is_transposed(view):
                access = self.context.access(
                    view, self.nest, self.strides(-1 - m), [(f.inner, k_step), (n_size, n_step)], with_rows=False
                )
                loop = self._k_loop(section)
                loop.line(f"nisa.dma_copy(dst={self._k_part(name, ':')}, src={access.at(self._k_slice(), window)})")
                continue
            self._turn_weights(section, m, view, name, window)

    def _turn_weights(self, section: Section, m: int, view: View, name: str, window: str) -> None:
        """A right operand stored as [N, K]: strips of 128 of its rows are transposed into place."""
        f, dtype = self.facts, self.context.dtype(view)
        access = self.context.access(
            view,
            self.nest,
            self.strides(-1 - m),
            [(f.columns, view.strides[-1]), (f.inner, view.strides[-2])],
            with_rows=False,
        )
        base = "nb + n0" if self.n_block else "n0"
        bn = self.bn_text
        loop = section
        ragged = self.bn % 128 != 0 or bn == "bn"
        if self.bn > 128:
            loop = section.block(f"for n0 in range(0, {bn}, P):")
            if ragged:
                loop.line(f"nw = min(P, {bn} - n0)")
            nw = "nw" if ragged else "P"
            columns, source = f"n0:n0 + {nw}", f"{base}:{base} + {nw}"
        else:
            nw, columns, source = bn, ":", window
        if self.schedule.right == "dma" and itemsize(dtype) == 2 and dtype == f.dtype:
            inner = self._k_loop(loop)
            inner.line(
                f"nisa.dma_transpose(dst={self._k_part(name, columns)}, src={access.at(source, self._k_slice())})"
            )
            return
        strip = self.context.names.unique("strip")
        loop.line(f"{strip} = nl.ndarray(({nw}, {f.inner}), dtype=nl.{f.dtype}, buffer=nl.sbuf)")
        loop.line(f"nisa.dma_copy(dst={strip}, src={access.at(source, ':')})")
        self._turn(loop, strip, name, nw, columns)

    def _turn(self, section: Section, source: str, target: str, rows: str, columns: str) -> None:
        """Transpose a tile [rows, K] into target[:, k, columns] on the PE, several K tiles a PSUM bank."""
        f = self.facts
        full = f.inner // 128
        size = itemsize(f.dtype)
        group = max(1, min(full, 2048 // (128 * size)))
        turned = self.context.names.unique("turned")
        if full:
            loop, base, count = section, "0", str(group)
            if full > group:
                loop = section.block(f"for k0 in range(0, {full}, {group}):")
                base = "k0"
                if full % group:
                    loop.line(f"count = min({group}, {full} - k0)")
                    count = "count"
            loop.line(f"{turned} = nl.ndarray((P, {count}, {rows}), dtype=nl.{f.dtype}, buffer=nl.psum)")
            inner = loop.block(f"for k in range({count}):")
            at = f"({base} + k)" if base != "0" else "k"
            inner.line(
                f"nisa.nc_transpose(dst={turned}[:, k, :], data={source}[:, {at} * P:({at} + 1) * P])".replace(
                    "((k0 + k) + 1)", "(k0 + k + 1)"
                )
            )
            k_range = f"{base}:{base} + {count}" if base != "0" else (":" if full == self.k_tiles else f":{count}")
            head = ":" if self.k_rows == "P" else f":{self.k_rows}"
            loop.line(
                copy_line(
                    f"{target}[{head}, {k_range}, {columns}]", turned, self._copy_engine(group * 128), self.machine
                )
            )
        rest = f.inner - full * 128
        if rest:
            last = self.context.names.unique("turned_tail")
            section.line(f"{last} = nl.ndarray(({rest}, {rows}), dtype=nl.{f.dtype}, buffer=nl.psum)")
            section.line(f"nisa.nc_transpose(dst={last}, data={source}[:, {full * 128}:{f.inner}])")
            section.line(copy_line(f"{target}[:{rest}, {full}, {columns}]", last, self._copy_engine(128), self.machine))

    def _copy_engine(self, width: int) -> str:
        """Engine that takes a transposed tile out of PSUM."""
        code = getattr(self, "code", None)
        if code is None:
            return "vector"
        half = 0.5 if itemsize(self.facts.dtype) == 2 and self.machine.vector_fast_copy > 1 else 1.0
        return code.balance.pick(width, {"vector": half, "scalar": 1.0})

    def _number_left(self, section: Section) -> None:
        """A left operand that is one number everywhere, such as the ones of a column sum."""
        f = self.facts
        self.left_name = self.context.names.unique("ones")
        value = self.graph[self.left_id].attrs["value"]
        section.line(f"{self.left_name} = nl.ndarray(({self.k_rows}, {self.full}), dtype=nl.{f.dtype}, buffer=nl.sbuf)")
        section.line(f"nisa.memset(dst={self.left_name}, value={float(value)!r})")

    def _load_left_block(self, section: Section, wide: int) -> None:
        """A left operand stored K-major: load [K, rows] as it is, for a block of rows."""
        f = self.facts
        view = self.stage.leaves[self.left_id]
        self.left_name = self.context.names.unique(f"{self.graph[self.left_id].name or 'left'}_sb")
        size, window = str(min(wide, f.rows)), ":"
        if f.rows > wide:
            if f.rows % wide:
                section.line(f"count = min({wide}, {f.rows} - m0)")
                size = "count"
            window = f"m0:m0 + {size}"
        section.line(
            f"{self.left_name} = nl.ndarray(({self.k_rows}, {self.k_tiles}, {size}), dtype=nl.{f.dtype}, buffer=nl.sbuf)"
        )
        self.left_bytes = self.k_tiles * min(wide, f.rows) * itemsize(f.dtype)
        strides = self.strides(self.left_id)
        access = self.context.access(
            view,
            self.nest,
            (*strides[:-1], 0),
            [(f.inner, view.strides[-1]), (f.rows, view.strides[-2])],
            with_rows=False,
        )
        loop = self._k_loop(section)
        loop.line(f"nisa.dma_copy(dst={self._k_part(self.left_name, ':')}, src={access.at(self._k_slice(), window)})")

    def _stationary(self) -> str:
        """The left operand of one nc_matmul."""
        f = self.facts
        if f.left == "number":
            part = ":kr" if self.k_ragged else ":"
            return f"{self.left_name}[{part}, :{self.rows}]" if self.k_ragged or self.ragged else self.left_name
        if f.left == "columns":
            if f.rows <= 128:
                return self._k_part(self.left_name, ":")
            base = "r0 - m0" if f.rows > self.m_tiles * 128 else "r0"
            return self._k_part(self.left_name, f"{base}:{base} + {self.rows}")
        return self._k_part(self.left_name, ":")

    # -- phases ------------------------------------------------------------------------------------------------------

    def _prologue(self, section: Section) -> None:
        """For one tile of rows: the left operand, transposed, and the per-row numbers that the epilogue takes."""
        code, f = self.code, self.facts
        code.body = section
        if f.left in ("rows", "computed"):
            self._turn_left(section)
        needed = {j for i in self.heavy for j in self.graph[i].inputs if j not in self.heavy}
        for j in sorted(needed):
            if j in self.stage.region and code.is_column(j) and code.constant(j) is None:
                code.emit(j)
        for k, (id, target) in enumerate(self.stage.roots):
            if id not in self.heavy:
                access = self.context.access(
                    target, self.nest, self.strides(root_key(k)), [(target.shape[-1], target.strides[-1])]
                )
                store(self.context, code, id, access, self.context.dtype(target), self.row, ":")

    def _turn_left(self, section: Section) -> None:
        code, f = self.code, self.facts
        stem = self.graph[self.left_id].name or ("left" if f.left == "rows" else "rows")
        self.left_name = self.context.names.unique(f"{stem}_t")
        self.left_bytes = self.k_tiles * 128 * itemsize(f.dtype)
        target = f"{self.left_name} = nl.ndarray(({self.k_rows}, {self.k_tiles}, {self.rows}), dtype=nl.{f.dtype}, buffer=nl.sbuf)"
        if (
            f.left == "rows"
            and self.schedule.left == "dma"
            and itemsize(f.dtype) == 2
            and f.left_stored_dtype == f.dtype
        ):
            section.line(target)
            view, strides = self.stage.leaves[self.left_id], self.strides(self.left_id)
            if f.inner % 128 == 0:
                access = self.context.access(view, self.nest, strides, [(self.k_tiles, 128), (128, 1)])
                source = access.at(*([self.row] if access.rows else []), ":", ":")
                section.line(f"nisa.dma_transpose(dst={self.left_name}, src={source}, axes=(2, 1, 0))")
                return
            access = self.context.access(view, self.nest, strides, [(f.inner, 1)])
            loop = self._k_loop(section)
            loop.line(
                f"nisa.dma_transpose(dst={self._k_part(self.left_name, ':')}, src={access.text(self.row, self._k_slice())})"
            )
            return
        code.emit(self.left_id)
        tile = code.tiles[self.left_id]
        source = code.text(tile)
        if tile.column and f.inner > 1:
            wide = code.allocate(f"{tile.name}_wide", f.inner, f.dtype)
            code.put(f"nisa.tensor_copy(dst={wide}, src={code.spread(self.left_id, self.graph[self.left_id], False)})")
            source = wide
        elif tile.dtype != f.dtype:
            cast = code.allocate(
                f"{code.stem(self.left_id)}_{'f32' if f.dtype == 'float32' else 'lp'}", f.inner, f.dtype
            )
            engine = code.balance.pick(f.inner, {"vector": 1.0, "scalar": 1.0})
            code.put(copy_line(cast, source, engine, self.machine))
            code.loop_bytes += f.inner * itemsize(f.dtype)
            source = cast
        section.line(target)
        self._turn(section, source, self.left_name, self.rows, ":")

    def _chunk_nodes(self) -> list[int]:
        """Element-wise nodes computed bank by bank, straight out of PSUM."""
        level = graph_level(self.graph, {i for i in self.heavy if i not in self.stage.matmuls})
        width = self.facts.columns
        return [
            i for i in sorted(self.heavy)
            if i not in self.stage.matmuls and self.graph[i].op != "reduce" and level[i] == 0 and self.graph[i].width == width
        ]  # fmt: skip

    def _place(self, section: Section, extent: Literal["whole", "block"]) -> list[str]:
        """Allocate the tiles that PSUM banks are emptied into; returns their names."""
        code = self.code
        chunk = set(self._chunk_nodes())
        roots = {id for id, _ in self.stage.roots}
        later = {j for i in self.stage.region if i not in chunk for j in self.graph[i].inputs}
        names = []
        for i in sorted(chunk | set(self.stage.matmuls)):
            if i not in roots and i not in later:
                continue
            dtype = code.dtypes.get(i, "float32") if i not in later else "float32"
            width = str(self.facts.columns) if extent == "whole" else self.bn_text
            name = self.context.names.unique(code.stem(i))
            section.line(f"{name} = nl.ndarray(({self.rows}, {width}), dtype=nl.{dtype}, buffer=nl.sbuf)")
            code.placed[i] = Tile(name, dtype, False, extent)
            code.loop_bytes += self.bn * itemsize(dtype)
            names.append(name)
        return names

    def _compute(self, section: Section, *, blocked: bool, keep: bool = False) -> None:
        """Multiply one tile of rows by the columns in SBUF and empty PSUM through the epilogue."""
        code, f = self.code, self.facts
        code.body = section
        extent: Literal["whole", "block"] = "block" if blocked and not keep else "whole"
        if not keep:
            code.placed = {}
            self._place(section, extent)
        code.window_width = f.columns
        columns = self.bn_text
        chunk = min(PSUM_COLUMNS, self.bn)
        ragged = self.bn % chunk != 0 or columns == "bn"
        nw = "nw" if ragged else str(chunk)
        loops = self.bn > chunk
        code.widths = {"block": columns, "chunk": nw}
        local = f"n0:n0 + {nw}" if loops else ""
        code.windows = {("whole", "block"): f"nb:nb + {columns}" if blocked else "", ("block", "chunk"): local}
        code.windows["whole", "chunk"] = (f"nb + n0:nb + n0 + {nw}" if loops else f"nb:nb + {nw}") if blocked else local
        code.mode = "block" if blocked else "whole"
        code.window_size = self.bn
        nodes = self._chunk_nodes()
        for i in nodes:
            for j in self.graph[i].inputs:
                if j not in self.heavy and code.constant(j) is None:
                    code.emit(j)
        body = section
        if loops:
            body = section.block(f"for n0 in range(0, {columns}, {chunk}):")
            if ragged:
                body.line(f"nw = min({chunk}, {columns} - n0)")
        elif ragged:
            nw = code.widths["chunk"] = columns
            code.windows = {k: v.replace("nw", columns) for k, v in code.windows.items()}
        before = dict(code.tiles)
        code.window_size = chunk
        code.mode = "chunk"
        code.body = body
        for m in self.stage.matmuls:
            bank = self.context.names.unique("acc")
            if self.k_block:
                body.line(f"{bank} = {self.accumulators[m]}[{self.bank_index}][{f'n0 // {chunk}' if loops else '0'}]")
                code.tiles[m] = Tile(bank, "float32", False, "chunk", psum=True)
                continue
            body.line(f"{bank} = nl.ndarray(({self.rows}, {nw}), dtype=nl.float32, buffer=nl.psum)")
            loop = self._k_loop(body)
            moving = self._k_part(self.weights[m], local or ":")
            loop.line(f"nisa.nc_matmul(dst={bank}, stationary={self._stationary()}, moving={moving})")
            code.tiles[m] = Tile(bank, "float32", False, "chunk", psum=True)
        choice = self.schedule.evacuate
        busy = dict(code.balance.busy_ns)
        if choice == "alternate" and loops:
            state = dict(code.tiles)
            for test, engine in ((f"if (n0 // {chunk}) % 2 == 0:", "vector"), ("else:", "scalar")):
                code.tiles = dict(state)
                code.body = body.block(test)
                code.balance.forced = "vector" if engine == "vector" else "scalar"
                self._evacuate(nodes)
        else:
            code.balance.forced = "scalar" if choice == "scalar" else "vector"
            self._evacuate(nodes)
        code.balance.forced = None
        code.balance.busy_ns = busy
        code.tiles = {i: t for i, t in code.tiles.items() if i in before or i in code.placed or t.outer}
        code.tiles.update(code.placed)
        code.body = section
        code.mode = "block" if blocked else "whole"
        code.window_size = self.bn
        code.forget_names()
        if not keep:
            self._finish_rows(extent)
        if not keep:
            code.placed = {}

    def _evacuate(self, nodes: list[int]) -> None:
        """Epilogue of one PSUM bank."""
        code = self.code
        for m in self.stage.matmuls:
            placed = code.placed.get(m)
            if placed is None:
                continue
            engine = code.balance.pick(PSUM_COLUMNS, {"vector": 1.0, "scalar": 1.0})
            code.put(copy_line(code.text(placed), code.tiles[m].name, engine, self.machine))
        wanted = [i for i in nodes if i in code.placed]
        for i in wanted:
            code.emit(i)

    def _finish_rows(self, extent: Literal["whole", "block"]) -> None:
        """What needs whole rows of the product, and the stores."""
        code = self.code
        code.tiles.update(code.placed)
        code.mode = "whole" if extent == "whole" else "block"
        window = ":" if extent == "whole" else code.windows["whole", "block"]
        for k, (id, target) in enumerate(self.stage.roots):
            if id not in self.heavy:
                continue
            shape, steps = target.shape or (1,), target.strides or (1,)
            access = self.context.access(target, self.nest, self.strides(root_key(k)), [(shape[-1], steps[-1])])
            narrow = shape[-1] == 1
            store(self.context, code, id, access, self.context.dtype(target), self.row, ":" if narrow else window)
