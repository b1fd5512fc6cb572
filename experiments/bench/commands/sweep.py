"""Twelve short runs on the default model: what a sweep costs beside their training and evaluation.

python -m experiments.bench sweep [--steps 20] [--workers 1] [--csv FILE]

The target is 1.15 times the summed training and evaluation seconds at the same thread count, plus 15 s for
starting, loading and the report. With several workers the sum is shared out among them.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from experiments.bench.commands._common import write_csv
from experiments.errors import UserError
from experiments.record import records

RUN = Path(__file__).parents[3] / "run.py"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--csv", type=Path)


def main(options: argparse.Namespace) -> None:
    words = ["variant=lora,rslora,loraplus,dora", "r=4,8,16", "study=bench", f"train.steps={options.steps}"]
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        done = subprocess.run(
            [sys.executable, str(RUN), *words, f"workers={options.workers}"],
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
        )
        wall = time.perf_counter() - started
        if done.returncode:
            raise UserError(f"the sweep ended with {done.returncode}: {done.stderr.strip()[-500:]}")
        costs = [record["cost"] for record in records(Path(folder) / "runs" / "bench")]
    work = sum(cost["train_seconds"] + cost["evaluate_seconds"] for cost in costs) / options.workers
    target = 1.15 * work + 15
    print(f"{len(costs)} runs of {options.steps} steps, {options.workers} workers")
    print(f"training and evaluation  {work:8.1f} s per worker")
    print(f"wall                     {wall:8.1f} s, target at most {target:.1f} s (1.15 x + 15 s)")
    most = max(cost["harness_seconds"] for cost in costs)
    print(f"harness, most            {most:8.2f} s a run, target 0.3")
    header = ("runs", "steps", "workers", "work_seconds", "wall_seconds", "target_seconds")
    write_csv(options.csv, header, [(len(costs), options.steps, options.workers, work, wall, target)])
