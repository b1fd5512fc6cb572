"""Statistics: pure functions on arrays, which know nothing of runs, variants or files."""

from analysis.stats.difference import (
    ALPHA,
    POWER,
    Difference,
    Noise,
    Spread,
    detectable,
    equivalence_p,
    holm,
    mcnemar,
    one_way,
    quantile,
    seeds_needed,
    sign_flip,
    smallest_detectable,
    t_interval,
    two_way,
    wilson,
)  # fmt: skip
from experiments.protocol import FEWEST_SEEDS

__all__ = [
    "ALPHA", "FEWEST_SEEDS", "POWER", "Difference", "Noise", "Spread", "detectable", "equivalence_p", "holm",
    "mcnemar", "one_way", "quantile", "seeds_needed", "sign_flip", "smallest_detectable", "t_interval",
    "two_way", "wilson",
]  # fmt: skip
