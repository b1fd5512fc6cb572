"""OFT: the inputs of W are turned, in blocks, by orthogonal matrices. Qiu et al. 2023, arXiv:2306.07280.

    W' = W diag(R_1, R_2, ...)^T
    R_i = (I - Q_i)(I + Q_i)^-1,   Q_i = -Q_i^T        (Cayley)

    symbol   name   shape             role
    Q_i      q      (K, n of them)    in     zero; the entries above the diagonals, block after block

r is the size of a block; a scale, where there is one, multiplies Q. Angles between the rows of W, and their
norms, stay as they are. Trained parameters: r (r - 1) / 2 a block, d_in / r blocks a map.

Deviations: the last block is smaller where r does not divide d_in. Neither the bound on Q (COFT) nor blocks
that share one R are here.

x W'^T = (x diag(R_1, R_2, ...)) W^T, so that the input is turned and W' formed only where it is asked for, or
where a layer holds several deltas.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from variants._core.base import Base
from variants._core.delta import Clock, Delta
from variants._core.registry import register
from variants._core.run import Slot


@register("delta", "oft")
class OFT(Delta):
    """W' = W diag(R_1, R_2, ...)^T."""

    roles: ClassVar = {"q": "in"}
    low_rank = False
    scaled = False

    def __init__(self, base: Base, slots: Sequence[Slot], *, clock: Clock) -> None:
        super().__init__(base, slots, clock=clock)
        b = self.size = slots[0].rank
        if b < 2:
            raise ValueError(
                f"r=1 leaves nothing to turn at {slots[0].name}: a block of OFT takes r=2 or more."
            )
        sizes = [min(b, base.d_in - start) for start in range(0, base.d_in, b)]
        above = [i * b * b + row * b + col for i, size in enumerate(sizes) for row, col in _above(size)]
        self.register_buffer("above", torch.tensor(above, device=base.device), persistent=False)
        self.q = self.stacked([torch.zeros(len(above)) for _ in slots], base)

    @classmethod
    def sizes(cls, rank: int, d_in: int, d_out: int, options: Mapping[str, Any]) -> Mapping[str, int]:
        """In closed form."""
        whole, rest = divmod(d_in, rank) if rank else (0, 0)
        return {"in": (whole * rank * (rank - 1) + rest * (rest - 1)) // 2}

    def change(self, base: Base) -> Tensor:
        """W diag(R_1, ...)^T - W, in the type of q whatever autocast says, as it is a small difference."""
        with torch.autocast(self.q.device.type, enabled=False):
            R = self._turns(base.d_in)
            n, b = R.shape[1:3]
            turn = R - torch.eye(b, dtype=R.dtype, device=R.device)
            W = F.pad(base.weight(turn.dtype), (0, n * b - base.d_in)).unflatten(1, (n, b))
            return torch.einsum("onb,kncb->konc", W, turn).flatten(2)[..., : base.d_in]

    def turned(self, x: Float[Tensor, "K N d_in"]) -> Tensor | None:
        """x diag(R_1, R_2, ...); None where dropout acts, which is on the change alone."""
        if self.drops:
            return None
        with torch.autocast(self.q.device.type, enabled=False):
            R = self._turns(x.shape[2]).to(x.dtype)
            n, b = R.shape[1:3]
            rest = n * b - x.shape[2]
            blocks = (F.pad(x, (0, rest)) if rest else x).unflatten(2, (n, b))
            return torch.einsum("kmnc,kncb->kmnb", blocks, R).flatten(2)[..., : x.shape[2]]

    def _turns(self, d_in: int) -> Float[Tensor, "K n b b"]:
        """R_i of all blocks, the last one filled up."""
        K, b, n = len(self.q), self.size, -(-d_in // self.size)
        U = self.q.new_zeros(K, n * b * b).index_copy(1, self.above, self.q).view(K, n, b, b)
        Q, one = self.scale[:, None] * (U - U.mT), torch.eye(b, dtype=U.dtype, device=U.device)
        return torch.linalg.solve(one + Q, one - Q, left=False)


def _above(size: int) -> list[tuple[int, int]]:
    return [(row, col) for row in range(size) for col in range(row + 1, size)]
