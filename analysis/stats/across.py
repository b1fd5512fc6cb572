"""Statistics over several datasets and over tuning budgets: pure functions on arrays.

Seeds of different datasets are never one sample: whatever is resampled is resampled within its dataset.
"""

from collections.abc import Callable, Sequence

import numpy as np
from scipy.special import comb

from analysis.stats import ALPHA, quantile

Strata = Sequence[np.ndarray]  # one array (..., seeds) per dataset; leading axes are resamples


def iqm(scores: Strata) -> np.ndarray:
    """Interquartile mean (...) of all scores, a quarter of them cut off at each end (Agarwal et al. 2021)."""
    from scipy.stats import trim_mean  # half a second, which few reports need

    return np.asarray(trim_mean(np.concatenate(scores, axis=-1), 0.25, axis=-1))


def improvement(variant: Strata, baseline: Strata) -> np.ndarray:
    """How often (...) a run of the variant beats one of the baseline: ties half, mean over datasets."""
    signs = (np.sign(v[..., :, None] - b[..., None, :]) for v, b in zip(variant, baseline, strict=True))
    return np.asarray(np.mean([(sign.mean(axis=(-2, -1)) + 1) / 2 for sign in signs], axis=0))


def stratified(
    statistic: Callable[..., np.ndarray],
    *groups: Strata,
    rng: np.random.Generator,
    draws: int = 2000,
    unseen: float = 0.0,
) -> tuple[float, float]:
    """95% interval of statistic(*groups) from a bootstrap of the seeds within each dataset.

    The statistic gets all resamples at once, along a leading axis (draws, seeds). Their standard deviation is
    that of n - 1 of n seeds, which is corrected, and it is as sure as t with the degrees of freedom of the
    first group: the percentiles of so few seeds cover 84% to 92% where 95% was asked for.

    Args:
        statistic: maps strata (..., seeds) to values (...).
        groups: the strata of each argument.
        rng: for the resamples.
        draws: how many resamples.
        unseen: a standard error that the seeds cannot show, as where a variant won every time.
    """
    draw = lambda x: x[rng.integers(len(x), size=(draws, len(x)))]  # noqa: E731
    values = statistic(*[[draw(x) for x in group] for group in groups])
    seeds = np.array([len(x) for x in groups[0]])
    df, correction = max(int((seeds - 1).sum()), 1), seeds.min() / max(seeds.min() - 1, 1)
    half = quantile(ALPHA, df) * np.sqrt(values.var() * correction + unseen**2)
    at = float(statistic(*groups))
    return float(at - half), float(at + half)


def improvement_interval(
    variant: Strata, baseline: Strata, *, rng: np.random.Generator
) -> tuple[float, float]:
    """The interval of `improvement`, which one more seed that goes the other way would move."""
    unseen = 1 / sum(map(len, variant))
    low, high = stratified(improvement, variant, baseline, rng=rng, unseen=unseen)
    return max(low, 0.0), min(high, 1.0)


def expected_best(values: np.ndarray, k: np.ndarray) -> np.ndarray:
    """Expected validation performance: the best of k trials out of values (n,), for each k (m,) <= n.

    Drawn without replacement, which is unbiased (Tang et al. 2020): the mean at k = 1, the maximum at k = n.
    """
    n = len(values)
    i, k = np.arange(1, n + 1), np.asarray(k)[:, None]
    return np.asarray(comb(i - 1, k - 1) / comb(n, k) @ np.sort(values))


def robust_width(lr: np.ndarray, score: np.ndarray, *, within: float = 0.01) -> tuple[float, bool]:
    """Decades of the learning rate lr (n,) around the peak of score (n,) that stay `within` of it.

    Between two rates the score is taken as linear in log10 lr. The flag says that the width is a lower bound,
    because the good range reaches an end of the grid.
    """
    order = np.argsort(lr)
    x, y = np.log10(lr[order]), score[order]
    peak = int(np.argmax(y))
    floor = y[peak] - within
    ends, open_ended = [], False
    for step in (-1, 1):
        i = peak
        while 0 <= i + step < len(x) and y[i + step] >= floor:
            i += step
        if not 0 <= i + step < len(x):
            open_ended = True
            ends.append(x[i])
        else:
            ends.append(x[i] + (x[i + step] - x[i]) * (y[i] - floor) / (y[i] - y[i + step]))
    return float(ends[1] - ends[0]), open_ended
