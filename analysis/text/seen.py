"""What was seen, where nothing is decided: the best cell of each setting and the next one."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from analysis.compare import noise
from analysis.figures.overview import metric_title
from analysis.runs.cells import SETTING
from analysis.runs.rows import Row


def cell_name(row: Row) -> str:
    """A cell as people say it: "dora at rank 8"."""
    return str(row["series"]) + (f" at rank {row['r']:g}" if row["r"] > 0 else "")


def observations(final: pd.DataFrame, floors: Mapping[tuple[Any, ...], noise.Floor]) -> list[str]:
    """The highest cell of each setting, and how plain LoRA or the next cell compares with it."""
    groups = [group for _, group in final.groupby([*SETTING, "stack"], sort=True, dropna=False)]
    return [_observation(group, final, floors) for group in groups]


def _observation(
    group: pd.DataFrame, final: pd.DataFrame, floors: Mapping[tuple[Any, ...], noise.Floor]
) -> str:
    row = group.iloc[0]
    sign = -1 if row["goal"] == "min" else 1
    best = group.loc[(sign * group["mean"]).idxmax()]
    word = "highest" if sign > 0 else "lowest"
    names = (("dataset", "on"), ("model", "with"), ("stack", "on stack"))
    where = "".join(f" {word} {row[key]}" for key, word in names if final[key].nunique() > 1)
    text = f"The {word} {metric_title(row).lower()} seen{where} is {best['mean']:.3f}, by {cell_name(best)}"
    plain = group[(group["series"] == "lora") & (group.index != best.name)]
    others = group.drop(best.name)
    rival = None
    if len(plain) and best["series"] != "lora":
        rival = plain.loc[(sign * plain["mean"]).idxmax()]
        rank = f" (rank {rival['r']:g})" if rival["r"] > 0 else ""
        text += f"; the {word} of plain LoRA is {rival['mean']:.3f}{rank}"
    elif len(others):
        rival = others.loc[(sign * others["mean"]).idxmax()]
        text += f"; next is {cell_name(rival)} with {rival['mean']:.3f}"
    floor = floors.get(tuple(row[list(SETTING)]))
    if rival is not None and floor and abs(best["mean"] - rival["mean"]) < floor.level:
        text += f". That is closer than the noise floor of {floor.level:.3f}, so they are not ranked"
    return text + "."
