"""What earlier runs on this machine cost, by their shape: the best forecast of the next one."""

import os
import platform
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from experiments import record
from experiments.errors import UserError
from experiments.spec import RunSpec, from_record

Rows = frozenset[tuple[str, str]]  # the hash of each split's rows, named as in a record: train_sha256
MOST = 3000  # records that are read, those of the newest studies first


@dataclass(frozen=True)
class Measured:
    """Medians over earlier runs of one shape."""

    runs: int
    studies: tuple[str, ...]
    step_seconds: float
    evaluation_seconds: float  # per run
    other_seconds: float
    memory: int | None


class Past:
    """Records under runs/ by the shape of their run; those of another machine are left out."""

    def __init__(self, root: Path):
        self._groups: dict[Any, list[dict[str, Any]]] = defaultdict(list)
        for found in _records(root):
            try:
                spec, rows = from_record(found["spec"]), _rows(found)
            except ValueError:  # edited: what it measured is of no run
                continue
            self._groups[shape(spec, rows)].append(found)
            self._groups[frame(spec, rows)].append(found)
        self._measured: dict[Any, Measured | None] = {}

    def like(self, spec: RunSpec, rows: Rows) -> Measured | None:
        """Of runs that differ from this one in seed, rates and number of steps at most."""
        key = shape(spec, rows)
        if key not in self._measured:
            group = self._groups.get(key)
            self._measured[key] = _median(group) if group else None
        return self._measured[key]

    def frames(self, spec: RunSpec, rows: Rows) -> list[tuple[RunSpec, float]]:
        """Specs of runs on the same model, data and batch, with their seconds per step."""
        return [
            (from_record(found["spec"]), found["cost"]["step_ms"] / 1000)
            for found in self._groups.get(frame(spec, rows), ())
        ]


def frame(spec: RunSpec, rows: Rows) -> tuple[Any, ...]:
    """What sets the work of a step, whatever the method is: the model, the data by its rows, the batch."""
    train = spec.train
    return (
        "frame", spec.model_key(), spec.dataset, spec.dataset_options.get("max_length"), rows,
        train.batch_size, train.micro_batch_size, train.precision, train.gradient_checkpointing,
    )  # fmt: skip


def shape(spec: RunSpec, rows: Rows) -> tuple[Any, ...]:
    """The frame, the method, and the number of evaluations."""
    return (
        *frame(spec, rows), spec.train.evaluations, spec.phase == "tune", spec.method, spec.axes, spec.r,
        spec.targets, spec.options,
    )  # fmt: skip


def _rows(found: Mapping[str, Any]) -> Rows:
    """The hashes of a record's rows."""
    return frozenset(item for item in found.get("data", {}).items() if item[0].endswith("_sha256"))


def _median(group: list[dict[str, Any]]) -> Measured:
    costs = [found["cost"] for found in group]
    peaks = [cost["peak_bytes"] for cost in costs if cost.get("peak_bytes")]
    return Measured(
        runs=len(group),
        studies=tuple(sorted({found["study"] for found in group})),
        step_seconds=median(cost["step_ms"] for cost in costs) / 1000,
        evaluation_seconds=median(cost.get("evaluate_seconds", 0.0) for cost in costs),
        other_seconds=median(
            cost.get("load_seconds", 0.0) + cost.get("harness_seconds", 0.0) for cost in costs
        ),
        memory=int(median(peaks)) if peaks else None,
    )


def _records(root: Path) -> Iterator[dict[str, Any]]:
    """Completed records of this machine, of at most MOST that are read."""
    left = MOST
    newest = sorted(record.studies(root), key=lambda study: -os.stat(study).st_mtime)
    for folder in (folder for study in newest for folder in record.run_folders(study)):
        if left == 0:
            return
        left -= 1
        try:
            found = record.read(folder.path)
        except UserError:  # written by another version; nothing can be learnt from it
            continue
        if found is None or found["status"] != "completed" or not found.get("cost", {}).get("step_ms"):
            continue
        if found.get("env", {}).get("host") == platform.node():
            yield found
