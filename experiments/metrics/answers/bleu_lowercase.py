"""Corpus BLEU as `bleu` computes it, of texts in lower case: as the E2E NLG challenge does, from 0 to 100.

A module of `evaluate`. Novikova et al. 2017, arXiv:1706.09254.
"""

from functools import partial

from sacrebleu.metrics import BLEU

from experiments.metrics import _base


class BleuLowercase(_base.Scored):
    """BLEU of all texts together, whatever their case; 100 is best."""

    scorer = partial(BLEU, lowercase=True)
