"""The benchmark of what candidates cost still runs, and both ways of searching agree."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_a_smoke_run_gives_every_figure() -> None:
    command = [sys.executable, str(ROOT / "benchmarks" / "candidates.py"), "--smoke", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    (row,) = report["jobs"].values()
    assert row["cold_s"] > row["job_s"] > 0
    assert row["in_process_s"] > 0
    assert report["search"]["gain"] > 0
