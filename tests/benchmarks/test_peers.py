"""The comparison with other simulators: our side runs, and a machine without them is told apart from a failure."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "benchmarks" / "peers.py"

FAKE_PEER = """
import json, sys
print(json.dumps({"version": "0", "choices": {n: [{"b": 1}, {"b": 2}] for n in ("softmax", "layernorm", "matmul", "attention")}}), flush=True)
for line in sys.stdin:
    asked = json.loads(line)
    seconds = 100.0 if asked["block"] == 0 else 50.0
    print(json.dumps({"seconds": seconds, "first_s": 60.0, "rel_l2": ERROR}), flush=True)
"""


def run(*arguments: str, script: Path = SCRIPT, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(script), *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=120,
        env={**os.environ, **environment},
    )


def test_our_side_runs_every_operation_and_is_right() -> None:
    done = run("--smoke", "--without-peers", "--json", "--threads", "1")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert [row["operation"] for row in report["rows"]] == ["softmax", "layernorm", "matmul", "attention"]
    assert all(row["ours"]["seconds"] > 0 and row["ours"]["rel_l2"] < 1e-5 for row in report["rows"])
    assert report["processors"] == 1
    assert "triton_ratio_least" not in report
    assert report["notes"] == ["Peers were left out; these are our own figures alone."]


def test_peers_that_cannot_be_installed_are_named_in_a_sentence_each(tmp_path: Path) -> None:
    """A package client without an index: what a machine without a network does."""
    offline = {"UV_OFFLINE": "1", "UV_CACHE_DIR": str(tmp_path / "uv"), "PIP_NO_INDEX": "1", "UV_NO_INDEX": "1"}
    done = run("--smoke", "--only", "softmax", "--cache", str(tmp_path / "peers"), **offline)
    assert done.returncode == 0, done.stderr
    for title in ("Triton's interpreter", "JAX Pallas in interpret mode"):
        (line,) = (line for line in done.stdout.splitlines() if line.startswith(title))
        assert "can't be installed" in line
        assert line.endswith("so it isn't compared.")
    assert "softmax" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr


def with_fake_peers(folder: Path, error: float) -> Path:
    """The benchmark beside peers that answer at once with made-up seconds, in an environment that has them."""
    bench = folder / "benchmarks"
    bench.mkdir()
    for name in ("peers.py", "peer_operations.py", "peer_simulator.py", "measurement.py"):
        text = (ROOT / "benchmarks" / name).read_text()
        (bench / name).write_text(text.replace("Path(__file__).resolve().parents[1] / ", f"Path({str(ROOT)!r}) / "))
    for name in ("peer_triton.py", "peer_pallas.py"):
        (bench / name).write_text(FAKE_PEER.replace("ERROR", str(error)))
    home = folder / "cache" / "bin"
    home.mkdir(parents=True)
    # An environment in which every import works: `true` stands for the check, Python for the rest.
    (home / "python").write_text(f'#!/bin/sh\n[ "$1" = -c ] && exit 0\nexec {sys.executable} "$@"\n')
    (home / "python").chmod(0o755)
    return bench / "peers.py"


def test_a_peer_gets_its_best_block_and_its_ratio_is_to_our_seconds(tmp_path: Path) -> None:
    script = with_fake_peers(tmp_path, error=1e-7)
    done = run(
        "--smoke",
        "--json",
        "--only",
        "softmax",
        "--cache",
        str(tmp_path / "cache"),
        script=script,
        PYTHONPATH=str(ROOT),
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    (row,) = report["rows"]
    for peer in ("triton", "pallas"):
        assert row[peer]["block"] == {"b": 2}
        assert row[peer]["seconds"] == 50.0
        assert row[peer]["ratio"] > 10.0
        assert report[f"{peer}_ratio_least"] == row[peer]["ratio"]
    assert report["bars"] == {"triton": 10.0, "pallas": 1.0}


def test_a_peer_with_wrong_values_is_no_comparison(tmp_path: Path) -> None:
    script = with_fake_peers(tmp_path, error=0.5)
    done = run("--smoke", "--only", "softmax", "--cache", str(tmp_path / "cache"), script=script, PYTHONPATH=str(ROOT))
    assert done.returncode == 1
    assert "peer_triton.py: softmax is wrong by 5.0e-01" in done.stderr
