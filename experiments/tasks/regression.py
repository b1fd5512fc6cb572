"""regression: a number for a text, or for a pair of texts; one output, and its squared error as the loss.

The loss of an example is (y - f(x))^2 in the square of the target's unit. A mean over examples gives MSE, and
`score` is the negative squared error, so that more is better.
"""

from typing import Any

from experiments.data._tasks import Encoded, RawTask, Rows, Task
from experiments.tasks._base import Outputs, Scores, parts, scored, statistics
from experiments.tasks.classification import Classification


class Regression(Classification):
    """Squared error of one output."""

    name = "regression"
    metrics = ("pearson", "spearman", "mse")
    room = "values"

    def outputs(self, raw: RawTask) -> int:
        """One."""
        return 1

    def targets(self, raw: RawTask, rows: Rows) -> Any:
        """(N,) float32."""
        import torch

        return torch.tensor(rows.labels, dtype=torch.float32)

    def score(self, task: Task, encoded: Encoded, outputs: Outputs) -> Scores:
        """Values are written as texts with all their digits."""
        guesses, truth = outputs.predicted.double().tolist(), encoded.labels.double().tolist()
        columns = {
            "label": [repr(value) for value in truth],
            "prediction": [repr(value) for value in guesses],
            "score": parts(task, guesses, truth, [-loss for loss in outputs.total.tolist()]),
            "loss": outputs.total.tolist(),
            **statistics(task, guesses, truth),
        }
        return Scores(scored(task, guesses, truth, float(outputs.total.mean())), columns)


KIND = Regression()
