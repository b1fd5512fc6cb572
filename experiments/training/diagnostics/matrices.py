"""The matrices that a run has changed: which of them are looked at, and each with what became of it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from variants import Attached


@dataclass(frozen=True)
class Change:
    """One matrix before and after training.

    Where W' = W + B A the factors are kept (B with the scale in it), as they say the change to full precision
    and with less work. `rank` is that of the adapter; None where every weight is trained.
    """

    name: str
    rank: int | None
    W: Float[Tensor, "d_out d_in"]
    after: Float[Tensor, "d_out d_in"]
    A: Float[Tensor, "r d_in"] | None = None
    B: Float[Tensor, "d_out r"] | None = None

    @property
    def dense(self) -> Float[Tensor, "d_out d_in"]:
        """W' - W."""
        return self.after - self.W if self.A is None or self.B is None else self.B @ self.A


def names(attached: Attached, k: int) -> list[str]:
    """The matrices that run k trains, adapted or in full."""
    return list(attached.slots(k)) or list(attached.weights(k))


@torch.no_grad()
def changes(attached: Attached, k: int, chosen: Sequence[str]) -> Iterator[Change]:
    """These matrices of run k one after another, in float64."""
    slots, plain = attached.slots(k), attached.weights(k)
    for name in chosen:
        if name not in slots:
            before, after = plain[name]
            yield Change(name, None, before.double(), after.double())
            continue
        held, i = slots[name]
        W, rank = held.base.weight(torch.float64), held.delta.rank_of(i)
        if not held.delta.low_rank:
            yield Change(name, rank, W, held.delta.weight(held.base)[i].double())
            continue
        factors = held.delta.factors(held.base).of_run(i).double()
        after = factors.weight(W)[0]
        if factors.g is not None:
            yield Change(name, rank, W, after)
            continue
        c = factors.c if isinstance(factors.c, float) else factors.c[0, :, 0]
        yield Change(name, rank, W, after, factors.A[0], factors.B[0] * c)


def spread(found: Sequence[str], most: int) -> list[str]:
    """About `most` names: each kind of matrix alike, at least once, over evenly spread layers."""
    kinds: dict[str, list[str]] = {}
    for name in found:
        kinds.setdefault(kind(name), []).append(name)
    each = max(1, most // max(1, len(kinds)))
    kept = {name for group in kinds.values() for name in evenly(group, each)}
    return [name for name in found if name in kept]


def evenly(group: Sequence[str], most: int) -> list[str]:
    """At most `most` of a group: the middle of each of as many equal parts."""
    if len(group) <= most:
        return list(group)
    return [group[int((i + 0.5) * len(group) / most)] for i in range(most)]


def kind(name: str) -> str:
    """A name without the number of its layer: what it has in common with its like in other layers."""
    parts = name.split(".")
    number = next((i for i, part in enumerate(parts) if part.isdigit()), -1)
    return ".".join(parts[number + 1 :])
