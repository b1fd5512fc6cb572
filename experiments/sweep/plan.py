"""What of a sweep is missing: each run once, those that ended left out, and what to know before comparing."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from pathlib import Path

from experiments import record, tracking
from experiments.errors import UserError
from experiments.files import read_json
from experiments.models import COMMIT
from experiments.spec import RunSpec, from_record
from experiments.sweep.integrity import IntegrityCheck
from experiments.sweep.preview.fairness import findings

Runs = tuple[tuple[RunSpec, str], ...]  # each with its run_id


@dataclass(frozen=True)
class Plan:
    """The runs of a command."""

    todo: Runs
    done: Runs  # completed or diverged: results either way
    duplicates: int  # specs that are the same run as an earlier one
    notes: tuple[str, ...]
    damaged: Mapping[str, Sequence[str]] = field(default_factory=dict)  # what is wrong with files of `todo`


def plan(
    specs: Sequence[RunSpec], *, fingerprints: Callable[[RunSpec], str], root: Path, again: bool = False
) -> Plan:
    """What is to be run. A finished run whose files are not what its record says is not finished.

    Args:
        specs: All runs, equal ones included, in the order in which they are to run.
        fingerprints: The hash of a spec's data, `experiments.data.fingerprint`; called once per dataset.
        root: The folder of all studies.
        again: Whether finished runs are to be run anew.

    Raises:
        UserError: Names collide, or the package of a tracker is not installed.
    """
    named = _named(specs, fingerprints)
    begun = {study: _folders(root / study) for study in {spec.study for spec in specs}}
    for study, folders in begun.items():
        _check_names({i: s for i, s in named.items() if s.study == study}, root / study, folders)
    checks = {study: IntegrityCheck(root / study) for study in begun}
    todo: list[tuple[RunSpec, str]] = []
    done: list[tuple[RunSpec, str]] = []
    damaged: dict[str, Sequence[str]] = {}
    diverged = 0
    for run_id, spec in named.items():
        begin_anew = again or run_id not in begun[spec.study]
        status, problems = (None, []) if begin_anew else checks[spec.study].status(run_id)
        if problems:
            damaged[run_id] = problems
        ended = status in record.FINISHED and not problems
        diverged += ended and status == "diverged"
        (done if ended else todo).append((spec, run_id))
    for check in checks.values():
        check.save()
    for tracker in sorted({str(spec.tracker["name"]) for spec, _ in todo}):
        tracking.check_installed(tracker)
    duplicates = len(specs) - len(named)
    untuned = [spec for spec in named.values() if spec.phase == "run"]
    notes = [*_on_repeats(specs, duplicates), *comparison_notes(untuned)]
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
    named: dict[str, RunSpec] = {}
    for spec in dict.fromkeys(specs):
        key = spec.data_key()
        if key not in data:
            data[key] = fingerprints(spec)
        first = named.setdefault(run_id := spec.run_id(data[key]), spec)
        if first != spec and first.hash(data[key]) != spec.hash(data[key]):
            raise UserError(
                f"Two different runs got the same name, {run_id}, by a rare chance. Give one of them in a "
                f"command of its own with another study=..."
            )
    return named


def check_data(spec: RunSpec, run_id: str, fingerprint: str) -> None:
    """Refuse to train a run on other data than it was planned on: its name says which data that was."""
    if spec.run_id(fingerprint) != run_id:
        raise UserError(
            f"{run_id} was planned on other data than dataset={spec.dataset} holds now"
            f"{_at(spec.dataset_options.get('path'))}: the data has changed since. Restore it, or give the "
            "command again, which plans new runs on the data as it is now"
        )


def _at(place: object) -> str:
    return f" ({place})" if place else ""


def _check_names(cells: Mapping[str, RunSpec], study: Path, begun: Set[str]) -> None:
    """Refuse runs that stand in their study already, under the names that an older version gave them.

    It knew a model in a folder by samples of its files, and one of the hub by a branch that moves. Whether
    what it trained on is what is there now cannot be told, so neither is its result this run's.
    """
    same_name: dict[str, list[RunSpec]] = {}
    for run_id, spec in cells.items():
        same_name.setdefault(_without_hash(run_id), []).append(spec)
    for run_id in sorted(begun - cells.keys()):
        specs = same_name.get(_without_hash(run_id), ())
        found = _spec_of(study / run_id) if specs else None
        if found is None or not _is_unpinned(found.model_options):
            continue
        for spec in (s for s in specs if _place(s.model_options) == _place(found.model_options)):
            if replace(found, model_options=spec.model_options).hash("") == spec.hash(""):
                place = spec.model_options.get("path") or spec.model_options.get("name")
                raise UserError(
                    f"study={study.name} holds {run_id}, named by an older version, which identified the "
                    f"model {place} by samples of its files or by its branch. Now all bytes count, and the "
                    "same run would be there under two names. Give study=<another>; the old runs "
                    "can still be reported, exported and used"
                )


def _without_hash(run_id: str) -> str:
    return run_id.rpartition("-")[0]


def _place(model: Mapping[str, object]) -> dict[str, object]:
    """A model's options but for what says which state of it is meant."""
    return {key: value for key, value in model.items() if key not in ("content", "revision")}


def _is_unpinned(model: Mapping[str, object]) -> bool:
    """Whether an older version named the run, by a model that may be another by now."""
    if "content" in model:
        return len(str(model["content"])) < 64
    return "sha256" not in model and not COMMIT.fullmatch(str(model.get("revision")))


def _spec_of(folder: Path) -> RunSpec | None:
    """The spec in a run's folder; None where none can be read."""
    try:
        return from_record(read_json(folder / "spec.json"))
    except (OSError, ValueError):
        return None


def _folders(study: Path) -> set[str]:
    """The runs that were begun; one scan of the folder instead of one per run."""
    return {path.name for path in study.iterdir()} if study.is_dir() else set()


def _on_repeats(specs: Sequence[RunSpec], duplicates: int) -> list[str]:
    if not duplicates:
        return []
    repeated = dict.fromkeys(spec.variant for spec, times in Counter(specs).items() if times > 1)
    names = f" (variant={','.join(repeated)})" if repeated else ""
    return [f"{duplicates} of {len(specs)} runs are the same run as another one{names} and are run once."]


def comparison_notes(specs: Sequence[RunSpec]) -> list[str]:
    """Plain sentences, most weighty first; `python -m experiments.sweep plan` says more, and why."""
    unfair = [str(finding) for finding in findings(specs) if finding.level != "note"]
    return [*unfair, *matching_notes(specs)]


def matching_notes(specs: Sequence[RunSpec]) -> list[str]:
    """The ranks that match=... chose, a sentence for each variant."""
    ranks: dict[str, dict[int, int]] = {}
    for spec in specs:
        if spec.matched is not None and spec.r is not None:
            ranks.setdefault(spec.variant, {})[spec.matched] = spec.r
    return [
        f"match: {variant} has {', '.join(f'r={own} for r={r}' for r, own in sorted(found.items()))} of the "
        "reference."
        for variant, found in ranks.items()
    ]
