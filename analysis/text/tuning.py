"""What the tuning of learning rates found: budget, choice, edge, and how much the rate matters."""

from typing import Any

import numpy as np
import pandas as pd

from analysis.compare import margins
from analysis.compare.budgets import Budgets
from analysis.figures.evidence import rate_points
from analysis.runs.cells import key_of
from analysis.runs.rows import each
from analysis.stats import across


def table(cells: pd.DataFrame, budgets: Budgets) -> list[dict[str, Any]]:
    """One row per group of cells that tried several learning rates.

    `curve` holds the rates with their validation, `points` counts everything that was tried, `seeds` are
    those that tuning alone used and `confirmed` those of the cell that was chosen; `width` is in decades of
    the rate within the usual margin of the peak, `open` says that it is a lower bound; `expected` holds the
    validation result to be expected of the best of 1, 2, 4, ... random trials out of those that were made
    (unbiased estimate).

    Args:
        cells: all cells of a study.
        budgets: the tuning behind those that stand for their group.
    """
    rows = []
    for _, group in rate_points(cells).groupby(["group_key", "stack"], sort=False):
        first = group.iloc[0]
        lr, scores = group["lr"].to_numpy(float), (group["sign"] * group["validation"]).to_numpy(float)
        within = margins.usual(str(first["metric"]), scores)
        width, open_ended = across.robust_width(lr, scores, within=within)
        trials = np.array([k for k in (1, 2, 4, 8, 16) if k <= len(scores)])
        expected = first["sign"] * across.expected_best(scores, trials)
        chosen = group.loc[group["chosen"], "lr"]
        same = cells[(cells["group_key"] == first["group_key"]) & cells["final"]]
        final = [budgets[key_of(row)] for row in each(same)]
        rows.append(
            {
                "series": first["series"],
                "dataset": first["dataset"],
                "targets": first["targets"] if isinstance(first["targets"], str) else "",
                "r": None if pd.isna(first["r"]) else float(first["r"]),
                "curve": list(zip(lr.tolist(), group["validation"].tolist(), strict=True)),
                "points": int(first["rates"]),
                "seeds": sorted({seed for budget in final for seed in budget.seeds}),
                "confirmed": sorted({s for seeds in same["seeds"] for s in seeds}) if first["tuning"] else [],
                "low": float(lr.min()),
                "high": float(lr.max()),
                "chosen": float(chosen.iloc[0]) if len(chosen) else None,
                "edge": bool(group["edge"].any()),
                "width": width,
                "open": open_ended,
                "expected": list(zip(trials.tolist(), expected.tolist(), strict=True)),
            }
        )
    return rows
