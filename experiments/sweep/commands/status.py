"""How each run of a study stands, and how many there are of each kind.

python -m experiments.sweep status runs/demo
"""

import argparse
from collections import Counter

from experiments.record import RunFolder, read
from experiments.sweep.claim import holder
from experiments.sweep.study import folders, study_argument


def arguments(parser: argparse.ArgumentParser) -> None:
    study_argument(parser)


def main(options: argparse.Namespace) -> None:
    lines = [(folder.path.name, _standing(folder)) for folder in folders(options.study)]
    counts = Counter(standing.split(",")[0] for _, standing in lines)
    width = max(len(name) for name, _ in lines)
    for name, standing in lines:
        print(f"{name.ljust(width)}  {standing}")
    print(", ".join(f"{count} {kind}" for kind, count in counts.most_common()))


def _standing(folder: RunFolder) -> str:
    record = read(folder.path)
    if record is not None:
        message = record.get("error", {}).get("message", "")
        return f"{record['status']}, {message}" if message else record["status"]
    held = holder(folder.path.parent / ".claims", folder.path.name)
    if held and not held.get("released"):
        return f"unfinished, last held by process {held['pid']} on {held['host']}"
    return "unfinished, goes on when the command is given again"
