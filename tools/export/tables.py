"""A timed launch as Arrow tables with the table and column names of Neuron Explorer's Parquet schema.

Names, units and types follow the public schema reference (version 7.4 of the schema): timestamps and durations of events
are int64 nanoseconds, the times of `Summary` seconds, rates bytes per second. Columns that have no counterpart in a
simulation (checksums, compiler ids, device names) are left out. `SourceLine`, `SourceLoop` and `Stall` are ours.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tools.insight.observed import READS, WRITES, Observed
from tools.sim.instruction import Engine, Flag, Inst, Operand
from tools.sim.machine import MODEL_VERSION
from tools.sim.profiler import ENGINE_NAMES, Profile, covered, flops, hbm_bytes
from tools.sim.timing import Edge, Wait, dependencies

SCHEMA_VERSION = "7.4.0"
"""Version of Neuron Explorer's schema whose names the tables use."""

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

_FLOW = {
    Edge.RESULT: "FLOW_DEPENDENCE",
    Edge.RELEASE: "ANTI_DEPENDENCE",
    Edge.ORDER: "OUTPUT_DEPENDENCE",
    Edge.SPACE_RESULT: "ANTI_DEPENDENCE",
    Edge.SPACE_RELEASE: "ANTI_DEPENDENCE",
}


def tables(seen: Observed) -> dict[str, pa.Table]:
    """All tables of a launch by name, `Summary` (one row) first."""
    moved = _traffic(seen)
    return {
        "Summary": pa.Table.from_pylist([summary(seen, moved)]),
        "Metadata": pa.Table.from_pylist([_metadata(seen)]),
        "Instruction": _instructions(seen, moved),
        "DmaPacketAggregated": _dmas(seen),
        "Flow": _flows(seen),
        "ActiveTime": _active(seen),
        "OpcodeSummary": _opcodes(seen),
        "TensorInfo": _tensors(seen),
        "SbufUsage": _sbuf(seen),
        "PsumUsage": _psum(seen),
        "PendingDma": _pending(seen),
        "SourceLine": _lines(seen),
        "SourceLoop": _loops(seen),
        "Stall": _stalls(seen),
    }


def _ns(values: Floats) -> Ints:
    return np.rint(values).astype(np.int64)


def _traffic(seen: Observed) -> dict[str, Ints]:
    """Bytes that each instruction reads and writes, by memory."""
    trace = seen.trace
    operands = trace.operands
    size = (operands[:, Operand.ROW1] - operands[:, Operand.ROW0]) * (
        operands[:, Operand.BYTE1] - operands[:, Operand.BYTE0]
    )
    spaces = np.array([b.space if b.space in ("sbuf", "psum") else "hbm" for b in trace.buffers] or ["hbm"])
    space = spaces[operands[:, Operand.BUFFER]]
    read, write = hbm_bytes(trace, seen.is_dma)
    found = {"hbm_read_bytes": read, "hbm_write_bytes": write}
    for name in ("sbuf", "psum"):
        for access, label in ((READS, "read"), (WRITES, "write")):
            mine = (space == name) & ((operands[:, Operand.FLAGS] & access) != 0)
            found[f"{name}_{label}_bytes"] = np.bincount(seen.owner[mine], size[mine], minlength=len(trace)).astype(
                np.int64
            )
    through = (found["psum_read_bytes"] > 0) & (found["sbuf_write_bytes"] > 0) & ~seen.is_dma
    found["psum_read_sbuf_write_bytes"] = np.where(through, found["psum_read_bytes"], 0)
    return found


def operand_texts(seen: Observed) -> list[str]:
    """The operands of each instruction in words: tensor, rows and bytes."""
    trace = seen.trace
    labels = [b.name or f"{b.space}{b.id}" for b in trace.buffers]
    rows = trace.operands.tolist()
    first, count = trace.column(Inst.FIRST_OPERAND).tolist(), trace.column(Inst.OPERANDS).tolist()
    found = []
    for i in range(len(trace)):
        parts = []
        for row in rows[first[i] : first[i] + count[i]]:
            side = "src" if row[Operand.FLAGS] == READS else "dst"
            parts.append(
                f"{side}={labels[row[Operand.BUFFER]]}[{row[Operand.ROW0]}:{row[Operand.ROW1]}, "
                f"{row[Operand.BYTE0]}:{row[Operand.BYTE1]}B]"
            )
        found.append(" ".join(parts))
    return found


def _locations(seen: Observed) -> list[str]:
    names = [seen.where(k) for k in range(len(seen.trace.lines))]
    return [names[k] if 0 <= k < len(names) else "" for k in seen.line.tolist()]


def _instructions(seen: Observed, moved: dict[str, Ints]) -> pa.Table:
    trace, timeline = seen.trace, seen.timeline
    n = len(trace)
    start, end = _ns(timeline.start_ns), _ns(seen.busy_end)
    engines = np.array([*(name.lower() for name in ENGINE_NAMES), "queue"])
    order = np.lexsort((np.arange(n), timeline.lane))
    lane = timeline.lane[order]
    begins = np.flatnonzero(np.diff(lane, prepend=-1))
    pc = np.empty(n, np.int64)
    pc[order] = np.arange(n) - np.repeat(begins, np.diff(np.append(begins, n)))
    hardware, transposed, weight = flops(trace, timeline.costs.law)
    waits = np.where(timeline.wait != Wait.NONE, timeline.waited_ns, 0.0)
    dma = seen.is_dma
    modes = _modes(seen)
    kinds = np.where(seen.law == "transpose", "TRANSPOSE", np.where(seen.law == "matmul", "REGULAR", ""))
    columns: dict[str, Any] = {
        "start_ts": start,
        "end_ts": end,
        "duration_ns": end - start,
        "engine": engines[seen.engine],
        "pcore_idx": seen.core,
        "opcode": seen.opcode,
        "operands": operand_texts(seen),
        "id": np.arange(n),
        "pc": pc,
        "evt_wait_time_ns": _ns(waits),
        "wait_cause": [Wait(int(k)).name.lower() if k else None for k in timeline.wait.tolist()],
        "wait_for_id": _masked(timeline.waited_for, (timeline.wait != Wait.NONE) & (timeline.waited_for >= 0)),
        "nki_source_location": _locations(seen),
        "dma_trigger_start_ts": _masked(_ns(timeline.data_start_ns), dma),
        "dma_trigger_end_ts": _masked(_ns(timeline.data_end_ns), dma),
        "dma_wait_time_ns": _masked(_ns(np.maximum(timeline.data_start_ns - timeline.issue_ns, 0.0)), dma),
        **moved,
        "performance_mode": modes,
        "tensor_instruction_type": [k or None for k in kinds.tolist()],
        "tensor_elements": _masked(trace.column(Inst.FREE), hardware > 0),
        "raw_flops": hardware,
        "adjusted_flops": np.rint(hardware * weight).astype(np.int64),
        "flops_transpose": transposed,
        "adjusted_flops_transpose": np.rint(transposed * weight).astype(np.int64),
    }
    return pa.table(columns)


def _masked(values: Ints, known: NDArray[np.bool_]) -> pa.Array:
    return pa.array(values, mask=~known)


def _modes(seen: Observed) -> list[str | None]:
    """Vector Engine performance mode: how many times faster than one element a cycle the instruction streams."""
    machine = seen.machine
    cost = seen.timeline.costs
    free = seen.trace.column(Inst.FREE)
    vector = (seen.engine == Engine.VECTOR) & (free >= 4 * machine.vector_min_cycles) & (seen.law == "vector")
    fixed = machine.vector_overhead_cycles
    cycles = np.maximum(cost.issue_ns * machine.vector_ghz - fixed, 1.0)
    ratio = np.where(vector, free / cycles, 1.0)
    return ["4x" if r > 3 else "2x" if r > 1.5 else None for r in ratio.tolist()]


def _dmas(seen: Observed) -> pa.Table:
    trace, timeline = seen.trace, seen.timeline
    rows = np.flatnonzero(seen.is_dma)
    start, end = _ns(timeline.data_start_ns[rows]), _ns(timeline.data_end_ns[rows])
    read, write = hbm_bytes(trace, seen.is_dma)
    moved = trace.column(Inst.BYTES)[rows]
    flags = seen.flags[rows]
    queue = timeline.lane[rows] % timeline.lanes
    software = (flags & (Flag.SWDGE | Flag.INDIRECT)) != 0
    kind = np.where(software, "software_dynamic", np.where((flags & Flag.HWDGE) != 0, "hardware_dynamic", "data"))
    spans = np.maximum(timeline.data_end_ns[rows] - timeline.data_start_ns[rows], 1e-3)
    names = [ENGINE_NAMES[q] if q < len(ENGINE_NAMES) else f"queue {q - len(ENGINE_NAMES)}" for q in queue.tolist()]
    source, dest, variable = _ends(seen, rows)
    lanes = trace.column(Inst.PARTITIONS)[rows]
    columns: dict[str, Any] = {
        "start_ts": start,
        "end_ts": end,
        "duration_ns": end - start,
        "id": rows,
        "pcore_idx": seen.core[rows],
        "queue_idx": queue,
        "queue_name": names,
        "queue_type": kind,
        "op": np.where(write[rows] > 0, "write", "read"),
        "variable": variable,
        "read_bytes": read[rows],
        "write_bytes": write[rows],
        "transfer_bytes": moved,
        "throughput": moved / spans * 1e9,
        "source": source,
        "dest": dest,
        "write_num_sbuf_partitions": np.where(write[rows] > 0, 0, lanes),
        "read_num_sbuf_partitions": np.where(write[rows] > 0, lanes, 0),
        "descriptor_bytes": trace.column(Inst.AUX)[rows],
        "is_transpose_mode": seen.opcode[rows] == "dma_transpose",
        "trigger": _ns(timeline.start_ns[rows]),
        "completion": _ns(timeline.end_ns[rows]),
        "nki_source_location": [seen.where(int(k)) for k in seen.line[rows]],
    }
    found = pa.table(columns)
    return pa.concat_tables([found, _spilled(seen, found.schema)], promote_options="default")


def _spilled(seen: Observed, schema: pa.Schema) -> pa.Table:
    """Transfers that the compiler model added because SBUF was full: no instruction is theirs, so `id` is null."""
    spills = seen.timeline.spills
    start, end = _ns(spills.data_start_ns), _ns(spills.data_end_ns)
    spans = np.maximum(spills.data_end_ns - spills.data_start_ns, 1e-3)
    count = len(spills.moved_bytes)
    columns: dict[str, Any] = {
        "start_ts": start,
        "end_ts": end,
        "duration_ns": end - start,
        "id": pa.nulls(count, pa.int64()),
        "pcore_idx": spills.core,
        "queue_name": np.where(spills.saves, "qSpillSave", "qSpillReload").tolist(),
        "queue_type": ["data"] * count,
        "op": np.where(spills.saves, "write", "read").tolist(),
        "variable": ["spill"] * count,
        "read_bytes": np.where(spills.saves, 0, spills.moved_bytes),
        "write_bytes": np.where(spills.saves, spills.moved_bytes, 0),
        "transfer_bytes": spills.moved_bytes,
        "throughput": spills.moved_bytes / spans * 1e9,
        "source": np.where(spills.saves, "[SB]", "[DRAM]").tolist(),
        "dest": np.where(spills.saves, "[DRAM]", "[SB]").tolist(),
    }
    names = [name for name in schema.names if name in columns]
    return pa.table({name: pa.array(columns[name], type=schema.field(name).type) for name in names})


def _ends(seen: Observed, rows: Ints) -> tuple[list[str], list[str], list[str]]:
    """Source memory, destination memory and HBM tensor of each DMA, in Explorer's bracket notation."""
    trace = seen.trace
    short = {"sbuf": "[SB]", "psum": "[PSUM]"}
    roles = {"input": "[INPUT]", "output": "[OUTPUT]"}
    memory = [short.get(b.space, roles.get(b.role, "[DRAM]")) for b in trace.buffers]
    table = trace.operands.tolist()
    first, count = trace.column(Inst.FIRST_OPERAND).tolist(), trace.column(Inst.OPERANDS).tolist()
    source, dest, variable = [], [], []
    for i in rows.tolist():
        mine = table[first[i] : first[i] + count[i]]
        into = [memory[r[Operand.BUFFER]] for r in mine if r[Operand.FLAGS] & WRITES]
        out = [memory[r[Operand.BUFFER]] for r in mine if r[Operand.FLAGS] == READS]
        far = [trace.buffers[r[Operand.BUFFER]].name for r in mine if seen.hbm_buffer[r[Operand.BUFFER]]]
        source.append(out[0] if out else "")
        dest.append(into[0] if into else "")
        variable.append(far[0] if far else "")
    return source, dest, variable


def _flows(seen: Observed) -> pa.Table:
    edges = dependencies(seen.trace, seen.machine, seen.timeline.costs)
    gap = seen.timeline.start_ns[edges.after] - seen.timeline.end_ns[edges.before]
    names = np.array([_FLOW.get(Edge(k), "FLOW_DEPENDENCE") for k in range(len(Edge))])
    table = np.full(len(edges.before), "instruction")
    return pa.table(
        {
            "in_id": edges.before,
            "out_id": edges.after,
            "in_table": table,
            "out_table": table,
            "dependency_type": names[edges.kind],
            "gap_time": _ns(gap),
        }
    )


def _active(seen: Observed) -> pa.Table:
    """Stretches in which an engine (or any DMA engine) is active without a break."""
    starts: list[float] = []
    ends: list[float] = []
    engine: list[str] = []
    cores: list[int] = []
    for core in np.unique(seen.core).tolist():
        for index, name in enumerate((*ENGINE_NAMES, "dma")):
            if name == "dma":
                rows = np.flatnonzero(seen.is_dma & (seen.core == core))
                begin, end = seen.timeline.data_start_ns[rows], seen.timeline.data_end_ns[rows]
                own = seen.timeline.spills.core == core
                begin = np.concatenate([begin, seen.timeline.spills.data_start_ns[own]])
                end = np.concatenate([end, seen.timeline.spills.data_end_ns[own]])
            else:
                rows = np.flatnonzero((seen.engine == index) & (seen.core == core))
                begin, end = seen.timeline.start_ns[rows], seen.busy_end[rows]
            for low, high in stretches(begin, end):
                starts.append(low)
                ends.append(high)
                engine.append(name.lower())
                cores.append(core)
    begin_ts, end_ts = _ns(np.array(starts)), _ns(np.array(ends))
    return pa.table(
        {"start_ts": begin_ts, "end_ts": end_ts, "engine": engine, "pcore_idx": cores, "duration_ns": end_ts - begin_ts}
    )


def stretches(start: Floats, end: Floats) -> list[tuple[float, float]]:
    """The union of intervals as disjoint intervals in order."""
    if not len(start):
        return []
    order = np.argsort(start, kind="stable")
    start, end = start[order], end[order]
    reach = np.maximum.accumulate(end)
    firsts = np.flatnonzero(np.concatenate([[True], start[1:] > reach[:-1]]))
    lasts = np.append(firsts[1:] - 1, len(start) - 1)
    return list(zip(start[firsts].tolist(), reach[lasts].tolist()))


def _opcodes(seen: Observed) -> pa.Table:
    rows = []
    total = seen.timeline.latency_ns or 1.0
    for engine in np.unique(seen.engine).tolist():
        for opcode in np.unique(seen.opcode[seen.engine == engine]).tolist():
            mine = (seen.engine == engine) & (seen.opcode == opcode)
            begin, end = seen.timeline.start_ns[mine], seen.busy_end[mine]
            active = covered(begin, end)
            rows.append(
                {
                    "engine": ENGINE_NAMES[engine].lower() if engine < len(ENGINE_NAMES) else "queue",
                    "opcode": opcode,
                    "instruction_count": int(mine.sum()),
                    "instruction_time_ns": round(float((end - begin).sum())),
                    "active_time_ns": round(active),
                    "active_time_percent": 100 * active / total,
                }
            )
    return pa.Table.from_pylist(rows)


def _tensors(seen: Observed) -> pa.Table:
    trace = seen.trace
    operands = trace.operands
    mine = seen.is_load[seen.owner] & seen.hbm_buffer[operands[:, Operand.BUFFER]]
    total, number = np.zeros(len(trace.buffers), np.int64), np.zeros(len(trace.buffers), np.int64)
    np.add.at(total, operands[mine, Operand.BUFFER], trace.column(Inst.BYTES)[seen.owner[mine]])
    np.add.at(number, operands[mine, Operand.BUFFER], 1)
    stored = np.zeros(len(trace.buffers), np.bool_)
    stored[operands[(operands[:, Operand.FLAGS] & WRITES) != 0, Operand.BUFFER]] = True
    rows = []
    for b in trace.buffers:
        if b.space in ("sbuf", "psum"):
            continue
        size = b.partitions * b.row_bytes
        kind = "IN" if b.role == "input" else "WEIGHT" if b.role == "constant" else "OUT" if stored[b.id] else "DRAM"
        rows.append(
            {
                "variable_name": b.name,
                "type": kind,
                "format": b.dtype,
                "shape": "x".join(map(str, b.shape)),
                "size": size,
                "pcore_idx": b.core,
                "load_to_sbuf_avg_size_bytes": int(total[b.id] // max(number[b.id], 1)),
                "load_to_sbuf_total_size_bytes": int(total[b.id]),
                "load_to_sbuf_dma_count": int(number[b.id]),
                "load_to_sbuf_repeat_factor": float(total[b.id] / size) if size else 0.0,
            }
        )
    return pa.Table.from_pylist(rows)


def usage(seen: Observed, space: str, core: int = 0) -> tuple[Floats, Floats]:
    """(time, bytes per partition in use) at each change: tiles live from their first access to their last."""
    trace, timeline = seen.trace, seen.timeline
    buffer = trace.operands[:, Operand.BUFFER]
    count = len(trace.buffers)
    first, last = np.full(count, np.inf), np.full(count, -np.inf)
    np.minimum.at(first, buffer, timeline.start_ns[seen.owner])
    np.maximum.at(last, buffer, np.maximum(timeline.end_ns, timeline.data_end_ns)[seen.owner])
    ids = [b.id for b in trace.buffers if b.space == space and b.core == core and np.isfinite(first[b.id])]
    if not ids:
        return np.zeros(1), np.zeros(1)
    sizes = np.array([trace.buffers[b].row_bytes for b in ids], np.float64)
    times = np.concatenate([first[ids], last[ids]])
    steps = np.concatenate([sizes, -sizes])
    order = np.lexsort((-steps, times))
    return times[order], np.cumsum(steps[order])


def _fullness(seen: Observed, space: str, capacity: int) -> pa.Table:
    parts = []
    for core in np.unique(seen.core).tolist():
        times, level = usage(seen, space, core)
        percent = np.minimum(100 * level / capacity, 100.0)
        columns: dict[str, Any] = {"timestamp": _ns(times), "avg_util_percent": percent}
        parts.append(pa.table({**columns, "pcore_idx": np.full(len(times), core)}))
    return pa.concat_tables(parts)


def _sbuf(seen: Observed) -> pa.Table:
    return _fullness(seen, "sbuf", seen.machine.sbuf_partition_bytes)


def _psum(seen: Observed) -> pa.Table:
    return _fullness(seen, "psum", seen.machine.psum_partition_bytes)


def _pending(seen: Observed) -> pa.Table:
    """DMAs triggered and not yet done, at each change."""
    parts = []
    for core in np.unique(seen.core).tolist():
        dma = seen.is_dma & (seen.core == core)
        times = np.concatenate([seen.timeline.start_ns[dma], seen.timeline.data_end_ns[dma]])
        steps = np.concatenate([np.ones(int(dma.sum())), -np.ones(int(dma.sum()))])
        order = np.lexsort((-steps, times))
        columns = {"timestamp": _ns(times[order]), "value": np.cumsum(steps[order]).astype(np.int64)}
        parts.append(pa.table({**columns, "pcore_idx": np.full(len(times), core)}))
    return pa.concat_tables(parts)


def _lines(seen: Observed) -> pa.Table:
    by_place = {(seen.trace.lines[k]): seen.source(k) for k in range(len(seen.trace.lines))}
    rows = [
        {
            "file": entry.file,
            "line": entry.line,
            "source": by_place.get((entry.file, entry.line), ""),
            "engine": entry.engine.lower(),
            "busy_us": entry.busy_us,
            "stall_us": entry.stall_us,
            "instruction_count": entry.instructions,
            "dma_bytes": entry.dma_bytes,
        }
        for entry in seen.profile.lines
    ]
    return pa.Table.from_pylist(rows)


_LOOPS = pa.schema(
    [
        ("file", pa.string()),
        ("first_line", pa.int64()),
        ("last_line", pa.int64()),
        ("header", pa.string()),
        ("depth", pa.int64()),
        ("parent_line", pa.int64()),
        ("iterations", pa.int64()),
        ("busy_us", pa.float64()),
        ("own_us", pa.float64()),
        *((f"{name.lower()}_us", pa.float64()) for name in (*ENGINE_NAMES, "DMA")),
        ("active_us", pa.float64()),
        ("stall_us", pa.float64()),
        ("instruction_count", pa.int64()),
        ("dma_bytes", pa.int64()),
        ("helpers", pa.string()),
    ]
)
"""Columns of `SourceLoop`: a kernel without loops has an empty table of the same form."""


def _loops(seen: Observed) -> pa.Table:
    rows = []
    for entry in seen.profile.loops:
        row: dict[str, Any] = {name: getattr(entry, name) for name in _LOOPS.names if hasattr(entry, name)}
        row |= {f"{name.lower()}_us": entry.engines.get(name, 0.0) for name in (*ENGINE_NAMES, "DMA")}
        rows.append({**row, "instruction_count": entry.instructions, "helpers": ", ".join(entry.helpers)})
    return pa.Table.from_pylist(rows, schema=_LOOPS)


def _stalls(seen: Observed) -> pa.Table:
    timeline = seen.timeline
    rows = np.flatnonzero((timeline.wait != Wait.NONE) & (timeline.waited_ns > 0))
    waited = timeline.waited_for[rows]
    end = timeline.start_ns[rows]
    start = end - timeline.waited_ns[rows]
    engines = np.array([*(name.lower() for name in ENGINE_NAMES), "queue"])
    return pa.table(
        {
            "start_ts": _ns(start),
            "end_ts": _ns(end),
            "duration_ns": _ns(end) - _ns(start),
            "engine": engines[seen.engine[rows]],
            "pcore_idx": seen.core[rows],
            "cause": np.array([w.name.lower() for w in Wait])[timeline.wait[rows]],
            "id": rows,
            "nki_source_location": [seen.where(int(k)) for k in seen.line[rows]],
            "wait_for_id": _masked(waited, waited >= 0),
            "wait_for_location": [seen.where(int(seen.line[w])) if w >= 0 else "" for w in waited],
        }
    )


def _metadata(seen: Observed) -> dict[str, Any]:
    m = seen.machine
    return {
        "profile_schema_version": SCHEMA_VERSION,
        "num_physical_cores": seen.trace.cores,
        "vnc_enabled": seen.trace.cores > 1,
        "first_hw_timestamp": 0,
        "last_hw_timestamp": round(seen.timeline.latency_ns),
        "dma_ddr_bandwidth": m.dma_gbps * 1e9,
        "num_dma_engines_per_neuroncore": m.dma_engines,
        "hbm_ddr_bandwidth": m.hbm_stack_gbps * 1e9,
        "tensor_engine_num_rows": m.partitions,
        "tensor_engine_num_cols": m.gemm_stationary_fmax,
        "tensor_engine_clock_freq": m.tensor_ghz,
        "vector_engine_clock_freq": m.vector_ghz,
        "vector_engine_num_channels": m.partitions,
        "scalar_engine_clock_freq": m.scalar_ghz,
        "scalar_engine_num_channels": m.partitions,
        "gpsimd_engine_clock_freq": m.gpsimd_ghz,
        "gpsimd_engine_num_channels": m.partitions,
        "neuroncore_clock_freq": m.scalar_ghz,
        "ticks_per_nanosec": 1,
        "instance_type": m.name,
        "explorer_version": f"kernelwright model {MODEL_VERSION}",
        "compiler_version": seen.profile.compiler_model,
        "is_simulation": True,
    }


def summary(seen: Observed, moved: dict[str, Ints] | None = None) -> dict[str, Any]:
    """The one row of `Summary`: metrics by Neuron Explorer's names, times in seconds."""
    profile, timeline, spills = seen.profile, seen.timeline, seen.timeline.spills
    moved = moved if moved is not None else _traffic(seen)
    seconds = profile.latency_us / 1e6
    dma = seen.is_dma
    software = dma & ((seen.flags & (Flag.SWDGE | Flag.INDIRECT)) != 0)
    hardware = dma & ~software & ((seen.flags & Flag.HWDGE) != 0)
    static = dma & ~software & ~hardware
    every = covered(timeline.start_ns, np.maximum(seen.busy_end, timeline.data_end_ns))
    begin = float(timeline.start_ns.min()) if len(timeline) else 0.0
    transpose = seen.law == "transpose"
    _, transposed, weight = flops(seen.trace, timeline.costs.law)
    inputs = sum(b.row_bytes * b.partitions for b in seen.trace.buffers if b.role in ("input", "constant"))
    found: dict[str, Any] = {
        "total_time": seconds,
        "total_exec_time": (timeline.latency_ns - begin) / 1e9,
        "total_active_time": every / 1e9,
        "total_active_time_percent": 100 * every / (timeline.latency_ns or 1.0),
        "neuroncore_cycle_count": round(timeline.latency_ns * seen.machine.scalar_ghz),
        "model_flops": profile.hardware_flops - profile.transpose_flops,
        "hardware_flops": profile.hardware_flops,
        "transpose_flops": profile.transpose_flops,
        "adjusted_hardware_flops": round(profile.adjusted_hardware_flops),
        "adjusted_transpose_flops": round(float((transposed * weight).sum())),
        "mm_arithmetic_intensity": profile.mm_arithmetic_intensity,
        "peak_flops_bandwidth_ratio": profile.peak_flops_bandwidth_ratio,
        "hfu_estimated_percent": profile.hfu_estimated_percent,
        "mfu_estimated_percent": profile.mfu_estimated_percent,
        "mfu_inst_estimated_percent": profile.mfu_estimated_percent,
        "mfu_max_achievable_estimated_percent": profile.mfu_max_achievable_estimated_percent,
        "mbu_estimated_percent": profile.mbu_estimated_percent,
        "mbu_min_read_util_percent": _minimum_read(seen, inputs),
        "total_row_count": len(seen.trace),
        "dma_active_time": profile.dma_active_us / 1e6,
        "dma_active_time_percent": profile.dma_active_percent,
        "dma_active_cycles": round(profile.dma_active_us * 1e3 * seen.machine.scalar_ghz),
        "dma_packet_time": _packet_time(seen) / 1e9,
        "dma_transfer_time": float(
            (timeline.data_end_ns - timeline.data_start_ns)[dma].sum() + (spills.data_end_ns - spills.data_start_ns).sum()
        ) / 1e9,
        "dma_transfer_count": profile.dma_transfer_count,
        "dma_transfer_average_bytes": profile.dma_transfer_average_bytes,
        "dma_transfer_total_bytes": int(seen.trace.column(Inst.BYTES)[dma].sum()) + int(spills.moved_bytes.sum()),
        "dma_queue_count": len(np.unique(timeline.lane[dma])),
        "inputs_and_weights_size_bytes": inputs,
        "hbm_read_bytes": profile.hbm_read_bytes,
        "hbm_write_bytes": profile.hbm_write_bytes,
        "spill_save_bytes": profile.spill_save_bytes,
        "spill_reload_bytes": profile.spill_reload_bytes,
        "psum_read_sbuf_write_count": int((moved["psum_read_sbuf_write_bytes"] > 0).sum()),
        "matmul_instruction_count": int(((seen.law == "matmul") | transpose).sum()),
        "activate_instruction_count": int((seen.law == "scalar").sum()),
        "activate_instruction_time": float(
            (seen.busy_end - timeline.start_ns)[seen.law == "scalar"].sum() / 1e9
        ),
    }  # fmt: skip
    for name in ("sbuf_read_bytes", "sbuf_write_bytes", "psum_read_bytes", "psum_write_bytes"):
        found[name] = int(moved[name].sum())
    found["psum_read_sbuf_write_bytes"] = int(moved["psum_read_sbuf_write_bytes"].sum())
    for name, mine in (("static", static), ("software_dynamic", software), ("hardware_dynamic", hardware)):
        low, high = timeline.data_start_ns[mine], timeline.data_end_ns[mine]
        size = int(seen.trace.column(Inst.BYTES)[mine].sum())
        if name == "static":  # the compiler's own transfers are known before the launch
            low, high = np.concatenate([low, spills.data_start_ns]), np.concatenate([high, spills.data_end_ns])
            size += int(spills.moved_bytes.sum())
        active = covered(low, high)
        found[f"{name}_dma_active_time"] = active / 1e9
        found[f"{name}_dma_active_time_percent"] = 100 * active / (timeline.latency_ns or 1.0)
        found[f"{name}_dma_size"] = size
        found[f"{name}_dma_size_percent"] = 100 * size / max(found["dma_transfer_total_bytes"], 1)
    found.update(_engine_summary(profile))
    found.update(_ratios(seen, found, software | hardware))
    return found


def _ratios(seen: Observed, found: dict[str, Any], dynamic: NDArray[np.bool_]) -> dict[str, Any]:
    """Metrics made of others. Reloads are both kinds: inputs read again and intermediates loaded back.

    The ratios of reloads and saves are of all bytes that DMAs and instructions read from and write to SBUF.
    """
    profile, timeline = seen.profile, seen.timeline
    active = covered(timeline.data_start_ns[dynamic], timeline.data_end_ns[dynamic])
    touched = max(found["sbuf_read_bytes"] + found["sbuf_write_bytes"], 1)
    collective = seen.law == "collective"
    begin, end = timeline.start_ns[collective], timeline.end_ns[collective]
    outputs = sum(b.row_bytes * b.partitions for b in seen.trace.buffers if b.role in ("shared", "output"))
    reloaded = profile.reload_read_bytes + profile.spill_reload_bytes
    return {
        "dynamic_dma_active_time_percent": 100 * active / (timeline.latency_ns or 1.0),
        "dynamic_dma_size_percent": found["software_dynamic_dma_size_percent"]
        + found["hardware_dynamic_dma_size_percent"],
        "inputs_outputs_weights_size_bytes": found["inputs_and_weights_size_bytes"] + outputs,
        "weight_size_bytes": sum(b.row_bytes * b.partitions for b in seen.trace.buffers if b.role == "constant"),
        "mfu_inst_max_achievable_estimated_percent": profile.mfu_max_achievable_estimated_percent,
        "average_dma_size": profile.dma_transfer_average_bytes,
        "hbm_reload_bytes": reloaded,
        "useful_read_percent": 100 * (1 - reloaded / profile.hbm_read_bytes) if profile.hbm_read_bytes else 100.0,
        "sbuf_reload_ratio": profile.spill_reload_bytes / touched,
        "sbuf_save_ratio": profile.spill_save_bytes / touched,
        "cc_op_count": int(collective.sum()),
        "cc_op_time": float((end - begin).sum()) / 1e9,
        "cc_op_active_time": covered(begin, end) / 1e9,
        "cc_op_active_time_percent": 100 * covered(begin, end) / (timeline.latency_ns or 1.0),
    }


def _engine_summary(profile: Profile) -> dict[str, Any]:
    """Times of each engine, summed over cores (percentages: averaged)."""
    found: dict[str, Any] = {}
    for name in ENGINE_NAMES:
        mine = [e for e in profile.engines if e.engine == name]
        key = f"{name.lower()}_engine"
        found[f"{key}_instruction_time"] = sum(e.instruction_us for e in mine) / 1e6
        found[f"{key}_active_time"] = sum(e.busy_us for e in mine) / 1e6
        found[f"{key}_active_time_percent"] = sum(e.active_percent for e in mine) / max(len(mine), 1)
        found[f"{key}_instruction_count"] = sum(e.instructions for e in mine)
    return found


def _minimum_read(seen: Observed, inputs: int) -> float:
    total = seen.timeline.latency_ns or 1.0
    return 100 * min(inputs, seen.profile.input_read_bytes) / total / seen.machine.hbm_stack_gbps


def _packet_time(seen: Observed) -> float:
    """Time that each DMA engine moved data, summed over the engines, ns."""
    cost = seen.timeline.costs
    return (
        float((cost.work_ns * (cost.last_engine - cost.first_engine))[seen.is_dma].sum())
        + seen.timeline.spills.engine_ns
    )
