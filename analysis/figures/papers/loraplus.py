"""LoRA+'s figures: the map over two rates, the speed-up. Hayou et al. 2024, arXiv:2402.12354, figures 2-4.

On the grid of (lr_A, lr_B) the diagonal is plain LoRA; the paper finds the best cells above it, at lr_B >>
lr_A.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import altair as alt
import numpy as np
import pandas as pd

from analysis.figures.figure import Figure, tooltips
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
    axes = spec.get("variant_axes") or {}
    if axes.get("delta") != "lora":
        return None
    return (
        float((spec.get("variant_options") or {}).get("lr_ratio", 1))
        if axes.get("grouping") == "lora_plus"
        else 1.0
    )


def _map(view: View) -> Iterator[Figure]:
    every = view.every[view.every["validation"].notna() & view.every["r"].notna()]
    rows = [(cell, _ratio(view.spec(cell))) for cell in each(every)]
    table = pd.DataFrame(
        [
            {
                "lr_A": c["lr"],
                "lr_B": float(f"{c['lr'] * ratio:.6g}"),
                "value": c["validation"],
                "runs": c["n"],
                "r": c["r"],
                "targets": c["targets"],
                "scale": c["scale"],
                "goal": c["goal"],
            }
            for c, ratio in rows
            if ratio is not None
        ]
    )
    if table.empty:
        return
    if (table["lr_A"] == table["lr_B"]).all():  # LoRA alone
        return
    for (r, targets, _), group in table.groupby(["r", "targets", "scale"], sort=True):
        values = (
            group.groupby(["lr_A", "lr_B"]).agg(value=("value", "mean"), runs=("runs", "sum")).reset_index()
        )
        grid = values.pivot(index="lr_A", columns="lr_B", values="value")
        ratios = {float(f"{b / a:.3g}") for a, b in zip(values["lr_A"], values["lr_B"], strict=True)}
        if len(ratios) < 2 or len(grid) < 2 or 1.0 not in ratios:
            continue
        yield _map_figure(
            view, values, grid, sign=-1 if group["goal"].iloc[0] == "min" else 1, r=r, targets=targets
        )


def _map_figure(
    view: View, values: pd.DataFrame, grid: pd.DataFrame, *, sign: int, r: float, targets: str
) -> Figure:
    A, B = grid.index.to_numpy(float), grid.columns.to_numpy(float)
    found = heat_map(A, B, sign * grid.to_numpy(float))
    name = {rate: f"{rate:.3g}" for rate in {*A, *B}}
    table = values.assign(
        a=values["lr_A"].map(name),
        b=values["lr_B"].map(name),
        plain=np.isclose(values["lr_A"], values["lr_B"]),
    )
    table["best"] = (table["lr_A"] == found.best[0]) & (table["lr_B"] == found.best[1])
    base = alt.Chart(table).encode(
        x=alt.X(
            "b:O", sort=[name[x] for x in sorted(B)], title="Learning rate of B", axis=alt.Axis(labelAngle=0)
        ),
        y=alt.Y("a:O", sort=[name[x] for x in sorted(A, reverse=True)], title="Learning rate of A"),
    )
    judged = metric_name(view.cells.iloc[0]["metric"])
    fill = alt.Color(
        "value:Q",
        scale=alt.Scale(scheme="viridis"),
        title=f"validation {judged}",
        legend=alt.Legend(title=f"validation {judged}"),
    )
    tips = tooltips("a:O", "b:O", ("value:Q", f"validation {judged}", ".4f"), "runs:Q")
    middle = float((table["value"].min() + table["value"].max()) / 2)
    chart = alt.layer(
        base.mark_rect().encode(color=fill, tooltip=tips),
        base.mark_rect(filled=False, strokeWidth=2.5, strokeDash=[4, 3], stroke="#e8590c").transform_filter(
            "datum.plain"
        ),
        base.mark_text(fontSize=11.5).encode(
            text=alt.Text("value:Q", format=".3f"),
            color=alt.condition(f"datum.value < {middle}", alt.value("white"), alt.value("#12202e")),
            opacity=alt.value(1),
        ),
    ).properties(height=max(120, 44 * len(A)))
    runs = int(values["runs"].sum())
    where = f"lr_A = {found.best[0]:.3g}, lr_B = {found.best[1]:.3g}"
    if table["value"].nunique() == 1:
        best = f"All {len(values)} cells score the same"
    elif np.isclose(*found.best):
        best = f"The best of {len(values)} cells is {where}, on the diagonal itself"
    else:
        plain = f"the best cell of plain LoRA (lr = {found.diagonal[0]:.3g})"
        best = f"The best of {len(values)} cells is {where}, {found.gap:.3f} better than {plain}"
    return view.figure(
        f"two_rates-r{r:g}-{targets}",
        PAPER,
        f"Two learning rates at r {r:g}, {targets}",
        finding=f"{best} on validation; {runs_text(runs)} in all"
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
    plain, variant = (smooth(np.mean([curve[:length, 1] for curve in group], axis=0)) for group in curves)
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
    tuned = (
        "both at tuned rates"
        if min(one["rates"], two["rates"]) > 1
        else "at rates that this study did not tune"
    )
    said = f"{two['series']} never stays below the final loss of {one['series']}"
    if ratio is not None:
        said = (
            f"{two['series']} reaches the final loss of {one['series']} in {1 / ratio:.0%} of its steps, "
            f"a speed-up of {ratio:.2f}"
        )
    return view.figure(
        f"speed_up-r{one['r']:g}-{one['targets']}-{two['series']}",
        PAPER,
        f"Steps to the final loss of {one['series']}, r {one['r']:g}",
        finding=f"{said} (mean of {runs_text(len(seeds))} each, {tuned}){_caution(len(seeds))}.",
        caption="The dashed line is the loss at which the plain variant ends. It counts as reached when "
        "the loss stays below on average.",
        chart=chart,
    )


def _caution(seeds: int) -> str:
    """What so few runs cannot tell."""
    few = seeds < FEWEST_SEEDS
    return ": the noise of single batches moves this, and so few runs are no verdict" if few else ""


def smooth(values: np.ndarray, points: int = SMOOTH) -> np.ndarray:
    """A running mean (n,) over `points` that shortens at the ends."""
    weight = np.ones(points)
    return np.convolve(values, weight, "same") / np.convolve(np.ones(len(values)), weight, "same")


# --- the analysis, on arrays


class HeatMap(NamedTuple):
    """The best cell of a grid of two rates, the best on its diagonal, and the gap.

    `ratios` are those of the top cells.
    """

    best: tuple[float, float]
    best_value: float
    diagonal: tuple[float, float]
    diagonal_value: float
    gap: float
    ratios: np.ndarray


def heat_map(lr_A: np.ndarray, lr_B: np.ndarray, value: np.ndarray, *, top: int = 4) -> HeatMap:
    """What a grid says: value (len(lr_A), len(lr_B)), more is better, NaN where a cell diverged."""
    filled = np.where(np.isnan(value), -np.inf, value)
    a, b = np.unravel_index(np.argmax(filled), filled.shape)
    same = [(i, j) for i in range(len(lr_A)) for j in range(len(lr_B)) if np.isclose(lr_A[i], lr_B[j])]
    if not same:
        raise ValueError("the grid has no cell with lr_A = lr_B, so it holds no plain LoRA to compare with")
    i, j = max(same, key=lambda cell: filled[cell])
    order = np.argsort(-filled, axis=None)[:top]
    rows, columns = np.unravel_index(order, filled.shape)
    return HeatMap(
        (float(lr_A[a]), float(lr_B[b])),
        float(filled[a, b]),
        (float(lr_A[i]), float(lr_B[j])),
        float(filled[i, j]),
        float(filled[a, b] - filled[i, j]),
        lr_B[columns] / lr_A[rows],
    )


def speed_up(steps: np.ndarray, plain: np.ndarray, variant: np.ndarray) -> float | None:
    """Steps of plain LoRA to its own final loss over the variant's to the same; None if it never gets there.

    The curves (steps,) are losses at `steps`, both at tuned rates; a value counts as reached when it stays
    reached on average from there on, so that one lucky batch is no arrival.
    """
    goal = plain[-1]
    arrived = [s for k, s in enumerate(steps) if variant[k] <= goal and variant[k:].mean() <= goal]
    reached = [s for k, s in enumerate(steps) if plain[k] <= goal and plain[k:].mean() <= goal]
    return float((reached[0] if reached else steps[-1]) / arrived[0]) if arrived else None
