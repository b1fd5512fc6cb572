"""Micro F1, as a module of `evaluate`: F1 of all classes' counts together; here the same as accuracy."""

from sklearn.metrics import f1_score

from experiments.metrics import _base


class MicroF1(_base.Metric):
    """F1 of the summed counts; 1 is best."""

    def _compute(self, predictions: list[int], references: list[int]) -> dict[str, float]:
        return {"micro_f1": float(f1_score(references, predictions, average="micro"))}
