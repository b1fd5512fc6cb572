"""Packs: which runs train together on one frozen base.

runs/<study>/.packs/<name>/
    pack.json      {"runs": [run_id, ...]}, in the order of the run axis; written before the first step
    step-*.pt      the state of the pack, only while it is unfinished

A pack that was interrupted goes on with the same runs in the same order, so to the same bits; those of its
runs that have a record by then train along and write nothing. Runs of other packs may come and go.
"""

import hashlib
import shutil
from collections import Counter
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import ceil
from pathlib import Path

from experiments.config.settings import total_steps
from experiments.errors import plural
from experiments.files import is_name, read_json, write_json
from experiments.record import FINISHED, read
from experiments.spec import RunSpec
from experiments.sweep.plan import Runs
from experiments.sweep.resources import Measured

FOLDER = ".packs"
OFF = "off"
CANDIDATES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)
NOTICEABLE = 0.03  # the least gain that a larger pack must bring
TIMED = 2  # the form of what is timed: curves of another are measured again
WORTH_SECONDS = 60.0  # runs that together take less are not worth measuring for


@dataclass(frozen=True)
class Pack:
    """Runs to be trained together, each with its run_id; a solo run is a pack of one.

    `members` are the run_ids on the run axis: those of `runs`, and runs that have ended meanwhile.
    """

    runs: Runs
    members: tuple[str, ...]

    @classmethod
    def of(cls, runs: Runs) -> "Pack":
        """A pack that begins anew."""
        return cls(runs, tuple(run_id for _, run_id in runs))


def form(todo: Runs, study: Path, *, size: int | Mapping[Hashable, int], workers: int = 1) -> list[Pack]:
    """The packs in which runs are trained, in the order of their first runs.

    Interrupted packs go on as they were. Of the rest, runs of one `pack_key` and one length share a pack:
    one that ends before the others only costs time from then on.

    Args:
        todo: The runs that are missing.
        study: Their folder.
        size: The most runs in a pack, or that by `pack_key`; 1 turns packs off.
        workers: How many packs are trained side by side: none goes without one while another has two runs.
    """
    if size == 1:
        return [Pack.of((run,)) for run in todo]
    packs = _interrupted(todo, study)
    taken = {run_id for pack in packs for _, run_id in pack.runs}
    groups: dict[Hashable, list[tuple[RunSpec, str]]] = {}
    for spec, run_id in todo:
        if run_id not in taken:
            key = spec.pack_key()
            groups.setdefault((key, _length(spec)) if key is not None else run_id, []).append((spec, run_id))
    for group in groups.values():
        key = group[0][0].pack_key()
        most = size if isinstance(size, int) else size.get(key, 1)
        packs += _shared_out(group, 1 if key is None else most, workers)
    first = {run_id: i for i, (_, run_id) in enumerate(todo)}
    return sorted(packs, key=lambda pack: min(first[run_id] for _, run_id in pack.runs))


def summary(packs: Sequence[Pack]) -> str:
    """What is packed, in words: "6 runs in 2 packs of 3"; empty if every run trains alone."""
    sizes = Counter(len(pack.runs) for pack in packs)
    solo = sizes.pop(1, 0)
    if not sizes:
        return ""
    parts = [f"{plural(n, 'pack')} of {size}" for size, n in sorted(sizes.items(), reverse=True)]
    parts += [f"{solo} alone"] if solo else []
    runs = sum(len(pack.runs) for pack in packs)
    return f"{runs} runs in {', '.join(parts[:-1])}{' and ' if len(parts) > 1 else ''}{parts[-1]}"


def foreseen(todo: Runs, root: Path, pack: int | str, workers: int) -> list[str]:
    """What a command will say of its packs, as far as it is known before a step has been timed.

    The phases of a fair sweep train one after another, so each has packs of its own.
    """
    lines = []
    for phase in dict.fromkeys(spec.phase for spec, _ in todo):
        runs = tuple(run for run in todo if run[0].phase == phase)
        most = sizes(runs, pack, workers=workers, measure=None)
        packed = form(runs, root / runs[0][0].study, size=most, workers=workers)
        open_ = isinstance(most, dict) and any(not _curves().of((TIMED, key)) for key in most)
        if text := summary(packed):
            lines.append(f"{text}{'' if phase == 'run' else f' (phase {phase})'}.")
        elif open_:
            lines.append("pack=auto: how many runs train together is measured when the sweep starts.")
    return list(dict.fromkeys(lines))


def folder_of(study: Path, members: Sequence[str]) -> Path:
    """Where a pack's composition and state are."""
    return study / FOLDER / hashlib.sha256("\n".join(members).encode()).hexdigest()[:12]


def states(study: Path, run_ids: Collection[str]) -> list[str]:
    """What is saved of the packs that hold one of these runs; a file's name says its step."""
    files = (study / FOLDER).glob("*/pack.json")
    own = [file.parent for file in files if {*_members(file)} & {*run_ids}]
    return sorted(path.name for folder in own for path in folder.glob("step-*"))


def has_state(folder: Path) -> bool:
    """Whether a pack can go on from somewhere."""
    return any(folder.glob("step-*.pt"))


def write_down(folder: Path, members: Sequence[str]) -> None:
    """Write the composition of a pack that is about to start."""
    write_json(folder / "pack.json", {"runs": list(members)})


def tidy(study: Path) -> None:
    """Remove what is left of packs all of whose runs have ended, in other packs or alone."""
    for file in (study / FOLDER).glob("*/pack.json"):
        records = [read(study / run_id) for run_id in _members(file)]
        if all(record is not None and record["status"] in FINISHED for record in records):
            shutil.rmtree(file.parent, ignore_errors=True)


def _members(file: Path) -> list[str]:
    """The runs of a pack; none if its file is damaged, so that they begin anew."""
    try:
        members = read_json(file)["runs"]
        return members if all(map(is_name, members)) else []
    except (OSError, ValueError, KeyError, TypeError):
        return []


def _interrupted(todo: Runs, study: Path) -> list[Pack]:
    """Packs that have a state, and of whose runs each is either missing or has ended."""
    missing = {run_id: (spec, run_id) for spec, run_id in todo}
    found: list[Pack] = []
    for file in sorted((study / FOLDER).glob("*/pack.json")):
        members = _members(file)
        runs = tuple(missing[run_id] for run_id in members if run_id in missing)
        ended = [run_id for run_id in members if run_id not in missing]
        records = [read(study / run_id) for run_id in ended]
        whole = all(record is not None and record["status"] in FINISHED for record in records)
        if runs and whole and has_state(file.parent):
            found.append(Pack(runs, tuple(members)))
            for _, run_id in runs:
                del missing[run_id]
    return found


def _shared_out(group: list[tuple[RunSpec, str]], most: int, workers: int) -> list[Pack]:
    """Packs of about equal size, at most `most`, with runs that stack side by side."""
    sorted_runs = sorted(group, key=_stacking)
    count = _count(len(group), most, workers)
    bounds = [round(i * len(group) / count) for i in range(count + 1)]
    return [Pack.of(tuple(sorted_runs[start:stop])) for start, stop in pairwise(bounds)]


def _count(runs: int, most: int, workers: int) -> int:
    """How many packs of at most `most` runs: each worker has one if there are enough runs."""
    return max(ceil(runs / most), min(workers, runs))


def _stacking(run: tuple[RunSpec, str]) -> tuple:
    """Sorts runs whose deltas stack side by side."""
    spec, options = run[0], run[0].options
    return spec.axes.get("delta", ""), spec.r or 0, bool(options.get("dropout")), str(options.get("init", ""))


def _length(spec: RunSpec) -> Hashable:
    return total_steps(spec.train, 1) if spec.train.steps is not None else ("epochs", spec.train.epochs)


Measure = Callable[[Sequence[RunSpec], Sequence[int], int], Mapping[int, float]]


def sizes(todo: Runs, pack: int | str | bool, *, workers: int, measure: Measure | None) -> int | dict:
    """The most runs in a pack: what was asked for, or with "auto" by `pack_key` where training is fastest.

    Args:
        todo: The runs that are missing.
        pack: As the command's key.
        workers: How many packs are trained side by side.
        measure: Gives the seconds of a step by size for some runs, up to the sizes named, of so many runs;
            None: only what was measured earlier on this machine is known.
    """
    if pack in (OFF, False):
        return 1
    if isinstance(pack, int):
        return pack
    groups: dict[tuple[Hashable, Hashable], list[RunSpec]] = {}
    for spec, _ in todo:
        groups.setdefault((spec.pack_key(), _length(spec)), []).append(spec)
    chosen: dict[Hashable, int] = {}
    for (key, _), specs in groups.items():
        candidates = [n for n in CANDIDATES if n <= ceil(len(specs) / workers)]
        if key is None or key in chosen or len(candidates) < 2:
            continue
        known = _curves()
        seconds = known.of((TIMED, key))
        if measure is not None and not _enough(seconds, candidates, specs):
            seconds = dict(measure(specs[: candidates[-1]], candidates, len(specs)))
            known.keep((TIMED, key), seconds)
        timed = {n: s for n, s in seconds.items() if n in candidates}
        chosen[key] = best(timed or {1: 1.0}, runs=len(specs), workers=workers)
    return chosen


def _enough(seconds: Mapping[int, float], candidates: Sequence[int], specs: Sequence[RunSpec]) -> bool:
    """Whether what is known decides: two sizes at least, or so little to do that none matters."""
    steps = specs[0].train.steps
    little = 1 in seconds and steps is not None and seconds[1] * steps * len(specs) < WORTH_SECONDS
    return little or len(seconds.keys() & set(candidates)) > 1


def largest(pack: int | str, runs: int, workers: int) -> int:
    """The most runs that a pack of so many runs may get, whatever is measured."""
    most = {"auto": CANDIDATES[-1], OFF: 1}[pack] if isinstance(pack, str) else int(pack)
    return max(1, min(most, ceil(runs / workers)))


def best(seconds: Mapping[int, float], *, runs: int, workers: int) -> int:
    """The size at which so many runs are trained soonest; a larger one must gain a noticeable part.

    Three packs on two workers take as long as four: what counts is the worker that has most packs.
    """

    def total(size: int) -> float:
        packs = _count(runs, size, workers)
        return ceil(packs / workers) * seconds[size] * ceil(runs / packs) / size

    size = 1
    for candidate in sorted(seconds):
        if total(candidate) < (1 - NOTICEABLE) * total(size):
            size = candidate
    return size


def _curves() -> Measured[int]:
    """Step times by size, kept per machine and shape."""
    return Measured("packs.json", int)
