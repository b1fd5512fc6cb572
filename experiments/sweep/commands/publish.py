"""Show a study's report in W&B: verdicts as a table, headline numbers, figures, the page.

python -m experiments.sweep publish runs/demo [--offline] [--project P] [--entity E]

It becomes a W&B run of job type "report" in the group of the study's name. The same report is published once;
after more runs, make the report again (python -m analysis.report runs/demo) and publish that.
"""

import argparse

from experiments.sweep.study import folders, study_argument
from experiments.tracking import _report


def arguments(parser: argparse.ArgumentParser) -> None:
    study_argument(parser)
    parser.add_argument("--offline", action="store_true", help="into a log in the study's folder")
    parser.add_argument("--project", help="where to (default: WANDB_PROJECT, else the study)")
    parser.add_argument("--entity", help="whose project (default: the account's own)")
    parser.add_argument("--timeout", type=float, default=60.0, help="seconds to wait for the server (60)")


def main(options: argparse.Namespace) -> None:
    folders(options.study)
    _report.publish(
        options.study,
        project=options.project,
        entity=options.entity,
        mode=_report.mode_of(options.offline),
        timeout=options.timeout,
        notify=print,
    )
