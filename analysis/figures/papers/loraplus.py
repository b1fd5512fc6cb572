"""LoRA+'s figures: the map over two rates, the speed-up. Hayou et al. 2024, arXiv:2402.12354, figures 2-4.

On the grid of (lr_A, lr_B) the diagonal is plain LoRA; the paper finds the best cells above it, at lr_B >>
lr_A.
"""

from collections.abc import Iterator
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from analysis.figures.curves import running_mean
from analysis.figures.figure import Figure, on_viridis, tooltips
from analysis.figures.papers.view import View, runs_text
from analysis.runs.rows import Row, each
from analysis.stats import FEWEST_SEEDS
from analysis.text.format import metric_name

PAPER = "LoRA+"
SMOOTH = 9  # points of a training curve that are averaged before it is compared


def figures(view: View) -> list[Figure]:
    """What the setting's runs can show of the paper."""
    return [*_map(view), *_speed(view)]


def _ratio(spec: Any) -> float | None:
    """lr_B / lr_A of a run of LoRA with any grouping; None for other deltas."""
    axes, options = spec.get("variant_axes") or {}, spec.get("variant_options") or {}
    if axes.get("delta") != "lora":
        return None
    return float(options.get("lr_ratio", 1)) if axes.get("grouping") == "lora_plus" else 1.0


def _map(view: View) -> Iterator[Figure]:
    every = view.every[view.every["validation"].notna() & view.every["r"].notna()]
    ratio = pd.Series([_ratio(view.spec(cell)) for cell in each(every)], every.index, dtype=float)
    table = every.assign(lr_B=[float(f"{b:.6g}") for b in every["lr"] * ratio])[ratio.notna()]
    for (r, targets, _), group in table.groupby(["r", "targets", "scale"], sort=True):
        values = group.groupby(["lr", "lr_B"]).agg(value=("validation", "mean"), runs=("n", "sum"))
        values = values.reset_index()
        ratios = {float(f"{b / a:.3g}") for a, b in zip(values["lr"], values["lr_B"], strict=True)}
        values["plain"] = np.isclose(values["lr"], values["lr_B"])
        if len(ratios) > 1 and values["lr"].nunique() > 1 and values["plain"].any():
            yield _map_figure(view, values, sign=group["sign"].iloc[0], r=r, targets=targets)


def _map_figure(view: View, values: pd.DataFrame, *, sign: float, r: float, targets: str) -> Figure:
    table = values.assign(
        a=[f"{rate:.3g}" for rate in values["lr"]], b=[f"{rate:.3g}" for rate in values["lr_B"]]
    )
    A, B = (list(dict.fromkeys(table.sort_values(by)[name])) for name, by in (("a", "lr"), ("b", "lr_B")))
    base = alt.Chart(table).encode(
        x=alt.X("b:O", sort=B, title="Learning rate of B", axis=alt.Axis(labelAngle=0)),
        y=alt.Y("a:O", sort=A[::-1], title="Learning rate of A"),
    )
    judged = metric_name(view.cells.iloc[0]["metric"])
    fill = alt.Color(
        "value:Q",
        scale=alt.Scale(scheme="viridis"),
        title=f"validation {judged}",
        legend=alt.Legend(title=f"validation {judged}"),
    )
    tips = tooltips("a:O", "b:O", ("value:Q", f"validation {judged}", ".4f"), "runs:Q")
    chart = alt.layer(
        base.mark_rect().encode(color=fill, tooltip=tips),
        base.mark_rect(filled=False, strokeWidth=2.5, strokeDash=[4, 3], stroke="#e8590c").transform_filter(
            "datum.plain"
        ),
        base.mark_text(fontSize=11.5).encode(
            text=alt.Text("value:Q", format=".3f"),
            color=on_viridis("value", table["value"]),
            opacity=alt.value(1),
        ),
    ).properties(height=max(120, 44 * len(A)))
    runs = int(values["runs"].sum())
    score = sign * values["value"]
    best, diagonal = values.loc[score.idxmax()], values.loc[score[values["plain"]].idxmax()]
    where = f"The best of {len(values)} cells is lr_A = {best['lr']:.3g}, lr_B = {best['lr_B']:.3g}"
    if score.nunique() == 1:
        said = f"All {len(values)} cells score the same"
    elif best["plain"]:
        said = f"{where}, on the diagonal itself"
    else:
        gap = abs(best["value"] - diagonal["value"])
        said = f"{where}, {gap:.3f} better than the best cell of plain LoRA (lr = {diagonal['lr']:.3g})"
    return view.figure(
        f"two_rates-r{r:g}-{targets}",
        f"Two learning rates at r {r:g}, {targets}",
        finding=f"{said} on validation; {runs_text(runs)} in all"
        + (", so this is no verdict." if runs < 3 * len(values) else "."),
        caption=f"Validation {judged} over the rates of A and B. The dashed diagonal is plain LoRA; "
        "the paper finds the best cells to its right, where B learns faster than A. Empty cells were not "
        "run.",
        chart=chart,
    )


def _speed(view: View) -> Iterator[Figure]:
    """One figure per choice of targets: the first pair whose rates were tuned, else the lowest rank's."""
    ratios = [_ratio(view.spec(cell)) if pd.notna(cell["r"]) else None for cell in view.rows]
    cells = view.cells.assign(ratio=pd.Series(ratios, view.cells.index, dtype=float))
    plain, faster = (each(cells[which]) for which in (cells["ratio"] == 1, cells["ratio"] > 1))
    pairs = [
        (min(one["rates"], two["rates"]) == 1, one["r"], one, two)
        for one in plain
        for two in faster
        if (two["r"], two["targets"]) == (one["r"], one["targets"])
    ]
    drawn: set[str] = set()
    for _, _, one, two in sorted(pairs, key=lambda pair: pair[:2]):
        seeds = sorted(set(one["by_seed"]) & set(two["by_seed"]))
        curves = [[view.study.curves(c["by_seed"][s]).training for s in seeds] for c in (one, two)]
        short = any(len(curve) < 2 * SMOOTH for group in curves for curve in group)
        if one["targets"] not in drawn and seeds and not short:
            drawn.add(one["targets"])
            yield _speed_figure(view, one, two, curves, seeds)


def _speed_figure(view: View, one: Row, two: Row, curves: list[list[np.ndarray]], seeds: list[int]) -> Figure:
    length = min(len(curve) for group in curves for curve in group)
    steps = curves[0][0][:length, 0]
    means = (np.mean([curve[:length, 1] for curve in group], axis=0) for group in curves)
    plain, variant = (running_mean(mean, SMOOTH) for mean in means)
    ratio = speed_up(steps, plain, variant)
    table = pd.concat(
        [
            pd.DataFrame({"step": steps, "loss": np.round(y, 5), "series": c["series"]})
            for y, c in ((plain, one), (variant, two))
        ]
    )
    base = alt.Chart().encode(x=alt.X("step:Q", title="Step"), color=view.color())
    chart = alt.layer(
        base.mark_line().encode(
            y=alt.Y("loss:Q", title="Training loss, smoothed", scale=alt.Scale(zero=False)),
            tooltip=tooltips("series:N", "step:Q", "loss:Q"),
        ),
        alt.Chart(pd.DataFrame({"goal": [float(np.round(plain[-1], 5))]}))
        .mark_rule(strokeDash=[4, 3])
        .encode(y=alt.Y("goal:Q")),
        data=table,
    )
    tuned = min(one["rates"], two["rates"]) > 1
    rates = "both at tuned rates" if tuned else "at rates that this study did not tune"
    said = f"{two['series']} never stays below the final loss of {one['series']}"
    if ratio is not None:
        said = f"{two['series']} reaches the final loss of {one['series']} in {1 / ratio:.0%} of its steps, "
        said += f"a speed-up of {ratio:.2f}"
    few = len(seeds) < FEWEST_SEEDS
    caution = ": the noise of single batches moves this, and so few runs are no verdict" * few
    return view.figure(
        f"speed_up-r{one['r']:g}-{one['targets']}-{two['series']}",
        f"Steps to the final loss of {one['series']}, r {one['r']:g}",
        finding=f"{said} (mean of {runs_text(len(seeds))} each, {rates}){caution}.",
        caption="The dashed line is the loss at which the plain variant ends. It counts as reached when "
        "the loss stays below on average.",
        chart=chart,
    )


def speed_up(steps: np.ndarray, plain: np.ndarray, variant: np.ndarray) -> float | None:
    """Steps of plain LoRA to its own final loss over the variant's to the same; None if it never gets there.

    The curves (steps,) are losses at `steps`, both at tuned rates; a value counts as reached when it stays
    reached on average from there on, so that one lucky batch is no arrival.
    """
    goal = plain[-1]
    reached, arrived = (
        next((s for k, s in enumerate(steps) if losses[k] <= goal and losses[k:].mean() <= goal), None)
        for losses in (plain, variant)
    )
    return None if arrived is None or reached is None else float(reached / arrived)
