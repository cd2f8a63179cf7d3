"""The speed benchmark still runs; its figures are looked at by people, never gated on."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "benchmarks" / "simulator_speed.py"

KERNEL = """
import neuronxcc.nki as nki
import neuronxcc.nki.language as nl


@nki.jit
def kernel(x):
    out = nl.ndarray((2, 128, 64), dtype=x.dtype, buffer=nl.shared_hbm)
    for i in nl.affine_range(2):
        tile = nl.load(x[i])
        nl.store(out[i], value=nl.add(tile, 1.0))
    return out
"""

REFERENCE = """
import numpy as np

def get_inputs():
    return [np.random.normal(size=(256, 64)).astype(np.float32)]

def forward(x):
    return x + np.float32(1.0)

def transform_to_nki_inputs(inputs):
    return [np.reshape(inputs[0], (2, 128, 64))]

def transform_nki_outputs(k_res, ref):
    return [np.reshape(k_res[0], ref[0].shape)]
"""


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(SCRIPT), *arguments], capture_output=True, text=True, cwd=ROOT, timeout=120
    )


def checkout(folder: Path) -> Path:
    """A folder laid out as the public repository is, with one small problem of our own."""
    bench = folder / "zhang677+AccelOpt" / "NKIBench"
    (bench / "kernels").mkdir(parents=True)
    (bench / "reference").mkdir()
    (bench / "kernels" / "add_one_M256_N64_0.py").write_text(KERNEL)
    (bench / "reference" / "add_one_M256_N64_numpy_1.py").write_text(REFERENCE)
    return folder


def test_a_smoke_run_gives_every_figure() -> None:
    done = run("--smoke", "--json", "--only", "silu")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert [row["case"] for row in report["cases"]] == ["silu"]
    row = report["cases"][0]
    assert row["rel_l2"] < 1e-6
    assert row["memory_ratio"] > 0.1
    assert row["shapes_only_s"] > 0
    assert report["ratio_to_numpy_geomean"] == pytest.approx(row["ratio_to_numpy"])
    assert [m["case"] for m in report["matmul"]] == ["matmul 512^3 bfloat16", "matmul 512^3 float32"]
    assert report["per_instruction"]["instructions"] == 200
    assert {"growth", "cold_start_s", "candidates_per_second"} <= report.keys()
    assert "library's own kernels" in report["note"]
    assert "baselines" not in report


def test_public_baselines_are_run_from_a_checkout(tmp_path: Path) -> None:
    done = run("--repos", str(checkout(tmp_path)), "--parts", "baselines", "--quick", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    (row,) = report["baselines"]
    assert row["case"] == "add_one"
    assert row["rel_l2"] == 0.0
    assert row["latency_us"] > 0
    assert report["baselines_ratio_geomean"] == pytest.approx(row["ratio_to_numpy"])
    assert "note" not in report
    assert "cases" not in report


def test_a_kernel_that_is_wrong_shows_its_error(tmp_path: Path) -> None:
    repos = checkout(tmp_path)
    kernel = repos / "zhang677+AccelOpt" / "NKIBench" / "kernels" / "add_one_M256_N64_0.py"
    kernel.write_text(KERNEL.replace("1.0", "2.0"))
    report = json.loads(run("--repos", str(repos), "--parts", "baselines", "--quick", "--json").stdout)
    assert report["baselines"][0]["rel_l2"] > 0.1


def test_a_missing_checkout_or_problem_is_told_in_one_sentence(tmp_path: Path) -> None:
    missing = run("--repos", str(tmp_path), "--smoke")
    assert missing.returncode == 1
    assert "check out zhang677/AccelOpt" in missing.stderr
    assert "Traceback" not in missing.stderr
    unknown = run("--smoke", "--only", "no_such")
    assert unknown.returncode == 1
    assert "no problem is called no_such" in unknown.stderr
