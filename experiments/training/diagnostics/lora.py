"""LoRA's questions: which directions does the change use? Hu et al. 2021, arXiv:2106.09685, section 7.

    amplification = ||D||_F / ||U^T W V||_F     U, V: top singular vectors of D = W' - W      (table 7)

with two controls, U and V of W itself and random ones, and the right singular vectors of D and of A for
comparing subspaces (figures 3, 4 and 8). The right ones, as they live in the input space that runs of all
ranks share.
"""

from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from experiments.training.diagnostics import matrices
from experiments.training.diagnostics.matrices import Change
from variants import Attached

MOST = 12  # matrices of a run
WITHOUT_RANK = 8  # top directions of a change that has no rank of its own
VECTORS = 64  # singular vectors kept of a change
TOP_OF_BASE = 0.1  # share of W's directions that the change is compared with
LARGEST = 1024  # smaller side of a matrix whose whole spectrum is worked out


class Svd(NamedTuple):
    """U (d_out, k), sigma (k,), V (d_in, k), strongest first."""

    U: Tensor
    sigma: Tensor
    V: Tensor


def arrays(attached: Attached, k: int, *, seed: int) -> dict[str, Any]:
    """The arrays `change/*` and `vectors/*` of run k; none where no matrix is trained."""
    sample = matrices.spread(matrices.names(attached, k), MOST)
    rows: list[dict[str, Any]] = []
    vectors: dict[str, Any] = {}
    kept = set(matrices.spread(sample, 1))
    draw = torch.Generator().manual_seed(seed)
    for change in matrices.changes(attached, k, sample):
        svd = decomposed(change)
        if svd is None or not svd.sigma[0] > 0:
            continue
        base = right_of_base(change.W)
        rank = min(change.rank or WITHOUT_RANK, numerical_rank(svd.sigma))
        rows.append(amplified(change, svd, base, rank=rank, draw=draw))
        if change.name in kept:
            place = sum(name.endswith("/change") for name in vectors)
            vectors |= _vectors(change, svd, base, rank=rank, place=place)
    if not rows:
        return {}
    width = max(len(row["sigma"]) for row in rows)
    for row in rows:
        row["sigma"] = np.pad(row["sigma"], (0, width - len(row["sigma"])))
    common = [name for name in rows[0] if all(name in row for row in rows)]
    out = {f"change/{name}": np.array([row[name] for row in rows]) for name in common}
    names = [row["names"] for row in rows if row["names"] in kept]
    return out | vectors | {"vectors/names": np.array(names)}


def decomposed(change: Change) -> Svd | None:
    """The singular value decomposition of a change, by its factors where it has some.

    None where it has none and is too large.
    """
    if change.A is not None and change.B is not None:
        (Q, R), (P, S) = torch.linalg.qr(change.B), torch.linalg.qr(change.A.T)
        U, sigma, Vt = torch.linalg.svd(R @ S.T)
        return Svd(Q @ U, sigma, P @ Vt.T)
    if min(change.W.shape) > LARGEST:
        return None
    U, sigma, Vt = torch.linalg.svd(change.dense.float(), full_matrices=False)
    return Svd(U.double(), sigma.double(), Vt.T.double())


def right_of_base(W: Float[Tensor, "d_out d_in"]) -> tuple[Tensor, Tensor] | None:
    """All singular values of W and its right singular vectors, strongest first; None if it is too large.

    By the eigenvectors of W^T W (or W W^T): half the digits, which is plenty for the top directions.
    """
    if min(W.shape) > LARGEST:
        return None
    wide = W.shape[1] > W.shape[0]
    small = (W @ W.T if wide else W.T @ W).float()
    squares, vectors = torch.linalg.eigh(small)
    squares, vectors = squares.flip(0).clamp_min(0).double(), vectors.flip(1).double()
    if wide:
        vectors = W.T @ vectors
        vectors = vectors / vectors.norm(dim=0).clamp_min(1e-30)
    return squares.sqrt(), vectors


def amplified(
    change: Change, svd: Svd, base: tuple[Tensor, Tensor] | None, *, rank: int, draw: torch.Generator
) -> dict[str, Any]:
    """One row of the arrays `change/*`, from the top `rank` directions."""
    W, (U, _, V) = change.W, svd
    row = {
        "names": change.name,
        "rank": rank,
        "sigma": svd.sigma.float().cpu().numpy(),
        "norm": float(svd.sigma.norm()),
        "base_norm": float(W.norm()),
        "projected": projected(W, U[:, :rank], V[:, :rank]),
        "random": projected(W, *(random_directions(d, rank, draw=draw).to(W) for d in W.shape)),
    }
    return row if base is None else row | {"top": float(base[0][:rank].norm())}


def projected(W: Tensor, U: Tensor, V: Tensor) -> float:
    """||U^T W V||_F for orthonormal columns U (d_out, r), V (d_in, r)."""
    return float((U.T @ W @ V).norm())


def random_directions(d: int, rank: int, *, draw: torch.Generator) -> Float[Tensor, "d rank"]:
    """Random orthonormal columns."""
    return torch.linalg.qr(torch.randn(d, rank, generator=draw, dtype=torch.float64))[0]


def numerical_rank(sigma: Tensor) -> int:
    """How many singular values are above rounding error in float32, at least 1."""
    return max(1, int((sigma > sigma[0] * len(sigma) * torch.finfo(torch.float32).eps).sum()))


def _vectors(
    change: Change, svd: Svd, base: tuple[Tensor, Tensor] | None, *, rank: int, place: int
) -> dict[str, np.ndarray]:
    V = svd.V[:, : min(VECTORS, rank)]
    found = {"change": V}
    if change.A is not None:
        found["A"] = torch.linalg.svd(change.A, full_matrices=False)[2].T[:, :VECTORS]
    if base is not None:
        top = max(1, int(TOP_OF_BASE * min(change.W.shape)))
        found["base"] = base[1][:, :top].T @ V
    return {f"vectors/{place}/{name}": value.half().cpu().numpy() for name, value in found.items()}
