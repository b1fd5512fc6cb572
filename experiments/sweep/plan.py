"""What of a sweep is missing: each run once, those that ended left out, and what to know before comparing."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from experiments import record
from experiments.errors import UserError
from experiments.spec import RunSpec
from experiments.sweep.notes import on_comparing

Cells = tuple[tuple[RunSpec, str], ...]  # each with its run_id


@dataclass(frozen=True)
class Plan:
    """The cells of a command."""

    todo: Cells
    done: Cells  # completed or diverged: results either way
    duplicates: int  # cells that are the same run as an earlier one
    notes: tuple[str, ...]


def plan(specs: Sequence[RunSpec], *, fingerprints: Callable[[RunSpec], str], root: Path) -> Plan:
    """Tell what is to be run.

    Args:
        specs: All cells, equal ones included, in the order in which they are to run.
        fingerprints: The hash of a spec's data, `experiments.data.fingerprint`; asked once per dataset.
        root: The folder of all studies.
    """
    cells = _named(specs, fingerprints)
    begun = {study: _folders(root / study) for study in {spec.study for spec in specs}}
    todo: list[tuple[RunSpec, str]] = []
    done: list[tuple[RunSpec, str]] = []
    diverged = 0
    for run_id, spec in cells.items():
        found = record.read(root / spec.study / run_id) if run_id in begun[spec.study] else None
        ended = found is not None and found["status"] in record.FINISHED
        diverged += found is not None and found["status"] == "diverged"
        (done if ended else todo).append((spec, run_id))
    duplicates = len(specs) - len(cells)
    untuned = [spec for spec in cells.values() if spec.phase == "run"]
    notes = [*_on_repeats(specs, duplicates), *on_comparing(untuned)]
    if diverged:
        notes.append(
            f"{diverged} of the finished runs diverged. That is their result; they are not run again."
        )
    return Plan(tuple(todo), tuple(done), duplicates, tuple(notes))


def _named(specs: Sequence[RunSpec], fingerprints: Callable[[RunSpec], str]) -> dict[str, RunSpec]:
    """Each run once, by its run_id."""
    data: dict[object, str] = {}
    cells: dict[str, RunSpec] = {}
    for spec in dict.fromkeys(specs):
        key = (spec.dataset, spec.dataset_options)
        if key not in data:
            data[key] = fingerprints(spec)
        first = cells.setdefault(run_id := spec.run_id(data[key]), spec)
        if first != spec and first.hash(data[key]) != spec.hash(data[key]):
            raise UserError(
                f"Two different runs got the same name, {run_id}, by a rare chance. Give one of them in a "
                f"command of its own with another study=..."
            )
    return cells


def _folders(study: Path) -> set[str]:
    """The runs that were begun; one look at the folder instead of one per cell."""
    return {path.name for path in study.iterdir()} if study.is_dir() else set()


def _on_repeats(specs: Sequence[RunSpec], duplicates: int) -> list[str]:
    if not duplicates:
        return []
    repeated = dict.fromkeys(spec.variant for spec, times in Counter(specs).items() if times > 1)
    names = f" (variant={','.join(repeated)})" if repeated else ""
    return [f"{duplicates} of {len(specs)} cells are the same run as another one{names} and are run once."]
