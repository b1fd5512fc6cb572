"""The noise between seeds of several variants, taken together where it is the same.

Three seeds tell little of a variance, six variants with three seeds each a good deal more. Scores y_vs of V
variants (the baseline among them) with S seeds, every seed in every variant:

    y_vs = m_v + a_s + e_vs        MS = sum_vs (y_vs - y_v. - y_.s + y_..)^2 / ((V-1)(S-1))

A difference of two variants has the variance 2 MS / S with (V-1)(S-1) degrees of freedom (randomised blocks).
Each comparison keeps a share of its own variance, ((V-1) 2 MS + own) / V, which costs no power where all are
alike and takes half the harm out of unequal ones (moderated, as Smyth 2004 does with thousands of them).

A variant that is clearly noisier is left out and keeps its own variance and degrees of freedom; if that is
the baseline, every comparison does. Its contrast with the mean of the others against their residuals is an
exact F test, made over all ranks at once: at R ranks it has R(S-1) and (V-2)R(S-1) degrees of freedom. Its
level, min(`SUSPECT`, 1 / (R(S-1))^2), falls as the own variance gets known. Below `KNOWN` of these degrees,
as at one rank with five seeds, a variant that looks noisier often is so by chance: it keeps its own
variance, and the others' is pooled with it, which is careful.
"""

import numpy as np
from scipy import special

SUSPECT = 0.05
KNOWN = 5  # degrees of freedom of a variant's own variance, below which it is pooled whatever it is


def moderated(scores: np.ndarray) -> list[tuple[float, float]]:
    """The variance of the mean difference of each variant to the first, and its degrees of freedom.

    Args:
        scores: (V, R, S) of variants, the baseline first, at R ranks with S > 1 seeds.
    """
    means = scores.mean(axis=1)
    (V, S), differences = means.shape, means[1:] - means[0]
    own = differences.var(axis=1, ddof=1)
    kept = ~_noisier(scores) if V > 2 else np.zeros(V, bool)
    if not kept[0] or kept.sum() < 3:
        return [(float(variance) / S, S - 1) for variance in own]
    inside = kept if scores.shape[1] * (S - 1) >= KNOWN else np.ones(V, bool)
    n = int(inside.sum())
    df = (n - 1) * (S - 1)
    pooled = 2 * np.square(_residuals(means[inside])).sum() / df
    return [
        (float((n - 1) * pooled + variance) / (n * S), df) if equal else (float(variance) / S, S - 1)
        for variance, equal in zip(own, kept[1:], strict=True)
    ]


def _residuals(scores: np.ndarray) -> np.ndarray:
    """Scores (V, ..., S) without the means of variants and of seeds."""
    out = scores - scores.mean(axis=0)
    return np.asarray(out - out.mean(axis=-1, keepdims=True))


def _noisier(scores: np.ndarray) -> np.ndarray:
    """Which of the variants (V, R, S) vary clearly more than the others (V,)."""
    V, R, S = scores.shape
    squares = np.square(_residuals(scores)).sum(axis=(1, 2))
    contrast, df = squares * V / (V - 1), R * (S - 1)
    rest = np.maximum(squares.sum() - contrast, np.finfo(float).tiny) / ((V - 2) * df)
    level = min(SUSPECT, 1 / df**2)
    return np.asarray(special.fdtrc(df, (V - 2) * df, contrast / df / rest) < level)
