"""A forward pass of merged and unmerged adapters, and of baselines, against the base and against PEFT.

python -m experiments.bench latency [--targets qv,all] [--shape 0.1b] [--csv FILE]
"""

import argparse

from experiments.bench.commands._common import add_choices, title


def arguments(parser: argparse.ArgumentParser) -> None:
    add_choices(parser, rounds=50, variants=False)


def main(options: argparse.Namespace) -> None:
    from experiments.bench import latency, table
    from experiments.bench.workload import workload

    work = workload(options)
    figures = []
    for targets in options.targets:
        figures += latency.measure(work, r=options.r, targets=targets, rounds=options.rounds)
    figures += latency.measure_inserted(work, r=options.r, targets=options.targets[0], rounds=options.rounds)
    table.show(figures, title=title("Forward pass", options), path=options.csv)
