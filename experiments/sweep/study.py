"""A study on the disk, as commands name it: its folder, its runs, the spec of one."""

import argparse
import json
from pathlib import Path

from experiments.errors import UserError, did_you_mean
from experiments.record import RunFolder, run_folders
from experiments.spec import RunSpec, from_record


def study_argument(parser: argparse.ArgumentParser) -> None:
    """The argument that all commands on a study begin with."""
    parser.add_argument("study", type=Path, help="its folder, e.g. runs/demo")


def folders(study: Path) -> list[RunFolder]:
    """The run folders of a study; UserError where there are none."""
    found = list(run_folders(study))
    if not found:
        raise UserError(f"there are no runs in {study}. Name the folder of a study, e.g. runs/demo.")
    return found


def spec_in(study: Path, run_id: str) -> RunSpec:
    """The spec of a run of a study; UserError where there is no such run."""
    known = [folder.path.name for folder in folders(study)]
    if run_id not in known:
        raise UserError(f"there is no run {run_id!r} in {study}.{did_you_mean(run_id, known)}")
    return from_record(json.loads((study / run_id / "spec.json").read_text(encoding="utf-8")))
