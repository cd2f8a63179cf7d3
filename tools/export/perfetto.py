"""A launch as Chrome trace-event JSON, for the Perfetto UI and chrome://tracing.

One process a core; one thread an engine or DMA queue, and as many `DMA data` threads as transfers overlap, because slices
of one thread must not cross. Stalls are slices of their own with their cause; a flow arrow leads from what was waited for.
SBUF and PSUM use and DMAs in flight are counter tracks. Times are in microseconds.
"""

from __future__ import annotations

import gzip
import json
from heapq import heappop, heappush
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tools.export.atomic import write_bytes, write_text
from tools.export.tables import operand_texts, usage
from tools.insight.observed import Observed
from tools.sim.instruction import Inst
from tools.sim.machine import MODEL_VERSION
from tools.sim.profiler import ENGINE_NAMES
from tools.sim.timing import Wait

Event = dict[str, Any]

STALL_NS = 1.0
"""Waits shorter than this get no slice of their own."""


def to_perfetto(seen: Observed) -> dict[str, Any]:
    """The whole document: `traceEvents` plus what was run where."""
    return {
        "traceEvents": [*_names(seen), *_slices(seen), *_transfers(seen), *_spills(seen), *_counters(seen)],
        "displayTimeUnit": "ns",
        "otherData": {
            "target": seen.machine.name,
            "compiler_model": seen.profile.compiler_model,
            "model_version": MODEL_VERSION,
            "simulated": True,
            "latency_us": seen.profile.latency_us,
        },
    }


def write_perfetto(path: Path, seen: Observed) -> None:
    """Write the document whole or not at all; compressed where the name ends in `.gz`, which Perfetto opens as well.

    Raises:
        OSError: the folder can't be written.
    """
    text = json.dumps(to_perfetto(seen), separators=(",", ":"))
    if path.suffix == ".gz":
        write_bytes(path, gzip.compress(text.encode("utf-8"), 5, mtime=0))
    else:
        write_text(path, text)


def _thread_name(index: int) -> str:
    return f"{ENGINE_NAMES[index]} Engine" if index < len(ENGINE_NAMES) else f"DMA queue {index - len(ENGINE_NAMES)}"


def _names(seen: Observed) -> list[Event]:
    found: list[Event] = []
    lanes = seen.timeline.lanes
    used = {int(k) for k in np.unique(seen.timeline.lane)}
    for core in np.unique(seen.core).tolist():
        found.append(
            _metadata("process_name", core, 0, {"name": f"NeuronCore {core} ({seen.machine.name}, simulated)"})
        )
        for index in range(lanes):
            if index < len(ENGINE_NAMES) or core * lanes + index in used:
                found.append(_metadata("thread_name", core, index, {"name": _thread_name(index)}))
                found.append(_metadata("thread_sort_index", core, index, {"sort_index": index}))
        for track in range(int(_tracks(seen, core).max(initial=-1)) + 1):
            found.append(_metadata("thread_name", core, lanes + track, {"name": f"DMA data {track}"}))
            found.append(_metadata("thread_sort_index", core, lanes + track, {"sort_index": lanes + track}))
    return found


def _metadata(name: str, core: int, thread: int, args: dict[str, Any]) -> Event:
    return {"ph": "M", "name": name, "pid": core, "tid": thread, "args": args}


def _slices(seen: Observed) -> list[Event]:
    timeline, lanes = seen.timeline, seen.timeline.lanes
    operands = operand_texts(seen)
    places = [seen.where(k) for k in range(len(seen.trace.lines))]
    sources = [seen.source(k) for k in range(len(seen.trace.lines))]
    found: list[Event] = []
    for i in range(len(seen.trace)):
        core, thread = divmod(int(timeline.lane[i]), lanes)
        line = int(seen.line[i])
        start, end = float(timeline.start_ns[i]), float(timeline.issue_ns[i])
        args: dict[str, Any] = {
            "instruction": i,
            "opcode": str(seen.opcode[i]),
            "source": places[line] if line >= 0 else "",
            "line": seen.number(line),
            "text": sources[line] if line >= 0 else "",
            "operands": operands[i],
            "result_after_ns": float(timeline.end_ns[i]) - start,
        }
        waited = int(timeline.waited_for[i])
        slot = {"pid": core, "tid": thread}
        if timeline.wait[i] != Wait.NONE and timeline.waited_ns[i] >= STALL_NS:
            cause = Wait(int(timeline.wait[i])).name.lower()
            args.update({"wait_cause": cause, "waited_ns": float(timeline.waited_ns[i])})
            stall: dict[str, Any] = {"instruction": i, "cause": cause}
            begin = start - float(timeline.waited_ns[i])
            if waited >= 0:
                args["waited_for"] = stall["waited_for"] = waited
                found += _arrow(seen, i, waited)
            found.append(_slice(f"wait: {cause}", "stall", begin, start, slot, stall))
        found.append(_slice(str(seen.opcode[i]), "engine", start, end, slot, args))
    return found


def _slice(name: str, kind: str, start_ns: float, end_ns: float, slot: dict[str, int], args: dict[str, Any]) -> Event:
    duration = max(end_ns - start_ns, 0.0)
    return {"ph": "X", "name": name, "cat": kind, **slot, "ts": start_ns / 1e3, "dur": duration / 1e3, "args": args}


def _arrow(seen: Observed, i: int, waited: int) -> list[Event]:
    """A flow from inside the slice that was waited for to the start of the one that waited."""
    lanes = seen.timeline.lanes
    core, thread = divmod(int(seen.timeline.lane[waited]), lanes)
    begin = float(seen.timeline.start_ns[waited]) / 1e3
    own_core, own_thread = divmod(int(seen.timeline.lane[i]), lanes)
    end = float(seen.timeline.start_ns[i]) / 1e3
    shared = {"name": "waits for", "cat": "dependency", "id": i}
    return [
        {"ph": "s", **shared, "pid": core, "tid": thread, "ts": begin},
        {"ph": "f", "bp": "e", **shared, "pid": own_core, "tid": own_thread, "ts": end},
    ]


def _tracks(seen: Observed, core: int) -> NDArray[np.int64]:
    """For each DMA of a core, in order of its data, the thread on which it overlaps nothing."""
    rows = _dma_rows(seen, core)
    free: list[tuple[float, int]] = []
    found = np.zeros(len(rows), np.int64)
    for k, i in enumerate(rows):
        start, end = float(seen.timeline.data_start_ns[i]), float(seen.timeline.data_end_ns[i])
        if free and free[0][0] <= start:
            _, track = heappop(free)
        else:
            track = len(free)
        found[k] = track
        heappush(free, (end, track))
    return found


def _dma_rows(seen: Observed, core: int) -> NDArray[np.int64]:
    rows = np.flatnonzero(seen.is_dma & (seen.core == core))
    return rows[np.argsort(seen.timeline.data_start_ns[rows], kind="stable")]


def _transfers(seen: Observed) -> list[Event]:
    found: list[Event] = []
    timeline = seen.timeline
    moved, runs = seen.trace.column(Inst.BYTES), seen.trace.column(Inst.AUX)
    for core in np.unique(seen.core).tolist():
        for i, track in zip(_dma_rows(seen, core).tolist(), _tracks(seen, core).tolist()):
            start, end = float(timeline.data_start_ns[i]), float(timeline.data_end_ns[i])
            args = {
                "instruction": i,
                "source": seen.where(int(seen.line[i])),
                "line": seen.number(int(seen.line[i])),
                "bytes": int(moved[i]),
                "contiguous_bytes": int(runs[i]),
                "gbytes_per_second": float(moved[i]) / max(end - start, 1e-3),
            }
            slot = {"pid": core, "tid": timeline.lanes + track}
            found.append(_slice(str(seen.opcode[i]), "dma", start, end, slot, args))
    return found


def _spills(seen: Observed) -> list[Event]:
    """The compiler model's own transfers, as asynchronous slices: they may overlap and belong to no instruction."""
    spills = seen.timeline.spills
    found: list[Event] = []
    for k in np.argsort(spills.data_start_ns, kind="stable").tolist():
        name = "spill save" if spills.saves[k] else "spill reload"
        shared = {"name": name, "cat": "spill", "id": k, "pid": int(spills.core[k]), "tid": 0}
        found.append(
            {
                "ph": "b",
                **shared,
                "ts": float(spills.data_start_ns[k]) / 1e3,
                "args": {"bytes": int(spills.moved_bytes[k])},
            }
        )
        found.append({"ph": "e", **shared, "ts": float(spills.data_end_ns[k]) / 1e3})
    return found


def _counters(seen: Observed) -> list[Event]:
    found: list[Event] = []
    for core in np.unique(seen.core).tolist():
        for space in ("sbuf", "psum"):
            times, level = usage(seen, space, core)
            shared = {"ph": "C", "name": f"{space.upper()} bytes a partition", "pid": core}
            found += [
                {**shared, "ts": t / 1e3, "args": {"bytes": int(v)}} for t, v in zip(times.tolist(), level.tolist())
            ]
    return found
