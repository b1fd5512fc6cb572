"""Training curves: the loss of every final cell, validation beside training, one panel per rank."""

import altair as alt
import numpy as np
import pandas as pd

from analysis.figures.figure import color, shape, tooltips
from analysis.runs.load import Study

DASHES = ([1, 0], [6, 2], [2, 2], [8, 2, 2, 2], [4, 4])
BANDS = 3  # series, beyond which bands hide lines


def frame(cells: pd.DataFrame, study: Study) -> pd.DataFrame:
    """One row per cell, split and step: the mean over seeds with the lowest and highest seed."""
    numbers, names = [np.empty((0, 5))], []
    for cell in cells.itertuples():
        for split in ("training", "validation"):
            runs = [getattr(study.curves(run_id), split) for run_id in cell.by_seed.values()]
            if any(map(len, runs)):
                points = by_step(np.concatenate(runs))
                numbers.append(smooth(points) if split == "training" else points)
                names += [(split, cell.series, rank_name(cell.r))] * len(numbers[-1])
    table = pd.DataFrame(np.concatenate(numbers), columns=["step", "mean", "min", "max", "size"]).round(5)
    table["size"] = table["size"].astype(int)
    for i, name in enumerate(("split", "series", "rank")):
        table[name] = pd.Series([known[i] for known in names], dtype=object)
    return table


def by_step(points: np.ndarray) -> np.ndarray:
    """Columns (steps, 5) of points (n, 2): step, mean, lowest, highest and number of the values there."""
    points = points[np.argsort(points[:, 0], kind="stable")]
    steps, starts, size = np.unique(points[:, 0], return_index=True, return_counts=True)
    lowest, highest = (f.reduceat(points[:, 1], starts) for f in (np.minimum, np.maximum))
    mean = np.add.reduceat(points[:, 1], starts) / size
    return np.column_stack([steps, mean, lowest, highest, size])


def smooth(points: np.ndarray) -> np.ndarray:
    """Columns of `by_step` (steps, 5) with mean, lowest and highest averaged over a tenth of the steps."""
    window = 2 * (len(points) // 20) + 1
    out = points.copy()
    out[:, 1:4] = np.column_stack([running_mean(column, window) for column in points[:, 1:4].T])
    return out


def running_mean(values: np.ndarray, window: int) -> np.ndarray:
    """Means (n,) of as many values (n,), of fewer at the ends."""
    weight = np.ones(window)
    return np.convolve(values, weight, "same") / np.convolve(np.ones(len(values)), weight, "same")


def rank_name(r: float) -> str:
    """The panel that a rank belongs to."""
    return "no rank" if pd.isna(r) else f"rank {r:g}"


def loss_curves(table: pd.DataFrame, domain: list[str]) -> alt.FacetChart:
    """Lines for training, marks for validation, a band between the lowest and the highest seed.

    Args:
        table: what `frame` returns.
        domain: all series of the study.
    """
    ranks = sorted(
        table["rank"].unique(),
        key=lambda name: (name == "no rank", float(name.split()[-1]) if name != "no rank" else 0),
    )
    present = [name for name in domain if name in set(table["series"])]
    # a layer per dash: as an encoding it would draw the legend's marks with it
    dashes = {
        tuple(dash): [n for i, n in enumerate(domain) if i % len(DASHES) == k]
        for k, dash in enumerate(DASHES)
    }
    base = alt.Chart().encode(
        x=alt.X("step:Q", title="Step", axis=alt.Axis(tickCount=4, format="~s")),
        color=color(domain, present),
    )
    y = alt.Y("mean:Q", title="Loss", scale=alt.Scale(zero=False))
    tips = tooltips("series:N", "rank:N", "split:N", "step:Q", ("mean:Q", "loss", ".4f"), ("size:Q", "seeds"))
    train, valid = "datum.split == 'training'", "datum.split == 'validation'"
    layers = [
        *[
            base.mark_line(strokeWidth=1.6, strokeOpacity=0.85, strokeDash=list(dash))
            .encode(y=y)
            .transform_filter(train)
            .transform_filter(alt.FieldOneOfPredicate("series", names))
            for dash, names in dashes.items()
            if set(names) & set(present)
        ],
        base.mark_point(filled=True, size=30, opacity=0.9)
        .encode(y=y, shape=shape(domain, present), tooltip=tips)
        .transform_filter(valid),
    ]
    if (table["size"] > 1).any() and len(present) <= BANDS:
        band = base.mark_area(fillOpacity=0.12).encode(y=alt.Y("min:Q", title="Loss"), y2=alt.Y2("max:Q"))
        layers.insert(0, band.transform_filter(train))
    return (
        alt.layer(*layers, data=table)
        .properties(width=220, height=220)
        .facet(facet=alt.Facet("rank:N", sort=ranks, title=None), columns=min(3, len(ranks)))
    )
