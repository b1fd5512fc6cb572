"""Verdicts: what the paired evidence says about each variant beside the baseline.

Rules, in this order, on p values adjusted for all comparisons of the study:

    fewer than 3 paired seeds                                 no verdict
    no scores by example, whose noise is then unknown         inconclusive
    p of a difference of at least the margin < .05 (TOST)     equivalent
    p of no difference < .05                                  better or worse, by the sign of the difference
    otherwise                                                 inconclusive

A comparison uses the seeds whose runs all have scores by example, if these are 3 or more. A variant with
more failed or diverged runs than the baseline is never better. The comparisons form a tree: half of the
level is for the means over datasets (`datasets`), where there are several, and half for the settings; within
a setting the overall comparison of a variant, which the answer rests on, comes before those at its single
ranks. All claims of a difference together err in at most 5% of studies; so do all claims of equivalence. What
keeps a verdict from being a fair one is judged apart, in `conclusion`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields

import numpy as np
import pandas as pd

from analysis import stats
from analysis.compare import datasets, margins
from analysis.compare.budgets import Budgets, Sides, budgets
from analysis.compare.comparison import Comparison, compared, pooled
from analysis.compare.conclusion import concluded
from analysis.compare.pairs import Pair, Unmatched, check_baseline, pairs
from analysis.runs import identity
from analysis.runs.cells import key_of, order_of
from analysis.runs.load import Study
from analysis.runs.predictions import Predictions
from analysis.runs.rows import Problem, Row, each, plain
from analysis.stats import ALPHA


@dataclass
class Verdicts:
    """All comparisons of a study: `table` has a row for each `Comparison`, with how it was judged."""

    baseline: str
    margin: float | None  # as it was given; None: each comparison has that of its metric (`margins`)
    table: pd.DataFrame
    predictions: Predictions
    across: pd.DataFrame = field(default_factory=pd.DataFrame)  # one row per variant over several datasets
    budgets: Budgets = field(default_factory=dict)
    unmatched: list[Unmatched] = field(default_factory=list)
    differing: list[str] = field(default_factory=list)  # what sets runs of a setting apart, if not pooled

    @property
    def problems(self) -> list[Problem]:
        """Files of predictions that could not be used."""
        return self.predictions.problems

    @property
    def margins(self) -> str:
        """The margins of all comparisons in words."""
        if self.margin is not None or self.table.empty:
            return f"{self.margin or margins.SHARE:g}"
        pairs = self.table[["metric", "margin"]].drop_duplicates().itertuples(index=False)
        every = [margins.text(*pair) for pair in pairs]
        names = list(dict.fromkeys(self.table["metric"]))
        if len(names) == len(every) > 1:
            every = [f"{text} of {name}" for text, name in zip(every, names, strict=True)]
        return ", ".join(dict.fromkeys(every))

    @property
    def overall(self) -> pd.DataFrame:
        """One row per variant and setting: over ranks where there are several."""
        return self.table[self.table["overall"]]


def verdicts(
    study: Study, cells: pd.DataFrame, *, baseline: str = "lora", margin: float | None = None
) -> Verdicts:
    """Compare every variant of a study with the baseline.

    Args:
        study: the records.
        cells: what `analysis.runs.cells.cells` makes of them.
        baseline: the variant (or the series, where a variant has several) to compare with.
        margin: differences below it do not matter, in units of the metric; None: see `margins`.
    """
    check_baseline(study, cells, baseline)
    found, unmatched = pairs(cells, baseline)
    counts = cells.groupby("peer_key")["stack"].nunique()
    mixed = set(counts.index[counts > 1])
    tuning = budgets(study, cells)
    usual = _usual_margins(found)
    rows = []
    for pair in found:
        sides = Sides(
            *(tuple(tuning[key_of(cell)] for cell in side) for side in (pair.variant, pair.baseline))
        )
        rows.append(compared(pair, study, margin or usual[_setting(pair)], mixed, sides))
    table, across = judged(rows)
    table["smallest_detectable"] = [detectable(row, 1.0) for row in each(table)]
    table["detectable_in_family"] = [detectable(row, row["share"]) for row in each(table)]
    differing = _differing(study, cells, mixed)
    return Verdicts(baseline, margin, table, study.predictions, across, tuning, unmatched, differing)


def _setting(pair: Pair) -> tuple[str, ...]:
    return tuple(pair.baseline[0][key] for key in ("peer_key", "stack", "split"))


def _usual_margins(found: Sequence[Pair]) -> dict[tuple[str, ...], float]:
    """The margin of each setting: one for all comparisons in it."""
    cells: dict[tuple[str, ...], dict[str, Row]] = {}
    for pair in found:
        cells.setdefault(_setting(pair), {}).update({cell["cell_key"]: cell for cell in pair.baseline})
    return {
        setting: margins.usual(
            str(next(iter(own.values()))["metric"]), np.array([cell["mean"] for cell in own.values()])
        )
        for setting, own in cells.items()
    }


def judged(rows: Sequence[Comparison]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The comparisons as a table with their verdicts, and those over several datasets."""
    table = _table(pooled(rows))
    table["overall"] = pd.Series(_overall(table), table.index, dtype=bool)
    table = _sorted(table)
    across = datasets.means(table[table["overall"]])
    parent, share = _tree(table, across)
    for name, source in (("p_adjusted", "p"), ("p_equivalent", "p_tost")):
        p = np.concatenate([[0.0, 0.0], *(part[source].to_numpy(float) for part in (across, table))])
        adjusted = np.where(np.isnan(p), np.nan, stats.within_tree(np.nan_to_num(p), parent))
        across[name], table[name] = adjusted[2 : 2 + len(across)], adjusted[2 + len(across) :]
    across["share"], table["share"] = share[2 : 2 + len(across)], share[2 + len(across) :]
    for part in (across, table):
        part["verdict"] = [verdict_of(row) for row in each(part)]
    return concluded(table), concluded(across)


def _tree(table: pd.DataFrame, across: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """The hypothesis above each, and its share of the level when it is first tested.

    Two that only group others come first: over datasets, and in a setting; then the rows of both tables. Rows
    without p ask for no share.
    """
    first = 2 + len(across)
    rows = each(table)
    heads = {row["key"]: first + i for i, row in enumerate(rows) if row["overall"]}
    heads |= {(row["key"], row["alpha"]): first + i for i, row in enumerate(rows) if row["overall"]}
    inner = [
        1 if row["overall"] else heads.get((row["key"], row["alpha"]), heads[row["key"]]) for row in rows
    ]
    parent = np.array([-1, -1, *[0] * len(across), *inner])
    known = np.concatenate([[False, False], *(part["p"].notna() for part in (across, table))]).astype(bool)
    counted = known.copy()
    for _ in range(2):
        above = parent[counted]
        counted[above[above >= 0]] = True
    parent[~counted] = np.arange(len(parent))[~counted]  # apart from the tree
    share = np.ones(len(parent))
    for i in range(len(parent)):
        siblings = (parent == parent[i]) & counted
        share[i] = (share[parent[i]] if parent[i] >= 0 else 1.0) / max(int(siblings.sum()), 1)
    return parent, share


def _table(rows: Sequence[Comparison]) -> pd.DataFrame:
    """The comparisons as a table, with the same columns and types however many there are."""
    names = [field.name for field in fields(Comparison)]
    kinds = {name: "float64" for name in names if Comparison.__annotations__[name] is float}
    table = pd.DataFrame([{name: getattr(row, name) for name in names} for row in rows], columns=names)
    n_seeds = pd.Series([row.n_seeds for row in rows], dtype="int64")
    return plain(table.astype({**kinds, "alpha": "float64"}).assign(n_seeds=n_seeds))


def detectable(row: Row, share: float) -> float:
    """The smallest true difference that would mostly show at a share of the level; nan if unknown."""
    if not row["n_examples"] or pd.isna(row["p"]):
        return float("nan")
    return stats.smallest_detectable(row["found"].noise, alpha=ALPHA * share)


def _differing(study: Study, cells: pd.DataFrame, mixed: set[str]) -> list[str]:
    """The parts of a stack in which runs of the same setting differ."""
    seen: dict[tuple[str, str], set[str]] = {}
    for row in cells[cells["peer_key"].isin(mixed)].itertuples():
        for name, value in identity.stack_parts(study.records[row.run_ids[0]]).items():
            seen.setdefault((row.peer_key, name), set()).add(str(value))
    return sorted({name for (_, name), values in seen.items() if len(values) > 1})


def _overall(table: pd.DataFrame) -> list[bool]:
    """Which rows stand for a variant in a setting: the one over ranks, or the only one there is."""
    over = set(table.loc[table["r"] == "all", "key"])
    return [r == "all" or key not in over for r, key in zip(table["r"], table["key"], strict=True)]


def _sorted(table: pd.DataFrame) -> pd.DataFrame:
    """Setting by setting, variant by variant, the overall comparison before those at single ranks."""
    text = table[["dataset", "model", "targets", "stack"]].fillna("").itertuples(index=False)
    rank = [-1.0 if r == "all" or r is None else float(r) for r in table["r"]]
    keys = [(*place, order_of(v), r) for place, v, r in zip(text, table["variant"], rank, strict=True)]
    return table.iloc[sorted(range(len(keys)), key=keys.__getitem__)].reset_index(drop=True)


def verdict_of(row: Row) -> str:
    """The verdict by the rules above, on adjusted p values; empty where there is none."""
    if pd.isna(row["p_adjusted"]):
        return ""
    if not row["n_examples"]:
        return "inconclusive"
    if row["p_equivalent"] < ALPHA:
        return "equivalent"
    if row["p_adjusted"] < ALPHA and row["difference"] < 0:
        return "worse"
    if row["p_adjusted"] < ALPHA and row["failed"] <= row["failed_baseline"]:
        return "better"
    return "inconclusive"
