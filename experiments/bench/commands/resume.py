"""Seconds until the command of a finished study has nothing to do.

python -m experiments.bench resume [--runs 1000] [--csv FILE]

The runs are made up, with files of the usual sizes. The first repeat checks every checksum, the later ones
compare sizes and times. The target is 3 s for a later repeat of 1,000 runs.
"""

import argparse
import os
import tempfile
import time
from pathlib import Path

from experiments import data
from experiments.bench.commands._common import RUN, timed, write_csv
from experiments.bench.fake import finish, specs_of
from experiments.errors import UserError
from experiments.sweep.plan import plan

TARGET = 3.0


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--csv", type=Path)


def main(options: argparse.Namespace) -> None:
    words = ["variant=lora,dora", f"seed=range(0,{max(1, options.runs // 2)})", "study=bench"]
    specs = specs_of(*words)
    with tempfile.TemporaryDirectory() as folder:
        study = Path(folder) / "runs" / "bench"
        print(f"making {len(specs)} finished runs ...", flush=True)
        for spec in specs:
            finish(spec, study / spec.run_id(data.fingerprint(spec)))
        first, second = _command(words, folder), _command(words, folder)
        started = time.perf_counter()
        found = plan(specs, fingerprints=data.fingerprint, root=study.parent)
        planning = time.perf_counter() - started
        nothing = _command(["variant=lora", "--cfg", "job"], folder)
    if found.todo:
        raise UserError(f"{len(found.todo)} of the made-up runs were not taken as finished")
    rows = [
        ("first repeat, every checksum", first),
        (f"later repeat, target {TARGET:g} s", second),
        ("of it: what is missing", planning),
        ("of it: Python and Hydra", nothing),
    ]
    for name, seconds in rows:
        print(f"{name:32s} {seconds:7.2f} s")
    write_csv(options.csv, ("runs", "what", "seconds"), [(len(specs), name, s) for name, s in rows])


def _command(words: list[str], folder: str) -> float:
    """Seconds of a command; a report is put there first, for made-up runs give none."""
    report = Path(folder) / "runs" / "bench" / "report" / "report.html"
    report.parent.mkdir(exist_ok=True)
    report.touch()
    os.utime(report, (time.time() + 3600,) * 2)
    return timed([*RUN, *words], folder)[0]
