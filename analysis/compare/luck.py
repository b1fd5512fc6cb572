"""How much of a comparison is the luck of tuning: what the choice of the learning rates leaves open.

All confirming seeds share the rate that was chosen, so that they cannot show how well it was chosen. What the
tuning runs show of it is resampled: new scores at every rate, as noisy as those that there were, around the
curve that was fitted to them; the rate is chosen anew by the same rule; its regret is how far the curve there
lies below its top. The squared regret, a mean over draws, times `MISFIT` (the curve is itself an estimate,
and no parabola), is added to the squared standard error of the difference, for each side. Of a choice by
halving the shortest runs are drawn anew, which all its points have: as if no longer runs had come after them.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from analysis.runs.cells import Key, key_of, shortest
from analysis.runs.load import Study
from analysis.runs.rates import Curve, curves
from analysis.runs.rows import each

MISFIT = 3.0
DRAWS = 400


def regrets(study: Study, cells: pd.DataFrame) -> Mapping[Key, np.ndarray]:
    """The regret of each choice (DRAWS,), in units of the metric, by the key of the chosen cell.

    Draws of cells of one curve belong together: their rates were chosen at once. A cell is left out where its
    tuning runs are not there, or tell nothing of their own noise.
    """
    out: dict[Key, np.ndarray] = {}
    tuned = set(cells.loc[cells["tuning"], "group_key"])
    tried = shortest(cells[cells["tuning"] | ~cells["group_key"].isin(tuned)])
    found = curves(tried[tried["rates"] > 1], study.runs)
    for row in each(cells[cells["final"] & (cells["rates"] > 1)]):
        of = [c for (key, _), c in found.items() if key == row["curve_key"] and row["group_key"] in c.groups]
        if len(of) == 1:
            noise = spread([c for c in found.values() if c.peers == of[0].peers])
            own = np.array(of[0].groups) == row["group_key"]
            if noise > 0:
                out[key_of(row)] = regret(of[0], noise, row["lr"])[own].max(axis=0)
    return out


def spread(compared: Sequence[Curve]) -> float:
    """The standard error of the points of curves: between seeds, or about the fits if that is more."""
    residual, df = sum(curve.fit.residual for curve in compared), sum(curve.fit.df for curve in compared)
    return float(np.fmax(compared[0].noise, np.sqrt(residual / df) if df else 0.0))


def regret(curve: Curve, noise: float, chosen: float) -> np.ndarray:
    """The regret (n, DRAWS) at the rank of each of the n points of a curve, drawn anew.

    A rate that the fit does not recommend was chosen by the scores themselves.
    """
    new = noise * np.random.default_rng(0).standard_normal((len(curve.score), DRAWS))
    truth, out = curve.fit.score[:, None], np.zeros(new.shape)
    for r in np.unique(curve.rank):
        own = np.flatnonzero(curve.rank == r)
        by_fit = curve.rate[own][np.argmax(truth[own])] == chosen or chosen not in curve.rate[own]
        drawn = truth + (curve.fit.smoother @ new if by_fit else new)
        out[own] = truth[own].max() - truth[own, 0][np.argmax(drawn[own], axis=0)]
    return out
