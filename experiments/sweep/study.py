"""A study on the disk: its folder, its runs, the spec of one, and what commands have requested of it.

`.planned/` holds what each command requested, with all it takes to begin those runs later:

<digest>.json          per run_id the few values that a report shows of what is missing (`record.planned`)
<digest>.specs.jsonl   the specs: the first in full, then a line per run with what differs from that
"""

import argparse
import contextlib
import json
import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from experiments import record
from experiments.errors import RunError, UserError, did_you_mean
from experiments.files import read_json, replacing
from experiments.record import RunFolder, planned, run_folders
from experiments.spec import RunSpec, from_record
from experiments.sweep.lease import leases
from experiments.sweep.plan import Runs
from experiments.sweep.slurm.submission import Place, places

_SPECS = ".specs.jsonl"
LOGS = ".logs"  # of workers


def study_argument(parser: argparse.ArgumentParser) -> None:
    """The argument that all commands on a study begin with."""
    parser.add_argument("study", type=_folder, help="its folder, e.g. runs/demo")


def _folder(text: str) -> Path:
    """A study's folder as given; "." and ".." by their own names, because a study goes by its folder's."""
    path = Path(text)
    return path.resolve() if path.name in ("", "..") else path


def folders(study: Path) -> list[RunFolder]:
    """The run folders of a study; UserError where there are none."""
    found = list(run_folders(study))
    if not found:
        raise record.no_runs(study)
    return found


def specs_in(study: Path, run_ids: Sequence[str]) -> list[RunSpec]:
    """The specs of runs of a study, begun or only requested; UserError where there is no such run.

    They are of the study whose folder is given, whatever name it had when they were written.
    """
    submitted = places(study)
    begun = {folder.path.name for folder in run_folders(study) if folder.spec.is_file()}
    known = begun | submitted.keys() | planned(study).keys()
    if not known:
        folders(study)
    waiting = requested_specs(study, set(run_ids))
    found = (_spec(study, name, known, begun, waiting, submitted) for name in run_ids)
    return [replace(spec, study=study.name) for spec in found]


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
        raise UserError(f"only the name of {name!r} was kept: give the command that requested it again.")
    raise UserError(f"there is no run {name!r} in {study}.{did_you_mean(name, known)}")


def _written(path: Path) -> RunSpec | None:
    """The spec in a file; None if that is torn."""
    try:
        return from_record(read_json(path))
    except (OSError, ValueError):
        return None


@contextmanager
def gone_if_refused(study: Path) -> Iterator[None]:
    """A command's work on a study; folders that it made and in which it began nothing are removed again.

    Not where a worker died, whose log is there.
    """
    made = not study.exists()
    folders = [leases(study), study, *(() if study.parent.exists() else [study.parent])]
    try:
        yield
    except RunError:
        made = False
        raise
    finally:
        if made and {path.name for path in study.glob("*")} <= {LOGS, leases(study).name}:
            shutil.rmtree(study / LOGS, ignore_errors=True)
            with contextlib.suppress(OSError):  # another command has come to it meanwhile
                for folder in folders:
                    if folder.exists():
                        folder.rmdir()


def write_requested(study: Path, runs: Runs) -> None:
    """Write down which runs a command requests, for reports and for `retry`."""
    listed = record.write_planned(study, {run_id: _brief(spec) for spec, run_id in runs})
    path = listed.with_suffix(_SPECS)
    if path.exists():  # the same command again
        return
    first = runs[0][0].as_record()
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.write(json.dumps(first) + "\n")
        for spec, run_id in runs:
            file.write(json.dumps({"run_id": run_id, "differs": _difference(spec, first)}) + "\n")


def requested_specs(study: Path, run_ids: Collection[str]) -> dict[str, RunSpec]:
    """The specs of those of these runs that some command requested; a torn file is left out."""
    found: dict[str, RunSpec] = {}
    for path in sorted((study / record.PLANNED).glob(f"*{_SPECS}")):
        try:
            found |= _read(path, run_ids)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            continue
    return found


def _read(path: Path, run_ids: Collection[str]) -> dict[str, RunSpec]:
    with path.open(encoding="utf-8") as file:
        first = json.loads(file.readline())
        rows = [row for row in map(json.loads, file) if row["run_id"] in run_ids]
    specs = {row["run_id"]: {**first, **row["differs"]} for row in rows}
    return {
        run_id: from_record({key: value for key, value in spec.items() if value is not None})
        for run_id, spec in specs.items()
    }


def _difference(spec: RunSpec, first: Mapping[str, Any]) -> dict[str, Any]:
    """The keys whose values differ from the first spec's; None where this spec has none."""
    own = spec.as_record()
    lacking = dict.fromkeys(first.keys() - own.keys())
    return lacking | {key: value for key, value in own.items() if first.get(key) != value}


def _brief(spec: RunSpec) -> dict[str, object]:
    """What tells a person which run it is."""
    return {key: getattr(spec, key) for key in ("variant", "r", "targets", "model", "dataset", "lr", "seed")}
