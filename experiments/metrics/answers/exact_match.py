"""Exact match, as a module of `evaluate`: the share of answers that equal one of their references."""

from experiments.metrics import _base


class ExactMatch(_base.MeanAnswers):
    """The share of answers that are a reference, character by character; 1 is best."""

    def one(self, prediction: str, reference: list[str]) -> float:
        """Right or not."""
        return float(prediction in reference)
