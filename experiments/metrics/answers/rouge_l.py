"""ROUGE-L by rouge-score, as a module of `evaluate`: F1 of the longest common subsequence of words.

The best over an example's references, from 0 to 1; no stemming. Lin 2004, aclanthology.org/W04-1013.
"""

from functools import cached_property

from rouge_score.rouge_scorer import RougeScorer

from experiments.metrics import _base


class RougeL(_base.MeanAnswers):
    """The mean over examples of the F1 of the longest common subsequence; 1 is best."""

    @cached_property
    def _scorer(self) -> RougeScorer:
        return RougeScorer(["rougeL"])

    def one(self, prediction: str, reference: list[str]) -> float:
        """The best over the references."""
        return max(self._scorer.score(text, prediction)["rougeL"].fmeasure for text in reference)
