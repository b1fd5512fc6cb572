"""Bring W&B up to the run folders of a study, without double points.

python -m experiments.sweep sync runs/demo [--check | --dry-run] [--offline] [--project P] [--entity E]

What W&B has is read from it row by row; what it lacks through an outage, a kill, a full disk, offline mode or
tracker=none is added from history.jsonl and record.json, with the run's own id. A second time adds nothing.
Runs that are under way are left to their own tracker. Exit codes: 0 all in step, 1 some are not, 2 W&B or the
study cannot be used.
"""

import argparse
from collections import Counter
from collections.abc import Callable, Sequence

from experiments.errors import UserError, printable
from experiments.files import read_json
from experiments.record import FINISHED, RunFolder, read
from experiments.spec import RunSpec, from_record
from experiments.sweep.lease import acquire, is_held, leases
from experiments.sweep.study import folders, study_argument
from experiments.tracking import _mirror
from experiments.tracking._base import reason

FAILURES = 3  # in a row: the server is gone, and each of the others would wait for it
UNDER_WAY = "under way, left to its own tracker"


def arguments(parser: argparse.ArgumentParser) -> None:
    study_argument(parser)
    way = parser.add_mutually_exclusive_group()
    way.add_argument("--check", action="store_true", help="only compare, row by row; 1 if a run differs")
    way.add_argument("--dry-run", action="store_true", help="only say what would be added; ends with 0")
    parser.add_argument("--offline", action="store_true", help="check the logs in the run folders instead")
    parser.add_argument("--project", help="for all runs (default: the run's own, WANDB_PROJECT, the study)")
    parser.add_argument("--entity", help="for all runs (default: the run's own, else the account's)")
    parser.add_argument("--timeout", type=float, default=30.0, help="seconds to wait for the server (30)")


def main(options: argparse.Namespace) -> int:
    runs = [folder for folder in folders(options.study) if _mirror.has_begun(folder)]
    if not runs:
        print(f"There is nothing to sync: no run of {options.study} has logged anything yet.")
        return 0
    if options.offline and not options.check:
        raise UserError("--offline compares the logs on this disk: give it with --check")
    if options.offline:
        return _compared(runs, _mirror.Logs(), options)
    mirror = _mirror.Mirror(
        project=options.project, entity=options.entity, timeout=options.timeout, notify=print
    )
    if options.check or options.dry_run:
        return _compared(runs, mirror, options)
    return _report(runs, lambda folder: _bring_up(folder, mirror), good=("in step", UNDER_WAY, "brought up"))


def _compared(
    runs: Sequence[RunFolder], copy: _mirror.Logs | _mirror.Mirror, options: argparse.Namespace
) -> int:
    def compared(folder: RunFolder) -> tuple[str, str]:
        if is_held(leases(folder.path.parent), folder.path.name):
            return UNDER_WAY, ""
        found = copy.compare(folder, _spec(folder))
        return ("in step", "") if found.same else ("different", found.describe())

    code = _report(runs, compared, good=("in step", UNDER_WAY))
    return 0 if options.dry_run else code


def _bring_up(folder: RunFolder, mirror: _mirror.Mirror) -> tuple[str, str]:
    """Bring up one run under its lease, so that neither a worker nor a second sync logs it meanwhile."""
    held = leases(folder.path.parent)
    if is_held(held, folder.path.name):
        return UNDER_WAY, ""
    spec = _spec(folder)
    before = mirror.compare(folder, spec)
    if not before.lacks or before.doubt:
        return ("different" if before.doubt else "in step"), before.doubt or before.rows.describe()
    lease = acquire(held, folder.path.name)
    if lease is None:
        return UNDER_WAY, ""
    with lease:
        after = mirror.bring_up(folder, spec)
        record = read(folder.path)
        if record is not None and record["status"] in FINISHED:
            lease.remove()
    if after.lacks or after.doubt:
        return "different", after.describe()
    return "brought up", f"before, {before.describe()}"


def _report(
    runs: Sequence[RunFolder], of: Callable[[RunFolder], tuple[str, str]], *, good: Sequence[str]
) -> int:
    """Print the status of each run, then how many of each kind; 1 if a run is none of `good`."""
    kinds: Counter[str] = Counter()
    in_a_row = 0
    width = max(len(folder.path.name) for folder in runs)
    for folder in runs:
        try:
            kind, detail = of(folder)
        except Exception as error:  # one run that W&B refuses must not keep the others from it
            kind, detail = "failed", reason(error)
        kinds[kind] += 1
        in_a_row = in_a_row + 1 if kind == "failed" else 0
        print(printable(f"{folder.path.name.ljust(width)}  {kind}{': ' * bool(detail)}{detail}"), flush=True)
        if in_a_row == FAILURES:
            print(
                f"{FAILURES} runs failed one after the other, so this stops here; the same command goes on."
            )
            break
    print(", ".join(f"{count} {kind}" for kind, count in kinds.most_common()))
    return 0 if set(kinds) <= set(good) else 1


def _spec(folder: RunFolder) -> RunSpec:
    return from_record(read_json(folder.spec))
