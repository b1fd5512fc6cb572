"""DeLoRA: directions and strength are learned apart. Bini, Girrbach, Akata 2025, arXiv:2503.18225.

    W' = W + (lambda / r) B Xi A diag(w),   Xi_ii = 1 / (||b_i|| ||a_i||)

    symbol   name   shape            role
    A        A      (K, r, d_in)     in          as LoRA; a_i its rows
    B        B      (K, d_out, r)    out         zero; b_i its columns
    lambda   lam    (K,)             magnitude   delora_lambda
    w        w      (d_in,)          -           norms of the columns of W

The change's Frobenius norm is at most lambda ||w||_inf, whatever the learning rate does to A and B. Trained
parameters: r (d_in + d_out) + 1 a map.

Deviations: the strength of W enters by column, as in the authors' code; the paper writes ||W||. B starts at
zero and norms count as 1e-4 at least, as PEFT has it, so that W' = W; the paper draws B and subtracts the
start from W.
"""

from collections.abc import Sequence
from typing import ClassVar

import torch

from variants._core.base import Base, wide
from variants._core.delta import Clock
from variants._core.lowrank import Factors
from variants._core.registry import register
from variants._core.run import Slot
from variants.lora import LoRA

LEAST = 1e-4  # of a norm


@register("delta", "delora")
class DeLoRA(LoRA):
    """W' = W + (lambda / r) B Xi A diag(w)."""

    roles: ClassVar = {**LoRA.roles, "lam": "magnitude"}
    shapes: ClassVar = {**LoRA.shapes, "lam": ""}
    peft: ClassVar = {}
    defaults: ClassVar = {**LoRA.defaults, "delora_lambda": 15.0}

    def __init__(self, base: Base, slots: Sequence[Slot], *, clock: Clock) -> None:
        super().__init__(base, slots, clock=clock)
        start = (self.option(k, "delora_lambda") for k in range(len(slots)))
        self.lam = self.stacked([torch.tensor(float(value)) for value in start], base)
        self.register_buffer("w", base.weight(wide(base.dtype)).norm(dim=0), persistent=False)

    def factors(self, base: Base) -> Factors:
        """c holds lambda, r and the norms."""
        a, b = self.A.norm(dim=2).clamp(min=LEAST), self.B.norm(dim=1).clamp(min=LEAST)
        c = self.lam[:, None] / (self.slots[0].rank * a * b)
        return Factors(self.A * self.w, self.B, self.scale * c[:, :, None])
