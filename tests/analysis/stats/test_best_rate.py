"""The fit of a learning rate for all ranks, on simulated losses whose best rates are known."""

import numpy as np
import pytest

from analysis.stats.best_rate import FORMS, Points, fit, regret, smooth_regret

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
    assert found.residual == pytest.approx(noise**2, rel=0.6, abs=4e-6)
    assert not found.edge


@pytest.mark.parametrize("form", FORMS)
def test_the_form_that_made_the_losses_fits_them_best(form):
    numbers = {"constant": (0.003,), "s r": (0.15,), "root": (0.019,), "s": (0.009,), "min": (0.15, 0.007),
               "root min": (0.019, 0.009)}[form]  # fmt: skip

    def best(s, r):
        below = {"1": 1, "s r": s * r, "sqrt(s r)": np.sqrt(s * r), "s": s}
        return min(n / below[name] for n, name in zip(numbers, FORMS[form].values(), strict=True))

    points = simulated(best, noise=0.001, scaling=0.5, rates=0.0003 * 2.5 ** np.arange(7))
    residual = {other: fit(points, other).residual for other in FORMS}
    assert residual[form] <= 1.2 * min(residual.values())
    assert max(value for other, value in residual.items() if "min" not in other) > 4 * residual[form]
    assert tuple(fit(points, form).numbers.values()) == pytest.approx(numbers, rel=0.25)


def test_a_best_rate_at_the_end_of_what_was_tried_is_said():
    found = fit(simulated(lambda s, r: 2 * RATES[-1]), "constant")
    assert found.edge and found.numbers["c"] >= 0.9 * RATES[-1]
    assert fit(simulated(lambda s, r: RATES[0] / 2), "constant").edge
    assert not fit(simulated(lambda s, r: RATES[2]), "constant").edge


def test_a_cliff_and_diverged_rates_above_the_best_do_not_move_it():
    points = simulated(lambda s, r: 0.003, cliff=lambda s, r: 0.016 / s)
    assert fit(points, "constant").numbers["c"] == pytest.approx(0.003, rel=0.2)
    lost = Points(*(points.rate, points.rank, points.scale, points.task),
                  np.where(points.rate > 0.016 / points.scale, np.inf, points.loss))  # fmt: skip
    assert fit(lost, "constant").numbers["c"] == pytest.approx(0.003, rel=0.2)


def test_what_has_no_minimum_or_too_few_rates_is_refused():
    with pytest.raises(ValueError, match="three rates"):
        fit(simulated(lambda s, r: 0.003, rates=RATES[:2]), "constant")
    flat = simulated(lambda s, r: 0.003)
    with pytest.raises(ValueError, match="no minimum"):
        fit(Points(flat.rate, flat.rank, flat.scale, flat.task, np.ones_like(flat.loss)), "constant")


def test_regret_against_the_best_rate_tried():
    rate, loss = np.array([0.001, 0.004, 0.002, 0.008]), np.array([2.2, 2.1, 2.0, np.inf])
    assert regret(rate, loss, 0.002) == 0
    assert regret(rate, loss, 0.001) == pytest.approx(0.1)
    assert regret(rate, loss, 0.003) == pytest.approx(0.05 * np.log2(1.5))
    assert np.isinf(regret(rate, loss, 0.006))
    assert np.isnan(regret(rate, loss, 0.0009)) and np.isnan(regret(rate, loss, 0.009))


def test_the_smooth_regret_of_a_parabola_is_exact_between_the_rates_and_refused_outside():
    points = simulated(lambda s, r: 0.0025)
    own = points.where((points.group == 0) & (points.rate < 0.02))  # k = 0.01, all within 2 REACH
    assert smooth_regret(own, 0.0025) == pytest.approx(0, abs=1e-12)
    assert smooth_regret(own, 0.0075) == pytest.approx(np.expm1(0.01 * np.log2(3) ** 2))
    assert smooth_regret(own, 0.0075) < regret(own.rate, own.loss, 0.0075)
    assert np.isnan(smooth_regret(own, RATES[0] / 2))
    assert np.isnan(smooth_regret(own.where(own.rate > 0.004), 0.006))  # the minimum is not inside
    assert np.isnan(smooth_regret(own.where(own.rate < 0.001), 0.0005))  # two rates
