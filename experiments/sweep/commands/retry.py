"""Run some runs of a study again, whatever came of them before.

python -m experiments.sweep retry runs/demo RUN_ID [RUN_ID ...]
"""

import argparse

from experiments.sweep.study import spec_in, study_argument


def arguments(parser: argparse.ArgumentParser) -> None:
    study_argument(parser)
    parser.add_argument("run_id", nargs="+", help="the folder of a run")


def main(options: argparse.Namespace) -> int:
    from experiments.sweep import engine

    specs = [spec_in(options.study, run_id) for run_id in options.run_id]
    return engine.run(specs, root=options.study.parent, again=True)
