"""The fit of a learning rate for all ranks, on simulated losses whose best rates are known."""

from dataclasses import fields

import numpy as np
import pytest

from analysis.stats.best_rate import FORMS, Points, fit, parabola, regret, smooth_regret

RATES = 0.0003 * 2.5 ** np.arange(6)
RANKS, ALPHA = (4, 16, 64), 16.0


def simulated(best, *, rates=RATES, noise=0.0, cliff=np.inf, scaling=1.0, seed=0):
    """Losses of two tasks: parabolas in log2(rate) about `best(s, r)`, half as much again beyond `cliff`."""
    rng, rows = np.random.default_rng(seed), []
    for task, level, k in (("a", 1.5, 0.01), ("b", 4.0, 0.004)):
        for r in RANKS:
            s = ALPHA / r**scaling
            limit = cliff(s, r) if callable(cliff) else cliff
            for rate in rates:
                log = k * np.log2(rate / best(s, r)) ** 2 + noise * rng.standard_normal()
                rows.append((rate, r, s, task, level * np.exp(log) * (1.5 if rate > limit else 1.0)))
    rate, rank, scale, task, loss = (np.array(column) for column in zip(*rows, strict=True))
    return Points(rate, rank, scale, task, loss)


@pytest.mark.parametrize("noise, exact", [(0.0, 1 / 16), (0.004, 0.25)])
def test_the_rate_that_all_tasks_and_ranks_share_is_found(noise, exact):
    found = fit(simulated(lambda s, r: 0.05 / (s * r), noise=noise), "s r")
    assert abs(np.log2(found.numbers["c"] / 0.05)) < exact
    assert not found.edge


def test_where_tasks_disagree_the_mean_regret_is_lowest():
    """The curvature of each weighs where its best rate lies."""
    points = [simulated(lambda s, r, best=best: best).of(task) for task, best in (("a", 0.003), ("b", 0.004))]
    both = Points(*(np.concatenate([getattr(p, f.name) for p in points]) for f in fields(Points)))
    one, other = (parabola(p.where(p.group == 0)) for p in points)
    mean = (one[0] * np.log2(one[1]) + other[0] * np.log2(other[1])) / (one[0] + other[0])
    assert np.log2(fit(both, "constant").numbers["c"]) == pytest.approx(mean, abs=1 / 64)


@pytest.mark.parametrize("form", FORMS)
def test_the_form_that_made_the_losses_fits_them_best(form):
    numbers = {"constant": (0.003,), "s r": (0.15,), "root": (0.019,), "s": (0.009,), "min": (0.15, 0.007),
               "root min": (0.019, 0.009)}[form]  # fmt: skip

    def best(s, r):
        below = {"1": 1, "s r": s * r, "sqrt(s r)": np.sqrt(s * r), "s": s}
        return min(n / below[name] for n, name in zip(numbers, FORMS[form].values(), strict=True))

    points = simulated(best, noise=0.001, scaling=0.5, rates=0.0003 * 2.5 ** np.arange(7))

    def cost(found):
        groups = [points.where(points.group == number) for number in range(points.group.max() + 1)]
        return np.mean([smooth_regret(p, found.rates(p.scale, p.rank)[0]) for p in groups])

    costs = {other: cost(fit(points, other)) for other in FORMS}
    assert costs[form] < 0.001
    assert max(value for other, value in costs.items() if "min" not in other) > 0.004
    assert tuple(fit(points, form).numbers.values()) == pytest.approx(numbers, rel=0.25)


def test_a_rate_outside_of_what_was_tried_at_some_rank_is_said():
    points = simulated(lambda s, r: RATES[3], rates=RATES[2:5])
    assert fit(points, "s").edge and not fit(points, "constant").edge


def test_a_cliff_or_diverged_rates_above_the_best_move_it_by_little_regret():
    points = simulated(lambda s, r: 0.003, cliff=lambda s, r: 0.016 / s)
    assert 0.01 * np.log2(fit(points, "constant").numbers["c"] / 0.003) ** 2 < 0.003
    lost = Points(*(points.rate, points.rank, points.scale, points.task),
                  np.where(points.rate > 0.016 / points.scale, np.inf, points.loss))  # fmt: skip
    assert 0.01 * np.log2(fit(lost, "constant").numbers["c"] / 0.003) ** 2 < 0.003


def test_what_has_no_minimum_or_too_few_rates_is_refused():
    flat = simulated(lambda s, r: 0.003)
    flat = Points(flat.rate, flat.rank, flat.scale, flat.task, np.ones_like(flat.loss))
    rising, two = simulated(lambda s, r: RATES[0] / 2), simulated(lambda s, r: 0.003, rates=RATES[:2])
    for points in (flat, rising, two):
        with pytest.raises(ValueError, match="one below and one above"):
            fit(points, "constant")


def test_regret_against_the_best_rate_tried():
    rate, loss = np.array([0.001, 0.004, 0.002, 0.008]), np.array([2.2, 2.1, 2.0, np.inf])
    assert regret(rate, loss, 0.002) == 0
    assert regret(rate, loss, 0.001) == pytest.approx(0.1)
    assert regret(rate, loss, 0.003) == pytest.approx(0.05 * np.log2(1.5))
    assert np.isinf(regret(rate, loss, 0.006))
    assert np.isnan(regret(rate, loss, 0.0009)) and np.isnan(regret(rate, loss, 0.009))


def test_the_smooth_regret_of_a_parabola_is_exact():
    points = simulated(lambda s, r: 0.0025)
    own = points.where((points.group == 0) & (points.rate < 0.02))  # k = 0.01, all within 2 REACH
    assert parabola(own) == pytest.approx((0.01, 0.0025))
    assert smooth_regret(own, 0.0025) == pytest.approx(0, abs=1e-12)
    assert smooth_regret(own, 0.0075) == pytest.approx(np.expm1(0.01 * np.log2(3) ** 2))
    assert smooth_regret(own, 0.0075) < regret(own.rate, own.loss, 0.0075)
    assert smooth_regret(own, RATES[0] / 2) == pytest.approx(
        np.expm1(0.01 * np.log2(0.0025 / RATES[0] * 2) ** 2)
    )
    assert np.isnan(smooth_regret(own.where(own.rate > 0.004), 0.006))  # the minimum is not inside
    assert np.isnan(smooth_regret(own.where(own.rate < 0.001), 0.0005))  # two rates
