"""What the emitters of one kernel share: its names, its HBM tensors and their views, its sections."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tools.generate.lower import RowCode, Tile, copy_line
from tools.generate.plan import Plan, Stage
from tools.generate.text import Names, Section
from tools.generate.views import Nest, View, contiguous, elements, merge
from tools.sim.machine import Machine


@dataclass(frozen=True, slots=True)
class Access:
    """How loops index one HBM operand: `name[batch..., rows, columns]`.

    Attributes:
        name: variable of the tensor or of a view of it.
        batch: which of the nest's outer loops it depends on.
        rows: whether it depends on the partition loop.
    """

    name: str
    batch: tuple[int, ...]
    rows: bool

    def text(self, row: str, column: str) -> str:
        """The operand for one tile."""
        return self.at(*([row] if self.rows else []), column)

    def at(self, *parts: str) -> str:
        """The operand at explicit indices behind the outer loops'."""
        index = [f"b{i}" for i in self.batch] + list(parts)
        return self.name if all(part == ":" for part in index) else f"{self.name}[{', '.join(index)}]"


class KernelContext:
    """One kernel under construction."""

    def __init__(self, plan: Plan, machine: Machine) -> None:
        self.plan = plan
        self.machine = machine
        self.names = Names()
        self.tensor_names: dict[int, str] = {}
        self.setup = Section(1)
        self.body = Section(1)
        self._views: dict[tuple[int, tuple[int, ...], tuple[int, ...], int], str] = {}
        self.sbuf_bytes = 0
        """Largest estimate of SBUF bytes a partition over the stages."""
        for node in plan.graph.inputs:
            self.tensor_names[node.id] = self.names.unique(node.name)
        for key, tensor in plan.tensors.items():
            if tensor.role in ("input", "index"):
                continue
            name = self.tensor_names[key] = self.names.unique(tensor.name)
            space = "shared_hbm" if tensor.role == "output" else "private_hbm"
            self.setup.line(
                f"{name} = nl.ndarray({shape_text(tensor.shape)}, dtype=nl.{tensor.dtype}, buffer=nl.{space})"
            )

    def dtype(self, view: View) -> str:
        """Storage type of the tensor that `view` looks at."""
        return self.plan.tensors[view.tensor].dtype

    def nest(self, stage: Stage, *, last_is_rows: bool) -> tuple[Nest, dict[int, int]]:
        """The loop nest of a stage, and which of its operands each leaf (by node) and root (by -position - 10**9) is."""
        operands: list[tuple[int, ...]] = []
        position: dict[int, int] = {}
        for id, view in stage.leaves.items():
            position[id] = len(operands)
            operands.append(lead_strides(view, stage.lead, weights=id < 0))
        for k, (_, target) in enumerate(stage.roots):
            position[root_key(k)] = len(operands)
            operands.append(lead_strides(target, stage.lead))
        return merge(stage.lead, operands, last_is_rows), position

    def access(
        self,
        view: View,
        nest: Nest,
        strides: Sequence[int],
        tail: Sequence[tuple[int, int]],
        *,
        with_rows: bool = True,
    ) -> Access:
        """Name a view of HBM for the loops of a nest.

        Args:
            view: gives tensor and offset.
            strides: step of each loop in elements.
            tail: (size, step) of the axes behind the loops, the last being the free axis of tiles.
            with_rows: whether the partition loop indexes it (weights have axes of their own instead).
        """
        varying = [i for i, s in enumerate(strides) if s != 0 and nest.sizes[i] > 1]
        shape = [nest.sizes[i] for i in varying] + [n for n, _ in tail]
        steps = [strides[i] for i in varying] + [s for _, s in tail]
        rows = bool(varying) and varying[-1] == len(nest.sizes) - 1
        if not rows and nest.rows == 1 and with_rows:
            shape.insert(len(varying), 1)
            steps.insert(len(varying), 0)
            rows = True
        batch = tuple(i for i in varying if i < len(nest.sizes) - 1)
        return Access(self.name_view(view.tensor, tuple(shape), tuple(steps), view.offset), batch, rows)

    def name_view(self, tensor: int, shape: tuple[int, ...], steps: tuple[int, ...], offset: int) -> str:
        """A variable holding the tensor seen under `shape`, defining it on first use."""
        base = self.tensor_names[tensor]
        whole = self.plan.tensors[tensor].shape
        plain = all(n == 1 or a == b for n, a, b in zip(shape, steps, contiguous(shape)))
        if plain and offset == 0 and elements(shape) == elements(whole):
            if shape == whole:
                return base
            definition = f"{base}.reshape({shape_text(shape)})"
        else:
            pattern = ", ".join(f"[{s}, {n}]" for s, n in zip(steps, shape))
            definition = f"{base}.ap(pattern=[{pattern}], offset={offset})"
        key = (tensor, shape, steps, offset)
        known = self._views.get(key)
        if known is None:
            known = self._views[key] = self.names.unique(f"{base}_view")
            self.setup.line(f"{known} = {definition}")
        return known

    def note_sbuf(self, nbytes: int) -> None:
        """Remember the largest estimate of SBUF use."""
        self.sbuf_bytes = max(self.sbuf_bytes, nbytes)


def root_key(position: int) -> int:
    """Key of a stage's root among its operands."""
    return -(10**9) - position


def lead_strides(view: View, lead: tuple[int, ...], weights: bool = False) -> tuple[int, ...]:
    """Steps of a view along a stage's leading axes; a matmul's right operand doesn't depend on the rows."""
    if weights:
        grown = view.broadcast((*lead[:-1], *view.shape[-2:]))
        return (*grown.strides[: len(lead) - 1], 0)
    shape = view.shape or (1,)
    return view.broadcast((*lead, shape[-1])).strides[:-1]


def shape_text(shape: Sequence[int]) -> str:
    """A shape as Python source."""
    return f"({', '.join(map(str, shape))}{',' if len(shape) == 1 else ''})"


def store(context: KernelContext, code: RowCode, id: int, access: Access, dtype: str, row: str, column: str) -> None:
    """Emit the store of node `id`, casting when its tile has another type than the tensor."""
    node = context.plan.graph[id]
    if code.constant(id) is not None:
        tile = code.new_tile(id, dtype)
        code.put(f"nisa.memset(dst={code.text(tile)}, value={code.operand(id).text})")
    else:
        code.emit(id)
        tile = code.tiles[id]
    text = code.text(tile)
    if tile.column and node.width > 1:
        wide = code.allocate(f"{tile.name}_wide", code._shape_width(node), dtype)
        code.put(f"nisa.tensor_copy(dst={wide}, src={code.spread(id, node, False)})")
        text = wide
    elif tile.dtype != dtype:
        cast = code.allocate(f"{code.stem(id)}_cast", code.pack if tile.column else code._shape_width(node), dtype)
        engine = code.balance.pick(code.width(id), {"vector": 1.0, "scalar": 1.0})
        code.put(copy_line(cast, text, engine, code.machine))
        code.loop_bytes += 4 * code.width(id)
        text = cast
    code.put(f"nisa.dma_copy(dst={access.text(row, column)}, src={text})")


def load_index(context: KernelContext, code: RowCode, id: int, view: View, nest: Nest, strides: Sequence[int]) -> None:
    """Count out the places of elements instead of loading them: steps along partitions and columns, and where the tile starts."""
    column, step = code.is_column(id), view.strides[-1] if view.strides else 0
    shared = code.shared_leaf(id) and (code.mode == "whole" or column or view.shape[-1] <= 8192)
    starts = [str(view.offset)] if view.offset else []
    starts += [f"b{i}{_times(s)}" for i, s in enumerate(strides[:-1]) if s and nest.sizes[i] > 1]
    if strides[-1] and nest.rows > 128:
        starts.append(f"r0{_times(strides[-1])}")
    if shared:
        width = 1 if column else view.shape[-1]
        name = code.names.unique(code.stem(id))
        code.outer.line(f"{name} = nl.ndarray(({code.full_rows}, {width}), dtype=nl.float32, buffer=nl.sbuf)")
        code.outer.line(f"nisa.iota(dst={name}, pattern=[[{step}, {width}]], offset={' + '.join(starts) or 0})")
        code.outer_bytes += width * 4
        code.tiles[id] = Tile(name, "float32", column, outer=True)
        return
    if column:
        tile = code.tiles[id] = Tile(code.allocate(code.stem(id), 1, "float32"), "float32", True)
        width_text: int | str = 1
    else:
        tile = code.new_tile(id, "float32")
        width_text = code.width_text(id)
        begin = code.windows.get(("whole", tile.extent), "").partition(":")[0]
        if begin:
            starts.append(f"{f'({begin})' if '+' in begin else begin}{_times(step)}")
    code.put(
        f"nisa.iota(dst={code.text(tile)}, pattern=[[{step}, {width_text}]], offset={' + '.join(starts) or 0}, "
        f"channel_multiplier={strides[-1]})"
    )


def _times(factor: int) -> str:
    return "" if factor == 1 else f" * {factor}"


def load_shared(context: KernelContext, code: RowCode, id: int, view: View, nest: Nest, strides: Sequence[int]) -> None:
    """Load a leaf that is the same for all rows: once, repeated over the partitions by the DMA's access pattern."""
    width = view.shape[-1] if view.shape else 1
    column = code.is_column(id)
    width = 1 if column else width
    step = view.strides[-1] if view.strides else 1
    name = code.names.unique(code.stem(id) + "_row" if not column else code.stem(id))
    dtype = context.dtype(view)
    offset = " + ".join(
        ([str(view.offset)] if view.offset else [])
        + [f"b{i} * {s}" for i, s in enumerate(strides[:-1]) if s and nest.sizes[i] > 1]
    )
    extra = f", offset={offset}" if offset else ""
    code.outer.line(f"{name} = nl.ndarray(({code.full_rows}, {width}), dtype=nl.{dtype}, buffer=nl.sbuf)")
    code.outer.line(
        f"nisa.dma_copy(dst={name}, src={context.tensor_names[view.tensor]}.ap(pattern=[[0, {code.full_rows}], "
        f"[{step}, {width}]]{extra}))"
    )
    code.outer_bytes += width * 4
    if code.schedule.shared == "psum" and not column and code.psum_columns + width <= 4096 and not code.stage.matmuls:
        near = code.names.unique(f"{name}_psum")
        code.outer.line(f"{near} = nl.ndarray(({code.full_rows}, {width}), dtype=nl.float32, buffer=nl.psum)")
        code.outer.line(f"nisa.tensor_copy(dst={near}, src={name})")
        code.psum_columns += -(-width // 512) * 512
        code.tiles[id] = Tile(near, "float32", False, outer=True, psum=True)
        return
    code.tiles[id] = Tile(name, dtype, column, outer=True)
