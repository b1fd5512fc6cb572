"""DoRA's question: how far did magnitude and direction move? Liu et al. 2024, arXiv:2402.09353, sec. 3.2.

    Delta M = mean_n | ||w'_n|| - ||w_n|| |         Delta D = mean_n (1 - cos(w'_n, w_n))

over the unit n that DoRA gives a magnitude: a row of W, one per output.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from experiments.training.diagnostics import matrices
from variants import Attached

MOST = 48  # matrices of a run


def names(attached: Attached, k: int) -> list[str]:
    """The matrices of run k whose movement is followed."""
    return matrices.spread(matrices.names(attached, k), MOST)


def moved(attached: Attached, k: int) -> dict[str, Tensor]:
    """Delta M and Delta D of run k's matrices so far, each (M,); nothing where no matrix is trained."""
    pairs = [magnitude_and_direction(c.after, c.W) for c in matrices.changes(attached, k, names(attached, k))]
    if not pairs:
        return {}
    magnitude, direction = zip(*pairs, strict=True)
    return {"magnitude": torch.stack(magnitude), "direction": torch.stack(direction)}


def magnitude_and_direction(
    after: Float[Tensor, "d_out d_in"], W: Float[Tensor, "d_out d_in"]
) -> tuple[Tensor, Tensor]:
    """(Delta M, Delta D). 1 - cos is taken as half the squared distance of the unit rows, exact near 0."""
    m, m0 = after.norm(dim=1), W.norm(dim=1)
    apart = after / m[:, None] - W / m0[:, None]
    return (m - m0).abs().mean(), apart.square().sum(dim=1).mean() / 2
