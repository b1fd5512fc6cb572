"""Runs grouped into cells: one row per cell with its seeds, its mean, what went wrong and what it cost.

Tuning runs never enter a result. Where a group of cells differs in what was tuned alone, the one that is
compared with others is chosen on validation, never on the test set: of the confirmed ones, if there are any,
the one that tuning recommends (by the smoothed curve, as the fair sweeper does), else the best on validation.
Plain runs beside confirmed ones are shown and not compared.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from analysis import stats
from analysis.runs import identity, rates, timing
from analysis.runs.load import Study
from analysis.runs.rows import MEASURED, SHARED, Row, each, plain

SETTING = ("dataset", "model", "metric", "goal", "split")
_SAME = (*SHARED, "series")
_OWN = (
    "tuning", "phase", "tuned", "recommended", "recommended_n", "n", "seeds", "seeds_tried", "mean",
    "sd", "low", "high", "diverged", "failed", "disturbed", "run_ids", "by_seed", "final", "rates", "beside",
)  # fmt: skip
_FLAGS = ("tuning", "final", "beside")
_FAILED = ("failed", "oom", "preempted")

Run = dict[str, Any]  # a row of the table of runs
Key = tuple[str, str]  # (cell_key, stack) of a cell


def cells(study: Study) -> pd.DataFrame:
    """One row per cell, stack and phase, the baseline-like variants first.

    Columns: those of a run that all runs of a cell share, means of the measured ones, and `n` completed
    seeds, `seeds`, `mean`, `sd`, `low`, `high` (t interval over seeds, from 3 seeds on), `diverged`,
    `failed`, `disturbed` (runs beside other work), `tuning`, `final` (stands for its group), `rates` (how
    many points its group tried), `beside` (a plain run beside confirmed ones).
    """
    runs = study.runs.assign(series=series_labels(study), tuning=study.runs["phase"] == "tune")
    if runs.empty:
        return pd.DataFrame(columns=[*_SAME, *MEASURED, *_OWN]).astype(dict.fromkeys(_FLAGS, bool))
    keys = ["cell_key", "stack", "phase", "split"]  # what test and validation say is never averaged
    number = runs.groupby(keys, sort=True, dropna=False).ngroup()
    grouped: list[list[Run]] = [[] for _ in range(number.max() + 1)]
    for at, run in zip(number, each(runs), strict=True):
        grouped[at].append(run)
    table = plain(pd.DataFrame([_cell(group) for group in grouped]))
    tuned = table[table["tuning"]]
    for curve in rates.curves(tuned, runs).values():
        value = dict(zip(curve.cells, curve.fit.score.tolist(), strict=True))
        own = table["tuning"] & table["cell_key"].isin(list(value)) & ~np.isneginf(table["recommended"])
        table.loc[own, "recommended"] = table.loc[own, "cell_key"].map(value)
    table["rates"] = _points(table)
    groups = table.groupby(["group_key", "stack"])["phase"]
    table["beside"] = (table["phase"] == "run") & groups.transform(lambda phases: "confirm" in set(phases))
    table["final"] = _final(table)
    order = [order_of(name) for name in table["series"]]
    table = table.assign(_o=order).sort_values(
        ["dataset", "model", "targets", "_o", "r", "lr", "cell_key", "stack"]
    )
    return table.drop(columns="_o").reset_index(drop=True)


def finals(cells: pd.DataFrame) -> pd.DataFrame:
    """The cells that stand for their group and have a result."""
    return cells[cells["final"] & (cells["n"] > 0)]


def key_of(cell: Row) -> Key:
    """What sets a cell apart from all others that stand for their group."""
    return cell["cell_key"], cell["stack"]


def by_key(cells: pd.DataFrame) -> dict[Key, Row]:
    """The cells that stand for their group, with a result or without."""
    return {key_of(cell): cell for cell in each(cells[cells["final"]])}


def order_of(series: str) -> tuple[int, str]:
    """Plain LoRA first, then by name: the order of every legend and table."""
    return (0 if series == "lora" else 1 if series.startswith("lora ") else 2, series)


def _cell(runs: Sequence[Run]) -> dict[str, Any]:
    done = [run for run in runs if run["status"] == "completed" and not run["repeat"]]
    first = min(done or runs, key=lambda run: _nan_last(run["matched"]))  # those that say so
    scores = np.array([run["score"] for run in done], float)
    low, high = stats.t_interval(scores) if len(scores) >= stats.FEWEST_SEEDS else (np.nan, np.nan)
    row = {name: first[name] for name in _SAME} | {name: _mean(runs, name) for name in MEASURED}
    row |= timing.of_cell(done)
    return row | {
        "tuning": bool(first["tuning"]),
        "phase": first["phase"],
        "tuned": first["tuned"],
        **_recommendation(runs, done),
        "n": len(done),
        "seeds": tuple(sorted(run["seed"] for run in done)),
        "seeds_tried": tuple(sorted({run["seed"] for run in runs})),
        "mean": scores.mean() if len(scores) else np.nan,
        "sd": scores.std(ddof=1) if len(scores) > 1 else np.nan,
        "low": low,
        "high": high,
        "diverged": sum(run["status"] == "diverged" for run in runs),
        "failed": sum(run["status"] in _FAILED for run in runs),
        "run_ids": tuple(run["run_id"] for run in runs),
        "by_seed": {run["seed"]: run["run_id"] for run in done},
    }


def _recommendation(runs: Sequence[Run], done: Sequence[Run]) -> dict[str, float]:
    """What tuning goes by: the mean on validation, the worst there is if a run diverged, and its seeds.

    Runs without any result on validation, as others publish them, go by their score; the audit says so.
    """
    diverged = any(run["status"] == "diverged" for run in runs)
    sign = min(run["sign"] for run in runs)
    known = sum(not np.isnan(run["validation"]) for run in done)
    value = -np.inf if diverged else sign * _mean(done, "validation" if known else "score")
    return {"recommended": value, "recommended_n": known}


def _mean(runs: Sequence[Run], name: str) -> float:
    """The mean of what is known of a column; nan if nothing is."""
    known = [run[name] for run in runs if not np.isnan(run[name])]
    return float(np.mean(known)) if known else np.nan


def _nan_last(value: float) -> tuple[bool, float]:
    """To sort by: numbers in order, then those that are unknown."""
    return bool(np.isnan(value)), value


def _points(table: pd.DataFrame) -> pd.Series:
    """Between how many points each cell's group chose: those of its tuning runs, else of its own."""
    tuned = shortest(table[table["tuning"]]).groupby("group_key")["cell_key"].nunique()
    own = table.groupby(["group_key", "stack"])["cell_key"].transform("nunique")
    return table["group_key"].map(tuned).fillna(own).astype(int)


def shortest(tried: pd.DataFrame) -> pd.DataFrame:
    """Of what halving tried the shortest runs, which every point has; all of what was tuned otherwise."""
    least = tried.groupby("group_key")["rung"].transform("min")
    return tried[tried["rung"].isna() | (tried["rung"] == least)]


def _final(table: pd.DataFrame) -> pd.Series:
    """Which cells stand for their group."""
    final = pd.Series(False, table.index)
    names = ["recommended", "recommended_n"]
    tuning = table[table["tuning"]].drop_duplicates("cell_key").set_index("cell_key")[names]
    results = table[~table["tuning"] & ~table["beside"]]
    for _, group in results.groupby(["group_key", "stack", "split"], sort=False, dropna=False):
        distinct = tuning.reindex(group["cell_key"]).set_index(group.index)
        final[chosen(group.assign(**distinct) if distinct["recommended_n"].notna().any() else group)] = True
    return final


def chosen(group: pd.DataFrame) -> int:
    """The row label of the cell that its validation results recommend, by the rules of the fair sweeper.

    One that diverged with some seed comes after all that did not, one that lacks seeds after those that have
    more of them. Ties go to the lower rate.
    """
    value = group["recommended"].to_numpy(float)
    seeds = np.nan_to_num(group["recommended_n"].to_numpy(float))
    lost = np.where(np.isnan(value), -np.inf, value)
    order = np.lexsort((group["lr"].to_numpy(float), -lost, -seeds, value == -np.inf))  # nan comes last
    return int(group.index[order[0]])


def series_labels(study: Study) -> pd.Series:
    """A name per run for what rank, targets, rate and data do not tell: "dora", or "dora, storage=nf4"."""
    if study.runs.empty:
        return pd.Series([], dtype=object)
    runs = study.runs
    place = (
        runs.groupby(["variant", "r", "targets", "model", "dataset"], dropna=False, sort=False)
        .ngroup()
        .to_numpy()
    )
    skip = {"variant", "r", "targets", "model", "dataset", "lr", "seed", "study", "method", "train.threads"}
    skip |= {"phase", "tuned", "repeat", "signatures", "matched", "halving"}
    specs = [
        _but(identity.flat(study.records[run_id]["spec"]), tuned)
        for run_id, tuned in zip(runs["run_id"], runs["tuned"], strict=True)
    ]
    keys = sorted(
        {key for spec in specs for key in spec if key not in skip and not key.startswith("tracker")}
    )
    distinct: dict[str, list[str]] = {}
    for key in keys:
        seen: dict[int, set[str]] = {}
        for where, spec in zip(place, specs, strict=True):
            seen.setdefault(where, set()).add(str(spec.get(key)))
        for variant in {s["variant"] for w, s in zip(place, specs, strict=True) if len(seen[w]) > 1}:
            distinct.setdefault(variant, []).append(key)
    names = [_label(spec, distinct.get(spec["variant"], [])) for spec in specs]
    return pd.Series(names, index=runs.index, dtype=object)


def _but(spec: dict[str, Any], tuned: str) -> dict[str, Any]:
    """The spec without what was tuned, which does not name a series."""
    keys = set(tuned.split(","))
    return {key: value for key, value in spec.items() if key not in keys}


def _label(spec: dict[str, Any], distinct: list[str]) -> str:
    extra = [f"{key.rsplit('.', 1)[-1]}={identity.text(spec[key])}" for key in distinct if key in spec]
    return ", ".join([str(spec["variant"]), *extra, *(["matched"] if "matched" in spec else [])])


def missing_seeds(table: pd.DataFrame) -> list[tuple[str, tuple[int, ...]]]:
    """Cells that lack seeds which others of the same setting have: (cell_key, the missing seeds)."""
    out = []
    results = table[~table["tuning"] & ~table["beside"]]
    for _, group in results.groupby(["peer_key", "split"], sort=False, dropna=False):
        wanted = sorted({seed for seeds in group["seeds_tried"] for seed in seeds})
        for row in each(group):
            lacking = tuple(seed for seed in wanted if seed not in row["seeds_tried"])
            if lacking:
                out.append((row["cell_key"], lacking))
    return out
