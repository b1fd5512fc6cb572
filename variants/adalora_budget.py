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
would start above b_0; I takes the weight after the step, and the gradient (clipped, accumulated) that made
it; ties at the threshold fall.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from variants._base import Held
from variants._budget_schedule import Schedule
from variants._importance import Importance
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
        members = [(name, held.delta, k) for name, (held, k) in slots.items()]
        self.importance = Importance(members, beta1=option.pop("beta1"), beta2=option.pop("beta2"))
        slotted = [delta.slots[k] for _, delta, k in members]
        first, last = sum(s.rank for s in slotted), sum(s.target_rank or s.rank for s in slotted)
        self.schedule = Schedule.of(run.steps, first=first, last=last, **option)
        self.budget = first
        self._final: Tensor | None = None  # the final phase's mask
        self._masked: Tensor | None = None  # by the last mask
        self.reactivations = torch.zeros((), dtype=torch.int64, device=members[0][1].L.device)
        self._unlogged: list[tuple[int, Tensor]] = []  # of each step: budget; returns and ranks
        self._logged = [-1] * len(members)  # the ranks as last logged

    @torch.no_grad()
    def after_step(self, step: int) -> None:
        """Score, lower the budget, mask; the gradients of step number `step` are still in place.

        Each step leaves a row that `log` takes.
        """
        if self.schedule.scores(step):
            self.importance.update()
        self.budget = self.schedule.planned(step)
        if self.schedule.masks(step):
            self._mask(final=self.schedule.final(step))
        counts = torch.cat([self.reactivations[None], self.importance.alive()])
        self._unlogged.append((self.budget, counts))

    def _mask(self, *, final: bool) -> None:
        below = self._final if final and self._final is not None else self._below(self.budget)
        self._final = below if final else None
        if self._masked is not None:
            self.reactivations = self.reactivations + (self._masked & ~below).sum()
        self._masked = below
        values = [delta.L.detach()[k] for _, delta, k in self.importance.members]
        for value, mask in zip(values, below.split([len(value) for value in values]), strict=True):
            value.masked_fill_(mask, 0.0)

    def _below(self, budget: int) -> Tensor:
        """Which triplets are not among the `budget` best; the threshold never leaves the device."""
        scores = self.importance.scores()
        return scores <= scores.kthvalue(self.schedule.first - budget).values

    def log(self) -> list[dict[str, float]]:
        """A row for each step since the last call: budget, triplets that live, returns, and new ranks.

        A return is a triplet that one mask put out and the next did not. A module's rank stands in the first
        row and where it differs from the row before. The device is read once.
        """
        if not self._unlogged:
            return []
        budgets, counts = zip(*self._unlogged, strict=True)
        self._unlogged.clear()
        rows = []
        for budget, (back, *alive) in zip(budgets, torch.stack(counts).tolist(), strict=True):
            new = {
                f"rank/{name}": rank
                for (name, *_), rank, before in zip(self.importance.members, alive, self._logged, strict=True)
                if rank != before
            }
            rows.append({"budget": budget, "budget_realised": sum(alive), "reactivations": back, **new})
            self._logged = alive
        return rows

    def notes(self) -> list[str]:
        """What is doubtful about the schedule."""
        return self.schedule.doubts()

    def summary(self) -> dict[str, Any]:
        """The schedule in steps, and the ranks that are left."""
        s = self.schedule
        schedule = {"t_init": s.t_i, "t_final": s.t_f, "from": s.first, "to": s.last}
        alive = self.importance.alive().tolist()
        ranks = {name: rank for (name, *_), rank in zip(self.importance.members, alive, strict=True)}
        return {"budget_schedule": schedule, "rank_pattern": ranks}

    def state_dict(self) -> dict[str, Tensor]:
        """The averages, from which budget and masks follow, and what the next row of the history needs."""
        masked = torch.zeros(0, dtype=torch.bool) if self._masked is None else self._masked
        logged = torch.tensor(self._logged)
        counted = {"masked": masked, "reactivations": self.reactivations, "logged": logged}
        return self.importance.state_dict() | counted

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on from there."""
        self.importance.load_state_dict(state)
        device = self.reactivations.device
        masked = state["masked"].to(device)
        self._masked = masked if len(masked) else None
        self.reactivations = state["reactivations"].to(device)
        self._final = None
        self._logged = state["logged"].tolist()
