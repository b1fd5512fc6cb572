"""Corpus chrF by sacrebleu with its own defaults (6-grams of characters, beta 2), from 0 to 100.

A module of `evaluate`. Popovic 2015, doi:10.18653/v1/W15-3049.
"""

from sacrebleu.metrics import CHRF

from experiments.metrics import _base


class Chrf(_base.Answers):
    """The F-score of all texts' character n-grams; 100 is best."""

    def _compute(self, predictions: list[str], references: list[list[str]]) -> dict[str, float]:
        return {"chrf": CHRF().corpus_score(predictions, _base.streams(references)).score}
