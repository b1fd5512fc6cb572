"""What a study lets one say, in plain words: a sentence per comparison, and a headline that sums them up."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from analysis import stats
from analysis.compare import noise
from analysis.compare.conclusion import ORDER, listed, on_tuning, protocol
from analysis.compare.verdicts import Verdicts
from analysis.figures.overview import metric_words
from analysis.runs.cells import SETTING, finals
from analysis.runs.load import Study
from analysis.runs.rows import Row, each
from analysis.text import limits
from analysis.text.format import number, pvalue, signed

MOST_SENTENCES = 12
MOST_NAMES = 6  # of variants, in a headline


@dataclass
class Point:
    """One sentence of the answer, with the conclusion it carries (empty: none)."""

    text: str
    conclusion: str = ""


@dataclass
class Answer:
    """The top of a report: one headline, the sentences that carry it, and what must not be read into it."""

    headline: str
    points: list[Point] = field(default_factory=list)
    limits: list[str] = field(default_factory=list)


def answer(study: Study, cells: pd.DataFrame, found: Verdicts) -> Answer:
    """The answer that the records allow, never more."""
    final = finals(cells)
    if final.empty:
        return _nothing(study)
    if len(final) == 1:
        return _alone(study, cells, final)
    floors = noise.floors(study, cells)
    rows = found.overall
    if (rows["verdict"] == "").all():
        out = Answer(_undecided(final, found), [Point(text) for text in observations(final, floors)])
    else:
        rows = rows.sort_values("conclusion", key=lambda names: names.map(ORDER.index), kind="stable")
        over = [Point(over_datasets(row, rows), row["conclusion"]) for row in each(found.across)]
        points = [Point(sentence(row, rows), row["conclusion"]) for row in each(rows)]
        rates, first = at_rates(rows), ""
        if over:
            first = f"{'over' if rates else 'Over'} {len(found.across['datasets'].iloc[0])} datasets "
        out = Answer(f"{rates}{first}{headline(found.across if over else rows)}", [*over, *points])
    fairness = protocol(rows)
    if len(out.points) > MOST_SENTENCES:
        rest = len(out.points) - MOST_SENTENCES
        out.points = [*out.points[:MOST_SENTENCES], Point(f"{rest} more comparisons are in the table below.")]
    out.points += [Point(fairness)] if fairness else []
    out.points += _lost(study)
    out.limits = limits.limits(study, final, found)
    return out


def _nothing(study: Study) -> Answer:
    counts = study.runs["status"].value_counts().sort_index()
    parts = [f"{count} {status}" for status, count in counts.items()]
    parts += [f"{len(study.unfinished)} unfinished"] if study.unfinished else []
    parts += [f"{len(study.missing)} missing"] if study.missing else []
    parts += [f"{len(study.problems)} unreadable"] if study.problems else []
    return Answer(
        "No run has been completed, so nothing can be said yet.",
        [Point(f"What is there: {', '.join(parts)}.")],
    )


def _lost(study: Study) -> list[Point]:
    """The runs without a result, by variant, so that no reader of the answer alone misses them."""
    lost = study.runs[study.runs["status"] != "completed"]
    if lost.empty:
        return []
    counts = lost.groupby(["variant", "status"], sort=True).size()
    phrase = listed([f"{n} of {variant} ({status})" for (variant, status), n in counts.items()])
    return [Point(f"Of {len(study.runs)} runs {len(lost)} have no result: {phrase}.")]


def _alone(study: Study, cells: pd.DataFrame, final: pd.DataFrame) -> Answer:
    row = final.iloc[0]
    n = "one seed" if row["n"] == 1 else f"{row['n']} seeds"
    text = f"{cell_name(row)} reached a {metric_words(row)} of {row['mean']:.3f} with {n}."
    there = "with results" if (cells["n"] == 0).any() else "in this study"
    more = f"There is no second cell {there}, so there is nothing to compare it with."
    points = [Point(f"{_of_noise(floor)}.") for floor in noise.floors(study, cells).values() if floor.df]
    return Answer(text, [*points, Point(more), *_lost(study)], limits.limits(study, final, None))


def _of_noise(floor: noise.Floor) -> str:
    """What chance does to one cell."""
    text = f"Another seed moves this result by {floor.sd:.3f} (SD, {floor.df} degrees of freedom)"
    if not np.isnan(floor.level):
        text += f": a difference of two single runs below {floor.level:.3f}, the noise floor, shows nothing"
    return f"{text}; {floor.repeat_text}" if floor.repeats else text


def _undecided(final: pd.DataFrame, found: Verdicts) -> str:
    if found.table.empty:
        there = found.baseline in set(final["series"]) | set(final["variant"])
        if not there:
            return f"There is nothing to compare with: no run of the baseline {found.baseline} was completed."
        if final["variant"].nunique() == 1:
            return f"There is only {found.baseline} in this study, so no variant can be compared with it."
        if found.differing:
            what = listed(found.differing)
            return f"Nothing can be compared: the runs of {found.baseline} and the others differ in {what}."
        return (
            f"Nothing can be compared: no variant has setting, targets, rank and alpha of {found.baseline}."
        )
    most = int(found.table["n_seeds"].max())
    if final["n"].max() == 1:
        return "Nothing is decided yet: every cell was run with one seed."
    if most < stats.FEWEST_SEEDS:
        what = f"no comparison has more than {most} paired seed{'s' if most != 1 else ''}"
        what = what if most else f"no seed was completed by both a variant and {found.baseline}"
        return f"Nothing is decided yet: {what}, and a verdict needs at least {stats.FEWEST_SEEDS}."
    reasons = dict.fromkeys(why.rstrip(".?") for why in found.overall["why"] if why)
    return f"Nothing can be decided: {'; '.join(reasons)}."


def headline(rows: pd.DataFrame) -> str:
    """All overall verdicts in one sentence."""
    base = rows["baseline"].iloc[0]
    if rows["variant"].duplicated().any():
        counts = rows["conclusion"].value_counts()
        parts = [f"{counts[key]} {word}" for key, word in _COUNTED.items() if key in counts]
        return f"Of {len(rows)} comparisons with {base}: {listed(parts)}."
    groups = dict(tuple(rows.groupby(["conclusion", "bar"], sort=False)["variant"]))
    parts = []
    for key, bar in sorted(groups, key=lambda group: ORDER.index(group[0])):
        if key in _SAID:
            names = list(groups[key, bar])
            other = base if key != "inconclusive" or not parts else "it"
            parts.append(f"{few(names)} {_SAID[key][len(names) > 1].format(base=other, bar=bar)}")
    return "; ".join(parts) + "."


def at_rates(rows: pd.DataFrame) -> str:
    """The start of a headline that decides between rates of which nobody knows how good they are."""
    budgets = [budget for sides in rows["sides"] for budget in sides.both if budget.points]
    if not rows["conclusion"].isin(["better", "worse", "ahead", "behind", "equivalent"]).any() or not budgets:
        return ""
    if not any(budget.tuned for budget in budgets):
        return "At the learning rates given, "
    return "At the learning rates chosen, " if any(b.tuned and b.regret is None for b in budgets) else ""


def few(names: Collection[str]) -> str:
    """Names in a sentence; of many the first."""
    names = sorted(names)
    return listed(names if len(names) <= MOST_NAMES else [*names[:3], f"{len(names) - 3} more"])


_COUNTED = {
    "better": "better",
    "worse": "worse",
    "ahead": "ahead, but not compared fairly",
    "behind": "behind, but not compared fairly",
    "failing": "ahead with more failed runs",
    "equivalent": "equivalent",
    "withheld": "not called equivalent, for a reason",
    "inconclusive": "undecided",
    "": "without a verdict",
}
_SAID = {
    "better": ("is better than {base}", "are better than {base}"),
    "worse": ("is worse than {base}", "are worse than {base}"),
    "ahead": ("came out ahead of {base} {bar}",) * 2,
    "behind": ("came out behind {base} {bar}",) * 2,
    "failing": ("came out ahead of {base} with more failed runs",) * 2,
    "equivalent": ("is equivalent to {base}", "are equivalent to {base}"),
    "withheld": ("is not called equivalent to {base}: {bar}", "are not called equivalent to {base}: {bar}"),
    "inconclusive": (
        "shows no significant difference from {base}",
        "show no significant difference from {base}",
    ),
}


def sentence(row: Row, rows: pd.DataFrame) -> str:
    """One comparison in plain words, with its evidence."""
    where = place(row, rows)
    name, base = row["variant"], row["baseline"]
    if row["verdict"] == "":
        return f"No verdict on {name}{where}: {row['why']}."
    interval = f"{signed(row['ci_low'])} to {signed(row['ci_high'])}"
    evidence = f"{signed(row['difference'])} ({interval}; {unit(row)})"
    if all(row["rates"]) and not any(budget.tuned for budget in row["sides"].both):
        rates = list(dict.fromkeys(row["rates"]))
        evidence += f", {'both ' * (len(rates) == 1)}at learning rate {' against '.join(rates)}"
    text = {
        "better": f"{name} is better than {base}{where}: {evidence}",
        "worse": f"{name} is worse than {base}{where}: {evidence}",
        "ahead": f"{name} came out ahead of {base}{where}, {row['bar']}: {evidence}",
        "behind": f"{name} came out behind {base}{where}, {row['bar']}: {evidence}",
        "withheld": f"{name} and {base} look equivalent within {row['margin']:g}{where}: {evidence}. They "
        f"are not called so, for this reason: {row['bar']}",
        "failing": f"{name} came out ahead of {base}{where}, but is not called better, since more of its "
        f"runs failed or diverged ({row['failed']}, against {row['failed_baseline']} of {base}): {evidence}",
        "equivalent": f"{name} and {base} are equivalent within {row['margin']:g}{where}: {evidence}",
        "inconclusive": f"No significant difference between {name} and {base}{where}: {evidence}",
    }[row["conclusion"]]
    if row["conclusion"] == "equivalent" and row["p_adjusted"] < stats.ALPHA:
        text += ". The difference is real but negligible"
    if row["conclusion"] == "inconclusive":
        text += _open(row)
    if row["failed"] > row["failed_baseline"] and row["conclusion"] != "failing":
        text += (
            f". {row['failed']} of its runs failed or diverged, against {row['failed_baseline']} of {base}"
        )
    tuning = on_tuning(row)
    return f"{text}. {tuning[0].upper()}{tuning[1:]}." if tuning else f"{text}."


def over_datasets(row: Row, rows: pd.DataFrame) -> str:
    """The test of the mean over datasets in plain words, with what it is a mean of."""
    own = rows.loc[list(row["of"])]
    each_ = listed(
        [f"{signed(d)} on {name}" for d, name in zip(own["difference"], own["dataset"], strict=True)]
    )
    what = _SAID[row["conclusion"]][0].format(base=row["baseline"], bar=row["bar"])
    mean = f"{signed(row['difference'])} ({signed(row['ci_low'])} to {signed(row['ci_high'])})"
    text = f"Over {len(own)} datasets {row['variant']} {what}. On average: {mean}; {each_}"
    return f"{text}. This is a mean over these datasets, not over others."


def _open(row: Row) -> str:
    """Why a comparison stays open, and what it would have shown."""
    if not row["n_examples"]:
        return f". That is no verdict: {row['why']}"
    family = round(1 / row["share"])
    text = ""
    if row["ci_low"] > 0 or row["ci_high"] < 0:
        text = f". Its interval excludes zero, but it is one of {family} comparisons: adjusted for them, p"
        text += f" = {pvalue(row['p_adjusted'])}"
    return f"{text}. The minimum detectable effect is {number(row['detectable_in_family'])}"


def place(row: Row, rows: pd.DataFrame) -> str:
    """Where a comparison holds, as far as the study has several such places."""
    parts = [f"at rank {row['r']:g}"] if row["r"] not in (None, "all") and row["r"] == row["r"] else []
    if row["r"] == "all" and row["ranks"]:
        parts = [f"over ranks {listed([f'{r:g}' for r in row['ranks']])}"]
    for key, word in (
        ("targets", "with targets"),
        ("dataset", "on"),
        ("model", "with"),
        ("stack", "in environment"),
    ):
        if rows[key].nunique() > 1 and row[key]:
            parts.append(f"{word} {row[key]}")
    return " " + ", ".join(parts) if parts else ""


def unit(row: Row) -> str:
    """The unit of evidence of a comparison."""
    seeds = f"{row['n_seeds']} paired seeds"
    if row.get("independent"):  # results of others
        seeds = f"{row['n_seeds']} runs a side, independent samples"
    if not row["n_examples"]:
        return f"{seeds}; test examples not counted as noise"
    phrase = f"{seeds}, {row['n_examples']:,} examples"
    lacking = f"seed {listed([str(seed) for seed in row['left_out']])}" if row["left_out"] else ""
    return f"{phrase}; left out, without scores by example: {lacking}" if lacking else phrase


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
    better = row["sign"] * group["mean"]
    best = group.loc[better.idxmax()]
    word = "highest" if row["sign"] > 0 else "lowest"
    names = (("dataset", "on"), ("model", "with"), ("stack", "in environment"))
    where = "".join(f" {word} {row[key]}" for key, word in names if final[key].nunique() > 1)
    text = f"The {word} {metric_words(row)} seen{where} is {best['mean']:.3f}, by {cell_name(best)}"
    plain = group[(group["series"] == "lora") & (group.index != best.name)]
    others = group.drop(best.name)
    rival = None
    if len(plain) and best["series"] != "lora":
        rival = plain.loc[better[plain.index].idxmax()]
        rank = f" (rank {rival['r']:g})" if rival["r"] > 0 else ""
        text += f"; the {word} of plain LoRA is {rival['mean']:.3f}{rank}"
    elif len(others):
        rival = others.loc[better[others.index].idxmax()]
        text += f"; next is {cell_name(rival)} with {rival['mean']:.3f}"
    floor = floors.get(tuple(row[list(SETTING)]))
    if rival is not None and floor and abs(best["mean"] - rival["mean"]) < floor.level:
        text += f". They differ by less than the noise floor of {floor.level:.3f}, the effect of a seed alone"
    return text + "."
