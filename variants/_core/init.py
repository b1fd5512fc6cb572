"""How the factors A and B of a run start: an axis of every delta that has them.

    W' = W + s (B A - B0 A0)

An init gives A and B. Where it `subtracts`, B0 A0 stays what B A was at the start, so that the run starts at
W as if s B A had been taken out of it: the frozen half is two more factors, and the runs of a pack share one
W whatever their inits.
"""

import hashlib
from collections import OrderedDict
from typing import ClassVar, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from variants._core.base import Base
from variants._core.run import Slot

KEPT = 1024  # decompositions of a process, the oldest goes


class Start(NamedTuple):
    """The factors of one run on one map before the first step."""

    A: Float[Tensor, "r d_in"]
    B: Float[Tensor, "d_out r"]


class Init:
    """How A and B of one run on one map start.

    subtracts   whether s B A of the start is taken off W again, as A0 and B0
    """

    subtracts: ClassVar[bool] = False

    @staticmethod
    def start(slot: Slot, base: Base) -> Start:
        """A and B, of any floating-point type."""
        raise NotImplementedError


class Svd(NamedTuple):
    """Some singular triplets: U (d_out, r), S (r,), V (d_in, r), strongest first, in float64."""

    U: Tensor
    S: Tensor
    V: Tensor

    def split(self, scale: float) -> Start:
        """B = U sqrt(S / s), A = sqrt(S / s) V^T: s B A is U diag(S) V^T."""
        root = (self.S / scale).sqrt()
        return Start(root[:, None] * self.V.mT, self.U * root)


def svd(W: Float[Tensor, "d_out d_in"]) -> Svd:
    """All singular triplets of a matrix. Each u has its largest entry positive, so that signs are settled."""
    U, S, Vt = torch.linalg.svd(W.double(), full_matrices=False)
    signs = U.gather(0, U.abs().argmax(0, keepdim=True)).sign()
    return Svd(U * signs, S, Vt.mT * signs)


_known: OrderedDict[tuple, Svd] = OrderedDict()


def svd_of(base: Base, rank: int, *, weakest: bool = False) -> Svd:
    """The `rank` strongest or weakest singular triplets of W.

    Kept by the content of W and the rank: the runs of a sweep decompose each map once per process.
    """
    W = base.weight(torch.float64)
    content = hashlib.sha256(W.contiguous().cpu().numpy().tobytes()).digest()
    key = (content, tuple(W.shape), str(W.device), rank, weakest)
    if key not in _known:
        part = slice(-rank, None) if weakest else slice(rank)
        U, S, V = svd(W)
        _known[key] = Svd(U[:, part].clone(), S[part].clone(), V[:, part].clone())
        if len(_known) > KEPT:
            _known.popitem(last=False)
    return _known[key]
