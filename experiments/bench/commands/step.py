"""A training step against PEFT's: time, quartiles, ratios and their targets.

python -m experiments.bench step [--targets qv,all] [--variants lora,dora] [--shape 0.1b] [--csv FILE]
python -m experiments.bench step --study runs/demo [--rounds 30] [--threads 1]

With --study: a step of every cell of a study, on its model and data, in turn. The times are written into the
study's folder, where the report takes them instead of those that the runs noted one after the other.
"""

import argparse
from pathlib import Path

from experiments.bench.commands._common import add_choices, title
from experiments.record import no_runs, run_folders


def arguments(parser: argparse.ArgumentParser) -> None:
    add_choices(parser, rounds=30)
    parser.add_argument("--study", type=Path, help="measure the cells of this study, e.g. runs/demo")


def main(options: argparse.Namespace) -> None:
    if options.study is not None:
        if not any(run_folders(options.study)):
            raise no_runs(options.study)
        from experiments.bench import study

        study.measure(options.study, rounds=options.rounds, threads=options.threads)
        return
    from experiments.bench import step, table
    from experiments.bench.workload import workload

    work = workload(options)
    figures = []
    for targets in options.targets:
        figures += step.measure(work, options.variants, r=options.r, targets=targets, rounds=options.rounds)
    table.show(figures, title=title("Training step", options), path=options.csv)
