"""What of a sweep is missing: each run once, those that ended left out, and what to know before comparing."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from experiments import record
from experiments.errors import UserError
from experiments.spec import RunSpec
from experiments.sweep.integrity import Whole
from experiments.sweep.notes import on_comparing

Cells = tuple[tuple[RunSpec, str], ...]  # each with its run_id


@dataclass(frozen=True)
class Plan:
    """The cells of a command."""

    todo: Cells
    done: Cells  # completed or diverged: results either way
    duplicates: int  # cells that are the same run as an earlier one
    notes: tuple[str, ...]
    damaged: Mapping[str, Sequence[str]] = field(default_factory=dict)  # what is wrong with files of `todo`


def plan(
    specs: Sequence[RunSpec], *, fingerprints: Callable[[RunSpec], str], root: Path, again: bool = False
) -> Plan:
    """Tell what is to be run. A finished run whose files are not what its record says is not finished.

    Args:
        specs: All cells, equal ones included, in the order in which they are to run.
        fingerprints: The hash of a spec's data, `experiments.data.fingerprint`; asked once per dataset.
        root: The folder of all studies.
        again: Whether finished runs are to be run anew.
    """
    cells = _named(specs, fingerprints)
    begun = {study: _folders(root / study) for study in {spec.study for spec in specs}}
    whole = {study: Whole(root / study) for study in begun}
    todo: list[tuple[RunSpec, str]] = []
    done: list[tuple[RunSpec, str]] = []
    damaged: dict[str, Sequence[str]] = {}
    diverged = 0
    for run_id, spec in cells.items():
        begin_anew = again or run_id not in begun[spec.study]
        status, problems = (None, []) if begin_anew else whole[spec.study].status(run_id)
        if problems:
            damaged[run_id] = problems
        ended = status in record.FINISHED and not problems
        diverged += ended and status == "diverged"
        (done if ended else todo).append((spec, run_id))
    for known in whole.values():
        known.save()
    duplicates = len(specs) - len(cells)
    untuned = [spec for spec in cells.values() if spec.phase == "run"]
    notes = [*_on_repeats(specs, duplicates), *on_comparing(untuned)]
    if diverged:
        notes.append(
            f"{diverged} of the finished runs diverged. That is their result; they are not run again."
        )
    return Plan(tuple(todo), tuple(done), duplicates, tuple(notes), damaged)


def kinds(specs: Iterable[RunSpec]) -> dict[RunSpec, int]:
    """A spec for each way of attaching to a model, with the number of those like it.

    What a model refuses, and how much a run leaves on the disk, is the same for all of a kind.
    """
    first: dict[tuple[object, ...], RunSpec] = {}
    counts: Counter[RunSpec] = Counter()
    for s in specs:
        key = (s.base_key(), s.data_key(), s.method, s.axes, s.r, s.targets, s.options)
        counts[first.setdefault(key, s)] += 1
    return dict(counts)


def _named(specs: Sequence[RunSpec], fingerprints: Callable[[RunSpec], str]) -> dict[str, RunSpec]:
    """Each run once, by its run_id."""
    data: dict[object, str] = {}
    cells: dict[str, RunSpec] = {}
    for spec in dict.fromkeys(specs):
        key = spec.data_key()
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
