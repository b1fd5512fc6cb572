"""What a word was meant to be."""

import pytest

from experiments.errors import did_you_mean, nearest


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("dorra", "dora"),
        ("DORA", "dora"),
        ("adlora", "adalora"),
        ("lr_ration", "lr_ratio"),
        ("xyz", None),
        ("", None),
    ],
)
def test_the_nearest_word_is_found_or_none(word, meant):
    assert nearest(word, ["lora", "dora", "adalora", "lr_ratio"]) == meant


def test_the_sentence_is_empty_where_nothing_is_near():
    assert did_you_mean("dorra", ["dora"]) == " Did you mean 'dora'?"
    assert did_you_mean("xyz", ["dora"]) == ""
