"""LoRA's analyses of the learned change. Hu et al. 2021, arXiv:2106.09685, section 7 and appendices G, H.

    phi(U, V, i, j) = ||U_i^T V_j||_F^2 / min(i, j)     in [0, 1]; U_i: the first i columns of U    (eq. 4)
    1 - phi = d^2 / p, with d the projection metric and p = min(i, j) (appendix G prints it inverted)
    amplification = ||D||_F / ||U^T W0 V||_F            U, V: top singular vectors of D = W - W0   (table 7)

For a factor A (r, d_in) the d-dimensional singular vectors are the right ones. A starts at random and keeps
its initial part under a small learning rate, so two runs are better compared by the right singular vectors of
D, or by A - A0.
"""

import numpy as np


def right_vectors(A: np.ndarray, *, rank: int | None = None) -> np.ndarray:
    """The right singular vectors of A (m, d) as columns (d, rank), strongest first."""
    vectors = np.linalg.svd(A, full_matrices=False)[2].T
    return vectors[:, :rank]


def left_vectors(A: np.ndarray, *, rank: int | None = None) -> np.ndarray:
    """The left singular vectors of A (d, m) as columns (d, rank), strongest first."""
    return np.linalg.svd(A, full_matrices=False)[0][:, :rank]


def similarity(U: np.ndarray, V: np.ndarray) -> np.ndarray:
    """phi (i, j) for all i, j from 1 on, of two sets of orthonormal columns (d, i), (d, j)."""
    shared = np.square(U.T @ V).cumsum(axis=0).cumsum(axis=1)
    i, j = np.indices(shared.shape) + 1
    return np.asarray(shared / np.minimum(i, j))


def similarity_by_chance(i: int, j: int, d: int) -> float:
    """The expected phi of two random subspaces of dimensions i and j in d dimensions."""
    return max(i, j) / d


def amplification(change: np.ndarray, W0: np.ndarray, rank: int) -> float:
    """How much the change (d_out, d_in) amplifies directions of W0 that W0 itself does not emphasise."""
    U, V = left_vectors(change, rank=rank), right_vectors(change, rank=rank)
    return float(np.linalg.norm(change) / projected(W0, U, V))


def projected(W0: np.ndarray, U: np.ndarray, V: np.ndarray) -> float:
    """||U^T W0 V||_F for orthonormal columns U (d_out, r), V (d_in, r)."""
    return float(np.linalg.norm(U.T @ W0 @ V))


def controls(W0: np.ndarray, rank: int, *, rng: np.random.Generator) -> tuple[float, float]:
    """||U^T W0 V||_F for the top `rank` directions of W0 itself, and for random ones."""
    top = np.linalg.svd(W0, compute_uv=False)[:rank]
    U, V = (random_directions(d, rank, rng=rng) for d in W0.shape)
    return float(np.linalg.norm(top)), projected(W0, U, V)


def projected_by_chance(norm: float, rank: int, d_out: int, d_in: int) -> float:
    """The root mean square of the random control, for a W0 of Frobenius norm `norm`."""
    return float(norm * rank / np.sqrt(d_out * d_in))


def random_directions(d: int, rank: int, *, rng: np.random.Generator) -> np.ndarray:
    """Random orthonormal columns (d, rank)."""
    return np.linalg.qr(rng.standard_normal((d, rank)))[0]


def against_base(change: np.ndarray, W0: np.ndarray, *, share: float = 0.1) -> np.ndarray:
    """phi between the top right directions of W0, a `share` of them, and those of the change."""
    top = max(1, int(share * min(W0.shape)))
    return similarity(right_vectors(W0, rank=top), right_vectors(change, rank=numerical_rank(change)))


def numerical_rank(change: np.ndarray) -> int:
    """The rank above rounding error, at least 1."""
    return max(1, int(np.linalg.matrix_rank(change)))


def effective_rank(change: np.ndarray) -> tuple[float, float]:
    """The entropy rank exp(H(sigma / sum sigma)) and the stable rank ||D||_F^2 / ||D||_2^2 of a change."""
    sigma = np.linalg.svd(change, compute_uv=False)
    p = sigma[sigma > 0] / sigma.sum()
    return float(np.exp(-(p * np.log(p)).sum())), float(np.square(sigma).sum() / sigma[0] ** 2)
