"""GraLoRA: W in k x k blocks, each with a LoRA of its own. Jung et al. 2025, arXiv:2505.20355.

    W'[i, j] = W[i, j] + s B_ij A_ij        block (i, j) of rank r / k,   s = alpha / r

    symbol   name   shape            role
    A_ij     A      (K, r, d_in)     in     U(-sqrt(k/d_in), sqrt(k/d_in)); rows i r/k on, columns j d_in/k on
    B_ij     B      (K, d_out, r)    out    zero; rows i d_out/k on, columns j r/k on
    k        -      -                -      blocks

The change has a rank of up to k r with the parameters of LoRA, r (d_in + d_out) a map. It is one product of
the rank k r whose factors are zero off their blocks.

Deviations: d_in and d_out need not be multiples of k, a block may be one wider than another. The hybrid with
a LoRA of the whole map is not here.
"""

import math
from collections.abc import Sequence
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from variants._core.base import Base
from variants._core.delta import Clock, Delta
from variants._core.lowrank import Factors
from variants._core.registry import register
from variants._core.run import Slot
from variants._core.seeds import uniform


@register("delta", "gralora")
class GraLoRA(Delta):
    """W' = W + s B_ij A_ij, block by block."""

    roles: ClassVar = {"A": "in", "B": "out"}
    shapes: ClassVar = {"A": "r d_in", "B": "d_out r"}
    defaults: ClassVar = {"blocks": None}

    def __init__(self, base: Base, slots: Sequence[Slot], *, clock: Clock) -> None:
        super().__init__(base, slots, clock=clock)
        r = slots[0].rank
        self.k = k = blocks(slots[0])
        self.A = self.drawn("A", partial(uniform, (r, base.d_in), math.sqrt(k / base.d_in)), base)
        self.B = self.stacked([torch.zeros(base.d_out, r) for _ in slots], base)
        for name, size in (
            ("inputs", base.d_in),
            ("outputs", base.d_out),
        ):  # (k, size): which block each is in
            member = torch.eye(k).repeat_interleave(_widths(size, k), dim=1)
            self.register_buffer(name, member.to(base.device, self.A.dtype), persistent=False)

    @classmethod
    def stack_key(cls, slot: Slot) -> tuple:
        """Runs of unlike k do not stack."""
        return (*super().stack_key(slot), blocks(slot))

    def factors(self, base: Base) -> Factors:
        """Bottleneck (i, j) reads block j of the input and writes block i of the output."""
        (K, r, d_in), k = self.A.shape, self.k
        A = self.A.view(K, k, 1, r // k, d_in) * self.inputs[:, None]
        B = self.B.view(K, -1, 1, k, r // k) * self.outputs.T[:, :, None, None]
        c = self.scale if self.number is None else self.number
        return Factors(A.flatten(1, 3), B.flatten(2), c)


def blocks(slot: Slot) -> int:
    """The k of a slot: as asked for, else the smallest that divides r, 2 for an even one."""
    k = slot.options.get("blocks") or next((k for k in range(2, slot.rank) if slot.rank % k == 0), slot.rank)
    if slot.rank % k:
        fitting = ", ".join(str(n) for n in range(1, slot.rank + 1) if slot.rank % n == 0)
        raise ValueError(f"blocks {k} does not divide the rank {slot.rank} of {slot.name}: take {fitting}.")
    return int(k)


def _widths(size: int, k: int) -> Tensor:
    """K widths that make up a size and differ by one at most."""
    return torch.tensor([len(part) for part in torch.arange(size).tensor_split(k)])
