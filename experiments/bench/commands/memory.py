"""Peak memory of a training step against PEFT's; the same numbers each time.

python -m experiments.bench memory [--targets qv,all] [--variants lora,dora] [--shape 0.1b] [--csv FILE]
"""

import argparse
import os

from experiments.bench.commands._common import add_choices, title


def arguments(parser: argparse.ArgumentParser) -> None:
    add_choices(parser, rounds=None)


def main(options: argparse.Namespace) -> None:
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # torch's profiler greets on the terminal otherwise
    from experiments.bench import memory, table
    from experiments.bench.workload import workload

    work = workload(options)
    figures = []
    for targets in options.targets:
        figures += memory.measure(work, options.variants, r=options.r, targets=targets)
    table.show(figures, title=title("Peak memory of a training step", options), path=options.csv)
