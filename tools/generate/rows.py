"""Emitters for stages without a matmul: tiles of 128 rows, in one pass over the columns or in several."""

from __future__ import annotations

from dataclasses import replace

from tools.generate.context import Access, KernelContext, lead_strides, load_index, load_shared, root_key, store
from tools.generate.lower import RowCode, Tile, copy_line, graph_level, itemsize
from tools.generate.plan import Stage
from tools.generate.schedule import RowSchedule
from tools.generate.text import Section
from tools.generate.views import Nest, View, contiguous, elements


def emit_rows(context: KernelContext, stage: Stage, schedule: RowSchedule) -> None:
    """Append a row stage to the kernel."""
    for part in flattened(context, stage) if schedule.flatten else [stage]:
        _emit(context, part, schedule)


def flattened(context: KernelContext, stage: Stage) -> list[Stage]:
    """Purely element-wise work on whole contiguous tensors, re-cut into 128 long rows and a short rest."""
    graph = context.plan.graph
    views = [*stage.leaves.values(), *(v for _, v in stage.roots)]
    count = elements(stage.roots[0][1].shape)
    width = graph[stage.roots[0][0]].width
    rows = count // max(width, 1)
    simple = all(elements(v.shape) == count and _is_plain(v) for v in views)
    if not simple or any(graph[i].op in ("reduce", "scan") for i in stage.region) or stage.kind != "rows":
        return [stage]
    if rows % 128 == 0 and width >= 512:
        return [stage]
    lanes = 128 if count >= 128 else count
    best = max((d for d in range(1, lanes + 1) if count % d == 0), default=1)
    if best < 64 and count >= 4096:
        main = count // 128 * 128
        parts = [(0, 128, main // 128), (main, 1, count - main)]
    else:
        parts = [(0, best, count // best)]
    result = []
    for offset, r, w in parts:
        if r * w == 0:
            continue

        def cut(view: View, r: int = r, w: int = w, offset: int = offset) -> View:
            return View(view.tensor, (r, w), (w, 1), view.offset + offset)

        leaves = {i: cut(v) for i, v in stage.leaves.items()}
        part = Stage("rows", [(i, cut(v)) for i, v in stage.roots], (r,), list(stage.region), leaves, cut_width=w)
        result.append(part)
    return result


def _is_plain(view: View) -> bool:
    return all(n == 1 or a == b for n, a, b in zip(view.shape, view.strides, contiguous(view.shape)))


class _Rows:
    """State of one row stage's emission."""

    def __init__(self, context: KernelContext, stage: Stage, schedule: RowSchedule) -> None:
        self.context, self.stage, self.schedule = context, stage, schedule
        self.nest, self.position = context.nest(stage, last_is_rows=False)
        graph = context.plan.graph
        widths = {v.shape[-1] for v in [*stage.leaves.values(), *(v for _, v in stage.roots)] if v.shape}
        self.width = max(widths | {1})
        self.single_width = all(w in (1, self.width) for w in widths)
        whole = any(graph[i].op == "scan" for i in stage.region)  # a window would need the total of those before
        narrow = self.single_width and not whole
        self.free = schedule.free_tile if 0 < schedule.free_tile < self.width and narrow else 0
        self.level = graph_level(graph, set(stage.region))
        self.pack = 1
        if schedule.pack > 1 and not self.free and self._packable(schedule.pack):
            self.pack = schedule.pack
            strides = tuple((*s[:-1], s[-1] * self.pack) for s in self.nest.strides)
            self.nest = Nest((*self.nest.batch, self.nest.rows // self.pack), strides)

    def _packable(self, pack: int) -> bool:
        """Whether `pack` neighbouring rows of every operand are one run of memory."""
        graph, stage = self.context.plan.graph, self.stage
        if (
            self.nest.rows % pack
            or stage.cut_width
            or any(graph[i].op in ("where", "round", "broadcast", "scan") for i in stage.region)
            or any(self.context.plan.tensors[v.tensor].role == "index" for v in stage.leaves.values())
        ):
            return False
        if any(graph[i].op != "reduce" and graph[i].width > 1 and not self._wide(i) for i in stage.region):
            return False
        operands = [*stage.leaves.items(), *((root_key(k), v) for k, (_, v) in enumerate(stage.roots))]
        for key, view in operands:
            shape, steps = view.shape or (1,), view.strides or (1,)
            row = self.strides(key)[-1]
            if row == 0 and key in stage.leaves:
                continue
            if row != shape[-1] or (shape[-1] > 1 and steps[-1] != 1):
                return False
        return True

    def _wide(self, id: int) -> bool:
        """Whether something as wide as node `id` goes into it, so that it isn't one number a row in disguise."""
        graph = self.context.plan.graph
        return any(
            graph[i].width == graph[id].width and (i in self.stage.leaves or self._wide(i))
            for i in graph[id].inputs
            if graph[i].op != "constant"
        )

    def strides(self, key: int) -> tuple[int, ...]:
        return self.nest.strides[self.position[key]]

    def access(self, key: int, view: View) -> Access:
        shape, steps = view.shape or (1,), view.strides or (1,)
        width, step = (1, 1) if steps[-1] == 0 else (shape[-1] * self.pack, steps[-1] if shape[-1] > 1 else 1)
        return self.context.access(view, self.nest, self.strides(key), [(width, step)])


def _emit(context: KernelContext, stage: Stage, schedule: RowSchedule) -> None:
    rows = _Rows(context, stage, schedule)
    nest = rows.nest
    section = context.body
    for i, n in enumerate(nest.batch):
        section = section.block(f"for b{i} in range({n}):")
    outer = section.section()
    full, tail = ("P", nest.rows % 128 != 0) if nest.rows > 128 else (str(nest.rows), False)
    first = [i for i in sorted(stage.region) if rows.level[i] == 1]
    ahead = (
        schedule.ahead
        and nest.rows > 128
        and not rows.free
        and any(context.plan.graph[i].op == "reduce" for i in first)
    )
    if ahead:
        body = section.section()
    elif nest.rows > 128:
        body = section.block(f"for r0 in range(0, {nest.rows}, P):")
        if tail:
            body.line(f"rows = min(P, {nest.rows} - r0)")
    else:
        body = section
    count = "rows" if tail else full
    row = f"r0:r0 + {count}" if nest.rows > 128 else ":"
    statistics = "sums" if rows.free else schedule.statistics
    code = RowCode(
        context.plan, stage, context.machine, replace(schedule, statistics=statistics), context.names,
        lambda c, id: _load(rows, c, id, row), outer=outer, body=body, rows=count, full_rows=full, ragged=tail,
        pack=rows.pack,
    )  # fmt: skip
    code.shared_leaf = lambda id: nest.rows * rows.pack > 1 and rows.strides(id)[-1] == 0
    for id, target in stage.roots:
        if code.uses.get(id) == 1 and id not in stage.leaves:
            code.dtypes[id] = context.dtype(target)
    if rows.free:
        _emit_windows(rows, code, row)
    elif ahead:
        _emit_ahead(rows, code, section, row, first)
    else:
        for k, (id, target) in enumerate(stage.roots):
            store(context, code, id, rows.access(root_key(k), target), context.dtype(target), row, ":")
    context.note_sbuf(code.outer_bytes + 2 * code.loop_bytes)


def _emit_ahead(rows: _Rows, code: RowCode, section: Section, row: str, first: list[int]) -> None:
    """The first reductions of the next rows run while the current rows are finished, so that engines don't take turns."""
    context, count = rows.context, -(-rows.nest.rows // 128)
    graph = context.plan.graph
    ready = context.names.unique("ready")
    section.line(f"{ready} = []")
    loop = section.block(f"for step in range({count} + 1):")
    phases = (loop.block(f"if step < {count}:"), loop.section())
    code.body = early = phases[0]
    early.line("r0 = step * P")
    if code.ragged:
        early.line(f"rows = min(P, {rows.nest.rows} - r0)")
    for i in first:
        if graph[i].op == "reduce" or (code.is_column(i) and i not in code.roots):
            code.emit(i)
    for i in list(code.tiles):
        if code.tiles[i].column and not code.tiles[i].outer:
            code.scale_ahead(i)
    done = set(code.tiles)
    kept = [
        t.name.split("[")[0] for i, t in code.tiles.items()
        if not t.outer and (i in code.roots or any(i in graph[u].inputs and u not in done for u in code.region))
    ]  # fmt: skip
    carried = list(dict.fromkeys([*kept, *(v for k, v in code.named.items() if "*" in k)]))
    early.line(f"{ready}.append(({', '.join(carried)},))")
    code.body = late = phases[1].block("if step > 0:")
    late.line("r0 = (step - 1) * P")
    if code.ragged:
        late.line(f"rows = min(P, {rows.nest.rows} - r0)")
    late.line(f"({', '.join(carried)},) = {ready}[step - 1]")
    for k, (id, target) in enumerate(rows.stage.roots):
        store(context, code, id, rows.access(root_key(k), target), context.dtype(target), row, ":")


def _load(rows: _Rows, code: RowCode, id: int, row: str) -> None:
    """Load a leaf: rows of it for this tile, or once for all rows."""
    context, view = rows.context, rows.stage.leaves[id]
    if context.plan.tensors[view.tensor].role == "index":
        load_index(context, code, id, view, rows.nest, rows.strides(id))
        return
    if code.shared_leaf(id):
        resident = not rows.free or code.is_column(id) or view.shape[-1] * 4 <= 32 * 1024
        if resident:
            load_shared(context, code, id, view, rows.nest, rows.strides(id))
        else:
            _load_shared_window(rows, code, id)
        return
    column = code.is_column(id)
    dtype = context.dtype(view)
    tile = code.new_tile(id, dtype) if not column else Tile(code.allocate(code.stem(id), rows.pack, dtype), dtype, True)
    code.tiles[id] = tile
    window = code.windows.get(("whole", code.mode), ":") if not column else ":"
    code.put(f"nisa.dma_copy(dst={code.text(tile)}, src={rows.access(id, view).text(row, window)})")


def _load_shared_window(rows: _Rows, code: RowCode, id: int) -> None:
    """A window of a row that all partitions share and that is too long to keep."""
    view = rows.stage.leaves[id]
    tile = code.new_tile(id, rows.context.dtype(view))
    parts = [str(view.offset)] if view.offset else []
    parts += [f"b{i} * {s}" for i, s in enumerate(rows.strides(id)[:-1]) if s and rows.nest.sizes[i] > 1]
    parts.append("c0" if view.strides[-1] == 1 else f"c0 * {view.strides[-1]}")
    name = rows.context.tensor_names[view.tensor]
    code.put(
        f"nisa.dma_copy(dst={code.text(tile)}, src={name}.ap(pattern=[[0, {code.rows}], [{view.strides[-1]}, "
        f"{code.widths['chunk']}]], offset={' + '.join(parts)}))"
    )


def _emit_windows(rows: _Rows, code: RowCode, row: str) -> None:
    """Several passes over windows of columns: one per level of reductions, then one that stores."""
    width, free = rows.width, rows.free
    ragged = width % free != 0
    cols = "cols" if ragged else str(free)
    body = code.body
    code.window_width, code.window_size = width, free
    code.windows = {("whole", "chunk"): f"c0:c0 + {cols}"}
    code.widths = {"chunk": cols}
    graph, region = rows.context.plan.graph, set(rows.stage.region)
    levels = max((rows.level[i] for i in region), default=0)
    pieces = -(-width // free)
    for level in range(1, levels + 1):
        code.allowed = lambda i, level=level: rows.level[i] <= level  # type: ignore[misc]
        _columns_below(rows, code, level)
        wanted = [
            i for i in sorted(region)
            if graph[i].op == "reduce" and rows.level[i] == level and i not in code.tiles and not code.is_column(graph[i].inputs[0])
        ]  # fmt: skip
        if not wanted:
            continue
        parts = {}
        for i in wanted:
            parts[i] = code.allocate(f"{code.stem(i)}_parts", pieces, "float32")
        window = _window(body, width, free, ragged)
        code.partial = {i: (f"{name}[:, c0 // {free}:c0 // {free} + 1]", name) for i, name in parts.items()}
        _in_window(code, window, wanted)
        code.partial = {}
        for i, name in parts.items():
            tile = code.new_tile(i)
            code.put(f"nisa.tensor_reduce(dst={code.text(tile)}, op=nl.{graph[i].attrs['kind']}, data={name}, axis=1)")
    code.allowed = lambda i: True
    _columns_below(rows, code, levels + 1)
    stored = list(enumerate(rows.stage.roots))
    narrow = [(k, r) for k, r in stored if r[1].shape[-1:] in ((), (1,))]
    wide = [(k, r) for k, r in stored if (k, r) not in narrow]
    for k, (id, target) in narrow:
        store(rows.context, code, id, rows.access(root_key(k), target), rows.context.dtype(target), row, ":")
    if wide:
        window = _window(body, width, free, ragged)
        code.body, code.mode = window, "chunk"
        for k, (id, target) in wide:
            where = rows.access(root_key(k), target)
            store(rows.context, code, id, where, rows.context.dtype(target), row, code.windows["whole", "chunk"])
        code.body, code.mode = body, "whole"


def _window(body: Section, width: int, free: int, ragged: bool) -> Section:
    window = body.block(f"for c0 in range(0, {width}, {free}):")
    if ragged:
        window.line(f"cols = min({free}, {width} - c0)")
    return window


def _in_window(code: RowCode, window: Section, wanted: list[int]) -> None:
    """Emit reductions inside a window and forget the window's tiles again."""
    before, body = dict(code.tiles), code.body
    code.body, code.mode = window, "chunk"
    for i in wanted:
        code.emit(i)
    code.body, code.mode = body, "whole"
    kept = {
        i: t
        for i, t in code.tiles.items()
        if i in before or t.outer or (t.column and t.extent == "whole" and i not in wanted)
    }
    code.tiles = {i: t for i, t in kept.items() if i in before or t.outer}
    code.summed.clear()
    code.forget_names()


def _columns_below(rows: _Rows, code: RowCode, level: int) -> None:
    """Compute the per-row numbers that the next pass needs, outside its window loop."""
    for i in rows.stage.region:
        if code.is_column(i) and rows.level[i] < level and i not in code.tiles:
            node = rows.context.plan.graph[i]
            if node.op != "reduce" or code.is_column(node.inputs[0]):
                code.emit(i)
    for i in rows.stage.leaves:
        if code.is_column(i) and i not in code.tiles:
            code.emit(i)


def emit_transpose(context: KernelContext, stage: Stage) -> None:
    """Move a tensor whose rows lie across memory: load along memory, transpose 128x128 blocks on the Tensor Engine, store."""
    (_, target), source = stage.roots[0], next(iter(stage.leaves.values()))
    dtype, out_dtype = context.dtype(source), context.dtype(target)
    lead = list(stage.lead)
    axis = max(i for i, s in enumerate(source.strides[:-1]) if s == 1)
    rest = [i for i in range(len(lead)) if i != axis]
    order = [*rest, len(lead), axis]
    along = source.transpose(order)  # [rest..., rows of memory, contiguous axis]
    back = target.transpose([*rest, axis, len(lead)])  # [rest..., contiguous axis, rows of memory]
    nest = Nest((*(lead[i] for i in rest), 1), ())
    section = context.body
    for i, n in enumerate(nest.batch):
        if n > 1:
            section = section.block(f"for b{i} in range({n}):")
    n_in, n_out = along.shape[-2], along.shape[-1]
    src = context.access(
        along, nest, (*along.strides[:-2], 0), [(n_in, along.strides[-2]), (n_out, 1)], with_rows=False
    )
    dst = context.access(back, nest, (*back.strides[:-2], 0), [(n_out, back.strides[-2]), (n_in, 1)], with_rows=False)
    names, size = context.names, itemsize(dtype)
    strips, strip, flipped, turned = (names.unique(n) for n in ("strips", "strip", "flipped", "turned"))
    wide = min(-(-n_out // 128), max(1, 16 * 1024 // (128 * size))) * 128
    tall = min(-(-n_in // 128), max(1, min(16, 64 * 1024 // (wide * size)))) * 128
    bank = 2048 // size
    cols = section.block(f"for c0 in range(0, {n_out}, {wide}):")
    cols.line(f"cols = min({wide}, {n_out} - c0)")
    body = cols.block(f"for m0 in range(0, {n_in}, {tall}):")
    body.line(f"count = min({tall}, {n_in} - m0)")
    body.line(f"{strips} = []")
    loads = body.block("for r0 in range(0, count, P):")
    loads.line("rows = min(P, count - r0)")
    loads.line(f"{strip} = nl.ndarray((rows, cols), dtype=nl.{dtype}, buffer=nl.sbuf)")
    loads.line(f"nisa.dma_copy(dst={strip}, src={src.at('m0 + r0:m0 + r0 + rows', 'c0:c0 + cols')})")
    loads.line(f"{strips}.append({strip})")
    inner = body.block("for k0 in range(0, cols, P):")
    inner.line("kr = min(P, cols - k0)")
    inner.line(f"{turned} = nl.ndarray((kr, count), dtype=nl.{out_dtype}, buffer=nl.sbuf)")
    banks = inner.block(f"for n0 in range(0, count, {bank}):  # one PSUM bank")
    banks.line(f"nw = min({bank}, count - n0)")
    banks.line(f"{flipped} = nl.ndarray((kr, nw), dtype=nl.{dtype}, buffer=nl.psum)")
    blocks = banks.block("for r0 in range(0, nw, P):")
    blocks.line("rows = min(P, nw - r0)")
    blocks.line(f"nisa.nc_transpose(dst={flipped}[:, r0:r0 + rows], data={strips}[(n0 + r0) // P][:, k0:k0 + kr])")
    place = f"{turned}[:, n0:n0 + nw]"
    even, odd = banks.block("if (k0 // P) % 2 == 0:"), banks.block("else:")
    even.line(copy_line(place, flipped, "vector", context.machine))
    odd.line(copy_line(place, flipped, "scalar", context.machine))
    inner.line(f"nisa.dma_copy(dst={dst.at('c0 + k0:c0 + k0 + kr', 'm0:m0 + count')}, src={turned})")
    context.note_sbuf(2 * (tall // 128 * wide + tall) * size)


__all__ = ["emit_rows", "emit_transpose", "flattened", "lead_strides"]
