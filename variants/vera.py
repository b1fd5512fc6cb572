"""VeRA: vector-based random matrix adaptation. Kopiczko, Blankevoort, Asano 2024, arXiv:2310.11454.

    W' = W + diag(b) B diag(d) A                                    (eq. 2)

    symbol   name   shape            role
    A        A      (K, r, d_in)     frozen      Kaiming-uniform: U(-sqrt(6/d_in), sqrt(6/d_in))
    B        B      (K, d_out, r)    frozen      Kaiming-uniform: U(-sqrt(6/r), sqrt(6/r))
    d        d      (K, r)           diag        d_initial, 0.1
    b        b      (K, d_out)       magnitude   zero

One A and one B serve all layers. Where sizes differ, the smaller matrix is the first columns of A, or the
first rows of B, up to the bound of its uniform distribution. Trained parameters: d_out + r a map.

Deviations: r is at most the smaller side of the map, as for every delta here.
"""

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from variants._core.base import Base
from variants._core.delta import Clock, Delta
from variants._core.lowrank import Factors
from variants._core.registry import register
from variants._core.run import Slot
from variants._core.seeds import generator, uniform


@register("delta", "vera")
class VeRA(Delta):
    """W' = W + diag(b) B diag(d) A."""

    roles: ClassVar = {"d": "diag", "b": "magnitude"}
    shapes: ClassVar = {"d": "r", "b": "d_out"}
    frozen: ClassVar = {"A": "seed", "B": "seed"}
    defaults: ClassVar = {"d_initial": 0.1}

    def __init__(self, base: Base, slots: Sequence[Slot], *, clock: Clock) -> None:
        super().__init__(base, slots, clock=clock)
        r = slots[0].rank

        def drawn(slot: Slot, name: str, rows: int, fan_in: int) -> Tensor:
            """Row after row, so that fewer rows are the first of more."""
            return uniform((rows, r), math.sqrt(6 / fan_in), generator(slot.seed, "init", "vera", name, r))

        d_in, d_out = base.d_in, base.d_out
        self.A = self.shared("A", lambda slot: drawn(slot, "A", d_in, d_in).T, base, d_in)
        self.B = self.shared("B", lambda slot: drawn(slot, "B", d_out, r), base, d_out)
        start = (self.option(k, "d_initial") for k in range(len(slots)))
        self.d = self.stacked([torch.full((r,), float(value)) for value in start], base)
        self.b = self.stacked([torch.zeros(d_out) for _ in slots], base)

    def factors(self, base: Base) -> Factors:
        """c is d, times the scale where there is one."""
        return Factors(self.A, self.b[:, :, None] * self.B, self.scale * self.d[:, :, None])
