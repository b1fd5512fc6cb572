"""The smoothed choice of a learning rate, against known curves."""

import numpy as np
import pytest

from experiments.protocol import point_noise, smoothed

RATES = 2.0 ** np.arange(-2.0, 3.0)


def test_a_parabola_whose_top_moves_with_the_rank_is_found_as_it_is():
    rank = np.repeat([4.0, 8, 16], 5)
    rate = np.tile(RATES, 3)
    x, size = np.log2(rate), np.log2(rank)
    score = 0.7 + 0.01 * size - 0.002 * x**2 - 0.001 * x * size
    found = smoothed(rate, rank, score, noise=0.01)
    assert found.score == pytest.approx(score) and found.residual == pytest.approx(0, abs=1e-20)
    assert found.smoother @ score == pytest.approx(score) and found.df == 15 - 6


def test_the_noise_is_that_of_a_mean_and_a_few_wild_points_do_not_count():
    rng = np.random.default_rng(0)
    points = list(0.01 * rng.standard_normal((400, 2)))
    assert point_noise(points) == pytest.approx(0.01 / np.sqrt(2), rel=0.15)
    wild = [point * 50 if i % 10 == 0 else point for i, point in enumerate(points)]
    assert point_noise(wild) == pytest.approx(point_noise(points), rel=0.25)
    assert np.isnan(point_noise([[0.5], [0.6]]))


def test_a_cliff_neither_attracts_the_choice_nor_is_chosen():
    score = np.array([0.68, 0.69, 0.70, 0.69, 0.10])
    found = smoothed(RATES, np.full(5, 8.0), score, noise=0.005).score
    assert found.argmax() in (1, 2, 3) and found[4] < found[:4].min()


@pytest.mark.parametrize("noise", [0.0, float("nan")])
def test_without_known_noise_or_with_three_rates_scores_stay_as_they_are(noise):
    score = np.array([0.1, 0.4, 0.3, 0.2, 0.1])
    assert smoothed(RATES, np.full(5, 8.0), score, noise).score is score
    assert smoothed(RATES[:3], np.full(3, 8.0), score[:3], 0.01).score == pytest.approx(score[:3])


@pytest.mark.parametrize("ranks", [1, 4])
def test_the_smoothed_choice_costs_less_than_the_highest_score(ranks):
    """Regret with 1 point of noise for each rate, a parabola of 0.5 points an octave^2."""
    rng, rank = np.random.default_rng(0), np.repeat(2.0 ** np.arange(2, 2 + ranks), 5)
    rate, cost = np.tile(RATES, ranks), np.tile(0.005 * np.arange(-2, 3) ** 2, ranks)
    raw, fit = [], []
    for _ in range(300):
        score = 0.7 - cost + 0.01 * rng.standard_normal(len(rate))
        for taken, by in ((raw, score), (fit, smoothed(rate, rank, score, 0.01).score)):
            taken.append(cost.reshape(ranks, 5)[np.arange(ranks), by.reshape(ranks, 5).argmax(axis=1)].mean())
    assert np.mean(fit) < (0.4 if ranks > 1 else 0.8) * np.mean(raw)
