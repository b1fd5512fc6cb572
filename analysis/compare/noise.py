"""The noise floor: what chance does to one cell. It is shown, and judges nothing.

    seed to seed    the standard deviation between seeds of one cell, pooled over the cells of a setting
                    (dataset, model, metric): the compared ones, and plain runs beside confirmed ones, as
                    `+experiment=noise_floor` leaves them in a study that was tuned
    same seed       how far the result of a run moves when the very same run is repeated (`repeat=true`)

The floor is the larger of the two, known from 4 degrees of freedom on: one cell with 5 seeds, or two with 3.
A mean over many seeds can tell a difference below it; that is what more seeds are for.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from analysis.runs.cells import SETTING
from analysis.runs.load import Study
from analysis.runs.rows import Row, each

FEWEST = 4  # degrees of freedom


@dataclass(frozen=True)
class Floor:
    """The noise of one setting, in units of the metric."""

    sd: float
    df: int
    repeats: int = 0  # runs that repeat another one
    apart: float = 0.0  # the largest difference between a run and its repeat
    identical: bool = False  # every repeat left the same files, to the bit

    @property
    def level(self) -> float:
        """The floor; nan while too few seeds are there to know it."""
        return max(self.sd, self.apart) if self.df >= FEWEST else float("nan")

    @property
    def repeat_text(self) -> str:
        """What repeating a run did; empty where none was repeated."""
        if not self.repeats:
            return ""
        runs = "one run was repeated" if self.repeats == 1 else f"{self.repeats} runs were repeated"
        how = ", to the same bits" if self.identical else ""
        return f"{runs} with the same seed and ended {self.apart:.4g} apart{how}"


def floors(study: Study, cells: pd.DataFrame) -> dict[tuple[Any, ...], Floor]:
    """The noise of every setting, by its values of `cells.SETTING`."""
    out = {}
    done = study.completed
    again = set(done.index[done["repeat"].astype(bool) & (done["again"] > 0)])
    shown = cells["final"] | cells["beside"]
    for setting, group in cells[shown & (cells["n"] > 0)].groupby(list(SETTING)):
        sd, df = pooled(group)
        pairs = [pair for run_ids in group["run_ids"] for pair in _repeats(study, run_ids, again)]
        apart = [abs(a["score"] - b["score"]) for a, b in pairs]
        same = [_files(study, a["run_id"]) == _files(study, b["run_id"]) for a, b in pairs]
        out[setting] = Floor(sd, df, len(pairs), max(apart, default=0.0), bool(pairs) and all(same))
    return out


def pooled(cells: pd.DataFrame) -> tuple[float, int]:
    """The standard deviation between seeds, pooled over cells, and its degrees of freedom."""
    known = cells[cells["sd"].notna()]
    df = int((known["n"] - 1).sum())
    return (float(np.sqrt(((known["n"] - 1) * known["sd"] ** 2).sum() / df)), df) if df else (float("nan"), 0)


def _repeats(study: Study, run_ids: Sequence[str], again: set[str]) -> list[tuple[Row, Row]]:
    """The runs of a cell that were repeated, each with its repeat; `again` are all repeats of the study."""
    if again.isdisjoint(run_ids):
        return []
    runs = study.runs.loc[list(run_ids)]
    runs = runs[runs["status"] == "completed"]
    first = runs[~runs["repeat"]].set_index("seed")
    repeats = runs[runs.index.isin(again)]
    return [(first.loc[run["seed"]], run) for run in each(repeats) if run["seed"] in first.index]


def _files(study: Study, run_id: str) -> dict[str, str]:
    """The checksums of what a run learned and said; its spec, which names the repeat, left out."""
    files = study.records[run_id].get("files") or {}
    return {name: digest for name, digest in files.items() if name != "spec.json"} or {"": run_id}
