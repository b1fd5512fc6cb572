"""MiLoRA: minor singular component adaptation. Wang et al. 2024, arXiv:2406.09044.

    W = U diag(S) V^T = W_p + W_m        W_m: the r weakest triplets, W_p: the others         (section 3)
    A = sqrt(S_m) V_m^T,   B = U_m sqrt(S_m)
    y = (W_p + B A) x

    symbol    name   shape            role
    A         A      (K, r, d_in)     in
    B         B      (K, d_out, r)    out
    W_m       A0 B0  as A and B       frozen   A and B of the start

Deviations: the last equation has no scale; here S_m is divided by s, so that s B A is W_m at any alpha. W_p
is not formed, it is W - s B0 A0, so that runs share W.
"""

from typing import ClassVar

from torch import Tensor

from variants._core.base import Base
from variants._core.init import Init, Start, svd_of
from variants._core.registry import register
from variants._core.run import Slot


@register("init", "milora")
class MiLoRA(Init):
    """The weakest singular triplets of W learn, the rest of W stays."""

    subtracts: ClassVar = True

    @staticmethod
    def start(slot: Slot, base: Base, seen: Tensor) -> Start:
        """The r weakest triplets, shared out evenly."""
        return svd_of(base, slot.rank, weakest=True).split(slot.scale)
