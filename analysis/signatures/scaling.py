"""rsLoRA's analysis: does learning depend on the rank? Kalajdzievski 2023, arXiv:2312.03732.

With s = alpha / r^beta the gradient of B at the start has entries of order s sqrt(r), so its Frobenius norm
grows like s sqrt(r) too (B is (d_out, r) and the entries shrink alike): the slope of log ||grad_B|| against
log r is 1/2 - beta: -1/2 for alpha / r, 0 for alpha / sqrt(r).
"""

from typing import NamedTuple

import numpy as np

from analysis.stats import quantile


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
