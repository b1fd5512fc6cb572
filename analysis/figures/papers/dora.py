"""DoRA's figure: magnitude against direction. Liu et al. 2024, arXiv:2402.09353, figure 2.

    Delta M^t = mean_n | ||w_n^t|| - ||w_n^0|| |         Delta D^t = mean_n (1 - cos(w_n^t, w_n^0))

over the unit n that DoRA gives a magnitude: a row of W, one per output. Published correlations on the query
matrices of VL-BART: full fine-tuning -0.62, LoRA +0.83, DoRA -0.31. Pooling checkpoints alone makes the
correlation positive, because both grow with time; it is therefore also given per checkpoint.
"""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import altair as alt
import numpy as np
import pandas as pd

from analysis.figures.figure import Figure, row_name, tooltips
from analysis.figures.papers.view import View, layer, panels, short

PAPER = "DoRA"
PUBLISHED = "full fine-tuning -0.62, LoRA 0.83, DoRA -0.31"
PANELS = 9
FEWEST = 4  # matrices in a correlation


def figures(view: View) -> Iterator[Figure]:
    """What the setting's runs can show of the paper."""
    rows: dict[str, tuple[int, Mapping[str, np.ndarray]]] = {}
    for cell, seed, found in view.with_arrays("moved/magnitude"):
        if len(rows) < PANELS and (found["moved/direction"] > 0).any():
            rows.setdefault(row_name(cell), (seed, found))
    kinds = _common([found["moved/names"] for _, found in rows.values()])
    parts, texts = [], []
    for name, (seed, found) in rows.items():
        kept = np.array([layer(str(m)) is not None and short(str(m)) in kinds for m in found["moved/names"]])
        if kept.sum() < FEWEST:
            continue
        dM, dD = found["moved/magnitude"][:, kept], found["moved/direction"][:, kept]
        parts.append(_points(name, found["moved/steps"], found["moved/names"][kept], dM, dD, seed))
        texts.append(f"{name} {_correlated(dM, dD)}")
    if not parts:
        return
    table = pd.concat(parts)
    order = list(dict.fromkeys(table["panel"]))
    base = alt.Chart(table).encode(
        x=alt.X("direction:Q", title="Change of direction", axis=alt.Axis(tickCount=4, format="~g")),
        y=alt.Y(
            "magnitude:Q", title="Change of magnitude", axis=alt.Axis(tickCount=4, format="~g", grid=True)
        ),
    )
    marks = sorted(table["step"].unique())
    chart = alt.layer(
        base.mark_point(filled=True, size=55, opacity=0.85).encode(
            color=alt.Color("step:O", sort=marks, title="step", scale=alt.Scale(scheme="viridis")),
            tooltip=tooltips("panel:N", "matrix:N", "step:O", "direction:Q", "magnitude:Q"),
        ),
        base.transform_regression("direction", "magnitude").mark_line(strokeDash=[5, 3], color="#8a94a3"),
    )
    yield view.figure(
        "magnitude_and_direction",
        "Does magnitude move with direction?",
        finding=f"Correlation of the two changes in {' and '.join(kinds)}: {'; '.join(texts)}.",
        caption="A point per matrix and validation; the line is the least-squares fit. All grow with time, "
        "which alone makes the pooled correlation positive: that of the last checkpoint is given beside "
        f"it. The paper's, on the query matrices of VL-BART: {PUBLISHED}.",
        chart=panels(chart, order),
    )


def _common(names: list[np.ndarray]) -> list[str]:
    """The kinds of matrices that all runs have, in the order of the first."""
    kinds = [list(dict.fromkeys(short(str(name)) for name in group)) for group in names]
    return [kind for kind in kinds[0] if all(kind in other for other in kinds)] if kinds else []


def _points(
    panel: str, steps: np.ndarray, names: np.ndarray, dM: np.ndarray, dD: np.ndarray, seed: int
) -> pd.DataFrame:
    at, matrices = np.meshgrid(steps, [str(name) for name in names], indexing="ij")
    columns = {"panel": panel, "seed": seed, "step": at.ravel(), "matrix": matrices.ravel()}
    for key, values in (("magnitude", dM), ("direction", dD)):
        columns[key] = [float(f"{value:.4g}") for value in values.ravel()]
    return pd.DataFrame(columns)


def _correlated(dM: np.ndarray, dD: np.ndarray) -> str:
    """Pearson's r pooled with its interval, and at the last checkpoint."""
    found = correlation(dM, dD, rng=np.random.default_rng(0), draws=400)
    if np.isnan(found.r):
        return "undefined, as one of them does not change"
    last = found.by_checkpoint[-1]
    end = "" if np.isnan(last) else f", {last:+.2f} at the last checkpoint"
    return f"{found.r:+.2f} (95% {found.low:+.2f} to {found.high:+.2f}, {dM.shape[1]} matrices{end})"


# --- the analysis, on arrays


class Correlation(NamedTuple):
    """Pearson's r with its bootstrap interval over matrices, and r at each checkpoint."""

    r: float
    low: float
    high: float
    by_checkpoint: np.ndarray


def correlation(
    dM: np.ndarray, dD: np.ndarray, *, rng: np.random.Generator, draws: int = 2000
) -> Correlation:
    """The correlation of Delta M with Delta D, each (checkpoints, matrices)."""
    matrices = dM.shape[1]
    values = []
    for _ in range(draws):
        pick = rng.integers(matrices, size=matrices)
        values.append(_pearson(dM[:, pick].ravel(), dD[:, pick].ravel()))
    low, high = np.nanquantile(values, [0.025, 0.975])
    by_checkpoint = np.array([_pearson(m, d) for m, d in zip(dM, dD, strict=True)])
    return Correlation(_pearson(dM.ravel(), dD.ravel()), float(low), float(high), by_checkpoint)


def _pearson(x: np.ndarray, y: np.ndarray) -> float:
    x, y = x - x.mean(), y - y.mean()
    scale = np.sqrt((x @ x) * (y @ y))
    return float(x @ y / scale) if scale > 0 else float("nan")
