"""A training step against PEFT's: time, quartiles, ratios and their targets.

python -m experiments.bench step [--targets qv,all] [--variants lora,dora] [--shape 0.1b] [--csv FILE]
"""

import argparse

from experiments.bench.commands._common import add_choices, title


def arguments(parser: argparse.ArgumentParser) -> None:
    add_choices(parser, rounds=30)


def main(options: argparse.Namespace) -> None:
    from experiments.bench import step, table
    from experiments.bench.workload import workload

    work = workload(options)
    figures = []
    for targets in options.targets:
        figures += step.measure(work, options.variants, r=options.r, targets=targets, rounds=options.rounds)
    table.show(figures, title=title("Training step", options), path=options.csv)
