"""Run some runs of a study again, whatever came of them before; without names, all that have no result.

python -m experiments.sweep retry runs/demo [RUN_ID ...]

What was submitted to Slurm last is submitted again with the same settings; --here runs it on this machine.
"""

import argparse
from pathlib import Path

from experiments.record import FINISHED
from experiments.sweep.slurm.submission import submissions
from experiments.sweep.status import UNDER_WAY, snapshot
from experiments.sweep.study import specs_in, study_argument


def arguments(parser: argparse.ArgumentParser) -> None:
    study_argument(parser)
    parser.add_argument("run_id", nargs="*", help="the folder of a run")
    parser.add_argument("--here", action="store_true", help="on this machine, also what Slurm had")


def main(options: argparse.Namespace) -> int:
    from experiments.sweep import engine
    from experiments.sweep.slurm.submit import Submitter, last_settings

    again = bool(options.run_id)
    names = options.run_id or _without_result(options.study)
    if not names:
        print(f"Every run of {options.study} has a result or is under way. To repeat one, name it.")
        return 0
    specs = specs_in(options.study, names)
    before = submissions(options.study)
    if before and not options.here:
        return Submitter(last_settings(before), root=options.study.parent).submit(specs, again=again)
    return engine.run(specs, root=options.study.parent, again=again)


def _without_result(study: Path) -> list[str]:
    """The runs that failed or were lost, and those requested that never began."""
    return [run.run_id for run in snapshot(study).runs if run.kind not in (*FINISHED, *UNDER_WAY)]
