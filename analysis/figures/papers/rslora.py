"""rsLoRA's figures: gradient and loss against rank. Kalajdzievski 2023, arXiv:2312.03732, figures 1 and 2.

With s = alpha / r^beta the gradient of B at the start has entries of order s sqrt(r), so its Frobenius norm
grows like s sqrt(r) too (B is (d_out, r) and the entries shrink alike): the slope of log ||grad_B|| against
log r is 1/2 - beta: -1/2 for alpha / r, 0 for alpha / sqrt(r).
"""

from collections.abc import Iterator
from typing import NamedTuple

import altair as alt
import numpy as np
import pandas as pd

from analysis.figures.figure import Figure, interval, tooltips
from analysis.figures.papers.view import View, panels, runs_text
from analysis.runs.histories import last_loss
from analysis.runs.rows import Row, each
from analysis.stats import quantile
from analysis.text.format import signed

PAPER = "rsLoRA"
BETA = {"alpha_over_r": 1.0, "alpha_over_sqrt_r": 0.5}  # s = alpha / r^beta
DELTAS = ("lora", "dora")  # DoRA's gain is 1 at the start
GRADIENT = "Gradient norm of B, first step"
FIXED, TUNED = "Training loss at one rate", "Training loss, rate tuned per rank"
FEWEST = 3  # points that an exponent is fitted to
Point = tuple[str, str, float, float]  # panel, series, rank, value


def figures(view: View) -> Iterator[Figure]:
    """What the setting's runs can show of the paper."""
    cells = view.cells[view.cells["r"].notna()]
    if cells.empty:
        return
    cells = cells[[_beta(view, cell) is not None for cell in each(cells)]]
    cells = cells[cells.groupby(["series", "targets"])["r"].transform("nunique") > 1]
    gradients = list(_gradients(view, set(cells["cell_key"])))
    if not gradients:
        return
    points = pd.DataFrame([*gradients, *_losses(view, cells)], columns=["panel", "series", "r", "value"])
    points["value"] = [float(f"{value:.5g}") for value in points["value"]]
    order = [name for name in (GRADIENT, FIXED, TUNED) if name in set(points["panel"])]
    table = (
        points.groupby(["panel", "series", "r"], sort=False)["value"]
        .agg(["mean", "min", "max", "size"])
        .reset_index()
    )
    x = alt.X(
        "r:Q",
        title="Rank, log scale",
        scale=alt.Scale(type="log", base=2, nice=False, padding=12),
        axis=alt.Axis(values=sorted(table["r"].unique()), format="~g"),
    )
    y = alt.Y(
        "mean:Q",
        title=None,
        scale=alt.Scale(type="log", nice=False, padding=12),
        axis=alt.Axis(grid=True, format="~g", tickCount=5),
    )
    base = alt.Chart(table).encode(x=x, color=view.color())
    tips = tooltips("series:N", "r:Q", ("mean:Q", "", ".4g"), ("size:Q", "runs"))
    chart = alt.layer(
        base.mark_line(strokeOpacity=0.6).encode(y=y),
        interval(base, "min", "max", None, strokeWidth=1, strokeOpacity=0.5),
        base.mark_point(filled=True, size=70, opacity=1).encode(y=y, shape=view.shape(), tooltip=tips),
    )
    yield view.figure(
        "gradient_and_loss_by_rank",
        "Does learning depend on the rank?",
        finding=f"{_fitted(view, points)}{_by_rate(points)}",
        caption="Means over seeds, rules from the lowest to the highest; all axes are logarithmic. At the "
        "start the gradient of B goes like r to the power 1/2 - beta, with s = alpha / r^beta. "
        "The tuned rates are the control: a loss that differs by rank at one rate alone is a matter of "
        "rates.",
        chart=panels(chart, order),
    )


def _beta(view: View, cell: Row) -> float | None:
    """The power of the rank in the scale; None where the change is not s B A with B = 0 at the start."""
    axes = view.spec(cell).get("variant_axes") or {}
    return BETA.get(axes.get("scaling", "")) if axes.get("delta") in DELTAS else None


def _gradients(view: View, wanted: set[str]) -> Iterator[Point]:
    """The gradient of B at the first step; a variant that is not zero there in A alone has one."""
    for cell, _, found in view.with_arrays("gradient/out"):
        norm = found["gradient/out"][0]
        if cell["cell_key"] in wanted and found["gradient/steps"][0] == 1 and norm > 0:
            yield GRADIENT, cell["series"], cell["r"], norm


def _losses(view: View, cells: pd.DataFrame) -> Iterator[Point]:
    """The last training loss of every cell, at one rate for all ranks and at each rank's own."""
    for (name, targets), group in cells.groupby(["series", "targets"], sort=False):
        own = group if (group["rates"] > 1).all() else group.iloc[:0]
        rate = group.sort_values("r")["lr"].iloc[0]
        series = view.every[(view.every[["series", "targets"]] == [name, targets]).all(axis=1)]
        for panel, chosen in ((FIXED, series[series["lr"] == rate]), (TUNED, own)):
            for cell in each(chosen) if chosen["r"].nunique() > 1 else ():
                for run_id in cell["by_seed"].values():
                    last = last_loss(view.study.curves(run_id).training)
                    if not np.isnan(last):
                        yield panel, cell["series"], cell["r"], last


def _by_rate(points: pd.DataFrame) -> str:
    """How the last loss changes from the lowest to the highest rank, at one rate and at each rank's own."""
    texts = []
    for series, group in points[points["panel"].isin([FIXED, TUNED])].groupby("series", sort=False):
        changes = []
        for panel, words in ((FIXED, "at one rate"), (TUNED, "with the rate tuned per rank")):
            here = group[group["panel"] == panel]
            if len(here):
                ends = [here.loc[here["r"] == r, "value"] for r in (here["r"].min(), here["r"].max())]
                runs = runs_text(min(map(len, ends)))
                changes.append(f"by {signed(ends[1].mean() - ends[0].mean())} {words} ({runs} each)")
        low, high = group["r"].min(), group["r"].max()
        texts.append(f"that of {series} changes {' and '.join(changes)} from rank {low:g} to {high:g}")
    return f" The last training loss: {'; '.join(texts)}. These are means, no verdict." if texts else ""


def _fitted(view: View, points: pd.DataFrame) -> str:
    """The exponent of each series' gradient, with its interval and what its scaling predicts."""
    texts = []
    for series, group in points[points["panel"] == GRADIENT].groupby("series", sort=False):
        cell = view.cells[view.cells["series"] == series].iloc[0]
        fixed = view.cells[view.cells["series"] == series]["alpha"].nunique() == 1
        if group["r"].nunique() < 2 or len(group) < FEWEST or not fixed:
            continue
        fit = exponent(group["r"].to_numpy(float), group["value"].to_numpy(float))
        beta = _beta(view, cell)
        assert beta is not None
        texts.append(
            f"for {series} like r^{fit.slope:.2f} (95% {fit.low:.2f} to {fit.high:.2f}, {len(group)} runs; "
            f"{expected_exponent(beta):g} predicted)"
        )
    if not texts:
        return f"No exponent is fitted: that takes {FEWEST} runs of one series at a constant alpha."
    return f"The first gradient of B goes {', and '.join(texts)}."


# --- the analysis, on arrays


class Exponent(NamedTuple):
    """A fitted slope on log-log axes with its 95% interval."""

    slope: float
    low: float
    high: float


def exponent(ranks: np.ndarray, values: np.ndarray) -> Exponent:
    """The slope of log values against log ranks.

    Values (runs, ranks) or (ranks,), at least three points in all.
    """
    from scipy.stats import linregress  # half a second, which few reports need

    values = np.atleast_2d(values)
    x = np.tile(np.log(ranks), len(values))
    fit = linregress(x, np.log(values).ravel())
    half = quantile(0.05, len(x) - 2) * fit.stderr
    return Exponent(float(fit.slope), float(fit.slope - half), float(fit.slope + half))


def expected_exponent(beta: float) -> float:
    """The slope that s = alpha / r^beta should show at the start."""
    return 0.5 - beta
