"""AdaLoRA's budget: which singular values a model keeps. Zhang et al. 2023, arXiv:2303.10512, section 3.2.

    I = |w dLoss/dw|                                                             (eq. 8)
    mean <- beta1 mean + (1 - beta1) I                                           (eq. 9)
    spread <- beta2 spread + (1 - beta2) |I - mean|                              (eq. 10)
    S_i = s(L_i) + mean_j s(P_ji) + mean_j s(Q_ij),   s = mean * spread          (eq. 7)
    L_i <- 0 after a step, unless S_i is among the b(t) largest of the model     (eq. 6)
    b(t) = b_0                                                       for t <= t_i
           b_1 + (b_0 - b_1) (1 - (t - t_i) / (T - t_i - t_f))^3     between, every `interval` steps
           b_1                                                       for t > T - t_f, scores at rest (eq. 14)

A mask touches neither P and Q nor the optimiser's state, so that a triplet can come back before the final
phase. t_init and t_final are shares of the run below 1, steps from 1 on.

Deviations: where the paper and the authors' code differ, the code: eq. 14 prints t_f in its numerator, which
would start above b_0; I takes the weight after the step, and the gradient (clipped, accumulated) that made it;
ties at the threshold fall.
"""

import math
import warnings
from collections.abc import Callable, Mapping
from itertools import groupby
from typing import Any, ClassVar

import torch
from torch import Tensor

from variants._base import Held
from variants._method import RunConfig
from variants._registry import register
from variants.adalora import AdaLoRA


@register("controller", "adalora_budget")
class Budget:
    """The allocator of one run: averages importance, lowers the budget, masks what falls below it."""

    defaults: ClassVar = {"beta1": 0.85, "beta2": 0.85, "t_init": 0.12, "t_final": 0.5, "interval": 1}

    def __init__(self, run: RunConfig, slots: Mapping[str, tuple[Held, int]]) -> None:
        if not slots or not all(isinstance(held.delta, AdaLoRA) for held, _ in slots.values()):
            raise ValueError(
                "controller 'adalora_budget' prunes the singular values of delta 'adalora', and this run "
                f"uses {run.axis('delta')!r}. Choose delta=adalora, or controller=none."
            )
        option = {name: run.options.get(name, default) for name, default in self.defaults.items()}
        self.beta1, self.beta2, self.interval = option["beta1"], option["beta2"], int(option["interval"])
        self.T, self.t_i, self.t_f = run.steps, *(_steps(option[t], run.steps) for t in ("t_init", "t_final"))
        found = [(name, held.delta, k) for name, (held, k) in slots.items()]
        self.first = sum(delta.slots[k].rank for _, delta, k in found)
        self.last = sum(delta.slots[k].target_rank for _, delta, k in found)
        self._check()
        # Triplets of one shape lie together, so that their scores are three reductions.
        self.found = sorted(found, key=lambda f: _shape(f[1]))
        self.groups = [(_shape(g[0][1]), len(g)) for g in _grouped(self.found)]
        size = sum(count * r * (1 + d_in + d_out) for (r, d_in, d_out), count in self.groups)
        self.mean, self.spread = torch.zeros(2, size, dtype=found[0][1].L.dtype, device=found[0][1].L.device)
        self.budget = self.first
        self._final: Tensor | None = None  # the final phase's mask

    def _check(self) -> None:
        if self.interval < 1 or self.t_i + self.t_f >= self.T > 1:
            raise ValueError(
                f"AdaLoRA has no step to prune in: t_init is {self.t_i} and t_final {self.t_f} of {self.T} steps, "
                f"interval {self.interval}."
            )
        if self.t_i == 0 and self.last < self.first:
            warnings.warn(
                "t_init is 0: AdaLoRA prunes from its second step on, hardly any scores.", stacklevel=2
            )

    def planned(self, step: int) -> int:
        """b(t)."""
        if step <= self.t_i:
            return self.first
        if step > self.T - self.t_f:
            return self.last
        left = 1 - (step - self.t_i) / (self.T - self.t_f - self.t_i)
        return int(self.last + (self.first - self.last) * left**3)

    @torch.no_grad()
    def after_step(self, step: int) -> None:
        """Score, lower the budget, mask; the gradients of step number `step` are still in place."""
        if step < self.T - self.t_f:
            importance = self._flat(lambda p: p).mul_(self._flat(_gradient)).abs_()
            self.mean.lerp_(importance, 1 - self.beta1)
            self.spread.lerp_(importance.sub_(self.mean).abs_(), 1 - self.beta2)
        self.budget, final = self.planned(step), step > self.T - self.t_f
        if self.budget == self.first or not (final or step % self.interval == 0):
            return
        below = self._final if final and self._final is not None else self._below(self.budget)
        self._final = below if final else None
        values = [delta.L.detach()[k] for _, delta, k in self.found]
        for value, mask in zip(values, below.split([len(value) for value in values]), strict=True):
            value.masked_fill_(mask, 0.0)

    def _below(self, budget: int) -> Tensor:
        """Which triplets are not among the `budget` best; the threshold never leaves the device."""
        scores = self.scores()
        return scores <= scores.kthvalue(self.first - budget).values

    def scores(self) -> Tensor:
        """S of every triplet, in the order of `found`."""
        s, parts = self.mean * self.spread, []
        sizes = [count * r * (1 + d_in + d_out) for (r, d_in, d_out), count in self.groups]
        for ((r, d_in, d_out), n), group in zip(self.groups, s.split(sizes), strict=True):
            on_l, on_q, on_p = group.split([n * r, n * r * d_in, n * r * d_out])
            parts.append(on_l.view(n, r) + on_q.view(n, r, d_in).mean(2) + on_p.view(n, d_out, r).mean(1))
        return torch.cat([part.flatten() for part in parts])

    def _flat(self, read: Callable[[Tensor], Tensor]) -> Tensor:
        """One vector of something of every triplet: by shape, first all L, then all Q, then all P."""
        order = ((group, name) for group in _grouped(self.found) for name in ("L", "Q", "P"))
        return torch.cat(
            [read(getattr(d, name))[k].reshape(-1) for group, name in order for _, d, k in group]
        )

    def pattern(self) -> dict[str, list[bool]]:
        """Layer -> which of its singular values live."""
        return {name: (delta.L[k] != 0).tolist() for name, delta, k in self.found}

    def log(self) -> dict[str, float]:
        """The budget planned at the last step, and the singular values that are not zero."""
        alive = torch.cat([delta.L.detach()[k] for _, delta, k in self.found]).count_nonzero()
        return {"budget": self.budget, "budget_realised": int(alive)}

    def summary(self) -> dict[str, Any]:
        """The schedule in steps and the ranks that are left."""
        ranks = {name: sum(alive) for name, alive in self.pattern().items()}
        schedule = {"t_init": self.t_i, "t_final": self.t_f, "from": self.first, "to": self.last}
        return {"budget_schedule": schedule, "rank_pattern": ranks}

    def state_dict(self) -> dict[str, Tensor]:
        """The averages; all else follows from them."""
        return {"mean": self.mean, "spread": self.spread}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on from those averages."""
        self.mean.copy_(state["mean"])
        self.spread.copy_(state["spread"])
        self._final = None


def _gradient(parameter: Tensor) -> Tensor:
    """Zeros for a layer that the model did not use."""
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad


def _shape(delta: AdaLoRA) -> tuple[int, int, int]:
    return delta.Q.shape[1], delta.Q.shape[2], delta.P.shape[1]


def _grouped(found: list) -> list[list]:
    return [list(group) for _, group in groupby(found, key=lambda f: _shape(f[1]))]


def _steps(value: float, total: int) -> int:
    """A share of the run below 1, steps from 1 on."""
    if value < 0:
        raise ValueError(f"t_init and t_final are shares of the run or steps, not {value:g}.")
    return math.floor(value * total) if value < 1 else int(value)
