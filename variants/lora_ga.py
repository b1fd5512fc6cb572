"""LoRA-GA: low-rank adaptation with gradient approximation. Wang et al. 2024, arXiv:2407.05000.

    dL/dW = U diag(S) V^T                                      on the first batches, S descending
    A = d_out^(1/4) / sqrt(gamma) V_[1:r]^T
    B = d_out^(1/4) / sqrt(gamma) U_[r+1:2r]                   (algorithm 1)
    W <- W - s B A,   y = (W + s B A) x,   s = alpha / sqrt(r)

    symbol    name   shape            role
    A         A      (K, r, d_in)     in
    B         B      (K, d_out, r)    out
    s B A     A0 B0  as A and B       frozen   A and B of the start

The first step of B A then goes along the gradient's strongest directions as a full update would.

Deviations: gamma is `init_gamma`, 16 in the authors' code. The gradient is the mean over `init_batches`
batches, decomposed in full where the authors' code approximates. W - s B0 A0 is not formed, so that runs
share W. (PEFT 0.21 multiplies B, and B alone, by singular values and gamma; the authors do not.)
"""

from collections.abc import Mapping
from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor

from variants._core.base import Base
from variants._core.init import BATCHES, Init, Start, svd
from variants._core.registry import register
from variants._core.run import Slot


@register("init", "lora_ga")
class LoRAGA(Init):
    """A and B start with singular vectors of the gradient of W."""

    subtracts: ClassVar = True
    needs: ClassVar = "gradient"
    defaults: ClassVar[Mapping[str, Any]] = {"init_batches": BATCHES, "init_gamma": 16.0}

    @staticmethod
    def check(slot: Slot, base: Base) -> None:
        """Two different sets of r singular vectors are needed."""
        most = min(base.d_in, base.d_out) // 2
        if slot.rank > most:
            raise ValueError(
                f"init=lora_ga takes 2 r = {2 * slot.rank} singular vectors of the gradient, and "
                f"{slot.name}, a {base.d_out} x {base.d_in} map, has {min(base.d_in, base.d_out)}: choose "
                f"r <= {most}, or init=pissa."
            )

    @staticmethod
    def start(slot: Slot, base: Base, seen: Float[Tensor, "d_out d_in"]) -> Start:
        """Algorithm 1, from the gradient."""
        if not seen.any():
            raise ValueError(f"init=lora_ga: the gradient of {slot.name} is zero on the first batches.")
        r, gamma = slot.rank, float(slot.options.get("init_gamma", LoRAGA.defaults["init_gamma"]))
        U, _, V = svd(seen)
        size = base.d_out**0.25 / gamma**0.5
        return Start(size * V[:, :r].mT, size * U[:, r : 2 * r])
