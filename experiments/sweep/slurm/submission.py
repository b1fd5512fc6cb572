"""What was submitted, as files: whoever comes later learns from them which job has which runs.

runs/<study>/.slurm/<number>/
    submission.json    when, from where, with which settings, and the jobs' numbers
    <array>.jsonl      the runs of each element of an array, a line each: [{"run_id": ..., "spec": {...}}]
    <array>.sbatch     its script, made from slurm/job.sbatch; also report.sbatch and after-<n>.sbatch
    code/              the code that the jobs run (script.py)
    logs/              what they print

Nothing of it is changed afterwards; what became of a job Slurm says.
"""

import itertools
import json
import os
import socket
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from experiments.errors import UserError
from experiments.files import explained, is_name, read_json, write_json
from experiments.spec import RunSpec, from_record
from experiments.sweep.plan import Runs
from experiments.sweep.slurm.client import Element

FOLDER = ".slurm"


@dataclass(frozen=True)
class Submission:
    """One submission; `content` is submission.json."""

    folder: Path
    content: dict[str, Any]

    @property
    def arrays(self) -> list[dict[str, Any]]:
        """The arrays that Slurm took: job, file, tasks, runs, variants."""
        return self.content["arrays"]

    @property
    def after(self) -> list[str]:
        """The jobs that come after the arrays."""
        return self.content["after"]

    def add_array(self, **facts: Any) -> None:
        """Note an array that Slurm has taken, at once: its number must outlive this process."""
        self.arrays.append(facts)
        self._write()

    def add_after(self, job: str) -> None:
        """Note a job that comes after the arrays."""
        self.after.append(job)
        self._write()

    def _write(self) -> None:
        write_json(self.folder / "submission.json", self.content)


@dataclass(frozen=True)
class Place:
    """Where a run was last submitted."""

    submission: Submission
    array: dict[str, Any]
    index: int

    @property
    def element(self) -> str:
        """The element as Slurm's commands name it."""
        return f"{self.array['job']}_{self.index}"

    @property
    def log(self) -> Path:
        """What the element printed."""
        return self.submission.folder / "logs" / f"{self.element}.log"

    def spec(self, run_id: str) -> RunSpec:
        """The spec of one of its runs."""
        runs = element(self.submission.folder / self.array["file"], self.index)
        return next(spec for spec, name in runs if name == run_id)


def create(study: Path, settings: dict[str, Any]) -> Submission:
    """A new submission of a study, the next number."""
    above = study / FOLDER
    with explained(above):
        above.mkdir(parents=True, exist_ok=True)
        taken = [int(path.name) for path in above.iterdir() if path.name.isdigit()]
        for number in itertools.count(max(taken, default=0) + 1):
            folder = above / str(number)
            try:
                folder.mkdir()
                break
            except FileExistsError:  # somebody else's, a moment ago
                continue
        (folder / "logs").mkdir()
    made = Submission(
        folder,
        {
            "created": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "host": socket.gethostname(),
            "directory": os.getcwd(),
            "command": sys.argv,
            "settings": settings,
            "arrays": [],
            "after": [],
        },
    )
    made._write()
    return made


def submissions(study: Path) -> list[Submission]:
    """All submissions of a study, the oldest first."""
    above = study / FOLDER
    files = sorted(above.glob("[0-9]*/submission.json"), key=lambda file: int(file.parent.name))
    return [read(file.parent) for file in files]


def read(folder: Path) -> Submission:
    """The submission in a folder."""
    file = folder / "submission.json"
    try:
        content = read_json(file)
        if not all(isinstance(content[key], list) for key in ("arrays", "after")):
            raise ValueError("no arrays")
    except (ValueError, KeyError, TypeError):
        raise UserError(
            f"{file} is damaged, so what Slurm has of this study is unknown. Restore it; or, once squeue "
            f"shows nothing of it, move {folder} away."
        ) from None
    return Submission(folder, content)


def write_elements(path: Path, elements: Iterable[Runs]) -> None:
    """Write the runs of an array's elements, a line each."""
    with explained(path), path.open("w", encoding="utf-8") as file:
        for cells in elements:
            line = [{"run_id": run_id, "spec": spec.as_record()} for spec, run_id in cells]
            file.write(json.dumps(line) + "\n")


def element(path: Path, index: int) -> list[tuple[RunSpec, str]]:
    """The runs of one element of an array."""
    with path.open(encoding="utf-8") as file:
        line = next(itertools.islice(file, index, None))
    study = path.parents[2].name  # whatever the name that it had when it was submitted
    return [(replace(from_record(run["spec"]), study=study), run["run_id"]) for run in json.loads(line)]


def elements_before(path: Path, index: int) -> Iterator[str]:
    """The runs of an array's elements in front of one, which Slurm starts first."""
    for run_ids in itertools.islice(_run_ids(path), index):
        yield from run_ids


def places(study: Path) -> dict[str, Place]:
    """Where each run of a study was last submitted, by run_id."""
    return {
        run_id: Place(submission, array, index)
        for submission in submissions(study)
        for array in submission.arrays
        for index, run_ids in enumerate(_run_ids(submission.folder / array["file"]))
        for run_id in run_ids
    }


def active(study: Path, queue: Sequence[Element]) -> dict[str, Element]:
    """Per run_id of a study the element in the queue that has it; one that runs before one that waits."""
    queued = {element.name: element for element in queue}
    found: dict[str, Element] = {}
    for submission in submissions(study):
        for array in submission.arrays:
            names = [f"{array['job']}_{index}" for index in range(array["tasks"])]
            if queued.keys().isdisjoint(names):
                continue
            for name, run_ids in zip(names, _run_ids(submission.folder / array["file"]), strict=True):
                if name in queued:
                    found |= {
                        run_id: queued[name]
                        for run_id in run_ids
                        if run_id not in found or found[run_id].waits
                    }
    return found


def jobs_in(study: Path, queue: Sequence[Element], *, after: bool = True) -> list[str]:
    """The numbers of a study's jobs that are in the queue; `after` counts those that come after the runs."""
    numbers = {
        job
        for submission in submissions(study)
        for job in [*(array["job"] for array in submission.arrays), *(submission.after if after else [])]
    }
    return sorted({element.job for element in queue if element.job in numbers}, key=int)


def _run_ids(path: Path) -> Iterator[list[str]]:
    with path.open(encoding="utf-8") as file:
        for line in file:
            yield [run["run_id"] for run in json.loads(line) if is_name(run["run_id"])]
