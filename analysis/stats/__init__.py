"""Statistics: pure functions on arrays, which know nothing of runs, variants or files."""

from analysis.stats.difference import (
    ALPHA,
    POWER,
    Difference,
    Noise,
    Spread,
    detectable,
    equivalence_p,
    mcnemar,
    mean_noise,
    no_dust,
    one_way,
    quantile,
    seeds_needed,
    sign_flip,
    smallest_detectable,
    t_interval,
    two_way,
    wilson,
)  # fmt: skip
from analysis.stats.families import holm, within_tree
from analysis.stats.pooling import moderated
from experiments.protocol import FEWEST_SEEDS

__all__ = [
    "ALPHA", "FEWEST_SEEDS", "POWER", "Difference", "Noise", "Spread", "detectable", "equivalence_p",
    "holm", "mcnemar", "mean_noise", "moderated", "no_dust", "one_way", "quantile", "seeds_needed",
    "sign_flip", "smallest_detectable", "t_interval", "two_way", "wilson", "within_tree",
]  # fmt: skip
