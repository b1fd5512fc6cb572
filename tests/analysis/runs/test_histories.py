"""Curves: what of a history counts, and how it is thinned."""

import numpy as np

from analysis.runs.histories import column, picked, thin


def test_a_step_logged_again_counts_as_logged_last_and_what_is_no_number_does_not_count():
    rows = [
        {"step": 1, "loss": 3}, {"step": 2, "loss": 9.0}, {"step": 3, "loss": float("nan")},
        {"step": 3, "loss": 1.5}, {"step": 3, "loss": float("inf")}, {"step": 4, "loss": "2.0"},
        {"step": 4, "loss": True}, {"step": "5", "loss": 1.0}, {"step": 6, "validation/loss": 1.0}, "no row",
        {"step": 2, "loss": 2.5},
    ]  # fmt: skip
    assert column(rows, "loss").tolist() == [[1, 3], [2, 2.5], [3, 1.5]]


def test_a_column_that_was_never_logged_is_empty():
    assert column([{"step": 1}], "loss").shape == (0, 2)


def test_a_thinned_curve_is_made_of_means_over_equal_stretches():
    curve = np.column_stack([np.arange(10.0), np.arange(10.0) ** 2])
    assert thin(curve, 5).tolist() == [[0.5, 0.5], [2.5, 6.5], [4.5, 20.5], [6.5, 42.5], [8.5, 72.5]]
    assert thin(curve, 10) is curve


def test_what_is_picked_of_a_curve_stood_in_it_from_the_first_to_the_last():
    curve = np.column_stack([np.arange(101), np.arange(101) % 7])
    some = picked(curve, 9)
    assert some[[0, -1]].tolist() == [[0, 0], [100, 2]]
    assert len(some) == 9 and all(step % 7 == value for step, value in some)
    assert picked(curve, 101) is curve
