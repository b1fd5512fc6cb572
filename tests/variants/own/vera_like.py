"""A relative of VeRA (Kopiczko et al. 2024, arXiv:2310.11454): random factors for all layers, vectors learn.

W' = W + s diag(b) B diag(d) A

symbol   name   shape            role
A        A      (K, r, d_in)     frozen, shared by all layers with that d_in
B        B      (K, d_out, r)    frozen, shared by all layers with that d_out
d        d      (K, r)           diag        0.1
b        b      (K, d_out)       magnitude   zero
"""

import math
from typing import ClassVar

import torch

from variants import Delta, Factors, generator, normal, register


@register("delta", "vera_like")
class VeRALike(Delta):
    """W' = W + s diag(b) B diag(d) A."""

    roles: ClassVar = {"d": "diag", "b": "magnitude"}
    shapes: ClassVar = {"d": "r", "b": "d_out"}
    frozen: ClassVar = {"A": "seed", "B": "seed"}

    def __init__(self, base, slots, *, clock):
        super().__init__(base, slots, clock=clock)

        def drawn(name, rows, columns):
            source = lambda slot: generator(slot.seed, "init", name, rows, columns)  # noqa: E731
            std = 1 / math.sqrt(columns)
            return self.shared(name, lambda s: normal((rows, columns), std, source(s)), base, rows, columns)

        r = slots[0].rank
        self.A = drawn("A", r, base.d_in)
        self.B = drawn("B", base.d_out, r)
        self.d = self.stacked([torch.full((r,), 0.1) for _ in slots], base)
        self.b = self.stacked([torch.zeros(base.d_out) for _ in slots], base)

    def factors(self, base):
        return Factors(self.A, self.b[:, :, None] * self.B, self.scale * self.d[:, :, None])
