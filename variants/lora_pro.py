"""LoRA-Pro: A and B move W as full fine-tuning would. Wang et al. 2024, arXiv:2407.18242.

    g^A <- (1/s^2) (B^T B)^-1 g^A + X A                                  (theorem 2.1)
    g^B <- (1/s^2) (I - B (B^T B)^-1 B^T) g^B (A A^T)^-1 - B X
    B^T B X + X A A^T = -(1/s^2) (B^T B)^-1 g^A A^T                      (theorem 2.3)

    symbol   shape
    A, B     (K, r, d_in), (K, d_out, r)
    s        (K, 1, 1)
    X        (K, r, r)      free in what W does; this one keeps both gradients closest to what they were

The change of W that they mean, s B g^A + s g^B A, is the full gradient's projection on what A and B can
reach, which X does not alter.

Deviations: the gradients are rewritten between clipping and Adam, whose moments are those of the factors; the
paper's AdamW keeps moments of the full-size gradient, d_out x d_in, and projects its step. Gram matrices
carry the delta I of riemannian.py, as B is zero at the start.
"""

import torch
from torch import Tensor

from variants._core.registry import register
from variants.riemannian import damped


@register("gradient", "lora_pro")
def lora_pro(A: Tensor, B: Tensor, dA: Tensor, dB: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
    """The rewritten gradients of A and B."""
    BB, AA = damped(B.mT @ B), damped(A @ A.mT)
    of_A = torch.linalg.solve_ex(BB, dA)[0] / s**2
    inside = B @ torch.linalg.solve_ex(BB, B.mT @ dB)[0]
    of_B = torch.linalg.solve_ex(AA, (dB - inside).mT)[0].mT / s**2
    X = sylvester(BB, AA, -of_A @ A.mT)
    return of_A + X @ A, of_B - B @ X


def sylvester(P: Tensor, Q: Tensor, C: Tensor) -> Tensor:
    """X of P X + X Q = C, for symmetric positive P and Q (K, r, r). NaN where a run's own are not finite."""
    finite = (P.isfinite() & Q.isfinite()).flatten(1).all(1)[:, None, None]
    eye = torch.eye(P.shape[-1], dtype=P.dtype, device=P.device)
    p, U = torch.linalg.eigh(torch.where(finite, P, eye))
    q, V = torch.linalg.eigh(torch.where(finite, Q, eye))
    X = U @ ((U.mT @ C @ V) / (p[:, :, None] + q[:, None])) @ V.mT
    return torch.where(finite, X, torch.nan)
