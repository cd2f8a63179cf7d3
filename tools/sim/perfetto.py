"""A timeline as Chrome trace-event JSON, which the Perfetto UI and chrome://tracing open."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from tools.sim.instruction import Inst, Trace
from tools.sim.profiler import ENGINE_NAMES
from tools.sim.timing import ENGINES, Timeline, Wait


def lane_name(lane: int, lanes: int) -> str:
    """Name of a lane within its core: an engine, or a DMA queue."""
    index = lane % lanes
    if index < ENGINES:
        return f"{ENGINE_NAMES[index]} Engine"
    return f"DMA queue {index - ENGINES}"


def events(trace: Trace, timeline: Timeline) -> list[dict[str, Any]]:
    """Trace events: one process a core, one thread a lane, one complete event an instruction (ts, dur in us).

    DMAs appear twice: the trigger on its lane, and the data between first and last packet on the thread `DMA
    data`.
    """
    found: list[dict[str, Any]] = []
    lanes = timeline.lanes
    data_thread = lanes
    cores = sorted({int(c) for c in trace.column(Inst.CORE)})
    for core in cores:
        found.append({"ph": "M", "name": "process_name", "pid": core, "args": {"name": f"NeuronCore {core}"}})
        for index in (*range(lanes), data_thread):
            name = "DMA data" if index == data_thread else lane_name(index, lanes)
            for kind, value in (
                ("thread_name", {"name": name}),
                ("thread_sort_index", {"sort_index": index}),
            ):
                found.append({"ph": "M", "name": kind, "pid": core, "tid": index, "args": value})
    for i in np.flatnonzero(~timeline.dropped).tolist():
        file, line = trace.lines[int(trace.instructions[i, Inst.LINE])]
        core, index = divmod(int(timeline.lane[i]), lanes)
        args: dict[str, Any] = {"instruction": i, "file": file, "line": line}
        if timeline.wait[i] != Wait.NONE:
            args["waited_ns"] = float(timeline.waited_ns[i])
            args["cause"] = Wait(int(timeline.wait[i])).name.lower()
            if timeline.waited_for[i] >= 0:
                args["waited_for"] = int(timeline.waited_for[i])
        is_dma = bool(timeline.costs.is_dma[i])
        start, end = timeline.start_ns[i], timeline.issue_ns[i] if is_dma else timeline.end_ns[i]
        event = {
            "ph": "X", "name": trace.opcode_name(i), "cat": "engine", "pid": core, "tid": index,
            "ts": float(start) / 1e3, "dur": float(end - start) / 1e3, "args": args,
        }  # fmt: skip
        found.append(event)
        if is_dma:
            begin, done = timeline.data_start_ns[i], timeline.data_end_ns[i]
            found.append(
                {
                    **event, "cat": "dma", "tid": data_thread, "ts": float(begin) / 1e3,
                    "dur": float(done - begin) / 1e3,
                    "args": {"instruction": i, "bytes": int(trace.instructions[i, Inst.BYTES]), "line": line},
                }
            )  # fmt: skip
    return found


def to_perfetto(trace: Trace, timeline: Timeline) -> dict[str, Any]:
    """The whole document: `traceEvents` plus what the run was."""
    return {
        "traceEvents": events(trace, timeline),
        "displayTimeUnit": "ns",
        "otherData": {"target": trace.target, "compiler_model": timeline.compiler_model},
    }


def write_perfetto(path: Path, trace: Trace, timeline: Timeline) -> None:
    """Write the document to `path` as JSON."""
    path.write_text(json.dumps(to_perfetto(trace, timeline)), encoding="utf-8")
