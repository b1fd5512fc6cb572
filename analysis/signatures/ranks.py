"""AdaLoRA's analyses: where the rank goes. Zhang et al. 2023, arXiv:2303.10512, section 4.4 and figure 3.

A triplet is alive while its singular value is not zero; the final rank of a matrix is the number of its
living triplets.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from scipy import stats


def final_ranks(values: Mapping[str, np.ndarray]) -> dict[str, int]:
    """The number of living triplets of each matrix, from its singular values (r,)."""
    return {name: int(np.count_nonzero(value)) for name, value in values.items()}


def grid(
    ranks: Mapping[str, int], place: Mapping[str, tuple[str, int]]
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


def planned_budget(
    step: np.ndarray, *, start: int, target: int, begin: int, settle: int, steps: int
) -> np.ndarray:
    """The cubic schedule b(t) of living triplets: `start` to step `begin`, `target` from steps - settle."""
    done = np.clip((step - begin) / max(1, steps - settle - begin), 0, 1)
    return np.floor(np.where(step < begin, start, target + (start - target) * (1 - done) ** 3)).astype(int)


def reactivations(alive: np.ndarray) -> int:
    """How often a triplet that was off is on at the next mask; alive: bool (masks, triplets)."""
    return int((~alive[:-1] & alive[1:]).sum())


def orthogonality(P: np.ndarray) -> float:
    """||P^T P - I||_F of a factor P (d, r): how far its columns are from orthonormal (eq. 4)."""
    return float(np.linalg.norm(P.T @ P - np.eye(P.shape[1])))


def agreement(first: Mapping[str, int], second: Mapping[str, int]) -> float:
    """Spearman's correlation of two rank patterns over the matrices that both have, e.g. at two budgets."""
    names: Sequence[str] = sorted(set(first) & set(second))
    return float(stats.spearmanr([first[n] for n in names], [second[n] for n in names]).statistic)
