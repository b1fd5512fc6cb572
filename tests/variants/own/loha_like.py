"""A relative of LoHa (Hyeon-Woo et al. 2022, arXiv:2108.06098): the product, entry by entry, of two changes.

    W' = W + s (B1 A1) * (B2 A2)

    symbol   name      shape            role
    A1, A2   A1, A2    (K, r, d_in)     in     N(0, 1/d_in)
    B1       B1        (K, d_out, r)    out    N(0, 1)
    B2       B2        (K, d_out, r)    out    zero

It declares no shapes: it is counted on the meta device.
"""

import math
from typing import ClassVar

import torch

from variants import Delta, generator, normal, register


@register("delta", "loha_like")
class LoHaLike(Delta):
    """W' = W + s (B1 A1) * (B2 A2), of a rank up to r^2."""

    roles: ClassVar = {"A1": "in", "B1": "out", "A2": "in", "B2": "out"}
    low_rank = False

    def __init__(self, base, slots, *, clock):
        super().__init__(base, slots, clock=clock)

        def drawn(name, shape, std):
            sources = (generator(s.seed, "init", s.name, name) for s in slots)
            return self.stacked([normal(shape, std, source) for source in sources], base)

        r, std = slots[0].rank, 1 / math.sqrt(base.d_in)
        self.A1, self.A2 = (drawn(name, (r, base.d_in), std) for name in ("A1", "A2"))
        self.B1 = drawn("B1", (base.d_out, r), 1.0)
        self.B2 = self.stacked([torch.zeros(base.d_out, r) for _ in slots], base)

    def product(self):
        return self.scale * (self.B1 @ self.A1) * (self.B2 @ self.A2)

    def forward(self, x, y, base):
        return torch.baddbmm(y, self.dropped(x), self.product().to(y.dtype).mT)

    def weight(self, base):
        return base.weight(self.A1.dtype) + self.product()
