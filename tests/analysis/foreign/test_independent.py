"""Intervals of independent samples, against the formulas written out and simulated data."""

import numpy as np
import pytest
from scipy import stats as reference

from analysis.foreign import independent


def cell(scores, n=np.nan, peer="p"):
    scores = np.asarray(scores, float)
    sd = scores.std(ddof=1) if len(scores) > 1 else np.nan
    return {"mean": scores.mean(), "sd": sd, "n": len(scores), "test_rows": n, "peer_key": peer}


def test_sides_are_welch_s():
    rng = np.random.default_rng(0)
    a, b = rng.normal(0.5, 0.01, 4), rng.normal(0.52, 0.03, 7)
    one, two = independent.side([cell(a)]), independent.side([cell(b)])
    welch = reference.ttest_ind(a, b, equal_var=False)
    own = one.between + two.between
    df = own**2 / (one.between**2 / one.df + two.between**2 / two.df)
    assert df == pytest.approx(welch.df)
    assert (one.mean - two.mean) / own**0.5 == pytest.approx(welch.statistic)


def test_a_side_over_ranks_is_the_mean_of_independent_cells():
    rng = np.random.default_rng(1)
    parts = [rng.normal(0.5, 0.02, 5), rng.normal(0.6, 0.01, 3)]
    found = independent.side([cell(part) for part in parts])
    assert found.mean == pytest.approx(np.mean([part.mean() for part in parts]))
    assert found.between == pytest.approx(sum(part.var(ddof=1) / len(part) for part in parts) / 4)
    assert found.runs == 3


@pytest.mark.parametrize(("scale", "alike"), [(1.0, True), (40.0, False)])
def test_spreads_are_pooled_only_where_bartlett_finds_them_alike(scale, alike):
    rng = np.random.default_rng(2)
    groups = [rng.normal(0, s, 5) for s in (1.0, 1.0, 1.0, scale)]
    assert (reference.bartlett(*groups).pvalue > 0.1) is np.bool_(alike)
    variance, df = independent.pooled([cell(group) for group in groups])
    if alike:
        assert variance == pytest.approx(np.mean([g.var(ddof=1) for g in groups])) and df == 16
    else:
        assert np.isnan(variance)


def test_the_best_of_many_equal_rates_is_seldom_called_better(published, audited, tmp_path):
    """20 studies of two equal methods, 7 rates each, everything chosen on the test set: no verdict at all."""
    from analysis.runs.cells import cells
    from analysis.runs.load import read

    rng, wrong = np.random.default_rng(3), 0
    rates = tuple(10.0 ** -np.arange(2, 9))
    for i in range(20):
        published.runs.clear()
        for method in ("lora", "dora"):
            published.on_test(method=method, rates=rates, seeds=range(4), spread=0)
        for run in published.runs:
            run["test"] = 0.6 + 0.01 * rng.standard_normal()
        from analysis.foreign import importing

        folder, _ = importing.study(published.csv(), "csv", tmp_path / f"study{i}")
        study = read(folder)
        found = independent.verdicts(study, cells(study))
        wrong += found.table["conclusion"].isin(["better", "worse"]).any()
    assert wrong == 0
