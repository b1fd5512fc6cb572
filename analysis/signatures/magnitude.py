"""DoRA's analysis: magnitude against direction. Liu et al. 2024, arXiv:2402.09353, section 3.2 and figure 2.

    Delta M^t = mean_n | ||w_n^t|| - ||w_n^0|| |         Delta D^t = mean_n (1 - cos(w_n^t, w_n^0))

over the unit n that DoRA gives a magnitude: a row of W, one per output. Published correlations on the query
matrices of VL-BART: full fine-tuning -0.62, LoRA +0.83, DoRA -0.31. Pooling checkpoints alone makes the
correlation positive, because both grow with time; it is therefore also given per checkpoint.
"""

from typing import NamedTuple

import numpy as np


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
