"""The learning rate that serves every rank and task at the lowest regret, from validation losses.

Near its minimum the log loss of one task at one rank r is taken as a parabola in x = log2(rate),

    log L_i = a + k (x_i - m)^2        so that the regret at x is k (x - m)^2

by least squares over the losses less than 2 `REACH` above the lowest of their task and rank in log, with
weights 1 / (1 + (gap / `REACH`)^2) for a loss that is `gap` above it. Where these are fewer than three, the
lowest and its two neighbours take their place; a neighbour counts as 2 `REACH` above at most, as a parabola
says little of a cliff. A rule gives the rate of every task and rank by one or two numbers, in one of the
forms

    constant    c
    s r         c / (s r)              each first step moves W equally far
    root        c / sqrt(s r)
    s           c / s
    min         min(c / (s r), kappa / s)
    root min    min(c / sqrt(s r), kappa / s)

with s the scale of the update. The numbers are those of the lowest mean regret over tasks and ranks.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product

import numpy as np

REACH = 0.05
COARSE, FINE = 1 / 4, 1 / 64  # steps of the search, in octaves of the rate


@dataclass(frozen=True)
class Points:
    """n points of one variant: means over seeds at one rate, rank and task."""

    rate: np.ndarray  # (n,)
    rank: np.ndarray  # (n,) that scales
    scale: np.ndarray  # (n,) s
    task: np.ndarray  # (n,) names
    loss: np.ndarray  # (n,) above 0, inf where a seed diverged

    @property
    def group(self) -> np.ndarray:
        """(n,) numbers, the same for points of one task, rank and scale."""
        keys = list(zip(self.task.tolist(), self.rank.tolist(), self.scale.tolist(), strict=True))
        known = {key: number for number, key in enumerate(dict.fromkeys(keys))}
        return np.array([known[key] for key in keys])

    def of(self, task: str) -> "Points":
        """Those of one task."""
        return self.where(self.task == task)

    def where(self, kept: np.ndarray) -> "Points":
        """Those at which `kept` (n,) is true."""
        columns = (self.rate, self.rank, self.scale, self.task, self.loss)
        return Points(*(column[kept] for column in columns))


# what a number of a form is divided by, from s and r
BELOW = {
    "1": lambda s, r: np.ones_like(s),
    "s r": lambda s, r: s * r,
    "sqrt(s r)": lambda s, r: np.sqrt(s * r),
    "s": lambda s, r: s,
}
FORMS = {
    "constant": {"c": "1"},
    "s r": {"c": "s r"},
    "root": {"c": "sqrt(s r)"},
    "s": {"c": "s"},
    "min": {"c": "s r", "kappa": "s"},
    "root min": {"c": "sqrt(s r)", "kappa": "s"},
}


def rates(form: str, numbers: Mapping[str, float], scale: np.ndarray, rank: np.ndarray) -> np.ndarray:
    """The learning rates (n,) that a form with these numbers gives at scales and ranks (n,)."""
    parts = [numbers[name] / BELOW[below](scale, rank) for name, below in FORMS[form].items()]
    found: np.ndarray = np.min(parts, axis=0)
    return found


@dataclass(frozen=True)
class Fit:
    """A form fitted to points."""

    form: str
    numbers: Mapping[str, float]  # c, and kappa where the form has it
    edge: bool = False  # some rate lies outside of those that were tried

    def rates(self, scale: np.ndarray, rank: np.ndarray) -> np.ndarray:
        """The learning rates (n,) at scales and ranks (n,)."""
        return rates(self.form, self.numbers, scale, rank)


def fit(points: Points, form: str) -> Fit:
    """A form's numbers for these points.

    Raises:
        ValueError: No group has a minimum inside of three rates or more that count.
    """
    group = points.group
    groups = [points.where(group == number) for number in range(group.max() + 1)]
    k, best = np.array([parabola(own) for own in groups]).T
    known = np.isfinite(k)
    if not known.any():
        raise ValueError(
            "at some rank of some task a rate is needed that is better than one below and one above"
        )
    k, m = k[known], np.log2(best[known])
    first = np.unique(group, return_index=True)[1]
    scale, rank = points.scale[first], points.rank[first]
    below = [np.log2(BELOW[name](scale[known], rank[known])) for name in FORMS[form].values()]

    def squares(at: tuple[float, ...]) -> float:
        placed = np.min([number - part for number, part in zip(at, below, strict=True)], axis=0)
        return float(k @ np.square(placed - m))

    coarse = (np.arange((m + part).min(), (m + part).max() + COARSE, COARSE) for part in below)
    at = min(product(*coarse), key=squares)
    at = min(product(*(number + np.arange(-COARSE, COARSE + FINE, FINE) for number in at)), key=squares)
    numbers = dict(zip(FORMS[form], (float(2**number) for number in at), strict=True))
    placed = rates(form, numbers, scale, rank)
    tried = zip(placed, groups, strict=True)
    return Fit(form, numbers, any(not own.rate.min() <= x <= own.rate.max() for x, own in tried))


def parabola(points: Points) -> tuple[float, float]:
    """k and 2^m of the parabola through one group's points; nan, nan unless it has its minimum among them."""
    order = np.argsort(points.rate)
    rate, log = points.rate[order], np.log(points.loss[order])
    lowest = int(np.argmin(log))
    gap = np.minimum(log - min(log[lowest], np.finfo(float).max), 2 * REACH)
    near = np.flatnonzero(gap < 2 * REACH)
    kept = near if len(near) > 2 else np.arange(lowest - 1, lowest + 2)
    if not 0 <= kept[0] < kept[-1] < len(rate):
        return float("nan"), float("nan")
    weights = 1 / (1 + (gap[kept] / REACH) ** 2)
    k, b, _ = np.polyfit(np.log2(rate[kept]), gap[kept], 2, w=np.sqrt(weights))
    best = float(2 ** (-b / (2 * k))) if k > 0 else float("nan")
    inside = rate[max(near[0] - 1, 0)] < best < rate[min(near[-1] + 1, len(rate) - 1)]
    return (float(k), best) if inside else (float("nan"), float("nan"))


def smooth_regret(points: Points, at: float) -> float:
    """`regret` by the `parabola`, against its minimum, also outside of what was tried; nan without one."""
    k, best = parabola(points)
    return float(np.expm1(k * np.log2(at / best) ** 2))


def regret(rate: np.ndarray, loss: np.ndarray, at: float) -> float:
    """How much higher the loss is at a rate than at the best one tried, relative to that.

    Between two rates that were tried the loss is interpolated in log2(rate), which overstates it where it is
    convex. nan outside of what was tried, inf beside a rate at which a seed diverged.

    Args:
        rate: (n,), all different.
        loss: (n,), of one task and rank.
        at: The rate.
    """
    order = np.argsort(rate)
    x, y = np.log2(rate[order] / at), loss[order]
    exact = np.abs(x) < 1e-6
    if exact.any():
        return float(y[exact][0] / y.min() - 1)
    place = int(np.searchsorted(x, 0.0))
    if place in (0, len(x)):
        return float("nan")
    share = x[place - 1] / (x[place - 1] - x[place])
    return float(((1 - share) * y[place - 1] + share * y[place]) / y.min() - 1)
