"""The share of a run's training time that checkpoints take, on the default model.

python -m experiments.bench checkpoint [--variant lora,full] [--steps 200] [--every 50] [--csv FILE]

The target is 2% of the step time at a checkpoint every 50 steps.
"""

import argparse
import tempfile
from pathlib import Path

from experiments import data
from experiments.bench.commands._common import write_csv
from experiments.bench.fake import specs_of
from experiments.console.progress import Silent
from experiments.record import RunFolder

TARGET = 2.0


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--variant", default="lora,adalora,full")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--every", type=int, default=50)
    parser.add_argument("--csv", type=Path)


def main(options: argparse.Namespace) -> None:
    from experiments import tracking
    from experiments.training.execute import execute
    from experiments.training.run_state import Run

    rows = []
    for spec in specs_of(f"variant={options.variant}", f"train.steps={options.steps}", "study=bench"):
        with tempfile.TemporaryDirectory() as folder:
            run_id = spec.run_id(data.fingerprint(spec))
            run = Run(spec, run_id, RunFolder(Path(folder) / run_id), tracking.make(spec.tracker))
            [record] = execute(
                [run], display=Silent(), checkpoint_every=float("inf"), checkpoint_steps=options.every
            )
        cost = record["cost"]
        share = 100 * cost["checkpoint_seconds"] / cost["train_seconds"]
        rows.append((spec.variant, options.every, cost["step_ms"], cost["checkpoint_seconds"], share))
        print(
            f"{spec.variant:10s} {cost['step_ms']:8.1f} ms a step, a checkpoint every {options.every} steps: "
            f"{share:.2f}% of the training time, target {TARGET:g}%"
        )
    write_csv(options.csv, ("variant", "every", "step_ms", "checkpoint_seconds", "percent"), rows)
