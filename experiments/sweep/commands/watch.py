"""Follow a study until nothing of it is queued or running, whoever started it and wherever it runs.

python -m experiments.sweep watch runs/demo

On a terminal: a bar per run under way with its phase (training, evaluating, diagnostics) and the time left,
and one for the study, drawn in place. Elsewhere: a line whenever the counts change.

Exit code: 0 if every run has a result, 1 if not. Ctrl-C ends the watching, not the runs.
"""

import argparse
import time

from rich.console import Console, Group
from rich.live import Live

from experiments.console.display import bars
from experiments.errors import printable, typed
from experiments.record import FINISHED
from experiments.sweep.status import Snapshot, snapshot
from experiments.sweep.study import study_argument

NARROW = 60  # columns under which a row has the name and the bar alone
SHARE = 0.1  # of the time at most goes into reading, however large the study


def arguments(parser: argparse.ArgumentParser) -> None:
    study_argument(parser)
    parser.add_argument("--every", type=float, default=5.0, metavar="SECONDS", help="between two updates")


def main(options: argparse.Namespace) -> int:
    console = Console(highlight=False)
    with Live(console=console, auto_refresh=False, transient=True) as live:
        seen, said, idle = snapshot(options.study), "", 0
        while True:
            if console.is_terminal:
                live.update(_page(seen, console), refresh=True)
            elif seen.counts() != said:
                said = seen.counts()
                print(f"{time.strftime('%H:%M:%S')} {seen.summary()}", flush=True)
            idle = 0 if seen.under_way() else idle + 1
            if idle == 2:  # between two runs of a local sweep nobody holds one for a moment
                break
            began = time.monotonic()
            seen = snapshot(options.study)
            time.sleep(max(options.every, (time.monotonic() - began) * (1 / SHARE - 1)))
    return _end(seen, options)


def _page(seen: Snapshot, console: Console) -> Group:
    """What is under way, as much as fits, with bars; then the study as a whole."""
    below, wide = seen.activity(), console.width >= NARROW
    rows = [
        (
            printable(run.run_id),
            run.progress.share if run.progress else 0.0,
            str(run.progress or "running") if wide else "",
        )
        for run in seen.runs
        if run.kind == "running"
    ]
    return bars(rows, (seen.share(), seen.summary()), room=console.height - len(below) - 4, below=below)


def _end(seen: Snapshot, options: argparse.Namespace) -> int:
    """Say how it ended and what to do about the rest."""
    left = [run for run in seen.runs if run.kind not in FINISHED]
    for run in left:
        print(f"{printable(run.run_id)}  {run}")
    print(seen.counts())
    page = options.study / "report" / "report.html"
    print(
        f"Report: {page}"
        if page.exists()
        else f"The report: python -m analysis.report {typed(options.study)}"
    )
    if left:
        print(f"To run what has no result again: python -m experiments.sweep retry {typed(options.study)}")
    return 1 if left else 0
