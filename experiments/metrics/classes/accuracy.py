"""Accuracy, as a module of `evaluate`: the share of predictions that equal their reference."""

from experiments.metrics import _base


class Accuracy(_base.Mean):
    """The share of correct predictions; 1 is best."""

    def _compute(self, predictions: list[int], references: list[int]) -> dict[str, float]:
        hits = sum(p == r for p, r in zip(predictions, references, strict=True))
        return {"accuracy": hits / len(references)}

    def one(self, prediction: int, reference: int) -> float:
        """Right or not."""
        return float(prediction == reference)
