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


def test_the_best_mean_on_validation_wins_whatever_the_test_says():
    found = [
        made("lora", 0.01, 0.6, test=0.9), made("lora", 0.01, 0.5, test=0.9),
        made("lora", 0.005, 0.58), made("lora", 0.005, 0.56),
        made("lora", 0.02, 0.1), made("lora", 0.02, 0.9),
        made("lora", 0.001, 0.2), made("lora", 0.001, 0.2),
    ]  # fmt: skip
    [choice] = choose(found)
    assert choice.best == 0.005
    assert choice.means[0.01] == pytest.approx(0.55)
    assert not choice.at_edge


def test_a_rate_at_which_a_run_diverged_is_not_chosen():
    [choice] = choose(
        [made("dora", 0.1, 0.99), made("dora", 0.1, 0.0, status="diverged"), made("dora", 0.01, 0.3)]
    )
    assert choice.best == 0.01
    assert choice.at_edge
    assert "try further" in table([choice])


def test_a_metric_to_be_minimised_is_minimised():
    [choice] = choose(
        [
            made("lora", 0.1, 2.0, goal="min"),
            made("lora", 0.2, 1.0, goal="min"),
            made("lora", 0.3, 3.0, goal="min"),
        ]
    )
    assert (choice.best, choice.at_edge) == (0.2, False)
    assert choice.means[0.2] == 1.0
