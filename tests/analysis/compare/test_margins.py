"""The margin that nobody named: a share of the metric's range, or of the baseline where it has none."""

import numpy as np
import pytest

from analysis import report
from analysis.compare import margins
from experiments import metrics


@pytest.mark.parametrize(
    ("metric", "scores", "margin"),
    [
        ("accuracy", [0.7, 0.9], 0.01),
        ("accuracy", [71.0, 65.0], 1.0),  # of others, in per cent
        ("bleu", [35.0, 41.0], 1.0),
        ("bleu", [0.35, 0.41], 0.01),  # of others, as a share
        ("matthews", [0.4, -0.1], 0.01),
        ("loss", [2.0, 2.4], 0.022),
        ("after/wikitext/perplexity", [30.0, np.nan], 0.3),
        ("loss", [0.0], 0.01),
    ],
)
def test_it_is_a_hundredth_of_what_the_metric_can_range_over(metric, scores, margin):
    assert margins.usual(metric, np.array(scores)) == pytest.approx(margin)


def test_metrics_without_bounds_are_those_whose_values_have_none():
    known = {*metrics.names(), *metrics.LIKELIHOODS}
    assert known - metrics.SPANS.keys() == {"loss", "perplexity", "bits_per_byte", "mse", "nist", "cider"}
    assert metrics.SPANS.keys() <= known


def on_a_scale(w, scale, metric, goal="max"):
    """A study of two variants whose scores lie 0.4% apart, times a scale."""
    for variant, gain, step in (("lora", 0.0, 1), ("dora", 0.004, 3)):
        for seed in range(4):
            value = scale * (0.6 + gain + 0.0004 * (step * seed % 4))
            values = {f"test/{metric}": value, f"validation/{metric}": value}
            primary = {"metric": metric, "goal": goal}
            w.run(w.spec(variant, 8, seed), metrics=values, primary=primary, predictions="flat")


def test_verdicts_do_not_depend_on_the_scale_of_the_metric(writer, judged):
    found = {}
    for metric, scale in (("accuracy", 1.0), ("bleu", 100.0), ("loss", 1.0)):
        w = writer(metric)
        on_a_scale(w, scale, metric)
        rows, judgement = judged(w)
        found[metric] = rows["dora", 8.0], judgement.margins
    assert found["accuracy"][0]["margin"] == 0.01 and found["bleu"][0]["margin"] == pytest.approx(1.0)
    assert found["bleu"][0]["p_tost"] == pytest.approx(found["accuracy"][0]["p_tost"], rel=1e-3)
    assert found["bleu"][1] == "1" and found["loss"][1] == "0.006 (1% of the baseline's loss)"


def test_a_margin_that_was_named_holds_and_is_in_the_command(writer, judged):
    w = writer("named")
    on_a_scale(w, 100.0, "bleu")
    assert judged(w, margin=0.5)[0]["dora", 8.0]["margin"] == 0.5
    text = (report.build(w.root, images_too=False).parent / "report.md").read_text()
    assert "Margin 1;" in text and "--margin" not in text
    text = (report.build(w.root, images_too=False, margin=0.5).parent / "report.md").read_text()
    assert "--margin 0.5" in text
