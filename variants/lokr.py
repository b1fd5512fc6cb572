"""LoKr: a Kronecker product with a low-rank factor. Yeh et al. 2024 (LyCORIS), arXiv:2309.14859.

    W' = W + s C (x) (B A),   s = alpha / r        (x) Kronecker

    symbol   name   shape                    role
    C        C      (K, out_1, in_1)         out    zero
    B        B      (K, out_2, r)            out    U(-1/sqrt(r), 1/sqrt(r))
    A        A      (K, r, in_2)             in     U(-1/sqrt(in_2), 1/sqrt(in_2))

out_1 out_2 = d_out with out_1 the largest divisor up to sqrt(d_out), and so for d_in. Trained parameters:
out_1 in_1 + r (out_2 + in_2) a map.

Deviations: the second factor is always B A; the authors' code makes it one matrix where r is at least half
its larger side. The dense change is formed once a pass.
"""

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor

from variants._core.base import Base
from variants._core.delta import Clock, Delta
from variants._core.registry import register
from variants._core.run import Slot
from variants._core.seeds import uniform


@register("delta", "lokr")
class LoKr(Delta):
    """W' = W + s C (x) (B A)."""

    roles: ClassVar = {"C": "out", "B": "out", "A": "in"}
    low_rank = False

    def __init__(self, base: Base, slots: Sequence[Slot], *, clock: Clock) -> None:
        super().__init__(base, slots, clock=clock)
        r, (in_1, in_2), (out_1, out_2) = slots[0].rank, _divided(base.d_in), _divided(base.d_out)
        self.B = self.drawn("B", partial(uniform, (out_2, r), 1 / math.sqrt(r)), base)
        self.A = self.drawn("A", partial(uniform, (r, in_2), 1 / math.sqrt(in_2)), base)
        self.C = self.stacked([torch.zeros(out_1, in_1) for _ in slots], base)

    @classmethod
    def sizes(cls, rank: int, d_in: int, d_out: int, options: Mapping[str, Any]) -> Mapping[str, int]:
        """In closed form."""
        (in_1, in_2), (out_1, out_2) = _divided(d_in), _divided(d_out)
        return {"out": out_1 * in_1 + rank * out_2, "in": rank * in_2}

    def change(self, base: Base) -> Tensor:
        """The scaled Kronecker product of each run."""
        BA = self.scale * self.B @ self.A
        return torch.einsum("kij,kab->kiajb", self.C, BA).reshape(-1, base.d_out, base.d_in)


def _divided(d: int) -> tuple[int, int]:
    """The two divisors of d that are nearest to its root, the smaller one first."""
    small = next(n for n in range(math.isqrt(d), 0, -1) if d % n == 0)
    return small, d // small
