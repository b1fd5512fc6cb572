"""EVA: explained variance adaptation. Paischer et al. 2024, arXiv:2410.07170.

    X - mean = U diag(S) V^T        X (n, d_in): inputs of the map on the first batches, S descending
    A = V_r^T,   B = 0              the r directions that explain most variance of the input
    xi_j = S_j^2 / sum of all S^2   explained variance ratio of a direction           (eq. 5)
    r_i = how many of map i's first rho r directions are among the N r with the largest xi of all N maps

    symbol   name   shape            role
    V_r^T    A      (K, r, d_in)     in
    B        B      (K, d_out, r)    out

With `rho` > 1 ranks move to the maps where they explain more, and their sum stays; s stays that of r, as the
authors' alpha follows the rank. A map may be left with none.

Deviations: V is worked out at once from the covariance of `init_batches` batches, padding left out, where the
authors update a truncated decomposition until it settles. A and B have rho r rows and columns in memory, of
which those that a map does not use stay zero. Of equal xi the map that comes first in the model goes first.
The default of `rho` is 1, every map has r; the authors' is 2.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from variants._core.base import Base
from variants._core.init import BATCHES, Init, Start, covariance, eigenvectors
from variants._core.registry import register
from variants._core.run import Slot


@register("init", "eva")
class EVA(Init):
    """A starts with the principal components of the input."""

    needs: ClassVar = "inputs"
    defaults: ClassVar[Mapping[str, Any]] = {"init_batches": BATCHES, "rho": 1.0}

    @classmethod
    def widest(cls, r: int, options: Mapping[str, Any]) -> int:
        """rho r, rounded."""
        return max(r, round(r * float(options.get("rho") or 1.0)))

    @classmethod
    def ranks(cls, seen: Sequence[tuple[Slot, Tensor]]) -> list[int]:
        """The largest ratios of all maps, as many as the maps have ranks."""
        ratios = []
        for map_, (slot, sums) in enumerate(seen):
            variances = torch.linalg.eigvalsh(covariance(sums)).flip(0)
            ratios += [(-xi, map_) for xi in (variances[: slot.rank] / variances.sum()).tolist()]
        budget = sum(slot.target_rank or slot.rank for slot, _ in seen)
        kept = Counter(map_ for _, map_ in sorted(ratios)[:budget])
        return [kept[map_] for map_ in range(len(seen))]

    @staticmethod
    def start(slot: Slot, base: Base, seen: Float[Tensor, "d_in+1 d_in+1"]) -> Start:
        """The components from the sums over the first batches."""
        A = eigenvectors(covariance(seen))[:, : slot.rank].mT
        return Start(A, A.new_zeros(base.d_out, slot.rank))
