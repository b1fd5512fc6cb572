"""The figures of a study's results: the metric against rank, and against what it costs to get it."""

from collections.abc import Sequence
from typing import Any

import altair as alt
import numpy as np
import pandas as pd
from scipy import optimize

from analysis import stats
from analysis.figures.figure import HEIGHT, WIDTH, color, interval, rank_text, shape, tooltips
from analysis.runs import timing
from analysis.runs.cells import SETTING, finals, order_of
from analysis.runs.predictions import Blind
from analysis.runs.rows import Row, each
from analysis.text.format import metric_name

Chart = alt.LayerChart | alt.FacetChart

COSTS = {
    "trainable_parameters": ("Trainable parameters", True),
    "step_ms": ("Time per step (ms)", False),
    "peak_bytes": ("Peak memory (MB)", False),
    "adapter_bytes": ("Adapter on disk (kB)", True),
}
_UNIT = {"peak_bytes": 1e-6, "adapter_bytes": 1e-3}
GREY = "#8a94a3"
SHARES = ("accuracy", "exact_match")  # metrics that are a share of examples, one point each


def metric_title(row: Row) -> str:
    """The axis title of a setting's metric, e.g. "Test accuracy"."""
    if not isinstance(row["metric"], str):
        return "Primary metric"
    words = metric_words(row)
    return words if "/" in row["metric"] else words[0].upper() + words[1:]


def metric_words(row: Row) -> str:
    """A setting's metric within a sentence, e.g. "test ROUGE-L"."""
    if not isinstance(row["metric"], str):
        return "primary metric"  # of runs that all ended without one
    if "/" in row["metric"]:  # chosen by --metric, and known by that name
        return str(row["metric"])
    return f"{row['split']} {metric_name(row['metric'])}"


def setting_name(row: Row) -> str:
    """A setting in words: what was learned by which model and how it is judged."""
    parts = [row["dataset"], row["model"], metric_words(row)]
    return " · ".join(part for part in parts if part != "unknown")


def with_bars(cells: pd.DataFrame) -> pd.DataFrame:
    """Add bar_low, bar_high: the t interval over seeds or, with too few seeds, that of test sampling."""
    low, high = cells["low"].to_numpy(float).copy(), cells["high"].to_numpy(float).copy()
    for i, row in enumerate(cells.itertuples()):
        share = row.metric in SHARES and row.split == "test"
        if np.isnan(low[i]) and share and row.test_rows > 0 and row.n:
            low[i], high[i] = stats.wilson(row.mean * row.test_rows, row.test_rows)
    return cells.assign(bar_low=low, bar_high=high)


def _tooltip(metric: str) -> list[alt.Tooltip]:
    return tooltips(
        ("series:N", "variant"), ("r:Q", "rank"), ("lr:Q", "lr"), ("mean:Q", metric, ".4f"),
        ("n:Q", "seeds"), ("bar_low:Q", "bar from", ".4f"), ("bar_high:Q", "bar to", ".4f"),
        ("trainable_parameters:Q", "trainable parameters", ",.0f"), ("share:Q", "share of the model", ".3%"),
    )  # fmt: skip


_KEPT = ("series", "r", "lr", "mean", "n", "bar_low", "bar_high", "trainable_parameters", "share")


MOST_SERIES = 10  # in one figure; the others are grey


def emphasised(cells: pd.DataFrame, domain: Sequence[str]) -> list[str]:
    """The series that a figure shows in colour: all, or the first (the baseline) and the best of many."""
    if len(domain) <= MOST_SERIES:
        return list(domain)
    best = {domain[0], *[name for name in best_first(cells) if name != domain[0]][: MOST_SERIES - 2]}
    return [name for name in domain if name in best]


def best_first(cells: pd.DataFrame) -> list[str]:
    """The series of a setting by their best cells."""
    gains = (cells["sign"] * cells["mean"]).groupby(cells["series"]).max()
    return list(gains.sort_values(ascending=False, kind="stable").index)


def series_in_order(cells: pd.DataFrame) -> list[str]:
    """All series in the order of colours and shapes: the baseline, then of very many the best.

    Those without a result come last.
    """
    final = finals(cells)
    known, place = sorted(set(final["series"]), key=order_of), dict[str, int]()
    if len(known) > MOST_SERIES:
        for _, group in final.groupby(list(SETTING), sort=False, dropna=False):
            for i, name in enumerate(best_first(group)):
                place[name] = min(i, place.get(name, i))

    def key(name: str) -> tuple[bool, bool, int]:
        return name not in known, [name] != known[:1], place.get(name, 0)

    return sorted(sorted(set(cells["series"]), key=order_of), key=key)


def by_rank(cells: pd.DataFrame, runs: pd.DataFrame, domain: list[str], blind: Blind | None) -> Chart:
    """The metric against rank, a line per series; methods without a rank are level lines.

    Args:
        cells: the final cells of one setting and one choice of targets, with bars.
        runs: their completed runs, for the small dots of single seeds.
        domain: all series of the study, so that colours stay the same in every figure.
        blind: what answers that look at no example score, if that is to be drawn.
    """
    title, front = metric_title(cells.iloc[0]), emphasised(cells, domain)
    y = alt.Y("mean:Q", title=title, scale=alt.Scale(zero=False, nice=True))
    level = cells[cells["r"].isna()]
    cells, runs = (table.assign(rank=table["r"].map(rank_text)) for table in (cells, runs))
    shown, dots = cells["series"].isin(front), runs[runs["series"].isin(front)]
    ranked, back = cells[cells["r"].notna() & shown], cells[cells["r"].notna() & ~shown]
    order = list(dict.fromkeys(cells[cells["r"].notna()].sort_values("r")["rank"]))
    present = [name for name in domain if name in set(ranked["series"])]
    x = alt.X("rank:O", title="Rank r", sort=order, axis=alt.Axis(labelAngle=0))
    dodge = alt.XOffset("series:N", sort=present, scale=alt.Scale(domain=present, paddingOuter=1))
    base = alt.Chart().encode(x=x, xOffset=dodge, color=color(domain, present))
    layers: list[Any] = []
    if len(back):
        layers.append(
            alt.Chart(back[["rank", *_KEPT]])
            .mark_line(color=GREY, strokeWidth=1, opacity=0.45, point=alt.OverlayMarkDef(color=GREY, size=12))
            .encode(x=x, y=y, detail=alt.Detail("series:N"), tooltip=_tooltip(title))
        )
    if len(level) or blind is not None:
        low = float(np.nanmin(cells[["mean", "bar_low"]].to_numpy(float)))
        high = float(np.nanmax(cells[["mean", "bar_high"]].to_numpy(float)))
        layers += _levels(level, title, color(domain, present), blind, (high - low) / HEIGHT)
    if len(ranked):
        layers.append(base.mark_line(strokeOpacity=0.45).encode(y=y))
        layers.append(interval(base, "bar_low", "bar_high", title, strokeWidth=1.5))
        if len(dots) > len(ranked):
            seeds = base.mark_circle(size=14, fillOpacity=0.4).encode(
                y=alt.Y("score:Q", title=title),
                tooltip=tooltips("series:N", "rank:O", "seed:Q", ("score:Q", "", ".4f")),
            )
            layers.append(seeds.properties(data=dots[["series", "rank", "seed", "score"]]))
        points = base.mark_point(filled=True, size=85, opacity=1)
        layers.append(points.encode(y=y, shape=shape(domain, present), tooltip=_tooltip(title)))
    return alt.layer(*layers, data=ranked[["rank", *_KEPT]] if len(ranked) else alt.Undefined)


def _levels(
    level: pd.DataFrame, title: str, paint: alt.Color, blind: Blind | None, unit: float
) -> list[alt.Chart]:
    """Level lines for methods that have no rank and for answers that need none, named at their right end.

    Args:
        level: the cells without a rank.
        title: of the axis.
        paint: the colour of a series.
        blind: what such answers score, if that is to be drawn.
        unit: the metric per pixel, by which the names are kept apart.
    """
    values = level["mean"].to_numpy(float)
    names = list(level["series"])
    if blind is not None:
        values, names = np.append(values, blind.score), [*names, blind.name]
    text = pd.DataFrame({"series": names, "at": apart(values + 9 * unit, 15 * unit), "mean": values})
    place = {"x": alt.value("width"), "y": alt.Y("at:Q", title=title), "text": alt.Text("series:N")}
    label: dict[str, Any] = {"align": "right", "fontWeight": 600}
    known, other = text.head(len(level)), text.tail(len(text) - len(level))
    layers = []
    if len(level):
        rule = alt.Chart(level[list(_KEPT)]).mark_rule(strokeDash=[5, 4], strokeWidth=1.5)
        layers.append(rule.encode(y=alt.Y("mean:Q", title=title), color=paint, tooltip=_tooltip(title)))
        layers.append(alt.Chart(known).mark_text(**label).encode(color=paint, **place))
    if len(other):
        rule = alt.Chart(other).mark_rule(strokeDash=[2, 3], strokeWidth=1.5, color=GREY)
        layers.append(rule.encode(y=alt.Y("mean:Q", title=title)))
        layers.append(alt.Chart(other).mark_text(color=GREY, **label).encode(**place))
    return layers


def apart(values: np.ndarray, least: float) -> np.ndarray:
    """The values (n,), moved as little as it takes to keep `least` between any two, in their order."""
    order, steps = np.argsort(values, kind="stable"), least * np.arange(len(values))
    out = np.empty(len(values))
    out[order] = optimize.isotonic_regression(values[order] - steps).x + steps
    return out


def by_cost(
    cells: pd.DataFrame, domain: list[str], axis: str, size: tuple[float, float] = (WIDTH - 110, HEIGHT - 90)
) -> Chart:
    """The metric against one cost; a thin line joins the cells that no other cell beats in both.

    There is no line through step times that chance may have ordered; level bars are their quartiles.
    Cells of equal cost are drawn side by side, and a rank is written only where nothing is in its way.

    Args:
        cells: the final cells of one setting, with bars.
        domain: all series of the study.
        axis: one of COSTS.
        size: of the panel in units of the page's text, by which marks and texts are kept apart.
    """
    title, (name, log) = metric_title(cells.iloc[0]), COSTS[axis]
    frame = cells[cells[axis] > 0]
    frame = frame.assign(
        cost=frame[axis] * _UNIT.get(axis, 1),
        rank=[f"{r:g}" if r > 0 else "" for r in frame["r"]],
        best=on_front(frame, axis) if not no_line(frame, axis) else False,
    )
    front = [name for name in emphasised(frame, domain) if name in set(frame["series"])]
    in_front = frame["series"].isin(front)
    timed = axis == "step_ms" and frame["step_ms_low"].notna().any()
    drawn = frame[["cost", *(["step_ms_low", "step_ms_high"] if timed else [])]]  # bars widen an axis, too
    x = beside(_pixels(frame["cost"], drawn, log, size[0]))
    y = _pixels(frame["mean"], frame[["mean", "bar_low", "bar_high"]], False, size[1])
    frame = frame.assign(at=_costs(x, drawn, log, size[0]), side=labelled(x, y, frame["rank"]))
    scale = alt.Scale(type="log", nice=False, padding=24) if log else alt.Scale(zero=False, padding=24)
    ticks: Any = log_ticks(frame["cost"].to_numpy(float)) if log else alt.Undefined
    label: Any = alt.Undefined
    totals = frame["total_parameters"].dropna().unique()
    if axis == "trainable_parameters" and len(totals):
        label = f"[format(datum.value, '.3~s'), format(datum.value / {np.median(totals):.0f}, '.2~p')]"
        name += " and their share of the model"
    labels = alt.Axis(grid=True, labelExpr=label, format="~s", values=ticks, tickCount=5,
                      labelOverlap="greedy", labelFlush=20)  # fmt: skip
    across = alt.X("at:Q", title=name, scale=scale, axis=labels)
    up = alt.Y("mean:Q", title=title, scale=alt.Scale(zero=False))
    base = alt.Chart().encode(x=across, color=color(domain, front))
    tips = [*_tooltip(title), *tooltips(("cost:Q", name, ",.4~g"))]
    kept = [*_KEPT, "cost", "at", "rank", "best", "side", *(["step_ms_low", "step_ms_high"] if timed else [])]
    level = base.mark_rule(strokeWidth=1.4, strokeOpacity=0.45).encode(
        x=alt.X("step_ms_low:Q", title=name), x2=alt.X2("step_ms_high:Q"), y=up
    )
    grey = alt.Chart(frame.loc[~in_front, kept]).mark_point(filled=True, size=22, color=GREY, opacity=0.45)
    back = [grey.encode(x=across, y=up, tooltip=tips)] if not in_front.all() else []
    text = [
        base.mark_text(dx=dx, dy=dy, align=align, fontSize=10.5)
        .encode(y=up, text=alt.Text("rank:N"))
        .transform_filter(f"datum.side == '{side}'")
        for side, (dx, dy, align) in _SIDES.items()
        if (frame.loc[in_front, "side"] == side).any()
    ]
    return alt.layer(
        *back,
        base.mark_line(interpolate="step-after", strokeWidth=1.2, strokeOpacity=0.7, strokeDash=[3, 3])
        .encode(y=up, color=alt.value(GREY))
        .transform_filter("datum.best"),
        interval(base, "bar_low", "bar_high", title, strokeWidth=1.4, strokeOpacity=0.45),
        *([level] if timed else []),
        base.mark_point(filled=True, size=70, opacity=1).encode(
            y=up, shape=shape(domain, front), tooltip=tips
        ),
        *text,
        data=frame.loc[in_front, kept],
    )


_SIDES: dict[str, tuple[int, int, Any]] = {  # dx, dy, align
    "ne": (7, -7, "left"), "se": (7, 8, "left"), "nw": (-7, -7, "right"), "sw": (-7, 8, "right"),
}  # fmt: skip


def _pixels(values: pd.Series, drawn: pd.DataFrame, log: bool, size: float) -> np.ndarray:
    """Where values (n,) lie on an axis of `size` pixels that shows all numbers of `drawn`."""
    low, span = _span(drawn, log)
    at = np.log10(values.to_numpy(float)) if log else values.to_numpy(float)
    return np.asarray((at - low) / span * size if span > 0 else np.full(len(at), size / 2))


def _costs(x: np.ndarray, drawn: pd.DataFrame, log: bool, size: float) -> np.ndarray:
    """The inverse of `_pixels` for places (n,)."""
    low, span = _span(drawn, log)
    unit = span / size if span > 0 else (0.3 if log else max(low, 1.0) * 0.3) / size
    out = (low if span > 0 else low - unit * size / 2) + x * unit
    return np.asarray(10.0**out if log else out)


def _span(drawn: pd.DataFrame, log: bool) -> tuple[float, float]:
    """The smallest number of a table on its axis, and how far the largest is from it."""
    at = np.log10(drawn.to_numpy(float)) if log else drawn.to_numpy(float)
    return float(np.nanmin(at)), float(np.nanmax(at) - np.nanmin(at))


def beside(x: np.ndarray, least: float = 9.0) -> np.ndarray:
    """Places (n,) in pixels, where those within a pixel of each other are spread around their middle."""
    out = x.astype(float).copy()
    order = np.argsort(x, kind="stable")
    start = 0
    for end in range(1, len(x) + 1):
        if end == len(x) or x[order[end]] - x[order[start]] > 1:
            group = order[start:end]
            gap = min(least, 60 / max(len(group), 1))
            out[group] = x[group].mean() + gap * (np.arange(len(group)) - (len(group) - 1) / 2)
            start = end
    return out


def labelled(x: np.ndarray, y: np.ndarray, texts: Sequence[str]) -> list[str]:
    """On which side of its mark each text fits without touching a mark or another text; "" where on none.

    Args:
        x: of the marks (n,), in pixels.
        y: likewise, upward.
        texts: one per mark.
    """
    taken = [(a - 6, b - 6, a + 6, b + 6) for a, b in zip(x, y, strict=True)]
    out = []
    for a, b, text in zip(x, y, texts, strict=True):
        width, side = 6.2 * len(text), ""
        for name, (dx, dy, align) in _SIDES.items() if text else ():
            left = a + dx - (width if align == "right" else 0)
            box = (left, b - dy - 5.5, left + width, b - dy + 5.5)
            others = [t for t in taken if t != (a - 6, b - 6, a + 6, b + 6)]
            if all(box[2] < o[0] or o[2] < box[0] or box[3] < o[1] or o[3] < box[1] for o in others):
                side = name
                taken.append(box)
                break
        out.append(side)
    return out


def log_ticks(values: np.ndarray) -> list[float]:
    """Round numbers for a logarithmic axis over values (n,): powers of ten, and more on a short one."""
    low, high = np.log10(values.min()), np.log10(values.max())
    steps = (1, 1.5, 2, 3, 4, 5, 6, 8) if high - low < 0.6 else (1, 2, 5) if high - low < 1.8 else (1,)
    decades = range(int(np.floor(low)), int(np.ceil(high)) + 1)
    return [float(step * 10.0**k) for k in decades for step in steps]


def far_off(cells: pd.DataFrame) -> pd.Series:
    """Methods without a rank that lie so far from the others as to flatten every difference."""
    ranked = cells[cells["r"].notna()]
    if ranked.empty:
        return pd.Series(False, cells.index)
    low = min(ranked["mean"].min(), ranked["bar_low"].min())
    high = max(ranked["mean"].max(), ranked["bar_high"].max())
    reach = high - low
    return cells["r"].isna() & ((cells["mean"] < low - reach) | (cells["mean"] > high + reach))


def on_front(cells: pd.DataFrame, axis: str) -> np.ndarray:
    """Which of these cells no other one beats, in the metric and in a cost: bool (n,)."""
    return frontier(cells[axis].to_numpy(float), cells["mean"].to_numpy(float), cells["goal"].iloc[0])


def no_line(cells: pd.DataFrame, axis: str) -> str:
    """Why no line may join the cells that no other one beats in metric and cost; empty where one may."""
    if axis != "step_ms":
        return ""
    if other := int(cells["disturbed"].sum()):
        return f"other work ran on the machine during {other} of the runs"
    front = cells[on_front(cells, axis)].sort_values(axis, kind="stable")
    return timing.why_no_order(each(front)) if len(front) > 1 else ""


def frontier(cost: np.ndarray, value: np.ndarray, goal: str) -> np.ndarray:
    """Which points (n,), (n,) no other point beats, by a value as good for less cost: bool (n,)."""
    gain = -value if goal == "min" else value
    order = np.lexsort((-gain, cost))
    best, keep = -np.inf, np.zeros(len(cost), bool)
    for i in order:
        if gain[i] > best:
            best, keep[i] = gain[i], True
    return keep
