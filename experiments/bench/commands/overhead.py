"""Seconds that each run of a study cost beyond loading, training and evaluation.

python -m experiments.bench overhead runs/demo
"""

import argparse
import statistics

from experiments.errors import UserError
from experiments.record import records
from experiments.sweep.study import study_argument


def arguments(parser: argparse.ArgumentParser) -> None:
    study_argument(parser)


def main(options: argparse.Namespace) -> None:
    costs = [(r["run_id"], r["cost"]) for r in records(options.study) if "cost" in r]
    if not costs:
        raise UserError(f"there are no records with costs in {options.study}. Run a study first: make demo.")
    for run_id, cost in costs:
        parts = "  ".join(
            f"{name} {cost[f'{name}_seconds']:7.2f}" for name in ("load", "train", "evaluate", "harness")
        )
        print(f"{run_id:60s} {parts}")
    print(f"harness, median: {statistics.median(c['harness_seconds'] for _, c in costs):.3f} s")
