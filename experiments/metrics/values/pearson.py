"""Pearson's correlation, as a module of `evaluate`; 0 where it is not defined, all values being one."""

from scipy.stats import pearsonr

from experiments.metrics import _base


class Pearson(_base.Values):
    """The linear correlation, from -1 to 1."""

    def _compute(self, predictions: list[float], references: list[float]) -> dict[str, float]:
        constant = len(set(predictions)) == 1 or len(set(references)) == 1
        return {"pearson": 0.0 if constant else float(pearsonr(predictions, references)[0])}
