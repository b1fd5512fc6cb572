"""The figures behind the verdicts: paired differences, learning-rate curves, and what was run."""

import re
from itertools import product
from typing import Any

import altair as alt
import pandas as pd

from analysis.figures.curves import DASHES, rank_name
from analysis.figures.figure import color, rank_text, row_name, rows_axis, tooltips
from analysis.figures.overview import GREY, Chart, metric_title
from analysis.runs.cells import chosen, key_of, shortest
from analysis.runs.rows import Row, each
from analysis.text.format import metric_name

STATES = {"all seeds": "#2f78b0", "some seeds": "#7fb0d6", "failed or diverged": "#d9722b",
          "not run": "#b4bcc6"}  # fmt: skip
FOREST_ROWS = 40  # beyond it, only the overall comparisons are drawn


def forest(table: pd.DataFrame, domain: list[str], metric: str) -> Chart:
    """Paired differences with their intervals; the shaded band is the margin, filled marks are decided.

    Args:
        table: comparisons of one setting that have an interval.
        domain: all series of the study.
        metric: the metric's name in the axis title.
    """
    frame = table.assign(
        row=[comparison_name(row) for row in each(table)],
        decided=table["conclusion"].isin(["better", "worse", "equivalent"]),
        series=table["variant"],
        rank=table["r"].astype(str),
        short=[said if len(said) <= 26 else re.split(r"[:,]", said)[0] for said in table["said"]],
    )
    keep = ["row", "series", "rank", "difference", "ci_low", "ci_high", "p_adjusted", "n_seeds", "n_examples",
            "said", "short", "decided"]  # fmt: skip
    base = alt.Chart().encode(y=rows_axis(frame["row"]), color=color(domain, ()))
    against = table["baseline"].iloc[0]
    title = [f"Difference in {metric} from {against}", "to the right is better"]
    axis = alt.Axis(grid=True, tickCount=8, labelOverlap="greedy", labelSeparation=6)
    x = alt.X("ci_low:Q", title=title, axis=axis)
    margin = float(table["margin"].iloc[0])
    band = alt.Chart(pd.DataFrame({"low": [-margin], "high": [margin]})).mark_rect(
        opacity=0.13, color="#8a94a3"
    )
    zero = alt.Chart(pd.DataFrame({"at": [0.0]})).mark_rule(strokeWidth=1.2).encode(x=alt.X("at:Q"))
    tips = tooltips(
        "series:N", "rank:N", ("said:N", "verdict"), ("difference:Q", "", "+.4f"),
        ("ci_low:Q", "from", "+.4f"), ("ci_high:Q", "to", "+.4f"), ("p_adjusted:Q", "adjusted p", ".3g"),
        ("n_seeds:Q", "seeds"), ("n_examples:Q", "examples"),
    )  # fmt: skip
    point = base.encode(x=alt.X("difference:Q"), tooltip=tips)
    return alt.layer(
        band.encode(x=alt.X("low:Q", title=title, axis=axis), x2=alt.X2("high:Q")),
        zero,
        base.mark_rule(strokeWidth=2, strokeOpacity=0.75).encode(x=x, x2=alt.X2("ci_high:Q")),
        point.mark_point(filled=True, size=80, opacity=1, strokeWidth=1.6).encode(
            stroke=alt.Stroke("series:N", scale=alt.Scale(domain=domain), sort=domain, legend=None),
            fillOpacity=alt.condition("datum.decided", alt.value(1), alt.value(0)),
        ),
        base.mark_text(align="left", dx=8).encode(x=alt.value("width"), text=alt.Text("short:N")),
        data=frame[keep],
    ).properties(height=max(60, 24 * len(frame)), padding={"top": 30, "left": 5, "right": 5, "bottom": 5})


def far_off(table: pd.DataFrame) -> pd.Series:
    """Comparisons of methods without a rank that lie so far out as to flatten all others."""
    ranked = table[table["variant_r"].notna()]
    reach = ranked[["ci_low", "ci_high"]].abs().to_numpy().max() if len(ranked) else float("inf")
    return table["variant_r"].isna() & (table["difference"].abs() > 2 * reach)


def comparison_name(row: Row) -> str:
    """A comparison as a row of the figure: "dora · all ranks"."""
    if row["r"] == "all":
        return f"{row['variant']} · all ranks"
    return row_name({"series": row["variant"], "r": row["r"]})


def rate_points(cells: pd.DataFrame) -> pd.DataFrame:
    """Validation by learning rate for every group that tried several, from its tuning runs if any.

    Where other keys were tuned too, a rate stands for the best that was found with it; where points were
    dropped on the way, the curve is that of the shortest runs.
    """
    many = cells[cells["rates"] > 1]
    parts = []
    for _, group in many.groupby(["group_key", "stack"], sort=False):
        tuning = group[group["tuning"]]
        curve = shortest(tuning) if tuning["lr"].nunique() > 1 else group[~group["tuning"]]
        ends = (curve["lr"].min(), curve["lr"].max())  # of all that were tried, diverged or not
        curve = curve[curve["validation"].notna()]
        if curve["lr"].nunique() < 2:
            continue
        curve = curve.loc[[chosen(same) for _, same in curve.groupby("lr")]]
        final = group.loc[group["final"], "lr"]
        at = final.iloc[0] if len(final) else curve.loc[chosen(curve), "lr"]
        parts.append(
            curve.assign(chosen=curve["lr"] == at, edge=(curve["lr"] == at) & curve["lr"].isin(ends))
        )
    return pd.concat(parts) if parts else many[:0].assign(chosen=False, edge=False)


def rate_curves(points: pd.DataFrame, domain: list[str]) -> alt.FacetChart:
    """Validation against learning rate, one panel per series, a line per rank; a ring marks what was chosen.

    Args:
        points: rows of `rate_points` in one setting.
        domain: all series of the study.
    """
    ranked = points["r"].fillna(-1)
    largest = ranked.groupby(points["series"]).transform("max")
    frame = points.assign(
        rank=[rank_name(r) for r in points["r"]],
        mark=[
            (f"{lr:.2g}" + (" (edge)" if edge else "")) if chosen and r == top else ""
            for lr, edge, chosen, r, top in zip(
                points["lr"], points["edge"], points["chosen"], ranked, largest, strict=True
            )
        ],
    )
    low, high = frame["lr"].min(), frame["lr"].max()  # of all panels, which share the axis
    frame["side"] = ["left" if lr == low else "right" if lr == high else "center" for lr in frame["lr"]]
    frame = frame[["series", "rank", "lr", "validation", "n", "chosen", "edge", "mark", "side"]]
    ranks = list(dict.fromkeys(frame.sort_values("rank", key=lambda c: points["r"])["rank"]))
    names = [name for name in domain if name in set(frame["series"])]
    title = f"Validation {metric_name(points['metric'].iloc[0])}"
    base = alt.Chart().encode(
        x=alt.X(
            "lr:Q",
            title="Learning rate",
            scale=alt.Scale(type="log", nice=False, padding=16),
            axis=alt.Axis(format="~e", tickCount=4),
        ),
        y=alt.Y("validation:Q", title=title, scale=alt.Scale(zero=False)),
        color=color(domain, ()),
        detail=alt.Detail("rank:N"),
    )
    dash = alt.StrokeDash(
        "rank:N",
        sort=ranks,
        scale=alt.Scale(domain=ranks, range=[DASHES[i % len(DASHES)] for i in range(len(ranks))]),
        legend=alt.Legend(symbolType="stroke", symbolSize=500) if len(ranks) > 1 else None,
    )
    tips = tooltips("series:N", "rank:N", "lr:Q", ("validation:Q", "", ".4f"), ("n:Q", "seeds"), "edge:N")
    ringed = alt.condition("datum.chosen", alt.value(1), alt.value(0))
    layers = alt.layer(
        base.mark_line(strokeOpacity=0.7).encode(strokeDash=dash),
        base.mark_point(filled=True, size=34, opacity=1).encode(tooltip=tips),
        base.mark_point(filled=False, size=170, shape="circle").encode(opacity=ringed),
        *[
            base.mark_text(dy=-15, fontWeight=600, align=side)
            .encode(text=alt.Text("mark:N"))
            .transform_filter(f"datum.mark && datum.side == '{side}'")
            for side in ("left", "center", "right")
            if side in set(frame["side"])
        ],
        data=frame,
    )
    panel = layers.properties(width=220, height=200)
    return panel.facet(facet=alt.Facet("series:N", sort=names, title=None), columns=min(3, len(names)))


RELIABILITY_ROWS = 30


def reliability(cells: pd.DataFrame, runs: pd.DataFrame, domain: list[str]) -> Chart:
    """How far the seeds of each cell lie apart, and how many of them ended without a result.

    Args:
        cells: the final cells of one setting.
        runs: their completed runs, with `series`.
        domain: all series of the study.
    """
    cells = cells.head(RELIABILITY_ROWS)
    rows = [
        {
            "row": row_name(cell),
            "series": cell["series"],
            "mean": cell["mean"],
            "ended": f"{int(cell['n'])} of {int(cell['n'] + cell['diverged'] + cell['failed'])}",
            "lost": bool(cell["diverged"] + cell["failed"]),
        }
        for cell in each(cells)
    ]
    names = {key_of(cell): row_name(cell) for cell in each(cells)}
    dots = [
        {"row": names[key_of(run)], "series": run["series"], "score": run["score"], "seed": run["seed"]}
        for run in each(runs)
        if key_of(run) in names
    ]
    order = [row["row"] for row in rows]
    y = rows_axis(order)
    title = metric_title(cells.iloc[0])
    paint = color(domain, ())
    base = alt.Chart(pd.DataFrame(rows)).encode(y=y)
    ended = alt.condition("datum.lost", alt.value("#b23a2a"), alt.value(GREY))
    return alt.layer(
        alt.Chart(pd.DataFrame(dots))
        .mark_circle(size=42, opacity=0.6)
        .encode(
            x=alt.X("score:Q", title=title, scale=alt.Scale(zero=False), axis=alt.Axis(grid=True)),
            y=y,
            color=paint,
            tooltip=tooltips("series:N", "seed:Q", ("score:Q", "", ".4f")),
        ),
        base.mark_tick(thickness=2, size=16).encode(x=alt.X("mean:Q", title=title), color=paint),
        base.mark_text(align="left", dx=8).encode(
            x=alt.value("width"), text=alt.Text("ended:N"), color=ended
        ),
    ).properties(height=max(60, 22 * len(order)), padding={"top": 5, "left": 5, "right": 40, "bottom": 5})


def lacking(cells: pd.DataFrame) -> bool:
    """Whether anything is missing of what was run: a seed, a run without result, a rank of some variant."""
    wanted = len({seed for seeds in cells["seeds_tried"] for seed in seeds})
    ranked = cells[cells["r"].notna()]
    holes = ranked["series"].nunique() * ranked["r"].nunique() != len(ranked)
    return bool(holes or (cells["n"] < wanted).any())


def coverage(cells: pd.DataFrame) -> Chart:
    """Which cells were run: done seeds of wanted seeds, by series and rank.

    Args:
        cells: the results (no tuning) of one setting and one choice of targets, the final cell of each group.
    """
    wanted = len({seed for seeds in cells["seeds_tried"] for seed in seeds})
    series = list(dict.fromkeys(cells["series"]))
    names = list(dict.fromkeys(map(rank_text, sorted(cells["r"], key=lambda r: (pd.isna(r), r)))))
    rows = {(c["series"], rank_text(c["r"])): c for c in each(cells)}
    ranked = set(cells.loc[cells["r"].notna(), "series"])
    table = [
        {"series": name, "rank": rank, **_state(rows.get((name, rank)), wanted)}
        for name, rank in product(series, names)
        if (name, rank) in rows or (rank != "no rank" and name in ranked)
    ]
    top = alt.Axis(labelAngle=0, orient="top", ticks=False, domain=False)
    base = alt.Chart().encode(
        x=alt.X("rank:O", sort=names, title="Rank r", axis=top),
        y=alt.Y("series:N", sort=series, title=None, axis=alt.Axis(grid=False, labelLimit=260)),
    )
    colour = alt.Color("state:N", scale=alt.Scale(domain=list(STATES), range=list(STATES.values())))
    tips = tooltips("series:N", "rank:N", "state:N", "completed:Q", "diverged:Q", "failed:Q")
    pale = "datum.state == 'some seeds' || datum.state == 'not run'"
    return alt.layer(
        base.mark_rect(cornerRadius=4, stroke="#ffffff00", strokeWidth=4, opacity=0.92).encode(
            color=colour, tooltip=tips
        ),
        base.mark_text(fontWeight=600, fontSize=12).encode(
            text=alt.Text("text:N"),
            color=alt.condition(pale, alt.value("#12202e"), alt.value("white")),
        ),
        data=pd.DataFrame(table),
    ).properties(height=max(60, 34 * len(series)))


def _state(cell: Row | None, wanted: int) -> dict[str, Any]:
    if cell is None:
        return {"state": "not run", "text": "\u2013", "completed": 0, "diverged": 0, "failed": 0}
    done, diverged, failed = (int(cell[name]) for name in ("n", "diverged", "failed"))
    state = "failed or diverged" if diverged + failed else "all seeds" if done >= wanted else "some seeds"
    counts = {"completed": done, "diverged": diverged, "failed": failed}
    return {"state": state, "text": f"{done}/{wanted}", **counts}
