"""LoRA-XS: a small trained matrix between frozen singular vectors. Balazy et al. 2024, arXiv:2405.17604.

    W' = W + s B R A,   A = S_r V_r^T,   B = U_r,   s = alpha / r      of W = U S V^T, its r largest

    symbol   name   shape            role
    A        A      (K, r, d_in)     frozen   singular values times right singular vectors
    B        B      (K, d_out, r)    frozen   left singular vectors
    R        R      (K, r, r)        diag     zero

The singular values are on the side of the input, as in the authors' code. Trained parameters: r^2 a map.

Deviations: R starts at zero, not at N(0, 1e-5^2), so that W' = W. A base in 4 bits is decomposed as it is
dequantised. A and B are kept with the run: another machine's decomposition may turn them.
"""

from collections.abc import Sequence
from typing import ClassVar

import torch

from variants._core.base import Base
from variants._core.delta import Clock, Delta
from variants._core.init import svd_of
from variants._core.lowrank import Factors
from variants._core.registry import register
from variants._core.run import Slot


@register("delta", "lora_xs")
class LoRAXS(Delta):
    """W' = W + s B R A."""

    roles: ClassVar = {"R": "diag"}
    shapes: ClassVar = {"R": "r r"}
    frozen: ClassVar = {"A": "saved", "B": "saved"}

    def __init__(self, base: Base, slots: Sequence[Slot], *, clock: Clock) -> None:
        super().__init__(base, slots, clock=clock)
        r, runs = slots[0].rank, len(slots)
        svd = svd_of(base, r)
        self.A = self.fixed([svd.S[:, None] * svd.V.mT] * runs, base)
        self.B = self.fixed([svd.U] * runs, base)
        self.R = self.stacked([torch.zeros(r, r)] * runs, base)

    def factors(self, base: Base) -> Factors:
        """R goes with B, so that the input of the layer is not kept for the backward pass."""
        return Factors(self.A, self.B @ self.R, self.scale if self.number is None else self.number)
