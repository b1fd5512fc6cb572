"""HiRA: the low-rank product multiplies W entry by entry. Huang et al. 2025, ICLR, OpenReview:TwJrTz9cRS.

    W' = W + W * (B A)        * entry by entry

    symbol   name   shape            role
    A        A      (K, r, d_in)     in     as LoRA
    B        B      (K, d_out, r)    out    zero

The change has a rank of up to r times that of W. Trained parameters: r (d_in + d_out) a map.

Deviations: none. With an init that subtracts its start, W * (B A - B0 A0). The dense change is formed once a
pass and kept for the backward pass; on a base in 4 bits the dequantised W is too.
"""

from typing import ClassVar

from torch import Tensor

from variants._core.base import Base
from variants._core.registry import register
from variants.lora import LoRA


@register("delta", "hira")
class HiRA(LoRA):
    """W' = W + W * (B A)."""

    peft: ClassVar = {}
    any_init: ClassVar = True
    low_rank = False

    def change(self, base: Base) -> Tensor:
        """W * (B A), times the scale where there is one."""
        A, B = self.joined()
        return base.weight(A.dtype) * (self.scale * B @ A)
