"""The integrity check: are the files of finished runs what their records say? Damaged runs are quarantined.

A run is checked against the checksums of its record once. After that its files' sizes and times are compared
with those noted then (`.verified.json`), and only what differs is hashed again. The notes are only a
cache: without them everything is hashed. Checking a run again takes milliseconds.
"""

import contextlib
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from experiments import record
from experiments.errors import UserError
from experiments.files import explained, read_json, write_json
from experiments.sweep.lease import acquire, leases

NOTES = ".verified.json"
QUARANTINE = ".quarantine"
REASON = "reason.txt"


class IntegrityCheck:
    """The finished runs of a study."""

    def __init__(self, study: Path):
        self.study = study
        self._notes: dict[str, dict] = _read(study / NOTES)
        self._changed = False

    def status(self, run_id: str) -> tuple[str | None, list[str]]:
        """The status in a run's record, None where there is none; and what is damaged."""
        folder = self.study / run_id
        note = self._notes.get(run_id)
        if note is not None and _facts(folder, note["files"]) == note["files"]:
            return note["status"], []
        found = record.read(folder)
        if found is None:
            torn = (folder / "record.json").exists()
            return None, ["record.json is torn"] if torn else []
        if found.get("status") not in record.FINISHED:
            return found.get("status"), []
        before = _facts(folder, ("record.json", *found.get("files", ())))
        problems = record.verify(folder, found)
        if not problems:
            record.RunFolder(folder).tidy()
            self._notes[run_id] = {"status": found["status"], "files": before}
            self._changed = True
        return found["status"], problems

    def save(self) -> None:
        """Keep the notes for the next command; a disk that takes none costs time, not results."""
        if self._changed:
            with contextlib.suppress(UserError):
                write_json(self.study / NOTES, self._notes, indent=None)
            self._changed = False


def quarantine_damaged(study: Path, damaged: Mapping[str, Sequence[str]]) -> list[str]:
    """Quarantine these runs under their leases, but for those that others hold; notes for a person."""
    notes = []
    for run_id in damaged:
        lease = acquire(leases(study), run_id)
        if lease is None:
            continue
        with lease:
            if problems := IntegrityCheck(study).status(run_id)[1]:  # unless somebody was faster
                place = quarantine(study, run_id, problems)
                notes.append(
                    f"{run_id} is damaged ({'; '.join(problems)}). It is in {place} now and done again."
                )
            lease.remove()
    return notes


def quarantine(study: Path, run_id: str, problems: Iterable[str]) -> Path:
    """Move a damaged run, as it is, to `.quarantine/<run_id>.<n>/`, and write the reason into it."""
    home = study / QUARANTINE
    with explained(home):
        home.mkdir(exist_ok=True)
        number = 1
        while (place := home / f"{run_id}.{number}").exists():
            number += 1
        (study / run_id).rename(place)
        (place / REASON).write_text("".join(f"{problem}\n" for problem in problems), encoding="utf-8")
    return place


def _facts(folder: Path, names: Iterable[str]) -> dict[str, list[int]]:
    """Size and time of each file that is there."""
    facts = {}
    for name in names:
        with contextlib.suppress(OSError):
            found = os.stat(f"{folder}/{name}")
            facts[name] = [found.st_size, found.st_mtime_ns]
    return facts


def _read(path: Path) -> dict[str, dict]:
    try:
        notes = read_json(path)
    except (OSError, ValueError):
        return {}
    if not isinstance(notes, dict):
        return {}
    return {name: note for name, note in notes.items() if _is_note(note)}


def _is_note(note: object) -> bool:
    return (
        isinstance(note, dict)
        and isinstance(note.get("files"), dict)
        and note.get("status") in record.FINISHED
    )
