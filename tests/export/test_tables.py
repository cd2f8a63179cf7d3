import gzip
import json
from collections import defaultdict
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings

from tests.insight.conftest import blocked, record
from tests.insight.test_gaps import programs
from tests.sim.test_timing_spilling import held
from tools.export import query, tables, to_perfetto, write_parquet, write_perfetto, write_text
from tools.insight import Observed
from tools.sim.execute import SimResult
from tools.sim.instruction import Inst, Trace
from tools.sim.machine import machine

assert blocked  # a fixture

EXPLORER_INSTRUCTION = (
    "start_ts end_ts duration_ns engine pcore_idx opcode operands id pc evt_wait_time_ns nki_source_location dma_wait_time_ns "
    "hbm_read_bytes hbm_write_bytes sbuf_read_bytes sbuf_write_bytes psum_read_bytes psum_write_bytes "
    "psum_read_sbuf_write_bytes performance_mode tensor_instruction_type raw_flops adjusted_flops flops_transpose"
).split()
EXPLORER_SUMMARY = (
    "total_time total_exec_time total_active_time neuroncore_cycle_count hardware_flops transpose_flops model_flops "
    "hfu_estimated_percent mfu_estimated_percent mfu_max_achievable_estimated_percent mm_arithmetic_intensity "
    "peak_flops_bandwidth_ratio mbu_estimated_percent mbu_min_read_util_percent hbm_read_bytes hbm_write_bytes "
    "spill_save_bytes spill_reload_bytes dma_active_time dma_active_time_percent dma_packet_time dma_transfer_count "
    "dma_transfer_average_bytes tensor_engine_active_time tensor_engine_active_time_percent "
    "tensor_engine_instruction_time vector_engine_active_time scalar_engine_active_time gpsimd_engine_active_time "
    "sync_engine_active_time psum_read_sbuf_write_count"
).split()


@pytest.fixture
def seen(blocked: Callable[..., SimResult]) -> Observed:
    result = blocked(512)
    return Observed.of(result.trace, result.machine)


def test_columns_have_the_names_of_neuron_explorers_schema(seen: Observed) -> None:
    found = tables(seen)
    assert set(EXPLORER_INSTRUCTION) <= set(found["Instruction"].column_names)
    assert set(EXPLORER_SUMMARY) <= set(found["Summary"].column_names)
    assert found["Summary"].num_rows == found["Metadata"].num_rows == 1
    assert found["Instruction"].schema.field("start_ts").type == pa.int64()


@settings(max_examples=15, deadline=None)
@given(programs())
def test_tables_agree_with_the_profile(trace: Trace) -> None:
    launch = Observed.of(trace, machine(trace.target))
    found = tables(launch)
    summary = found["Summary"].to_pylist()[0]
    profile = launch.profile
    assert summary["total_time"] == pytest.approx(profile.latency_us / 1e6)
    instructions = found["Instruction"]
    for name in ("hbm_read_bytes", "hbm_write_bytes"):
        assert sum(instructions[name].to_pylist()) == summary[name] == getattr(profile, name)
    assert sum(found["DmaPacketAggregated"]["transfer_bytes"].to_pylist()) == int(trace.column(Inst.BYTES).sum())
    assert sum(instructions["raw_flops"].to_pylist()) == profile.hardware_flops == summary["hardware_flops"]
    for use in profile.engines:
        assert summary[f"{use.engine.lower()}_engine_active_time"] == pytest.approx(use.busy_us / 1e6, abs=1e-12)
        active = found["ActiveTime"].filter(pc.equal(found["ActiveTime"]["engine"], use.engine.lower()))
        spans = len(active)
        assert sum(active["duration_ns"].to_pylist()) == pytest.approx(use.busy_us * 1e3, abs=spans + 1)


def test_usage_never_exceeds_the_memory_and_ends_empty(seen: Observed) -> None:
    for name in ("SbufUsage", "PsumUsage"):
        percent = np.array(tables(seen)[name]["avg_util_percent"].to_pylist())
        assert percent.max() > 0
        assert percent.max() <= 100
        assert percent[-1] == pytest.approx(0)


def test_a_repeat_factor_counts_the_reloads(seen: Observed) -> None:
    rows = {r["variable_name"]: r for r in tables(seen)["TensorInfo"].to_pylist()}
    assert rows["x"]["load_to_sbuf_repeat_factor"] == 1.0
    assert rows["w"]["load_to_sbuf_repeat_factor"] == 4.0
    assert rows["x"]["type"] == "IN"


def test_loops_are_a_table_and_add_up_by_engine(seen: Observed) -> None:
    found = query(
        tables(seen), "SELECT header, iterations, parent_line, busy_us, tensor_us, dma_us FROM SourceLoop"
    ).rows
    assert [(row[0][:5], row[1]) for row in found] == [("for m", 4), ("for n", 4), ("for k", 16)]
    kernel = {entry.first_line: entry for entry in seen.profile.loops}
    for _, _, parent, busy, tensor, dma in found:
        assert parent in (0, *kernel)
        assert 0 < tensor < busy
        assert 0 < dma < busy


def test_a_kernel_without_loops_has_the_table_empty() -> None:
    source = (
        "import nki\nimport nki.language as nl\nimport nki.isa as nisa\n\n@nki.jit\ndef kernel(x):\n"
        "    out = nl.ndarray(x.shape, dtype=x.dtype, buffer=nl.shared_hbm)\n    nisa.dma_copy(out, x)\n    return out\n"
    )
    result = record(source, np.zeros((128, 64), np.float32))
    found = tables(Observed.of(result.trace, result.machine))["SourceLoop"]
    assert found.num_rows == 0
    assert "iterations" in found.column_names


def test_parquet_files_read_back_and_answer_sql(seen: Observed, tmp_path: Path) -> None:
    found = tables(seen)
    files = write_parquet(tmp_path / "profile", found)
    assert [f.stem for f in files] == list(found)
    back = {f.stem: pq.read_table(f) for f in files}
    assert back["Instruction"].equals(found["Instruction"])
    sql = "SELECT engine, sum(duration_ns) AS ns FROM Instruction WHERE engine = 'tensor' GROUP BY engine"
    assert query(back, sql) == query(found, sql)
    assert [p.name for p in tmp_path.iterdir()] == ["profile"], "nothing temporary is left"


def test_a_failed_write_leaves_nothing(seen: Observed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(table: pa.Table, where: Path, **_: object) -> None:
        where.write_bytes(b"half a file")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pq, "write_table", full)
    with pytest.raises(OSError, match="No space"):
        write_parquet(tmp_path / "profile", tables(seen))
    assert list(tmp_path.iterdir()) == []


def test_a_failed_text_keeps_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "report.html"
    write_text(target, "old")
    with pytest.raises(UnicodeEncodeError):
        write_text(target, "\ud800")
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_perfetto_threads_are_named_and_their_slices_never_cross(seen: Observed, tmp_path: Path) -> None:
    write_perfetto(tmp_path / "t.json", seen)
    document = json.loads((tmp_path / "t.json").read_text())
    assert document == json.loads(json.dumps(to_perfetto(seen)))
    write_perfetto(tmp_path / "t.json.gz", seen)
    assert json.loads(gzip.decompress((tmp_path / "t.json.gz").read_bytes())) == document
    events = document["traceEvents"]
    named = {(e["pid"], e["tid"]) for e in events if e["name"] == "thread_name"}
    assert any(e["name"] == "process_name" for e in events)
    by_thread = defaultdict(list)
    for e in events:
        if e["ph"] == "X":
            by_thread[e["pid"], e["tid"]].append((e["ts"], e["ts"] + e["dur"]))
    assert set(by_thread) <= named
    for spans in by_thread.values():
        spans.sort()
        assert all(b[0] >= a[1] - 1e-6 for a, b in pairwise(spans))


def test_perfetto_slices_carry_line_opcode_operands_and_waits(seen: Observed) -> None:
    events = to_perfetto(seen)["traceEvents"]
    matmuls = [e for e in events if e["ph"] == "X" and e["name"] == "nc_matmul"]
    assert len(matmuls) == 16
    args = matmuls[0]["args"]
    assert args["opcode"] == "nc_matmul"
    assert args["text"].startswith("nisa.nc_matmul")
    assert args["source"] == f"kernel.py:{args['line']}"
    assert args["operands"].count("src=") == 2
    starts = {e["id"] for e in events if e["ph"] == "s"}
    ends = {e["id"] for e in events if e["ph"] == "f"}
    assert starts == ends
    assert args["instruction"] in ends
    assert any(e["ph"] == "X" and e["name"] == "wait: dma" for e in events)


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "real.txt").write_text("old")
    (tmp_path / "link.txt").symlink_to("real.txt")
    write_text(tmp_path / "link.txt", "new")
    assert (tmp_path / "link.txt").is_symlink()
    assert (tmp_path / "real.txt").read_text() == "new"


def test_a_new_folder_of_tables_appears_as_a_whole(
    seen: Observed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = tables(seen)
    written = write_parquet(tmp_path / "new" / "tables", found)
    assert sorted(p.stem for p in written) == sorted(found)
    assert all(p.is_file() for p in written)
    assert (tmp_path / "new" / "tables").stat().st_mode & 0o555 == 0o555
    monkeypatch.setattr(pq, "write_table", lambda *a, **k: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_parquet(tmp_path / "other", found)
    assert [p.name for p in tmp_path.iterdir()] == ["new"]


def test_shares_of_the_summary_follow_from_its_bytes(seen: Observed) -> None:
    (row,) = tables(seen)["Summary"].to_pylist()
    assert row["useful_read_percent"] == pytest.approx(100 * (1 - row["hbm_reload_bytes"] / row["hbm_read_bytes"]))
    assert row["hbm_reload_bytes"] == seen.profile.reload_read_bytes > 0
    parts = [row[f"{kind}_dma_size_percent"] for kind in ("static", "software_dynamic", "hardware_dynamic")]
    assert sum(parts) == pytest.approx(100)
    assert row["dynamic_dma_size_percent"] == pytest.approx(sum(parts[1:]))
    assert row["inputs_outputs_weights_size_bytes"] == sum(
        b.row_bytes * b.partitions for b in seen.trace.buffers if b.space not in ("sbuf", "psum")
    )
    assert row["cc_op_count"] == 0


def test_spills_of_the_compiler_model_are_in_the_tables_and_add_up() -> None:
    launch = Observed.of(held(6), machine("trn1"))
    found, spills = tables(launch), launch.timeline.spills
    assert spills.transfers == 6
    (row,) = found["Summary"].to_pylist()
    packets = found["DmaPacketAggregated"]
    for name, total in (("read_bytes", "hbm_read_bytes"), ("write_bytes", "hbm_write_bytes")):
        assert pc.sum(packets[name]).as_py() == row[total] == getattr(launch.profile, total)
    assert pc.sum(packets["transfer_bytes"]).as_py() == row["dma_transfer_total_bytes"]
    own = packets.filter(pc.equal(packets["variable"], "spill"))
    assert own["id"].null_count == len(own) == row["dma_transfer_count"] - 6
    assert sorted(set(own["queue_name"].to_pylist())) == ["qSpillReload", "qSpillSave"]
    active = found["ActiveTime"].filter(pc.equal(found["ActiveTime"]["engine"], "dma"))
    assert pc.sum(active["duration_ns"]).as_py() == pytest.approx(
        launch.profile.dma_active_us * 1e3, abs=len(active) + 1
    )
    events = [e for e in to_perfetto(launch)["traceEvents"] if e.get("cat") == "spill"]
    assert sum(e["args"]["bytes"] for e in events if e["ph"] == "b") == spills.save_bytes + spills.reload_bytes
    assert sum(
        row[f"{kind}_dma_size_percent"] for kind in ("static", "software_dynamic", "hardware_dynamic")
    ) == pytest.approx(100)
