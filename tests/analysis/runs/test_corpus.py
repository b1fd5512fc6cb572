"""Corpus metrics, as BLEU: their intervals over examples, against sacrebleu on resampled answers."""

import random

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sacrebleu.metrics import BLEU

from analysis import stats
from experiments import metrics

WORDS = ["the", "a", "Mill", "is", "near", "Cafe", "cheap", "river", "food", "not", "family", "3", "5"]
N, SEEDS, DRAWS = 83, 3, 120
SCORER = BLEU()


def references(draw):
    return [[" ".join(draw.choices(WORDS, k=draw.randrange(6, 13)))] for _ in range(N)]


def answered(draw, truth, right):
    """Answers that keep each word of the reference with a probability that differs between examples."""
    return [
        " ".join(w if draw.random() < keep else draw.choice(WORDS) for w in row[0].split())
        for row, keep in zip(truth, right, strict=True)
    ]


@pytest.fixture
def answers(writer):
    """A written study of BLEU, and its raw answers by variant and seed with their references."""
    draw, w = random.Random(7), writer("e2e", n_examples=N)
    truth = references(draw)
    easy = [draw.uniform(0.6, 0.97) for _ in range(N)]
    texts = {}
    for variant, gain in (("lora", 0.0), ("dora", 0.06)):
        own = [min(1.0, keep + gain + draw.gauss(0, 0.08)) for keep in easy]
        for seed in range(SEEDS):
            answer = texts[variant, seed] = answered(draw, truth, own)
            value = SCORER.corpus_score(answer, [[row[0] for row in truth]]).score
            values = {"test/bleu": value, "validation/bleu": value, "test/loss": 1.0}
            primary = {"metric": "bleu", "goal": "max"}
            record = w.run(w.spec(variant, 8, seed), metrics=values, primary=primary, predictions=False)
            rows = metrics.statistics(["bleu"], answer, truth, "answers")
            ids = {"id": [f"t{i}" for i in range(N)], "score": np.zeros(N)}
            pq.write_table(pa.table(ids | rows), w.root / record["run_id"] / "predictions.parquet")
    return w, texts, truth


def test_the_interval_over_examples_is_that_of_resampled_answers(answers, judged):
    w, texts, truth = answers
    row = judged(w)[0]["dora", 8.0]
    score = lambda text, at: SCORER.corpus_score([text[i] for i in at], [[truth[i][0] for i in at]]).score  # noqa: E731
    apart = lambda at: np.mean(  # noqa: E731
        [score(texts["dora", s], at) - score(texts["lora", s], at) for s in range(SEEDS)]
    )
    assert row["n_examples"] == N and row["difference"] == pytest.approx(apart(range(N)))
    rng = np.random.default_rng(0)
    spread = np.std([apart(rng.integers(0, N, N)) for _ in range(DRAWS)])
    ours = np.mean([values(w, "dora", s) - values(w, "lora", s) for s in range(SEEDS)], axis=0)
    assert ours.std(ddof=1) / np.sqrt(N) == pytest.approx(spread, rel=0.2)
    found = stats.two_way(np.array([values(w, "dora", s) - values(w, "lora", s) for s in range(SEEDS)]))
    assert row["found"].noise.examples == pytest.approx(found.noise.examples)
    assert row["margin"] == 1.0


def values(w, variant, seed):
    """The examples' parts as the analysis takes them, in the order of the file."""
    from analysis.runs import load

    study = load.read(w.root)
    runs = study.runs[(study.runs["variant"] == variant) & (study.runs["seed"] == seed)]
    return study.predictions.of(runs["run_id"].iloc[0]).values


def test_a_file_without_statistics_leaves_a_corpus_metric_without_a_verdict(answers, judged):
    w, _, _ = answers
    for path in w.root.glob("*/predictions.parquet"):
        pq.write_table(pq.read_table(path).drop_columns("statistics/bleu"), path)
    row = judged(w)[0]["dora", 8.0]
    assert row["n_examples"] == 0 and row["verdict"] == "inconclusive"
    assert "bleu has no scores by example" in row["why"]


@pytest.mark.parametrize("name", metrics.resampling.names())
def test_all_but_one_is_the_sample_without_it(name):
    rng = np.random.default_rng(2)
    width = {"bleu": 10, "bleu_lowercase": 10, "chrf": 18, "nist": 12}.get(name, 2)
    rows = rng.uniform(1, 9, (11, width))
    times = np.ones((11, 11)) - np.eye(11)
    expected = metrics.resampling.from_statistics(name, rows, times)
    assert metrics.resampling.leave_one_out(name, rows) == pytest.approx(expected)
