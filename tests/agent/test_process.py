"""Runs as processes: kill -9 and resume, Ctrl-C, exit statuses, files, JSON."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


class Process:
    """The command line in a home of its own."""

    def __init__(self, folder: Path, delay: float = 0.0) -> None:
        self.log = folder / "judged.log"
        self.out = folder / "out"
        self._delay = str(delay)
        self._environment = {**os.environ, "KERNELWRIGHT_HOME": str(folder / "home")}

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "tests.agent.fake_cli", str(self.log), self._delay, *arguments]
        return subprocess.Popen(
            command,
            cwd=ROOT,
            env=self._environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments: str, stdin: str = "") -> tuple[int, str, str]:
        process = self.start(*arguments)
        out, err = process.communicate(stdin, timeout=60)
        return process.returncode, out, err

    def lines(self) -> list[str]:
        return self.log.read_text().splitlines() if self.log.exists() else []

    def wait_for(self, line_count: int) -> None:
        end = time.monotonic() + 30
        while len(self.lines()) < line_count:
            assert time.monotonic() < end, self.lines()
            time.sleep(0.01)


def test_killed_in_mid_run_it_goes_on_where_it_stopped(tmp_path: Path) -> None:
    process = Process(tmp_path, delay=0.4)
    writing = process.start("write", "double x", "--out", str(process.out))
    process.wait_for(5)  # two kernels judged, the third begun
    writing.send_signal(signal.SIGKILL)
    writing.wait(10)
    assert not process.out.joinpath("report.json").exists()

    _, listed, _ = process.run("runs", "--json")
    (row,) = json.loads(listed)
    assert row["status"] == "interrupted"
    run_id = row["run_id"]
    spent = row["used"]["seconds"]
    assert row["used"]["attempts"] == 2
    _, shown, _ = process.run("show", run_id)
    assert "unfinished (interrupted)" in shown
    assert "90.00 us simulated" in shown

    status, printed, progress = process.run("resume", run_id, "--json", "--out", str(process.out))
    report = json.loads(printed)
    assert status == 0
    assert report["goal_met"]
    assert report["attempts"] == 6
    assert report["seconds"] > spent
    ended = [line for line in process.lines() if line.startswith("end")]
    assert len(ended) == len(set(ended)) == 6, "no finished attempt was repeated"
    assert "goes on" in progress
    assert json.loads(process.out.joinpath("report.json").read_text()) == report
    assert process.out.joinpath("kernel.py").read_text() == report["kernel"]


def test_ctrl_c_writes_the_best_kernel_and_exits_130(tmp_path: Path) -> None:
    process = Process(tmp_path, delay=0.3)
    writing = process.start("write", "double x", "--out", str(process.out))
    process.wait_for(3)
    writing.send_signal(signal.SIGINT)
    out, err = writing.communicate(timeout=30)
    assert writing.returncode == 130, err
    report = json.loads(process.out.joinpath("report.json").read_text())
    assert report["stop"] == "cancelled"
    assert report["correct"]
    assert process.out.joinpath("kernel.py").exists()
    assert "latency" in process.out.joinpath("kernel.py").read_text()
    assert "Traceback" not in err + out


def test_a_run_prints_kernel_evidence_engines_and_changes(tmp_path: Path) -> None:
    process = Process(tmp_path)
    status, out, err = process.run("write", "double x")
    assert status == 0
    for words in ("def kernel(x)", "draw 1", "Vector Engine", "100.0% reached", "2.00x over", "Limits", "goal is met"):
        assert words in out, words
    assert "check 1" in err
    assert "\x1b" not in out + err, "no colours on a pipe"


def test_json_is_alone_on_standard_output(tmp_path: Path) -> None:
    status, out, _ = Process(tmp_path).run("write", "double x", "--json")
    assert status == 0
    report = json.loads(out)
    wanted = {
        "request", "target", "goal", "goal_met", "correct", "max_rel_error", "latency_us", "roofline_fraction",
        "attempts", "seconds", "policy", "model_version", "limits",
    }  # fmt: skip
    assert wanted <= set(report)
    assert all(isinstance(limit, str) and limit for limit in report["limits"])


def test_a_missed_goal_is_status_1_and_the_kernel_is_written(tmp_path: Path) -> None:
    process = Process(tmp_path)
    status, out, _ = process.run("write", "double x", "--goal", "latency<=1us", "--out", str(process.out))
    assert status == 1
    assert "not met" in out
    assert process.out.joinpath("kernel.py").exists()
