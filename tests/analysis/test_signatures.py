"""The papers' analyses against closed forms."""

import numpy as np
import pytest
from scipy import stats

from analysis.signatures import magnitude, ranks, rates, scaling, storage, subspaces

NF4 = np.array(
    [
        -1.0,
        -0.6961928009986877,
        -0.5250730514526367,
        -0.39491748809814453,
        -0.28444138169288635,
        -0.18477343022823334,
        -0.09105003625154495,
        0.0,
        0.07958029955625534,
        0.16093020141124725,
        0.24611230194568634,
        0.33791524171829224,
        0.44070982933044434,
        0.5626170039176941,
        0.7229568362236023,
        1.0,
    ]
)
FP4 = np.array(
    [-1, -2 / 3, -1 / 2, -1 / 3, -1 / 4, -1 / 6, -1 / 192, 0, 1 / 192, 1 / 6, 1 / 4, 1 / 3, 1 / 2, 2 / 3, 1]
)
INT4 = np.arange(-7, 8) / 7


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_a_subspace_is_like_itself_and_unlike_its_complement(rng):
    Q = subspaces.random_directions(12, 8, rng=rng)
    assert subspaces.similarity(Q[:, :4], Q[:, :4]).diagonal() == pytest.approx(np.ones(4))
    assert subspaces.similarity(Q[:, :4], Q[:, 4:]) == pytest.approx(np.zeros((4, 4)), abs=1e-12)


def test_the_similarity_is_one_less_the_projection_metric(rng):
    U, V = subspaces.random_directions(11, 3, rng=rng), subspaces.random_directions(11, 3, rng=rng)
    distance = np.square(np.linalg.norm(U @ U.T - V @ V.T)) / 2  # d^2 = p - sum of squared cosines
    assert subspaces.similarity(U, V)[-1, -1] == pytest.approx(1 - distance / 3)


def test_random_subspaces_are_as_similar_as_chance_says(rng):
    d, i, j = 60, 3, 7
    pairs = [
        (subspaces.random_directions(d, i, rng=rng), subspaces.random_directions(d, j, rng=rng))
        for _ in range(300)
    ]
    found = np.mean([subspaces.similarity(U, V)[-1, -1] for U, V in pairs])
    assert found == pytest.approx(subspaces.similarity_by_chance(i, j, d), rel=0.05)


def test_the_directions_of_a_factor_are_its_right_singular_vectors(rng):
    A = rng.standard_normal((4, 9))
    V = subspaces.right_vectors(A)
    assert V.shape == (9, 4)
    assert np.linalg.norm(A @ V) == pytest.approx(np.linalg.norm(A))


def test_the_amplification_of_a_known_change(rng):
    U, V = subspaces.random_directions(9, 5, rng=rng), subspaces.random_directions(7, 5, rng=rng)
    W0 = U @ np.diag([5.0, 4, 3, 2, 1]) @ V.T
    change = 6.0 * np.outer(U[:, 4], V[:, 4])  # the weakest direction of W0, amplified six times
    assert subspaces.amplification(change, W0, 1) == pytest.approx(6.0)
    assert subspaces.controls(W0, 2, rng=rng)[0] == pytest.approx(np.sqrt(25 + 16))


def test_the_random_control_is_the_published_one():
    assert subspaces.projected_by_chance(61.95, 4, 12288, 12288) == pytest.approx(0.02, abs=0.0005)
    assert subspaces.projected_by_chance(61.95, 64, 12288, 12288) == pytest.approx(0.32, abs=0.005)


def test_the_random_control_is_what_random_directions_give(rng):
    W0 = rng.standard_normal((40, 30))
    found = [subspaces.controls(W0, 3, rng=rng)[1] for _ in range(300)]
    expected = subspaces.projected_by_chance(np.linalg.norm(W0), 3, 40, 30)
    assert np.sqrt(np.mean(np.square(found))) == pytest.approx(expected, rel=0.06)


def test_a_change_inside_the_top_of_the_base_is_like_it(rng):
    U, V = subspaces.random_directions(50, 20, rng=rng), subspaces.random_directions(40, 20, rng=rng)
    W0 = U @ np.diag(np.arange(20.0, 0, -1)) @ V.T
    same = subspaces.against_base(np.outer(U[:, 0], V[:, 0]), W0)
    other = subspaces.against_base(np.outer(U[:, 15], V[:, 15]), W0)
    assert same[0, 0] == pytest.approx(1) and other == pytest.approx(np.zeros_like(other), abs=1e-12)


def test_the_effective_ranks_of_equal_singular_values_are_their_number(rng):
    change = subspaces.random_directions(9, 4, rng=rng) @ subspaces.random_directions(7, 4, rng=rng).T
    assert subspaces.effective_rank(change) == pytest.approx((4, 4))


def test_magnitude_and_direction_change_apart():
    W0 = np.array([[3.0, 4.0, 0.0], [0.0, 0.0, 2.0]])
    assert magnitude.magnitude_and_direction(2 * W0, W0) == pytest.approx(((5 + 2) / 2, 0))
    turned = np.array([[-4.0, 3.0, 0.0], [0.0, 2.0, 0.0]])  # both rows by a right angle, lengths kept
    assert magnitude.magnitude_and_direction(turned, W0) == pytest.approx((0, 1))


def test_the_correlation_is_pearsons_pooled_and_per_checkpoint(rng):
    dD = rng.random((4, 6))
    dM = 1 - dD + 0.1 * rng.random((4, 6))
    found = magnitude.correlation(dM, dD, rng=rng, draws=200)
    assert found.r == pytest.approx(stats.pearsonr(dM.ravel(), dD.ravel()).statistic)
    assert found.low < found.r < found.high < 0
    assert found.by_checkpoint[2] == pytest.approx(stats.pearsonr(dM[2], dD[2]).statistic)


def test_growth_with_time_alone_makes_the_pooled_correlation_positive(rng):
    time = np.arange(1, 5)[:, None]
    dD, dM = time + 0.1 * rng.random((4, 6)), time + 0.1 * rng.random((4, 6))
    dM -= 2 * (dD - time)  # within a checkpoint they oppose each other
    found = magnitude.correlation(dM, dD, rng=rng, draws=50)
    assert found.r > 0.9 and (found.by_checkpoint < 0).all()


@pytest.mark.parametrize("beta, expected", [(1.0, -0.5), (0.5, 0.0), (0.0, 0.5)])
def test_the_gradient_of_b_grows_with_the_rank_as_the_scaling_says(rng, beta, expected):
    """grad_B = s G x x^T A^T for a linear layer, with A of variance independent of the rank."""
    sizes, norms = np.array([2, 4, 8, 16, 32, 64]), []
    x, g = rng.standard_normal((64, 40)), rng.standard_normal((64, 11))
    for _ in range(5):
        norms.append([np.linalg.norm(r**-beta * g.T @ (x @ rng.uniform(-1, 1, (r, 40)).T)) for r in sizes])
    found = scaling.exponent(sizes, np.array(norms))
    assert scaling.expected_exponent(beta) == expected
    assert found.slope == pytest.approx(expected, abs=0.06) and found.low <= expected <= found.high


def test_the_exponent_of_a_power_law_is_exact():
    assert scaling.exponent(
        np.array([1, 2, 4, 8]), 3 * np.array([1, 2, 4, 8]) ** -0.25
    ).slope == pytest.approx(-0.25)


def test_final_ranks_are_laid_out_by_layer_and_kind():
    values = {"l0.q": np.array([1.0, 0, 2]), "l1.q": np.array([0.0, 0, 0]), "l1.v": np.array([1.0, 1, 1])}
    place = {"l0.q": ("q", 0), "l1.q": ("q", 1), "l1.v": ("v", 1)}
    kinds, layers, table = ranks.grid(ranks.final_ranks(values), place)
    assert (kinds, layers) == (["q", "v"], [0, 1])
    assert np.array_equal(table, [[2, 0], [np.nan, 3]], equal_nan=True)


def test_the_budget_falls_by_a_cubic_between_its_ends():
    b = ranks.planned_budget(
        np.array([0, 10, 45, 80, 100]), start=24, target=16, begin=10, settle=20, steps=100
    )
    assert b == pytest.approx([24, 24, 16 + 8 * 0.5**3, 16, 16])


def test_reactivations_count_each_return():
    assert ranks.reactivations(np.array([[1, 1], [0, 1], [1, 0], [0, 1]], bool)) == 2


def test_orthonormal_columns_leave_no_residual(rng):
    Q = subspaces.random_directions(9, 4, rng=rng)
    assert ranks.orthogonality(Q) == pytest.approx(0, abs=1e-12)
    assert ranks.orthogonality(2 * Q) == pytest.approx(3 * 2)


def test_rank_patterns_agree_in_order():
    assert ranks.agreement({"a": 1, "b": 2, "c": 3}, {"a": 4, "b": 6, "c": 9, "d": 1}) == pytest.approx(1)


def test_the_heat_map_compares_with_its_diagonal():
    value = np.array([[0.5, 0.6, 0.9], [0.4, 0.7, np.nan], [0.1, 0.2, 0.3]])
    lr = np.array([1e-4, 1e-3, 1e-2])
    found = rates.heat_map(lr, lr, value, top=2)
    assert found.best == (1e-4, 1e-2) and found.diagonal == (1e-3, 1e-3)
    assert found.gap == pytest.approx(0.2) and found.ratios == pytest.approx([100, 1])


def test_a_grid_without_a_diagonal_is_refused():
    with pytest.raises(ValueError, match="no plain LoRA"):
        rates.heat_map(np.array([1e-4]), np.array([1e-3]), np.array([[0.5]]))


def test_the_speed_up_of_a_curve_run_twice_as_fast_is_two():
    steps = np.arange(1, 101)
    assert rates.speed_up(steps, np.exp(-steps / 50), np.exp(-steps / 25)) == pytest.approx(2)
    assert rates.speed_up(steps, np.exp(-steps / 50), np.ones(100)) is None


def test_one_lucky_batch_is_no_arrival():
    steps, plain, variant = np.arange(1, 11), np.linspace(1, 0.1, 10), np.full(10, 0.5)
    variant[2] = 0.05
    assert rates.speed_up(steps, plain, variant) is None


def test_the_bits_per_weight_are_the_published_ones():
    assert sum(storage.bits_per_weight(double=False).values()) == 4.5
    assert sum(storage.bits_per_weight(double=True).values()) == pytest.approx(4.127, abs=5e-4)
    n = 64 * 256 * 8
    assert 8 * (storage.tensor_bytes(n, double=True) - 4) / n == sum(
        storage.bits_per_weight(double=True).values()
    )
    assert 8 * storage.tensor_bytes(n, double=False) / n == 4.5


def test_normal_weights_lose_least_in_nf4_and_most_in_int4(rng):
    W = rng.standard_normal((256, 128))
    nf4, fp4, int4 = (storage.relative_error(W, storage.blockwise(W, code)) for code in (NF4, FP4, INT4))
    assert nf4 < fp4 and nf4 < int4
    assert nf4 == pytest.approx(0.0083, rel=0.1)


def test_weights_on_the_code_book_come_back_whole():
    W = np.tile(NF4, 8).reshape(2, 64) * 3
    assert storage.blockwise(W, NF4) == pytest.approx(W)
    assert storage.blockwise(np.zeros((1, 64)), NF4) == pytest.approx(np.zeros((1, 64)))


def test_the_recovery_is_the_share_brought_back():
    assert storage.recovery(0.8, 0.6, 0.75) == pytest.approx(0.75)
    with pytest.raises(ValueError, match="lost nothing"):
        storage.recovery(0.8, 0.8, 0.8)


def test_memory_is_stacked_by_part():
    parts = storage.memory(base=100, unquantised=10, trained=5, activations=7)
    assert parts == {
        "base": 100,
        "unquantised": 10,
        "adapters": 20,
        "gradients": 20,
        "optimiser": 40,
        "activations": 7,
    }
