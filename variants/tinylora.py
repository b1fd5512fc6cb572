"""TinyLoRA: LoRA-XS with a few numbers times fixed random matrices. Morris et al. 2026, arXiv:2602.04118.

    W' = W + U S (v_1 P_1 + ... + v_u P_u) V^T         of W = U S V^T, its r largest

    symbol   name   shape            role
    U S      B      (K, d_out, r)    frozen   left singular vectors times singular values
    V^T      A      (K, r, d_in)     frozen   right singular vectors
    P_i      P      (K, u, r, r)     frozen   N(0, 1/r), of each map its own
    v        v      (K, u)           diag     zero

With `tie: model` one v serves all adapted maps of a run: u trained numbers for the whole model, 13 in the
paper. Else each map has its own, u a map.

Deviations: the paper leaves the distribution of P open; it is that of PEFT. All maps share v, or none do,
where the paper has groups between. A base in 4 bits is decomposed as it is dequantised.
"""

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

import torch

from variants._core.base import Base
from variants._core.delta import Clock, Delta
from variants._core.init import svd_of
from variants._core.lowrank import Factors
from variants._core.registry import register
from variants._core.run import Slot
from variants._core.seeds import generator, normal


@register("delta", "tinylora")
class TinyLoRA(Delta):
    """W' = W + B (sum of v_i P_i) A."""

    roles: ClassVar = {"v": "diag"}
    frozen: ClassVar = {"A": "saved", "B": "saved", "P": "seed"}
    defaults: ClassVar = {"u": 64, "tie": None}
    tied_by: ClassVar = "tie"

    def __init__(self, base: Base, slots: Sequence[Slot], *, clock: Clock) -> None:
        super().__init__(base, slots, clock=clock)
        r, u, svd = slots[0].rank, int(self.option(0, "u")), svd_of(base, slots[0].rank)
        self.A = self.fixed([svd.V.mT] * len(slots), base)
        self.B = self.fixed([svd.U * svd.S] * len(slots), base)
        draw = partial(normal, (u, r, r), 1 / math.sqrt(r))
        self.P = self.fixed([draw(generator(slot.seed, "init", slot.name, "P")) for slot in slots], base)
        v = self.stacked([torch.zeros(u) for _ in slots], base)
        self.v = clock.shared.setdefault(("v", slots[0].run), v) if self.option(0, "tie") else v

    @classmethod
    def stack_key(cls, slot: Slot) -> tuple:
        """A run whose maps share v has its own stack."""
        u, tie = (slot.options.get(name, cls.defaults[name]) for name in ("u", "tie"))
        return (*super().stack_key(slot), u, slot.run if tie else None)

    @classmethod
    def sizes(cls, rank: int, d_in: int, d_out: int, options: Mapping[str, Any]) -> Mapping[str, int]:
        """Of one map, whatever its size; `tied_by` says when it is that of all."""
        return {"diag": int(options.get("u", cls.defaults["u"]))}

    def factors(self, base: Base) -> Factors:
        """The r x r matrix goes with B, so that the input of the layer is not kept for the backward pass."""
        R = torch.einsum("ku,kuij->kij", self.v, self.P)
        return Factors(self.A, self.B @ R, self.scale if self.number is None else self.number)
