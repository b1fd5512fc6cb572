"""LoRA-FA: LoRA whose A stays as it was drawn. Zhang et al. 2023, arXiv:2308.03303.

W' = W + s B A,   A frozen

symbol   name   shape            role
A        A      (K, r, d_in)     frozen   as LoRA
B        B      (K, d_out, r)    out      zero
"""

import math
from typing import ClassVar

import torch

from variants import Delta, Factors, PeftAdapter, generator, register, uniform


@register("delta", "lora_fa")
class LoRAFA(Delta):
    """W' = W + s B A with A frozen."""

    roles: ClassVar = {"B": "out"}
    shapes: ClassVar = {"A": "r d_in", "B": "d_out r"}
    frozen: ClassVar = {"A": "seed"}

    def __init__(self, base, slots, *, clock):
        super().__init__(base, slots, clock=clock)
        bound = 1 / math.sqrt(base.d_in)
        drawn = [uniform((s.rank, base.d_in), bound, generator(s.seed, "init", s.name, "A")) for s in slots]
        self.A = self.fixed(drawn, base)
        self.B = self.stacked([torch.zeros(base.d_out, s.rank) for s in slots], base)

    def factors(self, base):
        return Factors(self.A, self.B, self.scale)

    def to_peft(self, k, form):
        if form != "lora":
            return None
        return PeftAdapter({"A": self.A.detach()[k], "B": self.B.detach()[k]}, self.slots[k].scale)
