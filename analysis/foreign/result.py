"""One run as others publish it, and the study folder that such runs make."""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from analysis.runs.measured import LESS_IS_BETTER
from analysis.runs.predictions import MEANS
from experiments.errors import UserError, did_you_mean, typed
from experiments.files import digest
from experiments.record import RunFolder, run_folders

_STATUSES = {
    "diverged": ("diverged", "nan"),
    "oom": ("oom", "out of memory"),
    "failed": ("failed", "crashed", "error", "failure"),
    "preempted": ("preempted", "killed", "running", "interrupted", "cancelled", "canceled"),
    "completed": ("completed", "finished", "success", "done", "ok", ""),
}


@dataclass
class Result:
    """One run of somebody else; None is what the file does not say."""

    place: str  # where it stands: "file.csv, line 3"
    method: str
    task: str
    metric: str
    seed: int | None = None
    score: float | None = None  # on test
    validation: float | None = None
    n: int | None = None  # test examples
    model: str = "unknown"
    rank: float | None = None
    alpha: float | None = None
    lr: float | None = None
    status: str = "completed"
    train: dict[str, Any] = field(default_factory=dict)  # of the training, equal for a fair comparison
    options: dict[str, Any] = field(default_factory=dict)  # of the method
    cost: dict[str, float] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    device: str | None = None
    plain: bool = False  # LoRA with nothing added
    inactive: str = ""  # why the method was never at work
    phase: str = ""  # tune or confirm, where the file says so
    stated: bool = False  # whether the file says how runs ended
    numbered: bool = False  # whether the seed is no more than the run's number

    @property
    def cell(self) -> tuple[Any, ...]:
        """The same for runs that differ in the seed alone."""
        return (self.method, self.task, self.model, self.rank, self.alpha, self.lr, digest(self.options))


def status_of(text: str, place: str) -> str:
    """A status of ours for one of theirs."""
    for status, words in _STATUSES.items():
        if text.strip().lower() in words:
            return status
    known = ", ".join(word for words in _STATUSES.values() for word in words if word)
    raise UserError(f"{place}: the status is {text!r}, which is none of {known}.")


def complete(results: Sequence[Result], examples: Mapping[str, int]) -> list[str]:
    """Fill in what follows from the results together; what was assumed, in sentences.

    Args:
        results: those of all files, changed in place.
        examples: test examples by task, as somebody who knows them said; "" stands for every task.
    """
    notes = []
    _check_tasks(examples, {result.task for result in results})
    for result in results:
        result.n = examples.get(result.task, examples.get("", result.n))
    known = [r for r in results if r.metric in MEANS]
    values = [v for r in known for v in (r.score, r.validation) if v is not None]
    if values and max(values) > 1:
        notes.append("Scores above 1 were taken as per cent.")
        for result in known:
            result.score = None if result.score is None else result.score / 100
            result.validation = None if result.validation is None else result.validation / 100
    for result in known:
        for value in (result.score, result.validation):
            if value is not None and not 0 <= value <= 1:
                raise UserError(
                    f"{result.place}: an {result.metric} of {value:g} is no share; give all of them in per "
                    "cent or all as numbers from 0 to 1."
                )
    if any(result.seed is None for result in results):
        notes.append("Runs without a seed were numbered in their order.")
    _number(results)
    return notes


def _check_tasks(examples: Mapping[str, int], tasks: Collection[str]) -> None:
    unknown = [task for task in examples if task and task not in tasks]
    if unknown:
        raise UserError(
            f"--examples names the task {unknown[0]!r}, of which there is no result."
            f"{did_you_mean(unknown[0], tasks)} The tasks are {', '.join(sorted(tasks))}."
        )


def _number(results: Sequence[Result]) -> None:
    """Give seeds to the runs that have none, and refuse two results of one run."""
    seen: dict[tuple[Any, ...], dict[int, Result]] = {}
    for result in results:
        taken = seen.setdefault((*result.cell, result.score is None), {})
        if result.seed is None:
            result.seed = next(i for i in range(len(taken) + 1) if i not in taken)
            result.numbered = True
        if result.seed in taken:
            raise UserError(
                f"{taken[result.seed].place} and {result.place} both are {result.method} on {result.task} "
                f"with seed {result.seed}; give each run its own seed, or remove one."
            )
        taken[result.seed] = result


def write(results: Sequence[Result], folder: Path, form: str) -> None:
    """Write a study of these results: one run folder each, with the record alone.

    Raises UserError where the folder holds runs already, which are not of this import.
    """
    if any(run_folders(folder)):
        raise UserError(
            f"{folder} holds runs already. Audit them again with python -m analysis.audit {typed(folder)}, "
            "or name a new folder with --out."
        )
    tuned = {r.cell[:-2] for r in results if r.score is None and r.status == "completed"}
    for result in results:
        phase = result.phase or "run"
        if not result.phase and result.cell[:-2] in tuned:
            phase = "tune" if result.score is None else "confirm"
        run_id = _run_id(result, phase)
        path = folder / run_id
        path.mkdir(parents=True)
        RunFolder(path).write_record(_record(result, run_id, folder.resolve().name, phase, form))


def _run_id(result: Result, phase: str) -> str:
    rank = "" if result.rank is None else f"r{result.rank:g}"
    parts = [result.method, rank, result.task, f"s{result.seed}"]
    name = re.sub(r"[^a-z0-9_-]+", "_", "-".join(part for part in parts if part).lower()).strip("_-")
    return f"{name[:60]}-{digest({'': [*map(str, result.cell), result.seed, phase]})[:8]}"


def _record(result: Result, run_id: str, study: str, phase: str, form: str) -> dict[str, Any]:
    spec = {
        "variant": result.method, "model": result.model, "dataset": result.task, "seed": result.seed,
        "study": study, "r": None if result.rank is None else int(result.rank), "alpha": result.alpha,
        "lr": result.lr, "train": result.train, "variant_options": result.options,
    }  # fmt: skip
    metrics = {f"test/{result.metric}": result.score, f"validation/{result.metric}": result.validation}
    data = {"test_rows": result.n}
    env = {"versions": result.versions, "device": result.device}
    known = lambda pairs: {key: value for key, value in pairs.items() if value is not None}  # noqa: E731
    said = ("place", "plain", "inactive", "stated", "numbered")
    source = {"format": form, **{name: getattr(result, name) for name in said}}
    return {
        "run_id": run_id,
        "study": study,
        "spec": known(spec),
        "status": result.status,
        "phase": phase,
        "primary": {"metric": result.metric, "goal": "min" if result.metric in LESS_IS_BETTER else "max"},
        "metrics": known(metrics) if result.status == "completed" else {},
        "cost": result.cost,
        "data": known(data),
        "env": known(env),
        "source": source,
    }
