"""RandLoRA: a change of full rank from scaled random bases. Albert et al. 2025, arXiv:2502.00987.

    W' = W + s sum_j B_j diag(l_j) A diag(g_j)        j = 1 .. n,  n = ceil(min(d_in, d_out) / r)

    symbol   name    shape              role
    A        A       (K, r, small)      frozen   uniform of variance 1; small = min(d_in, d_out)
    B_j      B       (K, large, n r)    frozen   uniform of variance 1; the n bases side by side
    l_j      lam     (K, n, r)          diag     zero
    g_j      gamma   (K, n, small)      diag     1 / small
    s        -       -                  -        randlora_scale

Where d_in > d_out, the sum is transposed: the trained side is always the smaller one. One A and one B serve
all layers of one size. Trained parameters: n (r + small) a map, fewer for larger r.

Deviations: A and B have variance 1 in expectation, which the authors' code gives each draw exactly. Its
sparse bases are not here. The dense change is formed once a pass: of full rank, its factors are no saving.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from variants._core.base import Base
from variants._core.delta import Clock, Delta
from variants._core.registry import register
from variants._core.run import Slot
from variants._core.seeds import generator, uniform


@register("delta", "randlora")
class RandLoRA(Delta):
    """W' = W + s sum_j B_j diag(l_j) A diag(g_j)."""

    roles: ClassVar = {"lam": "diag", "gamma": "diag"}
    frozen: ClassVar = {"A": "seed", "B": "seed"}
    defaults: ClassVar = {"randlora_scale": 20.0}
    low_rank = False

    def __init__(self, base: Base, slots: Sequence[Slot], *, clock: Clock) -> None:
        super().__init__(base, slots, clock=clock)
        r, small, large = slots[0].rank, *sorted((base.d_in, base.d_out))
        n = -(-small // r)

        def drawn(name: str, *sizes: int) -> Any:
            source = lambda slot: generator(slot.seed, "init", "randlora", name, *sizes)  # noqa: E731
            return self.shared(name, lambda slot: uniform(sizes, math.sqrt(3), source(slot)), base, *sizes)

        self.A, self.B = drawn("A", r, small), drawn("B", large, n * r)
        self.lam = self.stacked([torch.zeros(n, r) for _ in slots], base)
        self.gamma = self.stacked([torch.full((n, small), 1 / small) for _ in slots], base)
        scales = [self.option(k, "randlora_scale") for k in range(len(slots))]
        self.register_buffer("s", self.scale.new_tensor(scales)[:, None, None], persistent=False)

    @classmethod
    def sizes(cls, rank: int, d_in: int, d_out: int, options: Mapping[str, Any]) -> Mapping[str, int]:
        """In closed form; nothing is left of it without a rank."""
        small = min(d_in, d_out)
        return {"diag": -(-small // rank) * (rank + small) if rank else 0}

    def change(self, base: Base) -> Tensor:
        """All bases as one product of the rank n r, with the trained side on the smaller one of the map."""
        small = (self.A[:, None] * self.gamma[:, :, None]).flatten(1, 2)  # (K, n r, small)
        total = self.scale * self.s * (self.B @ (self.lam.flatten(1)[:, :, None] * small))
        return total if base.d_in <= base.d_out else total.mT
