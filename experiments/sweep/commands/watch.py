"""Follow a study until nothing of it is queued or running, whoever started it and wherever it runs.

python -m experiments.sweep watch runs/demo

Exit code: 0 if every run has a result, 1 if not. Ctrl-C ends the watching, not the runs.
"""

import argparse
import time

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from experiments.errors import printable, typed
from experiments.record import FINISHED
from experiments.sweep.status import Snapshot, snapshot
from experiments.sweep.study import study_argument

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
                live.update(_page(seen, console.height), refresh=True)
            elif seen.counts() != said:
                said = seen.counts()
                print(f"{time.strftime('%H:%M:%S')} {said}", flush=True)
            idle = 0 if seen.under_way() else idle + 1
            if idle == 2:  # between two runs of a local sweep nobody holds one for a moment
                break
            began = time.monotonic()
            seen = snapshot(options.study)
            time.sleep(max(options.every, (time.monotonic() - began) * (1 / SHARE - 1)))
    return _end(seen, options)


def _page(seen: Snapshot, height: int) -> Group:
    """What is under way, as much as fits, and the counts."""
    running = [run for run in seen.runs if run.kind == "running"]
    rows = [Text(printable(f"{run.run_id}  {run.about}"), no_wrap=True) for run in running]
    below = seen.activity()
    room = max(1, height - len(below) - 3)
    more = [Text(f"and {len(rows) - room} more", style="dim")] if len(rows) > room else []
    return Group(*rows[:room], *more, *map(Text, below), Text(seen.counts(), style="bold"))


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
