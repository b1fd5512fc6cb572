"""A study on the disk, as commands name it: its folder, its runs, the spec of one."""

import argparse
import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from experiments.errors import UserError, did_you_mean
from experiments.record import RunFolder, planned, run_folders
from experiments.spec import RunSpec, from_record
from experiments.sweep import requested
from experiments.sweep.slurm.submission import Place, places


def study_argument(parser: argparse.ArgumentParser) -> None:
    """The argument that all commands on a study begin with."""
    parser.add_argument("study", type=Path, help="its folder, e.g. runs/demo")


def folders(study: Path) -> list[RunFolder]:
    """The run folders of a study; UserError where there are none."""
    found = list(run_folders(study))
    if not found:
        raise UserError(f"there are no runs in {study}. Name the folder of a study, e.g. runs/demo.")
    return found


def specs_in(study: Path, run_ids: Sequence[str]) -> list[RunSpec]:
    """The specs of runs of a study, begun or only asked for; UserError where there is no such run."""
    submitted = places(study)
    begun = {folder.path.name for folder in run_folders(study) if folder.spec.is_file()}
    known = begun | submitted.keys() | planned(study).keys()
    if not known:
        folders(study)
    waiting = requested.specs(study, set(run_ids))
    return [_spec(study, name, known, begun, waiting, submitted) for name in run_ids]


def _spec(
    study: Path,
    name: str,
    known: Collection[str],
    begun: Collection[str],
    waiting: Mapping[str, RunSpec],
    submitted: Mapping[str, Place],
) -> RunSpec:
    if name in begun and (spec := _written(study / name / "spec.json")) is not None:
        return spec
    if name in waiting:
        return waiting[name]
    if name in submitted:
        return submitted[name].spec(name)
    if name in known:
        raise UserError(f"only the name of {name!r} was kept: give the command that asked for it again.")
    raise UserError(f"there is no run {name!r} in {study}.{did_you_mean(name, known)}")


def _written(path: Path) -> RunSpec | None:
    """The spec in a file; None if that is torn."""
    try:
        return from_record(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
