"""MiSS: one trained matrix, shared by shards of W. Kang, Yin 2024, arXiv:2409.15371.

    W' = W + D^T (I_r I_r ... I_r)       every r columns of W get the same D^T

    symbol   name   shape            role
    I ... I  A      (K, r, d_in)     frozen   A[i, j] = 1 where j = i mod r; its last copy of I may be cut
    D^T      B      (K, d_out, r)    out      zero

A x is the sum of every r-th entry of x. Trained parameters: r d_out a map.

Deviations: none from the method's main form. Its nonlinear form (Bat) multiplies blocks of W, and its smaller
one repeats D along the output; neither is here.
"""

from collections.abc import Sequence
from typing import ClassVar

import torch

from variants._core.base import Base
from variants._core.delta import Clock, Delta
from variants._core.lowrank import Factors
from variants._core.registry import register
from variants._core.run import Slot


@register("delta", "miss")
class MiSS(Delta):
    """W' = W + B A with A the identity, repeated."""

    roles: ClassVar = {"B": "out"}
    shapes: ClassVar = {"B": "d_out r"}
    frozen: ClassVar = {"A": "seed"}

    def __init__(self, base: Base, slots: Sequence[Slot], *, clock: Clock) -> None:
        super().__init__(base, slots, clock=clock)
        r, d_in = slots[0].rank, base.d_in
        tiled = torch.eye(r).repeat(1, -(-d_in // r))[:, :d_in]
        self.A = self.shared("A", lambda slot: tiled, base, d_in)
        self.B = self.stacked([torch.zeros(base.d_out, r) for _ in slots], base)

    def factors(self, base: Base) -> Factors:
        """c is 1, or the scale where there is one."""
        return Factors(self.A, self.B, self.scale if self.number is None else self.number)
