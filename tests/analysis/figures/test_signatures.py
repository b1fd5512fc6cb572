"""The papers' analyses against closed forms."""

import numpy as np
import pytest
from scipy import stats

from analysis.figures.papers import adalora, dora, lora, loraplus, qlora, rslora


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def directions(rng):
    """A function that draws random orthonormal columns (d, rank)."""
    return lambda d, rank: np.linalg.qr(rng.standard_normal((d, rank)))[0]


def test_a_subspace_is_like_itself_and_unlike_its_complement(directions):
    Q = directions(12, 8)
    assert lora.similarity(Q[:, :4], Q[:, :4]).diagonal() == pytest.approx(np.ones(4))
    assert lora.similarity(Q[:, :4], Q[:, 4:]) == pytest.approx(np.zeros((4, 4)), abs=1e-12)


def test_the_similarity_is_one_less_the_projection_metric(directions):
    U, V = directions(11, 3), directions(11, 3)
    distance = np.square(np.linalg.norm(U @ U.T - V @ V.T)) / 2  # d^2 = p - sum of squared cosines
    assert lora.similarity(U, V)[-1, -1] == pytest.approx(1 - distance / 3)


def test_random_subspaces_are_as_similar_as_chance_says(directions):
    d, i, j = 60, 3, 7
    pairs = [(directions(d, i), directions(d, j)) for _ in range(300)]
    found = np.mean([lora.similarity(U, V)[-1, -1] for U, V in pairs])
    assert found == pytest.approx(lora.similarity_by_chance(i, j, d), rel=0.05)


def test_the_correlation_is_pearsons_pooled_and_per_checkpoint(rng):
    dD = rng.random((4, 6))
    dM = 1 - dD + 0.1 * rng.random((4, 6))
    found = dora.correlation(dM, dD, rng=rng, draws=200)
    assert found.r == pytest.approx(stats.pearsonr(dM.ravel(), dD.ravel()).statistic)
    assert found.low < found.r < found.high < 0
    assert found.by_checkpoint[2] == pytest.approx(stats.pearsonr(dM[2], dD[2]).statistic)


def test_growth_with_time_alone_makes_the_pooled_correlation_positive(rng):
    time = np.arange(1, 5)[:, None]
    dD, dM = time + 0.1 * rng.random((4, 6)), time + 0.1 * rng.random((4, 6))
    dM -= 2 * (dD - time)  # within a checkpoint they oppose each other
    found = dora.correlation(dM, dD, rng=rng, draws=50)
    assert found.r > 0.9 and (found.by_checkpoint < 0).all()


@pytest.mark.parametrize("beta, expected", [(1.0, -0.5), (0.5, 0.0), (0.0, 0.5)])
def test_the_gradient_of_b_grows_with_the_rank_as_the_scaling_says(rng, beta, expected):
    """grad_B = s G x x^T A^T for a linear layer, with A of variance independent of the rank."""
    sizes, norms = np.array([2, 4, 8, 16, 32, 64]), []
    x, g = rng.standard_normal((64, 40)), rng.standard_normal((64, 11))
    for _ in range(5):
        norms.append([np.linalg.norm(r**-beta * g.T @ (x @ rng.uniform(-1, 1, (r, 40)).T)) for r in sizes])
    found = rslora.exponent(sizes, np.array(norms))
    assert rslora.expected_exponent(beta) == expected
    assert found.slope == pytest.approx(expected, abs=0.06) and found.low <= expected <= found.high


def test_the_exponent_of_a_power_law_is_exact():
    assert rslora.exponent(
        np.array([1, 2, 4, 8]), 3 * np.array([1, 2, 4, 8]) ** -0.25
    ).slope == pytest.approx(-0.25)


def test_the_effective_ranks_of_equal_singular_values_are_their_number():
    equal = np.array([3.0, 3, 3, 3, 0, 0])
    assert (lora.entropy_rank(equal), lora.stable_rank(equal)) == pytest.approx((4, 4))
    assert lora.stable_rank(np.array([2.0, 1.0])) == pytest.approx(1.25)


def test_rank_patterns_agree_in_order():
    assert adalora.agreement({"a": 1, "b": 2, "c": 3}, {"a": 4, "b": 6, "c": 9, "d": 1}) == pytest.approx(1)


def test_the_speed_up_of_a_curve_run_twice_as_fast_is_two():
    steps = np.arange(1, 101)
    assert loraplus.speed_up(steps, np.exp(-steps / 50), np.exp(-steps / 25)) == pytest.approx(2)
    assert loraplus.speed_up(steps, np.exp(-steps / 50), np.ones(100)) is None


def test_one_lucky_batch_is_no_arrival():
    steps, plain, variant = np.arange(1, 11), np.linspace(1, 0.1, 10), np.full(10, 0.5)
    variant[2] = 0.05
    assert loraplus.speed_up(steps, plain, variant) is None


def test_the_bits_per_weight_are_the_published_ones():
    assert sum(qlora.bits_per_weight(double=False).values()) == 4.5
    assert sum(qlora.bits_per_weight(double=True).values()) == pytest.approx(4.127, abs=5e-4)
