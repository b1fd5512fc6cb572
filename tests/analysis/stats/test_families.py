"""Adjusted p values of many comparisons, against Holm's and against what they promise."""

import numpy as np
import pytest

from analysis import stats

TREE = np.array([-1, -1, 0, 0, 1, 1, 1])  # two variants; two ranks of the one, three of the other


def test_without_branches_it_is_holms_method():
    rng = np.random.default_rng(0)
    for m in (1, 2, 5, 9):
        p = rng.random(m) ** 3
        order = np.sort(p) * (m - np.arange(m))
        expected = np.minimum(np.maximum.accumulate(order), 1)[np.argsort(np.argsort(p))]
        assert stats.holm(p) == pytest.approx(expected)


def test_what_lies_below_waits_for_what_lies_above():
    p = np.array([0.2, 0.004, 1e-9, 1e-9, 0.001, 0.5, 0.5])
    adjusted = stats.within_tree(p, TREE)
    assert (adjusted[2:4] >= adjusted[0]).all() and adjusted[0] == pytest.approx(0.4)  # 0.2 x 2 variants
    assert adjusted[1] == pytest.approx(0.008) and adjusted[4] == pytest.approx(0.008)


def test_a_branch_that_is_rejected_as_a_whole_hands_its_share_on():
    """The first variant and both its ranks are rejected, so that the second has the whole level."""
    p = np.array([1e-6, 0.03, 1e-6, 1e-6, 1.0, 1.0, 1.0])
    assert stats.within_tree(p, TREE)[1] == pytest.approx(0.03)
    p[3] = 0.9
    assert stats.within_tree(p, TREE)[1] == pytest.approx(0.06)


@pytest.mark.parametrize("true", [(), (0, 2), (0, 2, 3), (1, 4, 5), (0, 1, 2, 4)])
def test_any_wrong_rejection_is_rare_whichever_are_true(true):
    """`true` differences have p near 0; the others are uniform and independent."""
    rng, wrong = np.random.default_rng(len(true)), []
    null = np.setdiff1d(np.arange(7), true)
    for _ in range(4000):
        p = rng.random(7)
        p[list(true)] **= 12
        wrong.append((stats.within_tree(p, TREE)[null] < 0.05).any())
    assert np.mean(wrong) <= 0.058  # 0.05 and 2.3 standard errors
