"""This simulator against Triton's interpreter and JAX Pallas in interpret mode: the same operations, sizes and float32 inputs.

    uv run python benchmarks/peers.py [--quick | --smoke] [--json] [--cache DIR] [--threads N] [--without-peers]
        [--only NAME ...]

Each side runs in a process of its own, on the same processors, and they take turns; a ratio is the median of (their seconds) /
(our seconds) over neighbouring runs, values and timing included on our side, compilation left out on theirs. Peers get the
best of three block sizes each, found beforehand. Triton and JAX are installed into an environment of their own under the
cache folder, never into the project's.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from measurement import limit_threads

HERE = Path(__file__).resolve().parent
INSTALL_SECONDS = 1200.0

FULL = {
    "softmax": (4096, 4096),
    "layernorm": (4096, 4096),
    "matmul": (2048, 2048, 2048),
    "attention": (4096, 4096, 128),
}
QUICK = {"softmax": (1024, 1024), "layernorm": (1024, 1024), "matmul": (512, 512, 512), "attention": (512, 1024, 128)}
SMOKE = {"softmax": (128, 256), "layernorm": (128, 256), "matmul": (128, 256, 256), "attention": (128, 128, 64)}

BARS = {"triton": 10.0, "pallas": 1.0}
"""How many times our seconds a peer should take at least."""

TITLES = {"triton": "Triton's interpreter", "pallas": "JAX Pallas in interpret mode"}
PACKAGES = {"triton": ("triton", "numpy"), "pallas": ("jax", "numpy")}
MODULES = {"triton": "triton", "pallas": "jax"}

WORST_ERROR = 1e-3
"""Relative L2 distance from NumPy above which a side's figure would not count."""


class Absent(Exception):
    """A peer can't be had on this machine; the text says why in one sentence."""


class Side:
    """One simulator in a process of its own (`peer_operations.serve` is the other end)."""

    def __init__(self, script: str, python: str | Path) -> None:
        self.script = script
        self._said: IO[str] = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed with the process
        self._process = subprocess.Popen(
            [str(python), str(HERE / script)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            text=True,
            cwd=HERE.parent,
            env=None
            if python != sys.executable
            else {**os.environ, "PYTHONPATH": os.environ.get("PYTHONPATH", str(HERE.parent))},
        )
        hello = self._answer()
        self.version: str = hello["version"]
        self.choices: dict[str, list[dict[str, int]]] = hello["choices"]

    def run(self, operation: str, size: Sequence[int], block: int) -> dict[str, float]:
        """One run: `seconds`, `first_s` with compilation, `rel_l2`.

        Raises:
            SystemExit: the process ended, or its values are wrong.
        """
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"operation": operation, "size": size, "block": block}) + "\n")
        self._process.stdin.flush()
        found: dict[str, float] = self._answer()
        if not found["rel_l2"] < WORST_ERROR:
            raise SystemExit(f"{self.script}: {operation} is wrong by {found['rel_l2']:.1e}")
        return found

    def best_block(self, operation: str, size: Sequence[int]) -> int:
        """The number of the fastest block size, tried on an eighth of the rows."""
        count = len(self.choices[operation])
        if count == 1:
            return 0
        part = [max(size[0] // 8, min(size[0], 128)), *size[1:]]

        def fastest(block: int) -> float:
            first = self.run(operation, part, block)["seconds"]
            again = 4 if first < 0.5 else 0
            return min([first, *(self.run(operation, part, block)["seconds"] for _ in range(again))])

        return min(range(count), key=fastest)

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()
        self._said.close()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._process.wait()
            self._said.seek(0)
            sys.stderr.write(self._said.read())
            raise SystemExit(f"{self.script} ended with status {self._process.returncode}")
        return json.loads(line)


def environment(folder: Path, peer: str) -> Path:
    """The Python of an environment that has a peer, made and filled when it isn't there yet.

    Raises:
        Absent: it can't be made.
    """
    python = folder / "bin" / "python"
    if not _has(python, peer):
        uv = shutil.which("uv")
        made = [uv, "venv", "--quiet", "--allow-existing", "--python", sys.executable] if uv else None
        installed = [uv, "pip", "install", "--quiet", "--python", str(python)] if uv else None
        try:
            if not python.exists():
                folder.parent.mkdir(parents=True, exist_ok=True)
                _call([*(made or [sys.executable, "-m", "venv"]), str(folder)])
            _call([*(installed or [str(python), "-m", "pip", "install", "--quiet"]), *PACKAGES[peer]])
        except (OSError, subprocess.SubprocessError) as error:
            raise Absent(f"{TITLES[peer]} can't be installed into {folder} ({_last_line(error)})") from error
        if not _has(python, peer):
            raise Absent(f"{TITLES[peer]} was installed into {folder} but can't be imported there")
    return python


def _has(python: Path, peer: str) -> bool:
    return (
        python.exists()
        and not subprocess.run([str(python), "-c", f"import numpy, {MODULES[peer]}"], capture_output=True).returncode
    )


def _call(command: Sequence[str]) -> None:
    # Whatever environment this script runs in must not be the one that is filled.
    scrubbed = {k: v for k, v in os.environ.items() if k not in ("VIRTUAL_ENV", "PYTHONPATH", "UV_PROJECT_ENVIRONMENT")}
    subprocess.run(command, check=True, capture_output=True, text=True, timeout=INSTALL_SECONDS, env=scrubbed)


def _last_line(error: Exception) -> str:
    if isinstance(error, subprocess.CalledProcessError):
        lines = [line.strip() for line in error.stderr.splitlines() if line.strip()]
        return lines[-1][:200] if lines else f"status {error.returncode}"
    if isinstance(error, subprocess.TimeoutExpired):
        return f"not done after {INSTALL_SECONDS:.0f} s"
    return str(error)


def compare(
    ours: Side, peers: Mapping[str, Side], operation: str, size: Sequence[int], turns: Mapping[str, int]
) -> dict[str, Any]:
    """One operation on all sides, by turns."""
    blocks = {name: side.best_block(operation, size) for name, side in peers.items()}
    row: dict[str, Any] = {"operation": operation, "size": list(size)}
    own: list[float] = []
    for name, side in peers.items():
        pairs = []
        for _ in range(turns[name]):
            theirs = side.run(operation, size, blocks[name])
            mine = ours.run(operation, size, 0)
            pairs.append((theirs["seconds"], mine["seconds"]))
        own += [mine for _, mine in pairs]
        row[name] = {
            "seconds": statistics.median(t for t, _ in pairs),
            "ratio": statistics.median(t / m for t, m in pairs),
            "block": side.choices[operation][blocks[name]],
            "first_s": theirs["first_s"],
            "rel_l2": theirs["rel_l2"],
        }
    mine = ours.run(operation, size, 0)
    return {**row, "ours": {"seconds": statistics.median([*own, mine["seconds"]]), "rel_l2": mine["rel_l2"]}}


def cache_folder() -> Path:
    """Where the peers' environment lives unless `--cache` says otherwise."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "kernelwright" / "peers"


def measured(options: argparse.Namespace) -> dict[str, Any]:
    """All figures that the options ask for."""
    sizes = SMOKE if options.smoke else QUICK if options.quick else FULL
    unknown = set(options.only) - set(sizes)
    if unknown:
        raise SystemExit(f"no operation is called {', '.join(sorted(unknown))}; there are {', '.join(sizes)}")
    peers: dict[str, Side] = {}
    notes = []
    for peer in () if options.without_peers else PACKAGES:
        try:
            peers[peer] = Side(f"peer_{peer}.py", environment(options.cache, peer))
        except Absent as why:
            notes.append(f"{why}, so it isn't compared.")
    if options.without_peers:
        notes.append("Peers were left out; these are our own figures alone.")
    ours = Side("peer_simulator.py", sys.executable)
    turns = {"triton": 1 if options.smoke else 2, "pallas": 1 if options.smoke else 7}
    try:
        rows = []
        for operation, size in sizes.items():
            if not options.only or operation in options.only:
                rows.append(compare(ours, peers, operation, size, turns))
                print(_line(rows[-1]), file=sys.stderr if options.json else sys.stdout, flush=True)
        least = {f"{name}_ratio_least": min(row[name]["ratio"] for row in rows) for name in peers}
        return {
            "rows": rows,
            **least,
            "bars": {name: BARS[name] for name in peers},
            "versions": {"ours": ours.version, **{name: side.version for name, side in peers.items()}},
            "notes": notes,
            "processors": len(os.sched_getaffinity(0)),
        }
    finally:
        for side in (ours, *peers.values()):
            side.close()


def _line(row: Mapping[str, Any]) -> str:
    text = f"{row['operation']:10s} {'x'.join(map(str, row['size'])):16s} ours {row['ours']['seconds']:8.4f} s"
    for name in BARS:
        if name in row:
            found = row[name]
            blocks = ", ".join(f"{k} {v}" for k, v in found["block"].items())
            text += f"   {name} {found['seconds']:8.4f} s, {found['ratio']:7.2f} times ours ({blocks})"
    return text


def main() -> None:
    """Run and print a table, or one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="smaller sizes")
    parser.add_argument("--smoke", action="store_true", help="tiny sizes: shows that it runs, its figures mean nothing")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    parser.add_argument("--only", nargs="*", default=[], metavar="NAME", help="only these operations")
    parser.add_argument("--cache", type=Path, default=cache_folder(), help="where the peers' environment is kept")
    parser.add_argument("--threads", type=int, metavar="N", help="processors for every side (default: all)")
    parser.add_argument("--without-peers", action="store_true", help="install nothing, run our own side alone")
    options = parser.parse_args()
    if options.threads is not None:
        limit_threads(options.threads, pin=True)
    report = measured(options)
    if options.json:
        print(json.dumps(report))
        return
    for note in report["notes"]:
        print(note)
    for name, bar in report["bars"].items():
        print(
            f"{TITLES[name]} {report['versions'][name]}: at least {report[f'{name}_ratio_least']:.2f} times our seconds (bar {bar:g})"
        )


if __name__ == "__main__":
    main()
