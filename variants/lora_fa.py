"""LoRA-FA: LoRA whose A stays as it was drawn. Zhang et al. 2023, arXiv:2308.03303.

    W' = W + s B A,   A frozen,   s = alpha / r

    symbol   name   shape            role
    A        A      (K, r, d_in)     frozen   as LoRA
    B        B      (K, d_out, r)    out      zero

The backward pass needs A x, of r numbers a token, and not x, of d_in: the input of the layer is not kept.
Trained parameters: r d_out a map.

Deviations: plain Adam on B. What later code of others adds, the gradient of B times (A A^T)^-1 / s^2, is not
in the equations above.
"""

from collections.abc import Sequence
from typing import ClassVar

from variants._core.base import Base
from variants._core.delta import Clock
from variants._core.registry import register
from variants._core.run import Slot
from variants.lora import LoRA


@register("delta", "lora_fa")
class LoRAFA(LoRA):
    """W' = W + s B A with A frozen; to others it is a LoRA."""

    roles: ClassVar = {"B": "out"}
    any_init: ClassVar = True
    frozen: ClassVar = {**LoRA.frozen, "A": "seed"}

    def __init__(self, base: Base, slots: Sequence[Slot], *, clock: Clock) -> None:
        super().__init__(base, slots, clock=clock)
        self.A.requires_grad_(False)
