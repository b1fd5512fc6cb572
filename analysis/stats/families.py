"""Many comparisons: adjusted p values, so that one wrong claim among all is as rare as one alone."""

from collections.abc import Sequence

import numpy as np


def holm(p: np.ndarray) -> np.ndarray:
    """Holm's adjusted p values of a family p (m,), in the order given."""
    return within_tree(p, np.full(len(p), -1))


def within_tree(p: np.ndarray, parent: Sequence[int] | np.ndarray) -> np.ndarray:
    """Adjusted p values of a tree of hypotheses: one is tested once the one above it is rejected.

    The level is shared equally between the roots, a rejected hypothesis hands its share to those below it,
    and what lies in a branch that is rejected as a whole goes to the other branches (the inheritance
    procedure of Goeman and Finos 2012). A share depends on what is rejected alone, and grows with it, so
    that any wrong rejection in the whole tree has at most the level's probability, whichever hypotheses are
    true. Without branches this is Holm's method.

    Args:
        p: of the hypotheses (m,); 0 for one that only groups others.
        parent: the index of the hypothesis above each, -1 for none (m,).
    """
    below: dict[int, list[int]] = {}
    for i, above in enumerate(parent):
        below.setdefault(int(above), []).append(i)
    adjusted, rejected, level = np.ones(len(p)), np.zeros(len(p), bool), 0.0

    def unfinished(i: int) -> bool:
        return not rejected[i] or any(map(unfinished, below.get(i, ())))

    def shared(nodes: Sequence[int], share: float) -> dict[int, float]:
        nodes = [i for i in nodes if unfinished(i)]
        out: dict[int, float] = {}
        for i in nodes:
            part = share / len(nodes)
            out |= shared(below[i], part) if rejected[i] else {i: part}
        return out

    while shares := shared(below.get(-1, ()), 1.0):
        first = min(shares, key=lambda i: p[i] / shares[i])
        level = max(level, float(p[first] / shares[first]))
        if level >= 1:
            break
        adjusted[first], rejected[first] = level, True
    return adjusted
