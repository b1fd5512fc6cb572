"""The choice of default learning rates reads validation alone."""

import pytest

from analysis.defaults import choose, table


def made(variant, lr, validation, *, test=0.0, status="completed", goal="max"):
    return {
        "status": status,
        "spec": {"variant": variant, "lr": lr},
        "primary": {"metric": "accuracy" if goal == "max" else "loss", "goal": goal},
        "metrics": {
            f"validation/{'accuracy' if goal == 'max' else 'loss'}": validation,
            "test/accuracy": test,
        },
    }


def test_the_rate_wins_whose_double_does_well_too_whatever_the_test_says():
    found = [
        made("lora", 0.00125, 0.5), made("lora", 0.0025, 0.60, test=0.1),
        made("lora", 0.0025, 0.62, test=0.1),
        made("lora", 0.005, 0.65, test=0.9), made("lora", 0.01, 0.55, test=0.9), made("lora", 0.02, 0.1),
    ]  # fmt: skip
    [choice] = choose(found)
    assert choice.best == 0.0025
    assert choice.means[0.0025] == pytest.approx(0.61)
    assert not choice.at_edge


def test_a_rate_whose_double_diverged_is_not_chosen():
    found = [made("dora", 0.01, 0.3), made("dora", 0.02, 0.99), made("dora", 0.04, 0.0, status="diverged")]
    [choice] = choose(found)
    assert choice.best == 0.01
    assert choice.at_edge
    assert "try further" in table([choice])


def test_rates_without_a_double_give_no_choice():
    [choice] = choose([made("dora", 0.01, 0.3), made("dora", 0.03, 0.9)])
    assert choice.best is None


def test_a_metric_to_be_minimised_is_minimised():
    losses = {0.1: 3.0, 0.2: 2.0, 0.4: 1.0, 0.8: 1.5, 1.6: 9.0}
    [choice] = choose([made("lora", rate, loss, goal="min") for rate, loss in losses.items()])
    assert (choice.best, choice.at_edge) == (0.4, False)
    assert choice.means[0.4] == 1.0
