"""How far step times can be trusted: their spread, other work on the machine, and times measured in turn.

A run keeps the median of its step times with the quartiles, how many cores it kept busy, and the load of the
machine. A cell's spread reaches from the lower quartile of its runs' lower quartiles to the upper one of
their upper quartiles. Two cells are told apart by their times if these spreads do not meet and no other work
ran meanwhile. `step_times.json` of a study, which `python -m experiments.bench step --study runs/demo`
writes, holds times of all cells measured in turn; where it is, it counts instead.
"""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from analysis.runs.rows import Problem, Row
from experiments.files import read_json

FILE = "step_times.json"
BUSY = 0.9  # cores: a process that computes keeps one busy all the time, unless it has to wait for it
LOAD = 1.25  # per core of the machine: a sweep that uses all cores, and no more than them, makes 1
_TIMES = ("step_ms", "step_ms_low", "step_ms_high")


class InTurn(NamedTuple):
    """What is known of times that were measured in turn."""

    machine: str
    rounds: int
    runs: frozenset[str]


def disturbed(run: Row) -> bool:
    """Whether other work ran on the machine while a run trained; False where that is not known."""
    return bool(run["busy_cores"] < BUSY or run["load_per_core"] > LOAD)


def of_cell(runs: Sequence[Row]) -> dict[str, float]:
    """The step time of a cell's completed runs: median, quartiles, and how many ran beside other work."""
    known = [run["step_ms"] for run in runs if not np.isnan(run["step_ms"])]
    low, high = _spread(runs)
    times = (float(np.median(known)) if known else np.nan, low, high)
    return dict(zip(_TIMES, times, strict=True)) | {"disturbed": sum(map(disturbed, runs))}


def _spread(runs: Sequence[Row]) -> tuple[float, float]:
    """The quartiles; nan where they are not known.

    A run of an older version has none; three of them show how far apart runs are.
    """
    lows = np.array([run["step_ms_low"] for run in runs], float)
    highs = np.array([run["step_ms_high"] for run in runs], float)
    if len(runs) >= 3:
        middles = np.array([run["step_ms"] for run in runs], float)
        lows, highs = (np.where(np.isnan(side), middles, side) for side in (lows, highs))
    if not len(runs) or np.isnan(lows).any() or np.isnan(highs).any():
        return float("nan"), float("nan")
    return float(np.quantile(lows, 0.25)), float(np.quantile(highs, 0.75))


def apart(one: Row, other: Row) -> bool:
    """Whether the step times of two cells differ by more than their spreads, on a machine left alone."""
    if one["disturbed"] or other["disturbed"]:
        return False
    lows, highs = zip(*((cell["step_ms_low"], cell["step_ms_high"]) for cell in (one, other)), strict=True)
    return bool(highs[0] < lows[1] or highs[1] < lows[0])


def why_no_order(cells: Sequence[Row]) -> str:
    """Why these cells, by step time, cannot be put in that order; empty where they can."""
    if any(np.isnan(cell["step_ms_low"]) for cell in cells):
        return "their spread is not known"
    if not all(apart(a, b) for a, b in pairwise(cells)):
        return "their spreads overlap"
    return ""


def measured_in_turn(folder: Path, table: pd.DataFrame, problems: list[Problem]) -> InTurn | None:
    """Put the times of a study's `step_times.json` into its table of runs; what is known of them.

    Runs that are not in it get none: their own times were measured otherwise.
    """
    path = folder / FILE
    if not path.is_file():
        return None
    try:
        content = read_json(path)
        found = {run: _times(times) for run, times in content["runs"].items()}
        facts = str(content["machine"]), int(content["rounds"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        problems.append(Problem(FILE, "is torn, or no measurement of step times; not used. Measure again"))
        return None
    known = [run for run in table.index if run in found]
    if not known:
        return None
    table[[*_TIMES, "tokens_per_second", "busy_cores", "load_per_core"]] = np.nan
    for run in known:
        table.loc[run, list(_TIMES)] = found[run]
    return InTurn(*facts, frozenset(known))


def _times(times: Any) -> list[float]:
    values = [float(times[name]) for name in _TIMES]
    if not np.isfinite(values).all() or not 0 < values[1] <= values[0] <= values[2]:
        raise ValueError(f"{values} are no median and quartiles of step times")
    return values
