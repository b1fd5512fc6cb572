"""What the tuning of learning rates found: budget, choice, edge, and how much the rate matters."""

from typing import Any

import numpy as np
import pandas as pd

from analysis import across
from analysis.figures.evidence import rate_points


def table(cells: pd.DataFrame) -> list[dict[str, Any]]:
    """One row per group of cells that tried several learning rates.

    `width` is in decades of the rate, `open` says that it is a lower bound; `expected` holds the validation
    result to be expected of the best of 1, 2, 4, ... random trials out of those that were made (unbiased
    estimate).
    """
    points = rate_points(cells) if len(cells) else cells
    rows = []
    for _, group in points.groupby(["group_key", "stack"], sort=False) if len(points) else []:
        first = group.iloc[0]
        sign = -1.0 if first["goal"] == "min" else 1.0
        scores = sign * group["validation"].to_numpy(float)
        width, open_ended = across.robust_width(group["lr"].to_numpy(float), scores)
        budgets = [k for k in (1, 2, 4, 8, 16) if k <= len(scores)]
        chosen = group[group["chosen"]]
        rows.append(
            {
                "series": first["series"],
                "dataset": first["dataset"],
                "targets": first["targets"] if isinstance(first["targets"], str) else "",
                "r": None if pd.isna(first["r"]) else float(first["r"]),
                "rates": len(group),
                "low": float(group["lr"].min()),
                "high": float(group["lr"].max()),
                "chosen": float(chosen["lr"].iloc[0]) if len(chosen) else None,
                "edge": bool(group["edge"].any()),
                "width": width,
                "open": open_ended,
                "expected": list(
                    zip(
                        budgets,
                        (sign * across.expected_best(scores, np.array(budgets))).tolist(),
                        strict=True,
                    )
                ),
            }
        )
    return rows
