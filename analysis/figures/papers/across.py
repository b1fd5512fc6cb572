"""Across the papers: the effective rank of what was learned, and how a variant's advantage goes with rank."""

from collections.abc import Iterator

import altair as alt
import numpy as np
import pandas as pd

from analysis import stats
from analysis.figures.figure import Figure, interval, rank_text, tooltips
from analysis.figures.papers.lora import entropy_rank, stable_rank
from analysis.figures.papers.view import View, interval_text, runs_text
from analysis.runs.rows import each

PAPER = "Across papers"


def figures(view: View) -> list[Figure]:
    """What the setting's runs can show across papers."""
    return [*_effective_rank(view), *_interaction(view)]


def _effective_rank(view: View) -> Iterator[Figure]:
    rows = [
        (cell["series"], rank_text(cell["r"]), cell["r"], entropy_rank(sigma), stable_rank(sigma))
        for cell, _, found in view.with_arrays("change/sigma")
        for sigma in found["change/sigma"].astype(float)
        if sigma.max() > 0
    ]
    table = pd.DataFrame(rows, columns=["series", "rank", "r", "effective", "stable"]).round(3)
    groups = table.groupby(["series", "rank", "r"], sort=False, dropna=False)
    if groups.ngroups < 2:
        return
    of_rank = groups["effective"]
    middles = {"effective": of_rank.median(), "low": of_rank.quantile(0.25), "high": of_rank.quantile(0.75)}
    middles |= {"stable": groups["stable"].median(), "matrices": of_rank.size()}
    flat = pd.DataFrame(middles).reset_index()
    ranks = list(dict.fromkeys(flat.sort_values("r")["rank"]))  # those without come last
    x = alt.X("rank:O", sort=ranks, title="Rank r", axis=alt.Axis(labelAngle=0))
    base = alt.Chart(flat).encode(x=x, xOffset=alt.XOffset("series:N", sort=view.domain), color=view.color())
    title = "Effective rank, log scale"
    y = alt.Y(
        "effective:Q", title=title, scale=alt.Scale(type="log"), axis=alt.Axis(format="~g", tickCount=5)
    )
    chart = alt.layer(
        interval(base, "low", "high", title),
        base.mark_point(filled=True, size=80, opacity=1).encode(
            y=y,
            shape=view.shape(),
            tooltip=tooltips("series:N", "rank:O", "effective:Q", "stable:Q", "matrices:Q"),
        ),
    )
    low, high = flat.loc[flat["effective"].idxmin()], flat.loc[flat["effective"].idxmax()]
    texts = [
        f"{row['effective']:.1f} in {row['series']}{'' if pd.isna(row['r']) else f' at r {row.r:g}'}"
        for row in (low, high)
    ]
    sizes = f"{low['matrices']} and {high['matrices']}"
    yield view.figure(
        "effective_rank",
        "How many directions does the change use?",
        finding=f"From {texts[0]} to {texts[1]} (medians of {sizes} matrices).",
        caption="The exponential of the entropy of the singular values of W' - W: equal to r when all r "
        "count the same, 1 when one does the work. Points are medians over matrices and seeds, rules their "
        "quartiles.",
        chart=chart,
    )


def _interaction(view: View) -> Iterator[Figure]:
    """The difference from the baseline at each rank, and its slope over doublings of the rank."""
    ranked, baseline = view.cells[view.cells["r"].notna()], view.reference
    many = ranked["targets"].nunique() > 1
    for targets, group in ranked.groupby("targets", sort=True):
        plain = group[group["series"] == baseline].set_index("r")["by_seed"].to_dict()
        rows, said = [], []
        for series, own in group[group["series"] != baseline].groupby("series", sort=False):
            differences = _differences(view, own, plain)
            if differences["r"].nunique() > 1:
                rows += [_mean(series, r, part) for r, part in differences.groupby("r")["difference"]]
                said.append(f"{series} by {_slope(differences)}")
        if rows:
            yield view.figure(
                f"rank_by_variant{f'-{targets}' if many else ''}",
                f"Does the advantage depend on the rank?{f' On {targets}' if many else ''}",
                finding=f"Per doubling of the rank, the difference from {baseline} changes for "
                f"{', for '.join(said)}.",
                caption="Differences are paired by seed; rules are 95% t intervals from three seeds on. "
                "A slope that is not 0 is an interaction: the better variant then depends on the rank.",
                chart=_by_rank(view, pd.DataFrame(rows), f"{view.metric} less that of {baseline}"),
            )


def _mean(series: str, r: float, differences: pd.Series) -> dict[str, object]:
    values = differences.to_numpy(float)
    enough = len(values) >= stats.FEWEST_SEEDS
    low, high = stats.t_interval(values) if enough else (np.nan, np.nan)
    known = {"series": series, "r": r, "rank": f"{r:g}", "mean": values.mean()}
    return known | {"low": low, "high": high, "size": len(values)}


def _by_rank(view: View, table: pd.DataFrame, title: str) -> alt.TopLevelMixin:
    order = [f"{r:g}" for r in sorted(table["r"].unique())]
    present = [name for name in view.domain if name in set(table["series"])]
    x = alt.X("rank:O", sort=order, title="Rank r", axis=alt.Axis(labelAngle=0))
    base = alt.Chart().encode(x=x, xOffset=alt.XOffset("series:N", sort=present), color=view.color())
    tips = tooltips("series:N", "rank:O", ("mean:Q", "", "+.4f"), ("size:Q", "paired seeds"))
    zero = alt.Chart(pd.DataFrame({"at": [0.0]})).mark_rule(strokeWidth=1.2).encode(y=alt.Y("at:Q"))
    lines = base.mark_line(strokeOpacity=0.4).encode(y=alt.Y("mean:Q", title=title))
    points = base.mark_point(filled=True, size=80, opacity=1).encode(
        y=alt.Y("mean:Q", title=title), shape=view.shape(), tooltip=tips
    )
    bars = [interval(base, "low", "high", title)] * bool(table["low"].notna().any())  # none: Vega would warn
    return alt.layer(zero, lines, *bars, points, data=table)


def _differences(view: View, own: pd.DataFrame, plain: dict[float, dict[int, str]]) -> pd.DataFrame:
    """Of the seeds that both have: r, seed, difference."""
    scores = view.study.scores
    rows = [
        (cell["r"], seed, scores[run_id] - scores[plain[cell["r"]][seed]])
        for cell in each(own)
        for seed, run_id in cell["by_seed"].items()
        if seed in plain.get(cell["r"], ())
    ]
    return pd.DataFrame(rows, columns=["r", "seed", "difference"])


def _slope(differences: pd.DataFrame) -> str:
    """The mean over seeds of each seed's slope on log2 r, with its interval."""
    slopes = [
        np.polyfit(np.log2(part["r"].to_numpy(float)), part["difference"].to_numpy(float), 1)[0]
        for _, part in differences.groupby("seed")
        if part["r"].nunique() > 1
    ]
    if not slopes:
        return "an unknown amount (no seed has two ranks)"
    if len(slopes) < stats.FEWEST_SEEDS:
        return f"{np.mean(slopes):+.4f} ({runs_text(len(slopes))} per rank: no verdict)"
    interval = interval_text(stats.t_interval(np.array(slopes)), 4)
    return f"{np.mean(slopes):+.4f} ({interval}, {len(slopes)} seeds)"
