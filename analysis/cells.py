"""Runs grouped into cells: one row per cell with its seeds, its mean, what went wrong and what it cost.

Tuning runs never enter a result. Where a group of cells differs in the learning rate alone, the one that is
compared with others is chosen on validation, never on the test set: the confirmed one if there is one, else
the best on validation.
"""

from typing import Any

import numpy as np
import pandas as pd

from analysis import identity, stats
from analysis.load import Study
from analysis.rows import COSTS

SETTING = ("dataset", "model", "metric", "goal", "split")
_SAME = (
    "variant",
    "method",
    "r",
    "alpha",
    "targets",
    "model",
    "dataset",
    "lr",
    "scale",
    "cell_key",
    "peer_key",
    "group_key",
    "stack",
    "metric",
    "goal",
    "split",
    "series",
)
_MEANS = (
    "validation",
    "loss",
    "validation_loss",
    *COSTS,
    "share",
    "test_rows",
)
_FAILED = ("failed", "oom", "preempted")


def cells(study: Study) -> pd.DataFrame:
    """One row per cell, stack and kind of phase (tuning or result), the baseline-like variants first.

    Columns: those of a run that all runs of a cell share, means of the measured ones, and `n` completed
    seeds, `seeds`, `mean`, `sd`, `low`, `high` (t interval over seeds, from 3 seeds on), `diverged`,
    `failed`, `tuning`, `final`, `rates`.
    """
    runs = study.runs.assign(series=series_labels(study), tuning=study.runs["phase"] == "tune")
    if runs.empty:
        return _empty()
    runs = _with_judge(runs)
    rows = [_cell(group) for _, group in runs.groupby(["cell_key", "stack", "tuning"], sort=True)]
    table = pd.DataFrame(rows)
    table["final"], table["rates"] = _final(table)
    order = [order_of(name) for name in table["series"]]
    table = table.assign(_o=order).sort_values(
        ["dataset", "model", "targets", "_o", "r", "lr", "cell_key", "stack"]
    )
    return table.drop(columns="_o").reset_index(drop=True)


def order_of(series: str) -> tuple[int, str]:
    """Plain LoRA first, then by name: the order of every legend and table."""
    return (0 if series == "lora" else 1 if series.startswith("lora ") else 2, series)


def _with_judge(runs: pd.DataFrame) -> pd.DataFrame:
    """Give runs without a result the metric of the runs beside them, to count them in the right place."""
    judge = ["metric", "goal", "split"]
    scored = runs[runs["score"].notna()].drop_duplicates(["dataset", "model"])
    beside = dict(
        zip(zip(scored["dataset"], scored["model"], strict=True), scored[judge].to_numpy(), strict=True)
    )
    rows = runs[judge].to_numpy(dtype=object)
    for i in np.flatnonzero(runs["score"].isna()):
        metric, goal, split = beside.get((runs["dataset"].iloc[i], runs["model"].iloc[i]), (None, None, None))
        own = rows[i, 0] if isinstance(rows[i, 0], str) else None
        rows[i] = (own or metric, rows[i, 1] if own else goal, split)
    return runs.assign(**{name: rows[:, k] for k, name in enumerate(judge)})


def _cell(runs: pd.DataFrame) -> dict[str, Any]:
    done = runs[(runs["status"] == "completed") & ~runs["repeat"]]
    first = (done if len(done) else runs).iloc[0]
    scores = done["score"].to_numpy(float)
    low, high = stats.t_interval(scores) if len(scores) >= stats.FEWEST_SEEDS else (np.nan, np.nan)
    row = {name: first[name] for name in _SAME} | {name: runs[name].mean() for name in _MEANS}
    return row | {
        "tuning": bool(first["tuning"]),
        "n": len(done),
        "seeds": tuple(sorted(done["seed"])),
        "seeds_tried": tuple(sorted(set(runs["seed"]))),
        "mean": scores.mean() if len(scores) else np.nan,
        "sd": scores.std(ddof=1) if len(scores) > 1 else np.nan,
        "low": low,
        "high": high,
        "diverged": int((runs["status"] == "diverged").sum()),
        "failed": int(runs["status"].isin(_FAILED).sum()),
        "run_ids": tuple(runs["run_id"]),
        "by_seed": dict(zip(done["seed"], done["run_id"], strict=True)),
    }


def _final(table: pd.DataFrame) -> tuple[pd.Series, pd.Series]:
    """Which cells stand for their group (`final`), and how many learning rates the group tried (`rates`)."""
    final = pd.Series(False, table.index)
    rates = table.groupby(["group_key", "stack"])["lr"].transform("nunique").clip(lower=1)
    for _, group in table[~table["tuning"]].groupby(["group_key", "stack"], sort=False):
        final[chosen(group)] = True
    return final, rates.astype(int)


def chosen(group: pd.DataFrame) -> int:
    """The row label of the cell that its validation results recommend.

    Ties go to more seeds, then the lower rate.
    """
    sign = -1.0 if (group["goal"] == "min").any() else 1.0
    rank = pd.DataFrame(
        {"v": -(sign * group["validation"]).fillna(-np.inf), "n": -group["n"], "lr": group["lr"]}
    )
    return int(rank.sort_values(["v", "n", "lr"]).index[0])


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
    specs = [identity.flat(study.records[run_id]["spec"]) for run_id in runs["run_id"]]
    keys = sorted(
        {key for spec in specs for key in spec if key not in skip and not key.startswith("tracker")}
    )
    told: dict[str, list[str]] = {}
    for key in keys:
        seen: dict[int, set[str]] = {}
        for where, spec in zip(place, specs, strict=True):
            seen.setdefault(where, set()).add(str(spec.get(key)))
        for variant in {s["variant"] for w, s in zip(place, specs, strict=True) if len(seen[w]) > 1}:
            told.setdefault(variant, []).append(key)
    names = [_label(spec, told.get(spec["variant"], [])) for spec in specs]
    return pd.Series(names, index=runs.index, dtype=object)


def _label(spec: dict[str, Any], told: list[str]) -> str:
    extra = [f"{key.rsplit('.', 1)[-1]}={identity.text(spec[key])}" for key in told if key in spec]
    return ", ".join([str(spec["variant"]), *extra])


def missing_seeds(table: pd.DataFrame) -> list[tuple[str, tuple[int, ...]]]:
    """Cells that lack seeds which others of the same setting have: (cell_key, the missing seeds)."""
    out = []
    results = table[~table["tuning"]]
    for _, group in results.groupby("peer_key", sort=False):
        wanted = sorted({seed for seeds in group["seeds_tried"] for seed in seeds})
        for _, row in group.iterrows():
            lacking = tuple(seed for seed in wanted if seed not in row["seeds_tried"])
            if lacking:
                out.append((row["cell_key"], lacking))
    return out


def _empty() -> pd.DataFrame:
    names = [
        *_SAME,
        *_MEANS,
        "tuning",
        "n",
        "seeds",
        "seeds_tried",
        "mean",
        "sd",
        "low",
        "high",
        "diverged",
        "failed",
        "run_ids",
        "by_seed",
        "final",
        "rates",
    ]
    return pd.DataFrame(columns=names)
