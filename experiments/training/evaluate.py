"""What a trained pack scores on a split: metrics, and one row per example."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from experiments import metrics
from experiments.files import replacing
from experiments.training.batch import Batch, by_length, gather
from experiments.training.loop import autocast
from experiments.training.losses import row_losses


@dataclass(frozen=True)
class Scores:
    """One run on one split. The lists follow the order of the split's examples."""

    metrics: dict[str, float]  # "accuracy", "loss", ...
    predicted: list[int] | None  # class numbers; None for tasks that are scored by their loss
    score: list[float]  # the example's part in the metric: right or not; for text its share of the loss
    loss: list[float]  # nats; for text the mean over the completion's tokens


@torch.no_grad()
def evaluate(
    model: torch.nn.Module, task, split: str, *, runs: int, precision: str, batch_size: int
) -> list[Scores]:
    """Score every run of the pack on the same examples.

    Args:
        model: The attached model of `runs` runs; it is put into evaluation mode and left there.
        task: The encoded task (`experiments.data.Task`).
        split: "validation" or "test".
        runs: K, the length of the run axis.
        precision: As in training.
        batch_size: Rows of a forward pass, shared out among the runs.
    """
    model.eval()
    device = next(model.parameters()).device
    encoded = task.splits[split]
    count = len(encoded.ids)
    total, targets = torch.zeros(runs, count), torch.ones(runs, count)
    predicted = torch.full((runs, count), -1)
    for rows, length in by_length(encoded, size=max(1, batch_size // runs)):
        batch = _repeat(gather(encoded, rows, length), runs).to(device)
        with autocast(precision, device):
            logits = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
        losses = row_losses(logits, batch.labels)
        for into, part in ((total, losses.total), (targets, losses.targets), (predicted, losses.predicted)):
            into[:, rows] = part.view(runs, -1).to("cpu", into.dtype)
    return [_scores(task, encoded, total[k], targets[k], predicted[k]) for k in range(runs)]


def _repeat(batch: Batch, runs: int) -> Batch:
    """The same rows once per run, run-major."""
    repeated = (
        t.repeat(runs, *[1] * (t.dim() - 1)) for t in (batch.input_ids, batch.attention_mask, batch.labels)
    )
    return Batch(*repeated)


def _scores(task, encoded, total, targets, predicted) -> Scores:
    loss = total / targets.clamp_min(1)
    if task.kind == "causal":  # perplexity counts tokens, so the split's loss is the mean over tokens
        total, targets = total.double(), targets.double()
        score = total / targets.mean()  # their mean over examples is that loss
        return Scores({"loss": float(score.mean())}, None, score.tolist(), loss.tolist())
    guesses, truth = predicted.tolist(), encoded.labels.tolist()
    values = {"loss": float(loss.mean())} | metrics.compute(task.metrics, guesses, truth)
    return Scores(
        values, guesses, [float(g == t) for g, t in zip(guesses, truth, strict=True)], loss.tolist()
    )


def prefixed(split: str, values: dict[str, float]) -> dict[str, float]:
    """The record's names: "test/accuracy" and so on."""
    return {f"{split}/{name}": value for name, value in values.items()}


def write_predictions(
    path, task, split: str, scores: Scores, *, check: Callable[[], object] = lambda: None
) -> None:
    """One row per example: id, label, prediction, score, loss (parquet).

    Labels and predictions are written as text. `check` is as in `files.replacing`.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    encoded = task.splits[split]
    table = {
        "id": list(encoded.ids),
        "label": _names(task, encoded.labels.tolist()) if scores.predicted else [None] * len(encoded.ids),
        "prediction": _names(task, scores.predicted) if scores.predicted else [None] * len(encoded.ids),
        "score": scores.score,
        "loss": scores.loss,
    }
    kinds = {
        "id": pa.string(),
        "label": pa.string(),
        "prediction": pa.string(),
        "score": pa.float64(),
        "loss": pa.float64(),
    }
    with replacing(path, check=check) as temporary:
        pq.write_table(pa.table(table, schema=pa.schema(list(kinds.items()))), temporary)


def _names(task, numbers: Sequence[int]) -> list[str]:
    return [task.labels[n] for n in numbers]
