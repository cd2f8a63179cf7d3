"""Compiled functions are kept for the next process, and work where nothing can be kept."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("numba")

ROOT = Path(__file__).resolve().parents[2]
CODE = """
import json
import numpy as np
from tools.sim.timing import compiled_reuse
engine, movable = np.array([1, 1, 2, 1]), np.array([True, True, False, True])
found = compiled_reuse.shared_out(engine, movable, np.ones(4), np.full(4, 1.2))
stats = compiled_reuse._compiled_share().stats
print(json.dumps([found.tolist(), sum(stats.cache_hits.values()), stats.cache_path is not None]))
"""


def run(folder: Path, **environment: str) -> list[object]:
    """(result, functions found in the cache, whether there is a cache) of a process that imports the package from `folder`."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("NUMBA_", "PYTHON"))}
    done = subprocess.run(
        [sys.executable, "-B", "-c", CODE], cwd=folder, env=kept | {"PYTHONPATH": str(folder)} | environment,
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found: list[object] = json.loads(done.stdout)
    return found


def test_a_second_process_compiles_nothing(tmp_path: Path) -> None:
    first, second = (run(ROOT, NUMBA_CACHE_DIR=str(tmp_path)) for _ in range(2))
    assert first == [[False, True, False, False], 0, True]
    assert second == [first[0], 1, True]


def test_without_a_place_for_the_cache_results_are_the_same(tmp_path: Path) -> None:
    # Files where the cache folders would have to be made: no user, not even root, can write there.
    package = tmp_path / "tools"
    shutil.copytree(ROOT / "tools" / "sim", package / "sim", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "tools" / "__init__.py", package)
    (package / "sim" / "timing" / "__pycache__").touch()
    home = tmp_path / "home"
    home.touch()
    nowhere = str(home / "cache")
    assert run(tmp_path, HOME=nowhere, XDG_CACHE_HOME=nowhere) == [[False, True, False, False], 0, False]
