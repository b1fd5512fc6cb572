"""rsLoRA: rank-stabilised scaling. Kalajdzievski 2023, arXiv:2312.03732.

    W' = W + s B A,   s = alpha / sqrt(r)

With it, and only with it, outputs and gradients of an adapter neither vanish nor grow with r (theorem 3.2),
provided that the variance of A at the start does not depend on r. An axis value, not a class: every delta
takes it.

Deviations: none.
"""

import math

from variants._core.registry import register


@register("scaling", "alpha_over_sqrt_r")
def alpha_over_sqrt_r(alpha: float, r: int) -> float:
    """s = alpha / sqrt(r)."""
    return alpha / math.sqrt(r)
