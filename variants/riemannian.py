"""Riemannian preconditioned LoRA. Zhang & Pilanci 2024, arXiv:2402.02347.

    grad_A <- (B^T B + delta I)^-1 grad_A          (eq. 2, r x r)
    grad_B <- grad_B (A A^T + delta I)^-1

    symbol   shape
    A, B     (K, r, d_in), (K, d_out, r)
    delta    a number: 1e-6

Its Adam form feeds the scaled gradients to both moments: they are rewritten between clipping and Adam.

Deviations: A and B are scaled by each other as both were before the step. The authors' code scales grad_B by
the A already updated, and leaves a gradient alone where a factor is
singular; here the paper's delta I serves.
"""

import torch
from torch import Tensor

from variants._core.registry import register

DELTA = 1e-6


def damped(gram: Tensor) -> Tensor:
    """A Gram matrix (K, r, r) plus delta I."""
    return gram + DELTA * torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)


@register("gradient", "riemannian")
def riemannian(A: Tensor, B: Tensor, dA: Tensor, dB: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
    """The rewritten gradients of A and B."""
    of_A = torch.linalg.solve_ex(damped(B.mT @ B), dA)[0]  # a run that diverged stays NaN and alone
    of_B = torch.linalg.solve_ex(damped(A @ A.mT), dB.mT)[0].mT
    return of_A, of_B
