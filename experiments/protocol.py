"""What a fair comparison asks for: known to the sweeps that run one and to the analysis that judges it.

The choice of a learning rate is smoothed: the best of a few noisy scores is mostly the luckiest. Near its top
the score of a variant is taken as a parabola in x = log2(rate), whose top may move with the rank r:

    score_rx = a_r + b x + c x^2 + d x log2(r)          d where there are three ranks or more

fitted by least squares to the means over tuning seeds, over all ranks at once, with weights
1 / (1 + (gap / `REACH`)^2) for points `gap` standard errors below the best of their rank: a parabola says
little of what lies far below. Points `COLLAPSED` or more below are no part of it; none beyond `REACH` is
chosen.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

FEWEST_SEEDS = 3  # below it no verdict is given
ADVISED_SEEDS = 5
FEWEST_POINTS = 3  # values tried of what is tuned, from which on validation can choose one
COMMON = 16.0  # s r at the default alpha, where s = alpha / r; the `lr` of conf/variant/*.yaml is for it
EQUAL_PARAMETERS = 0.1  # relative difference of two budgets that counts as none
REACH, COLLAPSED = 6.0, 12.0  # in standard errors of a point


def sign_flip_floor(seeds: int) -> float:
    """The smallest two-sided p that the signs of so many paired differences can reach."""
    return 2 / 2**seeds


def point_noise(points: Sequence[Sequence[float]]) -> float:
    """The standard error of a point's mean over its seeds; nan where no point has two.

    From the median of the points' variances, so that a few rates at which training is unstable do not count.
    """
    known = [np.asarray(point) for point in points if len(point) > 1]
    if not known:
        return float("nan")
    df = float(np.mean([len(point) - 1 for point in known]))
    middle = (1 - 2 / (9 * df)) ** 3  # the median of chi2 / df (Wilson and Hilferty 1931)
    variance = float(np.median([point.var(ddof=1) for point in known])) / middle
    return float(np.sqrt(variance / np.mean([len(point) for point in known])))


class Smoothed(NamedTuple):
    """A curve over n points: what is fitted to their scores, and how."""

    score: np.ndarray  # (n,) by which to choose; where there is no fit, the scores themselves
    smoother: np.ndarray  # (n, n): fit = smoother @ scores
    residual: float  # weighted squares about the fit
    df: int  # of these; 0 where there is no fit


def smoothed(rate: np.ndarray, rank: np.ndarray, score: np.ndarray, noise: float) -> Smoothed:
    """The scores (n,) of one variant at rates and ranks (n,), higher being better, smoothed as above.

    Without a known `noise` (the standard error of a point), or with too few points, they stay as they are.
    """
    n, ranks = len(score), np.unique(rank)
    as_they_are = Smoothed(score, np.eye(n), 0.0, 0)
    if not noise > 0:
        return as_they_are
    gap = np.empty(n)
    for r in ranks:
        gap[rank == r] = score[rank == r].max() - score[rank == r]
    gap /= noise
    x, size = np.log2(rate / np.exp(np.log(rate).mean())), np.log2(np.maximum(rank, 1))
    columns = [*(rank == r for r in ranks), x, x**2]
    columns += [x * (size - size.mean())] if len(ranks) > 2 else []
    design, weights = np.array(columns, float).T, (gap < COLLAPSED) / (1 + (gap / REACH) ** 2)
    kept = weights > 0
    if kept.sum() <= design.shape[1] or len(np.unique(rate[kept])) < 4:
        return as_they_are
    smoother = design @ np.linalg.pinv(np.sqrt(weights)[:, None] * design) * np.sqrt(weights)
    fit = smoother @ score
    residual = float((weights * np.square(score - fit)).sum())
    chosen, near = fit.copy(), gap < REACH
    for r in ranks:
        far = (rank == r) & ~near
        chosen[far] = np.minimum(score[far], fit[(rank == r) & near].min()) - noise
    return Smoothed(chosen, smoother, residual, int(kept.sum()) - design.shape[1])
