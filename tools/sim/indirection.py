"""Tensor indirection of NeuronCore-v4: views of the columns of a tile that an index tile in SBUF picks.

`tile.indirect(index, num_elem)` is such a view; the instruction that uses it gathers its inputs and scatters its result.
Offset i is `index[i % G, i // G]`, G being 16 partitions for the Vector, Scalar and GpSimd Engines and 32 for the Tensor
Engine (language reference, `NkiTensor.indirect`). That names the index tile's first group of partitions only; where
another group holds other offsets, a warning says that the documents leave open which of them counts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from tools.sim import context
from tools.sim.instruction import Engine
from tools.sim.memory import Buffer
from tools.sim.tensor import Indirect, Tensor

_LARGEST_GROUP = 32
_OPERANDS: dict[str, tuple[str, ...]] = {
    "tensor_copy": ("dst", "src"),
    "tensor_copy_predicated": ("dst", "predicate"),
    "tensor_tensor": ("dst", "data1"),
    "tensor_scalar": ("dst", "data"),
    "tensor_reduce": ("dst", "data"),
    "tensor_scalar_reduce": ("dst", "data"),
    "tensor_scalar_cumulative": ("dst", "src"),
    "activation": ("dst", "data"),
    "activation_reduce": ("dst", "data"),
    "activate2": ("dst", "data"),
    "exponential": ("dst", "src"),
    "nc_matmul": ("dst", "stationary", "moving"),
}
"""Operands that may be indirect, by instruction (ISA reference, "Tensor indirection" of each)."""


def group_of(engine: Engine) -> int:
    """Partitions over which one list of offsets is spread, for an engine."""
    return _LARGEST_GROUP if engine is Engine.TENSOR else 16


class IndirectTensor(Tensor):
    """The columns `index` of the 2-D tile `base`, shape [P, count]; it can be used as an operand and not viewed further."""

    __slots__ = ("base", "index")

    def __init__(self, base: Tensor, index: Tensor, count: int) -> None:
        super().__init__(
            base.buffer, (base.shape[0], count), base.dtype, base.offset, (base.strides[0], 1), Indirect(index, 1, 1)
        )
        self.base = base
        self.index = index
        self._region = base.region()

    def columns(self, group: int) -> NDArray[np.int64]:
        """Positions of the columns, int64 [count]; stops the kernel where they lie outside the tile."""
        count, (partitions, width) = self.shape[1], self.index.shape
        held = group * width if partitions >= group else min(partitions, group)
        if count > held:
            context.fail(
                "KW-GATHER-COUNT",
                f"indirect: {count} columns, but a group of {group} partitions of the index tile "
                f"[{partitions}, {width}] holds {held} offsets",
                operand="num_elem",
                found=count,
                limit=held,
                fix="pass num_elem, or make the index tile wider",
            )
        order = np.arange(count)
        used = self.index[0 : min(group, partitions), 0 : -(-count // group)]
        found: NDArray[np.int64] = used.read().astype(np.int64)[order % group, order // group]
        low, high = int(found.min()), int(found.max())
        if low < 0 or high >= self.base.shape[1]:
            bad = low if low < 0 else high
            context.fail(
                "KW-INDEX-BOUNDS",
                f"indirect: offset {bad} is outside the {self.base.shape[1]} columns of {self.base!r}",
                operand="index",
                found=bad,
                limit=self.base.shape[1] - 1,
                fix="keep offsets inside the tile",
            )
        self._compare_groups(found, group, order)
        return found

    def _compare_groups(self, found: NDArray[np.int64], group: int, order: NDArray[np.int64]) -> None:
        for start in range(group, self.index.shape[0] - group + 1, group):
            other = self.index[start : start + group, 0 : -(-len(order) // group)]
            if other.buffer.pending and other.buffer.unwritten_in(other) is not None:
                continue
            if not np.array_equal(other.view().astype(np.int64)[order % group, order // group], found):
                context.warn(
                    "KW-INDIRECT-GROUPS",
                    f"indirect: partitions {start} to {start + group} of the index tile hold other offsets than the first "
                    f"{group}, which are used",
                    operand="index",
                    found=start,
                    limit="the same offsets in each group",
                    fix="write the same offsets to every group of partitions",
                )
                return

    def _no_view(self, *_: Any, **__: Any) -> NoReturn:
        context.fail(
            "KW-INDIRECT-SLICE",
            "an indirect view can't be viewed further",
            operand=self.name,
            fix="slice the tile, or the index, before calling indirect",
        )

    def read(self) -> NoReturn:
        """Elements are known only to the instruction that uses the view: it works on a gathered copy (`Settled`)."""
        context.unsupported(f"reading {self!r} outside an instruction that takes indirect views")

    def write(self, values: Any) -> NoReturn:
        """As for `read`."""
        context.unsupported(f"writing {self!r} outside an instruction that takes indirect views")

    __getitem__ = view = _no_view
    ap = slice = select = permute = broadcast = broadcast_to = expand_dim = squeeze_dim = reshape_dim = _no_view
    flatten_dims = reshape = rearrange = reinterpret_cast = indirect = vector_select = _no_view


def operand_rules(value: IndirectTensor, name: str, api: str) -> None:
    """Refuse an indirect view where the instruction takes none."""
    allowed = _OPERANDS.get(api, ())
    if name not in allowed:
        context.fail(
            "KW-INDIRECT-OPERAND",
            f"{api}: {name} is an indirect view"
            + (f"; only {', '.join(allowed)} may be" if allowed else "; this instruction takes none"),
            operand=name,
            limit=", ".join(allowed) or "none",
            fix="gather it first with tensor_copy(tile, view.indirect(index))",
        )
    index, base = value.index.buffer, value.base.buffer
    if index.address is None or base.address is None:
        return
    first = index.address[0] + value.index.start_partition
    start = base.address[0] + value.base.start_partition
    if first % 32 or (name != "dst" and first != start):
        context.fail(
            "KW-START-PARTITION",
            f"{api}: the index of {name} starts at partition {first}, {name} at {start}",
            operand=name,
            found=first,
            limit="a multiple of 32, where the operand starts",
            fix="place the index tile at the operand's first partition, a multiple of 32",
        )


def engine_rules(op: str, engine: Engine, outs: Sequence[Tensor]) -> None:
    """Refuse an engine that doesn't carry out this instruction with indirect views."""
    if engine is Engine.GPSIMD and op == "tensor_copy":
        context.fail(
            "KW-ENGINE",
            "tensor_copy with an indirect view runs on the Vector or Scalar Engine",
            operand="engine",
            found="gpsimd",
            limit="vector, scalar",
            fix="leave engine out, or name nisa.vector_engine",
        )
    if engine is Engine.SCALAR and any(isinstance(t, IndirectTensor) and t.space == "psum" for t in outs):
        context.fail(
            "KW-PLACEMENT",
            f"{op}: on the Scalar Engine an indirect dst can't be in PSUM",
            operand="dst",
            found="psum",
            limit="sbuf",
            fix="scatter into SBUF, or use the Vector Engine where the instruction has it",
        )


class Settled:
    """An instruction's operands with every indirect view replaced by a plain tile.

    Attributes:
        outs, ins, params: what the meaning works on.
    """

    def __init__(
        self, group: int, outs: tuple[Tensor, ...], ins: tuple[Tensor, ...], params: dict[str, Any] | None
    ) -> None:
        self._scatters: list[tuple[IndirectTensor, NDArray[np.int64], Tensor]] = []
        plain: dict[int, Tensor] = {}
        for tensor in ins:
            if isinstance(tensor, IndirectTensor):
                plain[id(tensor)] = _gathered(tensor, tensor.columns(group), checked=True)
        for tensor in outs:
            if isinstance(tensor, IndirectTensor):
                columns = tensor.columns(group)
                made = plain[id(tensor)] = _gathered(tensor, columns, checked=False)
                self._scatters.append((tensor, columns, made))
        self.outs = tuple(plain.get(id(t), t) for t in outs)
        self.ins = tuple(plain.get(id(t), t) for t in ins)
        self.params = {name: plain.get(id(v), v) for name, v in (params or {}).items()}

    def carry_out(self, meaning: Callable[..., None]) -> None:
        """Do what the instruction means, then put scattered results where they belong."""
        meaning(self.outs, self.ins, **self.params)
        for target, columns, made in self._scatters:
            base = target.base
            base.view()[:, columns] = made.view()
            for column in sorted(set(columns.tolist())):
                base[:, column : column + 1].wrote()


def _gathered(tensor: IndirectTensor, columns: NDArray[np.int64], checked: bool) -> Tensor:
    """A plain tile with the view's elements; `checked` asks for elements that were written."""
    base = tensor.base
    home = base.buffer
    distinct = [base[:, c : c + 1] for c in sorted(set(columns.tolist()))] if home.pending else []
    if checked:
        for column in distinct:
            column.read()
    held = Buffer(
        home.id, home.space, home.name, tensor.shape, tensor.dtype, tensor.shape[0],
        tensor.shape[1] * tensor.dtype.itemsize, line=home.line, core=home.core, storage=home.storage,
    )  # fmt: skip
    held.allocate()
    held.pending = not checked and any(home.unwritten_in(column) is not None for column in distinct)
    made = Tensor(held, tensor.shape, tensor.dtype, 0, (tensor.shape[1], 1))
    made.view()[...] = base.view()[:, columns]
    return made


def make(base: Tensor, index: Tensor, count: int | None) -> IndirectTensor:
    """The view `base.indirect(index, count)`.

    Args:
        base: 2-D tile [P, F].
        index: SBUF integers [P, K].
        count: columns; all of `index` by default.

    Raises:
        KernelError: the target or the operands don't fit.
    """
    core = context.current()
    machine = core.machine
    if machine.generation < 4:
        context.fail(
            "KW-GENERATION",
            f"indirect() needs NeuronCore-v4 (trn3) or later; the target is {machine.name}",
            operand="index",
            found=machine.name,
            limit="trn3",
            fix="gather with nisa.local_gather or nisa.nc_n_gather, or target trn3",
        )
    if not isinstance(index, Tensor) or index.space != "sbuf" or not index.dtype.is_integer or index.ndim != 2:
        context.fail(
            "KW-OPERAND-TYPE",
            f"indirect: index is {index!r}",
            operand="index",
            found=repr(index),
            limit="an SBUF tile of integers [P, K]",
            fix="make an integer tile with as many partitions as this one",
        )
    if not base.buffer.on_chip or base.ndim != 2 or base.shape[0] != index.shape[0] or base.strides[1] != 1:
        context.fail(
            "KW-SHAPE-MISMATCH",
            f"indirect: {base!r} with an index of {index.shape[0]} partitions; it takes a tile [P, F] without gaps whose "
            "partitions are the index's",
            operand="index",
            found=list(base.shape),
            limit=[index.shape[0], "F"],
            fix="slice both to the same partitions; flatten the free dimensions",
        )
    wanted = index.size if count is None else context.index_value(count)
    most = _LARGEST_GROUP * index.shape[1]
    if not 1 <= wanted <= most:
        context.fail(
            "KW-GATHER-COUNT",
            f"indirect: {wanted} columns; the first {_LARGEST_GROUP} partitions of index {list(index.shape)} hold {most} offsets",
            operand="num_elem",
            found=wanted,
            limit=most,
            fix="pass num_elem, at most 16 (Tensor Engine: 32) for each column of index",
        )
    core.indirection = True
    return IndirectTensor(base, index, wanted)
