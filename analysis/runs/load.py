"""A study folder read into one table, with everything that could not be used named and explained.

`read(folder)` returns a Study: `runs` has one row per usable record, whatever its status; `problems` says
which folders were left out and why; `unfinished` names the runs that have begun and left no record, `missing`
those that were asked for and never begun. A record that is torn, of another schema, holds a number that is
not finite or contradicts itself or its predictions is never repaired and never half used.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.runs import arrays, histories, identity, timing
from analysis.runs.failures import places
from analysis.runs.measured import by_metric
from analysis.runs.predictions import Predictions
from analysis.runs.rows import Problem, each, row_of, table_of
from experiments import record as records
from experiments.errors import printable
from experiments.files import read_json
from experiments.record import Request, RunFolder


@dataclass(frozen=True)
class Study:
    """Everything the report knows. `runs` is sorted by run_id, so that equal records give equal reports."""

    name: str
    folder: Path
    runs: pd.DataFrame
    records: Mapping[str, dict[str, Any]]
    predictions: Predictions
    problems: list[Problem] = field(default_factory=list)
    unfinished: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)  # one per command
    in_turn: timing.InTurn | None = None  # step times that were measured apart

    @property
    def completed(self) -> pd.DataFrame:
        """The runs that ended with a result to compare."""
        return self.runs[self.runs["status"] == "completed"]

    @cached_property
    def scores(self) -> dict[str, float]:
        """The primary metric of each completed run."""
        return dict(zip(self.completed["run_id"], self.completed["score"], strict=True))

    @cached_property
    def _places(self) -> dict[str, str]:
        return dict(zip(self.runs["run_id"], self.runs["folder"], strict=True))

    @cached_property
    def curves(self) -> Callable[[str], histories.Curves]:
        """The loss curves of a run, each read once."""
        return cache(lambda run_id: histories.curves(self.path(run_id).history))

    @cached_property
    def arrays(self) -> Callable[[str], Mapping[str, np.ndarray]]:
        """The arrays of a run by name, each file read once; unusable ones are noted in `problems`."""
        return cache(self._arrays)

    def _arrays(self, run_id: str) -> Mapping[str, np.ndarray]:
        path = self.path(run_id).signatures
        try:
            return arrays.read(path, (self.records[run_id].get("files") or {}).get(path.name))
        except arrays.Unusable as error:
            what = f"{path.name} {error}; left out of the papers' figures"
            self.problems.append(Problem(run_id, what))
            return {}

    def history(self, run_id: str, names: Sequence[str]) -> dict[str, np.ndarray]:
        """Columns of a run's history as pairs (n, 2) of step and value."""
        rows = records.read_history(self.path(run_id).history)
        return {name: histories.column(rows, name) for name in names}

    def learned_nothing(self, run_id: str) -> bool:
        """Whether a classifier gave all test examples one answer; Matthews' correlation is 0 then."""
        metrics = self.records[run_id].get("metrics") or {}
        return metrics.get("test/matthews") == 0 and self.predictions.one_answer(run_id)

    def unlearned(self, cells: pd.DataFrame) -> tuple[int, int]:
        """How many of the runs behind these cells learned nothing, and of how many."""
        runs = [run for by_seed in cells["by_seed"] for run in by_seed.values()]
        return sum(map(self.learned_nothing, runs)), len(runs)

    def path(self, run_id: str) -> RunFolder:
        """The folder of a run."""
        return RunFolder(self.folder / self._places[run_id])


def read(folder: Path, *, pool: bool = False, metric: str | None = None) -> Study:
    """Read every run folder of a study; UserError when there is nothing to report on.

    Args:
        folder: runs/STUDY.
        pool: take results of different code, versions, hardware or data for comparable.
        metric: another than the primary one, see `measured`.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise records.no_runs(folder)
    problems: list[Problem] = []
    runs = list(records.run_folders(folder))
    ended = [run for run in runs if run.record.is_file()]  # asked once, as runs may be ending
    unfinished = sorted({run.path.name for run in runs} - {run.path.name for run in ended})
    copies: dict[str, list[tuple[str, dict[str, Any]]]] = {}
    for run in ended:
        if content := _checked(run, problems):
            copies.setdefault(content["run_id"], []).append((run.path.name, content))
    found, folders = _used(copies, problems)
    begun = {run.path.name for run in runs} | set(found)
    requests = records.requests(folder)
    missing = sorted(set().union(*(request.cells for request in requests)) - begun)
    if not found and not problems and not unfinished and not missing:
        raise records.no_runs(folder)
    ordered = {run_id: found[run_id] for run_id in sorted(found)}
    if metric is not None:
        lacking = sorted(ordered.keys() - (ordered := by_metric(ordered, metric)).keys())
        problems += [Problem(run_id, f"was not measured by {metric}; left out") for run_id in lacking]
    predictions = Predictions(ordered, lambda run_id: RunFolder(folder / folders[run_id]))
    for run_id in predictions.check():
        del ordered[run_id]
    problems += predictions.contradictions
    tuned = identity.tuned_in(ordered.values())
    lost = places(ordered.values())
    rows = [row_of(c, folders[i], tuned[i], lost.get(i)) for i, c in ordered.items()]
    table = table_of(rows)
    if pool or any("source" in content for content in ordered.values()):  # results of others have no stack
        table["stack"] = "pooled"
    table["repeat"] = _repeats(table, problems)
    problems += _mixed(table)
    in_turn = timing.measured_in_turn(folder, table, problems)
    problems = [Problem(printable(run), printable(what)) for run, what in problems]
    unfinished, missing = [*map(printable, unfinished)], [*map(printable, missing)]
    name = printable(folder.resolve().name)
    return Study(name, folder, table, ordered, predictions, problems, unfinished, missing, requests, in_turn)


def _mixed(table: pd.DataFrame) -> list[Problem]:
    """Cells of which some runs were tested and others not: they are two cells, which nobody may average."""
    done = table[(table["status"] == "completed") & (table["phase"] != "tune")]
    splits = done.groupby(["cell_key", "stack", "phase"], sort=True)["split"].nunique()
    what = "some of its runs have a result on test, others on validation alone; kept apart, never averaged"
    return [Problem(key, what) for key, *_ in splits.index[splits > 1]]


def _repeats(table: pd.DataFrame, problems: list[Problem]) -> pd.Series:
    """Runs whose cell, phase, stack and seed another has: chance was not drawn anew, so they do not count.

    Those that were asked for as repeats are no problem: they tell what chance is left at one seed.
    """
    done = table[table["status"] == "completed"].sort_values("again", kind="stable")
    keys = ["cell_key", "stack", "seed", "phase"]
    repeat = pd.Series(False, table.index)
    for _, group in done[done.duplicated(keys, keep=False)].groupby(keys, sort=False):
        first = group.iloc[0]
        for run in each(group.iloc[1:]):
            repeat[run["run_id"]] = True
            if run["again"]:
                continue
            apart = f"{abs(run['score'] - first['score']):.4g}"
            what = f"repeats {first['run_id']} with the same seed and ended {apart} away from it"
            problems.append(Problem(run["run_id"], what + "; counted once"))
    return repeat


class _NotFinite(Exception):
    """NaN or Infinity, which JSON does not have."""


def _refuse(constant: str) -> float:
    raise _NotFinite(constant)


def _checked(run: RunFolder, problems: list[Problem]) -> dict[str, Any] | None:
    """The record of a run folder, or None after noting what is wrong with it."""
    try:
        content: Any = read_json(run.record, parse_constant=_refuse)
    except _NotFinite as error:
        problems.append(Problem(run.path.name, f"record.json holds {error}, which is no number; not used"))
        return None
    except (OSError, ValueError):
        problems.append(Problem(run.path.name, "record.json is torn or is not JSON; not used. Run it again"))
        return None
    wrong = records.fault(content)
    if not wrong and records.is_edited(content):
        wrong = "record.json differs from its own checksum: it was changed after the run"
    if wrong:
        problems.append(Problem(run.path.name, f"{wrong}; not used"))
        return None
    return dict(_printable(content))


def _printable(value: Any) -> Any:
    """The value with texts that can be shown: a control character in a name ends the drawing of a figure."""
    if isinstance(value, dict):
        return {printable(key): _printable(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_printable(inner) for inner in value]
    return printable(value) if isinstance(value, str) else value


def _used(
    copies: Mapping[str, Sequence[tuple[str, dict[str, Any]]]], problems: list[Problem]
) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """The record and the folder of each run.

    The same run in several folders is harmless where the results agree, else none of them can be trusted.
    """
    found, folders = {}, {}
    for run_id, ((first, content), *others) in copies.items():
        same = all(other.get("metrics") == content.get("metrics") for _, other in others)
        if same:
            found[run_id], folders[run_id] = content, first
        what = "twice with the same results; counted once"
        what = what if same else "more than once with different results; none of them is used"
        for place in (first, *(place for place, _ in others)):
            if place != run_id:
                named = f"the record inside is of run {run_id}; it is used under that name"
                problems.append(Problem(place, named))
        problems += [Problem(place, f"run {run_id} is there {what}") for place, _ in others]
    return found, folders
