"""EVA: explained variance adaptation. Paischer et al. 2024, arXiv:2410.07170.

    X - mean = U diag(S) V^T        X (n, d_in): inputs of the map on the first batches, S descending
    A = V_r^T,   B = 0              the r directions that explain most variance of the input

    symbol   name   shape            role
    V_r^T    A      (K, r, d_in)     in
    B        B      (K, d_out, r)    out

Deviations: V is worked out at once from the covariance of `init_batches` batches, padding left out, where the
authors update a truncated decomposition until it settles. Ranks stay as they are (rho = 1), every map has r.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

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
    defaults: ClassVar[Mapping[str, Any]] = {"init_batches": BATCHES}

    @staticmethod
    def start(slot: Slot, base: Base, seen: Float[Tensor, "d_in+1 d_in+1"]) -> Start:
        """The components from the sums over the first batches."""
        A = eigenvectors(covariance(seen))[:, : slot.rank].mT
        return Start(A, A.new_zeros(base.d_out, slot.rank))
