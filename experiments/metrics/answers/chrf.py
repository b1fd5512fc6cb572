"""Corpus chrF by sacrebleu with its own defaults (6-grams of characters, beta 2), from 0 to 100.

A module of `evaluate`. Popovic 2015, doi:10.18653/v1/W15-3049.
"""

from sacrebleu.metrics import CHRF

from experiments.metrics import _base


class Chrf(_base.Scored):
    """The F-score of all texts' character n-grams; 100 is best."""

    scorer = CHRF
