"""What a study lets one say, in plain words: a sentence per comparison, and a headline that sums them up."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from analysis import limits, stats
from analysis.cells import SETTING
from analysis.figures.overview import metric_title
from analysis.load import Study
from analysis.verdicts import Verdicts

MOST_SENTENCES = 12


@dataclass
class Point:
    """One sentence of the answer, with the verdict it carries (empty: none)."""

    text: str
    verdict: str = ""


@dataclass
class Answer:
    """The top of a report: one headline, the sentences that carry it, and what must not be read into it."""

    headline: str
    points: list[Point] = field(default_factory=list)
    limits: list[str] = field(default_factory=list)


def answer(study: Study, cells: pd.DataFrame, found: Verdicts) -> Answer:
    """The answer that the records allow, never more."""
    final = cells[cells["final"].astype(bool) & (cells["n"] > 0)]
    if final.empty:
        return _nothing(study)
    if len(final) == 1:
        return _alone(final.iloc[0])
    decided = found.overall[found.overall["verdict"] != ""]
    if decided.empty:
        out = Answer(_undecided(final, found), [Point(text) for text in observations(final)])
    else:
        order = {name: i for i, name in enumerate(("better", "worse", "equivalent", "inconclusive", ""))}
        rows = found.overall.assign(_o=found.overall["verdict"].map(order)).sort_values("_o", kind="stable")
        out = Answer(
            headline(rows), [Point(sentence(row, rows), row["verdict"]) for _, row in rows.iterrows()]
        )
    if len(out.points) > MOST_SENTENCES:
        rest = len(out.points) - MOST_SENTENCES
        out.points = [*out.points[:MOST_SENTENCES], Point(f"{rest} more comparisons are in the table below.")]
    out.limits = limits.limits(final, found)
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


def _alone(row: pd.Series) -> Answer:
    n = "one seed" if row["n"] == 1 else f"{row['n']} seeds"
    text = f"{cell_name(row)} reached a {metric_title(row).lower()} of {row['mean']:.3f} with {n}."
    more = "There is no second cell in this study, so there is nothing to compare it with."
    return Answer(text, [Point(more)], limits.limits(row.to_frame().T, None))


def cell_name(row: pd.Series) -> str:
    """A cell as people say it: "dora at rank 8"."""
    return str(row["series"]) + (f" at rank {row['r']:g}" if row["r"] > 0 else "")


def _undecided(final: pd.DataFrame, found: Verdicts) -> str:
    if found.table.empty:
        there = found.baseline in set(final["series"]) | set(final["variant"])
        if not there:
            return f"There is nothing to compare with: no run of the baseline {found.baseline} was completed."
        if final["variant"].nunique() == 1:
            return f"There is only {found.baseline} in this study, so no variant can be compared with it."
        return (
            f"Nothing can be compared: no variant has setting, targets, rank and alpha of {found.baseline}."
        )
    most = int(found.table["n_seeds"].max())
    if final["n"].max() == 1:
        return "Nothing is decided yet: every cell was run with one seed."
    if most < stats.FEWEST_SEEDS:
        what = f"no comparison has more than {most} paired seed{'s' if most != 1 else ''}"
        return f"Nothing is decided yet: {what}, and a verdict needs at least {stats.FEWEST_SEEDS}."
    return f"Nothing can be decided: {found.overall['why'].dropna().iloc[0]}."


def headline(rows: pd.DataFrame) -> str:
    """All overall verdicts in one sentence."""
    base = rows["baseline"].iloc[0]
    if rows["variant"].duplicated().any():
        counts = rows["verdict"].value_counts()
        words = {
            "better": "better",
            "worse": "worse",
            "equivalent": "equivalent",
            "inconclusive": "undecided",
            "": "without a verdict",
        }
        parts = [f"{counts[key]} {word}" for key, word in words.items() if key in counts]
        return f"Of {len(rows)} comparisons with {base}: {listed(parts)}."
    names = {verdict: listed(list(part["variant"])) for verdict, part in rows.groupby("verdict", sort=False)}
    count = rows["verdict"].value_counts()
    be = {verdict: "is" if count[verdict] == 1 else "are" for verdict in names}
    parts = []
    for verdict, word in (
        ("better", "better than"),
        ("worse", "worse than"),
        ("equivalent", "equivalent to"),
    ):
        if verdict in names:
            parts.append(f"{names[verdict]} {be[verdict]} {word} {base}")
    if "inconclusive" in names:
        parts.append(f"{names['inconclusive']} cannot be told from {base if not parts else 'it'}")
    return "; ".join(parts) + "."


def listed(names: Sequence[str]) -> str:
    """Names as a list in a sentence."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def sentence(row: pd.Series, rows: pd.DataFrame) -> str:
    """One comparison in plain words, with its evidence."""
    where = place(row, rows)
    name, base = row["variant"], row["baseline"]
    if row["verdict"] == "":
        return f"No verdict on {name}{where}: {row['why']}."
    evidence = f"{row['difference']:+.3f} ({row['ci_low']:+.3f} to {row['ci_high']:+.3f}; {unit(row)})"
    text = {
        "better": f"{name} is better than {base}{where}: {evidence}",
        "worse": f"{name} is worse than {base}{where}: {evidence}",
        "equivalent": f"{name} and {base} are equivalent within {row['margin']:g}{where}: {evidence}",
        "inconclusive": f"Whether {name} differs from {base}{where} cannot be told: {evidence}",
    }[row["verdict"]]
    if row["verdict"] in ("better", "worse") and abs(row["difference"]) < row["margin"]:
        text += f". The difference is real but negligible: less than the margin of {row['margin']:g}"
    if row["verdict"] == "inconclusive":
        text += f". A difference of {row['smallest_detectable']:.3f} or more would mostly have shown"
    if row["failed"] > row["failed_baseline"]:
        text += (
            f". {row['failed']} of its runs failed or diverged, against {row['failed_baseline']} of {base}"
        )
        text += ", so it is not called better" if row["difference"] > 0 and row["p_adjusted"] < 0.05 else ""
    return text + "."


def place(row: pd.Series, rows: pd.DataFrame) -> str:
    """Where a comparison holds, as far as the study has several such places."""
    parts = [f"at rank {row['r']:g}"] if row["r"] not in (None, "all") and row["r"] == row["r"] else []
    if row["r"] == "all" and row["ranks"]:
        parts = [f"over ranks {listed([f'{r:g}' for r in row['ranks']])}"]
    for key, word in (
        ("targets", "with targets"),
        ("dataset", "on"),
        ("model", "with"),
        ("stack", "on stack"),
    ):
        if rows[key].nunique() > 1 and row[key]:
            parts.append(f"{word} {row[key]}")
    return " " + ", ".join(parts) if parts else ""


def unit(row: pd.Series) -> str:
    """The unit of evidence of a comparison."""
    seeds = f"{row['n_seeds']} paired seeds"
    return (
        f"{seeds}, {row['n_examples']:,} examples"
        if row["n_examples"]
        else f"{seeds}; test examples not counted as noise"
    )


def observations(final: pd.DataFrame) -> list[str]:
    """The highest cell of each setting, and how plain LoRA or the next cell compares with it."""
    groups = [group for _, group in final.groupby([*SETTING, "stack"], sort=True, dropna=False)]
    return [_observation(group, final) for group in groups]


def _observation(group: pd.DataFrame, final: pd.DataFrame) -> str:
    row = group.iloc[0]
    sign = -1 if row["goal"] == "min" else 1
    best = group.loc[(sign * group["mean"]).idxmax()]
    word = "highest" if sign > 0 else "lowest"
    names = (("dataset", "on"), ("model", "with"), ("stack", "on stack"))
    where = "".join(f" {word} {row[key]}" for key, word in names if final[key].nunique() > 1)
    text = f"The {word} {metric_title(row).lower()} seen{where} is {best['mean']:.3f}, by {cell_name(best)}"
    plain = group[(group["series"] == "lora") & (group.index != best.name)]
    others = group.drop(best.name)
    if len(plain) and best["series"] != "lora":
        rival = plain.loc[(sign * plain["mean"]).idxmax()]
        rank = f" (rank {rival['r']:g})" if rival["r"] > 0 else ""
        text += f"; the {word} of plain LoRA is {rival['mean']:.3f}{rank}"
    elif len(others):
        second = others.loc[(sign * others["mean"]).idxmax()]
        text += f"; next is {cell_name(second)} with {second['mean']:.3f}"
    return text + "."


def noise_floor(cells: pd.DataFrame) -> tuple[float, int]:
    """How far seeds alone move a cell: the pooled standard deviation, and its degrees of freedom."""
    known = cells[cells["sd"].notna()]
    df = int((known["n"] - 1).sum())
    return (float(np.sqrt(((known["n"] - 1) * known["sd"] ** 2).sum() / df)), df) if df else (float("nan"), 0)
