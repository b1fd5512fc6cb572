"""A study folder read into one table, with everything that could not be used named and explained.

`read(folder)` returns a Study: `runs` has one row per usable record, whatever its status; `problems` says which folders
were left out and why; `unfinished` names the runs that have begun and left no record. A record that is torn, of another
schema, holds a number that is not finite or contradicts itself is never repaired and never half used.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from analysis import identity
from analysis.faults import NotFinite, fault, refuse_constant
from experiments import record as records
from experiments.errors import UserError

_COSTS = (
    "train_seconds",
    "step_ms",
    "tokens_per_second",
    "peak_bytes",
    "trainable_parameters",
    "total_parameters",
    "adapter_bytes",
    "base_bytes",
)


class Problem(NamedTuple):
    """A folder that the report could not use as it is."""

    run: str
    what: str


@dataclass(frozen=True)
class Study:
    """Everything the report knows. `runs` is sorted by run_id, so that equal records give equal reports."""

    name: str
    folder: Path
    runs: pd.DataFrame
    records: Mapping[str, dict[str, Any]]
    problems: list[Problem] = field(default_factory=list)
    unfinished: list[str] = field(default_factory=list)

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

    def path(self, run_id: str) -> records.RunFolder:
        """The folder of a run."""
        return records.RunFolder(self.folder / self._places[run_id])


def read(folder: Path, *, pool: bool = False) -> Study:
    """Read every run folder of a study; UserError when there is nothing to report on.

    Args:
        folder: runs/STUDY.
        pool: take results of different code, versions, hardware or data for comparable.
    """
    folder = Path(folder)
    if not folder.is_dir():
        near = (
            sorted(p.name for p in folder.parent.glob("*") if p.is_dir())[:8]
            if folder.parent.is_dir()
            else []
        )
        raise UserError(f"there is no folder {folder}." + (f" Beside it: {', '.join(near)}." if near else ""))
    found: dict[str, dict[str, Any]] = {}
    places: dict[str, str] = {}
    problems: list[Problem] = []
    unfinished: list[str] = []
    refused: set[str] = set()
    for run in records.run_folders(folder):
        if not run.record.is_file():
            unfinished.append(run.path.name)
            continue
        content = _checked(run, problems)
        if content is None:
            continue
        run_id = content["run_id"]
        if run_id != run.path.name:
            problems.append(
                Problem(run.path.name, f"the record inside is of run {run_id}; it is used under that name")
            )
        if run_id in refused or run_id in found:
            _duplicate(run_id, run.path.name, content, found, refused, problems)
            continue
        found[run_id], places[run_id] = content, run.path.name
    if not found and not problems and not unfinished:
        hint = _studies_below(folder)
        raise UserError(f"{folder} holds no run: no folder in it has a spec.json or a record.json.{hint}")
    ordered = {run_id: found[run_id] for run_id in sorted(found)}
    rows = [_row(content, places[run_id]) for run_id, content in ordered.items()]
    table = _table(rows)
    if pool:
        table["stack"] = "pooled"
    table["repeat"] = _repeats(table, problems)
    return Study(folder.resolve().name, folder, table, ordered, problems, unfinished)


def _repeats(table: pd.DataFrame, problems: list[Problem]) -> pd.Series:
    """Runs whose cell, stack and seed another run has already: chance was not drawn anew, so they do not count again."""
    done = table[table["status"] == "completed"]
    keys = ["cell_key", "stack", "seed", "tuning"]
    done = done.assign(tuning=done["phase"] == "tune")
    repeat = pd.Series(False, table.index)
    for _, group in done[done.duplicated(keys, keep=False)].groupby(keys, sort=False):
        first = group.iloc[0]
        for _, run in group.iloc[1:].iterrows():
            repeat[run["run_id"]] = True
            what = f"repeats {first['run_id']} with the same seed and ended {abs(run['score'] - first['score']):.4g} away from it"
            problems.append(Problem(run["run_id"], what + "; counted once"))
    return repeat


def _studies_below(folder: Path) -> str:
    names = [study.name for study in records.studies(folder)]
    return f" The studies in it: {', '.join(names[:8])}; name one of them." if names else ""


def _checked(run: records.RunFolder, problems: list[Problem]) -> dict[str, Any] | None:
    """The record of a run folder, or None after noting what is wrong with it."""
    try:
        content = json.loads(run.record.read_bytes(), parse_constant=refuse_constant)
    except NotFinite as error:
        problems.append(Problem(run.path.name, f"record.json holds {error}, which is no number; not used"))
        return None
    except (OSError, ValueError):
        problems.append(Problem(run.path.name, "record.json is torn or is not JSON; not used. Run it again"))
        return None
    wrong = fault(content)
    if wrong:
        problems.append(Problem(run.path.name, f"{wrong}; not used"))
        return None
    return content


def _duplicate(
    run_id: str, place: str, content: dict[str, Any], found: dict, refused: set[str], problems: list
) -> None:
    """The same run twice: harmless when the results agree, else neither can be trusted."""
    if run_id in found and found[run_id].get("metrics") == content.get("metrics"):
        problems.append(Problem(place, f"run {run_id} is there twice with the same results; counted once"))
        return
    found.pop(run_id, None)
    refused.add(run_id)
    problems.append(
        Problem(place, f"run {run_id} is there more than once with different results; none of them is used")
    )


def _row(content: dict[str, Any], place: str) -> dict[str, Any]:
    """The columns of one run in the table of runs."""
    spec, metrics, primary = content["spec"], content.get("metrics") or {}, content.get("primary") or {}
    cost, data, env = (content.get(part) or {} for part in ("cost", "data", "env"))
    metric = primary.get("metric")
    split = "test" if f"test/{metric}" in metrics else "validation"
    total, trained = cost.get("total_parameters"), cost.get("trainable_parameters")
    return {
        "run_id": content["run_id"],
        "folder": place,
        "status": content["status"],
        "phase": content.get("phase", "run"),
        "variant": str(spec["variant"]),
        "method": spec.get("method"),
        "r": spec.get("r"),
        "alpha": spec.get("alpha"),
        "targets": identity.text(spec["targets"]) if "targets" in spec else None,
        "model": identity.model(spec),
        "dataset": identity.dataset(spec),
        "lr": spec.get("lr"),
        "seed": spec["seed"],
        "scale": identity.scale(spec),
        "cell_key": identity.cell_key(content),
        "peer_key": identity.peer_key(content),
        "group_key": identity.group_key(content),
        "stack": identity.stack(content),
        "metric": metric,
        "goal": primary.get("goal"),
        "split": split,
        "score": metrics.get(f"{split}/{metric}"),
        "validation": metrics.get(f"validation/{metric}"),
        "loss": metrics.get(f"{split}/loss"),
        "validation_loss": metrics.get("validation/loss"),
        **{key: cost.get(key) for key in _COSTS},
        "share": trained / total if trained is not None and total else None,
        "test_rows": data.get("test_rows"),
        "device": env.get("device"),
        "host": env.get("host"),
    }


_TEXT = (
    "run_id",
    "folder",
    "status",
    "phase",
    "variant",
    "method",
    "targets",
    "model",
    "dataset",
    "cell_key",
    "peer_key",
    "group_key",
    "stack",
    "metric",
    "goal",
    "split",
    "device",
    "host",
)
_NUMBERS = (
    "r",
    "alpha",
    "lr",
    "scale",
    "score",
    "validation",
    "loss",
    "validation_loss",
    *_COSTS,
    "share",
    "test_rows",
)


def _table(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """The table of runs, indexed by run_id, with the same columns and types however many rows there are."""
    table = pd.DataFrame(rows, columns=[*_TEXT, *_NUMBERS, "seed"], dtype=object)
    kinds = {name: "object" for name in _TEXT} | {name: "float64" for name in _NUMBERS} | {"seed": "int64"}
    return table.astype(kinds).set_index("run_id", drop=False)
