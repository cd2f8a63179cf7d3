"""`nki.collectives` whose sizes are known at run time only: counts and displacements come from a metadata tensor.

Tensors are flat buffers of elements. What a rank doesn't receive into stays as it was.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tools.sim import context
from tools.sim.instruction import Effect, Engine, opcode
from tools.sim.isa.collectives import group_ranks, operands, require_hbm, seats_of
from tools.sim.isa.multicore import issue_at
from tools.sim.isa.operands import tensor
from tools.sim.tensor import Tensor

Array = NDArray[Any]
Route = Callable[[NDArray[np.int64], int], tuple[int, int]]
"""(the sender's metadata, position of the receiver in the group) -> count and displacement of what it is sent."""
GATHER_RANKS = 4
"""Ranks of a group that all_gather_v takes (NKI collectives reference, current limitations)."""


class Chunk(NamedTuple):
    """Elements that arrive, and where they go in the flat destination."""

    start: int
    values: Array


@opcode(
    "collective_v", Engine.SYNC, kind="dma", cost="collective", source="NKI collectives reference", effect=Effect.BEYOND
)
def COLLECTIVE_V(
    outs: tuple[Tensor, ...], ins: tuple[Tensor, ...], chunks: Sequence[Chunk], counts: Array | None
) -> None:
    """The chunks land in outs[0]; row 2 of the metadata, outs[1] if given, says how large they were."""
    flat = outs[0].reshape((outs[0].size,))
    for start, values in chunks:
        if values.size:
            flat[start : start + values.size].write(values)
    if counts is not None:
        outs[1].write(counts.reshape(outs[1].shape))


def all_gather_v(
    srcs: Any,
    dsts: Any,
    replica_group: Any,
    metadata_tensor: Any,
    recv_counts_known: bool = False,
    has_rdispls: bool = False,
    priority: Any = None,
    name: str | None = None,
) -> None:
    """Every rank's chunk of src lands in every rank's dst, each in its own of equal slots; four ranks of two cores each.

    Args:
        srcs, dsts: one HBM tensor each.
        metadata_tensor: uint32 [3, ranks] in HBM or [1, 3, ranks] in SBUF: element count and displacement of the chunk
            (first column), counts received (written unless recv_counts_known).
        recv_counts_known: leave the received counts alone.
        has_rdispls: refused, as documented.
    """
    api = "all_gather_v"
    ranks = group_ranks(replica_group, api)
    cores = context.current().launch.cores
    if has_rdispls:
        _refuse(api, "has_rdispls", True, False, "has_rdispls=True isn't supported", "let the slots be equally spaced")
    if len(ranks) != GATHER_RANKS:
        _refuse(
            api, "replica_group", len(ranks), GATHER_RANKS, f"a group of {len(ranks)} ranks", "use groups of 4 ranks"
        )
    if cores != 2:
        _refuse(api, "replica_group", cores, 2, f"ranks of {cores} core", "launch it as kernel[2](...)")

    def route(metadata: NDArray[np.int64], receiver: int) -> tuple[int, int]:
        return int(metadata[0, 0]), int(metadata[1, 0])

    _exchange(api, ranks, srcs, dsts, metadata_tensor, recv_counts_known, False, 1, route)


def all_to_all_v(
    srcs: Any,
    dsts: Any,
    replica_group: Any,
    metadata_tensor: Any,
    recv_counts_known: bool = False,
    has_rdispls: bool = False,
    priority: Any = None,
    name: str | None = None,
) -> None:
    """Each rank sends each rank a chunk of its own; trn3 takes it on two cores only, and alone has has_rdispls.

    Args:
        srcs, dsts: one HBM tensor each.
        metadata_tensor: uint32 [3 or 4, ranks] in HBM or [1, 3 or 4, ranks] in SBUF: counts and displacements to send by
            rank, counts received (written unless recv_counts_known), and with has_rdispls where in dst to put them.
        recv_counts_known: leave the received counts alone.
        has_rdispls: row 3 says where chunks land; else dst has equal slots.
    """
    api = "all_to_all_v"
    ranks = group_ranks(replica_group, api)
    launch = context.current().launch
    switched = launch.machine.generation >= 4
    if has_rdispls and not switched:
        _refuse(
            api, "has_rdispls", launch.machine.name, "trn3", "has_rdispls=True before trn3", "let dst have equal slots"
        )
    if switched and launch.cores != 2:
        _refuse(api, "replica_group", launch.cores, 2, f"ranks of {launch.cores} core", "launch it as kernel[2](...)")

    def route(metadata: NDArray[np.int64], receiver: int) -> tuple[int, int]:
        return int(metadata[0, receiver]), int(metadata[1, receiver])

    _exchange(api, ranks, srcs, dsts, metadata_tensor, recv_counts_known, bool(has_rdispls), len(ranks), route)


def _refuse(api: str, operand: str, found: Any, limit: Any, what: str, fix: str) -> None:
    context.fail(
        "KW-COLLECTIVE-OPERANDS", f"{api} doesn't take {what}", operand=operand, found=found, limit=limit, fix=fix
    )


def _one(values: Any, name: str, api: str) -> Tensor:
    found = operands(values, name, api)
    require_hbm(found, api, name)
    if len(found) != 1:
        _refuse(api, name, len(found), 1, f"{len(found)} {name}", "exchange one tensor at a time")
    return found[0]


def _metadata(value: Any, ranks: int, rows: int, api: str) -> Tensor:
    """The metadata tensor as [rows, ranks]."""
    found = tensor(value, "metadata_tensor", api=api)
    if str(found.dtype) != "uint32":
        context.fail(
            "KW-DTYPE",
            f"{api}: metadata_tensor is {found.dtype}, not uint32",
            operand="metadata_tensor",
            found=str(found.dtype),
            limit="uint32",
            fix="allocate it as nl.uint32",
        )
    wanted = (1, rows, ranks) if found.buffer.on_chip else (rows, ranks)
    if found.shape != wanted and not (found.shape[-2:] == (4, ranks) and rows == 3 and found.ndim == len(wanted)):
        context.fail(
            "KW-SHAPE-MISMATCH",
            f"{api}: metadata_tensor in {found.space.upper()} is {list(found.shape)}, not {list(wanted)}",
            operand="metadata_tensor",
            found=list(found.shape),
            limit=list(wanted),
            fix="rows are send counts, send displacements, received counts (and where they land, with has_rdispls)",
        )
    return found


def _inputs(metadata: Tensor, columns: int, displaced: bool) -> NDArray[np.int64]:
    """Counts and displacements to send, and the displacements to receive at; the other entries needn't be written."""
    lead = [0] * (metadata.ndim - 2)
    rows = [metadata[(*lead, slice(0, 2), slice(0, columns))]]
    if displaced:
        rows.append(metadata[(*lead, slice(3, 4))])
    return np.concatenate([r.read().reshape(-1, columns).astype(np.int64) for r in rows])


def _exchange(
    api: str,
    ranks: list[int],
    srcs: Any,
    dsts: Any,
    metadata_tensor: Any,
    counts_known: bool,
    displaced: bool,
    columns: int,
    route: Route,
) -> None:
    """Meet the group's ranks, and hand each the chunks that the others' metadata give it."""
    core = context.current()
    src, dst = _one(srcs, "srcs", api), _one(dsts, "dsts", api)
    if src.dtype is not dst.dtype:
        context.fail(
            "KW-DTYPE",
            f"{api}: src is {src.dtype} and dst is {dst.dtype}; elements pass unchanged",
            operand="dsts",
            found=str(dst.dtype),
            limit=str(src.dtype),
            fix=f"allocate dst as {src.dtype}",
        )
    metadata = _metadata(metadata_tensor, len(ranks), 4 if displaced else 3, api)
    payload = (src, dst, metadata, core.here())
    seats = [(rank, seat, mate) for rank in ranks for seat, mate in seats_of(core, rank, on_chip=False)]

    def finish(arrived: dict[int, Any]) -> None:
        first = {rank: next(s for r, s, _ in seats if r == rank) for rank in ranks}
        chunks: dict[int, list[Chunk]] = {rank: [] for rank in ranks}
        if core.settle():
            known = {r: _inputs(arrived[first[r]][2], columns, displaced) for r in ranks}
            sources = {r: arrived[first[r]][0].read().reshape(-1).copy() for r in ranks}
            for k, rank in enumerate(ranks):
                total = arrived[first[rank]][1].size
                for s, sender in enumerate(ranks):
                    taken = _taken(api, sources[sender], *route(known[sender], k), sender, rank)
                    room = total // len(ranks)
                    start = int(known[rank][2, s]) if displaced else room * s
                    _fits(api, taken.size, start, total if displaced else start + room, sender, rank)
                    chunks[rank].append(Chunk(start, taken))
        for rank, seat, mate in seats:
            own_src, own_dst, own_metadata, place = arrived[seat]
            leads = seat == first[rank]
            if not leads and not own_metadata.buffer.on_chip:
                continue
            row = own_metadata[(*([0] * (own_metadata.ndim - 2)), slice(2, 3))] if not counts_known else None
            counts = (
                np.array([c.values.size for c in chunks[rank]], np.uint32)
                if row is not None and core.settle()
                else None
            )
            if leads:
                issue_at(
                    mate, place, COLLECTIVE_V, Engine.SYNC, (own_dst,) if row is None else (own_dst, row),
                    (own_src, own_metadata), free=1, partitions=1, update=True,
                    nbytes=(own_src.size + own_dst.size) * own_dst.dtype.itemsize // 2,
                    params={"chunks": chunks[rank], "counts": counts},
                )  # fmt: skip
            elif row is not None and counts is not None:
                row.write(counts.reshape(row.shape))  # each core of the rank has the metadata in an SBUF of its own

    if core.team is None:
        finish({0: payload})
    else:
        core.team.meet(core, (api, tuple(ranks), False), [seat for _, seat, _ in seats], payload, finish, api)


def _taken(api: str, source: Array, count: int, start: int, sender: int, receiver: int) -> Array:
    if start + count > source.size:
        context.fail(
            "KW-INDEX-BOUNDS",
            f"{api}: rank {sender} sends elements {start} to {start + count} of {source.size} to rank {receiver}",
            operand="metadata_tensor",
            found=start + count,
            limit=source.size,
            fix="keep displacement + count within src",
        )
    return source[start : start + count]


def _fits(api: str, count: int, start: int, end: int, sender: int, receiver: int) -> None:
    if start + count > end:
        context.fail(
            "KW-INDEX-BOUNDS",
            f"{api}: rank {receiver} receives {count} elements from rank {sender} at {start}, where {end - start} have room",
            operand="metadata_tensor",
            found=count,
            limit=end - start,
            fix="make dst larger: without displacements each rank has dst's elements / ranks",
        )


MEMBERS = {"all_gather_v": all_gather_v, "all_to_all_v": all_to_all_v}
"""Functions of `nki.collectives` in this module."""
