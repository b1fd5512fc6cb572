"""NIST, as a module of `evaluate`: n-grams up to 5 weighted by how much they tell (Doddington 2002).

doi:10.3115/1289189.1289273, as mteval-v13a computes it for a corpus:

    info(w1..wn) = log2( count(w1..wn-1) / count(w1..wn) )    over all references; of no words: all words
    score        = sum_n ( info of matched n-grams / n-grams of the texts ) * exp(b * ln(min(1, L/R))^2)

    L words of the texts, R mean words of their references, b such that the factor is 0.5 at L/R = 2/3
"""

import math
from collections import Counter

from experiments.metrics import _base
from experiments.metrics.answers._words import ngrams, words
from experiments.metrics.resampling import from_statistics

LONGEST = 5


class Nist(_base.Answers):
    """The information in matched n-grams of all texts together; more is better."""

    def _compute(self, predictions: list[str], references: list[list[str]]) -> dict[str, float]:
        return {"nist": float(from_statistics("nist", self.statistics(predictions, references))[0])}

    def statistics(self, predictions: list[str], references: list[list[str]]) -> list[list[float]]:
        """The information gained and the n-grams there, by length; words, and mean words of references."""
        texts = [words(text) for text in predictions]
        truth = [[words(text) for text in row] for row in references]
        counts: Counter[tuple[str, ...]] = Counter()
        for row in truth:
            for reference in row:
                counts.update(ngrams(reference, LONGEST))
        counts[()] = sum(len(reference) for row in truth for reference in row)
        found = []
        for text, row in zip(texts, truth, strict=True):
            best: Counter[tuple[str, ...]] = Counter()
            for reference in row:
                best |= ngrams(reference, LONGEST)
            gained, there = [0.0] * LONGEST, [0.0] * LONGEST
            for ngram, count in ngrams(text, LONGEST).items():
                there[len(ngram) - 1] += count
                if matched := min(count, best[ngram]):
                    gained[len(ngram) - 1] += matched * math.log2(counts[ngram[:-1]] / counts[ngram])
            found.append([*gained, *there, float(len(text)), sum(map(len, row)) / len(row)])
        return found
