"""What to do with a study beside starting it.

python -m experiments.sweep status runs/demo
python -m experiments.sweep retry runs/demo RUN_ID [RUN_ID ...]
"""

import argparse
import json
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from experiments.errors import UserError, did_you_mean
from experiments.record import RunFolder, read, run_folders
from experiments.spec import RunSpec, from_record
from experiments.sweep.claim import holder


def status(study: Path) -> str:
    """How each run of a study stands, and how many there are of each kind."""
    lines = [(folder.path.name, _standing(folder)) for folder in _folders(study)]
    counts = Counter(standing.split(",")[0] for _, standing in lines)
    width = max(len(name) for name, _ in lines)
    total = ", ".join(f"{count} {kind}" for kind, count in counts.most_common())
    return "\n".join([*(f"{name.ljust(width)}  {standing}" for name, standing in lines), total])


def retry(study: Path, run_ids: Sequence[str]) -> int:
    """Run these again, whatever came of them before; the exit code of the sweep."""
    from experiments.sweep import engine

    return engine.run([_spec(study, run_id) for run_id in run_ids], root=study.parent, again=True)


def _folders(study: Path) -> list[RunFolder]:
    found = list(run_folders(study))
    if not found:
        raise UserError(f"there are no runs in {study}. Name the folder of a study, e.g. runs/demo.")
    return found


def _standing(folder: RunFolder) -> str:
    record = read(folder.path)
    if record is not None:
        message = record.get("error", {}).get("message", "")
        return f"{record['status']}, {message}" if message else record["status"]
    held = holder(folder.path.parent / ".claims", folder.path.name)
    if held and not held.get("released"):
        return f"unfinished, last held by process {held['pid']} on {held['host']}"
    return "unfinished, goes on when the command is given again"


def _spec(study: Path, run_id: str) -> RunSpec:
    known = [folder.path.name for folder in _folders(study)]
    if run_id not in known:
        raise UserError(f"there is no run {run_id!r} in {study}.{did_you_mean(run_id, known)}")
    return from_record(json.loads((study / run_id / "spec.json").read_text(encoding="utf-8")))


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.sweep", description=(__doc__ or "").split("\n")[0]
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for name, about in (("status", status.__doc__), ("retry", retry.__doc__)):
        command = commands.add_parser(name, help=about, description=about)
        command.add_argument("study", type=Path, help="its folder, e.g. runs/demo")
        if name == "retry":
            command.add_argument("run_id", nargs="+", help="the folder of a run")
    options = parser.parse_args(arguments)
    try:
        if options.command == "retry":
            return retry(options.study, options.run_id)
        print(status(options.study))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
