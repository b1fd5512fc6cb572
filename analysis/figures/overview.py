"""The figures of a study's results: the metric against rank, and against what it costs to get it."""

from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from analysis import stats
from analysis.figures.figure import tooltips
from analysis.runs.rows import Row

Chart = alt.LayerChart | alt.FacetChart

COSTS = {
    "trainable_parameters": ("Trainable parameters", True),
    "step_ms": ("Time per step (ms)", False),
    "peak_bytes": ("Peak memory (MB)", False),
    "adapter_bytes": ("Adapter on disk (kB)", True),
}
_UNIT = {"peak_bytes": 1e-6, "adapter_bytes": 1e-3}
SHARES = ("accuracy", "exact_match")  # metrics that are a share of examples, one point each


def metric_title(row: Row) -> str:
    """The axis title of a setting's metric, e.g. "Test accuracy"."""
    if not isinstance(row["metric"], str):
        return "Primary metric"  # of runs that all ended without one
    if "/" in row["metric"]:  # chosen by --metric, and known by that name
        return row["metric"]
    return f"{row['split']} {row['metric']}".replace("_", " ").capitalize()


def setting_name(row: Row) -> str:
    """A setting in words: what was learned by which model and how it is judged."""
    return f"{row['dataset']} · {row['model']} · {metric_title(row).lower()}"


def with_bars(cells: pd.DataFrame) -> pd.DataFrame:
    """Add bar_low, bar_high: the t interval over seeds or, with too few seeds, that of test sampling."""
    low, high = cells["low"].to_numpy(float).copy(), cells["high"].to_numpy(float).copy()
    for i, row in enumerate(cells.itertuples()):
        share = row.metric in SHARES and row.split == "test"
        if np.isnan(low[i]) and share and row.test_rows > 0 and row.n:
            low[i], high[i] = stats.wilson(row.mean * row.test_rows, row.test_rows)
    return cells.assign(bar_low=low, bar_high=high)


def _color(domain: list[str]) -> alt.Color:
    return alt.Color("series:N", scale=alt.Scale(domain=domain), sort=domain)


def _shape(domain: list[str]) -> alt.Shape:
    return alt.Shape("series:N", scale=alt.Scale(domain=domain), sort=domain)


def _tooltip(metric: str) -> list[alt.Tooltip]:
    return tooltips(
        ("series:N", "variant"),
        ("r:Q", "rank"),
        ("lr:Q", "lr"),
        ("mean:Q", metric, ".4f"),
        ("n:Q", "seeds"),
        ("bar_low:Q", "bar from", ".4f"),
        ("bar_high:Q", "bar to", ".4f"),
        ("trainable_parameters:Q", "trainable parameters", ",.0f"),
        ("share:Q", "share of the model", ".3%"),
    )


_KEPT = ("series", "r", "lr", "mean", "n", "bar_low", "bar_high", "trainable_parameters", "share")


def by_rank(cells: pd.DataFrame, runs: pd.DataFrame, domain: list[str]) -> Chart:
    """The metric against rank, a line per series; methods without a rank are level lines.

    Args:
        cells: the final cells of one setting and one choice of targets, with bars.
        runs: their completed runs, for the small dots of single seeds.
        domain: all series of the study, so that colours stay the same in every figure.
    """
    title = metric_title(cells.iloc[0])
    y = alt.Y("mean:Q", title=title, scale=alt.Scale(zero=False, nice=True))
    ranked, level = cells[cells["r"].notna()], cells[cells["r"].isna()]
    order = [f"{r:g}" for r in sorted(ranked["r"].unique())]
    present = [name for name in domain if name in set(ranked["series"])]
    x = alt.X("rank:O", title="Rank r", sort=order, axis=alt.Axis(labelAngle=0))
    dodge = alt.XOffset("series:N", sort=present, scale=alt.Scale(domain=present, paddingOuter=1))
    frame = ranked.assign(rank=[f"{r:g}" for r in ranked["r"]])[["rank", *_KEPT]]
    base = alt.Chart().encode(x=x, xOffset=dodge, color=_color(domain))
    dots = runs.assign(rank=[f"{r:g}" for r in runs["r"]])[["series", "rank", "seed", "score"]]
    layers = []
    if len(level):
        layers += _levels(level, title, domain)
    if len(ranked):
        layers += [
            base.mark_line(strokeOpacity=0.45).encode(y=y),
            base.mark_rule(strokeWidth=1.5, strokeOpacity=0.6).encode(
                y=alt.Y("bar_low:Q", title=title), y2=alt.Y2("bar_high:Q")
            ),
        ]
        if len(dots) > len(ranked):
            layers.append(
                alt.Chart(dots)
                .mark_circle(size=14, fillOpacity=0.4)
                .encode(
                    x=x,
                    xOffset=dodge,
                    y=alt.Y("score:Q", title=title),
                    color=_color(domain),
                    tooltip=tooltips("series:N", "rank:O", "seed:Q", ("score:Q", "", ".4f")),
                )
            )
        layers.append(
            base.mark_point(filled=True, size=85, opacity=1).encode(
                y=y, shape=_shape(domain), tooltip=_tooltip(title)
            )
        )
    return alt.layer(*layers, data=frame if len(ranked) else alt.Undefined)


def _levels(level: pd.DataFrame, title: str, domain: list[str]) -> list[alt.Chart]:
    """Level lines for methods that have no rank, named at their right end."""
    chart = alt.Chart(level[list(_KEPT)]).encode(y=alt.Y("mean:Q", title=title), color=_color(domain))
    return [
        chart.mark_rule(strokeDash=[5, 4], strokeWidth=1.5).encode(tooltip=_tooltip(title)),
        chart.mark_text(align="right", baseline="bottom", dy=-4, fontWeight=600).encode(
            x=alt.value("width"), text=alt.Text("series:N")
        ),
    ]


def by_cost(cells: pd.DataFrame, domain: list[str], axis: str) -> Chart:
    """The metric against one cost; a thin line joins the cells that no other cell beats in both.

    Args:
        cells: the final cells of one setting, with bars.
        domain: all series of the study.
        axis: one of COSTS.
    """
    title, (name, log) = metric_title(cells.iloc[0]), COSTS[axis]
    frame = cells.assign(
        cost=cells[axis] * _UNIT.get(axis, 1), rank=[f"{r:g}" if r > 0 else "" for r in cells["r"]]
    )
    frame = frame[frame["cost"] > 0]
    frame = frame.assign(
        best=frontier(frame["cost"].to_numpy(float), frame["mean"].to_numpy(float), frame["goal"].iloc[0])
    )
    scale = alt.Scale(type="log", nice=False, padding=24) if log else alt.Scale(zero=False, padding=24)
    ticks: Any = log_ticks(frame["cost"].to_numpy(float)) if log else alt.Undefined
    label: Any = alt.Undefined
    totals = frame["total_parameters"].dropna().unique()
    if axis == "trainable_parameters" and len(totals):
        label = f"[format(datum.value, '.3~s'), format(datum.value / {np.median(totals):.0f}, '.2~p')]"
        name += " and their share of the model"
    x = alt.X(
        "cost:Q",
        title=name,
        scale=scale,
        axis=alt.Axis(
            grid=True, labelExpr=label, format="~s", values=ticks, tickCount=5, labelOverlap="greedy"
        ),
    )
    y = alt.Y("mean:Q", title=title, scale=alt.Scale(zero=False))
    base = alt.Chart().encode(x=x, color=_color(domain))
    return alt.layer(
        base.mark_line(interpolate="step-after", strokeWidth=1.2, strokeOpacity=0.7, strokeDash=[3, 3])
        .encode(y=y, color=alt.value("#8a94a3"))
        .transform_filter("datum.best"),
        base.mark_rule(strokeWidth=1.4, strokeOpacity=0.45).encode(
            y=alt.Y("bar_low:Q", title=title), y2=alt.Y2("bar_high:Q")
        ),
        base.mark_point(filled=True, size=85, opacity=1).encode(
            y=y,
            shape=_shape(domain),
            tooltip=[*_tooltip(title), *tooltips(("cost:Q", name, ",.4~g"))],
        ),
        base.mark_text(dx=8, dy=-8, align="left", fontSize=10.5).encode(y=y, text=alt.Text("rank:N")),
        data=frame[[*_KEPT, "cost", "rank", "best"]],
    )


def log_ticks(values: np.ndarray) -> list[float]:
    """Round numbers for a logarithmic axis over values (n,): 1-2-5 steps, or powers of ten on a long one."""
    low, high = np.log10(values.min()), np.log10(values.max())
    steps = (1, 2, 5) if high - low < 1.8 else (1,)
    decades = range(int(np.floor(low)), int(np.ceil(high)) + 1)
    return [float(step * 10.0**k) for k in decades for step in steps]


def far_off(cells: pd.DataFrame) -> pd.Series:
    """Methods without a rank that lie so far from the others as to flatten every difference."""
    ranked = cells[cells["r"].notna()]
    if ranked.empty:
        return pd.Series(False, cells.index)
    low = min(ranked["mean"].min(), ranked["bar_low"].min())
    high = max(ranked["mean"].max(), ranked["bar_high"].max())
    reach = 1.0 * (high - low)
    return cells["r"].isna() & ((cells["mean"] < low - reach) | (cells["mean"] > high + reach))


def frontier(cost: np.ndarray, value: np.ndarray, goal: str) -> np.ndarray:
    """Which points (n,), (n,) no other point beats, by a value as good for less cost: bool (n,)."""
    gain = -value if goal == "min" else value
    order = np.lexsort((-gain, cost))
    best, keep = -np.inf, np.zeros(len(cost), bool)
    for i in order:
        if gain[i] > best:
            best, keep[i] = gain[i], True
    return keep
