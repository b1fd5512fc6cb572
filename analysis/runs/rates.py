"""What validation said of the learning rates that were tried: one curve per variant, over all its ranks."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from analysis.runs.rows import each
from experiments.protocol import Smoothed, point_noise, smoothed


@dataclass(frozen=True)
class Curve:
    """The n points of one variant: cells that differ in rate and rank alone; higher scores are better."""

    cells: tuple[str, ...]
    groups: tuple[str, ...]  # of the cells: one per rank
    rate: np.ndarray
    rank: np.ndarray
    score: np.ndarray  # means over seeds, on validation
    peers: tuple[str, str]  # the same for curves that are compared
    noise: float  # the standard error of a mean, of all these
    fit: Smoothed


def shared(final: pd.DataFrame, keys: Sequence[str]) -> pd.DataFrame:
    """Learning rates that were not tuned and are shared where s r differs, so not as near to the best ones.

    Args:
        final: rows of the table of cells.
        keys: what, "lr" among it, the cells of a rate have in common.

    Returns:
        By these keys the least and the largest s r, `min` and `max`.
    """
    untuned = final[(final["rates"] == 1) & final["scaled_rank"].notna()]
    reach = untuned.groupby(list(keys))["scaled_rank"].agg(["min", "max"])
    return reach[reach["max"] > 1.01 * reach["min"]]


def curves(tried: pd.DataFrame, runs: pd.DataFrame) -> dict[Any, Curve]:
    """The curves of cells between which the learning rate was chosen, by (curve_key, stack).

    Args:
        tried: rows of the table of cells, as `cells` makes them.
        runs: the table of runs.
    """
    points: dict[Any, list[dict[str, Any]]] = {}
    peers: dict[Any, list[tuple[float, ...]]] = {}
    validation = dict(zip(runs.index, runs["validation"], strict=True))
    for row in each(tried.drop_duplicates(["cell_key", "stack"])):
        seeds = tuple(row["sign"] * validation[run_id] for run_id in row["by_seed"].values())
        if row["diverged"] or not seeds or np.isnan(seeds).any() or not row["lr"] > 0:
            continue
        points.setdefault((row["curve_key"], row["stack"]), []).append(row | {"scores": seeds})
        peers.setdefault((row["peer_key"], row["stack"]), []).append(seeds)
    out = {}
    for key, rows in points.items():
        rate = np.array([row["lr"] for row in rows])
        rank = np.nan_to_num([float(row["r"]) for row in rows])
        if len({*zip(rate, rank, strict=True)}) < len(rows):
            continue  # more than the rate was chosen
        score = np.array([np.mean(row["scores"]) for row in rows])
        peers_of = (rows[0]["peer_key"], rows[0]["stack"])
        noise = point_noise(peers[peers_of])
        out[key] = Curve(
            tuple(row["cell_key"] for row in rows),
            tuple(row["group_key"] for row in rows),
            rate,
            rank,
            score,
            peers_of,
            noise,
            smoothed(rate, rank, score, noise),
        )
    return out
