"""The commands that would settle what a study leaves open."""

import bisect
import itertools
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from analysis import stats
from analysis.compare.conclusion import listed
from analysis.compare.verdicts import Verdicts
from analysis.runs import identity
from analysis.runs.cells import key_of
from analysis.runs.load import Study
from analysis.runs.rows import Row, each
from analysis.text.answer import few
from analysis.text.format import amount, number

MOST_SEEDS = 40  # beyond it, seeds are not the way


def steps(study: Study, cells: pd.DataFrame, found: Verdicts) -> list[tuple[str, str]]:
    """What to run next and why: (sentence, command), the command empty where none would settle it."""
    if (found.table["n_seeds"] < stats.FEWEST_SEEDS).any():
        why = f"Run {stats.FEWEST_SEEDS} seeds of every compared cell; with fewer there is no verdict."
        return _with_reason(why, commands(study, cells, found))
    rows = each(found.overall[found.overall["conclusion"] == "inconclusive"])
    open_ = [row for row in rows if row["n_examples"] and row["sd_seeds"] > 0]
    needed = {row["key"]: _seeds_needed(row) for row in open_}
    near = [row for row in open_ if needed[row["key"]]]
    luck = [row for row in open_ if row not in near and _seeds_needed(row, tuned_well=True)]
    far = [row for row in open_ if row not in near and row not in luck]
    out = []
    if near:
        most = max(needed[row["key"]] or 0 for row in near)
        compared = _compared(cells, near)
        names = few({row["variant"] for row in near})
        more = _more(compared, most)
        why = f"{names} {'is' if len(near) == 1 else 'are'} undecided: about {most} seeds show a difference "
        why += f"of {_margins(near)}{more}. Fix the number now: to look after each seed adds false verdicts."
        out += _with_reason(why, _sweeps(study, cells, compared, range(most)))
    falling = [row for row in each(found.overall) if row["conclusion"] == "withheld" and row["falling"]]
    if falling:
        compared = _compared(cells, falling)
        why = f"The validation loss was still falling: train {few({row['variant'] for row in falling})} and "
        why += f"{found.baseline} longer before calling them equivalent, for example twice as long."
        seeds = sorted({seed for cell in compared for seed in cell["seeds_tried"]})
        out += _with_reason(why, _sweeps(study, cells, compared, seeds, longer=True))
    if luck:
        names = few({row["variant"] for row in luck})
        why = f"{names} {'is' if len(luck) == 1 else 'are'} undecided because of how the learning rates were "
        why += f"chosen: a difference of {_margins(luck)} needs more tuning seeds (hydra.sweeper.tune_seeds)."
        out.append((why, ""))
    if far:
        names = few({row["variant"] for row in far})
        n = max(row["n_examples"] for row in far)
        least = min(row["detectable_in_family"] for row in far)
        why = f"No sensible number of seeds shows a difference of {_margins(far)} for {names} on {n:,} test "
        why += f"examples: take a larger test set, or a margin that it can show (today {number(least)})."
        out.append((why, ""))
    return out


def _with_reason(why: str, commands: Sequence[str]) -> list[tuple[str, str]]:
    """The commands with the reason before the first of them."""
    return [("" if i else why, command) for i, command in enumerate(commands)]


def _margins(rows: Sequence[Row]) -> str:
    """The margins of these comparisons."""
    return listed(list(dict.fromkeys(f"{row['margin']:g}" for row in rows)))


def _seeds_needed(row: Row, *, tuned_well: bool = False) -> int | None:
    """How many paired seeds show the margin, all else as it is; None where `MOST_SEEDS` do not.

    It is more than there are. With `tuned_well` the choice of the learning rates leaves nothing open.
    """
    noise, there = row["found"].noise, int(row["n_seeds"])

    def shows(n: int) -> bool:
        seeds, df = noise.seeds * there / n, noise.seeds_df * (n - 1) / (there - 1)
        more = noise._replace(seeds=seeds, seeds_df=df, tuning=0.0 if tuned_well else noise.tuning)
        least = stats.smallest_detectable(more, alpha=stats.ALPHA * row["share"])
        return least <= float(row["margin"])

    counts = range(there + 1, MOST_SEEDS + 1)
    return counts[bisect.bisect_left(counts, True, key=shows)] if counts and shows(MOST_SEEDS) else None


def _more(cells: Sequence[Row], seeds: int) -> str:
    """How many runs so many seeds add, and about how long they take one after the other."""
    runs = np.array([max(0, seeds - len(cell["seeds_tried"])) for cell in cells])
    seconds = float(np.nansum(runs * [cell["train_seconds"] for cell in cells]))
    time = f", about {amount(seconds, 's')} of training" if seconds else ""
    return f" ({runs.sum()} more runs{time})"


def commands(study: Study, cells: pd.DataFrame, found: Verdicts) -> list[str]:
    """The commands that bring every comparison without a verdict to three paired seeds."""
    compared = _compared(cells, each(found.table[found.table["n_seeds"] < stats.FEWEST_SEEDS]))
    seeds = sorted({seed for cell in compared for seed in cell["seeds_tried"]})
    unused = (seed for seed in itertools.count() if seed not in seeds)
    seeds = seeds + list(itertools.islice(unused, max(0, stats.FEWEST_SEEDS - len(seeds))))
    return _sweeps(study, cells, compared, seeds)


def _compared(cells: pd.DataFrame, rows: Sequence[Row]) -> list[Row]:
    """The cells of both sides of these comparisons."""
    wanted = {key for row in rows for side in row["cells"] for key in side}
    return [cell for cell in each(cells[cells["final"]]) if key_of(cell) in wanted]


def _sweeps(
    study: Study, cells: pd.DataFrame, wanted: Sequence[Row], seeds: Sequence[int], *, longer: bool = False
) -> list[str]:
    """The fewest commands that run the wanted cells with these seeds; `longer`: anew, twice as long."""
    groups: dict[tuple[str, tuple[str, ...], str], list[Mapping[str, Any]]] = {}
    for cell in wanted:
        record = study.records[cell["run_ids"][0]]
        if "source" in record:  # of somebody else
            continue
        tuned, words = _tuned(study, cells, cell)
        rest = identity.command(record, without=("variant", "r", "seed", *tuned))
        groups.setdefault((rest, tuned, words), []).append(record)
    out = []
    for (_, tuned, words), records in groups.items():
        ranks = sorted({record["spec"]["r"] for record in records if "r" in record["spec"]})
        names = list(dict.fromkeys(str(record["spec"]["variant"]) for record in records))
        several: dict[str, Any] = {"variant": names} if len(names) > 1 else {}
        if longer:
            train = records[0]["spec"].get("train") or {}
            several |= {f"train.{k}": 2 * train[k] for k in ("steps", "epochs") if train.get(k)}
            several["study"] = f"{study.name}_longer"
        several |= {**({"r": ranks} if ranks else {}), "seed": list(seeds)}
        out.append(identity.command(records[0], without=tuned, **several) + words)
    return out


def _tuned(study: Study, cells: pd.DataFrame, cell: Row) -> tuple[tuple[str, ...], str]:
    """The tuned keys of a cell, and the words that tune and confirm it again from what was tried.

    A confirmed cell gives up its tuned values to those words; its tuning runs are found as they are.
    """
    spec = study.records[cell["run_ids"][0]]["spec"]
    if cell["phase"] != "confirm":
        return (), ""
    tuning = cells[(cells["group_key"] == cell["group_key"]) & cells["tuning"]]
    if tuning.empty:
        return (), ""
    tried = [identity.flat(study.records[ids[0]]["spec"]) for ids in tuning["run_ids"]]
    keys = identity.tuned(spec)
    if spec.get("halving"):  # which chose no length
        keys = tuple(key for key in keys if key not in ("train.steps", "train.epochs"))
    seeds = sorted({seed for every in tuning["seeds_tried"] for seed in every})
    words = ["hydra/sweeper=fair", f"hydra.sweeper.tune_seeds=[{','.join(map(str, seeds))}]"]
    words += [f"hydra.sweeper.halving={spec['halving']}"] if spec.get("halving") else []
    asked = [key for key in keys if not identity.follows_rate(tried, key)]
    names = [identity.command_key(key) for key in asked]
    if names != ["lr"]:
        words.append(f"hydra.sweeper.tune=[{','.join(names)}]")
    for key, name in zip(asked, names, strict=True):
        values = sorted({one.get(key) for one in tried}, key=lambda v: (isinstance(v, str), v))
        words.append(f"{name}={','.join(dict.fromkeys(map(identity.value_text, values)))}")
    return keys, f" {shlex.join(words)}"
