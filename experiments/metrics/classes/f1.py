"""Binary F1, as a module of `evaluate`: of the second of two classes, which is the positive one.

F1 = 2 TP / (2 TP + FP + FN), 0 where there is neither a positive example nor a positive prediction
"""

from sklearn.metrics import f1_score

from experiments.errors import UserError
from experiments.metrics import _base


class F1(_base.Metric):
    """F1 of class 1; 1 is best."""

    def _compute(self, predictions: list[int], references: list[int]) -> dict[str, float]:
        if max(*predictions, *references) > 1:
            raise UserError("f1 is for two classes, and there are more. Take macro_f1 or micro_f1")
        return {"f1": float(f1_score(references, predictions, pos_label=1, zero_division=0.0))}
