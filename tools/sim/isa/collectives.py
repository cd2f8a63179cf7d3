"""`nki.collectives`: exchanges between the ranks of a replica group. Each rank is a logical NeuronCore of its own.

Ranks run side by side in one `Team` (`simulate_group`). Tensors in HBM belong to a rank: its cores meet as one, and core 0
records the transfer. Tiles in SBUF belong to a core: cores of equal index meet. A rank's instruction names its own tensors
only; the exchange is one transfer in its trace.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tools.sim import context
from tools.sim.core import Core
from tools.sim.instruction import Effect, Engine, opcode
from tools.sim.isa import ops
from tools.sim.isa.control import Register
from tools.sim.isa.multicore import issue_at
from tools.sim.isa.operands import inside, tensor
from tools.sim.tensor import Tensor

Array = NDArray[Any]


class ReplicaGroup:
    """Lists of ranks; the ranks of one list work together.

    Attributes:
        replica_groups: e.g. [[0, 1, 2, 3]].
    """

    def __init__(self, replica_groups: Any = None) -> None:
        self.replica_groups = [list(g) for g in (replica_groups if replica_groups is not None else [[0]])]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ReplicaGroup) and other.replica_groups == self.replica_groups

    def __hash__(self) -> int:
        return hash(str(self.replica_groups))

    def __repr__(self) -> str:
        return f"ReplicaGroup({self.replica_groups})"


@opcode(
    "collective", Engine.SYNC, kind="dma", cost="collective", source="NKI collectives reference", effect=Effect.BEYOND
)
def COLLECTIVE(outs: tuple[Tensor, ...], ins: tuple[Tensor, ...], values: Sequence[Array]) -> None:
    """Each dst = what the exchange gives this rank."""
    for dst, value in zip(outs, values):
        dst.write(value.reshape(dst.shape))


def group_ranks(replica_group: Any, api: str) -> list[int]:
    """The ranks that work with this one, in order."""
    core = context.current()
    if not isinstance(replica_group, ReplicaGroup):
        context.fail(
            "KW-OPERAND-TYPE",
            f"{api}: replica_group is {type(replica_group).__name__}",
            operand="replica_group",
            fix="pass a nki.collectives.ReplicaGroup",
        )
    mine = [g for g in replica_group.replica_groups if core.launch.rank in g]
    if len(mine) != 1:
        context.fail(
            "KW-REPLICA-GROUP",
            f"{api}: rank {core.launch.rank} is in {len(mine)} of the groups {replica_group.replica_groups}",
            operand="replica_group",
            found=str(replica_group.replica_groups),
            limit=1,
            fix="put every rank into exactly one group",
        )
    known = set(range(core.launch.ranks))
    if not set(mine[0]) <= known:
        context.unsupported(
            f"{api} over ranks {mine[0]} in a run of {len(known)} rank(s); run the kernel with simulate_group"
        )
    return mine[0]


def operands(values: Any, name: str, api: str) -> list[Tensor]:
    """The tensors of one side of an exchange: all in HBM, or one tile in SBUF."""
    found = [tensor(v, f"{name}[{i}]", api=api) for i, v in enumerate(values)]
    for i, tile in enumerate(found):
        inside(tile, f"{name}[{i}]", api=api)
        if tile.space == "psum":
            context.fail(
                "KW-PLACEMENT",
                f"{api}: {name}[{i}] lies in PSUM",
                operand=name,
                found="psum",
                limit="hbm, sbuf",
                fix="copy it to SBUF or HBM first",
            )
    if not found or len({t.buffer.on_chip for t in found}) > 1 or (found[0].buffer.on_chip and len(found) > 1):
        context.fail(
            "KW-COLLECTIVE-OPERANDS",
            f"{api}: {name} must hold tensors in HBM, or one tile in SBUF",
            operand=name,
            found=[t.space for t in found],
            limit="all in HBM, or one in SBUF",
            fix="don't mix memories",
        )
    return found


def _exchange(
    api: str, ranks: list[int], srcs: list[Tensor], dsts: list[Tensor], work: Callable[[dict[int, list[Array]]], Any]
) -> None:
    """Meet the group's ranks; work({rank: source arrays}) gives {rank: result arrays}."""
    core = context.current()
    if dsts[0].buffer.on_chip != srcs[0].buffer.on_chip:
        context.fail(
            "KW-COLLECTIVE-OPERANDS",
            f"{api}: srcs and dsts lie in different memories",
            operand="dsts",
            fix="put both in HBM, or both in SBUF",
        )
    seats = [(rank, seat, mate) for rank in ranks for seat, mate in seats_of(core, rank, srcs[0].buffer.on_chip)]
    payload = (srcs, dsts, core.here())

    def finish(arrived: dict[int, Any]) -> None:
        first = {rank: next(s for r, s, _ in seats if r == rank) for rank in ranks}
        values = {rank: [t.read().copy() for t in arrived[first[rank]][0]] for rank in ranks} if core.settle() else {}
        results = work(values) if core.settle() else {rank: [] for rank in ranks}
        for rank in ranks:
            sources, targets, place = arrived[first[rank]]
            mate = next(m for _, s, m in seats if s == first[rank])
            _check_sizes(api, targets, results[rank])
            moved = sum(t.size * t.dtype.itemsize for t in (*sources, *targets)) // 2
            issue_at(
                mate, place, COLLECTIVE, Engine.SYNC, tuple(targets), tuple(sources), free=1, partitions=1,
                nbytes=moved, params={"values": results[rank]},
            )  # fmt: skip

    if core.team is None:
        finish({0: payload})
    else:
        members = [seat for _, seat, _ in seats]
        core.team.meet(core, (api, tuple(ranks), srcs[0].buffer.on_chip), members, payload, finish, api)


def _check_sizes(api: str, targets: list[Tensor], values: list[Array]) -> None:
    if values and len(values) != len(targets):
        context.fail(
            "KW-COLLECTIVE-OPERANDS",
            f"{api}: {len(targets)} dsts for {len(values)} results",
            operand="dsts",
            found=len(targets),
            limit=len(values),
            fix="pass one dst for each result",
        )
    for i, (dst, value) in enumerate(zip(targets, values)):
        if dst.size != value.size:
            context.fail(
                "KW-SHAPE-MISMATCH",
                f"{api}: dsts[{i}] {list(dst.shape)} has {dst.size} elements, the result has {value.size}",
                operand=f"dsts[{i}]",
                found=dst.size,
                limit=value.size,
                fix="give the destination as many elements as the result has",
            )


def seats_of(core: Core, rank: int, on_chip: bool) -> list[tuple[int, Core]]:
    """(number, core) of those cores of `rank` that take part: all of them for HBM, the one of equal index for SBUF."""
    if core.team is None:
        return [(0, core)]
    cores = [(s, c) for s, c in enumerate(core.team.cores) if c.launch.rank == rank]
    return [(s, c) for s, c in cores if not on_chip or c.index == core.index]


def _fold(op: Any, arrays: list[Array], api: str) -> Array:
    operator = ops.alu(op, "op")
    if operator.name not in ("add", "minimum", "maximum"):
        context.fail(
            "KW-OP-REDUCE",
            f"{api}: op=nl.{operator.name}",
            operand="op",
            found=operator.name,
            limit="add, minimum, maximum",
            fix="use nl.add, nl.minimum or nl.maximum",
        )
    total = arrays[0].astype(np.float32) if arrays[0].dtype.kind not in "iu" else arrays[0]
    for other in arrays[1:]:
        total = operator.function(total, other.astype(total.dtype))
    return total


def _axis(dim: Any, allowed: tuple[int, ...], api: str) -> int:
    if dim not in allowed:
        context.fail(
            "KW-COLLECTIVE-DIM",
            f"{api}: collective_dim={dim}",
            operand="collective_dim",
            found=dim,
            limit=list(allowed),
            fix="use one of these dimensions, or rearrange the tensors first",
        )
    return int(dim)


def _pieces(array: Array, count: int, api: str) -> list[Array]:
    if array.shape[0] % count:
        context.fail(
            "KW-COLLECTIVE-DIM",
            f"{api}: {array.shape[0]} rows can't be split over {count} ranks",
            operand="srcs",
            found=array.shape[0],
            limit=f"a multiple of {count}",
            fix="pad the rows to a multiple of the number of ranks",
        )
    return np.split(array, count)


def all_reduce(
    srcs: Any, dsts: Any, replica_group: Any, op: Any, priority: Any = None, name: str | None = None
) -> None:
    """Every rank's dsts = srcs of all ranks folded with add, minimum or maximum."""
    api = "all_reduce"
    ranks, ins, outs = group_ranks(replica_group, api), operands(srcs, "srcs", api), operands(dsts, "dsts", api)

    def work(values: dict[int, list[Array]]) -> dict[int, list[Array]]:
        totals = [_fold(op, [values[r][i] for r in ranks], api) for i in range(len(ins))]
        return dict.fromkeys(ranks, totals)

    _exchange(api, ranks, ins, outs, work)


def all_gather(
    srcs: Any, dsts: Any, replica_group: Any, collective_dim: int, priority: Any = None, name: str | None = None
) -> None:
    """Every rank's dsts = srcs of all ranks, joined along collective_dim (0; for SBUF tiles also 1)."""
    api = "all_gather"
    ranks, ins, outs = group_ranks(replica_group, api), operands(srcs, "srcs", api), operands(dsts, "dsts", api)
    axis = _axis(collective_dim, (0, 1) if ins[0].buffer.on_chip else (0,), api)

    def work(values: dict[int, list[Array]]) -> dict[int, list[Array]]:
        joined = [np.concatenate([values[r][i] for r in ranks], axis=axis) for i in range(len(ins))]
        return dict.fromkeys(ranks, joined)

    _exchange(api, ranks, ins, outs, work)


def reduce_scatter(
    srcs: Any,
    dsts: Any,
    replica_group: Any,
    collective_dim: int,
    op: Any,
    priority: Any = None,
    name: str | None = None,
) -> None:
    """Rank i's dsts = the i-th piece along dimension 0 of srcs folded over all ranks."""
    api = "reduce_scatter"
    ranks, ins, outs = group_ranks(replica_group, api), operands(srcs, "srcs", api), operands(dsts, "dsts", api)
    _axis(collective_dim, (0,), api)

    def work(values: dict[int, list[Array]]) -> dict[int, list[Array]]:
        parts = [_pieces(_fold(op, [values[r][i] for r in ranks], api), len(ranks), api) for i in range(len(ins))]
        return {rank: [p[k] for p in parts] for k, rank in enumerate(ranks)}

    _exchange(api, ranks, ins, outs, work)


def all_to_all(
    srcs: Any, dsts: Any, replica_group: Any, collective_dim: int, priority: Any = None, name: str | None = None
) -> None:
    """Rank i's dsts = the i-th pieces along dimension 0 of every rank's srcs, joined; HBM only."""
    api = "all_to_all"
    ranks, ins, outs = group_ranks(replica_group, api), operands(srcs, "srcs", api), operands(dsts, "dsts", api)
    _axis(collective_dim, (0,), api)
    require_hbm(ins, api)

    def work(values: dict[int, list[Array]]) -> dict[int, list[Array]]:
        parts = {r: [_pieces(values[r][i], len(ranks), api) for i in range(len(ins))] for r in ranks}
        return {
            rank: [np.concatenate([parts[r][i][k] for r in ranks]) for i in range(len(ins))]
            for k, rank in enumerate(ranks)
        }

    _exchange(api, ranks, ins, outs, work)


def require_hbm(tensors: list[Tensor], api: str, name: str = "srcs") -> None:
    """Refuse tiles in SBUF."""
    if tensors[0].buffer.on_chip:
        context.fail(
            "KW-PLACEMENT",
            f"{api}: {name} lie in SBUF",
            operand=name,
            found="sbuf",
            limit="hbm",
            fix="allocate it in HBM",
        )


def collective_permute(
    srcs: Any, dsts: Any, source_target_pairs: Any, priority: Any = None, name: str | None = None
) -> None:
    """dsts of each target rank = srcs of its source rank; HBM only. All ranks of the run take part."""
    api = "collective_permute"
    ins, outs = operands(srcs, "srcs", api), operands(dsts, "dsts", api)
    require_hbm(ins, api)
    pairs = [(int(s), int(t)) for s, t in source_target_pairs]
    ranks = list(range(context.current().launch.ranks))
    sources = {t: s for s, t in pairs}
    if len(sources) != len(pairs) or not {r for p in pairs for r in p} <= set(ranks):
        context.fail(
            "KW-REPLICA-GROUP",
            f"{api}: pairs {pairs} repeat a target or name ranks outside 0..{len(ranks) - 1}",
            operand="source_target_pairs",
            found=str(pairs),
            fix="name each target once, by ranks of the group",
        )

    def work(values: dict[int, list[Array]]) -> dict[int, list[Array]]:
        return {rank: values[sources[rank]] if rank in sources else [] for rank in ranks}

    _exchange(api, ranks, ins, outs, work)


def _channels(channel_ids: Any, lists: Any, api: str) -> list[int]:
    channels = [int(c) for c in channel_ids]
    if channels != list(range(len(channels))) or len(lists) != len(channels):
        context.fail(
            "KW-COLLECTIVE-OPERANDS",
            f"{api}: channel_ids {channels} for {len(lists)} tensor lists; they must count from 0, one list each",
            operand="channel_ids",
            found=channels,
            limit=len(lists),
            fix="count the channels from 0, with one list of tensors each",
        )
    return channels


def collective_permute_implicit(
    srcs_by_channel: Any,
    dsts_by_channel: Any,
    replica_group: Any,
    channel_ids: Any = (0,),
    priority: Any = None,
    name: str | None = None,
) -> None:
    """One step round the ring: dsts = srcs of the rank before this one, on each channel."""
    api = "collective_permute_implicit"
    ranks = group_ranks(replica_group, api)
    for channel in _channels(channel_ids, srcs_by_channel, api):
        ins, outs = operands(srcs_by_channel[channel], "srcs", api), operands(dsts_by_channel[channel], "dsts", api)

        def work(values: dict[int, list[Array]]) -> dict[int, list[Array]]:
            return {rank: values[ranks[k - 1]] for k, rank in enumerate(ranks)}

        _exchange(api, ranks, ins, outs, work)


def collective_permute_implicit_reduce(
    srcs0_by_channel: Any,
    srcs1_by_channel: Any,
    dsts_by_channel: Any,
    replica_group: Any,
    op: Any,
    channel_ids: Any = (0,),
    priority: Any = None,
    name: str | None = None,
) -> None:
    """One reducing step round the ring: dsts = op(srcs0, srcs1) of the rank before this one, on each channel."""
    api = "collective_permute_implicit_reduce"
    ranks = group_ranks(replica_group, api)
    for channel in _channels(channel_ids, srcs0_by_channel, api):
        left = operands(srcs0_by_channel[channel], "srcs0", api)
        right = operands(srcs1_by_channel[channel], "srcs1", api)
        outs = operands(dsts_by_channel[channel], "dsts", api)
        if len(left) != 1 or len(right) != 1 or len(outs) != 1:
            context.fail(
                "KW-COLLECTIVE-OPERANDS",
                f"{api}: each channel takes exactly one tensor",
                operand="srcs0_by_channel",
                fix="pass one tensor a channel",
            )

        def work(values: dict[int, list[Array]]) -> dict[int, list[Array]]:
            return {rank: [_fold(op, values[ranks[k - 1]], api)] for k, rank in enumerate(ranks)}

        _exchange(api, ranks, [*left, *right], outs, work)


def collective_permute_implicit_current_processing_rank_id(
    iteration_id: Any, replica_group: Any, channel_id: int = 0, name: str | None = None
) -> Register:
    """The rank whose data this rank holds after `iteration_id` steps round the ring, as a register."""
    api = "collective_permute_implicit_current_processing_rank_id"
    ranks = group_ranks(replica_group, api)
    if channel_id < 0:
        context.fail(
            "KW-COLLECTIVE-OPERANDS",
            f"{api}: channel_id={channel_id}",
            operand="channel_id",
            found=channel_id,
            fix="use a channel that the permutation was started on",
        )
    own = ranks.index(context.current().launch.rank)
    return Register(ranks[(own - context.index_value(iteration_id)) % len(ranks)])


def rank_id(name: str | None = None) -> Register:
    """This rank's number, as a register."""
    return Register(context.current().launch.rank)


_FUNCTIONS = (
    all_reduce,
    all_gather,
    reduce_scatter,
    all_to_all,
    collective_permute,
    collective_permute_implicit,
    collective_permute_implicit_reduce,
    collective_permute_implicit_current_processing_rank_id,
    rank_id,
)
MEMBERS: dict[str, Any] = {"ReplicaGroup": ReplicaGroup} | {f.__name__: f for f in _FUNCTIONS}
"""What `nki.collectives` holds besides the exchanges of variable length."""
