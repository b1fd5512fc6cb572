"""Seconds that each run of a study cost beyond loading, training and evaluation; checkpoints among them.

python -m experiments.bench overhead runs/demo

The targets are 0.3 s of harness for a run, and 2% of the training time for checkpoints every 50 steps, as a
study has them that was made with checkpoint_steps=50 checkpoint_seconds=1e9.
"""

import argparse
import statistics

from experiments.errors import UserError
from experiments.record import records
from experiments.sweep.study import study_argument

PARTS = ("load", "train", "evaluate", "checkpoint", "harness")


def arguments(parser: argparse.ArgumentParser) -> None:
    study_argument(parser)


def main(options: argparse.Namespace) -> None:
    costs = [(r["run_id"], r["cost"]) for r in records(options.study) if "cost" in r]
    if not costs:
        raise UserError(f"there are no records with costs in {options.study}. Run a study first: make demo.")
    for run_id, cost in costs:
        parts = "  ".join(f"{name} {cost.get(f'{name}_seconds') or 0.0:7.2f}" for name in PARTS)
        print(f"{run_id:60s} {parts}")
    shares = [
        100 * (cost.get("checkpoint_seconds") or 0.0) / cost["train_seconds"]
        for _, cost in costs
        if cost.get("train_seconds")
    ]
    print(f"harness, median: {statistics.median(c['harness_seconds'] for _, c in costs):.3f} s, target 0.3 s")
    if shares:
        print(f"checkpoints, median: {statistics.median(shares):.2f}% of the training time, target 2%")
