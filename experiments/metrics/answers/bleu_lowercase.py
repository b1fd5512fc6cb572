"""Corpus BLEU as `bleu` computes it, of texts in lower case: as the E2E NLG challenge does, from 0 to 100.

A module of `evaluate`. Novikova et al. 2017, arXiv:1706.09254.
"""

from sacrebleu.metrics import BLEU

from experiments.metrics import _base


class BleuLowercase(_base.Answers):
    """BLEU of all texts together, whatever their case; 100 is best."""

    def _compute(self, predictions: list[str], references: list[list[str]]) -> dict[str, float]:
        scorer = BLEU(lowercase=True)
        return {"bleu_lowercase": scorer.corpus_score(predictions, _base.streams(references)).score}
