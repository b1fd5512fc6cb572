"""Corpus metrics of other samples of the examples, against the metrics computed on those samples anew."""

import random
import subprocess
import sys

import numpy as np
import pytest
from sacrebleu.metrics import BLEU, CHRF
from scipy.stats import pearsonr, spearmanr

from experiments import metrics
from experiments.metrics.resampling import from_statistics, names

WORDS = ["the", "a", "Mill", "is", "near", "Cafe", ",", ".", "cheap", "river", "food", "not", "3", "5"]


@pytest.fixture(scope="module")
def answers():
    """Answers with one to three references each, from nothing alike to the same."""
    draw = random.Random(5)
    references, texts = [], []
    for _ in range(23):
        row = [" ".join(draw.choices(WORDS, k=draw.randrange(4, 13))) for _ in range(draw.randrange(1, 4))]
        words = [w if draw.random() < 0.7 else draw.choice(WORDS) for w in draw.choice(row).split()]
        references.append(row)
        texts.append(" ".join(words[: draw.randrange(1, len(words) + 1)]))
    return texts, references


@pytest.fixture(scope="module")
def times():
    rng = np.random.default_rng(3)
    rows = [np.bincount(rng.integers(0, 23, 23), minlength=23) for _ in range(7)]
    rows += [np.eye(23, dtype=int)[0] * 4, np.ones(23, dtype=int)]  # one example alone; all
    return np.array(rows)


def streams(references):
    most = max(map(len, references))
    return [[row[i] if i < len(row) else None for row in references] for i in range(most)]


@pytest.mark.parametrize(
    ("name", "scorer"), [("bleu", BLEU()), ("bleu_lowercase", BLEU(lowercase=True)), ("chrf", CHRF())]
)
def test_a_sample_scores_as_sacrebleu_scores_it(answers, times, name, scorer):
    texts, references = answers
    rows = metrics.statistics([name], texts, references, "answers")[f"statistics/{name}"]
    found = from_statistics(name, rows, times)
    for value, counts in zip(found, times, strict=True):
        chosen = np.repeat(np.arange(23), counts)
        sample = [texts[i] for i in chosen], streams([references[i] for i in chosen])
        assert value == pytest.approx(scorer.corpus_score(*sample).score, rel=1e-12)
    assert from_statistics(name, rows)[0] == pytest.approx(metrics.compute(name, texts, references)[name])


@pytest.mark.parametrize("name", ["bleu", "chrf", "nist"])
def test_answers_with_nothing_right_or_nothing_at_all_score_zero(name):
    for texts in (["xyz"], [""]):
        rows = metrics.statistics([name], texts, [["a b c d e f"]], "answers")[f"statistics/{name}"]
        assert from_statistics(name, rows)[0] == pytest.approx(
            metrics.compute(name, texts, [["a b c d e f"]])[name]
        )


@pytest.mark.parametrize("name", ["nist", "cider"])
def test_all_examples_give_the_metric_and_each_counts_as_often_as_it_is_drawn(answers, times, name):
    texts, references = answers
    rows = metrics.statistics([name], texts, references, "answers")[f"statistics/{name}"]
    assert from_statistics(name, rows)[0] == pytest.approx(metrics.compute(name, texts, references)[name])
    for value, counts in zip(from_statistics(name, rows, times), times, strict=True):
        assert value == pytest.approx(from_statistics(name, np.repeat(rows, counts, axis=0))[0])


@pytest.mark.parametrize(("name", "known"), [("pearson", pearsonr), ("spearman", spearmanr)])
def test_correlations_of_a_sample_are_those_of_its_pairs(times, name, known):
    rng = np.random.default_rng(1)
    truth = rng.integers(0, 6, 23).astype(float)
    guesses = truth + rng.standard_normal(23)
    rows = metrics.statistics([name], guesses, truth, "values")[f"statistics/{name}"]
    for value, counts in zip(from_statistics(name, rows, times), times, strict=True):
        chosen = np.repeat(np.arange(23), counts)
        expected = 0.0 if len(set(chosen)) == 1 else known(guesses[chosen], truth[chosen])[0]
        assert value == pytest.approx(expected)


def test_perplexity_of_a_sample_counts_tokens():
    rows, times = [[2.0, 3.0], [5.0, 4.0]], np.array([[1, 0], [2, 1]])
    assert from_statistics("perplexity", rows, times) == pytest.approx(np.exp([2 / 3, 9 / 10]))


def test_every_metric_that_is_no_mean_of_numbers_or_texts_can_be_resampled():
    corpora = {n for room in ("answers", "values") for n in metrics.names(room) if not metrics.is_mean(n)}
    assert corpora | {"perplexity"} == set(names())


def test_the_analysis_can_use_it_without_torch():
    script = (
        "import sys, experiments.metrics.resampling; sys.exit(bool({'torch', 'evaluate'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
