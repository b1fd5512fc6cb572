"""Which matrices, at an equal budget? Hu et al. 2021, arXiv:2106.09685, tables 5 and 6."""

from collections.abc import Iterator

import altair as alt
import pandas as pd

from analysis import stats
from analysis.figures.figure import Figure
from analysis.figures.papers.view import View, runs_text

EQUAL = 0.05  # relative difference of trained parameters that counts as none


def figures(view: View) -> Iterator[Figure]:
    """A figure per budget at which a series was run on several choices of targets."""
    for number, group in enumerate(budgets(view.cells)):
        bars = group.assign(row=[f"{c['targets']} · r {c['r']:g}" for _, c in group.iterrows()])
        keep = ["row", "mean", "bar_low", "bar_high", "n", "trainable_parameters", "series"]
        order = list(bars.sort_values("mean", ascending=bars["goal"].iloc[0] == "min")["row"])
        y = alt.Y("row:N", sort=order, title=None, axis=alt.Axis(grid=False, labelLimit=260, domain=False))
        base = alt.Chart(bars[keep]).encode(y=y, color=view.color(None))
        x = alt.X("mean:Q", title=view.metric, scale=alt.Scale(zero=False), axis=alt.Axis(grid=True))
        chart = alt.layer(
            base.mark_rule(strokeWidth=2, opacity=0.6).encode(
                x=alt.X("bar_low:Q", title=view.metric), x2="bar_high:Q"
            ),
            base.mark_point(filled=True, size=90, opacity=1).encode(
                x=x, tooltip=["row:N", alt.Tooltip("mean:Q", format=".4f"), "n:Q", "trainable_parameters:Q"]
            ),
        ).properties(height=max(70, 34 * len(bars)))
        size = group["trainable_parameters"].median()
        yield view.figure(
            f"matrices_at_{size:.0f}_parameters_{number}",
            "LoRA",
            f"Which matrices, at about {size:,.0f} trained parameters",
            finding=_best_of(group, view.metric),
            caption="Each row spends the same parameters on other matrices. The paper finds that adapting "
            "more kinds of matrices at a lower rank beats one kind at a higher one.",
            chart=chart,
        )


def budgets(cells: pd.DataFrame) -> list[pd.DataFrame]:
    """Groups of cells of one series whose trained parameters agree and whose targets differ."""
    out = []
    known = cells[cells["r"].notna() & (cells["trainable_parameters"] > 0)]
    for _, group in known.groupby("series", sort=False):
        left = group.sort_values("trainable_parameters")
        while len(left):
            lowest = left["trainable_parameters"].iloc[0]
            near = left["trainable_parameters"] <= (1 + EQUAL) * lowest
            if left[near]["targets"].nunique() > 1:
                out.append(left[near])
            left = left[~near]
    return out


def _best_of(group: pd.DataFrame, metric: str) -> str:
    """Best against second best, paired by seed where there are enough seeds."""
    order = group.sort_values("mean", ascending=group["goal"].iloc[0] == "min")
    first, second = order.iloc[0], order.iloc[1]
    text = (
        f"{first['targets']} at r {first['r']:g} has the best {metric.lower()}, {first['mean']:.3f}, "
        f"{abs(first['mean'] - second['mean']):.3f} from {second['targets']} at r {second['r']:g}"
    )
    seeds = len(set(first["by_seed"]) & set(second["by_seed"]))
    if seeds < stats.FEWEST_SEEDS:
        return f"{text}: with {runs_text(seeds)} each this is no verdict."
    return f"{text} ({seeds} seeds each; the bars are 95% intervals of the means)."
