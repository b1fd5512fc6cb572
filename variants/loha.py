"""LoHa: the product, entry by entry, of two low-rank matrices. Hyeon-Woo et al. 2022, arXiv:2108.06098.

    W' = W + s (B1 A1) * (B2 A2),   s = alpha / r        * entry by entry

    symbol   name     shape            role
    A1       A1       (K, r, d_in)     in     U(-1/sqrt(d_in), 1/sqrt(d_in))
    A2       A2       (K, r, d_in)     in     zero
    B1, B2   B1, B2   (K, d_out, r)    out    U(-1/sqrt(r), 1/sqrt(r))

The change has a rank of up to r^2. Trained parameters: 2 r (d_in + d_out) a map.

Deviations: the paper (FedPara) factorises whole weights that are trained from scratch; as a change of a
frozen one it is LyCORIS' LoHa. The start is PEFT's. The dense change is formed once a pass.
"""

import math
from collections.abc import Sequence
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from variants._core.base import Base
from variants._core.delta import Clock, Delta
from variants._core.registry import register
from variants._core.run import Slot
from variants._core.seeds import uniform


@register("delta", "loha")
class LoHa(Delta):
    """W' = W + s (B1 A1) * (B2 A2)."""

    roles: ClassVar = {"A1": "in", "B1": "out", "A2": "in", "B2": "out"}
    shapes: ClassVar = {"A1": "r d_in", "B1": "d_out r", "A2": "r d_in", "B2": "d_out r"}
    low_rank = False

    def __init__(self, base: Base, slots: Sequence[Slot], *, clock: Clock) -> None:
        super().__init__(base, slots, clock=clock)
        r = slots[0].rank
        self.A1 = self.drawn("A1", partial(uniform, (r, base.d_in), 1 / math.sqrt(base.d_in)), base)
        self.B1 = self.drawn("B1", partial(uniform, (base.d_out, r), 1 / math.sqrt(r)), base)
        self.B2 = self.drawn("B2", partial(uniform, (base.d_out, r), 1 / math.sqrt(r)), base)
        self.A2 = self.stacked([torch.zeros(r, base.d_in) for _ in slots], base)

    def change(self, base: Base) -> Tensor:
        """The scaled product."""
        return (self.scale * self.B1 @ self.A1) * (self.B2 @ self.A2)
