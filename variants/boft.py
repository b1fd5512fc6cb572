"""BOFT: the inputs of W are turned several times, in butterfly blocks. Liu et al. 2024, arXiv:2311.06243.

    W' = W (B_m ... B_2 B_1)^T
    B_i = P_i diag(R_1, R_2, ...) P_i^T,   R_j = (I - Q_j)(I + Q_j)^-1,   Q_j = -Q_j^T

    symbol   name   shape             role
    Q_j      q      (K, n of them)    in     zero; the entries above the diagonals, turn after turn
    P_i      -      -                 -      a block of turn i is half a block of inputs, and the half 2^(i-1)
                                             halves behind it
    m        -      -                 -      turns, the option butterfly

r is the size b of a block. B_1 is OFT's. After turn i each input has met b 2^(i-1), if b is even. Trained
parameters: m d_in (b - 1) / 2 a map, if b 2^(m-1) divides d_in.

Deviations: where b 2^(m-1) does not divide d_in the last blocks are smaller; an odd block has one half larger
by one. PEFT trains a factor for each output beside the turns, by which W' is no turned W: not here. Nor is
the dropout of whole blocks.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from variants._core.base import Base
from variants._core.registry import register
from variants._core.run import Slot
from variants.oft import OFT


@register("delta", "boft")
class BOFT(OFT):
    """W' = W (B_m ... B_1)^T."""

    defaults: ClassVar = {"butterfly": 2}

    @classmethod
    def stack_key(cls, slot: Slot) -> tuple:
        """Runs of unlike m do not stack."""
        return (*super().stack_key(slot), slot.options.get("butterfly"))

    @classmethod
    def sizes(cls, rank: int, d_in: int, d_out: int, options: Mapping[str, Any]) -> Mapping[str, int]:
        """The pairs of inputs that share a block, over all turns."""
        m = int(options.get("butterfly", cls.defaults["butterfly"]))
        return {"in": len(cls._above(rank, d_in, m)) if rank else 0}

    def turns_of(self, slot: Slot, base: Base) -> int:
        """m; ValueError where the last turn would reach over more inputs than there are."""
        m, r, most = int(self.option(0, "butterfly")), slot.rank, (base.d_in // slot.rank).bit_length()
        if not 1 <= m <= most:
            raise ValueError(
                f"butterfly {m} turns blocks of r={r} over {r << max(m - 1, 0)} inputs, and {slot.name} has "
                f"{base.d_in}: take 1 to {most}, or a smaller r."
            )
        return m

    @staticmethod
    def blocks(x: Float[Tensor, "*_ d"], size: int, turn: int) -> Float[Tensor, "*_ n size"]:
        """Block j of a range of size 2^turn inputs: run j of its first part and run j of its second."""
        if turn == 0:
            return x.unflatten(-1, (-1, size))
        first = (size + 1) // 2 << turn
        parts = x.unflatten(-1, (-1, size << turn)).split([first, (size << turn) - first], -1)
        return torch.cat([part.unflatten(-1, (1 << turn, -1)) for part in parts], -1).flatten(-3, -2)

    @staticmethod
    def unblocked(x: Float[Tensor, "*_ n size"], turn: int) -> Float[Tensor, "*_ d"]:
        """Undoes `blocks`."""
        if turn == 0:
            return x.flatten(-2)
        first = (x.shape[-1] + 1) // 2
        parts = x.unflatten(-2, (-1, 1 << turn)).split([first, x.shape[-1] - first], -1)
        return torch.cat([part.flatten(-2) for part in parts], -1).flatten(-2)
