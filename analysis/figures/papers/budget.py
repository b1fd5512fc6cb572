"""Which matrices, at an equal budget? Hu et al. 2021, arXiv:2106.09685, tables 5 and 6."""

from collections import Counter
from collections.abc import Iterator

import altair as alt
import numpy as np
import pandas as pd

from analysis import stats
from analysis.figures.figure import Figure, rows_axis, tooltips
from analysis.figures.papers.view import View, panels, runs_text

EQUAL = 0.05  # relative difference of trained parameters that counts as none
PANELS = 9  # budgets that are drawn


def figures(view: View) -> Iterator[Figure]:
    """One figure with a panel per budget at which a series was run on several choices of targets."""
    groups = budgets(view.cells)
    if not groups:
        return
    bars = pd.concat([group.assign(panel=_panel_name(group)) for group in groups[:PANELS]])
    bars["row"] = [f"{targets} · r {r:g}" for targets, r in zip(bars["targets"], bars["r"], strict=True)]
    keep = ["panel", "row", "mean", "bar_low", "bar_high", "n", "trainable_parameters", "series"]
    order = list(dict.fromkeys(bars.sort_values(["targets", "r"])["row"]))
    base = alt.Chart().encode(y=rows_axis(order, limit=150), color=view.color(None))
    x = alt.X("mean:Q", title=view.metric, scale=alt.Scale(zero=False), axis=alt.Axis(grid=True, tickCount=4))
    tips = tooltips("row:N", ("mean:Q", "", ".4f"), "n:Q")
    chart = alt.layer(
        base.mark_rule(strokeWidth=2, strokeOpacity=0.6).encode(
            x=alt.X("bar_low:Q", title=view.metric), x2=alt.X2("bar_high:Q")
        ),
        base.mark_point(filled=True, size=90, opacity=1).encode(
            x=x, tooltip=[*tips, *tooltips("trainable_parameters:Q")]
        ),
        data=bars[keep],
    )
    left_out = len(groups) - PANELS
    height = max(70, 34 * int(bars["panel"].value_counts().max()))
    yield view.figure(
        "matrices_at_equal_parameters",
        "LoRA",
        "Which matrices, at the same number of trainable parameters",
        finding=_best_of(groups[0], view.metric_words)
        if len(groups) == 1
        else _tally(groups, view.metric_words),
        caption="Each row spends a panel's parameters on other matrices; bars: 95% intervals of the means. "
        "The paper finds that adapting more kinds of matrices at a lower rank beats one kind at a higher one."
        + (f" {left_out} more budgets are not drawn, the finding counts them." if left_out > 0 else ""),
        chart=panels(chart, list(dict.fromkeys(bars["panel"])), height=height),
    )


def budgets(cells: pd.DataFrame) -> list[pd.DataFrame]:
    """Groups of cells of one series whose trained parameters agree and whose targets differ."""
    out = []
    known = cells[cells["r"].notna() & (cells["trainable_parameters"] > 0)]
    for _, group in known.groupby("series", sort=False):
        ordered = group.sort_values("trainable_parameters")
        trained, targets = ordered["trainable_parameters"].to_numpy(), ordered["targets"].to_numpy()
        start = 0
        while start < len(ordered):
            end = int(np.searchsorted(trained, (1 + EQUAL) * trained[start], side="right"))
            if len(set(targets[start:end])) > 1:
                out.append(ordered.iloc[start:end])
            start = end
    return out


def _panel_name(group: pd.DataFrame) -> str:
    return f"{group['series'].iloc[0]}, about {group['trainable_parameters'].median():,.0f}"


def _best_first(group: pd.DataFrame) -> np.ndarray:
    """The positions (n,) of a group's cells, the best mean first."""
    means = group["mean"].to_numpy(float)
    return np.argsort(means if group["goal"].iloc[0] == "min" else -means, kind="stable")


def _tally(groups: list[pd.DataFrame], metric: str) -> str:
    """How often each choice of targets came out best."""
    counts = Counter(str(group["targets"].to_numpy()[_best_first(group)[0]]) for group in groups)
    (first, times), *others = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    rest = "".join(f", {name} at {n}" for name, n in others)
    text = f"{first} has the best {metric} at {times} of {len(groups)} budgets{rest}"
    return f"{text}: a count of means, no verdict."


def _best_of(group: pd.DataFrame, metric: str) -> str:
    """Best against second best, paired by seed where there are enough seeds."""
    first, second = (group.iloc[at] for at in _best_first(group)[:2])
    text = (
        f"{first['targets']} at r {first['r']:g} has the best {metric}, {first['mean']:.3f}, "
        f"{abs(first['mean'] - second['mean']):.3f} from {second['targets']} at r {second['r']:g}"
    )
    seeds = len(set(first["by_seed"]) & set(second["by_seed"]))
    if seeds < stats.FEWEST_SEEDS:
        return f"{text}: with {runs_text(seeds)} each this is no verdict."
    return f"{text} ({seeds} seeds each; the bars are 95% intervals of the means)."
