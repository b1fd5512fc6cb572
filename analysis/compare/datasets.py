"""Variants across datasets: interquartile mean and probability of improvement, stratified by dataset."""

from typing import Any

import numpy as np

from analysis.compare.verdicts import Verdicts
from analysis.stats import FEWEST_SEEDS, across


def table(found: Verdicts) -> list[dict[str, Any]]:
    """One row per variant that was compared on at least two datasets, with 3 paired seeds or more on each.

    Seeds are resampled within their dataset. Datasets on which no run of a pair learned are left out.
    """
    rows = []
    known = found.overall[(found.overall["n_seeds"] >= FEWEST_SEEDS) & found.overall["learned"].astype(bool)]
    for (variant, metric), group in known.groupby(["variant", "metric"], sort=False):
        group = group.drop_duplicates(["dataset", "model", "targets", "stack"])
        if group["dataset"].nunique() < 2:
            continue
        sign = group["sign"].iloc[0]
        ours, plain = [sign * s for s in group["scores"]], [sign * s for s in group["scores_baseline"]]
        rng = np.random.default_rng(0)
        low, high = across.improvement_interval(ours, plain, rng=rng)
        middle = sorted(sign * v for v in across.stratified(across.iqm, ours, rng=rng))
        middle_plain = sorted(sign * v for v in across.stratified(across.iqm, plain, rng=rng))
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
