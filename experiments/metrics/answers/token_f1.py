"""Token F1 as SQuAD defines it, as a module of `evaluate` (Rajpurkar et al. 2016, arXiv:1606.05250).

F1 of the bags of words of answer and reference, the best over the references. Words are in lower case,
without punctuation and without the articles a, an, the.
"""

import re
import string
from collections import Counter

from experiments.metrics import _base

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


class TokenF1(_base.MeanAnswers):
    """The mean over examples of the words' F1; 1 is best."""

    def one(self, prediction: str, reference: list[str]) -> float:
        """The best F1 over the references."""
        return max(_f1(_words(prediction), _words(text)) for text in reference)


def _words(text: str) -> list[str]:
    return _ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split()


def _f1(guess: list[str], truth: list[str]) -> float:
    if not guess or not truth:
        return float(guess == truth)
    return 2 * (Counter(guess) & Counter(truth)).total() / (len(guess) + len(truth))
