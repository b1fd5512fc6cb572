"""LoftQ: LoRA-fine-tuning-aware quantization. Li et al. 2023, arXiv:2310.08659.

    minimise ||W - Q - B A||_F                                 (eq. 6)
    Q_t = q(W - B_{t-1} A_{t-1}),   B_0 A_0 = 0                (eq. 7)
    B_t A_t = the r strongest singular triplets of W - Q_t     (eq. 8, 9)
    y = (Q_T + B_T A_T) x

    symbol   name   shape            role
    A_T      A      (K, r, d_in)     in       sqrt(S_r) V_r^T
    B_T      B      (K, d_out, r)    out      U_r sqrt(S_r)

The run starts nearer to the W that quantising changed, not at Q.

Deviations: T = 1, the paper's special case and PEFT's default: then Q = q(W) is what every run stores, and
runs of any rank share it. From T = 2 on Q depends on the rank: each run would keep a base of its own, and its
adapter would be right on no base that others can quantise; docs/methods.md has what T = 5 would gain. S_r is
divided by s, so that s B A is the paper's A B^T at any alpha (PEFT leaves s out, and is right at alpha = r
only).
"""

from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from variants._core.base import Base
from variants._core.init import Init, Start, svd
from variants._core.registry import register
from variants._core.run import Slot


@register("init", "loftq")
class LoftQ(Init):
    """s B A starts as the best approximation of what the storage lost of W."""

    needs: ClassVar = "dense"

    @staticmethod
    def start(slot: Slot, base: Base, seen: Float[Tensor, "d_out d_in"]) -> Start:
        """Equations 7 to 9 for t = 1; `seen` is W before it was stored."""
        lost = seen.double() - base.weight(torch.float64)
        if not lost.any():
            raise ValueError(
                f"init=loftq starts with what the storage loses of W, and at {slot.name} it loses nothing: "
                "set variant.storage=nf4 (or fp4, int4, bf16), or variant.init=pissa."
            )
        return svd(lost).part(slot.rank).split(slot.scale)
