"""The main job of the README as a whole process: seconds and memory, as shares of the bars (60 s on 2 cores, 4 GB).

uv run python benchmarks/main_job.py [--json]
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time

REQUEST = "fused RMSNorm and matmul, x 4096x1024 by w 1024x2048, bfloat16, trn2, reach 50% of roofline"
BAR_SECONDS, BAR_GIB = 60.0, 4.0


def main() -> None:
    """Run the job once in a data folder of its own and print what it took."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as home:
        command = [sys.executable, "-c", "from agent.cli import main; main()", "write", REQUEST, "--json"]
        environment = {**os.environ, "KERNELWRIGHT_HOME": home, "KERNELWRIGHT_POLICY": "offline"}
        start = time.perf_counter()
        done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment)
        seconds = time.perf_counter() - start
    if not done.stdout.strip():
        sys.exit(done.stderr)
    report = json.loads(done.stdout)
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    found = {
        "seconds": seconds,
        "share_of_60_s": seconds / BAR_SECONDS,
        "cpu_seconds": usage.ru_utime + usage.ru_stime,
        "largest_process_gib": usage.ru_maxrss / 2**20,
        "share_of_4_gib": usage.ru_maxrss / 2**20 / BAR_GIB,
        "goal_met": report["goal_met"],
        "correct": report["correct"],
        "attempts": report["attempts"],
        "latency_us": report["latency_us"],
        "roofline_fraction": report["roofline_fraction"],
    }
    if options.json:
        print(json.dumps(found))
        return
    for name, value in found.items():
        print(f"{name:22s} {value if isinstance(value, bool | int) else format(value, '.3f')}")


if __name__ == "__main__":
    main()
