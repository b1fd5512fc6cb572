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
    """W' = W R^T with one turn, R = diag(R_1, R_2, ...)."""

    roles: ClassVar = {"q": "in"}
    low_rank = False
    scaled = False
    limits = True

    def __init__(self, base: Base, slots: Sequence[Slot], *, clock: Clock) -> None:
        super().__init__(base, slots, clock=clock)
        self.size, self.turns = slots[0].rank, self.turns_of(slots[0], base)
        if self.size < 2:
            raise ValueError(
                f"r=1 leaves nothing to turn at {slots[0].name}: a block of {type(self).__name__} takes r=2 "
                "or more."
            )
        above = self._above(self.size, base.d_in, self.turns).to(base.device)
        self.register_buffer("above", above, persistent=False)
        self.q = self.stacked([torch.zeros(len(above)) for _ in slots], base)

    @classmethod
    def sizes(cls, rank: int, d_in: int, d_out: int, options: Mapping[str, Any]) -> Mapping[str, int]:
        """In closed form."""
        whole, rest = divmod(d_in, rank) if rank else (0, 0)
        return {"in": (whole * rank * (rank - 1) + rest * (rest - 1)) // 2}

    def turns_of(self, slot: Slot, base: Base) -> int:
        """How many turns follow each other."""
        return 1

    @staticmethod
    def blocks(x: Float[Tensor, "*_ d"], size: int, turn: int) -> Float[Tensor, "*_ n size"]:
        """The inputs, in the blocks of a turn."""
        return x.unflatten(-1, (-1, size))

    @staticmethod
    def unblocked(x: Float[Tensor, "*_ n size"], turn: int) -> Float[Tensor, "*_ d"]:
        """The inputs in their own order again."""
        return x.flatten(-2)

    @classmethod
    def _above(cls, size: int, d_in: int, turns: int) -> Tensor:
        """Where q lies in the blocks of all turns: above the diagonals, between inputs that there are."""
        inputs = F.pad(torch.ones(d_in, dtype=torch.bool), (0, _rest(d_in, size, turns)))
        there = torch.stack([cls.blocks(inputs, size, turn) for turn in range(turns)])
        return (there[..., None] & there[..., None, :]).triu(1).flatten().nonzero()[:, 0]

    def change(self, base: Base) -> Tensor:
        """W R^T - W, in the type of q whatever autocast says, as it is a small difference."""
        with torch.autocast(self.q.device.type, enabled=False):
            turns = self._turns(base.d_in)
            small = turns - torch.eye(self.size, dtype=turns.dtype, device=turns.device)
            W = F.pad(base.weight(turns.dtype), (0, _rest(base.d_in, self.size, self.turns)))[None]
            total = torch.zeros_like(W)
            for turn in range(self.turns):
                total = total + self._turned(W + total, small[:, turn].mT, turn)
            return total[..., : base.d_in]

    def turned(self, x: Float[Tensor, "K N d_in"]) -> Tensor | None:
        """x R; None where dropout acts, which is on the change alone."""
        if self.drops:
            return None
        with torch.autocast(self.q.device.type, enabled=False):
            turns, d_in = self._turns(x.shape[2]).to(x.dtype), x.shape[2]
            rest = _rest(d_in, self.size, self.turns)
            x = F.pad(x, (0, rest)) if rest else x
            for turn in reversed(range(self.turns)):
                x = self._turned(x, turns[:, turn], turn)
            return x[..., :d_in]

    def _turned(self, x: Tensor, turn: Float[Tensor, "K n b b"], i: int) -> Tensor:
        blocks = self.blocks(x, self.size, i).transpose(1, 2) @ turn
        return self.unblocked(blocks.transpose(1, 2), i)

    def _turns(self, d_in: int) -> Float[Tensor, "K turns n b b"]:
        """The R_i of all turns, those of the last blocks filled up. Cayley's form is 2 (I + Q)^-1 - I."""
        K, b = len(self.q), self.size
        n = (d_in + _rest(d_in, b, self.turns)) // b
        U = self.q.new_zeros(K, self.turns * n * b * b).index_copy(1, self.above, self.q)
        U = U.view(K, self.turns, n, b, b)
        Q, one = self.scale[:, None, None] * (U - U.mT), torch.eye(b, dtype=U.dtype, device=U.device)
        return 2 * torch.linalg.inv(one + Q) - one


def _rest(d_in: int, size: int, turns: int) -> int:
    """What is missing to a whole number of the blocks that the last turn reaches over."""
    return -d_in % (size << (turns - 1))
