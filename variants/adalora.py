"""AdaLoRA: a rank budget given to the layers that need it. Zhang et al. 2023, arXiv:2303.10512.

    W' = W + s P diag(L) Q                                                       (eq. 3)
    R  = gamma * mean over all P, Q of ||P^T P - I||_F and ||Q Q^T - I||_F       (eq. 4)

    symbol   name   shape            role
    Q        Q      (K, r, d_in)     in      N(0, 0.02^2)
    L        L      (K, r)           diag    zero
    P        P      (K, d_out, r)    out     N(0, 0.02^2)

Training starts at rank ceil(init_r_ratio * r). The controller `adalora_budget` prunes singular values in L
until r are left on average.

Deviations: R as in the authors' code, the mean of plain Frobenius norms; the paper squares them. The code's
1e-5 beside r in s = alpha / r is left out.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from variants._base import Base, Clock, Delta, Held, Slot
from variants._lowrank import Factors
from variants._registry import register
from variants._seeds import generator, normal


@register("delta", "adalora")
class AdaLoRA(Delta):
    """W' = W + s P diag(L) Q."""

    roles: ClassVar[Mapping[str, str]] = {"Q": "in", "L": "diag", "P": "out"}
    defaults: ClassVar = {"init_r_ratio": 1.5, "orth_weight": 0.1}

    def __init__(self, base: Base, slots: Sequence[Slot], *, clock: Clock) -> None:
        super().__init__(base, slots, clock=clock)

        def drawn(name: str, *shape: int) -> Any:
            sources = (generator(slot.seed, "init", slot.name, name) for slot in slots)
            return self.stacked([normal(shape, 0.02, source) for source in sources], base)

        rank = slots[0].rank
        self.Q = drawn("Q", rank, base.d_in)
        self.L = self.stacked([torch.zeros(rank) for _ in slots], base)
        self.P = drawn("P", base.d_out, rank)

    @classmethod
    def initial_rank(cls, r: int, options: Mapping[str, Any]) -> int:
        """ceil(init_r_ratio * r)."""
        ratio = options.get("init_r_ratio", cls.defaults["init_r_ratio"])
        return math.ceil(round(ratio * r, 9))  # 1.1 * 10 is 11

    def factors(self, base: Base) -> Factors:
        """c is the scale times the singular values, on the bottleneck."""
        return Factors(self.Q, self.P, self.scale * self.L[:, :, None])

    @classmethod
    def penalty(cls, held: Sequence[Held], runs: int) -> Tensor | None:
        """Gamma times the mean distance of every factor's rows from orthonormal, per run.

        Factors of one shape go together.
        """
        gammas = [0.0] * runs
        factors: dict[tuple, list[Tensor]] = {}
        for part, delta, _ in held:
            start, stop = part.runs.start, part.runs.stop
            for k in range(start, stop):
                gammas[k] = float(delta.option(k - start, "orth_weight"))
            factors.setdefault((start, stop, "Q", delta.Q.shape), []).append(delta.Q)
            factors.setdefault((start, stop, "P", delta.P.shape), []).append(delta.P)
        if not any(gammas):
            return None
        with torch.autocast(held[0].delta.Q.device.type, enabled=False):
            return _orthogonality(factors, gammas, held[0].delta.Q)


def _orthogonality(factors: dict[tuple, list[Tensor]], gammas: list[float], like: Tensor) -> Tensor:
    total, count = like.new_zeros(len(gammas)), [0] * len(gammas)
    for (start, stop, name, _), group in factors.items():
        X = torch.stack(group)  # (M, K, r, d_in) or (M, K, d_out, r)
        gram = X @ X.mT if name == "Q" else X.mT @ X
        gap = gram - torch.eye(gram.shape[-1], dtype=X.dtype, device=X.device)
        total = total + _placed(gap.flatten(2).norm(dim=2).sum(0), start, stop, len(gammas))
        count = [n + len(group) * (start <= k < stop) for k, n in enumerate(count)]
    weights = [gamma / n if n else 0.0 for gamma, n in zip(gammas, count, strict=True)]
    return total * like.new_tensor(weights)


def _placed(values: Tensor, start: int, stop: int, runs: int) -> Tensor:
    return values if stop - start == runs else F.pad(values, (start, runs - stop))
