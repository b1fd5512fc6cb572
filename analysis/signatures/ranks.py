"""AdaLoRA's analyses: where the rank goes. Zhang et al. 2023, arXiv:2303.10512, section 4.4 and figure 3.

A triplet is alive while its singular value is not zero; the final rank of a matrix is the number of its
living triplets.
"""

from collections.abc import Mapping, Sequence

import numpy as np


def grid(
    ranks: Mapping[str, float], place: Mapping[str, tuple[str, int]]
) -> tuple[list[str], list[int], np.ndarray]:
    """Final ranks as (kinds, layers, table (kinds, layers)); NaN where there is no such matrix.

    Args:
        ranks: final rank by matrix.
        place: kind of module and layer of each matrix.
    """
    kinds = list(dict.fromkeys(place[name][0] for name in ranks))
    layers = sorted({place[name][1] for name in ranks})
    table = np.full((len(kinds), len(layers)), np.nan)
    for name, rank in ranks.items():
        kind, layer = place[name]
        table[kinds.index(kind), layers.index(layer)] = rank
    return kinds, layers, table


def agreement(first: Mapping[str, float], second: Mapping[str, float]) -> float:
    """Spearman's correlation of two rank patterns over the matrices that both have, e.g. at two budgets."""
    from scipy.stats import spearmanr  # half a second, which few reports need

    names: Sequence[str] = sorted(set(first) & set(second))
    return float(spearmanr([first[n] for n in names], [second[n] for n in names]).statistic)
