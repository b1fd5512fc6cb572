"""The commands that would settle what a study leaves open."""

import itertools
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from analysis import stats
from analysis.compare.verdicts import Verdicts
from analysis.runs import identity
from analysis.runs.load import Study
from analysis.runs.rows import Row, each


def commands(study: Study, cells: pd.DataFrame, found: Verdicts) -> list[str]:
    """The commands that bring every comparison without a verdict to three paired seeds."""
    wanted = {key for row in each(found.table) if row["n_seeds"] < stats.FEWEST_SEEDS for key in row["cells"]}
    if not wanted:
        return []
    final = cells[cells["final"].astype(bool)]
    chosen = final[[key in wanted for key in zip(final["cell_key"], final["stack"], strict=True)]]
    seeds = sorted({seed for tried in chosen["seeds_tried"] for seed in tried})
    unused = (seed for seed in itertools.count() if seed not in seeds)
    seeds = seeds + list(itertools.islice(unused, max(0, stats.FEWEST_SEEDS - len(seeds))))
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for cell in each(chosen):
        spec, words = _tuned(study, cells, cell)
        rest = {key: value for key, value in spec.items() if key not in ("r", "seed")}
        groups.setdefault((identity.command(rest), words), []).append(spec)
    out = []
    for (_, words), specs in groups.items():
        several = {"seed": seeds}
        ranks = sorted({spec["r"] for spec in specs if "r" in spec})
        out.append(identity.command(specs[0], **({"r": ranks} if ranks else {}), **several) + words)
    return out


def _tuned(study: Study, cells: pd.DataFrame, cell: Row) -> tuple[dict[str, Any], str]:
    """The spec of a cell, and the words that tune and confirm it again from what was tried.

    A confirmed cell gives up its tuned values to those words; its tuning runs are found as they are.
    """
    spec = dict(study.records[cell["run_ids"][0]]["spec"])
    if cell["phase"] != "confirm":
        return spec, ""
    tuning = cells[(cells["group_key"] == cell["group_key"]) & cells["tuning"].astype(bool)]
    if tuning.empty:
        return spec, ""
    tried = [study.records[ids[0]]["spec"] for ids in tuning["run_ids"]]
    keys = identity.tuned(spec)
    seeds = sorted({seed for every in tuning["seeds_tried"] for seed in every})
    words = ["hydra/sweeper=fair", f"hydra.sweeper.tune_seeds=[{','.join(map(str, seeds))}]"]
    asked = [key for key in keys if key == "lr" or not _follows(tried, key)]
    names = [
        key.replace("variant_options.", "variant.").replace("variant_axes.", "variant.") for key in asked
    ]
    if names != ["lr"]:
        words.append(f"hydra.sweeper.tune=[{','.join(names)}]")
    for key, name in zip(asked, names, strict=True):
        words.append(f"{name}={','.join(dict.fromkeys(_values(tried, key)))}")
    return identity.without(spec, keys), " " + " ".join(shlex.quote(word) for word in words)


def _follows(specs: Sequence[Mapping[str, Any]], key: str) -> bool:
    """Whether a key has the value of the learning rate in every spec."""
    return all(identity.flat(spec).get(key) == spec.get("lr") for spec in specs)


def _values(specs: Sequence[Mapping[str, Any]], key: str) -> list[str]:
    values = {identity.flat(spec).get(key) for spec in specs}
    return [identity.value_text(v) for v in sorted(values, key=lambda v: (isinstance(v, str), v))]
