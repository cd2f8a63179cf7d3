"""What the page shows, as plain JSON values: figures, timeline blocks, source lines, findings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tools.export.tables import usage
from tools.figures import amount
from tools.insight import Advice, Explanation, Generation, Observed
from tools.insight.critical import path_shares
from tools.insight.gaps import behind
from tools.insight.questions import verdict
from tools.sim.instruction import Inst
from tools.sim.machine import MODEL_VERSION
from tools.sim.profiler import ENGINE_NAMES
from tools.sim.timing import Wait

MOST_POINTS = 2000
"""Points of a memory's fullness; of more, the highest of each stretch."""
MOST_BLOCKS = 60_000
"""Blocks on the timeline; longer launches join neighbours of one line, and the page says so."""


def content(
    seen: Observed,
    title: str,
    advice: tuple[Advice, ...],
    explanations: tuple[Explanation, ...],
    generations: tuple[Generation, ...],
    warnings: Sequence[str] = (),
) -> dict[str, Any]:
    """Everything that the page's script draws from."""
    profile = seen.profile
    return {
        "title": title,
        "target": seen.machine.name,
        "model": MODEL_VERSION,
        "compiler": profile.compiler_model,
        "latency": profile.latency_us,
        "bottleneck": profile.bottleneck,
        "verdict": verdict(seen),
        "warnings": list(warnings),
        "instructions": profile.instructions,
        "bounds": {"memory": profile.memory_us, "compute": profile.compute_us, "pipeline": profile.pipeline_us},
        "figures": _figures(seen),
        "engines": [
            {
                "name": f"{e.engine}{f' (core {e.core})' if seen.trace.cores > 1 else ''}",
                "busy": e.busy_us,
                "idle": e.idle_us,
                "percent": e.active_percent,
                "count": e.instructions,
            }
            for e in profile.engines
        ]
        + [
            {
                "name": "DMA",
                "busy": profile.dma_active_us,
                "idle": profile.latency_us - profile.dma_active_us,
                "percent": profile.dma_active_percent,
                "count": profile.dma_transfer_count,
            }
        ],
        "timeline": _timeline(seen),
        "roofline": _roofline(seen),
        "loops": _loops(seen),
        "sources": _sources(seen),
        "advice": [
            {
                "rule": a.rule,
                "symptom": a.symptom,
                "evidence": a.evidence,
                "change": a.change,
                "gain": a.gain_us,
                "percent": None if a.proof is None else a.proof.gain_percent,
                "proof": "" if a.proof is None else a.proof.change,
                "bound": a.proof is not None and a.proof.is_bound,
                "caveat": "" if a.proof is None else a.proof.caveat,
                "places": _places(seen, a.lines),
            }
            for a in advice
        ],
        "idle": [
            {
                "engine": x.engine if seen.trace.cores < 2 else f"{x.engine} {x.core}",
                "percent": x.idle_percent,
                "idle": x.idle_us,
                "causes": [{"us": c.us, "share": c.share, "text": c.sentence, "where": c.where} for c in x.causes],
                "behind": behind(seen, x),
                "remedies": [c.sentence for c in x.counterfactuals],
            }
            for x in explanations
        ],
        "path": [
            {"where": p.where, "opcode": p.opcode, "us": p.us, "share": p.share, "count": p.count}
            for p in path_shares(seen)[:12]
        ],
        "generations": [g.to_json() for g in generations],
    }


def _places(seen: Observed, numbers: Sequence[int]) -> list[str]:
    """`file:line` of line numbers that instructions come from."""
    wanted = dict.fromkeys(numbers)
    found = {seen.number(k): seen.where(k) for k in range(len(seen.trace.lines)) if seen.number(k) in wanted}
    return [found[k] for k in wanted if k in found]


def _figures(seen: Observed) -> list[list[str]]:
    p = seen.profile
    return [
        ["HBM read", amount(p.hbm_read_bytes)],
        ["HBM written", amount(p.hbm_write_bytes)],
        ["read again", amount(p.reload_read_bytes)],
        ["spilled", amount(p.spill_save_bytes)],
        ["loaded back", amount(p.spill_reload_bytes)],
        ["MBU", f"{p.mbu_estimated_percent:.1f}%"],
        ["MFU", f"{p.mfu_estimated_percent:.1f}%"],
        ["HFU", f"{p.hfu_estimated_percent:.1f}%"],
        ["FLOP/byte", f"{p.mm_arithmetic_intensity:.1f}"],
        ["ridge", f"{p.peak_flops_bandwidth_ratio:.1f}"],
        ["PE rows", f"{p.pe_row_utilisation_percent:.0f}%"],
        ["PE columns", f"{p.pe_column_utilisation_percent:.0f}%"],
        ["DMA size", amount(p.dma_transfer_average_bytes)],
        ["instructions", f"{p.instructions}"],
    ]


def _timeline(seen: Observed) -> dict[str, Any]:
    """Lanes and blocks: lane, start, duration, line id, opcode id, first instruction, count; stalls alike with causes."""
    timeline = seen.timeline
    lanes, rows = _lanes(seen)
    opcodes, codes = np.unique(seen.opcode, return_inverse=True)
    codes = codes.reshape(-1)
    blocks = []
    for lane, (start, end, which) in enumerate(rows):
        blocks += _blocks(seen, lane, start, end, which, codes, sum(len(r[2]) for r in rows))
    engine_lane = {name: k for k, name in enumerate(lanes)}
    waits = np.flatnonzero((timeline.wait != Wait.NONE) & (timeline.waited_ns > 0) & (seen.engine < len(ENGINE_NAMES)))
    waits = waits[np.argsort(-timeline.waited_ns[waits], kind="stable")][:MOST_BLOCKS]
    stalls = []
    for i in waits.tolist():
        lane_name = _lane_name(seen, int(seen.engine[i]), int(seen.core[i]))
        if lane_name not in engine_lane:
            continue
        waited = int(timeline.waited_for[i])
        stalls.append(
            [
                engine_lane[lane_name],
                round(float(timeline.start_ns[i] - timeline.waited_ns[i]) / 1e3, 4),
                round(float(timeline.waited_ns[i]) / 1e3, 4),
                int(seen.line[i]),
                int(timeline.wait[i]),
                int(seen.line[waited]) if waited >= 0 else -1,
                round(float(timeline.start_ns[waited]) / 1e3, 4) if waited >= 0 else -1,
            ]
        )
    spills = _spills(seen, len(lanes), len(opcodes))
    if spills:
        lanes.append("spills")
    return {
        "lanes": lanes,
        "blocks": blocks + spills,
        "stalls": stalls,
        "usage": _usage(seen),
        "opcodes": [*opcodes.tolist(), *(["spill save", "spill reload"] if spills else [])],
        "causes": [w.name.lower() for w in Wait],
        "lines": [[seen.where(k), seen.source(k), seen.number(k)] for k in range(len(seen.trace.lines))],
        "drawn": len(blocks),
        "total": sum(len(r[2]) for r in rows),
    }


def _spills(seen: Observed, lane: int, code: int) -> list[list[float | int]]:
    """The compiler model's own transfers, on a lane of theirs; they belong to no line and no instruction."""
    spills = seen.timeline.spills
    rows = np.argsort(spills.data_start_ns, kind="stable")
    rows = rows[:: -(-len(rows) // MOST_BLOCKS)] if len(rows) else rows
    start, end = spills.data_start_ns[rows], spills.data_end_ns[rows]
    return [
        [lane, round(float(s) / 1e3, 4), round(float(e - s) / 1e3, 4), -1, code if save else code + 1, -1, 1]
        for s, e, save in zip(start, end, spills.saves[rows])
    ]


def _usage(seen: Observed) -> list[dict[str, Any]]:
    """Bytes a partition in use over time, by memory and core: (time, the most since the last point)."""
    found = []
    capacity = {"sbuf": seen.machine.sbuf_partition_bytes, "psum": seen.machine.psum_partition_bytes}
    for core in range(max(seen.trace.cores, 1)):
        for space, most in capacity.items():
            times, level = usage(seen, space, core)
            if not level.any():
                continue
            piece = -(-len(times) // MOST_POINTS)
            starts = np.arange(0, len(times), piece)
            points = zip((times[starts] / 1e3).round(4).tolist(), np.maximum.reduceat(level, starts).tolist())
            name = space.upper() + (f" {core}" if seen.trace.cores > 1 else "")
            found.append({"name": name, "capacity": most, "points": [list(p) for p in points]})
    return found


def _lane_name(seen: Observed, engine: int, core: int) -> str:
    return ENGINE_NAMES[engine] + (f" {core}" if seen.trace.cores > 1 else "")


def _lanes(seen: Observed) -> tuple[list[str], list[tuple[Any, Any, Any]]]:
    timeline = seen.timeline
    names: list[str] = []
    rows: list[tuple[Any, Any, Any]] = []
    for core in range(max(seen.trace.cores, 1)):
        for engine in range(len(ENGINE_NAMES)):
            mine = np.flatnonzero((seen.engine == engine) & (seen.core == core))
            if len(mine):
                names.append(_lane_name(seen, engine, core))
                rows.append((timeline.start_ns[mine], timeline.issue_ns[mine], mine))
        for name, which in (("DMA loads", seen.is_dma & ~seen.is_store), ("DMA stores", seen.is_store & seen.is_dma)):
            mine = np.flatnonzero(which & (seen.core == core))
            if len(mine):
                names.append(name + (f" {core}" if seen.trace.cores > 1 else ""))
                rows.append((timeline.data_start_ns[mine], timeline.data_end_ns[mine], mine))
    return names, rows


def _blocks(
    seen: Observed, lane: int, start: Any, end: Any, which: Any, codes: Any, total: int
) -> list[list[float | int]]:
    order = np.argsort(start, kind="stable")
    start, end, which = start[order], end[order], which[order]
    fresh = np.ones(len(which), np.bool_)
    quota = max(MOST_BLOCKS * len(which) // max(total, 1), 1)
    if total > MOST_BLOCKS:
        # Join neighbours of one line whose gap is too small to be seen.
        least = seen.timeline.latency_ns / MOST_BLOCKS
        fresh[1:] = (seen.line[which][1:] != seen.line[which][:-1]) | (start[1:] - end[:-1] > least)
    alike = True
    if fresh.sum() > quota:
        # Still too many: one block for each stretch of time, as long as what ran in it.
        stretch = (start // (seen.timeline.latency_ns / quota)).astype(np.int64)
        fresh[1:] = stretch[1:] != stretch[:-1]
        alike = False
    firsts = np.flatnonzero(fresh)
    counts = np.diff(np.append(firsts, len(which)))
    last = np.maximum.reduceat(end, firsts) if len(firsts) else end
    long = last - start[firsts] if alike or not len(firsts) else np.add.reduceat(end - start, firsts)
    room = np.append(start[firsts][1:], np.inf) - start[firsts]
    return [
        [lane, round(float(s) / 1e3, 4), round(float(d) / 1e3, 4), int(seen.line[w]), int(codes[w]), int(w), int(c)]
        for s, d, w, c in zip(start[firsts], long if alike else np.minimum(long, room), which[firsts], counts)
    ]


def _roofline(seen: Observed) -> dict[str, Any]:
    """Peaks in TFLOP/s and TB/s and the launch's point; launches without matmuls count elementwise operations."""
    m, p = seen.machine, seen.profile
    cores = max(seen.trace.cores, 1)
    moved = max(p.hbm_read_bytes + p.hbm_write_bytes, 1)
    useful = p.hardware_flops - p.transpose_flops
    seconds = (p.latency_us or 1.0) / 1e6
    roof = 0.0
    if useful:
        # The roof of what was multiplied: a float32 pass counts four times against the bf16 peak.
        roof = m.peak_tflops("bfloat16") * cores * p.hardware_flops / max(p.adjusted_hardware_flops, 1.0)
        peaks = [
            [f"{name} peak", m.peak_tflops(kind) * cores] for name, kind in (("bf16", "bfloat16"), ("fp32", "float32"))
        ]
        unit = "FLOP"
    else:
        lanes = np.isin(seen.engine, [1, 2, 3]) & ~seen.is_dma
        useful = int((seen.trace.column(Inst.FREE) * seen.trace.column(Inst.PARTITIONS))[lanes].sum())
        peaks = [["Vector + Scalar peak", m.partitions * (m.vector_ghz + m.scalar_ghz) / 1e3 * cores]]
        unit = "element operation"
    return {
        "peaks": peaks,
        "roof": roof or peaks[0][1],
        "bandwidth": m.hbm_gbps * cores / 1e3,
        "intensity": useful / moved,
        "achieved": useful / seconds / 1e12,
        "unit": unit,
    }


def _loops(seen: Observed) -> list[dict[str, Any]]:
    return [
        {
            "where": f"{_name(entry.file)}:{entry.first_line}",
            "header": entry.header,
            "depth": entry.depth,
            "iterations": entry.iterations,
            "busy": entry.busy_us,
            "engines": [[name, us] for name, us in entry.engines.items()],
            "active": entry.active_us,
            "stall": entry.stall_us,
            "count": entry.instructions,
            "bytes": amount(entry.dma_bytes) if entry.dma_bytes else "",
            "helpers": list(entry.helpers),
        }
        for entry in seen.profile.loops
    ]


def _name(file: str) -> str:
    """A file's name without its folder."""
    return file.replace("\\", "/").rsplit("/", 1)[-1]


def _sources(seen: Observed) -> list[dict[str, Any]]:
    used: dict[str, dict[int, Any]] = {}
    for entry in seen.profile.lines:
        used.setdefault(entry.file, {})[entry.line] = {
            "busy": entry.busy_us,
            "stall": entry.stall_us,
            "count": entry.instructions,
            "bytes": entry.dma_bytes,
            "engine": entry.engine,
        }
    found = []
    for file, lines in used.items():
        text = seen.trace.sources.get(file, "").splitlines()
        found.append(
            {
                "file": _name(file),
                "lines": text,
                "use": {str(k): v for k, v in lines.items()},
            }
        )
    return found
