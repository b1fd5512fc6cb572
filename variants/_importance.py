"""How much each singular triplet of a model matters to its loss, over training: AdaLoRA, eq. 7-10."""

from collections.abc import Callable, Mapping, Sequence
from itertools import groupby

import torch
from torch import Tensor

from variants._base import Delta


class Importance:
    """The moving averages of one run, in two flat vectors: a handful of operations, however many layers.

    Triplets of one shape lie together, so that their scores are three reductions: for each shape first all L,
    then all Q, then all P. `members` has the deltas in that order.
    """

    def __init__(self, members: Sequence[tuple[str, Delta, int]], *, beta1: float, beta2: float) -> None:
        self.beta1, self.beta2 = beta1, beta2
        self.members = sorted(members, key=lambda member: _shape(member[1]))
        self.groups = [
            list(group) for _, group in groupby(self.members, key=lambda member: _shape(member[1]))
        ]
        self.shapes = [(len(group), *_shape(group[0][1])) for group in self.groups]
        size = sum(count * r * (1 + d_in + d_out) for count, r, d_in, d_out in self.shapes)
        like = self.members[0][1].L
        self.mean, self.spread = torch.zeros(2, size, dtype=like.dtype, device=like.device)

    def update(self) -> None:
        """Take in the weights as they are and the gradients that made them."""
        importance = self._flat(lambda p: p).mul_(self._flat(_gradient)).abs_()
        self.mean.lerp_(importance, 1 - self.beta1)
        self.spread.lerp_(importance.sub_(self.mean).abs_(), 1 - self.beta2)

    def scores(self) -> Tensor:
        """S of every triplet, in the order of `members`."""
        sizes = [count * r * (1 + d_in + d_out) for count, r, d_in, d_out in self.shapes]
        parts = []
        for (n, r, d_in, d_out), s in zip(self.shapes, (self.mean * self.spread).split(sizes), strict=True):
            on_l, on_q, on_p = s.split([n * r, n * r * d_in, n * r * d_out])
            parts.append(on_l.view(n, r) + on_q.view(n, r, d_in).mean(2) + on_p.view(n, d_out, r).mean(1))
        return torch.cat([part.flatten() for part in parts])

    def alive(self) -> Tensor:
        """How many L of each member are not 0: its rank, (members,)."""
        counts = []
        for group, (n, r, _, _) in zip(self.groups, self.shapes, strict=True):
            values = torch.cat([delta.L.detach()[k] for _, delta, k in group])
            counts.append(values.view(n, r).count_nonzero(1))
        return torch.cat(counts)

    def _flat(self, read: Callable[[Tensor], Tensor]) -> Tensor:
        order = ((group, name) for group in self.groups for name in ("L", "Q", "P"))
        return torch.cat(
            [read(getattr(d, name))[k].reshape(-1) for group, name in order for _, d, k in group]
        )

    def state_dict(self) -> dict[str, Tensor]:
        """The averages; all else follows from them."""
        return {"mean": self.mean, "spread": self.spread}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on from those averages."""
        self.mean.copy_(state["mean"])
        self.spread.copy_(state["spread"])


def _gradient(parameter: Tensor) -> Tensor:
    """Zeros for a layer that the model did not use."""
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad


def _shape(delta: Delta) -> tuple[int, int, int]:
    return delta.Q.shape[1], delta.Q.shape[2], delta.P.shape[1]
