"""LoRA's analyses of the learned change. Hu et al. 2021, arXiv:2106.09685, section 7 and appendices G, H.

    phi(U, V, i, j) = ||U_i^T V_j||_F^2 / min(i, j)     in [0, 1]; U_i: the first i columns of U    (eq. 4)
    1 - phi = d^2 / p, with d the projection metric and p = min(i, j) (appendix G prints it inverted)

For a factor A (r, d_in) the d-dimensional singular vectors are the right ones. A starts at random and keeps
its initial part under a small learning rate, so two runs are better compared by the right singular vectors of
the change D = W' - W.
"""

import numpy as np


def similarity(U: np.ndarray, V: np.ndarray) -> np.ndarray:
    """phi (i, j) for all i, j from 1 on, of two sets of orthonormal columns (d, i), (d, j)."""
    return similarity_of(U.T @ V)


def similarity_of(products: np.ndarray) -> np.ndarray:
    """The same from the products U^T V (i, j) of the columns."""
    shared = np.square(products).cumsum(axis=0).cumsum(axis=1)
    i, j = np.indices(shared.shape) + 1
    return np.asarray(shared / np.minimum(i, j))


def similarity_by_chance(i: int, j: int, d: int) -> float:
    """The expected phi of two random subspaces of dimensions i and j in d dimensions."""
    return max(i, j) / d


def entropy_rank(sigma: np.ndarray) -> float:
    """The effective rank exp(H(sigma / sum sigma)) of a matrix with singular values sigma (k,)."""
    p = sigma[sigma > 0] / sigma.sum()
    return float(np.exp(-(p * np.log(p)).sum()))


def stable_rank(sigma: np.ndarray) -> float:
    """||D||_F^2 / ||D||_2^2 from the singular values (k,)."""
    return float(np.square(sigma).sum() / np.square(sigma.max()))
