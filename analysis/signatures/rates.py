"""LoRA+'s analyses: two learning rates. Hayou et al. 2024, arXiv:2402.12354, figures 2 to 4.

On the grid of (lr_A, lr_B) the diagonal is plain LoRA; the paper finds the best cells above it, at lr_B >>
lr_A.
"""

from typing import NamedTuple

import numpy as np


class HeatMap(NamedTuple):
    """The best cell of a grid of two rates, the best on its diagonal, and the gap.

    `ratios` are those of the top cells.
    """

    best: tuple[float, float]
    best_value: float
    diagonal: tuple[float, float]
    diagonal_value: float
    gap: float
    ratios: np.ndarray


def heat_map(lr_A: np.ndarray, lr_B: np.ndarray, value: np.ndarray, *, top: int = 4) -> HeatMap:
    """What a grid says: value (len(lr_A), len(lr_B)), more is better, NaN where a cell diverged."""
    filled = np.where(np.isnan(value), -np.inf, value)
    a, b = np.unravel_index(np.argmax(filled), filled.shape)
    same = [(i, j) for i in range(len(lr_A)) for j in range(len(lr_B)) if np.isclose(lr_A[i], lr_B[j])]
    if not same:
        raise ValueError("the grid has no cell with lr_A = lr_B, so it holds no plain LoRA to compare with")
    i, j = max(same, key=lambda cell: filled[cell])
    order = np.argsort(-filled, axis=None)[:top]
    rows, columns = np.unravel_index(order, filled.shape)
    return HeatMap(
        (float(lr_A[a]), float(lr_B[b])),
        float(filled[a, b]),
        (float(lr_A[i]), float(lr_B[j])),
        float(filled[i, j]),
        float(filled[a, b] - filled[i, j]),
        lr_B[columns] / lr_A[rows],
    )


def speed_up(steps: np.ndarray, plain: np.ndarray, variant: np.ndarray) -> float | None:
    """Steps of plain LoRA to its own final loss over the variant's to the same; None if it never gets there.

    The curves (steps,) are losses at `steps`, both at tuned rates; a value counts as reached when it stays
    reached on average from there on, so that one lucky batch is no arrival.
    """
    goal = plain[-1]
    arrived = [s for k, s in enumerate(steps) if variant[k] <= goal and variant[k:].mean() <= goal]
    reached = [s for k, s in enumerate(steps) if plain[k] <= goal and plain[k:].mean() <= goal]
    return float((reached[0] if reached else steps[-1]) / arrived[0]) if arrived else None
