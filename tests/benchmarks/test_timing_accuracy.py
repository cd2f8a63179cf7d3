"""The comparison with devices says what it measured, also where the kernels' repositories aren't there."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("to_file", [False, True])
def test_kernels_that_do_not_run_count_as_wholly_off(tmp_path: Path, to_file: bool) -> None:
    report = tmp_path / "scores.json"
    command = [sys.executable, str(ROOT / "benchmarks" / "timing_accuracy.py"), "--repos", str(tmp_path)]
    command += ["--ids", "^accelopt-trn1-swiglu-base$", "--jobs", "1", "--json", *([str(report)] if to_file else [])]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert done.returncode == 1, done.stderr
    overall = json.loads(report.read_text() if to_file else done.stdout)["overall"]
    assert (overall["points"], overall["failed"], overall["median_abs_error"]) == (1, 1, 1.0)
    assert ("model, all" in done.stdout) is to_file
