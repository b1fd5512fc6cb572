"""The status of each run of a study: from its files and Slurm's queue, whoever started it."""

import math
import os
import re
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from experiments.errors import printable
from experiments.files import parse_json
from experiments.record import FINISHED, RunFolder, is_edited, no_runs, planned, read, run_folders
from experiments.sweep.lease import holder, is_held, leases, running_commands
from experiments.sweep.preview.table import duration
from experiments.sweep.slurm import client
from experiments.sweep.slurm.client import Element
from experiments.sweep.slurm.submission import Place, active, jobs_in, places

UNDER_WAY = ("running", "queued")
EDITED = "its record was changed after the run; the command of the study sets it aside and does it again"
_STARTS = re.compile(r"^(\S+ \S+) starts at step (\d+) of (\d+)$", re.MULTILINE)


@dataclass(frozen=True)
class Progress:
    """How far a run under way is: as much as its files say."""

    step: int
    steps: int
    phase: str  # training, evaluating or diagnostics
    left: float | None = None  # seconds of training; None where not known

    @property
    def share(self) -> float:
        """How much of the run is done, from 0 to 1."""
        return min(1.0, self.step / self.steps) if self.steps else 0.0

    def __str__(self) -> str:
        if not self.steps:
            return self.phase
        left = f", {duration(self.left)} left" if self.left is not None and self.phase == "training" else ""
        return f"step {self.step} of {self.steps} ({self.phase}{left})"


LOADING = Progress(0, 0, "loading")


@dataclass(frozen=True)
class RunStatus:
    """One run: its record's status, or else running, queued or unfinished; and what there is to say of it.

    Queued is what waits in Slurm, or behind the other runs of a command that is at work.
    """

    run_id: str
    kind: str
    about: str = ""
    progress: Progress | None = None  # of one that is running
    seconds: float | None = None  # of one that has ended: how long its pack took

    def __str__(self) -> str:
        text = ", ".join(filter(None, (self.kind, str(self.progress or ""), self.about)))
        return printable(" ".join(text.split()))


@dataclass(frozen=True)
class Snapshot:
    """A study at one moment."""

    runs: list[RunStatus]
    jobs: list[str]  # what the queue has of it, a line per job
    commands: list[str]  # processes that work on it
    unknown: bool  # whether it was submitted and squeue does not say what became of it

    def counts(self) -> str:
        """How many runs have which status, in one line."""
        if not self.runs:
            return "no runs yet: they are being checked"
        counted = Counter(run.kind for run in self.runs)
        return ", ".join(f"{number} {kind}" for kind, number in counted.most_common())

    def left(self) -> float | None:
        """Seconds until nothing is under way, by the pace so far; None where that does not tell.

        Runs that are queued take as long as those that have ended, as many at a time as are running now.
        """
        running = [run.progress.left if run.progress else None for run in self.runs if run.kind == "running"]
        known = [left for left in running if left is not None]
        ended = [run.seconds for run in self.runs if run.seconds is not None]
        whole = len(running) - len(known) + sum(run.kind == "queued" for run in self.runs)
        if not running or (whole and not ended):
            return None
        work = sum(known) + (whole * median(ended) if whole else 0.0)
        return max([work / len(running), *known])

    def share(self) -> float:
        """How much of the study is done, from 0 to 1."""
        done = sum(run.kind not in (*UNDER_WAY, "unfinished", "damaged") for run in self.runs)
        part = sum(run.progress.share for run in self.runs if run.progress is not None)
        return (done + part) / len(self.runs) if self.runs else 0.0

    def summary(self) -> str:
        """The counts, with the time left where that is known."""
        left = self.left()
        return self.counts() + (f"; about {duration(left)} left" if left else "")

    def activity(self) -> list[str]:
        """What works on the study, a line per job and one for the processes."""
        first, *others = self.commands or [""]
        more = f" and {len(others)} more" if others else ""
        return [*self.jobs, *([f"at work: {first}{more}"] if first else [])]

    def under_way(self) -> bool:
        """Whether anything is still to come without anybody's doing."""
        return bool(self.jobs or self.commands) or any(run.kind in UNDER_WAY for run in self.runs)


def snapshot(study: Path) -> Snapshot:
    """The status of a study now; UserError where there is none."""
    commands = [printable(f"process {held['pid']} on {held['host']}") for held in running_commands(study)]
    submitted = places(study)
    queue = client.queue() if submitted else []
    queued = active(study, queue or [])
    folders = {folder.path.name: folder for folder in run_folders(study)}
    names = sorted(folders.keys() | submitted.keys() | planned(study).keys())
    if not names and not commands:
        raise no_runs(study)
    ended = _ended(study, [name for name in names if name not in queued], submitted)
    requested = _requested(study)
    runs = [
        _status(RunFolder(study / name), queued.get(name), submitted.get(name), ended, name in requested)
        for name in names
    ]
    return Snapshot(runs, _jobs(study, queue or []), commands, unknown=queue is None)


def _status(
    folder: RunFolder, queued: Element | None, place: Place | None, ended: dict[str, str], requested: bool
) -> RunStatus:
    name, held = folder.path.name, leases(folder.path.parent)
    record = read(folder.path)
    if record is not None and is_edited(record):
        return RunStatus(name, "damaged", EDITED)
    if record is not None and (record["status"] in FINISHED or queued is None):
        cost, pack = record.get("cost") or {}, record.get("pack") or {}
        seconds = cost["wall_seconds"] * len(pack.get("runs") or [name]) if "wall_seconds" in cost else None
        error = record.get("error")
        message = error.get("message", "") if isinstance(error, dict) else error
        return RunStatus(name, str(record["status"]), str(message or ""), seconds=seconds)
    if is_held(held, name):
        owner = holder(held, name) or {}
        by = f"as job {queued.name}" if queued else f"by process {owner.get('pid')} on {owner.get('host')}"
        return RunStatus(name, "running", by, _progress(folder, float(owner.get("since", 0))))
    if queued is not None:
        why = f" ({queued.reason})" if queued.waits else ", which is running"
        return RunStatus(name, "queued", f"as job {queued.name}{why}")
    if place is not None:
        how = f"ended, {ended[place.element]}" if place.element in ended else "is not in the queue any more"
        return RunStatus(name, "unfinished", f"its job {place.element} {how}; see {place.log}")
    if requested and record is None:
        return RunStatus(name, "queued", "behind the runs under way")
    begun = "goes on" if folder.spec.exists() else "begins"
    return RunStatus(name, "unfinished", f"{begun} when the command is given again")


def _ended(study: Path, names: Sequence[str], submitted: dict[str, Place]) -> dict[str, str]:
    """How the elements ended that left runs without a record, as sacct knows it."""
    lost = [
        submitted[name] for name in names if name in submitted and not (study / name / "record.json").exists()
    ]
    return client.ended(sorted({place.array["job"] for place in lost})) if lost else {}


def _jobs(study: Path, queue: Sequence[Element]) -> list[str]:
    lines = []
    for job in jobs_in(study, queue):
        states = Counter(
            f"{element.state.lower()} ({element.reason})" if element.waits else element.state.lower()
            for element in queue
            if element.job == job
        )
        lines.append(f"job {job}: {', '.join(f'{number} {state}' for state, number in states.items())}")
    return lines


def _requested(study: Path) -> set[str]:
    """The runs of the commands that are at work: of the lists that were written down since they began."""
    began = [held["since"] for held in running_commands(study)]
    return set(planned(study, since=min(began) - 1)) if began else set()  # a file's clock is a little behind


def _progress(folder: RunFolder, since: float) -> Progress | None:
    """The progress of a run that is held since then; None where its files do not tell."""
    try:
        text = folder.log.read_text(encoding="utf-8", errors="replace")
        starts = _STARTS.findall(text)
        began = time.mktime(time.strptime(starts[-1][0], "%Y-%m-%d %H:%M:%S"))
    except (OSError, ValueError, IndexError):
        return None
    if began < math.floor(since):
        return LOADING
    first, total = int(starts[-1][1]), int(starts[-1][2])
    row, at = _last_row(folder)
    step = int(row.get("step", 0))
    said = text.rstrip("\n").rpartition("\n")[2]
    if said.endswith(" writes diagnostics"):
        return Progress(step, total, "diagnostics", 0.0)
    validating = said.endswith(f" validates after step {step}") and not any("/" in key for key in row)
    done, step = step - first, max(step, first)
    left = (at - began) / done * (total - step) if done > 0 and at > began else None
    phase = "evaluating" if step >= total or validating else "training"
    return Progress(step, total, phase, 0.0 if step >= total else left)


def _last_row(folder: RunFolder) -> tuple[dict[str, Any], float]:
    """The last complete line of a history, empty before the first, and when it was written."""
    try:
        with folder.history.open("rb") as file:
            facts = os.fstat(file.fileno())
            file.seek(max(0, facts.st_size - 4096))
            row = parse_json(file.read().split(b"\n")[:-1][-1])
        return ({**row, "step": int(row["step"])}, facts.st_mtime)
    except (OSError, ValueError, IndexError, KeyError, TypeError):
        return {}, 0.0
