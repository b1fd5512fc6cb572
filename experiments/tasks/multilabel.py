"""multilabel: any number of classes for a text, or for a pair of texts.

Loss is the binary cross-entropy summed over the classes; a class is predicted where its logit is above 0.
"""

from typing import Any

from experiments.data._tasks import Encoded, RawTask, Rows, Task
from experiments.tasks._base import Outputs, Scores, scored
from experiments.tasks.classification import Classification


class Multilabel(Classification):
    """Binary cross-entropy for each class."""

    name = "multilabel"
    metrics = ("micro_f1", "macro_f1", "accuracy")
    room = "sets"

    def targets(self, raw: RawTask, rows: Rows) -> Any:
        """(N, C) float32, 1 where the class is right."""
        import torch

        hot = torch.zeros(len(rows), len(raw.labels))
        for row, numbers in enumerate(rows.labels):
            hot[row, list(numbers)] = 1.0
        return hot

    def score(self, task: Task, encoded: Encoded, outputs: Outputs) -> Scores:
        """`score` is whether the whole set of classes is right."""
        loss = outputs.total / outputs.targets.clamp_min(1)
        guesses = [row.nonzero()[:, 0].tolist() for row in outputs.predicted > 0]
        truth = [row.nonzero()[:, 0].tolist() for row in encoded.labels]
        columns = {
            "label": [", ".join(task.labels[n] for n in numbers) for numbers in truth],
            "prediction": [", ".join(task.labels[n] for n in numbers) for numbers in guesses],
            "score": [float(g == t) for g, t in zip(guesses, truth, strict=True)],
            "loss": loss.tolist(),
        }
        return Scores(scored(task, guesses, truth, float(loss.mean())), columns)


KIND = Multilabel()
