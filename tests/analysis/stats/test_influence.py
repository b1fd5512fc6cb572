"""Metrics that are no mean over examples, as means of one value per example."""

import numpy as np
import pytest
from sklearn import metrics

from analysis.stats import influence

ORACLES = {
    "macro_f1": lambda t, p: metrics.f1_score(t, p, average="macro", zero_division=0.0),
    "matthews": metrics.matthews_corrcoef,
    "f1": lambda t, p: metrics.f1_score(t == "dd", p == "dd"),
}


def drawn(rng, n=61):
    labels = rng.choice(["a", "b", "c", "dd"], size=n, p=[0.1, 0.2, 0.3, 0.4])
    guess = rng.choice(["a", "b", "c", "dd"], size=n)
    return labels, np.where(rng.random(n) < 0.6, labels, guess)


@pytest.mark.parametrize("name", ORACLES)
def test_the_values_are_the_jackknifes_and_their_mean_is_the_metric(name):
    labels, guesses = drawn(np.random.default_rng(3))
    found, n, metric = influence.pseudo_values(name, labels, guesses), 61, ORACLES[name]
    without = [metric(np.delete(labels, i), np.delete(guesses, i)) for i in range(n)]
    assert found.mean() == pytest.approx(metric(labels, guesses))
    assert found - found.mean() == pytest.approx(-(n - 1) * (np.array(without) - np.mean(without)))


@pytest.mark.parametrize("name", ORACLES)
def test_their_standard_error_is_that_of_new_samples(name):
    rng = np.random.default_rng(5)
    samples = [drawn(rng, 401) for _ in range(400)]
    spread = np.std([ORACLES[name](*sample) for sample in samples])
    found = np.mean([influence.pseudo_values(name, *s).std(ddof=1) / np.sqrt(401) for s in samples[:50]])
    assert found == pytest.approx(spread, rel=0.12)
