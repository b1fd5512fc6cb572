"""What a reviewer asks of results that others published, beyond the checklist for studies of ours.

Each rule gives (question, met, finding, remedy), as an item of the checklist: `met` is None where the files
do not tell.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator
from itertools import combinations

import pandas as pd

from analysis.compare.verdicts import Verdicts
from analysis.foreign.independent import chosen_on_test
from analysis.runs.cells import by_key, finals
from analysis.runs.load import Study
from analysis.runs.rows import each
from experiments.files import digest
from experiments.protocol import ADVISED_SEEDS, FEWEST_SEEDS

Rule = tuple[str, bool | None, str, str]
NO_RATES = "the learning rates are not known"
NAMES_SHOWN = 6
Z = 1.96  # of a 95% interval
SAME_RUNS = 3  # whose equal scores cannot be chance
KNOWN = {"rslora": ("rslora",), "LoRA+": ("loraplus", "lora+"), "DoRA": ("dora",), "AdaLoRA": ("adalora",)}

# Of the common rules, by their questions: what whoever publishes results can do.
REMEDIES = {
    f"Every comparison rests on {ADVISED_SEEDS} paired seeds or more": (
        f"publish {ADVISED_SEEDS} runs of every method; below {FEWEST_SEEDS} there is no verdict"
    ),
    "Test examples count as noise, not only seeds": "say how many test examples there were (--examples)",
    "The learning rate of every variant was tuned, with the same number of points": (
        "tune every method with equally many rates, on validation"
    ),
    "No chosen value lies on the edge of its grid": "extend the grid at that edge, for every method",
    "Rates were chosen with other seeds than those that are compared": (
        "choose rates with seeds that are not compared"
    ),
    "The test set was read for the chosen values alone": (
        "choose rates on validation, and test the chosen ones alone"
    ),
    "Each variant was also compared at an equal number of trainable parameters": (
        "compare at ranks at which the numbers are about equal"
    ),
    "No run failed, diverged, is unfinished or missing": (
        "say why each run has no result; a diverged run is a result"
    ),
}


def remedy(question: str, own: str, met: bool | None) -> str:
    """What would meet a rule for results of others; nothing where the files do not say whether it is met."""
    return "" if met is None else REMEDIES.get(question, own)


def rules(study: Study, cells: pd.DataFrame, found: Verdicts) -> Iterator[Rule]:
    """All rules on a study of somebody else."""
    yield from _selection(cells)
    yield from _renamed(study)
    yield from _dropped(cells)
    yield from _active(study, cells)
    yield from _learned(cells)
    yield from _alike(study)


def says(study: Study, fact: str) -> bool:
    """Whether the source of any run has noted a fact."""
    return any((record.get("source") or {}).get(fact) for record in study.records.values())


def listed(names: list[str]) -> str:
    """Some names, and how many more."""
    names = list(dict.fromkeys(names))
    more = len(names) - NAMES_SHOWN
    return ", ".join(names[:NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _name(cell: dict[str, object]) -> str:
    rank = cell["r"]
    return str(cell["series"]) + (f" r {rank:g}" if isinstance(rank, float) and rank == rank else "")


def _selection(cells: pd.DataFrame) -> Iterator[Rule]:
    groups = chosen_on_test(cells)
    most = max(groups.values(), default=0)
    rated = bool(cells["lr"].notna().any())
    yield (
        "No learning rate was chosen by test results, as far as the files show",
        not groups if rated else None,
        f"the best of {most} rates is named by its test score in {len(groups)} cases, with no validation "
        f"result beside it; p values are multiplied by {most} for it"
        if rated
        else NO_RATES,
        "choose each rate on a validation split, then test that one alone",
    )


def _renamed(study: Study) -> Iterator[Rule]:
    """One method under several names, which differ in the rate alone: each of them was tested."""
    rates: dict[str, dict[float, str]] = {}
    for record in study.records.values():
        spec = record["spec"]
        options = {k: v for k, v in (spec.get("variant_options") or {}).items() if k != "weight_decay"}
        if options and spec.get("lr") is not None:
            key = digest({"": [spec["dataset"], spec["model"], spec.get("r"), options]})
            rates.setdefault(key, {}).setdefault(spec["lr"], spec["variant"])
    several = [names for names in rates.values() if len(set(names.values())) > 1]
    texts = [" and ".join(dict.fromkeys(names.values())) for names in several]
    yield (
        "No method was tested at several rates under several names",
        not several if rates else None,
        f"{'; '.join(texts)} differ in the learning rate alone, while the others had one rate; the better "
        "name is picked by its test score"
        if rates
        else "the settings of the methods, or their learning rates, are not known",
        "tune every method with the same number of rates, on validation, and test one",
    )


def _dropped(cells: pd.DataFrame) -> Iterator[Rule]:
    """Runs of a grid that are not there: what is missing is what diverged, more often than not."""
    absent = []
    results = cells[~cells["tuning"]]
    for _, group in results.groupby(["group_key", "stack"], sort=False):
        wanted = max(len(seeds) for seeds in group["seeds_tried"])
        for cell in each(group[[len(seeds) < wanted for seeds in group["seeds_tried"]]]):
            there = f"{len(cell['seeds_tried'])} of {wanted}"
            absent.append(f"{_name(cell)} on {cell['dataset']} at {cell['lr']:g} ({there})")
    for _, group in results.groupby(["peer_key", "stack", "series", "r", "targets", "alpha"], dropna=False):
        absent += _gaps(group, results[results["peer_key"] == group["peer_key"].iloc[0]])
    yield (
        "No run was dropped: every rate has as many runs as the others",
        not absent if absent or results["lr"].notna().any() else None,
        f"runs are missing for {listed(absent)}; were they dropped because they diverged?"
        if absent
        else NO_RATES,
        "publish every run that was started, the diverged ones as diverged",
    )


def _gaps(group: pd.DataFrame, peers: pd.DataFrame) -> list[str]:
    """Rates that most methods have and this one lacks, inside the grid or at its upper end."""
    own = set(group["lr"].dropna())
    others = peers[peers["series"] != group["series"].iloc[0]].groupby("series")["lr"].agg(set)
    if len(others) < 2 or len(own) < 2:
        return []
    common = set.intersection(*others)
    first = each(group)[0]
    return [
        f"{_name(first)} on {first['dataset']} at {rate:g} (none)"
        for rate in sorted(common - own)
        if own <= set.union(*others)
    ]


def _active(study: Study, cells: pd.DataFrame) -> Iterator[Rule]:
    texts = {
        record["spec"]["variant"]: why
        for record in study.records.values()
        if (why := (record.get("source") or {}).get("inactive"))
    }
    same = _identical(study, cells)
    parts = [f"{name}: {why}" for name, why in sorted(texts.items())]
    parts += [f"{a} and {b} have the same score in every one of {n} runs" for a, b, n in same]
    configured = any(record["spec"].get("variant_options") for record in study.records.values())
    yield (
        "Every method was active",
        not parts if parts or configured else None,
        "; ".join(parts)
        or "the settings of the methods are not known; no two have the same scores throughout",
        "switch it on, and test that it changes the first steps of training",
    )


def _identical(study: Study, cells: pd.DataFrame) -> list[tuple[str, str, int]]:
    """Methods that agree with another in every run of the same task, rate and seed."""
    table: dict[str, dict[tuple[object, ...], float]] = {}
    for cell in each(cells[~cells["tuning"]]):
        for seed, run_id in cell["by_seed"].items():
            key = (cell["dataset"], cell["model"], str(cell["lr"]), str(cell["r"]), seed)
            table.setdefault(str(cell["series"]), {})[key] = study.scores[run_id]
    out = []
    for a, b in combinations(sorted(table), 2):
        common = table[a].keys() & table[b].keys()
        varied = len({table[a][key] for key in common})
        if len(common) >= SAME_RUNS and varied > 1 and all(table[a][k] == table[b][k] for k in common):
            out.append((a, b, len(common)))
    return out


def _learned(cells: pd.DataFrame) -> Iterator[Rule]:
    final = finals(cells)
    zero = final[(final["mean"] == 0) & (final["goal"] == "max")]
    yield (
        "Every method learned something at the rate it was given",
        zero.empty,
        f"the score is exactly 0 for {listed([_name(cell) for cell in each(zero)])}",
        "try other rates before saying anything about the method",
    )


def _alike(study: Study) -> Iterator[Rule]:
    """Versions and machines: the odd ones out."""
    seen: dict[str, Counter[str]] = defaultdict(Counter)
    for record in study.records.values():
        env = record.get("env") or {}
        for name, value in {**(env.get("versions") or {}), "device": env.get("device")}.items():
            if value is not None:
                seen[name][value] += 1
    mixed = {name: counts for name, counts in sorted(seen.items()) if len(counts) > 1}
    parts = [
        f"{name} ({', '.join(f'{value}: {n}' for value, n in counts.most_common())})"
        for name, counts in mixed.items()
    ]
    yield (
        "All results come from the same versions and device",
        not mixed if seen else None,
        f"they differ in {'; '.join(parts)}" if mixed else "neither versions nor devices are known",
        "run the odd ones again; until then their difference may be the library's",
    )


def unknown(study: Study, found: Verdicts) -> list[str]:
    """What the files do not say, and what follows from it."""
    records = list(study.records.values())
    specs = [record["spec"] for record in records]
    done = [record for record in records if record["status"] == "completed"]
    out = [
        "scores by example: both sides count as independent samples, which makes intervals wider",
    ]
    if not all("test_rows" in (record.get("data") or {}) for record in done):
        out.append("the number of test examples: say it with --examples 1319 or --examples gsm8k=1319")
    if not any(any(key.startswith("validation/") for key in record["metrics"]) for record in done):
        out.append("validation results: how rates were chosen")
    for key, name in (("lr", "learning rates"), ("model", "the model")):
        if all(spec.get(key) in (None, "unknown") for spec in specs):
            out.append(name)
    if not any((record.get("cost") or {}) for record in records):
        out.append("costs: trainable parameters, memory, time")
    out.append("the data and the code, by a hash")
    names = " ".join(spec["variant"] for spec in specs)
    lacking = [name for name, words in KNOWN.items() if not any(word in names for word in words)]
    if found.baseline.startswith("lora") and len(set(spec["variant"] for spec in specs)) > 10 and lacking:
        out.append(f"common variants of LoRA that were never run: {', '.join(lacking)}")
    return out


def too_few(cells: pd.DataFrame, rows: pd.DataFrame, found: Verdicts) -> list[str]:
    """What comparisons with too few runs for a verdict show all the same, in a few lines.

    Beside how many lie within the noise of the test examples: how large the standard deviation between seeds
    may be for the others to stay apart, as nobody knows it.
    """
    if rows.empty:
        return []
    final = by_key(finals(cells))
    runs = "one run" if rows["n_seeds"].max() == 1 else f"at most {int(rows['n_seeds'].max())} runs"
    rest = "comparison rests" if len(rows) == 1 else "comparisons rest"
    out = [f"{len(rows)} {rest} on {runs} a side: what another seed would do is not known"]
    errors = {}
    for row in each(rows):
        sides = [final[key] for keys in row["cells"] for key in keys if key in final]
        if len(sides) == 2 and all(cell["test_rows"] > 0 for cell in sides):
            variance = sum(cell["mean"] * (1 - cell["mean"]) / cell["test_rows"] for cell in sides)
            errors[str(row["variant"])] = (float(row["difference"]), float(variance**0.5))
    if not errors:
        return out
    one = sum(abs(d) <= se for d, se in errors.values())
    within = {name for name, (d, se) in errors.items() if abs(d) <= Z * se}
    out.append(
        f"in {len(within)} of them the choice of test examples alone could explain the difference (95%), in "
        f"{one} it is within one standard error: {listed(sorted(within))}"
    )
    ahead = {n: (d, se) for n, (d, se) in errors.items() if n not in within and d > 0}
    behind = {n: (d, se) for n, (d, se) in errors.items() if n not in within and d < 0}
    for word, group in (("ahead of", ahead), ("behind", behind)):
        if group:
            names = sorted(group, key=lambda n: -abs(group[n][0]))
            sds = [abs(group[name][0]) / Z / 2**0.5 for name in (names[-1], names[0])]
            below = f"{sds[0]:.3f}" if len(names) == 1 else f"{sds[0]:.3f} (the nearest) to {sds[1]:.3f}"
            out.append(
                f"{len(group)} {'is' if len(group) == 1 else 'are'} further {word} {found.baseline}, which "
                f"holds only if the SD between seeds is below {below}: {listed(names)}"
            )
    return out
