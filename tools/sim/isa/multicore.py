"""Work between the two cores of a logical NeuronCore: swapping tiles, and barriers.

In the trace every core records its own instruction when the meeting is complete. `sendrecv` of a core writes its own dst
and reads the other core's src; `core_barrier` reads and writes its data. Both therefore order what comes after them
behind what came before on either core, by their operands alone.
"""

from __future__ import annotations

from typing import Any

from tools.sim import context
from tools.sim.core import Core, Place
from tools.sim.instruction import Effect, Engine, Flag, opcode
from tools.sim.isa.enums import dma_engine as engines
from tools.sim.isa.operands import on_chip, pick_engine, require_generation, same_free, same_partitions, tensor
from tools.sim.tensor import Tensor

_GPSIMD_DMA_BYTES = {4: 1024, 2: 512, 1: 256}  # ISA sendrecv: bytes a partition by element size


def issue_at(core: Core, place: Place | None, *args: Any, **kwargs: Any) -> None:
    """Record an instruction on another core, blamed on the line where that core waits."""
    runner = context.enter(core)
    before = core.place
    core.place = place
    try:
        core.issue(*args, **kwargs)
    finally:
        core.place = before
        context.enter(runner)


def _pair(api: str) -> Core:
    require_generation(3, api=api)
    core = context.current()
    if core.team is None or core.launch.cores < 2:
        context.fail(
            "KW-LNC",
            f"{api} needs two cores, the kernel runs on one",
            limit=2,
            fix="launch it as kernel[2](...), or branch on nl.num_programs()",
        )
    return core


@opcode("sendrecv", Engine.GPSIMD, kind="dma", cost="dma", source="ISA sendrecv", effect=Effect.BEYOND)
def SENDRECV(outs: tuple[Tensor, ...], ins: tuple[Tensor, ...], values: Any) -> None:
    """dst = the tile that the other core sends."""
    outs[0].write(values.reshape(outs[0].shape))


def sendrecv(
    src: Tensor,
    dst: Tensor,
    send_to_rank: Any,
    recv_from_rank: Any,
    pipe_id: Any,
    dma_engine: Any = engines.dma,
    use_gpsimd_dma: bool = False,
    name: str | None = None,
) -> None:
    """Swap SBUF tiles between the two cores; trn2 and later, launched on two cores.

    Args:
        src, dst: SBUF tiles of one shape and type; src goes out, dst receives.
        send_to_rank, recv_from_rank: 0 or 1.
        pipe_id: calls meet by this number.
        dma_engine: `gpsimd_dma` limits the bytes a partition to 1024, 512 or 256 for 32, 16 or 8-bit types.
        use_gpsimd_dma: 0.2 spelling of `dma_engine=gpsimd_dma`.
    """
    api = "sendrecv"
    core = _pair(api)
    src = on_chip(src, "src", api=api, sbuf_only=True)
    dst = on_chip(dst, "dst", api=api, sbuf_only=True)
    same_partitions(("dst", dst), ("src", src), api=api)
    n = same_free(("dst", dst), ("src", src), api=api)
    if dst.dtype is not src.dtype:
        context.fail(
            "KW-DTYPE",
            f"{api}: src is {src.dtype}, dst is {dst.dtype}",
            operand="dst",
            found=str(dst.dtype),
            limit=str(src.dtype),
            fix="give both tiles one type",
        )
    to, source = context.index_value(send_to_rank), context.index_value(recv_from_rank)
    for label, rank in (("send_to_rank", to), ("recv_from_rank", source)):
        if rank not in (0, 1):
            context.fail(
                "KW-RANK-RANGE",
                f"{api}: {label}={rank}",
                operand=label,
                found=rank,
                limit="0 or 1",
                fix="name core 0 or core 1",
            )
    gpsimd = use_gpsimd_dma or dma_engine is engines.gpsimd_dma
    limit = _GPSIMD_DMA_BYTES.get(src.dtype.itemsize, 256)
    if gpsimd and n * src.dtype.itemsize > limit:
        context.fail(
            "KW-SENDRECV-SIZE",
            f"{api}: {n * src.dtype.itemsize} bytes a partition; gpsimd_dma carries at most {limit} of {src.dtype}",
            operand="dma_engine",
            found=n * src.dtype.itemsize,
            limit=limit,
            fix="send smaller tiles or use nisa.dma_engine.dma",
        )
    team = core.team
    assert team is not None
    mates = core.mates
    pipe = context.index_value(pipe_id)
    payload = (src, dst, to, source, gpsimd, core.here())

    def finish(arrived: dict[int, Any]) -> None:
        by_index = {team.cores[seat].index: (seat, given) for seat, given in arrived.items()}
        moved = {}
        for index, (_, given) in by_index.items():
            sender = by_index[given[3]][1]
            if sender[2] != index:
                context.fail(
                    "KW-SENDRECV-PEER",
                    f"{api}: core {index} receives from core {given[3]}, which sends to core {sender[2]}",
                    operand="recv_from_rank",
                    found=given[3],
                    fix="let each core send to the core that receives from it",
                )
            if sender[0].size != given[1].size or sender[0].dtype is not given[1].dtype:
                context.fail(
                    "KW-SHAPE-MISMATCH",
                    f"{api}: core {given[3]} sends {sender[0]!r}, core {index} receives into {given[1]!r}",
                    operand="dst",
                    found=list(given[1].shape),
                    limit=list(sender[0].shape),
                    fix="slice both tiles to one shape",
                )
            moved[index] = sender[0].read().copy() if core.settle() else None
        for index, (seat, given) in by_index.items():
            sent = by_index[given[3]][1][0]
            rows, free = given[1].shape[0], given[1].size // given[1].shape[0]
            issue_at(
                team.cores[seat],
                given[5],
                SENDRECV,
                Engine.GPSIMD if given[4] else Engine.UNKNOWN,
                (given[1],),
                (sent,),
                free=free,
                partitions=rows,
                aux=min(sent.contiguous_run(), given[1].contiguous_run()),
                nbytes=given[1].size * given[1].dtype.itemsize,
                flags=Flag.SWDGE if given[4] else 0,
                params={"values": moved[index]},
            )

    team.meet(core, (api, pipe), mates, payload, finish, f"sendrecv(pipe_id={pipe})")


@opcode("core_barrier", Engine.GPSIMD, *(e for e in Engine if e < Engine.SYNC and e is not Engine.GPSIMD), kind="control",
        cost="control", source="ISA core_barrier", effect=Effect.BEYOND)  # fmt: skip
def CORE_BARRIER(outs: tuple[Tensor, ...], ins: tuple[Tensor, ...]) -> None:
    """Both cores wait for each other."""


def core_barrier(data: Tensor, cores: Any, engine: Any = None, name: str | None = None) -> None:
    """Wait until both cores are here; what either wrote to `data` before is visible to both afterwards.

    Args:
        data: tensor in shared HBM.
        cores: (0, 1); (0,) on a single core, which doesn't wait.
        engine: the one that waits; GpSimd by default.
    """
    api = "core_barrier"
    data = tensor(data, "data", api=api)
    who = tuple(int(c) for c in cores)
    core = context.current()
    if len(who) == 1 and core.launch.cores == 1 and who == (0,):
        return
    core = _pair(api)
    if sorted(who) != [0, 1]:
        context.fail(
            "KW-BARRIER-CORES",
            f"{api}: cores={who}",
            operand="cores",
            found=str(who),
            limit="(0, 1)",
            fix="pass (0, 1)",
        )
    if data.space != "shared_hbm":
        context.warn(
            "KW-BARRIER-DATA",
            f"{api}: data lies in {data.space.upper()}, which the other core doesn't see",
            operand="data",
            found=data.space,
            limit="shared_hbm",
            fix="name the tensor in shared HBM that the cores exchange",
        )
    unit = pick_engine(engine, CORE_BARRIER.engines, api=api)
    team = core.team
    assert team is not None

    def finish(arrived: dict[int, Any]) -> None:
        for seat, (tile, where, chosen) in sorted(arrived.items()):
            issue_at(
                team.cores[seat],
                where,
                CORE_BARRIER,
                chosen,
                (tile,),
                (),
                free=1,
                partitions=1,
                update=True,
            )

    shared = data.buffer.id if data.space == "shared_hbm" else -1
    team.meet(core, (api, shared), core.mates, (data, core.here(), unit), finish, f"core_barrier({data!r})")
