"""The status of each run of a study, and how many runs have which.

python -m experiments.sweep status runs/demo
"""

import argparse

from experiments.errors import printable
from experiments.sweep.status import snapshot
from experiments.sweep.study import study_argument


def arguments(parser: argparse.ArgumentParser) -> None:
    study_argument(parser)


def main(options: argparse.Namespace) -> None:
    seen = snapshot(options.study)
    width = max((len(run.run_id) for run in seen.runs), default=0)
    for run in seen.runs:
        print(f"{printable(run.run_id).ljust(width)}  {run}")
    for line in seen.activity():
        print(line)
    if seen.unknown:
        print("squeue does not answer here, so what is in the queue counts as unfinished.")
    print(seen.summary())
