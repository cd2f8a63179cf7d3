"""Cuts an operator graph into stages, each of which one loop nest computes without going back to HBM.

A stage is row-local: every value it makes for a row depends only on that row (and on matmul weights). What it reads are
views of inputs or of tensors that earlier stages wrote.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from tools.generate.builder import Builder
from tools.generate.errors import BeyondOffline
from tools.generate.graph import ELEMENTWISE, Graph, Node
from tools.generate.views import View

VIEW_OPS = ("reshape", "transpose", "slice", "broadcast")
MAX_ANCHORS = 3


@dataclass(frozen=True, slots=True)
class HbmTensor:
    """A tensor in HBM: an argument, a result or scratch."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    role: Literal["input", "output", "scratch", "index"]
    """`index`: no memory at all; its elements are their own places, which engines count out."""


@dataclass(slots=True)
class Stage:
    """One loop nest.

    Attributes:
        kind: `rows`, `matmul`, or `transpose` (moves data only).
        roots: (node, where its value goes).
        lead: leading axes that the nest walks (for a matmul: batch axes and rows).
        region: element-wise and reduce nodes computed here, in graph order.
        leaves: nodes read from HBM, and how they lie there.
        matmuls: matmul nodes computed here; all have the same left operand.
        cut_width: row length when element-wise work was re-cut into other rows; 0: the graph's own.
    """

    kind: Literal["rows", "matmul", "transpose"]
    roots: list[tuple[int, View]]
    lead: tuple[int, ...]
    region: list[int] = field(default_factory=list)
    leaves: dict[int, View] = field(default_factory=dict)
    matmuls: list[int] = field(default_factory=list)
    cut_width: int = 0


@dataclass(slots=True)
class Plan:
    """Stages in order, and the tensors they read and write."""

    graph: Graph
    stages: list[Stage]
    tensors: dict[int, HbmTensor]
    outputs: list[int]
    """Tensor keys of the results, in order."""
    matmul_dtype: dict[int, str]


def defer_row_scales(graph: Graph) -> Graph:
    """Move per-row factors of a matmul's left operand behind the matmul: (x * s) @ w = (x @ w) * s."""
    b = Builder()
    new: dict[int, int] = {}
    for node in graph:
        new[node.id] = _replay(b, node, [new[i] for i in node.inputs])
        if node.op == "matmul":
            left, right = new[node.inputs[0]], new[node.inputs[1]]
            constant, found = b.factors(left)
            scales = [f for f in found if b.nodes[f].width == 1 and b.nodes[left].width > 1]
            rest = [f for f in found if f not in scales]
            if scales and rest and b.nodes[rest[0]].op != "constant":
                product = rest[0]
                for f in rest[1:]:
                    product = b.elementwise("multiply", product, f)
                if b.nodes[product].shape == b.nodes[left].shape:
                    result = b.matmul(product, right)
                    for s in scales:
                        result = b.elementwise("multiply", result, s)
                    new[node.id] = b.scaled(result, constant)
    names = {new[n.id]: n.name for n in graph if n.name}
    return b.finish([new[i] for i in graph.outputs], graph.returns_tuple, names)


def _replay(b: Builder, node: Node, inputs: list[int]) -> int:
    if node.op == "input":
        return b.input(int(node.attrs["index"]), node.name, node.shape, node.dtype)
    if node.op == "constant":
        return b.constant(float(node.attrs["value"]), node.shape)
    if node.op == "iota":
        return b.iota(node.shape, int(node.attrs["axis"]))
    if node.op == "scan":
        return b.scan(str(node.attrs["kind"]), inputs[0], -1)
    if node.op == "reduce":
        return b.reduce(str(node.attrs["kind"]), inputs[0], [-1], True)
    if node.op == "matmul":
        return b.matmul(*inputs)
    if node.op == "transpose":
        return b.transpose(inputs[0], node.attrs["order"])
    if node.op == "reshape":
        return b.reshape(inputs[0], node.shape)
    if node.op == "broadcast":
        return b.broadcast(inputs[0], node.shape)
    if node.op == "slice":
        return b.slice(inputs[0], node.attrs["starts"], node.attrs["stops"], node.attrs["steps"])
    if node.op == "concat":
        return b.concat(inputs, int(node.attrs["axis"]))
    return b.elementwise(node.op, *inputs)


def make_plan(
    graph: Graph, output_dtypes: Iterable[str], precision: str = "storage", *, fuse_left: bool = True
) -> Plan:
    """Cut `graph` into stages.

    Args:
        graph: what to compute.
        output_dtypes: storage type of each result.
        precision: `storage` multiplies matrices in their own types, `fp32` in float32 only.
        fuse_left: compute left operands of matmuls in the matmul's stage; otherwise they are written to HBM first.

    Raises:
        BeyondOffline: a step has no stage that computes it.
    """
    return _Planner(graph, list(output_dtypes), precision, fuse_left).plan()


def _rows_store(target: View) -> bool:
    """Whether rows can be stored there in one run."""
    return not target.strides or target.strides[-1] == 1


class _Planner:
    def __init__(self, graph: Graph, output_dtypes: list[str], precision: str, fuse_left: bool) -> None:
        self.graph = graph
        self.precision = precision
        self.fuse_left = fuse_left
        self.users = graph.users()
        self.stages: list[Stage] = []
        self.tensors: dict[int, HbmTensor] = {}
        self.where: dict[int, View] = {}
        self.busy: set[int] = set()
        self.targets: dict[int, View] = {}
        self.output_dtypes = output_dtypes
        self.matmul_dtype = {n.id: self._matmul_dtype(n) for n in graph if n.op == "matmul"}
        for node in graph.inputs:
            self.tensors[node.id] = HbmTensor(node.name, node.shape or (1,), node.dtype, "input")
            self.where[node.id] = View.whole(node.id, node.shape)
        for node in graph:
            if node.op == "iota":
                steps = tuple(int(i == int(node.attrs["axis"])) for i in range(len(node.shape)))
                self.tensors[node.id] = HbmTensor("index", node.shape, "float32", "index")
                self.where[node.id] = View(node.id, node.shape, steps)

    def plan(self) -> Plan:
        graph = self.graph
        keys = [
            id if graph.outputs.index(id) == k and graph[id].op != "input" else -1 - k
            for k, id in enumerate(graph.outputs)
        ]
        waiting: list[tuple[int, View]] = []
        for position, (id, key) in enumerate(zip(graph.outputs, keys)):
            dtype = self.output_dtypes[min(position, len(self.output_dtypes) - 1)]
            name = graph[id].name if graph[id].op != "input" else ""
            name = f"{name}_out" if name else ("out" if len(keys) == 1 else f"out{position}")
            self.tensors[key] = HbmTensor(name, graph[id].shape or (1,), dtype, "output")
            waiting.append(self._source(id, View.whole(key, graph[id].shape)))
        self.targets = dict(reversed(waiting))
        for id, target in waiting:
            if self.where.get(id) != target:
                self.build(id, target)
                self.where.setdefault(id, target)
        return Plan(graph, self.stages, self.tensors, keys, self.matmul_dtype)

    def _source(self, id: int, target: View) -> tuple[int, View]:
        """The computed node behind a result that is only another view of it, and where its rows go then."""
        node = self.graph[id]
        if node.op in ("reshape", "transpose") and id not in self.where:
            source = self.graph[node.inputs[0]]
            if node.op == "reshape":
                moved = target.reshape(source.shape)
            else:
                order = list(node.attrs["order"])
                moved = target.transpose([order.index(i) for i in range(len(order))])
            computed = source.op not in ("input", *VIEW_OPS[2:], "concat")
            if computed and moved is not None and (_rows_store(moved) or source.op in ("reshape", "transpose")):
                found = self._source(source.id, moved)
                if _rows_store(found[1]):
                    return found
        return id, target

    def _matmul_dtype(self, node: Node) -> str:
        types = {self.graph[i].dtype for i in node.inputs if self.graph[i].dtype}
        if self.precision == "fp32" or not types or not all(t in ("bfloat16", "float16") for t in types):
            return (
                types.pop()
                if len(types) == 1 and next(iter(types)).startswith("float8") and self.precision != "fp32"
                else "float32"
            )
        return types.pop() if len(types) == 1 else "bfloat16"

    # -- where values lie --------------------------------------------------------------------------------------------

    def view(self, id: int) -> View:
        """A view of node `id` in HBM, writing it there first if no earlier stage has."""
        found = self.where.get(id)
        if found is not None:
            return found
        found = self._derived(id)
        if found is None:
            found = self.materialise(id)
        self.where[id] = found
        return found

    def _derived(self, id: int) -> View | None:
        """The view that a chain of reshapes, transposes, slices and broadcasts makes of something in HBM."""
        node = self.graph[id]
        if node.op not in VIEW_OPS:
            return None
        source = self.view(node.inputs[0])
        if node.op == "transpose":
            return source.transpose(node.attrs["order"])
        if node.op == "slice":
            return source.slice(node.attrs["starts"], node.attrs["stops"], node.attrs["steps"])
        if node.op == "broadcast":
            return source.broadcast(node.shape)
        moved = source.reshape(node.shape)
        if moved is None:
            moved = self.materialise(node.inputs[0]).reshape(node.shape)
        return moved

    def materialise(self, id: int) -> View:
        """Write node `id` to a tensor of its own."""
        node = self.graph[id]
        if id not in self.tensors or self.tensors[id].role in ("input", "index"):
            key = id if id not in self.tensors else -1000 - id
            self.tensors[key] = HbmTensor(
                f"{node.name or node.op}_hbm", node.shape or (1,), self._scratch_dtype(id), "scratch"
            )
        else:
            key = id
        view = View.whole(key, node.shape)
        self.build(id, view)
        self.where[id] = view
        return view

    def _scratch_dtype(self, id: int) -> str:
        """float32, or the matmul's type for a value that only matmuls of one type read."""
        found: set[str] = set()
        stack = [id]
        while stack:
            for user in self.users[stack.pop()]:
                node = self.graph[user]
                if node.op in VIEW_OPS:
                    stack.append(user)
                elif node.op == "matmul":
                    found.add(self.matmul_dtype[user])
                else:
                    return "float32"
        if id in self.graph.outputs or len(found) != 1:
            return "float32"
        return found.pop()

    # -- stages ------------------------------------------------------------------------------------------------------

    def build(self, id: int, target: View) -> None:
        """Append the stages that write node `id` to `target`."""
        if id in self.busy:
            raise BeyondOffline("a value that depends on itself through several layouts")
        node = self.graph[id]
        if node.op == "concat":
            self._build_concat(node, target)
            return
        if node.op in VIEW_OPS or node.op == "input" or id in self.where:
            source = self.where.get(id) or self._derived(id)
            assert source is not None
            self._build_copy(id, source, target)
            return
        moved = self._source(id, target)
        if moved != (id, target):
            self.build(*moved)
            self.where.setdefault(*moved)
            return
        self.busy.add(id)
        stage = Stage("rows", [(id, target)], node.lead)
        anchors = self._anchors(stage, id)
        if anchors:
            stage.kind = "matmul"
            self._operands(stage, anchors)
        self._collect(stage, id, anchors)
        if anchors:
            self._columns_ahead(stage)
        else:
            self._join_outputs(stage)
        self._extra_roots(stage)
        stage.region.sort()
        self.stages.append(stage)
        self.busy.discard(id)

    def _build_concat(self, node: Node, target: View) -> None:
        axis, at = int(node.attrs["axis"]), 0
        for part in node.inputs:
            shape = self.graph[part].shape
            starts = [0] * len(shape)
            starts[axis] = at
            at += shape[axis]
            stops = [a + n for a, n in zip(starts, shape)]
            self.build(part, target.slice(starts, stops, [1] * len(shape)))

    def _build_copy(self, id: int, source: View, target: View) -> None:
        shape = self.graph[id].shape
        stage = Stage("rows", [(id, target)], shape[:-1], leaves={id: source})
        if shape and source.strides[-1] not in (0, 1) and shape[-1] > 1 and 1 in source.strides[:-1]:
            stage.kind = "transpose"
        self.stages.append(stage)

    def _anchors(self, stage: Stage, id: int) -> list[int]:
        """The matmuls that the stage computes itself: the last one, and its siblings with the same left operand."""
        found: list[int] = []
        seen: set[int] = set()
        stack = [id]
        while stack:
            i = stack.pop()
            if i in seen or (i in self.where and i != id):
                continue
            seen.add(i)
            node = self.graph[i]
            if node.op == "matmul" and node.lead == stage.lead:
                found.append(i)
            elif self._local(node) and node.op != "scan":
                stack.extend(node.inputs)
        found.sort(reverse=True)
        if not found:
            return []
        first = self.graph[found[0]]
        same = [
            i
            for i in found
            if self.graph[i].inputs[0] == first.inputs[0]
            and self.graph[i].shape == first.shape
            and self.matmul_dtype[i] == self.matmul_dtype[first.id]
        ]
        return same[:MAX_ANCHORS]

    def _local(self, node: Node) -> bool:
        """Whether a row of `node` needs only the same row of its operands."""
        return node.op in (*ELEMENTWISE, "reduce", "scan") or (node.op == "broadcast" and self._inner(node))

    def _collect(self, stage: Stage, id: int, anchors: Sequence[int] = ()) -> None:
        """Walk back from node `id`, adding nodes to the region until something in HBM is met."""
        seen: set[int] = set(stage.region) | set(stage.leaves) | set(stage.matmuls)
        stack = [id]
        while stack:
            i = stack.pop()
            if i in seen:
                continue
            seen.add(i)
            node = self.graph[i]
            if node.op == "constant":
                continue
            if i in self.where:
                stage.leaves[i] = self._readable(i)
            elif i in anchors:
                stage.matmuls.append(i)
                left = node.inputs[0]
                if left not in stage.leaves:
                    stack.append(left)
            elif self._local(node) and not (anchors and node.op == "scan"):
                stage.region.append(i)
                stack.extend(node.inputs)
            else:
                stage.leaves[i] = self._readable(i)

    def _operands(self, stage: Stage, anchors: Sequence[int]) -> None:
        """Make the operands of the stage's matmuls readable: weights, and a left side that needs a matmul itself."""
        for m in anchors:
            stage.leaves[-1 - m] = self._weights(self.graph[m].inputs[1])
        left = self.graph[anchors[0]].inputs[0]
        if self.graph[left].op == "constant":
            return
        if left in self.where and self._is_index(self.where[left]):
            self.materialise(left)
        stored = left in self.where or not self._local(self.graph[left]) or not self.fuse_left
        if stored or self._needs_matmul(left):
            stage.leaves[left] = self.view(left)

    def _columns_ahead(self, stage: Stage) -> None:
        """Compute also the per-row numbers that later stages take from this one (a softmax's sums, for instance)."""
        inside = {*stage.region, *stage.matmuls, *stage.leaves}
        heavy: set[int] = set(stage.matmuls)
        for i in sorted(stage.region):
            if any(j in heavy for j in self.graph[i].inputs):
                heavy.add(i)
        for node in self.graph.nodes:
            if node.id in inside or node.id in self.where or node.width != 1 or node.lead != stage.lead:
                continue
            known = [j in inside or self.graph[j].op == "constant" for j in node.inputs]
            if all(known) and self._local(node) and any(j in heavy for j in node.inputs):
                stage.region.append(node.id)
                inside.add(node.id)
                heavy.add(node.id)

    def _join_outputs(self, stage: Stage) -> None:
        """Compute other results in the same pass over the rows when they read the same tensors."""
        for id, target in self.targets.items():
            node = self.graph[id]
            taken = any(id == root for root, _ in stage.roots)
            if (
                taken
                or id in self.where
                or id in self.busy
                or not self._at_hand(id)
                or node.lead != stage.lead
                or not self._local(node)
                or self._needs_matmul(id)
            ):
                continue
            region, leaves = list(stage.region), dict(stage.leaves)
            self._collect(stage, id)
            if not set(stage.leaves) <= set(leaves):
                stage.region, stage.leaves = region, leaves
                continue
            stage.roots.append((id, target))
            self.where[id] = target

    def _inner(self, node: Node) -> bool:
        """Whether a broadcast only repeats along the last axis of a computed value, which operands do by themselves."""
        source = self.graph[node.inputs[0]]
        return source.op in (*ELEMENTWISE, "reduce", "scan")

    def _readable(self, id: int) -> View:
        """A view whose rows can be loaded: the last axis must not be strided across memory rows."""
        view = self.view(id)
        if view.shape and view.shape[-1] > 1 and view.strides[-1] not in (0, 1) and 1 in view.strides[:-1]:
            view = self.materialise(id)
        return view

    def _weights(self, id: int) -> View:
        node = self.graph[id]
        if node.op == "constant":
            raise BeyondOffline("a matmul by a constant matrix on the right")
        view = self.view(id)
        if self._is_index(view):
            view = self.materialise(id)
        if view.strides[-1] not in (0, 1) and view.strides[-2] not in (0, 1) and 1 not in view.shape[-2:]:
            view = self.materialise(id)
        return view

    def _is_index(self, view: View) -> bool:
        """Whether a view shows places that lie nowhere in memory."""
        return self.tensors[view.tensor].role == "index"

    def _needs_matmul(self, id: int) -> bool:
        stack, seen = [id], {id}
        while stack:
            i = stack.pop()
            node = self.graph[i]
            if i in self.where and i != id:
                continue
            if node.op == "matmul":
                return True
            for j in node.inputs:
                if j not in seen:
                    seen.add(j)
                    stack.append(j)
        return False

    def _at_hand(self, id: int) -> bool:
        """Whether node `id` can be computed from what already lies in HBM, row by row."""
        stack, seen = [id], {id}
        while stack:
            i = stack.pop()
            node = self.graph[i]
            if i in self.where or node.op == "constant" or (node.op in VIEW_OPS and self._is_view(i)):
                continue
            if not self._local(node):
                return False
            for j in node.inputs:
                if j not in seen:
                    seen.add(j)
                    stack.append(j)
        return True

    def _is_view(self, id: int) -> bool:
        """Whether node `id` is only a view of something in HBM."""
        node = self.graph[id]
        return id in self.where or (node.op in VIEW_OPS and self._is_view(node.inputs[0]))

    def _extra_roots(self, stage: Stage) -> None:
        """Store also what other stages would have to compute again: results and what depends on the matmuls."""
        inside = {*stage.region, *stage.matmuls}
        rooted = {id for id, _ in stage.roots}
        heavy: set[int] = set(stage.matmuls)
        for i in sorted(stage.region):
            if any(j in heavy for j in self.graph[i].inputs):
                heavy.add(i)
        for i in sorted(inside - rooted):
            if i in self.where:
                continue
            node = self.graph[i]
            if node.lead != stage.lead:
                continue
            target = self.targets.get(i)
            shared = i in heavy and any(u not in inside for u in self.users[i])
            if target is None and not shared:
                continue
            if target is None:
                self.tensors[i] = HbmTensor(
                    f"{node.name or node.op}_hbm", node.shape, self._scratch_dtype(i), "scratch"
                )
            view = target or View.whole(i, node.shape)
            self.where[i] = view
            stage.roots.append((i, view))
