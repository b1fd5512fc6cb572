"""PiSSA: principal singular values and singular vectors adaptation. Meng et al. 2024, arXiv:2404.02948.

    W = U diag(S) V^T                                          S descending
    A = sqrt(S_r) V_r^T,   B = U_r sqrt(S_r)                   (eq. 2, 3)   the r strongest triplets
    W_res = U_rest diag(S_rest) V_rest^T                       (eq. 4)
    y = (W_res + A B) x                                        (eq. 5)

    symbol    name   shape            role
    A         A      (K, r, d_in)     in       the paper's B, as it writes x W
    B         B      (K, d_out, r)    out      the paper's A
    W - W_res A0 B0  as A and B       frozen   A and B of the start

Deviations: the paper has no scale (s = 1); here S_r is divided by s, so that s B A is its A B at any alpha.
W_res is not formed, it is W - s B0 A0, so that runs share W; of a base in 4 bits the dequantised W is
decomposed, where QPiSSA quantises W_res.
"""

from typing import ClassVar

from torch import Tensor

from variants._core.base import Base
from variants._core.init import Init, Start, svd_of
from variants._core.registry import register
from variants._core.run import Slot


@register("init", "pissa")
class PiSSA(Init):
    """The strongest singular triplets of W learn, the rest of W stays."""

    subtracts: ClassVar = True

    @staticmethod
    def start(slot: Slot, base: Base, seen: Tensor) -> Start:
        """Equations 2 and 3."""
        return svd_of(base, slot.rank).split(slot.scale)
