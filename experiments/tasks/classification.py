"""classification: one of many classes for a text, or for a pair of texts.

Token types tell the two texts of a pair apart where the tokenizer has them.
"""

from typing import Any

from experiments.data._tasks import Encoded, RawTask, Rows, Task
from experiments.tasks._base import Kind, Outputs, Scores, Tokens, encoded_texts, scored


class Classification(Kind):
    """Cross-entropy over classes; the head has an output for each."""

    name = "classification"
    metrics = ("accuracy", "macro_f1", "matthews")
    room = "classes"

    def outputs(self, raw: RawTask) -> int:
        """One number per class."""
        return len(raw.labels)

    def tokens(self, raw: RawTask, split: str, tokenizer: Any, limit: int, **_: Any) -> Tokens:
        """Input ids and class number of every text."""
        return encoded_texts(raw.splits[split], self.targets(raw, raw.splits[split]), tokenizer, limit)

    def targets(self, raw: RawTask, rows: Rows) -> Any:
        """(N,) class numbers."""
        import torch

        return torch.tensor(rows.labels)

    def score(self, task: Task, encoded: Encoded, outputs: Outputs) -> Scores:
        """`score` is whether the class is right, whatever the primary metric."""
        loss = outputs.total / outputs.targets.clamp_min(1)
        guesses, truth = outputs.predicted.tolist(), encoded.labels.tolist()
        columns = {
            "label": [task.labels[n] for n in truth],
            "prediction": [task.labels[n] for n in guesses],
            "score": [float(g == t) for g, t in zip(guesses, truth, strict=True)],
            "loss": loss.tolist(),
        }
        return Scores(scored(task, guesses, truth, float(loss.mean())), columns)


KIND = Classification()
