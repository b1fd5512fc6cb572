"""Variants across datasets: one test of the mean, interquartile mean and probability of improvement.

The mean of a variant's differences over D datasets has the noise sum(parts) / D^2, with Satterthwaite's
degrees of freedom. It is a claim about the mean over these datasets, not over others.
"""

from typing import Any

import numpy as np
import pandas as pd

from analysis import stats
from analysis.compare.budgets import Sides
from analysis.compare.comparison import looks
from analysis.runs.rows import each
from analysis.stats import FEWEST_SEEDS, across

_EMPTY = ("of", "p", "p_tost", "difference", "ci_low", "ci_high", "datasets", "margin")
_SHARED = ("variant", "baseline", "metric", "model", "targets", "stack", "split", "sign")


def means(overall: pd.DataFrame) -> pd.DataFrame:
    """One row per variant with a p on each of several datasets, all else equal: the test of its mean."""
    known = overall[overall["p"].notna()].assign(targets=overall["targets"].fillna(""))
    rows = []
    for shared, group in known.groupby(list(_SHARED), sort=False):
        group = group.drop_duplicates("dataset")
        if len(group) < 2:
            continue
        noise = stats.mean_noise([row["found"].noise for row in each(group)])
        found = stats.Difference(group["difference"].mean(), noise, 0, 0)
        factor = max(map(looks, group["steps"])) ** 2
        rows.append(
            dict(zip(_SHARED, shared, strict=True))
            | {
                "datasets": tuple(group["dataset"]),
                "of": tuple(group.index),
                "sides": Sides(
                    tuple(budget for sides in group["sides"] for budget in sides.variant),
                    tuple(budget for sides in group["sides"] for budget in sides.baseline),
                ),
                "head_rates": next((rates for rates in group["head_rates"] if rates), None),
                "falling": bool(group["falling"].any()),
                "difference": found.mean,
                "ci_low": found.low,
                "ci_high": found.high,
                "p": min(found.p * factor, 1.0),
                "p_tost": min(stats.equivalence_p(found, float(group["margin"].mean())) * factor, 1.0),
                "margin": float(group["margin"].mean()),
                "n_examples": int(group["n_examples"].min()),
                "failed": int(group["failed"].sum()),
                "failed_baseline": int(group["failed_baseline"].sum()),
            }
        )
    return pd.DataFrame(rows) if rows else pd.DataFrame(columns=[*_EMPTY, *_SHARED])


def table(overall: pd.DataFrame) -> list[dict[str, Any]]:
    """One row per variant that was compared on at least two datasets, with 3 paired seeds or more on each.

    Seeds are resampled within their dataset. Datasets on which no run of a pair learned are left out.
    """
    rows = []
    known = overall[(overall["n_seeds"] >= FEWEST_SEEDS) & overall["learned"].astype(bool)]
    for (variant, metric), group in known.groupby(["variant", "metric"], sort=False):
        group = group.drop_duplicates(["dataset", "model", "targets", "stack"])
        if group["dataset"].nunique() < 2:
            continue
        sign, rng = group["sign"].iloc[0], np.random.default_rng(0)
        ours, plain = ([sign * scores[side].mean(axis=0) for scores in group["by_rank"]] for side in (0, 1))
        low, high = across.improvement_interval(ours, plain, rng=rng)
        middle, middle_plain = (
            sorted(sign * v for v in across.stratified(across.iqm, side, rng=rng)) for side in (ours, plain)
        )
        rows.append(
            {
                "variant": variant,
                "baseline": group["baseline"].iloc[0],
                "metric": metric,
                "settings": len(group),
                "seeds": int(min(map(len, ours))),
                "iqm": sign * float(across.iqm(ours)),
                "iqm_interval": middle,
                "iqm_baseline": sign * float(across.iqm(plain)),
                "iqm_baseline_interval": middle_plain,
                "improvement": float(across.improvement(ours, plain)),
                "low": low,
                "high": high,
            }
        )
    return rows
