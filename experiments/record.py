"""What one run leaves behind: a folder of plain files, the record among them written last and in one piece.

    runs/<study>/<run_id>/
        spec.json            the resolved spec, written first
        history.jsonl        a row of each step and of each validation
        predictions.parquet  one row per test example
        signatures.npz       small arrays that the papers' figures are drawn from
        adapter/             the adapter in PEFT's format
        lm_eval/             if asked for: one row per example of a task of lm-evaluation-harness
        checkpoint/          only while the run is unfinished
        log.txt events.jsonl what happened on the way; not covered by checksums
        record.json          schema 1, with the checksums of the files above and of itself

A record that exists is whole: it goes through a temporary file, fsync and rename. Unknown values are absent
keys; a number that is not finite is refused here and never stands for "unknown". Standard library only, so
that the analysis can read records anywhere.
"""

import contextlib
import hashlib
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.errors import UserError, did_you_mean, typed
from experiments.files import Check, digest, is_name, plain, read_json, remove_temporaries, sha256
from experiments.files import unchecked as unchecked
from experiments.files import write_json as write_json
from experiments.history import History as History
from experiments.history import read_history as read_history
from experiments.record_form import SCHEMA as SCHEMA
from experiments.record_form import STATUSES as STATUSES
from experiments.record_form import fault as fault
from experiments.record_form import malformed

FINISHED = ("completed", "diverged")  # results; the others are to be run again
PHASES = ("run", "tune", "confirm")

_REQUIRED = ("run_id", "study", "spec")
_NO_RESULT = (
    "study",
    "tracker",
    "signatures",
    "matched",
    "halving",
    "config_dirs",
)  # of a spec: decide nothing about the result
PLANNED = ".planned"  # of a study: a list of runs per distinct command; to forget one, delete its list
_NOT_RUNS = ("report", "wandb")


class _Named:
    """A file or folder of a run, by its name in the run's folder."""

    def __init__(self, name: str):
        self.name = name

    def __get__(self, run: "RunFolder", owner: type) -> Path:
        return run.path / self.name


@dataclass(frozen=True)
class RunFolder:
    """The paths of one run, as above, and how its two JSON files are written."""

    path: Path

    spec = _Named("spec.json")
    record = _Named("record.json")
    history = _Named("history.jsonl")
    predictions = _Named("predictions.parquet")
    signatures = _Named("signatures.npz")
    adapter = _Named("adapter")
    checkpoint = _Named("checkpoint")
    log = _Named("log.txt")
    events = _Named("events.jsonl")

    @property
    def repeat(self) -> str:
        """The command that does this run again, alone."""
        return f"python -m experiments.sweep retry {typed(self.path.parent)} {self.path.name}"

    def write_spec(self, spec: Mapping[str, Any], *, check: Check = unchecked) -> None:
        """Write spec.json in one piece; `check` is as in `files.replacing`."""
        write_json(self.spec, plain(spec, "spec"), check=check)

    def write_record(
        self, record: Mapping[str, Any], *, first: bool = False, check: Check = unchecked
    ) -> None:
        """Write record.json in one piece, with its schema and the checksums of what the run left.

        `record` holds at least run_id, study, spec and status. Call it last: a record says that a run ended.
        With `first` there must be none yet, else `files.Taken`: of several writers exactly one succeeds.
        `check` is as in `files.replacing`.
        """
        missing = [key for key in _REQUIRED if key not in record]
        if missing:
            raise ValueError(f"a record needs {', '.join(missing)}")
        if record.get("status") not in STATUSES:
            raise ValueError(f"status {record.get('status')!r} is none of {', '.join(STATUSES)}")
        phase = record.get("phase", record["spec"].get("phase", "run"))
        if phase not in PHASES:
            raise ValueError(f"phase {phase!r} is none of {', '.join(PHASES)}")
        content = {"schema": SCHEMA, **plain({**record, "phase": phase}, "record"), "files": self.checksums()}
        write_json(self.record, {**content, "sha256": checksum(content)}, first=first, check=check)

    def drop_failure(self) -> None:
        """Remove the record of a failure: from here on the run is unfinished.

        A result is never removed, whoever may be writing it at this moment: writers do not replace a record.
        """
        found = read(self.path)
        if found is not None and found["status"] not in FINISHED:
            self.record.unlink(missing_ok=True)

    def tidy(self) -> None:
        """Remove what a kill right after the record leaves beside a result: checkpoints, temporary files."""
        shutil.rmtree(self.checkpoint, ignore_errors=True)
        remove_temporaries(self.path)

    def checksums(self) -> dict[str, str]:
        """The SHA-256 of each lasting file, by its path inside the folder."""
        files = [self.spec, self.history, self.predictions, self.signatures]
        lasting = [*files, *sorted(self.adapter.rglob("*")), *sorted(self.path.glob("lm_eval/*"))]
        return {str(p.relative_to(self.path)): sha256(p) for p in lasting if p.is_file()}


def read(path: Path) -> dict[str, Any] | None:
    """The record of a run folder (or of a record.json); None when there is none or it is torn or malformed.

    A record of another schema is a UserError, because reading it as this one could mislead.
    """
    file = path / "record.json" if path.is_dir() else path
    try:
        record = read_json(file)
    except (OSError, ValueError):
        return None
    if not isinstance(record, dict) or "schema" not in record:
        return None
    if record["schema"] != SCHEMA:
        raise UserError(
            f"{file} has schema {record['schema']}, this version reads schema {SCHEMA}. "
            "Read it with the version that wrote it, or run the study again in another folder."
        )
    return record if record.get("status") in STATUSES and not malformed(record) else None


def checksum(record: Mapping[str, Any]) -> str:
    """The SHA-256 of a record's content without that key itself."""
    return digest({key: value for key, value in record.items() if key != "sha256"})


def is_edited(record: Mapping[str, Any]) -> bool:
    """Whether a record was changed after it was written; older code wrote none by which that can be told."""
    try:
        return "sha256" in record and record["sha256"] != checksum(record)
    except ValueError:  # it holds NaN, which is never written
        return True


def written(folder: Path) -> int | None:
    """When a run folder's record was written, in the file system's nanoseconds; None if there is none."""
    try:
        return (folder / "record.json").stat().st_mtime_ns
    except OSError:
        return None


def verify(folder: Path, record: Mapping[str, Any] | None = None) -> list[str]:
    """What is wrong with a run folder that claims to be finished; an empty list means nothing is.

    Args:
        folder: The run's.
        record: Its record, by whom that has been read already.
    """
    record = record or read(folder)
    if record is None:
        exists = (folder / "record.json").exists()
        return ["record.json is torn" if exists else "record.json is missing: the run has not ended"]
    problems = [f"record.json lacks {key}" for key in (*_REQUIRED, "status") if key not in record]
    if record.get("run_id", folder.name) != folder.name:
        problems.append(f"record.json is of run {record['run_id']}")
    if is_edited(record):
        problems.append("record.json differs from its own checksum: changed after the run")
    for name, expected in record.get("files", {}).items():
        path = folder / name
        if not path.is_file():
            problems.append(f"{name} is missing")
        elif sha256(path) != expected:
            problems.append(f"{name} differs from its checksum: changed or truncated after the run")
    return problems


def identity(spec: Mapping[str, Any]) -> dict[str, Any]:
    """What of a spec, as a record has it, decides the run's result beside the rows of its data."""
    parts = {key: value for key, value in spec.items() if key not in _NO_RESULT}
    if parts.get("phase") == "run":
        del parts["phase"]
    parts["train"] = {key: value for key, value in spec.get("train", {}).items() if key != "threads"}
    parts["model_options"] = model_identity(spec.get("model_options", {}))
    return parts


def model_identity(options: Mapping[str, Any]) -> dict[str, Any]:
    """A model's options without where it lies: by its `content` if that is known, else by its name."""
    places = ("path", "name") if "content" in options else ("path",)
    return {key: value for key, value in options.items() if key not in places}


def cell_key(spec: Mapping[str, Any], *without: str) -> str:
    """A hash that is the same for runs that differ in nothing but the seed (and in being a repeat).

    Args:
        spec: The spec as a record has it.
        without: Further keys in which they may differ, dotted: "lr", "variant_options.lr_ratio".
    """
    parts = identity(spec)
    for name in ("seed", "repeat", *without):
        part, _, key = name.rpartition(".")
        if part:
            parts[part] = {k: v for k, v in parts.get(part, {}).items() if k != key}
        else:
            parts.pop(key, None)
    return digest(parts)


@dataclass(frozen=True)
class Request:
    """What one command requested of a study.

    `order` counts the requests that were there when it was first made; None in a study of an older version.
    """

    cells: Mapping[str, Mapping[str, Any]]  # by run_id
    order: int | None = None


def write_planned(study: Path, cells: Mapping[str, Mapping[str, Any]]) -> Path:
    """Write down which runs a command requested, so that a report can name what is missing.

    Args:
        study: The study's folder.
        cells: Per run_id the few values by which a person knows the run.

    Returns:
        The list's file; the same command again finds it there.
    """
    digest = hashlib.sha256("\n".join(sorted(cells)).encode()).hexdigest()[:16]
    path = study / PLANNED / f"{digest}.json"
    if path.exists():
        path.touch()  # see `since` in `planned`
    else:
        order = len(list(path.parent.glob("*.json")))
        write_json(path, {"cells": plain(cells, "cells"), "order": order}, indent=None)
    return path


def planned(study: Path, *, since: float = 0.0) -> dict[str, Mapping[str, Any]]:
    """Every run that some command requested of a study, by run_id; a torn list is left out.

    `since`, in seconds since 1970, leaves out the lists of commands that were last given before.
    """
    return {run_id: cell for made in requests(study, since=since) for run_id, cell in made.cells.items()}


def requests(study: Path, *, since: float = 0.0) -> list[Request]:
    """What each command requested of a study; `since` is as in `planned`."""
    found = []
    for path in sorted((study / PLANNED).glob("*.json")):
        try:
            if path.stat().st_mtime < since:
                continue
            content = read_json(path)
            cells, order = content["cells"], content.get("order")
            named = {run_id: cell for run_id, cell in cells.items() if is_name(run_id)}
            found.append(Request(named, order if isinstance(order, int) else None))
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue
    return found


def studies(runs: Path) -> list[Path]:
    """The study folders under `runs`, by name: those with a run in them, without what may not be read."""
    found = []
    with contextlib.suppress(OSError):
        for folder in sorted(runs.iterdir()):
            with contextlib.suppress(OSError):
                found += [folder] * any(run_folders(folder))
    return found


def no_runs(study: Path) -> UserError:
    """What to say of a study's folder that is not there, or in which no run was begun."""
    inside = [folder.name for folder in studies(study)]
    known = [folder.name for folder in studies(study.absolute().parent)]
    if study.is_dir():
        text = f"{study} holds no run: no folder in it has a spec.json or a record.json."
        hint = f" The studies in it: {', '.join(inside[:8])}; name one of them." if inside else ""
    else:
        text = f"there is no folder {study}."
        beside = f" The studies beside it: {', '.join(known[:8])}." if known else ""
        hint = did_you_mean(study.name, known) or beside
    return UserError(text + (hint or " Name the folder of a study, e.g. runs/demo."))


def run_folders(study: Path) -> Iterator[RunFolder]:
    """The run folders of a study, finished or not, by name."""
    if not study.is_dir():
        return
    for path in sorted(study.iterdir()):
        if path.name in _NOT_RUNS or path.name.startswith("."):
            continue
        if (path / "spec.json").is_file() or (path / "record.json").is_file():
            yield RunFolder(path)


def records(study: Path) -> Iterator[dict[str, Any]]:
    """The readable records of a study, by run folder's name."""
    for folder in run_folders(study):
        record = read(folder.path)
        if record is not None:
            yield record
