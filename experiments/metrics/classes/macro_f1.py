"""Macro F1, as a module of `evaluate`: the mean of the classes' F1, every class with the same weight.

    F1(c) = 2 TP(c) / (2 TP(c) + FP(c) + FN(c))

The mean is over the classes that occur among references or predictions; a class never predicted right
counts 0.
"""

from collections import Counter

from experiments.metrics import _base


class MacroF1(_base.Metric):
    """The unweighted mean of the classes' F1; 1 is best."""

    def _compute(self, predictions: list[int], references: list[int]) -> dict[str, float]:
        hits = Counter(r for p, r in zip(predictions, references, strict=True) if p == r)
        totals = Counter(predictions) + Counter(references)  # 2 TP + FP + FN
        return {"macro_f1": sum(2 * hits[label] / totals[label] for label in totals) / len(totals)}
