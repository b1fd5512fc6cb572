"""DeLoRA: directions and strength are learned apart. Bini, Girrbach, Akata 2025, arXiv:2503.18225.

    W' = W + (lambda / r) B Xi A diag(w) - (lambda_0 / r) B0 Xi_0 A0 diag(w),   Xi_ii = 1 / (||b_i|| ||a_i||)

    symbol   name   shape            role
    A        A      (K, r, d_in)     in          U(-1/sqrt(d_in), 1/sqrt(d_in)); a_i its rows
    B        B      (K, d_out, r)    out         U(-1/sqrt(r), 1/sqrt(r)); b_i its columns
    lambda   lam    (K,)             magnitude   lambda_0, the option delora_lambda
    w        w      (d_in,)          -           norms of the columns of W
    A0, B0   A0 B0  as A and B       frozen      A and B of the start, Xi_0 and lambda_0 / r in them

The Frobenius norm of each of the two changes is at most lambda ||w||_inf, whatever the learning rate does to
A and B. Trained parameters: r (d_in + d_out) + 1 a map.

A rate turns all directions by angles that depend on neither W nor lambda. From B = 0, as PEFT starts, the
first step would make the whole change at once, about lambda / sqrt(r d_in) of ||W|| at any rate.

Deviations: the strength of W enters by column, as in the authors' code; the paper writes ||W||. That code
scales what is subtracted by the lambda of now.
"""

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch.nn.functional import normalize

from variants._core.base import Base, wide
from variants._core.delta import Clock, Delta
from variants._core.lowrank import Factors
from variants._core.registry import register
from variants._core.run import Slot
from variants._core.seeds import uniform


@register("delta", "delora")
class DeLoRA(Delta):
    """W' = W + (lambda / r) B Xi A diag(w), minus what that is at the start."""

    roles: ClassVar = {"A": "in", "B": "out", "lam": "magnitude"}
    shapes: ClassVar = {"A": "r d_in", "B": "d_out r", "lam": ""}
    frozen: ClassVar = {"A0": "seed", "B0": "seed"}
    scaled = False  # lambda is its strength, and learns
    defaults: ClassVar = {"delora_lambda": 12.0}

    def __init__(self, base: Base, slots: Sequence[Slot], *, clock: Clock) -> None:
        super().__init__(base, slots, clock=clock)
        r = slots[0].rank
        strength = [float(self.option(k, "delora_lambda")) for k in range(len(slots))]
        self.A = self.drawn(
            "A", lambda source: uniform((r, base.d_in), 1 / math.sqrt(base.d_in), source), base
        )
        self.B = self.drawn("B", lambda source: uniform((base.d_out, r), 1 / math.sqrt(r), source), base)
        self.lam = self.stacked([torch.tensor(value) for value in strength], base)
        self.A0 = self.fixed(list(normalize(self.A.detach(), dim=2)), base)
        self.B0 = self.fixed(
            list(self.lam.detach()[:, None, None] / r * normalize(self.B.detach(), dim=1)), base
        )
        self.register_buffer("w", base.weight(wide(base.dtype)).norm(dim=0), persistent=False)

    def factors(self, base: Base) -> Factors:
        """c holds lambda, r and the norms."""
        c = self.lam[:, None] / (self.slots[0].rank * self.A.norm(dim=2) * self.B.norm(dim=1))
        A = torch.cat([self.A, self.A0], 1) * self.w
        return Factors(A, torch.cat([self.B, -self.B0], 2), torch.cat([c, torch.ones_like(c)], 1)[:, :, None])
