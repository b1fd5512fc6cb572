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
    groups: dict[tuple[str, tuple[str, ...], str], list[Mapping[str, Any]]] = {}
    for cell in each(chosen):
        record = study.records[cell["run_ids"][0]]
        if "source" in record:  # of somebody else
            continue
        tuned, words = _tuned(study, cells, cell)
        rest = identity.command(record, without=("r", "seed", *tuned))
        groups.setdefault((rest, tuned, words), []).append(record)
    out = []
    for (_, tuned, words), records in groups.items():
        ranks = sorted({record["spec"]["r"] for record in records if "r" in record["spec"]})
        several = {**({"r": ranks} if ranks else {}), "seed": seeds}
        out.append(identity.command(records[0], without=tuned, **several) + words)
    return out


def _tuned(study: Study, cells: pd.DataFrame, cell: Row) -> tuple[tuple[str, ...], str]:
    """The tuned keys of a cell, and the words that tune and confirm it again from what was tried.

    A confirmed cell gives up its tuned values to those words; its tuning runs are found as they are.
    """
    spec = dict(study.records[cell["run_ids"][0]]["spec"])
    if cell["phase"] != "confirm":
        return (), ""
    tuning = cells[(cells["group_key"] == cell["group_key"]) & cells["tuning"].astype(bool)]
    if tuning.empty:
        return (), ""
    tried = [study.records[ids[0]]["spec"] for ids in tuning["run_ids"]]
    keys = identity.tuned(spec)
    seeds = sorted({seed for every in tuning["seeds_tried"] for seed in every})
    words = ["hydra/sweeper=fair", f"hydra.sweeper.tune_seeds=[{','.join(map(str, seeds))}]"]
    asked = [key for key in keys if key == "lr" or not _follows(tried, key)]
    names = [identity.command_key(key) for key in asked]
    if names != ["lr"]:
        words.append(f"hydra.sweeper.tune=[{','.join(names)}]")
    for key, name in zip(asked, names, strict=True):
        words.append(f"{name}={','.join(dict.fromkeys(_values(tried, key)))}")
    return keys, " " + " ".join(shlex.quote(word) for word in words)


def _follows(specs: Sequence[Mapping[str, Any]], key: str) -> bool:
    """Whether a key has the value of the learning rate in every spec."""
    return all(identity.flat(spec).get(key) == spec.get("lr") for spec in specs)


def _values(specs: Sequence[Mapping[str, Any]], key: str) -> list[str]:
    values = {identity.flat(spec).get(key) for spec in specs}
    return [identity.value_text(v) for v in sorted(values, key=lambda v: (isinstance(v, str), v))]
