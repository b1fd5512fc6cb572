"""AdaLoRA: a rank budget given to the layers that need it. Zhang et al. 2023, arXiv:2303.10512.

    W' = W + s P diag(L) Q                                                       (eq. 3)
    R  = gamma * mean over all P, Q of ||P^T P - I||_F and ||Q Q^T - I||_F       (eq. 4)

    symbol   name   shape            role
    Q        Q      (K, r, d_in)     in      N(0, 0.02^2)
    L        L      (K, r)           diag    zero
    P        P      (K, d_out, r)    out     N(0, 0.02^2)

Training starts at rank ceil(init_r_ratio * r). The controller `adalora_budget` prunes singular values in L
until r are left on average (section 3.2):

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

Deviations: where the paper and the authors' code differ, the code. R is the mean of plain Frobenius norms,
which the paper squares; the code's 1e-5 beside r in s = alpha / r is left out. Eq. 14 prints t_f in its
numerator, which would start above b_0; I takes the weight after the step, and the gradient (clipped,
accumulated) that made it; ties at the threshold are pruned.
"""

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from variants._core.base import Base
from variants._core.delta import Clock, Delta, Held, PeftAdapter
from variants._core.lowrank import Factors
from variants._core.registry import register
from variants._core.run import RunConfig, Slot
from variants._core.seeds import normal


@register("delta", "adalora")
class AdaLoRA(Delta):
    """W' = W + s P diag(L) Q."""

    roles: ClassVar = {"Q": "in", "L": "diag", "P": "out"}
    shapes: ClassVar = {"Q": "r d_in", "L": "r", "P": "d_out r"}
    defaults: ClassVar = {"init_r_ratio": 1.5, "orth_weight": 0.1}
    rank_ratio: ClassVar = "init_r_ratio"
    peft: ClassVar = {"Q": "A", "P": "B", "L": "E"}
    peft_options: ClassVar = {"init_r_ratio": 1.0, "orth_weight": 0.0}

    def __init__(self, base: Base, slots: Sequence[Slot], *, clock: Clock) -> None:
        super().__init__(base, slots, clock=clock)
        rank = slots[0].rank
        self.Q = self.drawn("Q", partial(normal, (rank, base.d_in), 0.02), base)
        self.L = self.stacked([torch.zeros(rank) for _ in slots], base)
        self.P = self.drawn("P", partial(normal, (base.d_out, rank), 0.02), base)

    def factors(self, base: Base) -> Factors:
        """c is the scale times the singular values, on the bottleneck."""
        return Factors(self.Q, self.P, self.scale * self.L[:, :, None])

    def to_peft(self, k: int, form: str) -> PeftAdapter:
        """PEFT's own AdaLoRA with the triplets as they are, or a LoRA of those left with L folded into B."""
        Q, L, P = (getattr(self, name).detach()[k] for name in "QLP")
        if form == "adalora":
            return PeftAdapter({"A": Q, "B": P, "E": L}, self.scale_of(k))
        alive = L != 0
        return PeftAdapter({"A": Q[alive], "B": P[:, alive] * L[alive]}, self.scale_of(k))

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


@dataclass(frozen=True)
class Schedule:
    """The budget over a run of T steps, numbered from 0; `of` reads it from a run's options."""

    T: int
    t_i: int  # steps before pruning starts
    t_f: int  # steps after it has ended
    interval: int
    first: int  # triplets at the start
    last: int

    @classmethod
    def of(
        cls, steps: int, *, t_init: float, t_final: float, interval: int, first: int, last: int
    ) -> "Schedule":
        """From options: t_init and t_final as shares of the run below 1, or in steps; ValueError if wrong."""
        made = cls(steps, _steps(t_init, steps), _steps(t_final, steps), int(interval), first, last)
        made._check()
        for text in made.doubts():
            warnings.warn(text, stacklevel=2)
        return made

    def _check(self) -> None:
        if self.interval < 1 or self.t_i + self.t_f >= self.T > 1:
            raise ValueError(
                f"AdaLoRA has no step to prune in: t_init is {self.t_i} and t_final {self.t_f} of {self.T} "
                f"steps, interval {self.interval}."
            )

    def doubts(self) -> list[str]:
        """What is allowed and hardly meant."""
        if self.last >= self.first:
            return []
        found = []
        if self.t_i == 0:
            found.append("t_init is 0: AdaLoRA prunes from its second step on, hardly any scores.")
        if not (self.masks(self.T - 1) and self.planned(self.T - 1) == self.last):
            found.append(
                f"t_final is {self.t_f} steps, interval {self.interval}: no mask to AdaLoRA's last budget "
                f"follows the last step, so that more than {self.last} of {self.first} triplets may be left. "
                "Choose a longer t_final."
            )
        return found

    def planned(self, step: int) -> int:
        """b(t)."""
        if step <= self.t_i:
            return self.first
        if self.final(step):
            return self.last
        left = 1 - (step - self.t_i) / (self.T - self.t_f - self.t_i)
        return int(self.last + (self.first - self.last) * left**3)

    def final(self, step: int) -> bool:
        """Whether this step is in the final phase."""
        return step > self.T - self.t_f

    def scores(self, step: int) -> bool:
        """Whether the scores still take in this step."""
        return step < self.T - self.t_f

    def masks(self, step: int) -> bool:
        """Whether a mask follows this step: always in the final phase, every `interval` steps before it."""
        return self.planned(step) < self.first and (self.final(step) or step % self.interval == 0)


def _steps(value: float, total: int) -> int:
    """A share of the run below 1, steps from 1 on."""
    if value < 0:
        raise ValueError(f"t_init and t_final are shares of the run or steps, not {value:g}.")
    if value >= 1 and value != int(value):
        raise ValueError(f"t_init and t_final are whole numbers of steps from 1 on, not {value:g}.")
    return math.floor(round(value * total, 9)) if value < 1 else int(value)  # 0.57 of 100 is 57
