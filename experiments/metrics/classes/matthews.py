"""Matthews' correlation for any number of classes, as a module of `evaluate`.

Gorodkin 2004, doi:10.1016/j.compbiolchem.2004.09.006:

    (c s - sum_k p_k t_k) / sqrt(s^2 - sum_k p_k^2) / sqrt(s^2 - sum_k t_k^2)

    c   correct predictions     s   all predictions     p_k, t_k   how often class k is predicted, is true

0 where it is not defined: all predictions, or all references, are of one class.
"""

import math
from collections import Counter

from experiments.metrics import _base


class Matthews(_base.Metric):
    """The correlation of predictions and references, from -1 to 1; 0 is chance."""

    def _compute(self, predictions: list[int], references: list[int]) -> dict[str, float]:
        c, s = sum(p == r for p, r in zip(predictions, references, strict=True)), len(references)
        p, t = Counter(predictions), Counter(references)
        covariance = c * s - sum(p[k] * t[k] for k in t)
        spread = (s**2 - sum(n**2 for n in p.values())) * (s**2 - sum(n**2 for n in t.values()))
        return {"matthews": covariance / math.sqrt(spread) if spread else 0.0}
