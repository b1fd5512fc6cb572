"""Spearman's correlation of ranks, as a module of `evaluate`; 0 where all values are one."""

from scipy.stats import spearmanr

from experiments.metrics import _base


class Spearman(_base.Values):
    """The correlation of the ranks, from -1 to 1."""

    def _compute(self, predictions: list[float], references: list[float]) -> dict[str, float]:
        constant = len(set(predictions)) == 1 or len(set(references)) == 1
        return {"spearman": 0.0 if constant else float(spearmanr(predictions, references)[0])}
