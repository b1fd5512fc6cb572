"""The learning rate that serves every rank, from validation losses over rates, ranks and tasks.

Near its minimum the log loss of one task at one rank r is taken as a parabola in x = log2(rate),

    log L_i = a_g + k_t (x_i - m_g)^2        g: task and rank, t: task, k_t >= 0

whose minimum m_g the same numbers place for all tasks and ranks, in one of the forms

    constant    2^m = c
    s r         2^m = c / (s r)              each first step moves W equally far
    root        2^m = c / sqrt(s r)
    s           2^m = c / s
    min         2^m = min(c / (s r), kappa / s)
    root min    2^m = min(c / sqrt(s r), kappa / s)

with s the scale of the update. They are fitted by weighted least squares, a_g and k_t in closed form and c,
kappa by search, to means over seeds. Weights are 1 / (1 + (gap / `REACH`)^2) for a loss that is `gap` above
the lowest of its group in log. A parabola says little of a cliff: a gap counts as 2 `REACH` at most, that of
a diverged seed too, and beyond the first such point on either side a group's points have no part.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product

import numpy as np

REACH = 0.05
COARSE, FINE = 1 / 4, 1 / 32  # steps of the search, in octaves of the rate


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
    residual: float  # the weighted variance of log L about the fit; nan without a degree of freedom
    edge: bool  # some minimum lies outside of the rates whose losses were tried

    def rates(self, scale: np.ndarray, rank: np.ndarray) -> np.ndarray:
        """The learning rates (n,) at scales and ranks (n,)."""
        return rates(self.form, self.numbers, scale, rank)


def fit(points: Points, form: str) -> Fit:
    """A form's numbers for these points.

    Raises:
        ValueError: No group has three points that count, or the loss has no minimum in the rate.
    """
    group = points.group
    gap, weights = _basin(points, group)
    if max(np.bincount(group, weights > 0)) < 3:
        raise ValueError("three rates near the best one are needed at some rank of some task")
    kept = weights > 0
    y, w, g = gap[kept], weights[kept], group[kept]
    tasks = np.unique(points.task[kept], return_inverse=True)[1]
    x = np.log2(points.rate[kept])
    y -= _mean(y, w, g)
    below = [np.log2(BELOW[name](points.scale[kept], points.rank[kept])) for name in FORMS[form].values()]

    def parabolas(at: tuple[float, ...]) -> tuple[np.ndarray, float]:
        """k_t, and the weighted squares about the fit."""
        z = np.square(x - np.min([number - part for number, part in zip(at, below, strict=True)], axis=0))
        z -= _mean(z, w, g)
        k = np.bincount(tasks, w * z * y) / np.maximum(np.bincount(tasks, w * z * z), 1e-300)
        k = np.maximum(k, 0)
        return k, float((w * np.square(y - k[tasks] * z)).sum())

    coarse = (np.arange((x + part).min() - 1, (x + part).max() + 1, COARSE) for part in below)
    at = min(product(*coarse), key=lambda numbers: parabolas(numbers)[1])
    fine = (number + np.arange(-COARSE, COARSE + FINE, FINE) for number in at)
    at = min(product(*fine), key=lambda numbers: parabolas(numbers)[1])
    k, squares = parabolas(at)
    if not k.any():
        raise ValueError("the loss has no minimum in the rate")
    numbers = dict(zip(FORMS[form], (float(2**number) for number in at), strict=True))
    free = len(y) - len(np.unique(g)) - len(k) - len(at)
    residual = squares / float(w.mean()) / free if free > 0 else float("nan")
    m = rates(form, numbers, points.scale, points.rank)
    edge = any(
        not points.rate[group == i].min() < m[group == i][0] < points.rate[group == i].max()
        for i in range(group.max() + 1)
    )
    return Fit(form, numbers, residual, edge)


def _basin(points: Points, group: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How far the log losses are above the lowest of their group, (n,), at most 2 REACH, and weights (n,)."""
    gap, weights = np.log(points.loss), np.zeros(len(group))
    for own in (group == number for number in range(group.max() + 1)):
        lowest = gap[own].min()
        gap[own] = np.minimum(gap[own] - lowest, 2 * REACH) if np.isfinite(lowest) else 2 * REACH
        order = np.flatnonzero(own)[np.argsort(points.rate[own])]
        near = np.flatnonzero(gap[order] < 2 * REACH)
        if len(near):
            counted = order[max(near[0] - 1, 0) : near[-1] + 2]
            weights[counted] = 1 / (1 + (gap[counted] / REACH) ** 2)
    return gap, weights


def _mean(values: np.ndarray, weights: np.ndarray, group: np.ndarray) -> np.ndarray:
    """The weighted mean of each value's group, (n,)."""
    total = np.maximum(np.bincount(group, weights), 1e-300)
    means: np.ndarray = (np.bincount(group, weights * values) / total)[group]
    return means


def smooth_regret(points: Points, at: float) -> float:
    """`regret` by a parabola through one group's log losses, against its minimum; nan unless that is inside.

    The parabola has the weights of `fit`, so losses far above the lowest count little.

    Args:
        points: Of one task, rank and scale.
        at: The rate.
    """
    gap, weights = _basin(points, points.group)
    kept = weights > 0
    if kept.sum() < 3:
        return float("nan")
    x = np.log2(points.rate / at)
    k, b, _ = np.polyfit(x[kept], gap[kept], 2, w=np.sqrt(weights[kept]))
    inside = k > 0 and x.min() < -b / (2 * k) < x.max() and x.min() <= 0 <= x.max()
    return float(np.expm1(b * b / (4 * k))) if inside else float("nan")


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
