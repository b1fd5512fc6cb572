"""Verdicts: what the paired evidence says about each variant beside the baseline.

Rules, in this order, on p values adjusted by Holm's method within a family:

    fewer than 3 paired seeds                                 no verdict
    no scores by example, whose noise is then unknown         inconclusive
    p of no difference < .05                                  better or worse, by the sign of the difference
    p of a difference of at least the margin < .05 (TOST)     equivalent
    otherwise                                                 inconclusive

A comparison uses the seeds whose runs all have scores by example, if these are 3 or more. A variant with
more failed or diverged runs than the baseline is never better. Two families: the overall comparisons, one
per variant and setting, which the answer rests on, and the comparisons at single ranks behind them. TOST is
adjusted apart. How fair the tuning of the two sides was changes no verdict: it changes what the report says
of one (`conclusion`).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields

import numpy as np
import pandas as pd

from analysis import stats
from analysis.compare import noise
from analysis.compare.budgets import Budgets, budgets, sides
from analysis.compare.comparison import Comparison, compared
from analysis.compare.conclusion import concluded
from analysis.compare.pairs import Unmatched, check_baseline, pairs
from analysis.runs import identity
from analysis.runs.cells import order_of
from analysis.runs.faults import Problem
from analysis.runs.load import Study
from analysis.runs.predictions import Predictions
from analysis.runs.rows import Row, each, plain
from analysis.stats import ALPHA


@dataclass
class Verdicts:
    """All comparisons of a study: `table` has a row for each `Comparison`, with how it was judged."""

    baseline: str
    margin: float
    table: pd.DataFrame
    predictions: Predictions
    budgets: Budgets = field(default_factory=dict)
    unmatched: list[Unmatched] = field(default_factory=list)
    differing: list[str] = field(
        default_factory=list
    )  # what sets runs of one setting apart that were not pooled

    @property
    def problems(self) -> list[Problem]:
        """Files of predictions that could not be used."""
        return self.predictions.problems

    @property
    def overall(self) -> pd.DataFrame:
        """One row per variant and setting: over ranks where there are several."""
        return self.table[self.table["overall"]]


def verdicts(study: Study, cells: pd.DataFrame, *, baseline: str = "lora", margin: float = 0.01) -> Verdicts:
    """Compare every variant of a study with the baseline.

    Args:
        study: the records.
        cells: what `analysis.cells.cells` makes of them.
        baseline: the variant (or the series, where a variant has several) to compare with.
        margin: differences below it do not matter, in units of the metric.
    """
    check_baseline(study, cells, baseline)
    found, unmatched = pairs(cells, baseline)
    counts = cells.groupby("peer_key")["stack"].nunique()
    mixed = set(counts.index[counts > 1])
    tuning = budgets(study, cells)
    rows = [compared(pair, study, margin, mixed, sides(pair, tuning)) for pair in found]
    table = _table(rows)
    table["overall"] = pd.Series(_overall(table), table.index, dtype=bool)
    table = _sorted(table)
    table[["p_adjusted", "p_equivalent"]] = np.nan
    for _, family in table.groupby("overall"):
        for name, p in (("p_adjusted", family["p"]), ("p_equivalent", family["p_tost"])):
            known = p.notna()
            table.loc[p.index[known], name] = stats.holm(p[known].to_numpy(float))
            table.loc[p.index, f"{name}_family"] = int(known.sum())
    table["detectable_in_family"] = [_in_family(row) for row in each(table)]
    table["verdict"] = [_verdict(row) for row in each(table)]
    table = concluded(table, noise.floors(study, cells))
    differing = _differing(study, cells, mixed)
    return Verdicts(baseline, margin, table, study.predictions, tuning, unmatched, differing)


def _table(rows: Sequence[Comparison]) -> pd.DataFrame:
    """The comparisons as a table, with the same columns and types however many there are."""
    names = [field.name for field in fields(Comparison)]
    kinds = {name: "float64" for name in names if Comparison.__annotations__[name] is float}
    table = pd.DataFrame([{name: getattr(row, name) for name in names} for row in rows], columns=names)
    n_seeds = pd.Series([row.n_seeds for row in rows], dtype="int64")
    return plain(table.astype({**kinds, "alpha": "float64"}).assign(n_seeds=n_seeds))


def _in_family(row: Row) -> float:
    """The smallest true difference that would mostly show after Holm's adjustment as well; nan if unknown."""
    if not row["n_examples"] or pd.isna(row["p"]):
        return float("nan")
    return stats.smallest_detectable(row["noise"], alpha=ALPHA / row["p_adjusted_family"])


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


def _verdict(row: Row) -> str:
    if pd.isna(row["p_adjusted"]):
        return ""
    if not row["n_examples"]:
        return "inconclusive"
    if row["p_adjusted"] < ALPHA and row["difference"] < 0:
        return "worse"
    if row["p_adjusted"] < ALPHA and row["failed"] <= row["failed_baseline"]:
        return "better"
    return "equivalent" if row["p_equivalent"] < ALPHA else "inconclusive"
