"""CorDA: context-oriented decomposition adaptation. Yang et al. 2024, arXiv:2406.05223.

    C = X^T X + 0.01 mean(diag(X^T X)) I        X (n, d_in): inputs of the map on the first batches
    W C = U diag(S) V^T,   W = U diag(S) V^T C^-1                          S descending
    B = U_r sqrt(S_r),     A = sqrt(S_r) V_r^T C^-1                        instruction-previewed mode
    y = (W - B0 A0) x + B A x

    symbol    name   shape            role
    A         A      (K, r, d_in)     in
    B         B      (K, d_out, r)    out
    B0 A0     A0 B0  as A and B       frozen   A and B of the start

The directions of W that matter most for inputs like these learn. C^-1 undoes C, so its scale has no part.

Deviations: S_r is divided by s, so that s B A is the paper's B A at any alpha. X^T X is summed as it is,
where the authors' code divides each sample by its largest entry; padding is left out. C is damped once, by
what their code begins with: in float64 its inverse needs no more. The knowledge-preserved mode, for which
other data than the training's have to be read, is not there.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from variants._core.base import Base
from variants._core.init import BATCHES, Init, Start, svd
from variants._core.registry import register
from variants._core.run import Slot

DAMPING = 0.01


@register("init", "corda")
class CorDA(Init):
    """The strongest singular triplets of W C learn, mapped back by C^-1."""

    subtracts: ClassVar = True
    needs: ClassVar = "inputs"
    defaults: ClassVar[Mapping[str, Any]] = {"init_batches": BATCHES}

    @staticmethod
    def start(slot: Slot, base: Base, seen: Float[Tensor, "d_in+1 d_in+1"]) -> Start:
        """A and B from the sums over the first batches."""
        C = seen[:-1, :-1] / seen[-1, -1]
        C = C + DAMPING * C.diagonal().mean() * torch.eye(len(C), dtype=C.dtype, device=C.device)
        top = svd(base.weight(torch.float64) @ C).part(slot.rank)
        return top._replace(V=torch.linalg.solve(C, top.V)).split(slot.scale)
