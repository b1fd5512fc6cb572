"""OLoRA: orthonormal low-rank adaptation. Büyükakyüz 2024, arXiv:2406.01775.

    W = Q R                                                    Q orthonormal, R upper triangular
    B = Q_r,   A = R_r                                         the first r columns and rows
    W <- W - s B A,   y = (W + s B A) x

    symbol    name   shape            role
    R_r       A      (K, r, d_in)     in
    Q_r       B      (K, d_out, r)    out
    s B A     A0 B0  as A and B       frozen   A and B of the start

Deviations: the diagonal of R is positive, which settles the signs. W - s B0 A0 is not formed, so that runs
share W.
"""

from typing import ClassVar

import torch
from torch import Tensor

from variants._core.base import Base
from variants._core.init import Init, Start
from variants._core.registry import register
from variants._core.run import Slot


@register("init", "olora")
class OLoRA(Init):
    """B starts with orthonormal columns that span the first r columns of W."""

    subtracts: ClassVar = True

    @staticmethod
    def start(slot: Slot, base: Base, seen: Tensor) -> Start:
        """The first r columns of Q and rows of R."""
        Q, R = torch.linalg.qr(base.weight(torch.float64))
        signs = torch.where(R.diagonal() < 0, -1.0, 1.0)
        return Start(signs[: slot.rank, None] * R[: slot.rank], Q[:, : slot.rank] * signs[: slot.rank])
