"""Seconds and memory of a report on a study of made-up records, with histories and predictions.

python -m experiments.bench report [--runs 10000] [--datasets 4] [--steps 150] [--no-images] [--keep FOLDER]
"""

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from experiments.bench.records import write_study
from experiments.errors import UserError


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--steps", type=int, default=150, help="rows of each history")
    parser.add_argument("--examples", type=int, default=500, help="rows of each run's predictions")
    parser.add_argument("--datasets", type=int, choices=range(1, 5), default=4, help="between 50 cells each")
    parser.add_argument("--no-images", action="store_true", help="leave out the SVG, PDF and PNG files")
    parser.add_argument("--keep", type=Path, help="write the study here and keep it, e.g. runs/made_up")


def main(options: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        study = options.keep or Path(temporary) / "made_up"
        if not study.exists():
            sizes = {name: getattr(options, name) for name in ("runs", "steps", "examples", "datasets")}
            write_study(study, **sizes)
        command = [sys.executable, "-m", "analysis.report", str(study)]
        started = time.perf_counter()
        code = subprocess.run(command + ["--no-images"] * options.no_images, check=False).returncode
        wall = time.perf_counter() - started
        if code:
            raise UserError(f"the report failed with exit code {code}; see above.")
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(
        f"{options.runs} records: {wall:.1f} s, {used.ru_utime + used.ru_stime:.1f} s of CPU, "
        f"{used.ru_maxrss / 1e6:.2f} GB at the peak of its largest process"
    )
