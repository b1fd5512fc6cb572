"""CIDEr-D, as a module of `evaluate`, times 10 as is the custom (Vedantam et al. 2015, arXiv:1411.5726).

For n = 1..4, g an n-gram's vector of counts times idf, the idf being ln(examples / examples whose references
have the n-gram):

    CIDEr_n(c, r) = exp(-(|c| - |r|)^2 / (2 * 6^2)) * sum min(g(c), g(r)) g(r) / (|g(c)| |g(r)|)

Mean over n and over an example's references, then over examples; without stemming.
"""

import math
from collections import Counter

from experiments.metrics import _base
from experiments.metrics.answers._words import ngrams, words
from experiments.metrics.resampling import from_statistics

LONGEST, SIGMA = 4, 6.0
Vector = dict[tuple[str, ...], float]


class Cider(_base.Answers):
    """The mean agreement of n-grams weighted by how rare they are among the references; 10 is best."""

    def _compute(self, predictions: list[str], references: list[list[str]]) -> dict[str, float]:
        return {"cider": float(from_statistics("cider", self.statistics(predictions, references))[0])}

    def statistics(self, predictions: list[str], references: list[list[str]]) -> list[list[float]]:
        """Each example's value, and 1."""
        truth = [[words(text) for text in row] for row in references]
        seen: Counter[tuple[str, ...]] = Counter()
        for row in truth:
            seen.update({ngram for reference in row for ngram in ngrams(reference, LONGEST)})
        examples = math.log(len(truth))

        def vectors(tokens: list[str]) -> list[Vector]:
            found: list[Vector] = [{} for _ in range(LONGEST)]
            for ngram, count in ngrams(tokens, LONGEST).items():
                found[len(ngram) - 1][ngram] = count * (examples - math.log(max(1, seen[ngram])))
            return found

        found = []
        for text, row in zip(map(words, predictions), truth, strict=True):
            ours, total = vectors(text), 0.0
            for reference in row:
                gap = math.exp(-((len(text) - len(reference)) ** 2) / (2 * SIGMA**2))
                agreement = sum(map(_agreement, ours, vectors(reference)))
                total += 10 * gap * agreement / LONGEST / len(row)
            found.append([total, 1.0])
        return found


def _agreement(ours: Vector, theirs: Vector) -> float:
    norms = math.hypot(*ours.values()) * math.hypot(*theirs.values()) if ours and theirs else 0.0
    return (
        sum(min(v, theirs.get(g, 0.0)) * theirs.get(g, 0.0) for g, v in ours.items()) / norms
        if norms
        else 0.0
    )
