"""D2 to D4 and D10: bytes that move although neither inputs nor outputs need it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from tools.figures import amount
from tools.insight import counterfactual as what_if
from tools.insight import edits
from tools.insight.advice import Advice, Case, rule
from tools.insight.counterfactual import Counterfactual
from tools.sim.instruction import Inst, Operand
from tools.sim.rectangles import area
from tools.sim.timing import Wait, peak_usage

Ints = NDArray[np.int64]

EXCESS_SHARE = 0.3
"""Share of the traffic from which bytes that nobody needs are worth a finding."""
LARGE_TILE_BYTES = 16 << 10
"""Bytes a partition from which one tile is a good part of SBUF (192 KiB)."""
WINDOWS = 2.0
"""How often the elements of a tensor are loaded, on average, before overlapping windows are a finding."""
MOST_RECTANGLES = 4096


def round_trip(case: Case) -> tuple[Ints, Ints]:
    """Stores to HBM whose bytes are loaded again, and those loads."""
    seen = case.seen
    producers, consumers = seen.results
    pairs = seen.is_store[producers] & seen.is_load[consumers]
    return np.unique(producers[pairs]), np.unique(consumers[pairs])


def _moved(case: Case, rows: Ints) -> int:
    return int(case.seen.trace.column(Inst.BYTES)[rows].sum())


@rule("D2")
def excess_traffic(case: Case) -> Advice | None:
    """Much more moves than inputs and outputs hold; which of the two reasons weighs more."""
    seen, profile = case.seen, case.seen.profile
    total = profile.hbm_read_bytes + profile.hbm_write_bytes
    stores, loads = round_trip(case)
    trips = _moved(case, np.union1d(stores, loads))
    excess = profile.reload_read_bytes + trips
    if not total or excess < EXCESS_SHARE * total or not (profile.reload_read_bytes and trips):
        return None
    larger, change = (
        ("reloads", "first load each input once (rule D1), then keep intermediates on chip (D3)")
        if profile.reload_read_bytes >= trips
        else ("intermediates", "first keep intermediates on chip (rule D3), then load each input once (D1)")
    )
    repeats = np.flatnonzero(edits.repeated_loads(seen.trace, seen.is_load) >= 0)
    rows = repeats if larger == "reloads" and len(repeats) else np.union1d(stores, loads)
    lines = case.heaviest(rows)

    def trial() -> Counterfactual | None:
        caveat = "the tiles must fit SBUF"
        kept = what_if.fused_away(seen, np.union1d(stores, loads), "With the intermediates kept on chip", caveat)
        hoisted = what_if.loads_hoisted(seen)
        return kept if hoisted is None or kept.gain_us > hoisted.gain_us else hoisted

    return Advice(
        "D2",
        f"{excess / total:.0%} of the traffic is neither input nor output, most of it {larger}.",
        f"{amount(total)} move; {amount(profile.reload_read_bytes)} are inputs loaded again and {amount(trips)} intermediates "
        f"that go out and come back, at {case.places(lines)}.",
        f"{change}.",
        case.numbers(lines),
        case.prove(trial),
    )


@rule("D3")
def spills_that_dont_fit(case: Case) -> Advice | None:
    """The kernel spills, and what it spills doesn't fit SBUF beside the rest."""
    seen = case.seen
    stores, loads = round_trip(case)
    total = seen.profile.hbm_read_bytes + seen.profile.hbm_write_bytes
    trips = np.union1d(stores, loads)
    if not len(trips) or _moved(case, trips) < EXCESS_SHARE * total:
        return None
    room = seen.machine.sbuf_partition_bytes
    lanes = np.maximum(seen.trace.column(Inst.PARTITIONS)[stores], 1)
    kept = int(np.ceil(seen.trace.column(Inst.BYTES)[stores] / lanes).sum())
    peak = peak_usage(seen.trace)[0]
    if kept + peak <= room:
        return None  # D9's case: it can simply stay on chip
    lines = case.heaviest(trips)
    change = f"Without {what_if.describe_group(seen, trips)}"
    caveat = f"all of it needs {kept} bytes a partition beside {peak} in use, SBUF has {room}: blocks must be that much smaller"
    return Advice(
        "D3",
        "More is kept between two steps than SBUF holds, so it goes through HBM.",
        f"{amount(_moved(case, trips))} of {amount(total)} are saved and reloaded at {case.places(lines)}; on chip they would take {kept} "
        f"bytes a partition beside {peak} that are in use (SBUF: {room}).",
        "fuse producer and consumer block by block: compute a block, use it, drop it; or recompute it from its inputs.",
        case.numbers(lines),
        case.prove(lambda: replace(what_if.fused_away(seen, trips, change, caveat), feasible=False)),
    )


@rule("D4")
def wide_allocation(case: Case) -> Advice | None:
    """SBUF is short although a large array is in use for a small part of its size at any time."""
    seen = case.seen
    peak = peak_usage(seen.trace)[0]
    short = float(seen.timeline.waited_ns[seen.timeline.wait == Wait.SPACE].sum())
    if peak <= seen.machine.sbuf_partition_bytes and case.share(short) < 0.05:
        return None
    sizes: dict[int, int] = {}
    for b in seen.trace.buffers:
        if b.space == "sbuf" and b.row_bytes >= LARGE_TILE_BYTES:
            live = _live_bytes(seen.trace.operands, seen.owner, b.id)
            if 0 < live <= b.row_bytes // 2:
                sizes[b.id] = live
    if not sizes:
        return None
    worst = max(sizes, key=lambda b: seen.trace.buffers[b].row_bytes - sizes[b])
    info = seen.trace.buffers[worst]
    line = info.line

    def trial() -> Counterfactual:
        buffers = [replace(b, row_bytes=sizes.get(b.id, b.row_bytes)) for b in seen.trace.buffers]
        change = f"With {what_if.describe_tiles(seen, sorted(sizes))} as large as what is in use at once"
        return what_if.replay(seen, "smaller tiles", change, trace=replace(seen.trace, buffers=buffers))

    return Advice(
        "D4",
        "One large array outside the loop holds what only one iteration needs.",
        f"The tile of {seen.where(line)} takes {info.row_bytes} bytes a partition, of which at most {sizes[worst]} are in use at "
        f"once; at the peak {peak} of {seen.machine.sbuf_partition_bytes} bytes are taken.",
        "allocate a tile inside the loop for what one iteration needs; its space is free for others afterwards.",
        (seen.number(line),),
        case.prove(trial),
    )


def _live_bytes(operands: Ints, owner: Ints, buffer: int) -> int:
    """Most bytes a partition that lie between their first write and their last access at the same time."""
    rows = np.flatnonzero(operands[:, Operand.BUFFER] == buffer)
    if not len(rows):
        return 0
    cuts = np.unique(operands[rows][:, [Operand.BYTE0, Operand.BYTE1]])
    begin = np.searchsorted(cuts, operands[rows, Operand.BYTE0])
    end = np.searchsorted(cuts, operands[rows, Operand.BYTE1])
    first = np.full(len(cuts), np.iinfo(np.int64).max)
    last = np.full(len(cuts), -1)
    for k, row in enumerate(rows.tolist()):
        first[begin[k] : end[k]] = np.minimum(first[begin[k] : end[k]], owner[row])
        last[begin[k] : end[k]] = owner[row]
    used = last[:-1] >= 0
    width = np.diff(cuts)[used]
    times = np.concatenate([first[:-1][used], last[:-1][used] + 1])
    steps = np.concatenate([width, -width])
    order = np.lexsort((steps, times))
    return int(np.cumsum(steps[order]).max())


@rule("D10")
def overlapping_windows(case: Case) -> Advice | None:
    """The same elements are copied again and again in shifted windows: an expanded tensor is being built."""
    seen = case.seen
    operands = seen.trace.operands
    source = (operands[:, Operand.FLAGS] == 2) & seen.hbm_buffer[operands[:, Operand.BUFFER]] & seen.is_dma[seen.owner]
    best: tuple[float, int, Ints] | None = None
    for b in np.unique(operands[source, Operand.BUFFER]).tolist():
        mine = np.flatnonzero(source & (operands[:, Operand.BUFFER] == b))
        columns = [Operand.ROW0, Operand.ROW1, Operand.BYTE0, Operand.BYTE1]
        windows, position = np.unique(operands[mine][:, columns], axis=0, return_index=True)
        if not 2 <= len(windows) <= MOST_RECTANGLES:
            continue
        rows = seen.owner[mine[position]]
        sizes = (windows[:, 1] - windows[:, 0]) * (windows[:, 3] - windows[:, 2])
        loaded = int(np.minimum(sizes, seen.trace.column(Inst.BYTES)[rows]).sum())
        times = loaded / max(area(windows), 1)
        if times >= WINDOWS and (best is None or times > best[0]):
            best = (times, b, np.sort(rows))
    if best is None:
        return None
    times, b, rows = best
    name = seen.trace.buffers[b].name or f"tensor {b}"
    lines = case.heaviest(rows)

    def trial() -> Counterfactual:
        # One window in `times` stays; the readers of the others read what the one before them brought.
        original = np.full(len(seen.trace), -1, np.int64)
        step = max(round(times), 2)
        kept = rows[(np.arange(len(rows)) // step) * step]
        original[rows] = np.where(kept != rows, kept, -1)
        trace = edits.deduplicated(seen.trace, original, *seen.results)
        change = f"With each element of {name} brought once and read through shifted views"
        return what_if.replay(
            seen, "loads hoisted", change, trace=trace, caveat="an estimate: every window counts alike"
        )

    return Advice(
        "D10",
        f"{name} is copied in overlapping windows.",
        f"{len(rows)} windows at {case.places(lines)} bring each element {times:.1f} times on average.",
        "load the tensor once and let the instructions read shifted, strided views of the tile (implicit im2col).",
        case.numbers(lines),
        case.prove(trial),
    )
