"""Corpus BLEU by sacrebleu with its own defaults (4-grams, 13a tokens, exponential smoothing), from 0 to 100.

A module of `evaluate`. Papineni et al. 2002, doi:10.3115/1073083.1073135; Post 2018, arXiv:1804.08771.
"""

from sacrebleu.metrics import BLEU

from experiments.metrics import _base


class Bleu(_base.Scored):
    """BLEU of all texts together; 100 is best."""

    scorer = BLEU
