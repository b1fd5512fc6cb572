"""Metrics of texts against values by hand and against those that others' programs gave for the same texts."""

import math

import pytest

from experiments import metrics

TEXTS = [
    "The phoenix is a cheap pub , near the river .",
    "Blue spice serves Indian food in 1,234 places",
    "nothing matches here at all",
]
TRUTH = [
    ["The Phoenix is a pub near the river .", "The Phoenix, a cheap pub, is by the river."],
    ["Blue Spice serves Indian food."],
    ["It costs much.", "Expensive, in the city centre, it is", "No."],
]


def value(name, texts=TEXTS, truth=TRUTH):
    return metrics.compute(name, texts, truth)[name]


def test_nist_and_cider_are_those_of_the_e2e_challenges_script():
    """Its pymteval.NISTScore and its coco-caption CiderScorer (at 1b9c4d8) were run on these texts."""
    assert value("nist") == pytest.approx(3.3883821828026117, rel=1e-12)
    assert value("cider") == pytest.approx(3.744636679909647, rel=1e-12)


def test_nist_by_hand():
    # unigrams: a twice, b, c of four words of reference: info log2(4/2), log2(4/1); bigram "a b" log2(2/1)
    one = value("nist", ["a b"], [["a b a c"]])
    beta = math.log(0.5) / math.log(1.5) ** 2
    assert one == pytest.approx(((1 + 2) / 2 + 1 / 1) * math.exp(beta * math.log(2 / 4) ** 2))


def test_cider_of_the_references_themselves_is_ten():
    texts = ["one two three four five", "six seven eight nine ten", "a b c d"]
    assert value("cider", texts, [[text] for text in texts]) == pytest.approx(10)
    assert value("cider", [*texts[1:], texts[0]], [[text] for text in texts]) == pytest.approx(0)


def test_bleu_by_hand():
    # 7 of 8 words, 5 of 7 pairs, 4 of 6 triples, 3 of 5 quadruples; as long as the reference
    text, truth = "a b c d e f x h", "a b c d e f g h"
    shares = [7 / 8, 5 / 7, 4 / 6, 3 / 5]
    assert value("bleu", [text], [[truth]]) == pytest.approx(100 * math.prod(shares) ** 0.25)
    half = value("bleu", ["a b c d"], [["a b c d e f g h"]])
    assert half == pytest.approx(100 * math.exp(1 - 8 / 4))
    assert (
        value("bleu", ["A b c d"], [["a b c d"]])
        < value("bleu_lowercase", ["A b c d"], [["a b c d"]])
        == (pytest.approx(100))
    )


def test_an_example_may_have_more_references_than_another():
    texts = ["a b c d", "e f g h"]
    assert value("bleu", texts, [["x", "a b c d"], ["e f g h"]]) == pytest.approx(100)
    assert value("chrf", texts, [["a b c d"], ["x", "y", "e f g h"]]) == pytest.approx(100)


def test_rouge_l_is_the_longest_common_subsequence():
    # "police ... the gunman": 3 of 4 and 3 of 4 words in order; Lin 2004's own example
    truth = ["police killed the gunman"]
    assert value("rouge_l", ["police kill the gunman"], [truth]) == pytest.approx(3 / 4)
    assert value("rouge_l", ["the gunman kill police"], [truth]) == pytest.approx(2 / 4)
    assert value("rouge_l", ["police kill the gunman"], [["nothing", *truth]]) == pytest.approx(3 / 4)


def test_squads_rules_for_words():
    assert value("token_f1", ["The Eiffel tower!"], [["Eiffel Tower"]]) == 1
    assert value("token_f1", ["in Paris, France"], [["Paris", "the city of Paris"]]) == pytest.approx(
        2 * 1 / 4
    )
    assert value("token_f1", ["", ""], [["a"], ["b"]]) == pytest.approx(0.5)  # an article is no word


def test_an_exact_match_is_one_with_any_reference():
    assert value("exact_match", ["a", "B", "c"], [["x", "a"], ["b"], ["c"]]) == pytest.approx(2 / 3)


def test_binary_f1_is_of_the_second_class_and_refuses_a_third():
    assert metrics.compute("f1", [1, 1, 0, 1], [1, 0, 0, 0])["f1"] == pytest.approx(2 / 4)
    assert metrics.compute("f1", [0, 0], [0, 0])["f1"] == 0
    with pytest.raises(Exception, match="macro_f1"):
        metrics.compute("f1", [2, 1], [0, 1])


def test_correlations_by_hand():
    x, y = [1.0, 2.0, 4.0], [1.0, 3.0, 2.0]
    assert metrics.compute("pearson", x, y)["pearson"] == pytest.approx(1 / math.sqrt(14 / 3 * 2))
    assert metrics.compute("spearman", x, y)["spearman"] == pytest.approx(1 - 6 * 2 / (3 * 8))
    assert metrics.compute(["pearson", "spearman"], [1.0, 1.0, 1.0], y) == {"pearson": 0.0, "spearman": 0.0}
    assert metrics.compute("mse", x, y)["mse"] == pytest.approx(5 / 3)
