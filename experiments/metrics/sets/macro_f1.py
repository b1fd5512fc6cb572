"""Macro F1 of sets of classes, as a module of `evaluate`."""

from sklearn.metrics import f1_score
from sklearn.preprocessing import MultiLabelBinarizer

from experiments.metrics import _base


class MacroF1(_base.Sets):
    """F1 of each class that occurs, averaged; 1 is best."""

    def _compute(self, predictions: list[list[int]], references: list[list[int]]) -> dict[str, float]:
        classes = sorted({number for row in (*predictions, *references) for number in row})
        hot = MultiLabelBinarizer(classes=classes)
        truth, guesses = hot.fit_transform(references), hot.transform(predictions)
        return {"macro_f1": float(f1_score(truth, guesses, average="macro", zero_division=0.0))}
