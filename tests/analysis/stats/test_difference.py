"""The statistics against closed forms, and against what they promise when simulated."""

import numpy as np
import pytest
from scipy import stats as sp

from analysis import stats
from analysis.stats import across


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def crossed(rng, shape, seeds, examples, noise=1.0):
    """Differences (S, N) with variances of seeds, examples and both."""
    S, N = shape
    return (
        seeds * rng.standard_normal((S, 1))
        + examples * rng.standard_normal((1, N))
        + noise * rng.standard_normal((S, N))
    )


def test_without_an_effect_of_examples_it_is_the_paired_t_test(rng):
    d = crossed(rng, (5, 40), 0.5, 0.0)
    d -= d.mean(axis=0) - d.mean()  # every example now has the same mean over seeds
    found, expected = stats.two_way(d), sp.ttest_1samp(d.mean(axis=1), 0)
    low, high = expected.confidence_interval(0.95)
    assert (found.low, found.high, found.p) == pytest.approx((low, high, expected.pvalue), rel=1e-9)


def test_without_an_effect_of_seeds_it_is_close_to_the_t_test_over_examples(rng):
    d = np.repeat(rng.standard_normal((1, 400)), 4, axis=0)  # seeds change nothing at all
    found, expected = stats.two_way(d), sp.ttest_1samp(d[0], 0)
    assert (found.noise.se, found.p) == pytest.approx((d[0].std(ddof=1) / 20, expected.pvalue), rel=1e-6)


def test_the_interval_and_the_p_value_agree(rng):
    for _ in range(20):
        found = stats.two_way(crossed(rng, (4, 30), 0.3, 0.8) + 0.2)
        assert found.mean - found.noise.half_width(found.p) == pytest.approx(0, abs=1e-7) or found.mean < 0
        assert (found.p < 0.05) == (found.low > 0 or found.high < 0)


def test_one_way_is_scipys_paired_test(rng):
    a, b = rng.standard_normal((2, 6))
    assert stats.one_way(a - b).p == pytest.approx(sp.ttest_rel(a, b).pvalue)


def test_equal_runs_are_surely_equal():
    found = stats.two_way(np.zeros((3, 10)))
    assert (found.mean, found.low, found.high, found.p) == (0, 0, 0, 1)
    assert stats.equivalence_p(found, 0.01) == 0


@pytest.mark.parametrize("S", [3, 5, 10])
@pytest.mark.parametrize(
    "seeds, examples", [(0, 0), (0.1, 0), (0.3, 0), (0, 0.3), (0, 1), (0.1, 0.5), (0.3, 1), (0.5, 1)]
)
def test_the_two_way_interval_covers(S, seeds, examples):
    rng, N, times = np.random.default_rng(S), 60, 1000
    hits = [
        (f := stats.two_way(crossed(rng, (S, N), seeds, examples))).low <= 0 <= f.high for _ in range(times)
    ]
    assert np.mean(hits) >= 0.93


def test_the_two_way_interval_covers_scores_of_zero_and_one():
    rng, S, N, hits = np.random.default_rng(1), 5, 150, []
    for _ in range(500):
        z = rng.standard_normal((1, N)) + 0.1 * rng.standard_normal((S, 1))
        answer = lambda: z + 0.5 * rng.standard_normal((1, N)) + 0.5 * rng.standard_normal((S, N)) < 0.8  # noqa: B023, E731
        found = stats.two_way(answer().astype(float) - answer())
        hits.append(found.low <= 0 <= found.high)
    assert np.mean(hits) >= 0.93


def test_averaging_over_ranks_within_a_seed_keeps_the_error_rate():
    rng, wrong = np.random.default_rng(2), []
    for _ in range(600):
        d = (
            0.2 * rng.standard_normal((5, 1, 1))
            + 0.3 * rng.standard_normal((1, 100, 1))
            + rng.standard_normal((5, 100, 3))
        )
        found = stats.two_way(d.mean(axis=2))
        wrong.append(found.low > 0 or found.high < 0)
    assert np.mean(wrong) <= 0.06


def test_tost_is_two_t_tests(rng):
    d = rng.normal(0.002, 0.004, 8)
    found = stats.one_way(d)
    expected = max(
        sp.ttest_1samp(d, m, alternative=side).pvalue for m, side in ((-0.01, "greater"), (0.01, "less"))
    )
    assert stats.equivalence_p(found, 0.01) == pytest.approx(expected)


def test_tost_at_the_margin_errs_in_five_percent():
    rng, wrong = np.random.default_rng(3), []
    for _ in range(600):
        found = stats.two_way(0.05 * crossed(rng, (5, 80), 0.2, 0.5) + 0.01)
        wrong.append(stats.equivalence_p(found, 0.01) < 0.05)
    assert np.mean(wrong) <= 0.06


@pytest.mark.parametrize("n, sds", [(3, 3.26), (5, 1.68), (8, 1.16), (10, 1.0), (20, 0.66)])
def test_the_smallest_detectable_effect_is_the_known_one(n, sds):
    assert stats.detectable(n, stats.Spread(1.0)) == pytest.approx(sds, abs=0.006)


def test_the_smallest_detectable_effect_is_found_in_four_of_five_repetitions():
    rng, S, N = np.random.default_rng(4), 5, 100
    true = stats.Noise((1 / N + 0.3**2) / S, S - 1, 0.5**2 / N, N - 1)
    effect = stats.smallest_detectable(true)
    found = [stats.two_way(crossed(rng, (S, N), 0.3, 0.5) + effect).low > 0 for _ in range(500)]
    assert 0.74 <= np.mean(found) <= 0.86


def test_the_seeds_needed_show_the_effect_and_one_less_do_not():
    n = stats.seeds_needed(0.01, stats.Spread(0.012))
    assert stats.detectable(n, stats.Spread(0.012)) <= 0.01 < stats.detectable(n - 1, stats.Spread(0.012))
    assert stats.seeds_needed(1e-6, stats.Spread(1.0)) is None


@pytest.mark.parametrize("S", [3, 5, 8])
def test_the_sign_flip_counts_every_pattern(rng, S):
    d = rng.normal(0.3, 1, S)
    expected = sp.permutation_test((d,), np.mean, permutation_type="samples", n_resamples=np.inf).pvalue
    assert stats.sign_flip(d, rng=rng) == pytest.approx((expected, 2 / 2**S))


def test_the_sign_flip_of_five_seeds_cannot_go_below_its_floor(rng):
    assert stats.sign_flip(np.ones(5), rng=rng) == (0.0625, 0.0625)


def test_the_sign_flip_of_many_seeds_is_sampled(rng):
    d = rng.normal(0.2, 1, 40)
    assert stats.sign_flip(d, rng=rng)[0] == pytest.approx(sp.ttest_1samp(d, 0).pvalue, abs=0.02)


def test_mcnemar_is_the_binomial_test_on_the_discordant():
    variant, baseline = (
        np.array([[1, 1, 1, 0, 1], [1, 0, 1, 0, 1]]),
        np.array([[0, 0, 0, 1, 1], [1, 0, 1, 0, 1]]),
    )
    assert stats.mcnemar(variant, baseline) == pytest.approx([sp.binomtest(3, 4).pvalue, 1.0])


def test_holm_steps_down():
    assert stats.holm(np.array([0.03, 0.01, 0.02])) == pytest.approx([0.04, 0.03, 0.04])
    assert stats.holm(np.array([0.5, 0.9])) == pytest.approx([1.0, 1.0])


def test_wilson_is_scipys():
    low, high = sp.binomtest(70, 100).proportion_ci(method="wilson")
    assert stats.wilson(70, 100) == pytest.approx((low, high))


def test_the_interquartile_mean_cuts_a_quarter_at_each_end():
    assert across.iqm([np.array([0.0, 1, 2, 100]), np.array([3.0, 4, -50, 5])]) == pytest.approx(
        np.mean([1, 2, 3, 4])
    )


def test_the_probability_of_improvement_is_mann_whitney(rng):
    a, b = rng.standard_normal(7), rng.standard_normal(5)
    assert across.improvement([a], [b]) == pytest.approx(sp.mannwhitneyu(a, b).statistic / 35)
    assert across.improvement([np.ones(3), np.ones(2)], [np.ones(3), np.zeros(2)]) == pytest.approx(0.75)


def test_the_stratified_interval_never_mixes_datasets(rng):
    easy, hard = np.array([0.9, 0.9, 0.9]), np.array([0.1, 0.1, 0.1])
    assert across.stratified(lambda x: np.mean([s.mean(-1) for s in x], axis=0), [easy, hard], rng=rng) == (
        0.5,
        0.5,
    )


def test_the_stratified_interval_is_the_same_for_the_same_generator():
    x = [np.random.default_rng(0).standard_normal(8)]
    go = lambda: across.stratified(across.iqm, x, rng=np.random.default_rng(7), draws=200)  # noqa: E731
    assert go() == go()


def test_the_expected_best_agrees_with_enumeration():
    values = np.array([0.3, 0.1, 0.4, 0.2])
    pairs = [max(values[i], values[j]) for i in range(4) for j in range(i)]
    assert across.expected_best(values, np.array([1, 2, 4])) == pytest.approx([0.25, np.mean(pairs), 0.4])


def test_the_robust_width_of_a_tent_is_known():
    lr, score = 10.0 ** np.arange(-4, 1), np.array([0.0, 0.5, 1.0, 0.5, 0.0])
    assert across.robust_width(lr, score, within=0.25) == pytest.approx((1.0, False))
    assert across.robust_width(lr, np.arange(5) / 10, within=0.1) == pytest.approx((1.0, True))


def on_the_same_examples(S, N, k):
    """A variant that is wrong on the same k of N examples with every seed, where the baseline is right."""
    return stats.two_way(np.tile(-(np.arange(N) < k).astype(float), (S, 1)), step=1.0)


@pytest.mark.parametrize("S, N", [(3, 50), (5, 100), (10, 300), (5, 1000)])
def test_few_examples_that_differ_leave_the_interval_wide(S, N):
    """The exact coverage where 1% of all examples differ: their number is binomial."""
    found = [(k, on_the_same_examples(S, N, k)) for k in range(N // 20 + 9)]
    assert sum(sp.binom.pmf(k, N, 0.01) for k, f in found if f.low <= -0.01 <= f.high) >= 0.93


@pytest.mark.parametrize("S", [3, 10])
@pytest.mark.parametrize("N", [50, 300, 380, 500, 900, 1000, 1160, 3000])
def test_tost_of_few_examples_that_differ_errs_in_five_percent(S, N):
    """The exact error rate of a variant that is worse by the margin of 0.01."""
    found = [(k, on_the_same_examples(S, N, k)) for k in range(N // 20 + 9)]
    assert sum(sp.binom.pmf(k, N, 0.01) for k, f in found if stats.equivalence_p(f, 0.01) < 0.05) <= 0.05


def test_tost_of_examples_that_differ_anew_with_each_seed_keeps_its_power():
    rng = np.random.default_rng(7)
    draws = [rng.choice([-1.0, 0.0, 1.0], size=(5, 1000), p=[0.005, 0.99, 0.005]) for _ in range(100)]
    assert np.mean([stats.equivalence_p(stats.two_way(d, step=1.0), 0.01) < 0.05 for d in draws]) >= 0.95


def test_many_examples_that_differ_make_the_step_small(rng):
    d = rng.choice([-1.0, 0.0, 1.0], size=(5, 2000), p=[0.1, 0.8, 0.1])
    without, counted = stats.two_way(d).noise.se, stats.two_way(d, step=1.0).noise.se
    assert without < counted < 1.1 * without


@pytest.mark.parametrize("S", [3, 5, 10])
@pytest.mark.parametrize("effect", [0.0, 1.5])
def test_the_intervals_across_datasets_cover(S, effect):
    rng, times, levels = np.random.default_rng(S), 150, np.linspace(0.5, 0.8, 4)
    mean = lambda strata: np.mean([x.mean(axis=-1) for x in strata], axis=0)  # noqa: E731
    better, hits = sp.norm.cdf(effect / np.sqrt(2)), []
    for _ in range(times):
        plain = [level + 0.01 * rng.standard_normal(S) for level in levels]
        other = [level + 0.01 * (effect + rng.standard_normal(S)) for level in levels]
        low, high = across.stratified(mean, plain, rng=rng, draws=300)
        least, most = across.improvement_interval(other, plain, rng=rng)
        hits.append((low <= levels.mean() <= high, least <= better <= most))
    assert (np.mean(hits, axis=0) >= 0.92).all()


def test_a_variant_that_always_won_is_not_sure_to_win_again(rng):
    won, lost = [np.ones(3), np.ones(3)], [np.zeros(3), np.zeros(3)]
    low, high = across.improvement_interval(won, lost, rng=rng)
    assert low < 0.75 and high == 1.0
