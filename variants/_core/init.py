"""How the factors A and B of a run start: an axis of every delta that has them.

    W' = W + s (B A - B0 A0)

An init gives A and B. Where it `subtracts`, B0 A0 stays what B A was at the start, so that the run starts at
W as if s B A had been taken out of it: the frozen half is two more factors, and the runs of a pack share one
W whatever their inits.

An init may need to see something first: its `start` is called before the first step with what was seen, and
until then A and B are zero. It sees, in float64,

    inputs     (d_in + 1, d_in + 1)   sum of [x, 1]^T [x, 1] over the tokens of the first batches, no padding
    gradient   (d_out, d_in)          sum of dLoss/dW over the first batches
    dense      (d_out, d_in)          W before it went into its storage
"""

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from variants._core.base import Base
from variants._core.run import Slot

BATCHES = 8  # that are seen unless the option `init_batches` says otherwise
KEPT = 1024  # decompositions of a process, the oldest goes


class Start(NamedTuple):
    """The factors of one run on one map before the first step."""

    A: Float[Tensor, "r d_in"]
    B: Float[Tensor, "d_out r"]


class Init:
    """How A and B of one run on one map start.

    subtracts   whether s B A of the start is taken off W again, as A0 and B0
    needs       what has to be seen first: inputs, gradient, dense, or "" for nothing
    defaults    the options that it reads

    One may spread the ranks of a run over its maps: `widest` rows are there, and a map uses those that
    `ranks` gives it. The other rows of A and columns of B are zero, so that no gradient reaches them.
    """

    subtracts: ClassVar[bool] = False
    needs: ClassVar[str] = ""
    defaults: ClassVar[Mapping[str, Any]] = {}

    @staticmethod
    def check(slot: Slot, base: Base) -> None:
        """ValueError, as soon as the model is known, where this init is not possible."""

    @staticmethod
    def start(slot: Slot, base: Base, seen: Tensor) -> Start:
        """A and B, of any floating-point type; `seen` is empty where nothing is needed."""
        raise NotImplementedError

    @classmethod
    def widest(cls, r: int, options: Mapping[str, Any]) -> int:
        """The most rows of A that a map may use, if it is large enough."""
        return r

    @classmethod
    def ranks(cls, seen: Sequence[tuple[Slot, Tensor]]) -> list[int]:
        """How many rows each map of one run uses, from what was seen of all of them."""
        return [slot.rank for slot, _ in seen]

    @classmethod
    def batches(cls, slot: Slot) -> int:
        """How many batches a run shows it."""
        return 0 if cls.needs in ("", "dense") else int(slot.options.get("init_batches", BATCHES))


def covariance(seen: Float[Tensor, "d_in+1 d_in+1"]) -> Float[Tensor, "d_in d_in"]:
    """Of the inputs, around their mean."""
    n, mean = seen[-1, -1], seen[-1, :-1] / seen[-1, -1]
    return seen[:-1, :-1] / n - torch.outer(mean, mean)


def eigenvectors(C: Float[Tensor, "n n"]) -> Float[Tensor, "n n"]:
    """Columns, of the largest eigenvalue first, each with its largest entry positive."""
    return _signed(torch.linalg.eigh(C).eigenvectors.flip(1))


def _signed(U: Tensor) -> Tensor:
    return U * _signs(U)


def _signs(U: Tensor) -> Tensor:
    return U.gather(0, U.abs().argmax(0, keepdim=True)).sign()


class Svd(NamedTuple):
    """Some singular triplets: U (d_out, r), S (r,), V (d_in, r), strongest first, in float64."""

    U: Tensor
    S: Tensor
    V: Tensor

    def part(self, rank: int, weakest: bool = False) -> "Svd":
        """The `rank` strongest or weakest of them."""
        some = slice(-rank, None) if weakest else slice(rank)
        return Svd(*(t[..., some].clone() for t in self))

    def split(self, scale: float) -> Start:
        """B = U sqrt(S / s), A = sqrt(S / s) V^T: s B A is U diag(S) V^T."""
        root = (self.S / scale).sqrt()
        return Start(root[:, None] * self.V.mT, self.U * root)


def svd(W: Float[Tensor, "d_out d_in"]) -> Svd:
    """All singular triplets of a matrix. Each u has its largest entry positive, so that signs are settled."""
    U, S, Vt = torch.linalg.svd(W.double(), full_matrices=False)
    return Svd(_signed(U), S, Vt.mT * _signs(U))


_known: OrderedDict[str, Svd] = OrderedDict()
Recall = Callable[[str], Mapping[str, Tensor] | None]
Keep = Callable[[str, dict[str, Tensor]], None]
_outside: list[tuple[Recall, Keep]] = []


def keep_decompositions(recall: Recall, keep: Keep) -> None:
    """Let decompositions outlive the process: `recall` gives what `keep` was given under a key, or None."""
    _outside[:] = [(recall, keep)]


def svd_of(base: Base, rank: int, *, weakest: bool = False) -> Svd:
    """The `rank` strongest or weakest singular triplets of W.

    Kept by the content of W, a few more than needed: a sweep over ranks decomposes each map once.
    """
    width = max(32, 1 << (rank - 1).bit_length())
    key = f"{base.digest()}-{base.device.type}-{width}{'-weakest' * weakest}"
    if key not in _known:
        _known[key] = _recalled(key, base) or _decomposed(key, base, width, weakest)
        if len(_known) > KEPT:
            _known.popitem(last=False)
    return _known[key].part(rank, weakest)


def _recalled(key: str, base: Base) -> Svd | None:
    found = next((found for recall, _ in _outside if (found := recall(key))), None)
    return None if found is None else Svd(*(found[name].to(base.device) for name in Svd._fields))


def _decomposed(key: str, base: Base, width: int, weakest: bool) -> Svd:
    made = svd(base.weight(torch.float64)).part(width, weakest)
    for _, keep in _outside:
        keep(key, {name: t.cpu() for name, t in made._asdict().items()})
    return made
