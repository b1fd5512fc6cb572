"""The commands that would settle what a study leaves open."""

import itertools
from typing import Any

import pandas as pd

from analysis import identity, stats
from analysis.load import Study
from analysis.verdicts import Verdicts


def commands(study: Study, cells: pd.DataFrame, found: Verdicts) -> list[str]:
    """The commands that bring every comparison without a verdict to three paired seeds."""
    wanted = {
        key
        for _, row in found.table.iterrows()
        if row["n_seeds"] < stats.FEWEST_SEEDS
        for key in row["cells"]
    }
    if not wanted:
        return []
    chosen = cells[[key in wanted for key in zip(cells["cell_key"], cells["stack"], strict=True)]]
    seeds = sorted({seed for tried in chosen["seeds_tried"] for seed in tried})
    unused = (seed for seed in itertools.count() if seed not in seeds)
    seeds = seeds + list(itertools.islice(unused, max(0, stats.FEWEST_SEEDS - len(seeds))))
    groups: dict[str, list[dict[str, Any]]] = {}
    for ids in chosen["run_ids"]:
        spec = study.records[ids[0]]["spec"]
        rest = {key: value for key, value in spec.items() if key not in ("r", "seed")}
        groups.setdefault(identity.command(rest), []).append(spec)
    out = []
    for specs in groups.values():
        several = {"seed": seeds}
        ranks = sorted({spec["r"] for spec in specs if "r" in spec})
        out.append(identity.command(specs[0], **({"r": ranks} if ranks else {}), **several))
    return out
